//! One set: what it should hold, what the kernel holds, and whether it is there at all.

use super::{
    cover::{Cover, Delta},
    element::{self, Kind, Raw, Shape},
};
use crate::ipset::{Entry, SetTracker};

/// A set without verdicts.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) kind: Kind,
    pub(super) wanted: bool,
    pub(super) exists: bool,
    /// The kernel's set holds what no entry can say: it is to be emptied first.
    pub(super) damaged: bool,
    cover: Cover,
    tracker: SetTracker,
}

/// What is to be done to a set.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) flush: bool,
    pub(super) remove: Vec<Entry>,
    pub(super) add: Vec<Entry>,
}

impl Changes {
    /// What comes before rules change, and what after: no rule is to miss a member. What would overlap with
    /// something that goes goes together with it: what grows before, what shrinks after.
    pub(super) fn around_rules(self) -> (Self, Self) {
        if self.flush || self.remove.is_empty() {
            return (self, Self::default());
        }
        let (gone, new) = (
            Cover::new(self.remove.iter().copied()),
            Cover::new(self.add.iter().copied()),
        );
        let (shrunk, add) = self.add.into_iter().partition(|entry| gone.covers(entry));
        let (grown, remove) = self.remove.into_iter().partition(|entry| new.covers(entry));
        let before = Self {
            flush: false,
            remove: grown,
            add,
        };
        let after = Self {
            flush: false,
            remove,
            add: shrunk,
        };
        (before, after)
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.flush && self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.remove.len() + self.add.len()
    }
}

impl Set {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            wanted: true,
            exists: false,
            damaged: false,
            cover: Cover::default(),
            tracker: SetTracker::default(),
        }
    }

    /// Of addresses alone, none of which lies in another.
    fn is_flat(&self) -> bool {
        matches!(self.kind.shape, Shape::Hosts | Shape::Workloads)
    }

    fn take(&mut self, delta: &Delta) {
        for entry in &delta.remove {
            self.tracker.remove(entry);
        }
        for entry in &delta.add {
            self.tracker.insert(*entry);
        }
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        if self.is_flat() {
            return self.tracker.insert(entry);
        }
        let delta = self.cover.insert(entry);
        self.take(&delta);
    }

    pub(super) fn remove(&mut self, entry: &Entry) {
        if self.is_flat() {
            return self.tracker.remove(entry);
        }
        let delta = self.cover.remove(entry);
        self.take(&delta);
    }

    pub(super) fn replace(&mut self, entries: Vec<Entry>) {
        if self.is_flat() {
            return self.tracker.replace(entries);
        }
        self.cover = Cover::new(entries);
        self.tracker.replace(self.cover.outermost());
    }

    pub(super) fn in_sync(&self) -> bool {
        self.wanted && self.exists && !self.damaged && self.tracker.in_sync()
    }

    /// Takes over what was read; tells how many entries differ from what was believed.
    pub(super) fn adopt(&mut self, found: Option<&[Raw]>) -> usize {
        self.exists = found.is_some();
        let entries = element::read(self.kind, found.unwrap_or_default());
        self.damaged = entries.is_none();
        let entries = entries.unwrap_or_default();
        let differing = self.tracker.adopt(entries.into_iter().map(|(e, _)| e));
        differing + usize::from(self.damaged)
    }

    /// What to do, before or after everything is known.
    pub(super) fn changes(&self, may_delete: bool) -> Changes {
        if self.damaged {
            return Changes {
                flush: self.exists,
                remove: Vec::new(),
                add: self.tracker.desired().collect(),
            };
        }
        let mut add = self.tracker.missing();
        let mut remove = self.tracker.surplus(may_delete);
        if !may_delete && !self.is_flat() {
            self.make_room(&mut add, &mut remove);
        }
        Changes {
            flush: false,
            remove,
            add,
        }
    }

    /// What an earlier agent left stays until everything is known, and must not overlap with what is
    /// new: what lies in it already can wait, what contains it takes its place.
    fn make_room(&self, add: &mut Vec<Entry>, remove: &mut Vec<Entry>) {
        let mut left = self.tracker.surplus(true);
        left.retain(|entry| !remove.contains(entry));
        if left.is_empty() {
            return;
        }
        let left = Cover::new(left);
        add.retain(|entry| !left.covers(entry));
        for entry in add.iter() {
            remove.extend(left.inside(entry));
        }
    }

    /// The kernel took the changes.
    pub(super) fn done(&mut self, changes: &Changes) {
        self.exists = true;
        self.damaged = false;
        self.tracker.done(&changes.remove, false);
        self.tracker.done(&changes.add, true);
    }

    /// Whether the kernel has all of these, in themselves or in others.
    pub(super) fn holds(&self, entries: &[Entry]) -> bool {
        let inside = |entry: &Entry| self.cover.covers(entry) && self.tracker.in_sync();
        self.exists
            && !self.damaged
            && entries
                .iter()
                .all(|entry| self.tracker.holds(std::slice::from_ref(entry)) || inside(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_before_rules_and_go_after_them_unless_they_overlap() {
        let entries = |nets: &[&str]| -> Vec<Entry> {
            nets.iter()
                .map(|net| Entry::Net(net.parse().unwrap()))
                .collect()
        };
        let changes = Changes {
            flush: false,
            remove: entries(&["10.0.0.0/8", "11.1.0.0/16", "12.0.0.0/8"]),
            add: entries(&["10.1.0.0/16", "11.0.0.0/8", "13.0.0.0/8"]),
        };
        let (before, after) = changes.around_rules();
        assert_eq!(before.add, entries(&["11.0.0.0/8", "13.0.0.0/8"]));
        assert_eq!(before.remove, entries(&["11.1.0.0/16"]));
        assert_eq!(after.add, entries(&["10.1.0.0/16"]));
        assert_eq!(after.remove, entries(&["10.0.0.0/8", "12.0.0.0/8"]));
    }
}
