//! One family's prefixes and their paths: Adj-RIB-In of every peer and the selection, in one slab.
//!
//! A prefix has a dense id. Its destination holds one path inline; more spill into a list of
//! their own, kept for reuse when the destination shrinks.

use std::ops::Range;

use super::index::{Index, NONE};
use crate::prefix::{Family, Ipv4Prefix, Ipv6Prefix, Prefix};

/// The session that paths come from; 0 stands for this speaker itself.
pub(crate) type Source = u16;
/// The [`Source`] of locally originated routes.
pub(crate) const LOCAL: Source = 0;

/// One path: what a peer sent (`pre`) and what import made of it (`post`). 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) source: Source,
    /// Its number among the paths of its destination, for peers that are told several
    /// (RFC 7911): [`Table::put`] gives the lowest that is free, and it stays while the path does.
    pub(crate) number: u8,
    pub(crate) age: Age,
    /// The identifier that `source` gave the path, 0 on sessions without (RFC 7911).
    pub(crate) path_id: u32,
    /// Attribute set as received.
    pub(crate) pre: u32,
    /// Attribute set after import, [`NONE`] when not eligible.
    pub(crate) post: u32,
}

/// When its source said a path. A peer that is lost, or says all of its paths again, begins a new age, and
/// paths of those before are stale: a whole table is marked by one number.
///
/// Ages go round. Which of two comes first is known of those that are less than half a round apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Age(u8);

/// Ages in a round.
const ROUND: u8 = u8::MAX;

impl Age {
    pub(crate) const FIRST: Self = Self(0);
    /// Of a path that is kept beyond the restart time; `post` says so (RFC 9494, section 4.2). Before any
    /// other.
    pub(crate) const LONG_STALE: Self = Self(ROUND);
    /// Ages that may pass before nothing is left of the first.
    pub(crate) const MOST: u8 = ROUND / 2;

    pub(crate) const fn next(self) -> Self {
        Self((self.0 + 1) % ROUND)
    }

    /// How many ages after this one `later` is.
    pub(crate) const fn until(self, later: Self) -> u8 {
        if later.0 >= self.0 {
            later.0 - self.0
        } else {
            ROUND - (self.0 - later.0)
        }
    }

    pub(crate) fn is_before(self, other: Self) -> bool {
        self == Self::LONG_STALE || (1..=Self::MOST).contains(&self.until(other))
    }
}

impl Path {
    /// A path as it arrives.
    pub(crate) const fn fresh(source: Source, path_id: u32, pre: u32, post: u32) -> Self {
        Self {
            source,
            number: 0,
            age: Age::FIRST,
            path_id,
            pre,
            post,
        }
    }

    /// What tells it from other paths of its destination.
    const fn key(&self) -> (Source, u32) {
        (self.source, self.path_id)
    }
}

/// Paths of a destination that can be told apart in what others are told. Of more, those that share
/// the last number count as one there.
const LAST_NUMBER: u8 = u8::MAX;

/// A destination. 32 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dest {
    /// The only path when `spill` is [`NONE`]; absent when its `pre` is [`NONE`].
    inline: Path,
    /// Index of the list that holds the paths when there are several.
    spill: u32,
    /// Attribute set of the selected path, [`NONE`] when there is none.
    pub(crate) best: u32,
    /// What the FIB was told: an id of a set of next hops, [`NONE`] for nothing.
    pub(crate) fib: u32,
    /// Where the selected path came from.
    pub(crate) best_source: Source,
    /// The id is not in use.
    vacant: bool,
}

const NO_PATH: Path = Path::fresh(LOCAL, 0, NONE, NONE);
const NEW: Dest = Dest {
    inline: NO_PATH,
    spill: NONE,
    best: NONE,
    fib: NONE,
    best_source: LOCAL,
    vacant: false,
};

#[derive(Debug)]
enum Keys {
    /// Address in the high 32 bits of the low 40, length in the low 8.
    V4(Vec<u64>),
    V6(Vec<(u128, u8)>),
}

/// A prefix as the table stores it.
pub(crate) trait Key: Copy {
    fn hash(self, seed: u64) -> u32;
    fn is_at(self, table: &Table, id: u32) -> bool;
    fn into_prefix(self) -> Prefix;
}

/// Multiply-fold: good mixing for short integer keys at the cost of one multiplication.
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide >> 64) as u64 ^ wide as u64
}

