//! The sets that rules of this host refer to, with members from the whole cluster.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use super::compile::SetDef;
use super::items::Contribution;
use crate::index::{ItemId, LabelIndex, SelectorId};
use crate::program::{SetId, SetMember, Update};

type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Sets in use.
#[derive(Debug, Default)]
pub(super) struct SetTable {
    sets: BTreeMap<SetId, Set>,
    by_selector: BTreeMap<SelectorId, BTreeSet<SetId>>,
    dirty: BTreeSet<SetId>,
}

#[derive(Debug)]
struct Set {
    def: SetDef,
    selector: SelectorId,
    /// How many programs refer to it.
    uses: usize,
    /// How many items each member comes from: two may share an address.
    members: FastMap<SetMember, u32>,
    /// Members touched since the last flush, with whether they were there then.
    touched: BTreeMap<SetMember, bool>,
    emitted: bool,
}

impl SetTable {
    /// Adds a use; the first one gathers the members.
    pub(super) fn acquire(
        &mut self,
        id: &SetId,
        def: &SetDef,
        index: &mut LabelIndex,
        contribution: impl Fn(ItemId) -> Option<Contribution>,
    ) {
        if let Some(set) = self.sets.get_mut(id) {
            set.uses += 1;
            return;
        }
        let selector = index.add_selector(&def.selector);
        let mut set = Set {
            def: def.clone(),
            selector,
            uses: 1,
            members: FastMap::default(),
            touched: BTreeMap::new(),
            emitted: false,
        };
        for item in index.items_of(selector) {
            if let Some(contribution) = contribution(item) {
                set.add(&contribution);
            }
        }
        self.sets.insert(id.clone(), set);
        self.by_selector
            .entry(selector)
            .or_default()
            .insert(id.clone());
        self.dirty.insert(id.clone());
    }

    /// What a set is made of.
    pub(super) fn def(&self, id: &SetId) -> Option<&SetDef> {
        self.sets.get(id).map(|set| &set.def)
    }

    /// Gives a use back. The set is kept up to date until [`emit`](Self::emit) finds it unused.
    pub(super) fn release(&mut self, id: &SetId) {
        if let Some(set) = self.sets.get_mut(id) {
            set.uses -= 1;
            if set.uses == 0 {
                self.dirty.insert(id.clone());
            }
        }
    }

    /// An item begins to match a selector.
    pub(super) fn add(&mut self, selector: SelectorId, contribution: &Contribution) {
        self.each(selector, |set| set.add(contribution));
    }

    /// An item ceases to match a selector.
    pub(super) fn remove(&mut self, selector: SelectorId, contribution: &Contribution) {
        self.each(selector, |set| set.remove(contribution));
    }

    fn each(&mut self, selector: SelectorId, change: impl Fn(&mut Set)) {
        for id in self.by_selector.get(&selector).into_iter().flatten() {
            if let Some(set) = self.sets.get_mut(id) {
                change(set);
                self.dirty.insert(id.clone());
            }
        }
    }

    /// What changed since the last call: additions and changes first, removals apart.
    pub(super) fn emit(&mut self, index: &mut LabelIndex) -> (Vec<Update>, Vec<Update>) {
        let (mut changed, mut removed) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.dirty) {
            let Some(set) = self.sets.get_mut(&id) else {
                continue;
            };
            if set.uses > 0 {
                changed.extend(set.emit(id));
                continue;
            }
            if set.emitted {
                removed.push(Update::SetRemoved { id: id.clone() });
            }
            let selector = set.selector;
            self.sets.remove(&id);
            if let Some(ids) = self.by_selector.get_mut(&selector) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_selector.remove(&selector);
                }
            }
            index.release_selector(selector);
        }
        // Additions before changes, each in order of their ids.
        changed.sort_by_key(|update| matches!(update, Update::SetChanged { .. }));
        (changed, removed)
    }
}

impl Set {
    fn add(&mut self, contribution: &Contribution) {
        for member in contribution.members(self.def.port.as_ref()) {
            let count = self.members.entry(member).or_insert(0);
            if self.emitted && *count == 0 {
                self.touched.entry(member).or_insert(false);
            }
            *count += 1;
        }
    }

    fn remove(&mut self, contribution: &Contribution) {
        for member in contribution.members(self.def.port.as_ref()) {
            let Some(count) = self.members.get_mut(&member) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                self.members.remove(&member);
                if self.emitted {
                    self.touched.entry(member).or_insert(true);
                }
            }
        }
    }

    fn emit(&mut self, id: SetId) -> Option<Update> {
        let kind = self.def.kind();
        if !self.emitted {
            self.emitted = true;
            let mut members: Vec<_> = self.members.keys().copied().collect();
            members.sort_unstable();
            return Some(Update::SetAdded { id, kind, members });
        }
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for (member, was_there) in std::mem::take(&mut self.touched) {
            match (was_there, self.members.contains_key(&member)) {
                (false, true) => added.push(member),
                (true, false) => removed.push(member),
                (true, true) | (false, false) => {}
            }
        }
        let any = !added.is_empty() || !removed.is_empty();
        any.then_some(Update::SetChanged {
            id,
            kind,
            added,
            removed,
        })
    }
}
