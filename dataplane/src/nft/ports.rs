//! Sets of ports, in which rules that match several look theirs up.
//!
//! Rules that match the same ports share one set. It is called after them and never changes, so that it needs no more
//! bookkeeping than who refers to it. Were each a part of its rule (anonymous), the kernel would walk through all that a
//! transaction holds so far for each of them: ten thousand policies took it minutes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use super::{
    element::{KEY_IN_NETWORK_ORDER, TYPE_SERVICE, nested_key, write_end},
    read::FoundSet,
    render::Rule,
    wire::{BigEndian, LIST_ELEMENT, elements, set},
};
use crate::{filter::names::short_hash, netlink::Request};

/// What the names of these sets begin with, and of no other.
const PREFIX: &str = "ports/";
/// Longer lists of ports have a hash for a name.
const NAME_LEN: usize = 64;
const FLAGS: u32 = set::CONSTANT | set::INTERVAL;
const KEY_LEN: u32 = 2;

/// Ports that a rule asks for: in order, and apart from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    name: String,
    ranges: Vec<(u16, u16)>,
}

impl Ports {
    /// Of ranges that need not be in order nor apart.
    pub(super) fn new(ranges: &[RangeInclusive<u16>]) -> Self {
        let mut sorted: Vec<(u16, u16)> = ranges.iter().map(|r| (*r.start(), *r.end())).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in sorted {
            match merged.last_mut() {
                Some((_, until)) if first <= until.saturating_add(1) => *until = last.max(*until),
                _ => merged.push((first, last)),
            }
        }
        Self::of(merged)
    }

    fn of(ranges: Vec<(u16, u16)>) -> Self {
        let words = ranges.iter().map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        });
        let mut name = words.collect::<Vec<_>>().join("_");
        if name.len() > NAME_LEN {
            name = short_hash(&name);
        }
        Self {
            name: format!("{PREFIX}{name}"),
            ranges,
        }
    }

    /// What a set was found to hold; `None` when it is none of ours.
    fn read(found: &FoundSet) -> Option<Self> {
        let make = set::CONSTANT | set::INTERVAL | set::CONCAT | set::MAP;
        if found.flags & make != FLAGS || found.key_len != KEY_LEN {
            return None;
        }
        let mut ranges: BTreeMap<u16, Option<u16>> = BTreeMap::new();
        let mut ends = Vec::new();
        for raw in &found.members {
            let port = u16::from_be_bytes(raw.key().try_into().ok()?);
            match raw.is_end() {
                true => ends.push(port),
                false => _ = ranges.insert(port, None),
            }
        }
        for end in ends {
            // The first one that is not inside: what is before it in order.
            let (_, last) = ranges.range_mut(..end).next_back()?;
            if last.replace(end - 1).is_some() {
                return None;
            }
        }
        let ranges = ranges.into_iter();
        let ranges = ranges.map(|(first, last)| (first, last.unwrap_or(u16::MAX)));
        Some(Self::of(ranges.collect()))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The one range that these are.
    pub(super) fn single(&self) -> Option<(u16, u16)> {
        match self.ranges[..] {
            [range] => Some(range),
            _ => None,
        }
    }

    /// The attributes of the set behind its name and number.
    pub(super) fn describe(m: &mut Request<'_>) {
        m.be32(set::FLAGS, FLAGS);
        m.be32(set::KEY_TYPE, TYPE_SERVICE);
        m.be32(set::KEY_LEN, KEY_LEN);
        m.bytes(set::USERDATA, &KEY_IN_NETWORK_ORDER);
    }

    /// The elements.
    pub(super) fn write(&self, m: &mut Request<'_>) {
        for (first, last) in &self.ranges {
            m.nest(LIST_ELEMENT, &[], |e| {
                nested_key(e, elements::KEY, &first.to_be_bytes());
            });
            if let Some(end) = last.checked_add(1) {
                write_end(m, &end.to_be_bytes());
            }
        }
    }
}

/// Those that rules refer to, and those that the kernel has.
#[derive(Debug, Default)]
pub(super) struct PortSets {
    /// With the number of rules.
    wanted: BTreeMap<String, (Ports, usize)>,
    kernel: BTreeSet<String>,
    /// In one of the two and not in the other.
    dirty: BTreeSet<String>,
}

