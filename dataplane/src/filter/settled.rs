//! Short cuts for what nearly every packet is: one of a connection that is open, between addresses that are as they should.
//!
//! They come first in their chains, and let nothing through that the lines behind them would not: what they do is to save
//! most packets the way there. So none of them counts or drops, and where limits hold for every packet, these come before.

use super::{
    chains::{TCP, from_workloads, marked_as_ended, to_workloads, workload},
    program::{Ifaces, Line, Match, Side, Target, Tracked},
    tunnels,
    types::{Family, Globals},
};

const SETTLED: Match = Match::Tracked(Tracked::Settled);

/// What comes from the address and the interface of one and the same workload, and is no tunnel: its source is its own.
/// It is asked of every packet, whatever is known of its connection: another workload's connection looks the same.
pub(super) fn received(globals: &Globals, family: Family) -> Vec<Line> {
    let own = || [from_workloads(globals), workload(Side::Src, false, family)];
    let known = |before: Option<Match>| Line::new(before.into_iter().chain(own()), Target::Return);
    let tunnels = tunnels::not_from_workloads(globals, family);
    // Nothing is a tunnel over TCP, so that most packets need not be asked which they are.
    let first = (!tunnels.is_empty()).then(|| {
        known(Some(Match::Protocol {
            not: false,
            number: TCP,
        }))
    });
    first
        .into_iter()
        .chain(tunnels)
        .chain([known(None)])
        .collect()
}

/// What goes to a workload that there is, and what leaves one for elsewhere. How long its segments may be was said when
/// the connection was opened.
pub(super) fn forwarded(globals: &Globals, family: Family) -> [Line; 2] {
    let goes_on = || {
        let not_ended = globals.end_denied.then(|| marked_as_ended(globals, false));
        std::iter::once(SETTLED).chain(not_ended)
    };
    let elsewhere = Ifaces::NotStartingWith(globals.interface_prefix.clone());
    let here = [to_workloads(globals), workload(Side::Dst, false, family)];
    let there = [from_workloads(globals), Match::Out(elsewhere)];
    [here, there].map(|way| {
        let matches = way.into_iter().chain(goes_on());
        Line::new(matches, Target::Accept)
    })
}
