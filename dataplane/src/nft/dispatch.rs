//! The verdict maps of one family: from (interface, address) to the chain of the group.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    cover::Cover,
    element::{self, Kind, Raw, Shape},
    names,
};
use crate::{
    filter::{Family, names::Way, program::ChainId},
    ipset::Entry,
    iptables::Table,
};

/// One map: a way, with addresses or with prefixes.
pub(super) type Place = (Way, bool);

/// Every map of a family.
pub(super) const PLACES: [Place; 4] = [
    (Way::Ingress, false),
    (Way::Ingress, true),
    (Way::Egress, false),
    (Way::Egress, true),
];

/// What the maps should hold and do hold.
#[derive(Debug)]
pub(super) struct Dispatch {
    family: Family,
    /// The groups that an entry was put into, the last of which counts.
    desired: HashMap<Entry, Vec<String>>,
    /// Members of each group, to take them all out.
    members: BTreeMap<String, HashSet<Entry>>,
    /// The chain that each entry leads to in the kernel.
    kernel: BTreeMap<Place, HashMap<Entry, String>>,
    exists: BTreeSet<Place>,
    damaged: BTreeSet<Place>,
    dirty: BTreeSet<Entry>,
    /// Once wanted and then not: known to be superfluous.
    released: HashSet<Entry>,
}

/// What is to be done to a map.
#[derive(Debug, Default)]
pub(super) struct MapChanges {
    pub(super) flush: bool,
    pub(super) remove: Vec<Entry>,
    pub(super) add: Vec<(Entry, String)>,
}

impl MapChanges {
    pub(super) fn is_empty(&self) -> bool {
        !self.flush && self.remove.is_empty() && self.add.is_empty()
    }
}

fn is_prefix(entry: &Entry) -> bool {
    let net = entry.net();
    net.prefix() != if net.is_ipv4() { 32 } else { 128 }
}

impl Dispatch {
    pub(super) fn new(family: Family) -> Self {
        Self {
            family,
            desired: HashMap::new(),
            members: BTreeMap::new(),
            kernel: PLACES.map(|place| (place, HashMap::new())).into(),
            exists: BTreeSet::new(),
            damaged: BTreeSet::new(),
            dirty: BTreeSet::new(),
            released: HashSet::new(),
        }
    }

    pub(super) fn name(&self, (way, prefixes): Place) -> String {
        names::map(self.family, way, prefixes)
    }

    pub(super) fn kind(&self, (_, prefixes): Place) -> Kind {
        Kind {
            shape: match prefixes {
                true => Shape::WorkloadNets,
                false => Shape::Workloads,
            },
            family: self.family,
            map: true,
        }
    }

    fn mark(&mut self, entry: Entry) {
        // What lies in what may change with it.
        if is_prefix(&entry) {
            let prefixes = self.desired.keys().filter(|entry| is_prefix(entry));
            self.dirty.extend(prefixes.copied());
        }
        self.dirty.insert(entry);
    }

    pub(super) fn insert(&mut self, group: &str, entry: Entry) {
        let members = self.members.entry(group.to_owned()).or_default();
        if members.insert(entry) {
            self.desired
                .entry(entry)
                .or_default()
                .push(group.to_owned());
            self.released.remove(&entry);
            self.mark(entry);
        }
    }

    pub(super) fn remove(&mut self, group: &str, entry: &Entry) {
        let members = self.members.get_mut(group);
        if !members.is_some_and(|members| members.remove(entry)) {
            return;
        }
        if let Some(groups) = self.desired.get_mut(entry) {
            groups.retain(|other| other != group);
            if groups.is_empty() {
                self.desired.remove(entry);
                self.released.insert(*entry);
            }
        }
        self.mark(*entry);
    }

    pub(super) fn replace(&mut self, group: &str, entries: &[Entry]) {
        let before = self.members.get(group).cloned().unwrap_or_default();
        for entry in entries {
            self.insert(group, *entry);
        }
        for gone in before.iter().filter(|entry| !entries.contains(entry)) {
            self.remove(group, gone);
        }
    }

    pub(super) fn drop_group(&mut self, group: &str) {
        self.replace(group, &[]);
        self.members.remove(group);
    }

