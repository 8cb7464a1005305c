//! The fixed chains, the chains of groups, and the dispatch to them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{
    label::{Cause, name_of},
    limits::{self, Limited},
    names::{self, Way},
    ports,
    program::{Body, Chain, ChainId, Ifaces, Line, Match, Side, Target, Tracked},
    rules::clean,
    settled, tunnels,
    types::{Direction, Family, Globals, HostAction, ProfileId, TierDefault},
    verdicts::{Verdicts, ended_mark},
};
use crate::{
    ipset::SetType,
    iptables::{Rank, Table},
};

const WORKLOAD_TO_HOST: &str = "mgy-wl-host";
/// There only while segments are clamped.
pub(super) const SEGMENTS: &str = "mgy-mss";

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// ICMPv6 that a workload may send from a link-local or no address: neighbour and router
/// solicitation, neighbour advertisement, multicast listener reports. Not router advertisement.
const LINK_LOCAL_ICMPV6: [u8; 7] = [130, 131, 132, 133, 135, 136, 143];

/// Chains of others, by table, with the chain of ours that they jump to.
pub(super) const HOOKS: [(Table, &str, &str); 4] = [
    (Table::Raw, "PREROUTING", "mgy-PREROUTING"),
    (Table::Filter, "INPUT", "mgy-INPUT"),
    (Table::Filter, "FORWARD", "mgy-FORWARD"),
    (Table::Filter, "OUTPUT", "mgy-OUTPUT"),
];

/// The one of these that is there only while pools have their outgoing traffic translated, or ports of the host lead to
/// workloads.
pub(super) const NAT_HOOK: (Table, &str, &str) = (Table::Nat, "POSTROUTING", "mgy-POSTROUTING");

pub(super) fn dispatch_chain(way: Way) -> &'static str {
    match way {
        Way::Ingress => "mgy-to-wl",
        Way::Egress => "mgy-from-wl",
    }
}

/// Packets of the workloads' interfaces.
pub(super) fn from_workloads(globals: &Globals) -> Match {
    Match::In(Ifaces::StartingWith(globals.interface_prefix.clone()))
}

pub(super) fn to_workloads(globals: &Globals) -> Match {
    Match::Out(Ifaces::StartingWith(globals.interface_prefix.clone()))
}

/// Every chain that does not depend on policies or endpoints.
pub(super) fn fixed(
    globals: &Globals,
    limited: &Limited,
    verdicts: &Verdicts,
    family: Family,
) -> Vec<Chain> {
    let limits = |way: Way| {
        let some = limits::any(limited, way).then(|| limits::dispatch_chain(way));
        some.map(|name| Target::Jump(ChainId::Fixed(name)))
    };
    let jump = |name| Target::Jump(ChainId::Fixed(name));
    let base = |table, name, lines| Chain::fixed(table, name, Rank::Base, lines);
    let mut input = vec![Line::new(
        [from_workloads(globals)],
        Target::Goto(ChainId::Fixed(WORKLOAD_TO_HOST)),
    )];
    input.extend(tunnels::arriving(globals, family));
    input.push(Line::always(jump("mgy-host-in")));
    let mut output: Vec<Line> = ended(globals, verdicts, Some(to_workloads(globals))).collect();
    output.push(Line::new([to_workloads(globals)], Target::Accept));
    output.extend(tunnels::leaving(globals, family));
    output.push(Line::always(jump("mgy-host-out")));
    let mut chains = vec![
        base(
            Table::Raw,
            "mgy-PREROUTING",
            prerouting(globals, verdicts, family),
        ),
        Chain::fixed(
            Table::Filter,
            WORKLOAD_TO_HOST,
            Rank::Host,
            workload_to_host(globals, limits(Way::Egress), verdicts, family),
        ),
        base(Table::Filter, "mgy-INPUT", input),
        base(
            Table::Filter,
            "mgy-FORWARD",
            forward(globals, &limits, verdicts, family),
        ),
        base(Table::Filter, "mgy-OUTPUT", output),
        base(Table::Nat, "mgy-POSTROUTING", postrouting(globals, family)),
    ];
    if globals.clamp_segments {
        chains.push(segments(globals));
    }
    verdicts.chains(Table::Filter).chain(chains).collect()
}

