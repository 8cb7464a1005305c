//! The chains of one family: desired, in the kernel, and the batch that makes them equal.

mod render;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    Programs, RestoreError, Table, Variant,
    chain::{Chain, Rank},
    save::Hook,
};
use crate::filter::{
    Family,
    names::{self, Way},
    program,
};

pub(super) type Key = (Table, String);

/// A chain that the kernel refused; it is tried again on its own.
#[derive(Clone, Debug)]
struct Backoff {
    attempts: u32,
    until: Instant,
    /// Told again by each apply until it is over.
    error: String,
}

/// First wait after a failure; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

impl Backoff {
    fn after(earlier: Option<&Self>, error: &RestoreError, now: Instant) -> Self {
        let attempts = earlier.map_or(0, |b| b.attempts).saturating_add(1);
        let wait = FIRST_WAIT
            .saturating_mul(1 << (attempts - 1).min(10))
            .min(LONGEST_WAIT);
        Self {
            attempts,
            until: now + wait,
            error: error.to_string(),
        }
    }
}

/// What one [`Tables::apply`] did.
#[derive(Debug, Default)]
pub(crate) struct TablesReport {
    /// Programs run to write.
    pub(crate) restores: u32,
    /// Chains written or deleted.
    pub(crate) chains_changed: usize,
    /// Rules in those that were written.
    pub(crate) rules_written: usize,
    /// Programs run to read.
    pub(crate) reads: u32,
    /// Those of them that failed.
    pub(crate) read_failures: u32,
    /// Chains or hooks that were not as we left them.
    pub(crate) drift: usize,
    /// The processes that did that.
    pub(crate) writers: Vec<u32>,
    /// What was refused: chain (or `all tables`) and why.
    pub(crate) failures: Vec<(String, String)>,
    /// Something other than the rules of single policies failed: membership of groups must not
    /// shrink, because the chains that take over may be missing.
    pub(crate) structure_failed: bool,
    /// When something is to be tried again.
    pub(crate) retry_at: Option<Instant>,
}

/// One family's chains.
#[derive(Debug)]
pub(crate) struct Tables {
    variant: Variant,
    family: Family,
    desired: BTreeMap<Key, Chain>,
    /// Chains of others, and the chain of ours that each jumps to first.
    hooks: BTreeMap<Key, (String, String)>,
    kernel: BTreeMap<Key, Vec<String>>,
    kernel_hooks: BTreeMap<Key, Vec<Hook>>,
    dirty: BTreeSet<Key>,
    hooks_dirty: bool,
    /// The kernel has to be read before the next change.
    stale: bool,
    /// The next reading compares with what we believe and counts differences.
    verified: bool,
    refused: BTreeMap<Key, Backoff>,
    /// The whole family, after a failure that is nobody's fault in particular.
    backoff: Option<Backoff>,
}

/// The changes of one batch.
#[derive(Debug, Default)]
struct Batch {
    write: Vec<Key>,
    stub: Vec<Key>,
    delete: Vec<Key>,
    hooks: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.write.is_empty() && self.stub.is_empty() && self.delete.is_empty() && !self.hooks
    }
}

impl Tables {
    pub(crate) fn new(variant: Variant, family: Family) -> Self {
        Self {
            variant,
            family,
            desired: BTreeMap::new(),
            hooks: BTreeMap::new(),
            kernel: BTreeMap::new(),
            kernel_hooks: BTreeMap::new(),
            dirty: BTreeSet::new(),
            hooks_dirty: false,
            stale: true,
            verified: false,
            refused: BTreeMap::new(),
            backoff: None,
        }
    }

    /// Wants a chain as given.
    pub(crate) fn set(&mut self, chain: &program::Chain) {
        let (key, chain) = Chain::of(chain, self.family);
        self.put(key, chain);
    }

    fn put(&mut self, key: Key, chain: Chain) {
        if self.desired.get(&key) != Some(&chain) {
            self.refused.remove(&key);
            self.desired.insert(key.clone(), chain);
            self.compare(key);
        }
    }

    /// Wants the dispatch of a way to consist of these chains.
    pub(crate) fn set_dispatch(&mut self, way: Way, chains: BTreeMap<String, Chain>) {
        let parts = self.desired.keys().filter(|(table, name)| {
            let is_part = *table == Table::Filter && names::is_dispatch_part(way, name);
            is_part && !chains.contains_key(name)
        });
        for (table, name) in parts.cloned().collect::<Vec<_>>() {
            self.remove(table, &name);
        }
        for (name, chain) in chains {
            self.put((Table::Filter, name), chain);
        }
    }