impl PortSets {
    /// These rules are to be in the kernel.
    pub(super) fn hold(&mut self, rules: &[Rule]) {
        for ports in rules.iter().flat_map(|rule| &rule.ports) {
            let wanted = self.wanted.entry(ports.name.clone());
            let (_, users) = wanted.or_insert_with(|| (ports.clone(), 0));
            *users += 1;
            self.compare(&ports.name);
        }
    }

    /// They are not any more.
    pub(super) fn release(&mut self, rules: &[Rule]) {
        for ports in rules.iter().flat_map(|rule| &rule.ports) {
            if let Some((_, users)) = self.wanted.get_mut(&ports.name) {
                *users -= 1;
                if *users == 0 {
                    self.wanted.remove(&ports.name);
                }
                self.compare(&ports.name);
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Ports> {
        self.wanted.get(name).map(|(ports, _)| ports)
    }

    /// Those that are to be made, and those that nobody refers to any more.
    pub(super) fn dirty(&self) -> impl Iterator<Item = (&String, bool)> {
        let wanted = |name| (name, self.wanted.contains_key(name));
        self.dirty.iter().map(wanted)
    }

    pub(super) fn is_dirty(&self, name: &str) -> bool {
        self.dirty.contains(name)
    }

    /// The kernel has this one now, or not any more.
    pub(super) fn note(&mut self, name: &str, made: bool) {
        if !name.starts_with(PREFIX) {
            return;
        }
        match made {
            true => self.kernel.insert(name.to_owned()),
            false => self.kernel.remove(name),
        };
        self.compare(name);
    }

    /// Takes over what was read. How many came or went since, and whether one holds what its name does not say: nothing
    /// can change a set that rules of ours refer to.
    pub(super) fn adopt(&mut self, found: &mut BTreeMap<String, FoundSet>) -> (usize, bool) {
        let mut damaged = false;
        let mut now = BTreeSet::new();
        found.retain(|name, set| {
            if !name.starts_with(PREFIX) {
                return true;
            }
            match Ports::read(set).is_some_and(|ports| ports.name == *name) {
                true => _ = now.insert(name.clone()),
                false => damaged = true,
            }
            false
        });
        let before = std::mem::replace(&mut self.kernel, now);
        let names = self.wanted.keys().chain(&self.kernel);
        let clean =
            |name: &&String| !(self.wanted.contains_key(*name) && self.kernel.contains(*name));
        self.dirty = names.filter(clean).cloned().collect();
        (before.symmetric_difference(&self.kernel).count(), damaged)
    }

    fn compare(&mut self, name: &str) {
        match self.wanted.contains_key(name) == self.kernel.contains(name) {
            true => self.dirty.remove(name),
            false => self.dirty.insert(name.to_owned()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_which_ports_and_the_same_ports_have_the_same() {
        let ports = Ports::new(&[8080..=8090, 443..=443, 80..=80, 8085..=9000]);
        assert_eq!(ports.name(), "ports/80_443_8080-9000");
        assert_eq!(ports, Ports::new(&[80..=80, 8080..=9000, 443..=443]));
        assert_eq!(Ports::new(&[80..=80, 81..=85]).single(), Some((80, 85)));
        let many = |step: u16| -> Vec<_> { (1..40).map(|n| n * step..=n * step).collect() };
        let (odd, even) = (Ports::new(&many(100)), Ports::new(&many(102)));
        assert_ne!(odd.name(), even.name());
        assert!(odd.name().len() < 64, "{}", odd.name());
    }

    #[test]
    fn a_set_is_made_for_the_first_rule_and_goes_with_the_last() {
        let rule = |ports: &[RangeInclusive<u16>]| Rule {
            ports: vec![Ports::new(ports)],
            ..Rule::default()
        };
        let (web, same) = (rule(&[80..=80, 443..=443]), rule(&[443..=443, 80..=80]));
        let mut sets = PortSets::default();
        sets.hold(std::slice::from_ref(&web));
        sets.hold(std::slice::from_ref(&same));
        let name = "ports/80_443".to_owned();
        assert_eq!(sets.dirty().collect::<Vec<_>>(), [(&name, true)]);
        sets.note(&name, true);
        assert_eq!(sets.dirty().count(), 0);
        sets.release(&[web]);
        assert_eq!(sets.dirty().count(), 0);
        sets.release(&[same]);
        assert_eq!(sets.dirty().collect::<Vec<_>>(), [(&name, false)]);
        sets.note(&name, false);
        assert_eq!(sets.dirty().count(), 0);
    }
}