/// Packets whose source is not the interface's own go no further.
fn prerouting(globals: &Globals, verdicts: &Verdicts, family: Family) -> Vec<Line> {
    let from = || from_workloads(globals);
    let mut lines = settled::received(globals, family);
    if family == Family::V6 {
        for source in [link_local(), unspecified()] {
            for icmp_type in LINK_LOCAL_ICMPV6 {
                let mut matches = vec![from(), net(Side::Src, source)];
                matches.extend(icmpv6(icmp_type));
                lines.push(Line::new(matches, Target::Return));
            }
        }
    }
    if family == Family::V4 {
        let matches = std::iter::once(from()).chain(to_dhcp_server());
        lines.push(Line::new(matches, Target::Return));
    }
    let unknown = workload(Side::Src, true, family);
    let spoofed = [from(), unknown];
    let dropped = verdicts.denied(&spoofed, Way::Egress, Cause::Spoofed, &Target::Drop);
    lines.extend(dropped.map(|line| line.noted("not from this workload")));
    lines.push(Line::new([from()], Target::Return));
    lines.push(Line::always(Target::Jump(ChainId::Fixed("mgy-host-in"))));
    lines
}

fn net(side: Side, net: IpNetwork) -> Match {
    Match::Net {
        side,
        not: false,
        net,
    }
}

fn link_local() -> IpNetwork {
    prefix_of([0xfe80u16, 0, 0, 0, 0, 0, 0, 0].into(), 10)
}

fn unspecified() -> IpNetwork {
    prefix_of([0u16; 8].into(), 128)
}

pub(super) fn prefix_of(address: IpAddr, length: u8) -> IpNetwork {
    IpNetwork::new(address, length).expect("lengths here are no longer than their addresses")
}

/// A message of this type.
pub(super) fn icmpv6(icmp_type: u8) -> [Match; 2] {
    let protocol = Match::Protocol {
        not: false,
        number: ICMPV6,
    };
    let icmp = Match::Icmp {
        not: false,
        icmp_type,
        code: None,
    };
    [protocol, icmp]
}

/// Address and interface are a workload's, or not.
pub(super) fn workload(side: Side, not: bool, family: Family) -> Match {
    Match::Set {
        side,
        not,
        name: names::workload_set(family),
        set_type: SetType::NetIface,
    }
}

/// A container whose IPAM plugin speaks DHCP has no address yet, nor an endpoint with a policy.
fn to_dhcp_server() -> Vec<Match> {
    let port = |side, port| Match::Ports {
        side,
        not: false,
        protocol: UDP,
        ranges: vec![port..=port],
    };
    vec![
        net(Side::Src, prefix_of([0u8; 4].into(), 32)),
        net(Side::Dst, prefix_of([255u8; 4].into(), 32)),
        Match::Protocol {
            not: false,
            number: UDP,
        },
        port(Side::Src, 68),
        port(Side::Dst, 67),
    ]
}

pub(super) const ESTABLISHED: Match = Match::Tracked(Tracked::Established);
pub(super) const INVALID: Match = Match::Tracked(Tracked::Invalid);
/// A packet to nobody, or from somebody who is not known.
pub(super) const NO_SUCH_WORKLOAD: &str = "no such workload";
/// A packet that conntrack calls invalid.
pub(super) const OF_NO_CONNECTION: &str = "of no known connection";
pub(super) const NEW: Match = Match::Tracked(Tracked::New);
pub(super) const TRANSLATED: Match = Match::Tracked(Tracked::Translated);