const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

fn pack(prefix: Ipv4Prefix) -> u64 {
    u64::from(prefix.bits()) << 8 | u64::from(prefix.len())
}

impl Key for Ipv4Prefix {
    fn hash(self, seed: u64) -> u32 {
        (fold(pack(self) ^ seed, MIX) >> 16) as u32
    }

    fn is_at(self, table: &Table, id: u32) -> bool {
        matches!(&table.keys, Keys::V4(keys) if keys[id as usize] == pack(self))
    }

    fn into_prefix(self) -> Prefix {
        Prefix::V4(self)
    }
}

impl Key for Ipv6Prefix {
    fn hash(self, seed: u64) -> u32 {
        let bits = self.bits();
        let low = fold(bits as u64 ^ seed, MIX ^ u64::from(self.len()));
        (fold((bits >> 64) as u64 ^ low, MIX) >> 16) as u32
    }

    fn is_at(self, table: &Table, id: u32) -> bool {
        matches!(&table.keys, Keys::V6(keys) if keys[id as usize] == (self.bits(), self.len()))
    }

    fn into_prefix(self) -> Prefix {
        Prefix::V6(self)
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Table {
    seed: u64,
    index: Index,
    keys: Keys,
    dests: Vec<Dest>,
    free: Vec<u32>,
    spills: Vec<Vec<Path>>,
    free_spills: Vec<u32>,
}

impl Table {
    pub(crate) fn new(family: Family, seed: u64) -> Self {
        let keys = match family {
            Family::Ipv4Unicast => Keys::V4(Vec::new()),
            Family::Ipv6Unicast => Keys::V6(Vec::new()),
        };
        Self {
            seed,
            index: Index::default(),
            keys,
            dests: Vec::new(),
            free: Vec::new(),
            spills: Vec::new(),
            free_spills: Vec::new(),
        }
    }

    /// Ids are below this.
    pub(crate) fn id_bound(&self) -> u32 {
        self.dests.len() as u32
    }

    /// Prefixes in use.
    pub(crate) fn len(&self) -> usize {
        self.dests.len() - self.free.len()
    }

    /// Whether an id is in use.
    pub(crate) fn is_used(&self, id: u32) -> bool {
        !self.dests[id as usize].vacant
    }

    /// Every id in use.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.id_bound()).filter(|&id| !self.dests[id as usize].vacant)
    }

    /// Those of them in a range.
    pub(crate) fn ids_in(&self, range: Range<u32>) -> impl Iterator<Item = u32> + '_ {
        let end = range.end.min(self.id_bound());
        (range.start..end).filter(|&id| !self.dests[id as usize].vacant)
    }

    /// The hash of a key.
    pub(crate) fn hash<K: Key>(&self, key: K) -> u32 {
        key.hash(self.seed)
    }

    /// Gets the slots of keys with these hashes into the cache.
    pub(crate) fn touch(&self, hashes: impl Iterator<Item = u32>) {
        self.index.touch(hashes);
    }

    pub(crate) fn find<K: Key>(&self, key: K) -> Option<u32> {
        self.find_hashed(key, key.hash(self.seed))
    }

    /// [`Table::find`] for a key whose hash is known.
    pub(crate) fn find_hashed<K: Key>(&self, key: K, hash: u32) -> Option<u32> {
        self.index.find(hash, |id| key.is_at(self, id))
    }

    pub(crate) fn find_prefix(&self, prefix: Prefix) -> Option<u32> {
        match (prefix, &self.keys) {
            (Prefix::V4(p), Keys::V4(_)) => self.find(p),
            (Prefix::V6(p), Keys::V6(_)) => self.find(p),
            _ => None,
        }
    }

    pub(crate) fn find_or_insert<K: Key>(&mut self, key: K) -> u32 {
        self.find_or_insert_hashed(key, key.hash(self.seed))
    }

