//! Limits of one workload: packets a second, connections at a time; and the mark on what it sends out of the cluster.
//!
//! They hold for packets of known connections too, so they come before those are let through. Only workloads that have
//! limits have chains for them, and only while there are such do packets come to the dispatch, interface by interface.
//! Each family counts for itself.

use std::collections::BTreeMap;

use super::{
    chains::NEW,
    names::{self, Way, short_hash},
    program::{Chain, ChainId, Ifaces, Line, Match, Side, Target},
    types::{Family, Limits, WayLimits},
    verdicts::Verdicts,
};
use crate::{
    ipset::SetType,
    iptables::{Rank, Table},
};

/// By interface, those that have any.
pub(super) type Limited = BTreeMap<String, Limits>;

/// Packets at once where nothing is said: as the established system has it.
const PACKETS_AT_ONCE: u32 = 5;

/// Where packets come to be marked.
pub(super) const MARK_HOOK: (Table, &str, &str) = (Table::Mangle, "FORWARD", "mgy-FORWARD");

pub(super) const fn dispatch_chain(way: Way) -> &'static str {
    match way {
        Way::Ingress => "mgy-limit-to",
        Way::Egress => "mgy-limit-from",
    }
}

/// Whether there is anything to limit that goes this way.
pub(super) fn any(limited: &Limited, way: Way) -> bool {
    limited.values().any(|limits| limits.of(way).any())
}

/// All chains for limits and marks.
pub(super) fn render(limited: &Limited, verdicts: &Verdicts, family: Family) -> Vec<Chain> {
    let mut chains = Vec::new();
    for way in Way::BOTH {
        let some = limited.iter().filter(|(_, limits)| limits.of(way).any());
        let mut dispatch = Vec::new();
        for (ifname, limits) in some {
            let id = ChainId::Limit(way, ifname.clone());
            dispatch.push(Line::new([through(way, ifname)], Target::Jump(id.clone())));
            let lines = lines(ifname, way, limits.of(way), verdicts);
            chains.push(Chain::new(Table::Filter, id, Rank::Group, lines));
        }
        if !dispatch.is_empty() {
            let name = dispatch_chain(way);
            chains.push(Chain::fixed(Table::Filter, name, Rank::Dispatch, dispatch));
        }
    }
    let marks: Vec<Line> = limited
        .iter()
        .filter_map(|(ifname, limits)| {
            let from = through(Way::Egress, ifname);
            let outside = Match::Set {
                side: Side::Dst,
                not: true,
                name: names::pools_set(family),
                set_type: SetType::Net,
            };
            Some(Line::new([from, outside], Target::Dscp(limits.dscp?)))
        })
        .collect();
    if !marks.is_empty() {
        let (table, _, name) = MARK_HOOK;
        chains.push(Chain::fixed(table, name, Rank::Base, marks));
    }
    chains
}

fn through(way: Way, ifname: &str) -> Match {
    let ifname = Ifaces::Named(ifname.to_owned());
    match way {
        Way::Ingress => Match::Out(ifname),
        Way::Egress => Match::In(ifname),
    }
}

fn lines(ifname: &str, way: Way, limits: &WayLimits, verdicts: &Verdicts) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(rate) = limits.packets_a_second {
        let at_once = limits.packets_at_once.unwrap_or(PACKETS_AT_ONCE);
        // iptables keeps what it counts by name, and goes by the limits that the name began with.
        let name = format!(
            "mgy-{}",
            short_hash(&format!("{ifname} {way:?} {rate} {at_once}"))
        );
        let over = Match::PacketsOver {
            rate,
            at_once,
            name,
        };
        lines.push(Line::new([over], Target::Drop).noted("packets a second"));
    }
    if let Some(most) = limits.connections {
        let matches = [NEW, Match::ConnectionsOver(most)];
        lines.push(Line::new(matches, verdicts.deny.clone()).noted("connections at a time"));
    }
    lines
}