    /// Wants a chain gone.
    pub(crate) fn remove(&mut self, table: Table, name: &str) {
        let key = (table, name.to_owned());
        if self.desired.remove(&key).is_some() {
            self.refused.remove(&key);
            self.compare(key);
        }
    }

    fn compare(&mut self, key: Key) {
        if self.kernel.get(&key) == self.desired.get(&key).map(|chain| &chain.hashes) {
            self.dirty.remove(&key);
        } else {
            self.dirty.insert(key);
        }
    }

    /// Wants the first rule of a chain of others to jump to a chain of ours.
    pub(crate) fn hook(&mut self, table: Table, builtin: &str, target: &str) {
        let chain = Chain::new(builtin, Rank::Base, &[format!("-j {target}")]);
        let rule = (target.to_owned(), chain.rules.concat());
        let key = (table, builtin.to_owned());
        if self.hooks.get(&key) != Some(&rule) {
            self.hooks.insert(key, rule);
            self.hooks_dirty = !self.hooks_match(&self.kernel_hooks);
        }
    }

    /// No longer wants the first rule of a chain of others to be ours.
    pub(crate) fn unhook(&mut self, table: Table, builtin: &str) {
        if self.hooks.remove(&(table, builtin.to_owned())).is_some() {
            self.hooks_dirty = !self.hooks_match(&self.kernel_hooks);
        }
    }

    /// The chains that the kernel was last seen or made to have.
    pub(crate) fn kernel_chains(&self) -> impl Iterator<Item = &str> {
        self.kernel.keys().map(|(_, name)| name.as_str())
    }

    /// Reads the kernel back before the next change and repairs what is not as desired.
    pub(crate) fn invalidate(&mut self) {
        self.stale = true;
    }

    /// Whether [`Tables::refresh`] and [`Tables::apply`] have nothing to do.
    pub(crate) fn in_sync(&self) -> bool {
        self.dirty.is_empty() && !self.hooks_dirty && !self.stale
    }

