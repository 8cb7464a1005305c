//! Ports of the host, and floating IPs, that lead to workloads.
//!
//! ```text
//! nat PREROUTING, OUTPUT   mgy-ports     the host's port -> the workload's address and port; or just the address
//! nat POSTROUTING          mgy-hairpin   a workload that reached itself, or the host's own loopback, gets an
//!                                        address of the host, so that the answer comes back this way
//! ```
//! Nothing else is masked: the workload sees who connects, and policy sees the workload's own address and port. The
//! first two are hooked only while there are such ports.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

use super::{
    program::{Chain, ChainId, Ifaces, Line, Match, Side, Target},
    types::{Endpoint, Family, Globals, HostPort},
};
use crate::iptables::{Rank, Table};

pub(super) const PORTS: ChainId = ChainId::Fixed("mgy-ports");
pub(super) const HAIRPIN: ChainId = ChainId::Fixed("mgy-hairpin");

/// Chains of others that jump to ours while there are ports.
pub(super) const HOOKS: [(Table, &str, &str); 2] = [
    (Table::Nat, "PREROUTING", "mgy-ports"),
    (Table::Nat, "OUTPUT", "mgy-ports"),
];

/// Those that carry ports which the kernel translates.
const PROTOCOLS: [u8; 3] = [6, 17, 132];

/// Of a port that is all of an address.
const WHOLE_ADDRESS: u8 = 0;

/// Both chains; the first is missing when no endpoint has ports in this family.
pub(super) fn render<'a>(
    endpoints: impl Iterator<Item = &'a Endpoint>,
    globals: &Globals,
    family: Family,
) -> (Option<Chain>, Chain) {
    let (mut ports, mut hairpin) = (Vec::new(), Vec::new());
    for endpoint in endpoints.filter(|endpoint| endpoint.admin_up) {
        let mut addresses = endpoint.addresses.iter();
        let Some(address) = addresses.find(|net| Family::of(net) == family) else {
            continue;
        };
        let address = address.ip();
        let lines = endpoint.host_ports.iter();
        let before = ports.len();
        ports.extend(lines.filter_map(|port| to_workload(port, address)));
        if ports.len() > before {
            hairpin.push(to_itself(address));
        }
    }
    if !hairpin.is_empty() && family == Family::V4 {
        hairpin.push(from_loopback(globals));
    }
    let ports = (!ports.is_empty()).then(|| Chain::new(Table::Nat, PORTS, Rank::Base, ports));
    (ports, Chain::new(Table::Nat, HAIRPIN, Rank::Host, hairpin))
}

/// The chain of a family without ports.
pub(super) fn no_hairpin() -> Chain {
    Chain::new(Table::Nat, HAIRPIN, Rank::Host, Vec::new())
}

fn to_workload(port: &HostPort, address: IpAddr) -> Option<Line> {
    let at = match port.host_ip {
        None => Match::ToHost,
        Some(ip) if ip.is_ipv4() != address.is_ipv4() => return None,
        Some(ip) if ip.is_unspecified() => Match::ToHost,
        Some(ip) => net(Side::Dst, ip),
    };
    if port.protocol == WHOLE_ADDRESS {
        let to = port.host_ip.filter(|ip| !ip.is_unspecified())?;
        let target = Target::DestinationNat {
            address,
            port: None,
        };
        return Some(Line::new([net(Side::Dst, to)], target));
    }
    if !PROTOCOLS.contains(&port.protocol) || port.host_port == 0 || port.port == 0 {
        return None;
    }
    let protocol = Match::Protocol {
        not: false,
        number: port.protocol,
    };
    let number = Match::Ports {
        side: Side::Dst,
        not: false,
        protocol: port.protocol,
        ranges: vec![port.host_port..=port.host_port],
    };
    let target = Target::DestinationNat {
        address,
        port: Some(port.port),
    };
    Some(Line::new([protocol, number, at], target))
}

fn to_itself(address: IpAddr) -> Line {
    Line::new(
        [net(Side::Src, address), net(Side::Dst, address)],
        MASQUERADE,
    )
}

/// The host end of a workload has `route_localnet`, so such a packet leaves; its answer would not come back.
fn from_loopback(globals: &Globals) -> Line {
    let loopback = IpNetwork::new(Ipv4Addr::LOCALHOST.into(), 8);
    let loopback = loopback.expect("8 is a length of IPv4");
    let source = Match::Net {
        side: Side::Src,
        not: false,
        net: loopback,
    };
    let to_workloads = Match::Out(Ifaces::StartingWith(globals.interface_prefix.clone()));
    Line::new([to_workloads, source], MASQUERADE)
}

const MASQUERADE: Target = Target::SourceNat {
    address: None,
    ports: None,
};

fn net(side: Side, address: IpAddr) -> Match {
    Match::Net {
        side,
        not: false,
        net: address.into(),
    }
}
