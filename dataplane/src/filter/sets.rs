//! The kernel sets of ours: what each should hold, and the order in which that is made so.

mod edge;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use self::edge::Edge;
use super::{names, types::Family};
use crate::ipset::{Entry, IpsetError, IpsetSocket, SetTracker, SetType};

/// From this many changes on, and at least half of the set, it is rewritten and swapped.
const REWRITE_FROM: usize = 512;
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// A set can stay referenced for some milliseconds after its last rule is gone.
const BUSY_RETRY_AFTER: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct KernelSet {
    set_type: SetType,
    family: Family,
    tracker: SetTracker,
    /// False when nobody wants the set and it only remains to be destroyed.
    wanted: bool,
    exists: bool,
    /// When to try again, and what is told until then.
    waiting: Option<(Instant, Option<String>)>,
}

impl KernelSet {
    fn is_waiting(&self, now: Instant) -> bool {
        self.waiting.as_ref().is_some_and(|(at, _)| *at > now)
    }
}

/// What a pass over the sets did.
#[derive(Debug, Default)]
pub(super) struct SetsReport {
    /// Members added or deleted, sets made or destroyed.
    pub(super) changes: usize,
    /// Members or sets that were not as we left them.
    pub(super) drift: usize,
    pub(super) failures: Vec<(String, String)>,
    pub(super) retry_at: Option<Instant>,
}