    /// Whether every one of these leads to the group, both ways.
    pub(super) fn holds(&self, group: &str, entries: &[Entry]) -> bool {
        let leads = |entry: &Entry| {
            let prefixes = is_prefix(entry);
            Way::BOTH.into_iter().all(|way| {
                let found = self.kernel[&(way, prefixes)].get(entry);
                found == Some(&self.chain(way, group))
            })
        };
        entries
            .iter()
            .all(|entry| leads(entry) || self.is_covered(entry))
    }

    fn is_covered(&self, entry: &Entry) -> bool {
        let prefixes = self.desired.keys().filter(|entry| is_prefix(entry));
        is_prefix(entry) && Cover::new(prefixes.copied()).covers(entry)
    }

    fn chain(&self, way: Way, group: &str) -> String {
        let id = ChainId::Group(way, group.to_owned());
        names::chain(self.family, Table::Filter, &id)
    }

    pub(super) fn in_sync(&self) -> bool {
        self.dirty.is_empty() && self.damaged.is_empty() && self.exists.len() == PLACES.len()
    }

    pub(super) fn exists(&self, place: Place) -> bool {
        self.exists.contains(&place)
    }

    /// Takes over what was read; tells how many entries differ from what was believed.
    pub(super) fn adopt(&mut self, place: Place, found: Option<&[Raw]>) -> usize {
        match found {
            Some(_) => self.exists.insert(place),
            None => self.exists.remove(&place),
        };
        let read = element::read(self.kind(place), found.unwrap_or_default());
        // Every element of ours leads somewhere.
        let read: Option<HashMap<Entry, String>> = read.and_then(|entries| {
            let entries = entries.into_iter();
            entries
                .map(|(entry, chain)| Some((entry, chain?)))
                .collect()
        });
        match &read {
            Some(_) => self.damaged.remove(&place),
            None => self.damaged.insert(place),
        };
        let damaged = read.is_none();
        let read = read.unwrap_or_default();
        let before = self.kernel.insert(place, read).unwrap_or_default();
        let now = &self.kernel[&place];
        let gone = before.iter().filter(|(e, chain)| now.get(e) != Some(chain));
        let new = now.keys().filter(|entry| !before.contains_key(entry));
        let differing = gone.count() + new.count() + usize::from(damaged);
        self.dirty.extend(now.keys().copied());
        self.dirty.extend(before.into_keys());
        self.dirty.extend(self.desired.keys().copied());
        differing
    }

    /// What to do to a map, before or after everything is known.
    pub(super) fn changes(&self, place: Place, may_delete: bool) -> MapChanges {
        let (way, prefixes) = place;
        let mut changes = MapChanges {
            flush: self.damaged.contains(&place),
            ..MapChanges::default()
        };
        let kernel = &self.kernel[&place];
        let of_place = self
            .dirty
            .iter()
            .filter(|entry| is_prefix(entry) == prefixes);
        let cover = prefixes.then(|| {
            let all = self.desired.keys().filter(|entry| is_prefix(entry));
            Cover::new(all.copied())
        });
        for entry in of_place {
            let group = self.desired.get(entry).and_then(|groups| groups.last());
            let group = group.filter(|_| !cover.as_ref().is_some_and(|c| c.covers(entry)));
            let wanted = group.map(|group| self.chain(way, group));
            let found = kernel.get(entry);
            if wanted.as_ref() == found {
                continue;
            }
            let superfluous = wanted.is_some() || may_delete || self.released.contains(entry);
            if found.is_some() && superfluous {
                changes.remove.push(*entry);
            }
            changes.add.extend(wanted.map(|chain| (*entry, chain)));
        }
        changes
    }

    /// The kernel took the changes.
    pub(super) fn done(&mut self, place: Place, changes: MapChanges) {
        self.exists.insert(place);
        self.damaged.remove(&place);
        if let Some(kernel) = self.kernel.get_mut(&place) {
            for entry in &changes.remove {
                kernel.remove(entry);
            }
            kernel.extend(changes.add);
        }
    }

    pub(super) fn made(&mut self, place: Place) {
        self.exists.insert(place);
    }

    /// Whatever is still to do was done for every map.
    pub(super) fn settle(&mut self, may_delete: bool) {
        let (desired, kernel) = (&self.desired, &self.kernel);
        self.released
            .retain(|entry| kernel.values().any(|map| map.contains_key(entry)));
        // What is only found waits until it may go.
        self.dirty.retain(|entry| {
            let found = kernel.values().any(|map| map.contains_key(entry));
            !may_delete && found && !desired.contains_key(entry)
        });
    }
}
