//! The backend made of iptables and ipsets.

use std::{
    collections::{BTreeMap, VecDeque},
    thread,
    time::Instant,
};

use super::{
    backend::Backend,
    chains,
    driver::{FilterError, Sizes},
    kernel::{Kernel, Pass, Refreshed},
    names::{self, Way},
    program::{Body, Chain, ChainId},
    sets::{Sets, SetsReport},
    types::Family,
};
use crate::{
    ipset::{Entry, IpsetSocket, SetType},
    iptables::{ChainHits, Programs, Table, Tables, TablesReport, Variant, dispatch_chains},
    nft::Concern,
};

/// Chains in one variant of iptables for each family, and the sets that they refer to.
#[derive(Debug)]
pub(super) struct Iptables {
    variant: Variant,
    programs: Programs,
    sets: Sets,
    tables: BTreeMap<Family, Tables>,
    /// Whether the last refresh found out what each family's tables hold.
    readable: Vec<bool>,
    sets_report: SetsReport,
    tables_reports: Vec<TablesReport>,
    /// The groups that packets are dispatched to.
    dispatch: BTreeMap<(Family, Way), Vec<String>>,
    /// Groups or members of theirs changed since the chains of the dispatch were calculated.
    dispatch_stale: bool,
    /// The last programs that changed something for us.
    writers: VecDeque<u32>,
}

/// Of so many programs it is remembered that they were ours; what they did is heard of soon after.
const WRITERS: usize = 64;

impl Iptables {
    pub(super) fn open(
        variant: Variant,
        programs: Programs,
        families: &[Family],
    ) -> Result<Self, FilterError> {
        let tables = families
            .iter()
            .map(|family| (*family, Tables::new(variant, *family)));
        Ok(Self {
            variant,
            programs,
            sets: Sets::open()?,
            tables: tables.collect(),
            readable: Vec::new(),
            sets_report: SetsReport::default(),
            tables_reports: Vec::new(),
            dispatch: BTreeMap::new(),
            dispatch_stale: false,
            writers: VecDeque::new(),
        })
    }

    /// Removes everything of ours from one variant.
    pub(super) fn clean_up(
        variant: Variant,
        programs: &Programs,
        families: &[Family],
    ) -> Result<(), FilterError> {
        for family in families {
            Tables::new(variant, *family).clean(programs)?;
        }
        Ok(())
    }

    /// Whether there are sets of ours.
    pub(super) fn has_sets() -> bool {
        !Self::sets().is_empty()
    }

    /// The sets of ours.
    pub(super) fn sets() -> Vec<String> {
        let found = IpsetSocket::open().and_then(|mut socket| socket.names());
        let mut found = found.unwrap_or_default();
        found.retain(|name| names::family_of_set(name).is_some());
        found
    }

    /// Removes every set of ours, once neither variant refers to it.
    pub(super) fn clean_up_sets() -> Result<(), FilterError> {
        Ok(Sets::open()?.clean()?)
    }

    fn table(&mut self, family: Family) -> Option<&mut Tables> {
        self.tables.get_mut(&family)
    }

    fn members_change(&mut self, set: &str) {
        self.dispatch_stale |= names::is_group_set(set);
    }

    fn calculate_dispatch(&mut self) {
        if !std::mem::take(&mut self.dispatch_stale) {
            return;
        }
        for ((family, way), groups) in &self.dispatch {
            let members = |group: &str| {
                let members = self.sets.members(&names::group_set(*family, group));
                members.map(|entry| entry.net())
            };
            let first = chains::dispatch_chain(*way);
            let chains = dispatch_chains(first, *way, *family, groups, members);
            if let Some(tables) = self.tables.get_mut(family) {
                tables.set_dispatch(*way, chains);
            }
        }
    }

    fn write_tables(&mut self, may_delete: bool, now: Instant) {
        let programs = &self.programs;
        let families = self.tables.values_mut().zip(&mut self.tables_reports);
        let families = families.zip(&self.readable);
        let ready = families.filter(|((tables, _), ok)| **ok && !tables.in_sync());
        parallel(ready, |((tables, report), _)| {
            tables.apply(programs, may_delete, now, report)
        });
    }

