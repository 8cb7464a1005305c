//! What peers were told goes from one process to the next, so that they are told no more than what has
//! changed meanwhile.
//!
//! The next process has the routes that each peer sent, and its own; what it would tell is decided
//! anew from them. Of what was told before, a fingerprint is enough: where it is the same, nothing is
//! sent; where it differs, or is not known, the route is told again; where nothing is to be told any
//! more, the route is withdrawn.

use std::time::Instant;

use bytes::BytesMut;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{
    PeerId, Rib, SessionInfo,
    export::Export,
    group::{Group, GroupKey, Marker, Queue},
    held::Held,
    table::{LOCAL, Path, Source},
};
use crate::prefix::{Family, Prefix};

/// What a peer was told of a family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// The routes.
    pub routes: Vec<ToldRoute>,
    /// What it is still to be told when it has all routes.
    pub outstanding: Outstanding,
}

/// A marker that has not been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outstanding {
    /// None.
    #[default]
    Nothing,
    /// End-of-RIB (RFC 4724).
    EndOfRib,
    /// The end of a route refresh (RFC 7313).
    EndOfRefresh,
}

/// A route that a peer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldRoute {
    /// Where to.
    pub prefix: Prefix,
    /// Which of several paths (RFC 7911), else 0.
    pub number: u8,
    /// Fingerprint of attributes and next hop; `None` when it is not certain what the peer has.
    pub print: Option<u64>,
}

/// Fingerprints by source, attribute set and rule: what they are of.
type Known = HashMap<(Source, u32, u16), Option<u64>, foldhash::fast::RandomState>;

/// What a group was told before, until it is compared.
#[derive(Debug)]
pub(super) struct Before {
    seed: u64,
    prints: HashMap<(u32, u8), u64, foldhash::fast::RandomState>,
}

impl Rib {
    /// Whether the session of a peer can be handed over: routes that wait for the peer's word would
    /// lose that they do.
    pub fn is_settled(&self, peer: PeerId) -> bool {
        let may_be = self.peer(peer).map_or([false; 2], |p| p.stale);
        let stale = |family: Family| {
            let table = &self.families[family.index()].table;
            let is_stale = |p: &Path| p.source == peer.0 && self.is_stale(family, p);
            may_be[family.index()] && table.ids().any(|id| table.paths(id).iter().any(is_stale))
        };
        self.deferral.is_none() && !Family::ALL.into_iter().any(stale)
    }

    /// Takes the peer out of the RIB's hands: returns what it was told of a family, and tells it no
    /// more. Nothing may wait for [`Rib::work`]. Fingerprints depend on `seed`.
    pub fn take_told(&mut self, peer: PeerId, family: Family, seed: u64) -> Option<Told> {
        let group = self.detach(peer, family)?;
        self.set_group(peer, family, None);
        let outstanding = match group.members.first().and_then(|m| m.marker) {
            None => Outstanding::Nothing,
            Some(Marker::EndOfRib) => Outstanding::EndOfRib,
            Some(Marker::EndOfRefresh) => Outstanding::EndOfRefresh,
        };
        let mut known = Known::default();
        let mut routes = Vec::new();
        for id in self.families[family.index()].table.ids() {
            let numbers = group.held.numbers(id);
            if numbers.is_empty() {
                continue;
            }
            // A refresh is sent from its start once more.
            let certain = outstanding != Outstanding::EndOfRefresh && !group.queue.contains(id);
            let exports = match certain {
                true => self.all_exports(&group.key, id),
                false => SmallVec::new(),
            };
            let prefix = self.families[family.index()].table.prefix(id);
            routes.extend(numbers.iter().map(|&number| {
                let export = exports.iter().find(|e| e.number == number);
                let print = export.and_then(|export| {
                    let same = (export.source, export.set, export.rule);
                    let make = || self.print(&group.key, *export, seed);
                    *known.entry(same).or_insert_with(make)
                });
                ToldRoute {
                    prefix,
                    number,
                    print,
                }
            }));
        }
        Some(Told {
            routes,
            outstanding,
        })
    }

