//! What the state of the filter asks of a backend, for our table.

use std::{collections::BTreeMap, time::Instant};

use super::{
    adopt::is_of,
    dispatch::Dispatch,
    driver::{Desired, Nftables},
    element::Kind,
    names, render,
    set::Set,
    watch::Concern,
};
use crate::{
    filter::{
        Backend, Family, FilterError, Sizes,
        kernel::{Kernel, Pass, Refreshed},
        names as filter_names,
        program::{Chain, ChainId},
    },
    ipset::{Entry, SetType},
    iptables::{ChainHits, Hits, Rank, Table},
};

impl Kernel for Nftables {
    fn backend(&self) -> Backend {
        Backend::Nftables
    }

    fn concern(&self) -> Option<Concern> {
        Some(Concern::our_table(Some(self.edge.port())))
    }

    fn want(&mut self, set: &str, set_type: SetType, family: Family) {
        if filter_names::is_group_set(set) {
            return;
        }
        if set_type == SetType::Net {
            return self.want_parted(set, family);
        }
        for (name, kind) in Self::kinds_of(set, set_type, family) {
            self.want_set(name, kind);
        }
    }

    fn unwant(&mut self, set: &str) {
        if let Some(group) = filter_names::group_of_set(set) {
            if let Some(dispatch) = self.dispatch_of(set) {
                dispatch.drop_group(group);
            }
            return;
        }
        self.unwant_parted(set);
        for prefixes in [false, true] {
            let name = names::set(set, prefixes);
            self.edit(name, |set| {
                set.wanted = false;
                set.replace(Vec::new());
            });
        }
    }

    fn replace(&mut self, set: &str, entries: Vec<Entry>) {
        if let Some(group) = filter_names::group_of_set(set) {
            if let Some(dispatch) = self.dispatch_of(set) {
                dispatch.replace(group, &entries);
            }
            return;
        }
        self.need_parts(set, entries.iter());
        let mut parts: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for prefixes in [false, true] {
            parts.entry(names::set(set, prefixes)).or_default();
        }
        for entry in entries {
            parts
                .entry(Self::set_of(set, &entry))
                .or_default()
                .push(entry);
        }
        for (name, entries) in parts {
            self.edit(name, |set| set.replace(entries));
        }
    }

    fn insert(&mut self, set: &str, entry: Entry) {
        match filter_names::group_of_set(set) {
            Some(group) => {
                if let Some(dispatch) = self.dispatch_of(set) {
                    dispatch.insert(group, entry);
                }
            }
            None => {
                self.need_parts(set, std::iter::once(&entry));
                self.edit(Self::set_of(set, &entry), |set| set.insert(entry));
            }
        }
    }

    fn remove(&mut self, set: &str, entry: &Entry) {
        match filter_names::group_of_set(set) {
            Some(group) => {
                if let Some(dispatch) = self.dispatch_of(set) {
                    dispatch.remove(group, entry);
                }
            }
            None => self.edit(Self::set_of(set, entry), |set| set.remove(entry)),
        }
    }

    /// An entry leads to one group: that it is wanted in another takes it out of the first.
    fn displace(&mut self, _keep: &str, _entry: &Entry, _family: Family) {}

    fn holds(&self, set: &str, entries: &[Entry]) -> bool {
        if let Some(group) = filter_names::group_of_set(set) {
            let family = filter_names::family_of_set(set);
            let dispatch = family.and_then(|family| self.dispatch.get(&family));
            return dispatch.is_some_and(|dispatch| dispatch.holds(group, entries));
        }
        entries.iter().all(|entry| {
            let set = self.sets.get(&Self::set_of(set, entry));
            set.is_some_and(|set| set.holds(std::slice::from_ref(entry)))
        })
    }

    fn set_chain(&mut self, family: Family, chain: Chain) {
        let name = names::chain(family, chain.table, &chain.id);
        self.shorten(family, &name, &chain);
        self.render(name.clone(), family, &chain);
        self.remember(&name, family, chain);
    }

    fn remove_chain(&mut self, family: Family, table: Table, id: &ChainId) {
        let name = names::chain(family, table, id);
        self.programs.remove(&name);
        self.short_cuts.remove(&name);
        self.unwant_chain(name);
    }

