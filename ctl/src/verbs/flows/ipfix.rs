//! Flows as IPFIX (RFC 7011) to a collector, by UDP.
//!
//! A template for each family goes with every message: over UDP a collector may have missed the earlier ones
//! (section 8.4). Counts are of what is new since a flow was told last.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use jiff::Timestamp;
use margay_api::flows::{Flow, Verdict};

/// Section 3.1.
const VERSION: u16 = 10;
/// Templates are in a set of this number; those of data have the template's, from 256.
const TEMPLATE_SET: u16 = 2;
const TEMPLATE_V4: u16 = 256;
const TEMPLATE_V6: u16 = 257;

/// Records of a message: it stays below what any path carries in one piece.
const RECORDS: usize = 12;

/// Flows whose counts are remembered; the agent keeps not many more.
const REMEMBERED: usize = 65_536;

/// Information elements of the IANA registry, with their length in octets.
const COMMON: [(u16, u16); 9] = [
    (152, 8), // flowStartMilliseconds
    (153, 8), // flowEndMilliseconds
    (4, 1),   // protocolIdentifier
    (7, 2),   // sourceTransportPort
    (11, 2),  // destinationTransportPort
    (2, 8),   // packetDeltaCount
    (1, 8),   // octetDeltaCount
    (61, 1),  // flowDirection: 0 in, 1 out
    (233, 1), // firewallEvent
];
const ADDRESSES_V4: [(u16, u16); 2] = [(8, 4), (12, 4)];
const ADDRESSES_V6: [(u16, u16); 2] = [(27, 16), (28, 16)];

/// firewallEvent.
const FLOW_CREATED: u8 = 1;
const FLOW_DENIED: u8 = 3;

/// What tells a flow from others.
type Key = (u64, IpAddr, IpAddr, u8, u16, bool, Verdict);

/// The way to a collector.
pub(super) struct Exporter {
    socket: UdpSocket,
    collector: SocketAddr,
    /// Data records sent so far (section 3.1).
    sequence: u32,
    told: BTreeMap<Key, (u64, u64)>,
}