    /// [`Table::find_or_insert`] for a key whose hash is known.
    pub(crate) fn find_or_insert_hashed<K: Key>(&mut self, key: K, hash: u32) -> u32 {
        if let Some(id) = self.index.find(hash, |id| key.is_at(self, id)) {
            return id;
        }
        let prefix = key.into_prefix();
        let id = match self.free.pop() {
            Some(id) => {
                match (&mut self.keys, prefix) {
                    (Keys::V4(keys), Prefix::V4(p)) => keys[id as usize] = pack(p),
                    (Keys::V6(keys), Prefix::V6(p)) => keys[id as usize] = (p.bits(), p.len()),
                    _ => {}
                }
                self.dests[id as usize] = NEW;
                id
            }
            None => {
                match (&mut self.keys, prefix) {
                    (Keys::V4(keys), Prefix::V4(p)) => keys.push(pack(p)),
                    (Keys::V6(keys), Prefix::V6(p)) => keys.push((p.bits(), p.len())),
                    _ => {}
                }
                self.dests.push(NEW);
                self.dests.len() as u32 - 1
            }
        };
        self.index.insert(hash, id);
        id
    }

    /// Gives back an id without paths.
    pub(crate) fn release(&mut self, id: u32) {
        let hash = match self.prefix(id) {
            Prefix::V4(p) => p.hash(self.seed),
            Prefix::V6(p) => p.hash(self.seed),
        };
        self.index.remove(hash, id);
        self.dests[id as usize].vacant = true;
        self.free.push(id);
    }

    pub(crate) fn prefix(&self, id: u32) -> Prefix {
        const MASKED: &str = "keys were made from prefixes";
        match &self.keys {
            Keys::V4(keys) => {
                let key = keys[id as usize];
                Ipv4Prefix::new((key >> 8) as u32, key as u8)
                    .expect(MASKED)
                    .into()
            }
            Keys::V6(keys) => {
                let (bits, len) = keys[id as usize];
                Ipv6Prefix::new(bits, len).expect(MASKED).into()
            }
        }
    }

    pub(crate) fn dest(&self, id: u32) -> &Dest {
        &self.dests[id as usize]
    }

    pub(crate) fn dest_mut(&mut self, id: u32) -> &mut Dest {
        &mut self.dests[id as usize]
    }

    pub(crate) fn paths(&self, id: u32) -> &[Path] {
        let dest = &self.dests[id as usize];
        if dest.spill != NONE {
            &self.spills[dest.spill as usize]
        } else if dest.inline.pre != NONE {
            std::slice::from_ref(&dest.inline)
        } else {
            &[]
        }
    }

    pub(crate) fn paths_mut(&mut self, id: u32) -> &mut [Path] {
        let dest = &mut self.dests[id as usize];
        if dest.spill != NONE {
            &mut self.spills[dest.spill as usize]
        } else if dest.inline.pre != NONE {
            std::slice::from_mut(&mut dest.inline)
        } else {
            &mut []
        }
    }

    /// Adds or replaces the path of a source with an identifier; returns what it replaced.
    pub(crate) fn put(&mut self, id: u32, mut path: Path) -> Option<Path> {
        if let Some(held) = self
            .paths_mut(id)
            .iter_mut()
            .find(|p| p.key() == path.key())
        {
            path.number = held.number;
            return Some(std::mem::replace(held, path));
        }
        path.number = free_number(self.paths(id));
        let dest = &mut self.dests[id as usize];
        if dest.spill != NONE {
            self.spills[dest.spill as usize].push(path);
        } else if dest.inline.pre == NONE {
            dest.inline = path;
        } else {
            let first = std::mem::replace(&mut dest.inline, NO_PATH);
            dest.spill = self.free_spills.pop().unwrap_or_else(|| {
                self.spills.push(Vec::new());
                self.spills.len() as u32 - 1
            });
            self.spills[dest.spill as usize].extend([first, path]);
        }
        None
    }

    /// Takes the path of `source` with an identifier out.
    pub(crate) fn take(&mut self, id: u32, source: Source, path_id: u32) -> Option<Path> {
        let dest = &mut self.dests[id as usize];
        let key = (source, path_id);
        if dest.spill == NONE {
            if dest.inline.pre == NONE || dest.inline.key() != key {
                return None;
            }
            return Some(std::mem::replace(&mut dest.inline, NO_PATH));
        }
        let list = &mut self.spills[dest.spill as usize];
        let at = list.iter().position(|p| p.key() == key)?;
        let taken = list.swap_remove(at);
        if let [last] = list[..] {
            list.clear();
            dest.inline = last;
            self.free_spills.push(dest.spill);
            dest.spill = NONE;
        }
        Some(taken)
    }

