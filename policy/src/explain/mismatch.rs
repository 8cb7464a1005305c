//! Why a rule does not match a packet.

use std::fmt;
use std::net::IpAddr;

use margay_model::net::Cidr;
use margay_model::protocol::Protocol;

use super::{Facts, Packet};
use crate::program::{IcmpMatch, IpVersion, PortRange, Rule, SetId, SetMember, SideMatch};

/// One end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The sender.
    Source,
    /// The receiver.
    Destination,
}

/// The first thing that a rule asks for and a packet is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The rule is for the other family.
    Family(IpVersion),
    /// The rule is for another protocol.
    Protocol {
        /// Number of the protocol that the rule is for.
        wanted: u8,
        /// Number of that of the packet.
        found: u8,
    },
    /// The rule is for any protocol but that of the packet.
    NotProtocol(u8),
    /// The rule is for another ICMP type or code.
    Icmp(IcmpMatch),
    /// The rule is for any ICMP type and code but this.
    NotIcmp(IcmpMatch),
    /// The address is in none of the networks of the rule.
    Nets(Side),
    /// The address is in this network, which the rule leaves out.
    NotNets(Side, Cidr),
    /// The address is in a set that it must not be in, or not in one that it must be in.
    Set {
        /// The end of the packet.
        side: Side,
        /// The set.
        id: SetId,
        /// Whether the address would have to be in it.
        wanted: bool,
    },
    /// The port is none of those of the rule.
    Ports(Side, u16),
    /// The port is one that the rule leaves out.
    NotPorts(Side, u16),
}

/// What keeps a rule from matching; `None` if it matches.
pub fn mismatch(facts: &dyn Facts, rule: &Rule, packet: &Packet) -> Option<Mismatch> {
    header_mismatch(rule, packet)
        .or_else(|| {
            let (addr, port) = (packet.source, packet.source_port);
            side_mismatch(facts, Side::Source, &rule.source, packet, addr, port)
        })
        .or_else(|| {
            let (addr, port) = (packet.destination, packet.destination_port);
            side_mismatch(
                facts,
                Side::Destination,
                &rule.destination,
                packet,
                addr,
                port,
            )
        })
}

fn header_mismatch(rule: &Rule, packet: &Packet) -> Option<Mismatch> {
    let family = IpVersion::of(packet.source);
    if let Some(wanted) = rule.ip_version.filter(|wanted| *wanted != family) {
        return Some(Mismatch::Family(wanted));
    }
    let found = packet.protocol;
    if let Some(wanted) = rule.protocol.filter(|wanted| *wanted != found) {
        return Some(Mismatch::Protocol { wanted, found });
    }
    if rule.not_protocol == Some(found) {
        return Some(Mismatch::NotProtocol(found));
    }
    if let Some(wanted) = rule.icmp.filter(|wanted| !icmp_matches(*wanted, packet)) {
        return Some(Mismatch::Icmp(wanted));
    }
    let unwanted = rule.not_icmp.filter(|icmp| icmp_matches(*icmp, packet));
    unwanted.map(Mismatch::NotIcmp)
}

fn icmp_matches(icmp: IcmpMatch, packet: &Packet) -> bool {
    packet
        .icmp
        .is_some_and(|(kind, code)| icmp.kind == kind && icmp.code.is_none_or(|c| c == code))
}

fn side_mismatch(
    facts: &dyn Facts,
    side: Side,
    wanted: &SideMatch,
    packet: &Packet,
    addr: IpAddr,
    port: u16,
) -> Option<Mismatch> {
    let has_addr = |net: &&Cidr| net.contains(addr);
    if !wanted.nets.is_empty() && !wanted.nets.iter().any(|net| net.contains(addr)) {
        return Some(Mismatch::Nets(side));
    }
    if let Some(net) = wanted.not_nets.iter().find(has_addr) {
        return Some(Mismatch::NotNets(side, *net));
    }
    let in_set = |id: &&SetId| holds_addr(facts, id, addr);
    let set = |id: &SetId, wanted| Mismatch::Set {
        side,
        id: id.clone(),
        wanted,
    };
    if let Some(id) = wanted.sets.iter().find(|id| !in_set(id)) {
        return Some(set(id, true));
    }
    if let Some(id) = wanted.not_sets.iter().find(in_set) {
        return Some(set(id, false));
    }
    let in_ports = |ports: &[PortRange]| ports.iter().any(|r| (r.first..=r.last).contains(&port));
    let member = SetMember::Port {
        addr,
        protocol: packet.protocol,
        port,
    };
    let named = |ids: &[SetId]| ids.iter().any(|id| facts.has_member(id, &member));
    let any_port = wanted.ports.is_empty() && wanted.named_ports.is_empty();
    if !any_port && !in_ports(&wanted.ports) && !named(&wanted.named_ports) {
        return Some(Mismatch::Ports(side, port));
    }
    (in_ports(&wanted.not_ports) || named(&wanted.not_named_ports))
        .then_some(Mismatch::NotPorts(side, port))
}

/// As itself, or in a network: there are fewer lengths than members.
fn holds_addr(facts: &dyn Facts, set: &SetId, addr: IpAddr) -> bool {
    let lengths = 0..=Cidr::host(addr).prefix_len();
    let nets = lengths.rev().filter_map(|length| Cidr::new(addr, length));
    nets.map(SetMember::Net)
        .any(|net| facts.has_member(set, &net))
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Family(IpVersion::V4) => f.write_str("it is for IPv4"),
            Self::Family(IpVersion::V6) => f.write_str("it is for IPv6"),
            Self::Protocol { wanted, found } => write!(
                f,
                "protocol is {}, not {}",
                protocol_name(*found),
                protocol_name(*wanted)
            ),
            Self::NotProtocol(found) => write!(
                f,
                "protocol is {}, which it leaves out",
                protocol_name(*found)
            ),
            Self::Icmp(icmp) => write!(f, "ICMP type and code are not {icmp}"),
            Self::NotIcmp(icmp) => write!(f, "ICMP type and code are {icmp}, which it leaves out"),
            Self::Nets(side) => write!(f, "{side} address is in none of its nets"),
            Self::NotNets(side, net) => {
                write!(f, "{side} address is in {net}, which it leaves out")
            }
            Self::Set { side, id, wanted } => match wanted {
                true => write!(f, "{side} is not in set {id}"),
                false => write!(f, "{side} is in set {id}, which it leaves out"),
            },
            Self::Ports(side, port) => write!(f, "{side} port {port} is none of its ports"),
            Self::NotPorts(side, port) => {
                write!(f, "{side} port {port} is one that it leaves out")
            }
        }
    }
}

impl fmt::Display for IcmpMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            None => write!(f, "{}", self.kind),
            Some(code) => write!(f, "{}/{code}", self.kind),
        }
    }
}

/// The name of a protocol, or its number where it has none in rules.
pub(super) fn protocol_name(number: u8) -> String {
    let named = [
        Protocol::Tcp,
        Protocol::Udp,
        Protocol::Icmp,
        Protocol::IcmpV6,
        Protocol::Sctp,
        Protocol::UdpLite,
    ];
    let found = named.into_iter().find(|p| p.number() == number);
    found.unwrap_or(Protocol::Number(number)).to_string()
}
