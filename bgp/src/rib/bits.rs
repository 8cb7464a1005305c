//! A growing bitmap over dense ids.

/// One bit an id; reading past the end reads zero.
#[derive(Debug, Default, Clone)]
pub(crate) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Whether the bit of `id` is set.
    pub(crate) fn contains(&self, id: u32) -> bool {
        let word = self.words.get(id as usize / 64).copied().unwrap_or(0);
        word & (1 << (id % 64)) != 0
    }

    /// Sets the bit; `true` if it was clear.
    pub(crate) fn insert(&mut self, id: u32) -> bool {
        let at = id as usize / 64;
        if at >= self.words.len() {
            // Ids are dense, so the next power of two is soon used.
            self.words.resize((at + 1).next_power_of_two(), 0);
        }
        let mask = 1 << (id % 64);
        let was = self.words[at] & mask;
        self.words[at] |= mask;
        was == 0
    }

    /// Clears the bit; `true` if it was set.
    pub(crate) fn remove(&mut self, id: u32) -> bool {
        let Some(word) = self.words.get_mut(id as usize / 64) else {
            return false;
        };
        let mask = 1 << (id % 64);
        let was = *word & mask;
        *word &= !mask;
        was != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insert_and_remove_report_changes_only() {
        let mut bits = Bits::default();
        assert!(!bits.contains(700));
        assert!(!bits.remove(700));
        assert!(bits.insert(700));
        assert!(!bits.insert(700));
        assert!(bits.contains(700) && !bits.contains(701) && !bits.contains(699));
        assert!(bits.remove(700));
        assert!(!bits.contains(700));
    }
}
