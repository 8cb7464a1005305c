//! What a group has announced, and to whom of its members not.

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::table::Source;

/// Number and source of the paths of a prefix.
type Paths = SmallVec<[(u8, Source); 3]>;

/// The routes that a group has announced; all members but a route's source have it.
#[derive(Debug)]
pub(super) enum Held {
    /// One route a prefix, by prefix: 0 if not announced, else 1 + the source.
    One(Vec<u16>),
    /// Several a prefix (RFC 7911).
    Several(HashMap<u32, Paths, foldhash::fast::RandomState>),
}

/// What a member that leaves a group was not told the last of.
#[derive(Debug, Default)]
pub(super) struct Missed {
    /// Prefixes to look at again.
    pub(super) ids: Vec<u32>,
    /// Where a prefix has several: which may have been told or not.
    pub(super) paths: Vec<(u32, u8)>,
}

impl Held {
    /// Nothing yet; `several` tells whether a prefix may have several routes.
    pub(super) fn new(several: bool) -> Self {
        if several {
            Self::Several(HashMap::default())
        } else {
            Self::One(Vec::new())
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::One(held) => held.is_empty(),
            Self::Several(held) => held.is_empty(),
        }
    }

    /// The source of what was announced as a path of a prefix.
    pub(super) fn get(&self, id: u32, number: u8) -> Option<Source> {
        match self {
            Self::One(held) => held.get(id as usize).copied().unwrap_or(0).checked_sub(1),
            Self::Several(held) => {
                let path = held.get(&id)?.iter().find(|(n, _)| *n == number)?;
                Some(path.1)
            }
        }
    }

    pub(super) fn set(&mut self, id: u32, number: u8, source: Option<Source>) {
        match self {
            Self::One(held) => {
                let at = id as usize;
                if at >= held.len() {
                    if source.is_none() {
                        return;
                    }
                    held.resize((at + 1).next_power_of_two(), 0);
                }
                held[at] = source.map_or(0, |source| source + 1);
            }
            Self::Several(held) => {
                let paths = held.entry(id).or_default();
                paths.retain(|(n, _)| *n != number);
                paths.extend(source.map(|source| (number, source)));
                if paths.is_empty() {
                    held.remove(&id);
                }
            }
        }
    }

    /// Whether anything of a prefix is announced.
    pub(super) fn contains(&self, id: u32) -> bool {
        match self {
            Self::One(_) => self.get(id, 0).is_some(),
            Self::Several(held) => held.contains_key(&id),
        }
    }

    /// The paths of a prefix that are announced.
    pub(super) fn numbers(&self, id: u32) -> SmallVec<[u8; 8]> {
        match self {
            Self::One(_) => self.get(id, 0).iter().map(|_| 0).collect(),
            Self::Several(held) => {
                let paths = held.get(&id).into_iter().flatten();
                paths.map(|(number, _)| *number).collect()
            }
        }
    }

    /// How many routes `source` was told.
    pub(super) fn told_count(&self, source: Source) -> usize {
        match self {
            Self::One(held) => {
                let told = |held: &&u16| **held != 0 && **held != source + 1;
                held.iter().filter(told).count()
            }
            Self::Several(held) => {
                let paths = held.values().flatten();
                paths.filter(|(_, from)| *from != source).count()
            }
        }
    }

    /// What `source` alone was told; what it `missed` is uncertain and counts as told.
    pub(super) fn told_to(&self, source: Source, missed: &Missed) -> Self {
        /// Nobody's id among the readers of the group to come.
        const TOLD: Source = super::table::LOCAL;
        match self {
            Self::One(held) => {
                let told = |&held: &u16| u16::from(held != 0 && held != source + 1);
                let mut held: Vec<u16> = held.iter().map(told).collect();
                for &id in &missed.ids {
                    if let Some(held) = held.get_mut(id as usize) {
                        *held = TOLD + 1;
                    }
                }
                Self::One(held)
            }
            Self::Several(held) => {
                let told = |(id, paths): (&u32, &Paths)| {
                    let others = paths.iter().filter(|(_, from)| *from != source);
                    let paths: Paths = others.map(|(number, _)| (*number, TOLD)).collect();
                    (!paths.is_empty()).then_some((*id, paths))
                };
                let mut copy = Self::Several(held.iter().filter_map(told).collect());
                for &(id, number) in &missed.paths {
                    copy.set(id, number, Some(TOLD));
                }
                copy
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_paths_are_held_apart_and_a_member_was_told_all_but_its_own() {
        let mut held = Held::new(true);
        held.set(7, 0, Some(1));
        held.set(7, 1, Some(2));
        held.set(8, 0, Some(2));
        held.set(9, 0, Some(1));
        held.set(9, 0, None);
        assert_eq!((held.get(7, 1), held.get(7, 2)), (Some(2), None));
        assert!(held.contains(8) && !held.contains(9));
        assert_eq!((held.told_count(2), held.told_count(3)), (1, 3));
        let missed = Missed {
            ids: vec![8, 9],
            paths: vec![(9, 4)],
        };
        let told = held.told_to(2, &missed);
        assert_eq!(told.numbers(7).as_slice(), [0]);
        assert!(!told.contains(8));
        assert_eq!(told.numbers(9).as_slice(), [4]);
    }

    #[test]
    fn one_route_a_prefix_needs_no_numbers() {
        let mut held = Held::new(false);
        assert!(held.is_empty());
        held.set(3, 0, Some(1));
        assert_eq!(held.numbers(3).as_slice(), [0]);
        assert!(held.numbers(4).is_empty());
        let missed = Missed {
            ids: vec![2],
            paths: vec![],
        };
        let told = held.told_to(1, &missed);
        assert_eq!((told.get(2, 0), told.get(3, 0)), (Some(0), None));
    }
}