    fn hook(&mut self, family: Family, table: Table, point: &'static str, target: &'static str) {
        let targets = self.hooks.entry((table, point)).or_default();
        if targets.insert(family, target) != Some(target) {
            self.base(table, point);
        }
    }

    fn unhook(&mut self, family: Family, table: Table, point: &'static str) {
        let targets = self.hooks.get_mut(&(table, point));
        if targets.is_some_and(|targets| targets.remove(&family).is_some()) {
            self.base(table, point);
        }
    }

    fn has_chain(&self, family: Family, table: Table, id: &ChainId) -> bool {
        self.kernel.contains_key(&names::chain(family, table, id))
    }

    fn adopted_groups(&self, _family: Family) -> Vec<String> {
        Vec::new()
    }

    fn in_force(&self, chains: &[ChainId]) -> bool {
        let of_all = |name: &String| {
            let rank = self.desired.get(name).map(|chain| chain.rank);
            rank >= Some(Rank::Dispatch) || rank == Some(Rank::Verdict)
        };
        let named = |id: &ChainId| {
            let families = self.families.iter();
            let mut names = families.map(|family| names::chain(*family, Table::Filter, id));
            names.any(|name| self.dirty.contains(&name))
        };
        !self.stale && !self.dirty.iter().any(of_all) && !chains.iter().any(named)
    }

    fn refresh(&mut self, now: Instant, pass: &mut Pass) -> Refreshed {
        if self.backoff.as_ref().is_some_and(|b| b.until > now) {
            return Refreshed {
                usable: false,
                read: false,
            };
        }
        let read = self.stale && self.read(now, pass);
        Refreshed {
            usable: !self.stale,
            read,
        }
    }

    fn write(&mut self, may_delete: bool, now: Instant, pass: &mut Pass) {
        if !self.stale {
            self.send(may_delete, now, pass);
        }
        self.report(pass);
    }

    fn invalidate(&mut self) {
        self.stale = true;
    }

    fn counters(&mut self) -> Result<BTreeMap<Family, ChainHits>, FilterError> {
        let mut read = self.edge.counters()?;
        let mut all: BTreeMap<Family, ChainHits> = BTreeMap::new();
        for (name, chain) in &self.desired {
            if let (Some((family, table, id)), Some(hits)) = (&chain.owner, read.remove(name)) {
                let of_family = all.entry(*family).or_default();
                of_family.insert((*table, id.name()), by_line(&chain.lines, &hits));
            }
        }
        Ok(all)
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            chains: self.desired.len(),
            rules: self.desired.values().map(|chain| chain.rules.len()).sum(),
            sets: self.sets.values().filter(|set| set.wanted).count(),
        }
    }

    fn clean(&mut self) -> Result<(), FilterError> {
        Self::clean_up()?;
        *self = Self::open(&self.families)?;
        Ok(())
    }
}

/// What the rules of each line counted; nothing where others changed the chain.
fn by_line(lines: &[usize], hits: &[Hits]) -> Vec<Hits> {
    let mut sums = vec![Hits::default(); lines.last().map_or(0, |last| last + 1)];
    if lines.len() == hits.len() {
        for (line, hits) in lines.iter().zip(hits) {
            sums[*line] += *hits;
        }
    }
    sums
}

impl Nftables {
    pub(super) fn want_set(&mut self, name: String, kind: Kind) {
        let set = self.sets.entry(name.clone()).or_insert_with(|| {
            let mut set = Set::new(kind);
            if let Some(found) = self.found.sets.remove(&name) {
                self.misshapen |= !is_of(kind, &found);
                set.adopt(Some(&found.members));
            }
            set
        });
        set.wanted = true;
        self.strangers.remove(&name);
        if !set.in_sync() {
            self.dirty_sets.insert(name);
        }
    }

    /// Renders a chain with the sets as they are parted at the moment.
    pub(super) fn render(&mut self, name: String, family: Family, chain: &Chain) {
        let (rules, lines) = render::chain(family, chain, &self.parts);
        let desired = Desired {
            rules,
            hook: None,
            rank: chain.rank,
            owner: Some((family, chain.table, chain.id.clone())),
            lines,
        };
        self.want_chain(name, desired);
    }

    fn dispatch_of(&mut self, set: &str) -> Option<&mut Dispatch> {
        let family = filter_names::family_of_set(set)?;
        self.dispatch.get_mut(&family)
    }
}
