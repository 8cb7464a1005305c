//! Flows as IPFIX (RFC 7011) to a collector, by UDP.
//!
//! A template for each family goes with every message: over UDP a collector may have missed the earlier ones
//! (section 8.4). Counts are of what is new since a flow was told last.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use jiff::Timestamp;
use margay_api::flows::{Flow, Reason, Verdict};

/// Section 3.1.
const VERSION: u16 = 10;
/// Templates are in a set of this number; those of data have the template's, from 256.
const TEMPLATE_SET: u16 = 2;
const TEMPLATE_V4: u16 = 256;
const TEMPLATE_V6: u16 = 257;

/// Octets of records in a message: with headers and template it stays below what any path carries in one piece.
const RECORDS: usize = 1100;

/// The number of a vendor whose elements name policies: that of Antrea, which collectors know; IANA's registry has none.
const VENDOR: u32 = 56_506;
/// That an element is a vendor's (section 3.2).
const OF_VENDOR: u16 = 0x8000;
/// That a value says its own length (section 7).
const VARIABLE: u16 = 0xffff;
/// Name, namespace and rule of the policy that decided, if it was the receiver's, and the same of the sender's.
const POLICY: [u16; 6] = [110, 111, 141, 112, 113, 142];

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
                if flow.source.is_ipv4() == v4 && flow.verdict.decides() {
                    records.extend(self.record(flow));
                }
            }
            for some in messages(&records) {
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
        _ => FLOW_CREATED,
    });
    let decided = by(&flow.reason);
    let (receiver, sender) = match flow.ingress {
        true => (decided, Default::default()),
        false => (Default::default(), decided),
    };
    for text in receiver.iter().chain(&sender) {
        // Names are shorter than what one octet can say the length of.
        let text = text.as_bytes().get(..254).unwrap_or(text.as_bytes());
        record.push(text.len() as u8);
        record.extend(text);
    }
    record
}

/// Name, namespace and rule of what decided; in place of the rule, why it was none.
fn by(reason: &Reason) -> [String; 3] {
    let none = |why: String| [String::new(), String::new(), why];
    match reason {
        Reason::Policy { policy, rule, .. } => {
            let mut parts = policy.splitn(3, '/').skip(1);
            let (first, second) = (parts.next().unwrap_or(policy), parts.next());
            let (name, namespace) = match second {
                Some(name) => (name, first),
                None => (first, ""),
            };
            [name.to_owned(), namespace.to_owned(), rule.to_string()]
        }
        Reason::Profile { profile, rule } => [profile.clone(), String::new(), rule.to_string()],
        Reason::EndOfTier { tier } => none(format!("end of tier {tier}")),
        Reason::NothingAllowed => none("nothing allowed it".to_owned()),
        Reason::Spoofed => none("spoofed".to_owned()),
        Reason::NoSuchWorkload => none("no such workload".to_owned()),
    }
}

/// As many records together as fit into a message.
fn messages(records: &[Vec<u8>]) -> Vec<&[Vec<u8>]> {
    let (mut all, mut from, mut octets) = (Vec::new(), 0, 0);
    for (at, record) in records.iter().enumerate() {
        if at > from && octets + record.len() > RECORDS {
            all.push(&records[from..at]);
            (from, octets) = (at, 0);
        }
        octets += record.len();
    }
    if from < records.len() {
        all.push(&records[from..]);
    }
    all
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
    described.extend((fields.len() as u16 + POLICY.len() as u16).to_be_bytes());
    for (element, length) in fields {
        described.extend(element.to_be_bytes());
        described.extend(length.to_be_bytes());
    }
    for element in POLICY {
        described.extend((element | OF_VENDOR).to_be_bytes());
        described.extend(VARIABLE.to_be_bytes());
        described.extend(VENDOR.to_be_bytes());
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
            reason: Reason::Policy {
                tier: "default".into(),
                policy: "NetworkPolicy/shop/web".into(),
                rule: 2,
            },
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
        // What is said of policy says its own length: three texts of the receiver's, and none of the sender's.
        let names = b"\x03web\x04shop\x012\0\0\0";
        assert_eq!(record.len(), usize::from(described) + names.len());
        assert!(record.ends_with(names), "{record:?}");
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
    fn messages_stay_small_and_nothing_is_left_out() {
        let records: Vec<Vec<u8>> = [600, 500, 1, 1200, 3].map(|len| vec![0; len]).into();
        let lengths: Vec<usize> = messages(&records).iter().map(|some| some.len()).collect();
        assert_eq!(lengths, [2, 1, 1, 1]);
        assert!(messages(&[]).is_empty());
    }

    #[test]
    fn a_collector_hears_of_what_is_new_and_nothing_twice() {
        let collector = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut exporter = Exporter::new(collector.local_addr().unwrap()).unwrap();
        let mut heard = [0; 2048];
        exporter.export(&[&flow(3)]).unwrap();
        let length = collector.recv(&mut heard).unwrap();
        let packets = |message: &[u8]| {
            let template = usize::from(u16::from_be_bytes([message[18], message[19]]));
            // Behind the headers of message and set: two addresses, two times, protocol, two ports.
            let at = 16 + template + 4 + 2 * 4 + 2 * 8 + 1 + 2 * 2;
            message[at..at + 8].to_vec()
        };
        assert_eq!(packets(&heard[..length]), 3u64.to_be_bytes());
        exporter.export(&[&flow(3)]).unwrap();
        exporter.export(&[&flow(5)]).unwrap();
        let mut heard = [0; 2048];
        let length = collector.recv(&mut heard).unwrap();
        assert_eq!(packets(&heard[..length]), 2u64.to_be_bytes());
        assert_eq!(heard[8..12], 1u32.to_be_bytes());
    }
}