    /// How many rules each chain is to have.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.desired.values().map(Chain::len)
    }

    /// Whether the kernel has to be read before the next change.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Whether [`Tables::refresh`] would have nothing to read and nothing to wait for.
    pub(crate) fn is_readable(&self) -> bool {
        !self.stale && self.backoff.is_none()
    }

    /// Whether these chains, the fixed ones and the hooks are in the kernel as desired.
    pub(crate) fn in_force<'a>(&self, chains: impl IntoIterator<Item = &'a String>) -> bool {
        let is_dirty = |name: &String| self.dirty.contains(&(Table::Filter, name.clone()));
        let of_rank = |key: &Key| self.desired.get(key).map(|chain| chain.rank);
        let fixed_dirty = self
            .dirty
            .iter()
            .any(|key| of_rank(key) >= Some(Rank::Part) || of_rank(key) == Some(Rank::Verdict));
        !self.stale && !self.hooks_dirty && !fixed_dirty && !chains.into_iter().any(is_dirty)
    }

    /// Whether the kernel has a chain of this name.
    pub(crate) fn has_chain(&self, table: Table, name: &str) -> bool {
        self.kernel.contains_key(&(table, name.to_owned()))
    }

    /// Returns how many chains differ from what we left.
    fn read_if_stale(&mut self, programs: &Programs) -> Result<usize, RestoreError> {
        if !self.stale {
            return Ok(0);
        }
        let saved = programs.save(self.variant, self.family)?;
        let changed = |key: &&Key| saved.chains.get(*key) != self.kernel.get(*key);
        let keys: BTreeSet<&Key> = saved.chains.keys().chain(self.kernel.keys()).collect();
        let mut drift = keys.into_iter().filter(changed).count();
        drift += usize::from(saved.hooks != self.kernel_hooks && !self.hooks_match(&saved.hooks));
        let drift = if self.verified { drift } else { 0 };
        self.kernel = saved.chains;
        self.kernel_hooks = saved.hooks;
        self.hooks_dirty = !self.hooks_match(&self.kernel_hooks);
        self.dirty = self
            .kernel
            .keys()
            .chain(self.desired.keys())
            .cloned()
            .collect();
        self.dirty
            .retain(|key| self.kernel.get(key) != self.desired.get(key).map(|chain| &chain.hashes));
        self.stale = false;
        self.verified = true;
        Ok(drift)
    }

    fn hooks_match(&self, found: &BTreeMap<Key, Vec<Hook>>) -> bool {
        let good = |(key, (target, rule)): (&Key, &(String, String))| {
            let hash = super::save::rule_hash(rule);
            matches!(found.get(key).map(Vec::as_slice), Some([hook])
                if hook.position == 0
                    && hook.target == *target
                    && super::save::rule_hash(&hook.text) == hash)
        };
        found.len() == self.hooks.len() && self.hooks.iter().all(good)
    }

    /// Reads the kernel if that is due. False when it could not be read or a wait is on; the report
    /// of [`Tables::report`] then says why.
    pub(crate) fn refresh(
        &mut self,
        programs: &Programs,
        now: Instant,
        report: &mut TablesReport,
    ) -> bool {
        if self.backoff.as_ref().is_some_and(|b| b.until > now) {
            return false;
        }
        report.reads += u32::from(self.stale);
        match self.read_if_stale(programs) {
            Ok(drift) => report.drift += drift,
            Err(error) => {
                report.read_failures += 1;
                self.fail_all(&error, now);
            }
        }
        !self.stale
    }

    /// Makes the kernel equal to what is desired; chains nobody wants stay unless `may_delete`.
    /// To be called after a successful [`Tables::refresh`].
    pub(crate) fn apply(
        &mut self,
        programs: &Programs,
        may_delete: bool,
        now: Instant,
        report: &mut TablesReport,
    ) {
        let batch = self.batch(may_delete, now);
        if batch.is_empty() {
            return;
        }
        match self.run(programs, &batch, report) {
            Ok(()) => self.backoff = None,
            Err(error) if error.is_refusal() => {
                self.backoff = None;
                self.apply_by_rank(programs, may_delete, now, report);
            }
            Err(error) => self.fail_all(&error, now),
        }
    }

    /// Tells what is not as desired at the end of a pass.
    pub(crate) fn report(&self, report: &mut TablesReport) {
        let rank = |key: &Key| self.desired.get(key).map(|chain| chain.rank);
        for (key, refused) in &self.refused {
            report.structure_failed |= rank(key) > Some(Rank::Policy);
            let object = format!("{} {} chain {}", self.family, key.0.name(), key.1);
            report.failures.push((object, refused.error.clone()));
        }
        if let Some(backoff) = &self.backoff {
            report.structure_failed = true;
            report
                .failures
                .push((format!("{} tables", self.family), backoff.error.clone()));
        }
        report.retry_at = self
            .refused
            .values()
            .chain(&self.backoff)
            .map(|b| b.until)
            .min();
    }

    fn fail_all(&mut self, error: &RestoreError, now: Instant) {
        self.backoff = Some(Backoff::after(self.backoff.as_ref(), error, now));
        self.stale = true;
    }

    fn refuse(&mut self, key: &Key, error: &RestoreError, now: Instant) {
        let backoff = Backoff::after(self.refused.get(key), error, now);
        self.refused.insert(key.clone(), backoff);
    }

    fn batch(&self, may_delete: bool, now: Instant) -> Batch {
        let due = |key: &&Key| self.refused.get(*key).is_none_or(|b| b.until <= now);
        let (write, delete) = self
            .dirty
            .iter()
            .filter(due)
            .cloned()
            .partition(|key| self.desired.contains_key(key));
        let delete = if may_delete { delete } else { Vec::new() };
        Batch {
            write,
            delete,
            stub: Vec::new(),
            hooks: self.hooks_dirty,
        }
    }

    /// After a refusal: lower ranks first, each halved until the refused chains are found. Those
    /// keep their earlier rules or, if they have none, drop everything, so that the rest can go on.
    fn apply_by_rank(
        &mut self,
        programs: &Programs,
        may_delete: bool,
        now: Instant,
        report: &mut TablesReport,
    ) {
        self.stale = true;
        if let Err(error) = self.read_if_stale(programs) {
            return self.fail_all(&error, now);
        }
        let batch = self.batch(may_delete, now);
        for rank in [
            Rank::Verdict,
            Rank::Aside,
            Rank::Policy,
            Rank::Group,
            Rank::Part,
            Rank::Dispatch,
            Rank::Host,
            Rank::Base,
        ] {
            let of_rank = |key: &&Key| self.desired.get(*key).is_some_and(|c| c.rank == rank);
            let keys: Vec<Key> = batch.write.iter().filter(of_rank).cloned().collect();
            self.write_or_halve(programs, &keys, now, report);
        }
        let hooks = Batch {
            hooks: batch.hooks,
            ..Batch::default()
        };
        if !hooks.is_empty()
            && let Err(error) = self.run(programs, &hooks, report)
        {
            return self.fail_all(&error, now);
        }
        let deletions = Batch {
            delete: batch.delete,
            ..Batch::default()
        };
        if !deletions.is_empty()
            && let Err(error) = self.run(programs, &deletions, report)
        {
            for key in &deletions.delete {
                self.refuse(key, &error, now);
            }
        }
        // What was refused may have left other tables of its batch changed.
        if let Err(error) = self.read_if_stale(programs) {
            self.fail_all(&error, now);
        }
    }

    fn write_or_halve(
        &mut self,
        programs: &Programs,
        keys: &[Key],
        now: Instant,
        report: &mut TablesReport,
    ) {
        if keys.is_empty() {
            return;
        }
        let batch = Batch {
            write: keys.to_vec(),
            ..Batch::default()
        };
        let Err(error) = self.run(programs, &batch, report) else {
            return;
        };
        if let [key] = keys {
            self.refuse(key, &error, now);
            self.stub(programs, key, report);
            return;
        }
        let (low, high) = keys.split_at(keys.len() / 2);
        self.write_or_halve(programs, low, now, report);
        self.write_or_halve(programs, high, now, report);
    }

    /// A chain that does not exist would keep those away that refer to it.
    fn stub(&mut self, programs: &Programs, key: &Key, report: &mut TablesReport) {
        let rank = self.desired.get(key).map_or(Rank::Base, |chain| chain.rank);
        if rank == Rank::Base || self.kernel.contains_key(key) {
            return;
        }
        let stub = Batch {
            stub: vec![key.clone()],
            ..Batch::default()
        };
        if let Err(error) = self.run(programs, &stub, report) {
            // The chain itself is reported as refused.
            tracing::debug!(chain = key.1, %error, "stub refused");
        }
    }

    fn run(
        &mut self,
        programs: &Programs,
        batch: &Batch,
        report: &mut TablesReport,
    ) -> Result<(), RestoreError> {
        let input = self.render(batch);
        tracing::trace!(family = %self.family, %input, "iptables batch");
        report.restores += 1;
        programs
            .restore(self.variant, self.family, &input, &mut report.writers)
            .inspect_err(|_| self.stale = true)?;
        report.chains_changed += batch.write.len() + batch.delete.len();
        let written = batch.write.iter().filter_map(|key| self.desired.get(key));
        report.rules_written += written.map(Chain::len).sum::<usize>();
        self.commit(batch);
        Ok(())
    }

    fn commit(&mut self, batch: &Batch) {
        for key in &batch.write {
            if let Some(chain) = self.desired.get(key) {
                self.kernel.insert(key.clone(), chain.hashes.clone());
            }
            self.dirty.remove(key);
            self.refused.remove(key);
        }
        for key in &batch.stub {
            self.kernel.insert(key.clone(), vec![STUB_HASH.to_owned()]);
        }
        for key in &batch.delete {
            self.kernel.remove(key);
            self.dirty.remove(key);
        }
        if batch.hooks {
            self.hooks_dirty = false;
            let placed = |(key, (target, text)): (&Key, &(String, String))| {
                let hook = Hook {
                    position: 0,
                    target: target.clone(),
                    text: text.clone(),
                };
                (key.clone(), vec![hook])
            };
            self.kernel_hooks = self.hooks.iter().map(placed).collect();
        }
    }

    /// Removes every chain of ours and every jump to one.
    pub(crate) fn clean(&mut self, programs: &Programs) -> Result<(), RestoreError> {
        self.desired.clear();
        self.hooks.clear();
        self.invalidate();
        self.read_if_stale(programs)?;
        let batch = Batch {
            delete: self.kernel.keys().cloned().collect(),
            hooks: !self.kernel_hooks.is_empty(),
            ..Batch::default()
        };
        if !batch.is_empty() {
            self.run(programs, &batch, &mut TablesReport::default())?;
        }
        Ok(())
    }
}

/// Stands in the comment of a chain whose own rules were refused: it drops, unless it decides nothing.
const STUB_HASH: &str = "refused---------";