fn forward(
    globals: &Globals,
    limits: &dyn Fn(Way) -> Option<Target>,
    verdicts: &Verdicts,
    family: Family,
) -> Vec<Line> {
    let (from, to) = (|| from_workloads(globals), || to_workloads(globals));
    let chain = |name| Target::Jump(ChainId::Fixed(name));
    let unknown = workload(Side::Dst, true, family);
    let unknown = [to(), unknown];
    let dropped = verdicts.denied(&unknown, Way::Ingress, Cause::NoSuchWorkload, &Target::Drop);
    let mut lines = Vec::new();
    // They hold for every packet.
    lines.extend(limits(Way::Egress).map(|jump| Line::new([from()], jump)));
    lines.extend(limits(Way::Ingress).map(|jump| Line::new([to()], jump)));
    lines.extend(settled::forwarded(globals, family));
    lines.extend(dropped.map(|line| line.noted(NO_SUCH_WORKLOAD)));
    lines.extend(ended(globals, verdicts, None));
    if globals.clamp_segments {
        // Before what is known: the answer to what opens a connection counts as such.
        lines.push(Line::new(opening(), chain(SEGMENTS)));
    }
    lines.push(Line::new([from(), ESTABLISHED], Target::Accept));
    lines.push(Line::new([to(), ESTABLISHED], Target::Accept));
    if !globals.disable_conntrack_invalid {
        lines.push(Line::new([from(), INVALID], Target::Drop).noted(OF_NO_CONNECTION));
        lines.push(Line::new([to(), INVALID], Target::Drop).noted(OF_NO_CONNECTION));
    }
    lines.extend(tunnels::service_loops(globals, family));
    lines.push(Line::always(chain("mgy-hfwd-in")));
    lines.push(Line::new([from()], chain(dispatch_chain(Way::Egress))));
    lines.push(Line::new([to()], chain(dispatch_chain(Way::Ingress))));
    lines.push(Line::always(chain("mgy-hfwd-out")));
    lines.push(Line::new([from()], Target::Accept));
    lines.push(Line::new([to()], Target::Accept));
    lines
}

/// What opens a connection of TCP, and what answers it.
fn opening() -> [Match; 2] {
    let tcp = Match::Protocol {
        not: false,
        number: TCP,
    };
    [tcp, Match::Opening]
}

/// A workload goes by the MTU that it has from its attachment; where the path takes less, the two ends of a connection
/// are told so as it opens, and need no ICMP to find out.
fn segments(globals: &Globals) -> Chain {
    let ways = [from_workloads(globals), to_workloads(globals)];
    let lines = ways.map(|way| {
        let matches = std::iter::once(way).chain(opening());
        Line::new(matches, Target::ClampSegments)
    });
    Chain::fixed(Table::Filter, SEGMENTS, Rank::Aside, lines.into())
}

/// Whether a change of policy has ended the connection of a packet.
pub(super) fn marked_as_ended(globals: &Globals, set: bool) -> Match {
    let bit = ended_mark(globals.mark_mask);
    Match::ConnectionMark { bit, set }
}

/// Packets of connections that a change of policy has ended, before they pass as known ones.
pub(super) fn ended(
    globals: &Globals,
    verdicts: &Verdicts,
    which: Option<Match>,
) -> impl Iterator<Item = Line> {
    let ended = marked_as_ended(globals, true);
    let line = Line::new(which.into_iter().chain([ended]), verdicts.deny.clone());
    let line = line.noted("policy has come to deny this connection");
    globals.end_denied.then_some(line).into_iter()
}

fn workload_to_host(
    globals: &Globals,
    limits: Option<Target>,
    verdicts: &Verdicts,
    family: Family,
) -> Vec<Line> {
    let mut lines: Vec<Line> = limits.into_iter().map(Line::always).collect();
    lines.extend(ended(globals, verdicts, None));
    lines.push(Line::new([ESTABLISHED], Target::Accept));
    if family == Family::V6 {
        let accept = |icmp| Line::new(icmpv6(icmp), Target::Accept);
        lines.extend(LINK_LOCAL_ICMPV6.map(accept));
    }
    if family == Family::V4 {
        lines.push(Line::new(to_dhcp_server(), Target::Accept));
    }
    if !globals.disable_conntrack_invalid {
        lines.push(Line::new([INVALID], Target::Drop).noted(OF_NO_CONNECTION));
    }
    let dispatch = ChainId::Fixed(dispatch_chain(Way::Egress));
    lines.push(Line::always(Target::Jump(dispatch)));
    lines.push(match globals.endpoint_to_host {
        HostAction::Drop => Line::always(Target::Drop).noted("a workload to its host"),
        HostAction::Return => Line::always(Target::Return),
        HostAction::Accept => Line::always(Target::Accept),
    });
    lines
}

