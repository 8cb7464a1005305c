//! What a set should hold, what the kernel is believed to hold, and the difference.

use foldhash::{HashMap, HashSet};

use super::Entry;

/// Room for differences that is kept while there are none. A set that is filled at once needs as much as it has members,
/// and later for a few.
const ROOM: usize = 64;

/// Where a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    desired: bool,
    kernel: bool,
    /// Once wanted and then not: known to be superfluous, unlike an entry that was only found.
    released: bool,
}

/// Tracks one set. A change costs O(1); asking for the difference costs O(changes).
#[derive(Clone, Debug, Default)]
pub struct SetTracker {
    places: HashMap<Entry, Place>,
    /// Entries whose two sides differ.
    changed: HashSet<Entry>,
    desired: usize,
}

impl SetTracker {
    /// Wants `entry` in the set.
    pub fn insert(&mut self, entry: Entry) {
        let place = self.places.entry(entry).or_default();
        if !place.desired {
            place.desired = true;
            place.released = false;
            self.desired += 1;
            match place.kernel {
                true => self.changed.remove(&entry),
                false => self.changed.insert(entry),
            };
        }
    }

    /// What is wanted, and what the kernel has.
    pub(crate) fn all(&self) -> impl Iterator<Item = Entry> + '_ {
        self.places.keys().copied()
    }

    /// Wants `entry` out of the set.
    pub fn remove(&mut self, entry: &Entry) {
        if let Some(place) = self.places.get_mut(entry)
            && place.desired
        {
            place.desired = false;
            place.released = true;
            self.desired -= 1;
            match place.kernel {
                true => self.changed.insert(*entry),
                false => {
                    self.places.remove(entry);
                    self.changed.remove(entry)
                }
            };
        }
    }

    /// Treats an entry that the kernel has and nobody wants here like one that was removed. True if
    /// there is one.
    pub fn displace(&mut self, entry: &Entry) -> bool {
        let place = self
            .places
            .get_mut(entry)
            .filter(|place| place.kernel && !place.desired);
        place.is_some_and(|place| {
            place.released = true;
            true
        })
    }

    /// Wants exactly `entries`.
    pub fn replace(&mut self, entries: impl IntoIterator<Item = Entry>) {
        let wanted: HashSet<Entry> = entries.into_iter().collect();
        let gone: Vec<Entry> = self
            .desired()
            .filter(|entry| !wanted.contains(entry))
            .collect();
        for entry in &gone {
            self.remove(entry);
        }
        for entry in wanted {
            self.insert(entry);
        }
    }

    /// All wanted entries, in no order.
    pub fn desired(&self) -> impl Iterator<Item = Entry> + '_ {
        self.places
            .iter()
            .filter(|(_, place)| place.desired)
            .map(|(entry, _)| *entry)
    }

    /// How many entries are wanted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.desired
    }

    /// No entry is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.desired == 0
    }

    /// Takes over what the kernel was found to hold; returns how many entries differ from what it
    /// was believed to hold.
    pub fn adopt(&mut self, kernel: impl IntoIterator<Item = Entry>) -> usize {
        let mut before: HashSet<Entry> = HashSet::default();
        for (entry, place) in &mut self.places {
            if std::mem::take(&mut place.kernel) {
                before.insert(*entry);
            }
        }
        let mut differing = 0;
        for entry in kernel {
            let place = self.places.entry(entry).or_default();
            if !std::mem::replace(&mut place.kernel, true) && !before.remove(&entry) {
                differing += 1;
            }
        }
        self.places.retain(|_, place| place.desired || place.kernel);
        self.changed.clear();
        let differs = self
            .places
            .iter()
            .filter(|(_, place)| place.desired != place.kernel);
        self.changed.extend(differs.map(|(entry, _)| *entry));
        differing + before.len()
    }

    /// Entries that the kernel lacks.
    #[must_use]
    pub fn missing(&self) -> Vec<Entry> {
        self.differing(|place| place.desired && !place.kernel)
    }

    /// Entries that the kernel has too many; those that were only ever found there are counted
    /// when `found_too`.
    #[must_use]
    pub fn surplus(&self, found_too: bool) -> Vec<Entry> {
        self.differing(|place| !place.desired && place.kernel && (found_too || place.released))
    }

    /// Whether the kernel has all of these.
    #[must_use]
    pub fn holds(&self, entries: &[Entry]) -> bool {
        entries
            .iter()
            .all(|entry| self.places.get(entry).is_some_and(|place| place.kernel))
    }

    /// Nothing to do.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        self.changed.is_empty()
    }

    fn differing(&self, wanted: impl Fn(&Place) -> bool) -> Vec<Entry> {
        let hits = self
            .changed
            .iter()
            .filter(|e| self.places.get(e).is_some_and(&wanted));
        let mut entries: Vec<Entry> = hits.copied().collect();
        entries.sort_unstable();
        entries.dedup();
        entries
    }

    /// The kernel took the addition or deletion of these.
    pub fn done(&mut self, entries: &[Entry], now_in_kernel: bool) {
        for entry in entries {
            let Some(place) = self.places.get_mut(entry) else {
                continue;
            };
            place.kernel = now_in_kernel;
            if place.desired != place.kernel {
                self.changed.insert(*entry);
                continue;
            }
            self.changed.remove(entry);
            if !place.desired {
                self.places.remove(entry);
            }
        }
        if self.changed.is_empty() && self.changed.capacity() > ROOM {
            self.changed = HashSet::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn entry(n: u8) -> Entry {
        Entry::Net(std::net::IpAddr::from([10, 0, 0, n]).into())
    }

    #[test]
    fn what_was_found_and_comes_to_be_wanted_is_nothing_to_do() {
        let mut tracker = SetTracker::default();
        tracker.adopt([1, 2, 3].map(entry));
        assert!(!tracker.in_sync());
        for entry in [1, 2, 3].map(entry) {
            tracker.insert(entry);
        }
        assert!(tracker.in_sync());
        tracker.remove(&entry(1));
        tracker.insert(entry(4));
        tracker.remove(&entry(4));
        assert_eq!(tracker.surplus(false), [entry(1)]);
        assert_eq!((tracker.missing(), tracker.len()), (Vec::new(), 2));
    }

    #[test]
    fn what_is_told_to_be_done_and_what_is_left_add_up() {
        let mut tracker = SetTracker::default();
        let mut wanted = BTreeSet::new();
        let mut kernel = BTreeSet::new();
        let mut random = 7_u32;
        for _ in 0..5000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let one = entry((random >> 16) as u8 % 30);
            match random >> 29 {
                0..3 => {
                    wanted.insert(one);
                    tracker.insert(one);
                }
                3..6 => {
                    wanted.remove(&one);
                    tracker.remove(&one);
                }
                6 => {
                    let all: Vec<Entry> = kernel.iter().copied().collect();
                    tracker.adopt(all);
                }
                _ => {
                    let (missing, surplus) = (tracker.missing(), tracker.surplus(true));
                    kernel.extend(&missing);
                    kernel.retain(|entry| !surplus.contains(entry));
                    tracker.done(&surplus, false);
                    tracker.done(&missing, true);
                    assert_eq!(kernel, wanted);
                }
            }
            assert_eq!(tracker.in_sync(), kernel == wanted);
            assert_eq!(tracker.len(), wanted.len());
        }
    }
}
