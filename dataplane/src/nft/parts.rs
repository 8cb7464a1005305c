//! Sets of addresses in two parts: single addresses by hash, networks as intervals in a tree.
//!
//! A selector's members are nearly all single addresses. In a tree each takes five times as long to add as in a hash,
//! and each packet's lookup some fifteen steps. Rules ask the part that there is, or both: one of two rules for what is
//! to be in a set, both in one rule for what is not. A part that was needed once stays until the set goes.

use std::collections::BTreeMap;

use super::{driver::Nftables, names};
use crate::{
    filter::{
        Family,
        program::{Body, Chain, Match},
    },
    ipset::{Entry, SetType},
};

/// Which parts of a set are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) hosts: bool,
    pub(super) nets: bool,
}

impl Parts {
    /// What a rule asks: an empty set is one of addresses.
    pub(super) const fn asked(self) -> Self {
        Self {
            hosts: self.hosts || !self.nets,
            nets: self.nets,
        }
    }

    pub(super) const fn both(self) -> bool {
        self.hosts && self.nets
    }
}

/// The parts of the sets of addresses, by the name that ipsets have.
#[derive(Debug, Default)]
pub(super) struct Parted(BTreeMap<String, (Family, Parts)>);

impl Parted {
    pub(super) fn of(&self, set: &str) -> Parts {
        let parts = self.0.get(set).map(|(_, parts)| *parts);
        parts.unwrap_or_default().asked()
    }
}

impl Nftables {
    pub(super) fn want_parted(&mut self, set: &str, family: Family) {
        let parts = self.parts.0.entry(set.to_owned());
        let (_, parts) = *parts.or_insert((family, Parts::default()));
        for (name, kind) in Self::kinds_of(set, SetType::Net, family) {
            let needed = name == names::set(set, false) || parts.nets;
            if needed {
                self.want_set(name, kind);
            }
        }
    }

    pub(super) fn unwant_parted(&mut self, set: &str) {
        self.parts.0.remove(set);
    }

    /// These are about to go into a set of addresses.
    pub(super) fn need_parts<'a>(
        &mut self,
        set: &str,
        mut entries: impl Iterator<Item = &'a Entry>,
    ) {
        let Some((family, parts)) = self.parts.0.get_mut(set) else {
            return;
        };
        let before = *parts;
        while !parts.both()
            && let Some(entry) = entries.next()
        {
            let net = entry.net();
            let is_host = net.prefix() == if net.is_ipv4() { 32 } else { 128 };
            parts.hosts |= is_host;
            parts.nets |= !is_host;
        }
        let (family, after) = (*family, *parts);
        if after.nets && !before.nets {
            self.want_parted(set, family);
        }
        if after.asked() != before.asked() {
            self.render_again(set);
        }
    }

    fn render_again(&mut self, set: &str) {
        let referring = self
            .programs
            .iter()
            .filter(|(_, (_, chain))| refers(chain, Some(set)));
        let referring: Vec<String> = referring.map(|(name, _)| name.clone()).collect();
        for name in referring {
            if let Some((family, chain)) = self.programs.remove(&name) {
                self.render(name.clone(), family, &chain);
                self.programs.insert(name, (family, chain));
            }
        }
    }

    /// Remembers a chain whose rules depend on parts of sets.
    pub(super) fn remember(&mut self, name: &str, family: Family, chain: Chain) {
        match refers(&chain, None) {
            true => drop(self.programs.insert(name.to_owned(), (family, chain))),
            false => drop(self.programs.remove(name)),
        }
    }
}

/// Whether a chain refers to this set, or to any set of addresses.
fn refers(chain: &Chain, to: Option<&str>) -> bool {
    let Body::Lines(lines) = &chain.body else {
        return false;
    };
    let mut matches = lines.iter().flat_map(|line| &line.matches);
    matches.any(|condition| match condition {
        Match::Set { name, set_type, .. } => {
            *set_type == SetType::Net && to.is_none_or(|set| set == name)
        }
        _ => false,
    })
}
