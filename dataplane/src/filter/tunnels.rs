//! The lines about tunnels between hosts, and about service addresses that nobody translated.

use std::net::IpAddr;

use super::{
    chains::{UDP, from_workloads, prefix_of},
    names,
    program::{Ifaces, Line, Match, Side, Target},
    types::{DenyAction, Family, Globals},
};
use crate::ipset::SetType;

/// The protocol number of IPv4 in IP.
const IPIP: u8 = 4;

/// What tells the packets of each tunnel of this family.
fn outer(globals: &Globals, family: Family) -> Vec<Vec<Match>> {
    let tunnels = &globals.tunnels;
    let vxlan = match family {
        Family::V4 => tunnels.vxlan_v4,
        Family::V6 => tunnels.vxlan_v6,
    };
    let ipip = (tunnels.ipip && family == Family::V4).then(|| vec![protocol(IPIP)]);
    vxlan.map(udp_to).into_iter().chain(ipip).collect()
}

/// What tells encrypted packets of this family.
fn encrypted(globals: &Globals, family: Family) -> Option<Vec<Match>> {
    let port = match family {
        Family::V4 => globals.tunnels.wireguard_v4,
        Family::V6 => globals.tunnels.wireguard_v6,
    };
    port.map(udp_to)
}

const fn protocol(number: u8) -> Match {
    Match::Protocol { not: false, number }
}

fn udp_to(port: u16) -> Vec<Match> {
    let port = Match::Ports {
        side: Side::Dst,
        not: false,
        protocol: UDP,
        ranges: vec![port..=port],
    };
    vec![protocol(UDP), port]
}

/// Packets of a tunnel that come in are another host's, or nobody's.
pub(super) fn arriving(globals: &Globals, family: Family) -> Vec<Line> {
    let lines = outer(globals, family).into_iter().flat_map(|outer| {
        let host = host(Side::Src, family);
        let from_host = outer.iter().cloned().chain([host]);
        [
            Line::new(from_host, Target::Accept),
            Line::new(outer, Target::Drop).noted("a tunnel from no host"),
        ]
    });
    let encrypted = encrypted(globals, family).map(|outer| {
        let from_host = outer.into_iter().chain([host(Side::Src, family)]);
        Line::new(from_host, Target::Accept)
    });
    lines.chain(encrypted).collect()
}

/// Tunnels to other hosts are open whatever policies the host has.
pub(super) fn leaving(globals: &Globals, family: Family) -> Vec<Line> {
    let to_host = |outer: Vec<Match>| {
        let host = host(Side::Dst, family);
        Line::new(outer.into_iter().chain([host]), Target::Accept)
    };
    let outer = outer(globals, family).into_iter();
    outer
        .chain(encrypted(globals, family))
        .map(to_host)
        .collect()
}

/// A workload must not wrap packets itself: at the other end they would count as its host's.
pub(super) fn not_from_workloads(globals: &Globals, family: Family) -> Vec<Line> {
    let lines = outer(globals, family).into_iter().map(|outer| {
        let from = from_workloads(globals);
        let matches = outer.into_iter().chain([from]);
        Line::new(matches, Target::Drop).noted("a tunnel of a workload")
    });
    lines.collect()
}

/// A packet of the host's own that a program gave another of its addresses.
pub(super) fn own_sources(globals: &Globals, family: Family) -> Vec<Line> {
    let sources = globals.tunnels.sources.iter();
    let own = sources.filter(|(_, ip)| ip.is_ipv4() == (family == Family::V4));
    own.map(|(device, ip)| {
        let other = Match::Net {
            side: Side::Src,
            not: true,
            net: prefix_of(*ip, host_length(*ip)),
        };
        let out = Match::Out(Ifaces::Named(device.clone()));
        let target = Target::SourceNat {
            address: Some(*ip),
            ports: None,
        };
        Line::new([out, Match::FromHost, other], target)
    })
    .collect()
}

/// A packet to a service address that is still to be forwarded was not translated: nobody has it, and a router that
/// was told the range would send it back.
pub(super) fn service_loops(globals: &Globals, family: Family) -> Vec<Line> {
    let own = |net: &&ipnetwork::IpNetwork| Family::of(net) == family;
    let Some(action) = globals.service_loops else {
        return Vec::new();
    };
    if !globals.services.iter().any(|net| own(&net)) {
        return Vec::new();
    }
    let services = Match::Set {
        side: Side::Dst,
        not: false,
        name: names::services_set(family),
        set_type: SetType::Net,
    };
    let target = match action {
        DenyAction::Drop => Target::Drop,
        DenyAction::Reject => Target::Reject,
    };
    vec![Line::new([services], target).noted("no such service")]
}

fn host(side: Side, family: Family) -> Match {
    Match::Set {
        side,
        not: false,
        name: names::hosts_set(family),
        set_type: SetType::Net,
    }
}

const fn host_length(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}