    /// Members out, then sets. Where the chains of groups are not in place, an endpoint keeps its
    /// earlier group so that it keeps its earlier verdict.
    fn remove_from_sets(&mut self, may_delete: bool, now: Instant) {
        let broken: Vec<Family> = self
            .tables
            .keys()
            .zip(&self.tables_reports)
            .filter(|(_, report)| report.structure_failed)
            .map(|(family, _)| *family)
            .collect();
        let eligible =
            |name: &str, family: Family| !(broken.contains(&family) && names::is_group_set(name));
        let report = &mut self.sets_report;
        self.sets.delete(may_delete, eligible, now, report);
        if may_delete {
            self.sets.destroy(now, report);
        }
    }

    fn report(&mut self, pass: &mut Pass) {
        let sets = std::mem::take(&mut self.sets_report);
        pass.set_changes += sets.changes;
        pass.drift += sets.drift;
        sets.retry_at.into_iter().for_each(|at| pass.retry(at));
        for (set, error) in sets.failures {
            pass.fail(format!("ip set {set}"), error);
        }
        for tables in std::mem::take(&mut self.tables_reports) {
            pass.batches += tables.restores;
            pass.chains_changed += tables.chains_changed;
            pass.rules_written += tables.rules_written;
            pass.reads += tables.reads;
            pass.read_failures += tables.read_failures;
            pass.drift += tables.drift;
            self.writers.extend(tables.writers);
            tables.retry_at.into_iter().for_each(|at| pass.retry(at));
            for (object, error) in tables.failures {
                pass.fail(object, error);
            }
        }
        let known = self.writers.len().saturating_sub(WRITERS);
        self.writers.drain(..known);
    }
}

impl Kernel for Iptables {
    fn backend(&self) -> Backend {
        Backend::Iptables(self.variant)
    }

    fn concern(&self) -> Option<Concern> {
        let own = self.writers.iter().copied().collect();
        (self.variant == Variant::Nft).then(|| Concern::iptables(own))
    }

    fn want(&mut self, set: &str, set_type: SetType, family: Family) {
        self.sets.want(set, set_type, family);
    }

    fn unwant(&mut self, set: &str) {
        self.sets.unwant(set);
    }

    fn replace(&mut self, set: &str, entries: Vec<Entry>) {
        self.members_change(set);
        self.sets.replace(set, entries);
    }

    fn insert(&mut self, set: &str, entry: Entry) {
        self.members_change(set);
        self.sets.insert(set, entry);
    }

    fn remove(&mut self, set: &str, entry: &Entry) {
        self.sets.remove(set, entry);
    }

    fn displace(&mut self, keep: &str, entry: &Entry, family: Family) {
        self.sets.displace(keep, entry, family);
    }

    fn holds(&self, set: &str, entries: &[Entry]) -> bool {
        self.sets.holds(set, entries)
    }

    fn set_chain(&mut self, family: Family, chain: Chain) {
        if let Body::Dispatch { way, groups } = chain.body {
            self.dispatch_stale = true;
            self.dispatch.insert((family, way), groups);
            return;
        }
        if let Some(tables) = self.table(family) {
            tables.set(&chain);
        }
    }

    fn remove_chain(&mut self, family: Family, table: Table, id: &ChainId) {
        if let Some(tables) = self.table(family) {
            tables.remove(table, &id.name());
        }
    }

    fn hook(&mut self, family: Family, table: Table, point: &'static str, target: &'static str) {
        if let Some(tables) = self.table(family) {
            tables.hook(table, point, target);
        }
    }

    fn unhook(&mut self, family: Family, table: Table, point: &'static str) {
        if let Some(tables) = self.table(family) {
            tables.unhook(table, point);
        }
    }

    fn has_chain(&self, family: Family, table: Table, id: &ChainId) -> bool {
        let tables = self.tables.get(&family);
        tables.is_some_and(|tables| tables.has_chain(table, &id.name()))
    }