    /// As [`Rib::peer_up`], for a session of which the peer was told `told`, by family, by another
    /// process. What it sent there is to be fed before the next [`Rib::settle`].
    pub fn resume_peer(
        &mut self,
        peer: PeerId,
        info: SessionInfo,
        (told, seed): ([Told; 2], u64),
        now: Instant,
    ) {
        let families = info.families;
        self.begin_session(peer, info, now);
        for (family, told) in Family::ALL.into_iter().zip(told) {
            if families.contains(family) {
                self.join_told(peer, family, told, seed);
            }
        }
    }

    fn join_told(&mut self, peer: PeerId, family: Family, told: Told, seed: u64) {
        let Some(key) = self.group_key(peer, family) else {
            return;
        };
        let several = key.add_path.is_some();
        let mut group = Group::new(key, false, Held::new(several));
        let mut prints = HashMap::default();
        let rib = &mut self.families[family.index()];
        for route in told.routes {
            let id = match route.prefix {
                Prefix::V4(p) if family == Family::Ipv4Unicast => rib.table.find_or_insert(p),
                Prefix::V6(p) if family == Family::Ipv6Unicast => rib.table.find_or_insert(p),
                _ => continue,
            };
            // One without a path any more has to be withdrawn, and then forgotten.
            rib.changed.insert(id);
            group.queue.push(id);
            let number = if several { route.number } else { 0 };
            group.held.set(id, number, Some(LOCAL));
            if let Some(print) = route.print {
                prints.insert((id, number), print);
            }
        }
        let marker = match told.outstanding {
            Outstanding::Nothing => None,
            Outstanding::EndOfRib => Some(Marker::EndOfRib),
            Outstanding::EndOfRefresh => Some(Marker::EndOfRefresh),
        };
        group.add(peer.0, marker);
        group.before = Some(Box::new(Before { seed, prints }));
        self.open(peer, family, group);
        self.resumed = true;
    }

    /// After the first decision on everything: leaves out of what is to be told what was told already.
    pub(super) fn compare_with_before(&mut self) {
        if !self.resumed || !self.chores.is_empty() {
            return;
        }
        self.resumed = false;
        for at in 0..self.groups.len() {
            let Some(mut group) = self.groups.get_mut(at).and_then(Option::take) else {
                continue;
            };
            if let Some(before) = group.before.take() {
                self.compare(&mut group, &before);
            }
            self.groups[at] = Some(group);
        }
    }

    fn compare(&self, group: &mut Group, before: &Before) {
        let reader = group.members.first().map_or(LOCAL, |m| m.source);
        let mut known = Known::default();
        let queue = std::mem::take(&mut group.queue);
        let mut left = Queue::default();
        for &id in queue.ids() {
            let exports = self.all_exports(&group.key, id);
            let mut told = 0;
            let same = exports.iter().filter(|e| e.source != reader).all(|export| {
                told += 1;
                let print = *known
                    .entry((export.source, export.set, export.rule))
                    .or_insert_with(|| self.print(&group.key, *export, before.seed));
                print.is_some() && before.prints.get(&(id, export.number)).copied() == print
            });
            if !same || told != group.held.numbers(id).len() {
                left.push(id);
                continue;
            }
            for export in exports {
                group.held.set(id, export.number, Some(export.source));
            }
        }
        group.queue = left;
    }

    /// What members of a group are told of a prefix, the source of each route aside.
    fn all_exports(&self, key: &GroupKey, id: u32) -> SmallVec<[Export; 4]> {
        match key.add_path {
            None => self.export(key, id).into_iter().collect(),
            Some(limit) => self.exports(key, id, limit),
        }
    }

    fn print(&self, key: &GroupKey, export: Export, seed: u64) -> Option<u64> {
        let rendered = self.render(key, export)?;
        let mut octets = BytesMut::new();
        if let Some(hop) = rendered.mp_next_hop {
            hop.encode(&mut octets);
        }
        Some(fnv1a(fnv1a(seed, &octets), &rendered.attrs))
    }
}

/// Fowler, Noll and Vo's hash, going on from `state`: the same in every version of the program.
fn fnv1a(state: u64, octets: &[u8]) -> u64 {
    let step = |state: u64, octet: &u8| (state ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
    octets.iter().fold(state, step)
}
