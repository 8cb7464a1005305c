//! Open-addressing index from a hash to a dense `u32` id.
//!
//! A slot is 32 bits of hash and the id in one `u64`: a look-up costs one cache miss here and one
//! in the caller's key array, and growing never touches the keys. Linear probing; removal shifts
//! the run back, so there are no tombstones.

/// No entry.
pub(crate) const NONE: u32 = u32::MAX;

const EMPTY: u64 = u64::MAX;
const MIN_SLOTS: usize = 16;

/// The index. Keys live with the caller, who compares them in `find`.
#[derive(Debug)]
pub(crate) struct Index {
    slots: Vec<u64>,
    len: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            slots: vec![EMPTY; MIN_SLOTS],
            len: 0,
        }
    }
}

impl Index {
    /// Entries held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>()
    }

    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    /// Loads the slots that searches for `hashes` read first. Loads in a row overlap in the memory
    /// system, those of searches one after the other do not.
    pub(crate) fn touch(&self, hashes: impl Iterator<Item = u32>) {
        let mask = self.mask();
        let sum = hashes.fold(0u64, |sum, hash| {
            sum.wrapping_add(self.slots[hash as usize & mask])
        });
        std::hint::black_box(sum);
    }

    /// The id stored under `hash` for which `is_key` holds.
    pub(crate) fn find(&self, hash: u32, mut is_key: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.mask();
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return None;
            }
            if (slot >> 32) as u32 == hash && is_key(slot as u32) {
                return Some(slot as u32);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds `id`, which must not be [`NONE`] and not be in the index yet.
    pub(crate) fn insert(&mut self, hash: u32, id: u32) {
        // At most 7/8 full: runs stay short and every probe ends at a hole.
        if (self.len + 1) * 8 > self.slots.len() * 7 {
            self.grow();
        }
        self.place(u64::from(hash) << 32 | u64::from(id));
        self.len += 1;
    }

    /// Removes the entry `id` stored under `hash`, if there.
    pub(crate) fn remove(&mut self, hash: u32, id: u32) {
        let entry = u64::from(hash) << 32 | u64::from(id);
        let mask = self.mask();
        let mut at = hash as usize & mask;
        while self.slots[at] != entry {
            if self.slots[at] == EMPTY {
                return;
            }
            at = (at + 1) & mask;
        }
        self.len -= 1;
        let mut hole = at;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot == EMPTY {
                break;
            }
            let home = (slot >> 32) as usize & mask;
            // Move back only what may live at the hole: its home is not between hole and itself.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = EMPTY;
    }

    fn place(&mut self, entry: u64) {
        let mask = self.mask();
        let mut at = (entry >> 32) as usize & mask;
        while self.slots[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = entry;
    }

    fn grow(&mut self) {
        let doubled = vec![EMPTY; self.slots.len() * 2];
        for entry in std::mem::replace(&mut self.slots, doubled) {
            if entry != EMPTY {
                self.place(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few hash values, so that long runs and wrap-around are the rule.
        #[test]
        fn agrees_with_a_map(ops in proptest::collection::vec((0u32..200, any::<bool>()), 0..600)) {
            let hash = |id: u32| (id % 7).wrapping_mul(0x5555_5555);
            let (mut index, mut model) = (Index::default(), BTreeMap::new());
            for (id, add) in ops {
                match (add, model.contains_key(&id)) {
                    (true, false) => { index.insert(hash(id), id); model.insert(id, ()); }
                    (false, _) => { index.remove(hash(id), id); model.remove(&id); }
                    _ => {}
                }
                prop_assert_eq!(index.len(), model.len());
            }
            for id in 0..200 {
                let found = index.find(hash(id), |other| other == id);
                prop_assert_eq!(found.is_some(), model.contains_key(&id));
            }
        }
    }
}