fn postrouting(globals: &Globals, family: Family) -> Vec<Line> {
    let target = match family {
        Family::V4 => globals.nat_outgoing_v4.map(IpAddr::V4),
        Family::V6 => globals.nat_outgoing_v6.map(IpAddr::V6),
    };
    let pool = |side, not, name| Match::Set {
        side,
        not,
        name,
        set_type: SetType::Net,
    };
    let mut outgoing = vec![
        pool(Side::Src, false, names::masquerade_set(family)),
        pool(Side::Dst, true, names::pools_set(family)),
    ];
    if globals.nat_excludes_hosts {
        outgoing.push(pool(Side::Dst, true, names::hosts_set(family)));
    }
    let source_nat = |ports| Target::SourceNat {
        address: target,
        ports,
    };
    // Only these have ports that the kernel translates within a range.
    let with_ports = globals.nat_ports.iter().flat_map(|ports| {
        [TCP, UDP].map(|number| {
            let protocol = Match::Protocol { not: false, number };
            let matches = [protocol].into_iter().chain(outgoing.clone());
            Line::new(matches, source_nat(Some(ports.clone())))
        })
    });
    let rest = Line::new(outgoing.clone(), source_nat(None));
    let own = tunnels::own_sources(globals, family);
    let hairpin = Line::always(Target::Jump(ports::HAIRPIN));
    let outgoing = own.into_iter().chain(with_ports).chain([rest]);
    std::iter::once(hairpin).chain(outgoing).collect()
}

/// From an address and its interface to the group; no group, no packet.
pub(super) fn dispatch(way: Way, groups: Vec<String>) -> Chain {
    Chain {
        table: Table::Filter,
        id: ChainId::Fixed(dispatch_chain(way)),
        rank: Rank::Dispatch,
        body: Body::Dispatch { way, groups },
    }
}

/// All that one group of endpoints goes through in one direction: tiers, profiles, drop.
pub(super) fn group(
    way: Way,
    group: &str,
    direction: &Direction,
    profiles: &[ProfileId],
    verdicts: &Verdicts,
) -> Chain {
    let end = WalkEnd {
        accepted: Target::Return,
        otherwise: Some(verdicts.deny.clone()),
    };
    let id = ChainId::Group(way, group.to_owned());
    let lines = walk(way, direction, profiles, verdicts, &end);
    Chain::new(Table::Filter, id, Rank::Group, lines)
}

/// What becomes of a packet after the policies.
pub(super) struct WalkEnd {
    /// Of one that a policy or profile accepts, as soon as it does.
    pub(super) accepted: Target,
    /// Of one that nothing decided; it goes on when absent.
    pub(super) otherwise: Option<Target>,
}

/// The lines that ask the policies of each tier, then the profiles.
pub(super) fn walk(
    way: Way,
    direction: &Direction,
    profiles: &[ProfileId],
    verdicts: &Verdicts,
    end: &WalkEnd,
) -> Vec<Line> {
    let mut lines = vec![verdicts.clear_both()];
    let mut first = true;
    for tier in direction
        .tiers
        .iter()
        .filter(|tier| !tier.policies.is_empty())
    {
        if !std::mem::take(&mut first) {
            lines.push(verdicts.clear_pass());
        }
        let name = clean(&tier.name, 60);
        let told = Some(tier.default_action).filter(|end| *end == TierDefault::WouldDeny);
        let (before, behind) = told
            .and_then(|_| verdicts.would_deny(way, &tier.name))
            .unzip();
        lines.extend(before);
        for (index, policy) in tier.policies.iter().enumerate() {
            // Nothing has passed before the first policy of a tier.
            let unless = (index > 0).then(|| verdicts.unless_passed());
            let chain = ChainId::Policy(way, policy.clone());
            let title = clean(policy.as_str(), 60);
            lines.push(Line::new(unless, Target::Jump(chain)).noted(title));
            lines.push(verdicts.if_accepted(end.accepted.clone()));
        }
        if tier.default_action == TierDefault::Deny {
            let cause = Cause::TierEnd(name_of(&tier.name));
            let undecided = [verdicts.unless_passed()];
            let denied = verdicts.denied(&undecided, way, cause, &verdicts.deny);
            lines.extend(denied.map(|line| line.noted(format!("end of tier {name}"))));
        }
        lines.extend(behind);
    }
    for profile in profiles {
        let title = clean(profile.as_str(), 60);
        let chain = ChainId::Profile(way, profile.clone());
        let ask = Line::always(Target::Jump(chain));
        lines.push(ask.noted(format!("profile {title}")));
        lines.push(verdicts.if_accepted(end.accepted.clone()));
    }
    if let Some(target) = &end.otherwise {
        let denied = verdicts.denied(&[], way, Cause::Nothing, target);
        lines.extend(denied.map(|line| line.noted("nothing allowed it")));
    }
    lines
}