    fn adopted_groups(&self, family: Family) -> Vec<String> {
        let Some(tables) = self.tables.get(&family) else {
            return Vec::new();
        };
        let found = tables.kernel_chains().filter_map(names::group_of_chain);
        let has_chain =
            |way, group: &str| tables.has_chain(Table::Filter, &names::group_chain(way, group));
        let usable = found.filter(|group| {
            let both_chains = Way::BOTH.into_iter().all(|way| has_chain(way, group));
            both_chains && self.sets.exists(&names::group_set(family, group))
        });
        usable.map(str::to_owned).collect()
    }

    fn in_force(&self, chains: &[ChainId]) -> bool {
        let names: Vec<String> = chains.iter().map(ChainId::name).collect();
        !self.dispatch_stale && self.tables.values().all(|tables| tables.in_force(&names))
    }

    fn refresh(&mut self, now: Instant, _pass: &mut Pass) -> Refreshed {
        self.sets_report = SetsReport::default();
        self.tables_reports.clear();
        self.tables_reports
            .resize_with(self.tables.len(), TablesReport::default);
        let sets_known = self.sets.refresh(now, &mut self.sets_report);
        // The usual case: nothing to read, no threads to start.
        if self.tables.values().all(Tables::is_readable) {
            self.readable = vec![sets_known; self.tables.len()];
            return Refreshed {
                usable: sets_known,
                read: false,
            };
        }
        let read = self.tables.values().any(Tables::is_stale);
        let programs = &self.programs;
        let families = self.tables.values_mut().zip(&mut self.tables_reports);
        let known = parallel(families, |(tables, report)| {
            tables.refresh(programs, now, report)
        });
        self.readable = known.into_iter().map(|known| known && sets_known).collect();
        Refreshed {
            usable: self.readable.iter().any(|ok| *ok),
            read,
        }
    }

    fn write(&mut self, may_delete: bool, now: Instant, pass: &mut Pass) {
        self.sets.add(may_delete, now, &mut self.sets_report);
        self.calculate_dispatch();
        self.write_tables(may_delete, now);
        for (family, report) in self.tables.values().zip(&mut self.tables_reports) {
            family.report(report);
        }
        self.remove_from_sets(may_delete, now);
        self.sets.report(&mut self.sets_report);
        self.report(pass);
    }

    fn invalidate(&mut self) {
        self.sets.invalidate();
        self.tables.values_mut().for_each(Tables::invalidate);
    }

    fn counters(&mut self) -> Result<BTreeMap<Family, ChainHits>, FilterError> {
        let (programs, variant) = (&self.programs, self.variant);
        let read = |family: Family| (family, programs.counters(variant, family));
        let mut kernel = BTreeMap::new();
        for (family, chains) in parallel(self.tables.keys().copied(), read) {
            kernel.insert(family, chains?);
        }
        Ok(kernel)
    }

    fn sizes(&self) -> Sizes {
        let mut sizes = Sizes {
            sets: self.sets.wanted(),
            ..Sizes::default()
        };
        for tables in self.tables.values() {
            for rules in tables.lengths() {
                sizes.chains += 1;
                sizes.rules += rules;
            }
        }
        sizes
    }

    fn clean(&mut self) -> Result<(), FilterError> {
        for (family, tables) in &mut self.tables {
            tables.clean(&self.programs)?;
            *tables = Tables::new(self.variant, *family);
        }
        self.dispatch.clear();
        Ok(self.sets.clean()?)
    }
}

/// Runs `work` on each item, all but one item on threads of their own. The threads are in the same
/// network namespace as the caller.
fn parallel<I: Send, T: Send>(
    items: impl Iterator<Item = I>,
    work: impl Fn(I) -> T + Sync,
) -> Vec<T> {
    let mut items: Vec<I> = items.collect();
    let Some(last) = items.pop() else {
        return Vec::new();
    };
    if items.is_empty() {
        return vec![work(last)];
    }
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .into_iter()
            .map(|i| scope.spawn(move || work(i)))
            .collect();
        let own = work(last);
        let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        // A panic in a worker is a defect of ours and ends the caller as well.
        let mut results: Vec<T> = joined
            .map(|r| r.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        results.push(own);
        results
    })
}