impl SetsReport {
    fn retry(&mut self, at: Instant) {
        self.retry_at = Some(self.retry_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// All sets of ours.
#[derive(Debug)]
pub(super) struct Sets {
    kernel: Box<dyn Edge>,
    sets: BTreeMap<String, KernelSet>,
    dirty: BTreeSet<String>,
    stale: bool,
    /// The kernel was read before: what differs at the next reading is drift.
    verified: bool,
}

impl Sets {
    /// How many there are to be.
    pub(super) fn wanted(&self) -> usize {
        self.sets.values().filter(|set| set.wanted).count()
    }

    pub(super) fn open() -> Result<Self, IpsetError> {
        Ok(Self::new(Box::new(IpsetSocket::open()?)))
    }

    fn new(kernel: Box<dyn Edge>) -> Self {
        Self {
            kernel,
            sets: BTreeMap::new(),
            dirty: BTreeSet::new(),
            stale: true,
            verified: false,
        }
    }

    /// Reads the kernel back before the next change.
    pub(super) fn invalidate(&mut self) {
        self.stale = true;
    }

    /// Whether the kernel has the set.
    pub(super) fn exists(&self, name: &str) -> bool {
        self.sets.get(name).is_some_and(|set| set.exists)
    }

    /// Everything that is in a set, or is to be, or is to go.
    pub(super) fn members<'a>(&'a self, name: &str) -> impl Iterator<Item = Entry> + use<'a> {
        let set = self.sets.get(name);
        set.into_iter().flat_map(|set| set.tracker.all())
    }

    /// Wants a set; keeps its members when it is already wanted or adopted.
    pub(super) fn want(&mut self, name: &str, set_type: SetType, family: Family) {
        if let Some(set) = self.sets.get_mut(name) {
            if set.wanted && set.set_type == set_type {
                return;
            }
            set.wanted = true;
            set.set_type = set_type;
        } else {
            let set = KernelSet {
                set_type,
                family,
                tracker: SetTracker::default(),
                wanted: true,
                exists: false,
                waiting: None,
            };
            self.sets.insert(name.to_owned(), set);
        }
        self.dirty.insert(name.to_owned());
    }

    /// Wants a set gone, once no rule refers to it.
    pub(super) fn unwant(&mut self, name: &str) {
        if let Some(set) = self.sets.get_mut(name)
            && set.wanted
        {
            set.wanted = false;
            set.tracker.replace([]);
            self.dirty.insert(name.to_owned());
        }
    }

    /// Wants exactly these members.
    pub(super) fn replace(&mut self, name: &str, entries: impl IntoIterator<Item = Entry>) {
        self.edit(name, |tracker| tracker.replace(entries));
    }

    pub(super) fn insert(&mut self, name: &str, entry: Entry) {
        self.edit(name, |tracker| tracker.insert(entry));
    }

    pub(super) fn remove(&mut self, name: &str, entry: &Entry) {
        self.edit(name, |tracker| tracker.remove(entry));
    }

    /// An entry that is wanted in the group set `keep` is not to stay in another one, whoever put
    /// it there.
    pub(super) fn displace(&mut self, keep: &str, entry: &Entry, family: Family) {
        for (name, set) in &mut self.sets {
            let other = set.family == family && name != keep && names::is_group_set(name);
            if other && set.tracker.displace(entry) {
                self.dirty.insert(name.clone());
            }
        }
    }

    fn edit(&mut self, name: &str, change: impl FnOnce(&mut SetTracker)) {
        if let Some(set) = self.sets.get_mut(name) {
            change(&mut set.tracker);
            // What is new is tried at once, together with what was refused.
            set.waiting = None;
            if !set.tracker.in_sync() && !self.dirty.contains(name) {
                self.dirty.insert(name.to_owned());
            }
        }
    }

    /// Reads every set of ours if that is due.
    pub(super) fn refresh(&mut self, now: Instant, report: &mut SetsReport) -> bool {
        if !self.stale {
            return true;
        }
        match self.read(report) {
            Ok(()) => {
                self.stale = false;
                self.verified = true;
            }
            Err(error) => {
                report.retry(now + RETRY_AFTER);
                report
                    .failures
                    .push(("ip sets".to_owned(), error.to_string()));
            }
        }
        !self.stale
    }

    fn read(&mut self, report: &mut SetsReport) -> Result<(), IpsetError> {
        let names = self.kernel.names()?;
        let ours = names
            .iter()
            .filter_map(|name| Some((name, names::family_of_set(name)?)));
        let ours: Vec<(&String, Family)> = ours.collect();
        let present: BTreeSet<&String> = ours.iter().map(|(name, _)| *name).collect();
        for (name, set) in &mut self.sets {
            if !present.contains(name) {
                report.drift += usize::from(set.exists);
                set.exists = false;
                set.tracker.adopt([]);
            }
        }
        self.sets.retain(|_, set| set.wanted || set.exists);
        for (name, family) in ours {
            let Some(found) = self.kernel.list(name)? else {
                continue;
            };
            let known = self.sets.contains_key(name);
            let set = self.sets.entry(name.clone()).or_insert_with(|| KernelSet {
                set_type: found.set_type.unwrap_or(SetType::Net),
                family,
                tracker: SetTracker::default(),
                wanted: false,
                exists: true,
                waiting: None,
            });
            let same_kind =
                found.set_type == Some(set.set_type) && found.family == Some(set.family);
            let was_there = set.exists;
            // A set of another type cannot be used; making ours in its place then fails, loudly.
            set.exists = same_kind || !set.wanted;
            let differing = set
                .tracker
                .adopt(if same_kind { found.entries } else { Vec::new() });
            if self.verified {
                report.drift += differing + usize::from(!known || !was_there);
            }
        }
        self.dirty.extend(self.sets.keys().cloned());
        Ok(())
    }

    /// Makes missing sets and adds missing members. With `may_delete`, a set that changes as a
    /// whole is rewritten aside and swapped in.
    pub(super) fn add(&mut self, may_delete: bool, now: Instant, report: &mut SetsReport) {
        let names: Vec<String> = self.dirty.iter().cloned().collect();
        for name in names {
            let Some(set) = self.sets.get_mut(&name).filter(|set| set.wanted) else {
                continue;
            };
            if set.is_waiting(now) {
                continue;
            }
            set.waiting = None;
            let (changes, result) = add_to(self.kernel.as_mut(), &name, set, may_delete);
            report.changes += changes;
            if let Err(error) = result {
                self.stale = true;
                set.waiting = Some((now + RETRY_AFTER, Some(error.to_string())));
            }
        }
    }

    /// Deletes surplus members of the sets for which `eligible` holds; without `may_delete` only
    /// those that were wanted before.
    pub(super) fn delete(
        &mut self,
        may_delete: bool,
        eligible: impl Fn(&str, Family) -> bool,
        now: Instant,
        report: &mut SetsReport,
    ) {
        let names: Vec<String> = self.dirty.iter().cloned().collect();
        for name in names {
            let Some(set) = self.sets.get_mut(&name) else {
                self.dirty.remove(&name);
                continue;
            };
            let waiting = set.is_waiting(now);
            let doomed = !set.wanted && may_delete;
            if doomed || !set.exists || waiting || !eligible(&name, set.family) {
                continue;
            }
            let surplus = set.tracker.surplus(may_delete);
            match self.kernel.del(&name, &surplus) {
                Ok(()) => {
                    report.changes += surplus.len();
                    set.tracker.done(&surplus, false);
                    if set.wanted && set.tracker.in_sync() {
                        self.dirty.remove(&name);
                    }
                }
                Err(error) => {
                    self.stale = true;
                    set.waiting = Some((now + RETRY_AFTER, Some(error.to_string())));
                }
            }
        }
    }

    /// Destroys what nobody wants. A set that is still referenced is tried again later.
    pub(super) fn destroy(&mut self, now: Instant, report: &mut SetsReport) {
        let unwanted = |name: &String| self.sets.get(name).is_some_and(|set| !set.wanted);
        let names: Vec<String> = self
            .dirty
            .iter()
            .filter(|name| unwanted(name))
            .cloned()
            .collect();
        for name in names {
            let Some(set) = self.sets.get_mut(&name) else {
                continue;
            };
            if set.is_waiting(now) {
                continue;
            }
            let result = if set.exists {
                self.kernel.destroy(&name)
            } else {
                Ok(())
            };
            match result {
                Ok(()) => {
                    report.changes += usize::from(set.exists);
                    self.sets.remove(&name);
                    self.dirty.remove(&name);
                }
                Err(error) => {
                    set.waiting = Some(if error.is_busy() {
                        (now + BUSY_RETRY_AFTER, None)
                    } else {
                        (now + RETRY_AFTER, Some(error.to_string()))
                    });
                }
            }
        }
    }

    /// Tells what is not as desired at the end of a pass.
    pub(super) fn report(&self, report: &mut SetsReport) {
        for name in &self.dirty {
            let waiting = self.sets.get(name).and_then(|set| set.waiting.as_ref());
            if let Some((at, error)) = waiting {
                report.retry(*at);
                report
                    .failures
                    .extend(error.iter().map(|e| (name.clone(), e.clone())));
            }
        }
    }

    /// Whether the kernel has all that is wanted of these entries of a set.
    pub(super) fn holds(&self, name: &str, entries: &[Entry]) -> bool {
        self.sets
            .get(name)
            .is_some_and(|set| set.exists && set.tracker.holds(entries))
    }

    /// Destroys every set of ours, waiting for the kernel to let go of those that rules just held.
    pub(super) fn clean(&mut self) -> Result<(), IpsetError> {
        self.sets.clear();
        self.dirty.clear();
        self.stale = true;
        let deadline = Instant::now() + RETRY_AFTER;
        for name in self.kernel.names()? {
            if names::family_of_set(&name).is_none() {
                continue;
            }
            loop {
                match self.kernel.destroy(&name) {
                    Err(error) if error.is_busy() && Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    other => break other?,
                }
            }
        }
        Ok(())
    }
}

/// Counts the changes made, also before a failure.
fn add_to(
    kernel: &mut dyn Edge,
    name: &str,
    set: &mut KernelSet,
    may_delete: bool,
) -> (usize, Result<(), IpsetError>) {
    let mut changes = 0;
    if !set.exists {
        if let Err(error) = kernel.create(name, set.set_type, set.family) {
            return (changes, Err(error));
        }
        set.exists = true;
        changes += 1;
    }
    let missing = set.tracker.missing();
    if may_delete {
        let surplus = set.tracker.surplus(true);
        let total = missing.len() + surplus.len();
        // Filling an empty set needs no swap, and a set of workloads is changed step by step.
        let whole = !surplus.is_empty() && total >= REWRITE_FROM && total * 2 >= set.tracker.len();
        if whole && set.set_type != SetType::NetIface {
            if let Err(error) = rewrite(kernel, name, set) {
                return (changes, Err(error));
            }
            set.tracker.done(&missing, true);
            set.tracker.done(&surplus, false);
            return (changes + total, Ok(()));
        }
    }
    if kernel.add(name, &missing).is_ok() {
        set.tracker.done(&missing, true);
        return (changes + missing.len(), Ok(()));
    }
    // One refused member must not keep the others out.
    let mut added = Vec::new();
    let mut result = Ok(());
    for entry in missing {
        match kernel.add(name, &[entry]) {
            Ok(()) => added.push(entry),
            Err(error) => result = result.and(Err(error)),
        }
    }
    set.tracker.done(&added, true);
    (changes + added.len(), result)
}

fn rewrite(kernel: &mut dyn Edge, name: &str, set: &KernelSet) -> Result<(), IpsetError> {
    let aside = names::temporary_set(name, set.family);
    kernel.destroy(&aside)?;
    kernel.create(&aside, set.set_type, set.family)?;
    let members: Vec<Entry> = set.tracker.desired().collect();
    kernel.add(&aside, &members)?;
    kernel.swap(name, &aside)?;
    kernel.destroy(&aside)
}
