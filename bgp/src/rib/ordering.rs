//! A long queue is put in order in portions: runs are sorted one by one, and then merged.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
};

/// The way of the first ids of a queue into order of attribute set. They stay where they are, in
/// whatever order, until all of it is known.
#[derive(Debug)]
pub(super) struct Ordering {
    /// How many.
    end: usize,
    /// Ids in a run, but for the last; likewise in a portion.
    run: usize,
    /// How many of them are in sorted runs.
    sorted: usize,
    /// The next of each run to be merged.
    heads: Vec<usize>,
    /// The first in order.
    merged: Vec<u32>,
}

/// Equal sets together, and in each the prefixes as they came.
fn key(id: u32, set_of: &impl Fn(u32) -> u32) -> u64 {
    u64::from(set_of(id)) << 32 | u64::from(id)
}

/// Puts ids in order at once.
pub(super) fn sort(ids: &mut [u32], set_of: &impl Fn(u32) -> u32) {
    let mut keys: Vec<u64> = ids.iter().map(|&id| key(id, set_of)).collect();
    keys.sort_unstable();
    for (id, key) in ids.iter_mut().zip(keys) {
        *id = key as u32;
    }
}

impl Ordering {
    /// Of the first `end` ids, so many a portion.
    pub(super) fn new(end: usize, portion: usize) -> Self {
        Self {
            end,
            run: portion.max(1),
            sorted: 0,
            heads: Vec::new(),
            merged: Vec::with_capacity(end),
        }
    }

    /// A portion of it; `true` once the first of `ids` are in order. A set may be another one than it
    /// was before: then its prefixes are not all together.
    pub(super) fn work(&mut self, ids: &mut [u32], set_of: impl Fn(u32) -> u32) -> bool {
        if self.sorted < self.end {
            let to = self.end.min(self.sorted + self.run);
            sort(&mut ids[self.sorted..to], &set_of);
            self.heads.push(self.sorted);
            self.sorted = to;
            return false;
        }
        self.merge(ids, set_of);
        let done = self.merged.len() == self.end;
        if done {
            ids[..self.end].copy_from_slice(&self.merged);
        }
        done
    }

    fn merge(&mut self, ids: &[u32], set_of: impl Fn(u32) -> u32) {
        let (run, end) = (self.run, self.end);
        let end_of = |n: usize| end.min((n + 1) * run);
        let heads = self.heads.iter().enumerate();
        let left = heads.filter(|&(n, &at)| at < end_of(n));
        let mut heap: BinaryHeap<_> = left
            .map(|(n, &at)| Reverse((key(ids[at], &set_of), n)))
            .collect();
        for _ in 0..run {
            let Some(mut first) = heap.peek_mut() else {
                return;
            };
            let Reverse((key, n)) = *first;
            self.merged.push(key as u32);
            self.heads[n] += 1;
            let next = self.heads[n];
            if next < end_of(n) {
                *first = Reverse((self::key(ids[next], &set_of), n));
            } else {
                PeekMut::pop(first);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_of_any_size_come_to_the_same_order() {
        let set_of = |id: u32| id % 7;
        for len in [0usize, 1, 9, 10, 11, 100, 101] {
            let before: Vec<u32> = (0..len as u32).map(|n| n * 37 % 101).collect();
            let mut at_once = before.clone();
            sort(&mut at_once, &set_of);
            for portion in [1, 3, 10, 1000] {
                let mut ids = before.clone();
                // What is behind them stays.
                ids.push(5000);
                let mut ordering = Ordering::new(len, portion);
                let mut portions = 0;
                while !ordering.work(&mut ids, set_of) {
                    portions += 1;
                    assert_eq!(ids.len(), len + 1);
                }
                assert!(portions <= 2 * len.div_ceil(portion), "{portions}");
                assert_eq!(ids.pop(), Some(5000));
                assert_eq!(ids, at_once, "{len} by {portion}");
            }
        }
    }

    #[test]
    fn sets_that_change_meanwhile_lose_no_prefix() {
        let mut ids: Vec<u32> = (0..100).collect();
        let mut ordering = Ordering::new(100, 8);
        let mut turn = 0;
        while !ordering.work(&mut ids, |id| (id * 31 + turn) % 11) {
            turn += 1;
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..100).collect::<Vec<u32>>());
    }
}
