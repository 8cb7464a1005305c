//! Networks that may lie inside of one another, for sets that cannot hold such.
//!
//! ipsets and policies know 10.0.0.0/8 beside 10.1.2.3; intervals of nf_tables must not overlap. In the
//! kernel are only those that lie in no other, and what a removal uncovers comes in its place.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use crate::ipset::{Entry, IfName};

/// What has to be equal for one entry to lie in another.
type Rest = (u8, u16, Option<IfName>);

/// Rest, first address, prefix length. One that contains others sorts before them.
type Key = (Rest, u128, u8);

/// What a change means for the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) add: Vec<Entry>,
    pub(super) remove: Vec<Entry>,
}

/// All that is wanted, of one family.
#[derive(Debug, Default)]
pub(super) struct Cover {
    entries: BTreeMap<Key, Entry>,
    /// How many there are of each prefix length.
    lengths: BTreeMap<u8, usize>,
}

impl Cover {
    pub(super) fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut cover = Self::default();
        for entry in entries {
            cover.put(entry);
        }
        cover
    }

    fn put(&mut self, entry: Entry) -> bool {
        let key = key(&entry);
        let new = self.entries.insert(key, entry).is_none();
        if new {
            *self.lengths.entry(key.2).or_default() += 1;
        }
        new
    }

    /// Those that lie in no other.
    pub(super) fn outermost(&self) -> Vec<Entry> {
        outermost(self.entries.iter())
    }

    pub(super) fn insert(&mut self, entry: Entry) -> Delta {
        let mut delta = Delta::default();
        if self.put(entry) && !self.covers(&entry) {
            delta.remove = self.inside(&entry);
            delta.add.push(entry);
        }
        delta
    }

    pub(super) fn remove(&mut self, entry: &Entry) -> Delta {
        let mut delta = Delta::default();
        let key = key(entry);
        if self.entries.remove(&key).is_none() {
            return delta;
        }
        if let Some(count) = self.lengths.get_mut(&key.2) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&key.2);
            }
        }
        if !self.covers(entry) {
            delta.add = self.inside(entry);
            delta.remove.push(*entry);
        }
        delta
    }

    /// Whether it lies in another one, and not just in itself.
    pub(super) fn covers(&self, entry: &Entry) -> bool {
        let (rest, first, length) = key(entry);
        let width = width(entry);
        let shorter = self.lengths.range(..length);
        let mut around = shorter.map(|(shorter, _)| {
            let first = first & mask(width, *shorter);
            (rest, first, *shorter)
        });
        around.any(|key| self.entries.contains_key(&key))
    }

    /// The outermost of those that lie in it.
    pub(super) fn inside(&self, entry: &Entry) -> Vec<Entry> {
        let (rest, first, length) = key(entry);
        if self.lengths.range(length + 1..).next().is_none() {
            return Vec::new();
        }
        let last = first | !mask(width(entry), length);
        let from = (rest, first, length);
        let inner = self.entries.range(from..=(rest, last, u8::MAX));
        outermost(inner.filter(|(key, _)| **key != from))
    }
}

fn outermost<'a>(sorted: impl Iterator<Item = (&'a Key, &'a Entry)>) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    let mut until: Option<(Rest, u128)> = None;
    for ((rest, first, length), entry) in sorted {
        let covered = until.is_some_and(|(of, last)| of == *rest && *first <= last);
        if !covered {
            until = Some((*rest, first | !mask(width(entry), *length)));
            found.push(*entry);
        }
    }
    found
}

fn key(entry: &Entry) -> Key {
    let rest = match *entry {
        Entry::Net(_) => (0, 0, None),
        Entry::NetIface(_, ifname) => (0, 0, Some(ifname)),
        Entry::NetPort(_, protocol, port) => (protocol, port, None),
    };
    let net = entry.net();
    (rest, first(&net), net.prefix())
}

/// IPv4 in the low bits.
fn first(net: &IpNetwork) -> u128 {
    match net {
        IpNetwork::V4(v4) => u128::from(u32::from(v4.network())),
        IpNetwork::V6(v6) => u128::from(v6.network()),
    }
}

fn width(entry: &Entry) -> u8 {
    if entry.net().is_ipv4() { 32 } else { 128 }
}

/// The bits of a prefix; those above an IPv4 address count as part of it.
fn mask(width: u8, length: u8) -> u128 {
    u128::MAX
        .checked_shl(u32::from(width - length))
        .unwrap_or(0)
}

/// For the tests of others: whether two entries overlap.
#[cfg(test)]
fn overlap(a: &Entry, b: &Entry) -> bool {
    let (shorter, longer) = match a.net().prefix() <= b.net().prefix() {
        true => (a, b),
        false => (b, a),
    };
    let (ours, theirs) = (key(shorter), key(longer));
    ours.0 == theirs.0 && theirs.1 & mask(width(longer), ours.2) == ours.1
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let net = (0..16u32, 26..=32u8).prop_map(|(bits, length)| {
            let net = IpNetwork::new(std::net::Ipv4Addr::from(bits << 2).into(), length).unwrap();
            IpNetwork::new(net.network(), length).unwrap()
        });
        (net, 0..2u16).prop_map(|(net, port)| Entry::NetPort(net, 6, port))
    }

    proptest! {
        #[test]
        fn what_is_in_the_kernel_never_overlaps_and_covers_what_is_wanted(
            steps in proptest::collection::vec((entry(), any::<bool>()), 1..60)
        ) {
            let (mut cover, mut kernel) = (Cover::default(), HashSet::new());
            let mut wanted = BTreeSet::new();
            for (entry, add) in steps {
                let delta = if add { wanted.insert(entry); cover.insert(entry) }
                    else { wanted.remove(&entry); cover.remove(&entry) };
                for gone in &delta.remove { prop_assert!(kernel.remove(gone)); }
                for new in delta.add { prop_assert!(kernel.insert(new)); }
                for a in &kernel {
                    prop_assert!(wanted.contains(a));
                    prop_assert!(kernel.iter().all(|b| a == b || !overlap(a, b)));
                }
                let held = |w: &Entry| kernel.iter().any(|k| overlap(k, w) && k.net().prefix() <= w.net().prefix());
                prop_assert!(wanted.iter().all(held));
                let fresh: HashSet<Entry> = Cover::new(wanted.iter().copied()).outermost().into_iter().collect();
                prop_assert_eq!(&fresh, &kernel);
            }
        }
    }
}