    /// Bytes of heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let keys = match &self.keys {
            Keys::V4(keys) => keys.capacity() * size_of::<u64>(),
            Keys::V6(keys) => keys.capacity() * size_of::<(u128, u8)>(),
        };
        let spilled: usize = self
            .spills
            .iter()
            .map(|s| s.capacity() * size_of::<Path>())
            .sum();
        let lists = self.spills.capacity() * size_of::<Vec<Path>>();
        let dests = self.dests.capacity() * size_of::<Dest>();
        self.index.heap_bytes() + keys + dests + spilled + lists
    }
}

/// The lowest number that none of `paths` has.
fn free_number(paths: &[Path]) -> u8 {
    let first = paths
        .iter()
        .filter(|p| p.number < 64)
        .fold(0u64, |used, p| used | 1 << p.number);
    match first.trailing_ones() as u8 {
        64 => (64..LAST_NUMBER)
            .find(|n| paths.iter().all(|p| p.number != *n))
            .unwrap_or(LAST_NUMBER),
        free => free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(source: Source) -> Path {
        Path::fresh(source, 0, u32::from(source), NONE)
    }

    #[test]
    fn a_destination_is_32_bytes() {
        assert_eq!((size_of::<Path>(), size_of::<Dest>()), (16, 32));
    }

    #[test]
    fn a_source_has_a_path_for_each_identifier_and_numbers_are_reused() {
        let mut table = Table::new(Family::Ipv4Unicast, 7);
        let id = table.find_or_insert("10.0.0.0/8".parse::<Ipv4Prefix>().unwrap());
        let of = |path_id| Path { path_id, ..path(1) };
        let numbers =
            |table: &Table| -> Vec<u8> { table.paths(id).iter().map(|p| p.number).collect() };
        for path_id in 0..3 {
            assert_eq!(table.put(id, of(path_id)), None);
        }
        assert_eq!(numbers(&table), [0, 1, 2]);
        let replaced = table.put(id, Path { pre: 9, ..of(1) }).unwrap();
        assert_eq!((replaced.path_id, replaced.pre, replaced.number), (1, 1, 1));
        assert_eq!(table.take(id, 1, 9), None);
        assert_eq!(table.take(id, 1, 1).unwrap().pre, 9);
        table.put(id, of(7));
        table.put(id, of(8));
        let mut all = numbers(&table);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
        for path_id in 100..500 {
            table.put(id, of(path_id));
        }
        let mut all = numbers(&table);
        all.sort_unstable();
        assert_eq!((all[254], all[255], all[403]), (254, 255, 255));
    }

    #[test]
    fn paths_spill_and_come_back_inline() {
        let mut table = Table::new(Family::Ipv4Unicast, 7);
        let key: Ipv4Prefix = "10.0.0.0/8".parse().unwrap();
        let id = table.find_or_insert(key);
        assert_eq!(table.paths(id), &[]);
        for source in 1..4 {
            assert_eq!(table.put(id, path(source)), None);
        }
        let sources =
            |table: &Table| -> Vec<Source> { table.paths(id).iter().map(|p| p.source).collect() };
        assert_eq!(sources(&table), [1, 2, 3]);
        let replaced = table.put(id, Path { pre: 9, ..path(2) });
        assert_eq!(replaced.map(|p| p.pre), Some(2));
        assert_eq!(table.take(id, 1, 0).map(|p| p.source), Some(1));
        assert_eq!(table.take(id, 1, 0), None);
        assert_eq!(table.take(id, 2, 0).map(|p| p.pre), Some(9));
        assert_eq!(sources(&table), [3]);
        assert_eq!(table.take(id, 3, 0).map(|p| p.source), Some(3));
        assert_eq!(table.free_spills, [0]);
        table.release(id);
        assert_eq!(table.find(key), None);
        assert_eq!(table.find_or_insert(key), id);
    }

    #[test]
    fn same_bits_with_other_length_is_another_prefix() {
        let mut table = Table::new(Family::Ipv6Unicast, 7);
        let ids: Vec<_> = ["::/0", "::/1", "2001:db8::/32", "2001:db8::/33"]
            .iter()
            .map(|p| table.find_or_insert(p.parse::<Ipv6Prefix>().unwrap()))
            .collect();
        assert_eq!(ids, [0, 1, 2, 3]);
        assert_eq!(table.prefix(3).to_string(), "2001:db8::/33");
    }
}
