//! What a message of `NFLOG` says about a packet.

use std::net::IpAddr;

use crate::netlink::{Attributes, ip_from, string_from};

const ATTR_HEADER: u16 = 1;
const ATTR_IN: u16 = 4;
const ATTR_OUT: u16 = 5;
const ATTR_PAYLOAD: u16 = 9;
const ATTR_PREFIX: u16 = 10;
const ATTR_SEQUENCE: u16 = 12;

/// `struct nfgenmsg`.
const NFGENMSG_LEN: usize = 4;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const UDPLITE: u8 = 136;

/// IPv6 headers that are followed by another one.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// More of them than any honest packet has.
const MOST_HEADERS: usize = 8;

/// A packet that a rule handed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What the rule says, such as a [`crate::filter::Label`].
    pub prefix: String,
    /// The index of the interface that it came in through.
    pub in_index: Option<u32>,
    /// The index of the interface that it is to go out through.
    pub out_index: Option<u32>,
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Ports of sender and receiver; of ICMP 0, and type and code as `type * 256 + code`. Both 0 where there are none.
    pub ports: (u16, u16),
    /// Its bytes, headers included.
    pub bytes: u32,
}

/// Reads one message behind its netlink header; with it comes its number among those of the group. Nothing when there
/// is no whole IP header in it.
pub(super) fn parse(message: &[u8]) -> Option<(Packet, Option<u32>)> {
    let attributes = Attributes::after(message, NFGENMSG_LEN);
    let number = |kind| attributes.find(kind).and_then(be32);
    let protocol = attributes.find(ATTR_HEADER)?;
    let ethertype = u16::from_be_bytes([*protocol.first()?, *protocol.get(1)?]);
    let payload = attributes.find(ATTR_PAYLOAD)?;
    let ip = match ethertype {
        0x0800 => v4(payload)?,
        0x86dd => v6(payload)?,
        _ => return None,
    };
    let packet = Packet {
        prefix: attributes
            .find(ATTR_PREFIX)
            .map(string_from)
            .unwrap_or_default(),
        in_index: number(ATTR_IN),
        out_index: number(ATTR_OUT),
        source: ip.source,
        destination: ip.destination,
        protocol: ip.protocol,
        ports: ip
            .rest
            .and_then(|rest| ports(ip.protocol, rest))
            .unwrap_or_default(),
        bytes: ip.bytes,
    };
    Some((packet, number(ATTR_SEQUENCE)))
}

fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

fn be16(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.get(..2)?.try_into().ok()?))
}

struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    bytes: u32,
    /// Behind the IP headers; nothing in a later fragment.
    rest: Option<&'a [u8]>,
}

fn v4(packet: &[u8]) -> Option<Ip<'_>> {
    let header_len = usize::from(packet.first()? & 0xf) * 4;
    let fragment = be16(packet.get(6..)?)? & 0x1fff;
    Some(Ip {
        source: ip_from(packet.get(12..16)?)?,
        destination: ip_from(packet.get(16..20)?)?,
        protocol: packet[9],
        bytes: u32::from(be16(&packet[2..])?),
        rest: packet.get(header_len..).filter(|_| fragment == 0),
    })
}

fn v6(packet: &[u8]) -> Option<Ip<'_>> {
    const HEADER_LEN: usize = 40;
    let mut protocol = *packet.get(6)?;
    let (source, destination) = (packet.get(8..24)?, packet.get(24..40)?);
    let mut rest = packet.get(HEADER_LEN..);
    for _ in 0..MOST_HEADERS {
        let length = match (protocol, rest) {
            (HOP_BY_HOP | ROUTING | DESTINATION, Some([_, length, ..])) => {
                (usize::from(*length) + 1) * 8
            }
            (FRAGMENT, Some([_, _, high, low, ..])) => {
                if u16::from_be_bytes([*high, *low]) >> 3 != 0 {
                    protocol = rest?[0];
                    rest = None;
                    break;
                }
                8
            }
            _ => break,
        };
        protocol = rest?[0];
        rest = rest.and_then(|rest| rest.get(length..));
    }
    Some(Ip {
        source: ip_from(source)?,
        destination: ip_from(destination)?,
        protocol,
        bytes: u32::from(be16(&packet[4..])?) + HEADER_LEN as u32,
        rest,
    })
}

fn ports(protocol: u8, rest: &[u8]) -> Option<(u16, u16)> {
    match protocol {
        TCP | UDP | SCTP | UDPLITE => Some((be16(rest)?, be16(rest.get(2..)?)?)),
        ICMP | ICMPV6 => Some((0, be16(rest)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let [high, low] = ethertype.to_be_bytes();
        [
            vec![2, 0, 0, 7],
            attribute(ATTR_HEADER, &[high, low, 2, 0]),
            attribute(ATTR_IN, &3u32.to_be_bytes()),
            attribute(ATTR_PREFIX, b"mgy:DiN\0"),
            attribute(ATTR_SEQUENCE, &9u32.to_be_bytes()),
            attribute(ATTR_PAYLOAD, payload),
        ]
        .concat()
    }

    fn udp_v4(flags_and_offset: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, UDP, 0, 0];
        packet[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0, 53, 0, 0, 0, 0]);
        packet
    }

    #[test]
    fn addresses_ports_interfaces_and_prefix_are_read() {
        let (packet, sequence) = parse(&message(0x0800, &udp_v4(0))).unwrap();
        assert_eq!(sequence, Some(9));
        assert_eq!(packet.prefix, "mgy:DiN");
        assert_eq!((packet.in_index, packet.out_index), (Some(3), None));
        assert_eq!(packet.source, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(packet.destination, IpAddr::from([10, 0, 0, 2]));
        let read = (packet.protocol, packet.ports, packet.bytes);
        assert_eq!(read, (UDP, (0x1234, 53), 60));
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let (packet, _) = parse(&message(0x0800, &udp_v4(0x2001))).unwrap();
        assert_eq!(packet.ports, (0, 0));
    }

    #[test]
    fn headers_before_the_one_of_the_transport_are_skipped() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 32, HOP_BY_HOP, 64];
        packet.extend([0xfd; 32]);
        packet.extend([FRAGMENT, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([ICMPV6, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([128, 0, 0, 0, 0, 0, 0, 0]);
        let (read, _) = parse(&message(0x86dd, &packet)).unwrap();
        assert_eq!(
            (read.protocol, read.ports, read.bytes),
            (ICMPV6, (0, 128 << 8), 72)
        );
        // The same as a later fragment.
        packet[50] = 1;
        let (read, _) = parse(&message(0x86dd, &packet)).unwrap();
        assert_eq!((read.protocol, read.ports), (ICMPV6, (0, 0)));
    }

    proptest! {
        #[test]
        fn any_packet_is_read_or_refused(v6 in any::<bool>(), payload in prop::collection::vec(any::<u8>(), 0..120)) {
            parse(&message(if v6 { 0x86dd } else { 0x0800 }, &payload));
            parse(&payload);
        }
    }
}