impl Exporter {
    pub(super) fn new(collector: SocketAddr) -> io::Result<Self> {
        let any = match collector {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        Ok(Self {
            socket: UdpSocket::bind(any)?,
            collector,
            sequence: 0,
            told: BTreeMap::new(),
        })
    }

    /// Sends what is new of these. What a `Log` rule saw is another rule's to decide, and left out.
    pub(super) fn export(&mut self, flows: &[&Flow]) -> io::Result<()> {
        if self.told.len() > REMEMBERED {
            self.told.clear();
        }
        for v4 in [true, false] {
            let mut records = Vec::new();
            for flow in flows {
                if flow.source.is_ipv4() == v4 && flow.verdict != Verdict::Log {
                    records.extend(self.record(flow));
                }
            }
            for some in records.chunks(RECORDS) {
                let now = Timestamp::now().as_second();
                let message = message(v4, some, u32::try_from(now).unwrap_or(0), self.sequence);
                self.socket.send_to(&message, self.collector)?;
                self.sequence = self.sequence.wrapping_add(some.len() as u32);
            }
        }
        Ok(())
    }

    /// None if nothing is new.
    fn record(&mut self, flow: &Flow) -> Option<Vec<u8>> {
        let key = (
            flow.first_ms,
            flow.source,
            flow.destination,
            flow.protocol,
            flow.port,
            flow.ingress,
            flow.verdict,
        );
        let (packets, bytes) = self
            .told
            .insert(key, (flow.packets, flow.bytes))
            .unwrap_or((0, 0));
        let packets = flow.packets.checked_sub(packets).filter(|new| *new > 0)?;
        Some(record(flow, packets, flow.bytes.saturating_sub(bytes)))
    }
}

fn record(flow: &Flow, packets: u64, bytes: u64) -> Vec<u8> {
    let mut record = Vec::new();
    for address in [flow.source, flow.destination] {
        match address {
            IpAddr::V4(v4) => record.extend(v4.octets()),
            IpAddr::V6(v6) => record.extend(v6.octets()),
        }
    }
    record.extend(flow.first_ms.to_be_bytes());
    record.extend(flow.last_ms.to_be_bytes());
    record.push(flow.protocol);
    record.extend(flow.source_port.to_be_bytes());
    record.extend(flow.port.to_be_bytes());
    record.extend(packets.to_be_bytes());
    record.extend(bytes.to_be_bytes());
    record.push(u8::from(!flow.ingress));
    record.push(match flow.verdict {
        Verdict::Deny => FLOW_DENIED,
        Verdict::Allow | Verdict::Log => FLOW_CREATED,
    });
    record
}

/// A message with its template and some records.
fn message(v4: bool, records: &[Vec<u8>], now: u32, sequence: u32) -> Vec<u8> {
    let (template, addresses) = match v4 {
        true => (TEMPLATE_V4, ADDRESSES_V4),
        false => (TEMPLATE_V6, ADDRESSES_V6),
    };
    let fields: Vec<_> = addresses.iter().chain(&COMMON).collect();
    let mut described = Vec::new();
    described.extend(template.to_be_bytes());
    described.extend((fields.len() as u16).to_be_bytes());
    for (element, length) in fields {
        described.extend(element.to_be_bytes());
        described.extend(length.to_be_bytes());
    }
    let sets = [
        set(TEMPLATE_SET, &described),
        set(template, &records.concat()),
    ]
    .concat();
    let mut message = Vec::new();
    message.extend(VERSION.to_be_bytes());
    message.extend((sets.len() as u16 + 16).to_be_bytes());
    message.extend(now.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    // One observation domain: the host.
    message.extend(0u32.to_be_bytes());
    message.extend(sets);
    message
}

fn set(number: u16, content: &[u8]) -> Vec<u8> {
    let mut set = Vec::new();
    set.extend(number.to_be_bytes());
    set.extend((content.len() as u16 + 4).to_be_bytes());
    set.extend(content);
    set
}

#[cfg(test)]
mod tests {
    use margay_api::flows::Reason;

    use super::*;

    fn flow(packets: u64) -> Flow {
        Flow {
            first_ms: 1,
            last_ms: 2,
            verdict: Verdict::Deny,
            ingress: true,
            endpoint: String::new(),
            in_interface: String::new(),
            out_interface: String::new(),
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            protocol: 6,
            source_port: 40000,
            port: 80,
            reason: Reason::NothingAllowed,
            packets,
            bytes: packets * 60,
        }
    }

    #[test]
    fn a_message_says_how_long_it_is_and_its_records_are_as_its_template_says() {
        let record = record(&flow(3), 3, 180);
        let described: u16 = ADDRESSES_V4
            .iter()
            .chain(&COMMON)
            .map(|(_, length)| length)
            .sum();
        assert_eq!(record.len(), usize::from(described));
        let message = message(true, &[record.clone(), record], 7, 9);
        assert_eq!(message[..2], [0, 10]);
        assert_eq!(message[2..4], (message.len() as u16).to_be_bytes());
        assert_eq!(message[8..12], [0, 0, 0, 9]);
        // The set of templates, then that of data; both are whole.
        let template_length = usize::from(u16::from_be_bytes([message[18], message[19]]));
        let data = 16 + template_length;
        assert_eq!(message[data..data + 2], TEMPLATE_V4.to_be_bytes());
        let data_length = usize::from(u16::from_be_bytes([message[data + 2], message[data + 3]]));
        assert_eq!(data + data_length, message.len());
    }

    #[test]
    fn a_collector_hears_of_what_is_new_and_nothing_twice() {
        let collector = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut exporter = Exporter::new(collector.local_addr().unwrap()).unwrap();
        let mut heard = [0; 2048];
        exporter.export(&[&flow(3)]).unwrap();
        let length = collector.recv(&mut heard).unwrap();
        // The packets are the last but two of the record's fields.
        let packets = |length: usize| heard[length - 18..length - 10].to_vec();
        assert_eq!(packets(length), 3u64.to_be_bytes());
        exporter.export(&[&flow(3)]).unwrap();
        exporter.export(&[&flow(5)]).unwrap();
        let mut heard = [0; 2048];
        let length = collector.recv(&mut heard).unwrap();
        assert_eq!(heard[length - 18..length - 10], 2u64.to_be_bytes());
        assert_eq!(heard[8..12], 1u32.to_be_bytes());
    }
}
