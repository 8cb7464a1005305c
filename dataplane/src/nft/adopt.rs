//! Taking over what the table holds.

use std::{collections::BTreeSet, time::Instant};

use super::{
    dispatch::PLACES,
    driver::{Desired, Nftables},
    element::Kind,
    read::{Found, FoundSet},
    wire::set as set_flags,
};
use crate::filter::kernel::Pass;

impl Nftables {
    /// Takes over what was read; counts what differs from what was left behind.
    pub(super) fn adopt(&mut self, mut found: Found) -> usize {
        let mut drift = 0;
        let before = std::mem::replace(&mut self.kernel, std::mem::take(&mut found.chains));
        let names: BTreeSet<&String> = before.keys().chain(self.kernel.keys()).collect();
        drift += names
            .into_iter()
            .filter(|name| before.get(*name) != self.kernel.get(*name))
            .count();
        self.dirty = self
            .kernel
            .keys()
            .chain(self.desired.keys())
            .cloned()
            .collect();
        self.dirty.retain(|name| {
            self.kernel.get(name) != self.desired.get(name).map(Desired::found).as_ref()
        });
        self.table = found.table;
        self.misshapen = false;
        for (name, set) in self.sets.iter_mut().filter(|(_, set)| set.wanted) {
            let read = found.sets.remove(name);
            self.misshapen |= read.as_ref().is_some_and(|found| !is_of(set.kind, found));
            let was_there = set.exists;
            drift += set.adopt(read.as_ref().map(|found| found.members.as_slice()));
            drift += usize::from(was_there != set.exists);
        }
        for dispatch in self.dispatch.values_mut() {
            for place in PLACES {
                let read = found.sets.remove(&dispatch.name(place));
                let kind = dispatch.kind(place);
                self.misshapen |= read.as_ref().is_some_and(|found| !is_of(kind, found));
                let was_there = dispatch.exists(place);
                let members = read.as_ref().map(|found| found.members.as_slice());
                drift += dispatch.adopt(place, members);
                drift += usize::from(was_there != dispatch.exists(place));
            }
        }
        self.sets.retain(|_, set| set.wanted);
        let (changed, damaged) = self.ports.adopt(&mut found.sets);
        drift += changed;
        self.misshapen |= damaged;
        let strangers: BTreeSet<String> = found.sets.keys().cloned().collect();
        drift += strangers.difference(&self.strangers).count();
        self.strangers = strangers;
        self.dirty_sets = self.sets.keys().cloned().collect();
        let sets = &self.sets;
        self.dirty_sets
            .retain(|name| sets.get(name).is_some_and(|set| !set.in_sync()));
        self.found = found;
        let drift = if self.verified { drift } else { 0 };
        self.stale = false;
        self.verified = true;
        drift
    }

    /// Reads the table. False when that failed.
    pub(super) fn read(&mut self, now: Instant, pass: &mut Pass) -> bool {
        pass.reads += 1;
        match self.edge.read() {
            Ok(found) => {
                pass.drift += self.adopt(found);
                true
            }
            Err(error) => {
                pass.read_failures += 1;
                self.fail(error.to_string(), now);
                false
            }
        }
    }
}

/// Whether a set is of the make that we give it.
pub(super) fn is_of(kind: Kind, found: &FoundSet) -> bool {
    let make = set_flags::INTERVAL | set_flags::CONCAT | set_flags::MAP;
    found.flags & make == kind.flags() & make && found.key_len == kind.key_len()
}
