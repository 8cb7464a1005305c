//! [`Nftables`]: the table as it should be and as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    dispatch::{Dispatch, PLACES},
    edge::{self, Edge},
    element::{Kind, Shape},
    names,
    parts::Parted,
    plan::{About, Backoff, Plan, blame},
    ports::PortSets,
    read::{Found, FoundChain, FoundSet, Hook},
    render::{self, Rule},
    set::Set,
    wire::{Message, Transaction, chain, rule, set as set_flags},
};
use crate::{
    filter::{
        Family, FilterError,
        kernel::Pass,
        program::{Chain, ChainId},
    },
    ipset::{Entry, SetType},
    iptables::{Rank, Table},
    netlink::NetlinkError,
};

/// How often a transaction is sent anew within one pass, each time without what was refused.
const ATTEMPTS: usize = 8;

/// Far longer than a packet takes through the rules.
const ON_ITS_WAY: Duration = Duration::from_millis(2);

/// Where packets come into a base chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct BaseHook {
    pub(super) number: u32,
    pub(super) priority: i32,
    pub(super) kind: &'static str,
}

impl BaseHook {
    fn of(table: Table, point: &str) -> Self {
        let number = match point {
            "PREROUTING" => 0,
            "INPUT" => 1,
            "FORWARD" => 2,
            "OUTPUT" => 3,
            _ => 4,
        };
        // Those of iptables.
        let (priority, kind) = match table {
            Table::Raw => (-300, "filter"),
            Table::Mangle => (-150, "filter"),
            Table::Filter => (0, "filter"),
            Table::Nat if matches!(point, "PREROUTING" | "OUTPUT") => (-100, "nat"),
            Table::Nat => (100, "nat"),
        };
        Self {
            number,
            priority,
            kind,
        }
    }

    pub(super) const fn place(self) -> Hook {
        (self.number, self.priority)
    }
}

/// A chain as it should be.
#[derive(Debug)]
pub(super) struct Desired {
    pub(super) rules: Vec<Rule>,
    pub(super) hook: Option<BaseHook>,
    pub(super) rank: Rank,
    /// Where its counters belong; base chains have none.
    pub(super) owner: Option<(Family, Table, ChainId)>,
    /// Which line of the program each rule is for.
    pub(super) lines: Vec<usize>,
}

impl Desired {
    fn found(&self) -> FoundChain {
        FoundChain {
            hook: self.hook.map(BaseHook::place),
            hashes: self.rules.iter().map(|rule| rule.hash.clone()).collect(),
        }
    }
}

/// Why not all was sent.
enum SendError {
    Edge(NetlinkError),
    Refused {
        objects: BTreeMap<About, String>,
        /// What concerns no single object.
        whole: Option<String>,
    },
}

/// Our table.
#[derive(Debug)]
pub(crate) struct Nftables {
    pub(super) edge: Box<dyn Edge>,
    pub(super) families: Vec<Family>,
    pub(super) desired: BTreeMap<String, Desired>,
    pub(super) hooks: BTreeMap<(Table, &'static str), BTreeMap<Family, &'static str>>,
    pub(super) kernel: BTreeMap<String, FoundChain>,
    pub(super) dirty: BTreeSet<String>,
    pub(super) sets: BTreeMap<String, Set>,
    pub(super) dirty_sets: BTreeSet<String>,
    pub(super) dispatch: BTreeMap<Family, Dispatch>,
    /// What there is of each set of addresses.
    pub(super) parts: Parted,
    pub(super) ports: PortSets,
    /// Chains that refer to sets of addresses.
    pub(super) programs: BTreeMap<String, (Family, Chain)>,
    /// What was read of sets and maps that nobody wants yet.
    pub(super) found: Found,
    /// Sets in our table that nobody wants.
    pub(super) strangers: BTreeSet<String>,
    pub(super) table: bool,
    /// A set is of another make than ours: the table is to be made anew as a whole.
    pub(super) misshapen: bool,
    pub(super) stale: bool,
    verified: bool,
    pub(super) refused: BTreeMap<About, Backoff>,
    pub(super) backoff: Option<Backoff>,
    pub(super) last_id: u32,
}

impl Nftables {
    pub(crate) fn open(families: &[Family]) -> Result<Self, FilterError> {
        Ok(Self::over(Box::new(edge::Kernel::open()?), families))
    }

    pub(super) fn over(edge: Box<dyn Edge>, families: &[Family]) -> Self {
        let dispatch = families
            .iter()
            .map(|family| (*family, Dispatch::new(*family)));
        Self {
            edge,
            dispatch: dispatch.collect(),
            families: families.to_vec(),
            desired: BTreeMap::new(),
            hooks: BTreeMap::new(),
            kernel: BTreeMap::new(),
            dirty: BTreeSet::new(),
            sets: BTreeMap::new(),
            dirty_sets: BTreeSet::new(),
            parts: Parted::default(),
            ports: PortSets::default(),
            programs: BTreeMap::new(),
            found: Found::default(),
            strangers: BTreeSet::new(),
            table: false,
            misshapen: false,
            stale: true,
            verified: false,
            refused: BTreeMap::new(),
            backoff: None,
            last_id: 0,
        }
    }

    /// Removes our table if it is there.
    pub(crate) fn clean_up() -> Result<(), FilterError> {
        let mut edge = edge::Kernel::open()?;
        let found = edge.read()?;
        if !found.table {
            return Ok(());
        }
        // A packet on its way still meets the rules, and is to find what they refer to.
        let mut out = Transaction::new();
        let bases = found.chains.iter().filter(|(_, c)| c.hook.is_some());
        for (name, _) in bases {
            let about = || About::Chain(name.clone());
            out.push(about(), Message::DelRule, 0, |m| {
                m.string(rule::CHAIN, name)
            });
            out.push(about(), Message::DelChain, 0, |m| {
                m.string(chain::NAME, name)
            });
        }
        let unhooked = edge.commit(&mut out)?;
        std::thread::sleep(ON_ITS_WAY);
        let mut out = Transaction::new();
        out.push(About::Table, Message::DelTable, 0, |_| {});
        let removed = edge.commit(&mut out)?;
        // Somebody else may have been faster.
        let errors = unhooked.into_iter().chain(removed);
        match errors
            .map(|(_, error)| error)
            .find(|error| !error.is_missing())
        {
            Some(error) => Err(NetlinkError::from(error).into()),
            None => Ok(()),
        }
    }

    pub(super) fn want_chain(&mut self, name: String, desired: Desired) {
        let found = desired.found();
        let changed = self.desired.get(&name).map(Desired::found).as_ref() != Some(&found);
        if changed {
            self.refused.remove(&About::Chain(name.clone()));
        }
        match self.kernel.get(&name) == Some(&found) {
            true => self.dirty.remove(&name),
            false => self.dirty.insert(name.clone()),
        };
        self.ports.hold(&desired.rules);
        if let Some(before) = self.desired.insert(name, desired) {
            self.ports.release(&before.rules);
        }
    }

    pub(super) fn unwant_chain(&mut self, name: String) {
        if let Some(before) = self.desired.remove(&name) {
            self.ports.release(&before.rules);
            self.refused.remove(&About::Chain(name.clone()));
            match self.kernel.contains_key(&name) {
                true => self.dirty.insert(name),
                false => self.dirty.remove(&name),
            };
        }
    }

    /// The sets that stand for an ipset: for workloads there are two.
    pub(super) fn kinds_of(name: &str, set_type: SetType, family: Family) -> Vec<(String, Kind)> {
        let kind = |shape| Kind {
            shape,
            family,
            map: false,
        };
        match set_type {
            SetType::Net => vec![
                (names::set(name, false), kind(Shape::Hosts)),
                (names::set(name, true), kind(Shape::Nets)),
            ],
            SetType::NetPort => vec![(names::set(name, false), kind(Shape::Services))],
            SetType::NetIface => vec![
                (names::set(name, false), kind(Shape::Workloads)),
                (names::set(name, true), kind(Shape::WorkloadNets)),
            ],
        }
    }

    /// The set that an entry of an ipset belongs into.
    pub(super) fn set_of(name: &str, entry: &Entry) -> String {
        let net = entry.net();
        let width = if net.is_ipv4() { 32 } else { 128 };
        let prefixes = !matches!(entry, Entry::NetPort(..)) && net.prefix() != width;
        names::set(name, prefixes)
    }

    pub(super) fn edit(&mut self, name: String, change: impl FnOnce(&mut Set)) {
        if let Some(set) = self.sets.get_mut(&name) {
            change(set);
            if !set.in_sync() {
                self.refused.remove(&About::Set(name.clone()));
                self.dirty_sets.insert(name);
            }
        }
    }

    pub(super) fn base(&mut self, table: Table, point: &'static str) {
        let name = names::base_chain(table, point);
        let Some(targets) = self.hooks.get(&(table, point)).filter(|t| !t.is_empty()) else {
            return self.unwant_chain(name);
        };
        let chain = |(family, target): (&Family, &&'static str)| {
            let id = ChainId::Fixed(target);
            (*family, names::chain(*family, table, &id))
        };
        let chains: Vec<(Family, String)> = targets.iter().map(chain).collect();
        let targets = chains
            .iter()
            .map(|(family, chain)| (*family, chain.as_str()));
        let desired = Desired {
            rules: render::base(&name, table, targets),
            hook: Some(BaseHook::of(table, point)),
            rank: Rank::Base,
            owner: None,
            lines: Vec::new(),
        };
        self.want_chain(name, desired);
    }

    /// Takes over what was read; counts what differs from what was left behind.
    fn adopt(&mut self, mut found: Found) -> usize {
        let mut drift = 0;
        let before = std::mem::replace(&mut self.kernel, std::mem::take(&mut found.chains));
        let names: BTreeSet<&String> = before.keys().chain(self.kernel.keys()).collect();
        drift += names
            .into_iter()
            .filter(|name| before.get(*name) != self.kernel.get(*name))
            .count();
        self.dirty = self
            .kernel
            .keys()
            .chain(self.desired.keys())
            .cloned()
            .collect();
        self.dirty.retain(|name| {
            self.kernel.get(name) != self.desired.get(name).map(Desired::found).as_ref()
        });
        self.table = found.table;
        self.misshapen = false;
        for (name, set) in self.sets.iter_mut().filter(|(_, set)| set.wanted) {
            let read = found.sets.remove(name);
            self.misshapen |= read.as_ref().is_some_and(|found| !is_of(set.kind, found));
            let was_there = set.exists;
            drift += set.adopt(read.as_ref().map(|found| found.members.as_slice()));
            drift += usize::from(was_there != set.exists);
        }
        for dispatch in self.dispatch.values_mut() {
            for place in PLACES {
                let read = found.sets.remove(&dispatch.name(place));
                let kind = dispatch.kind(place);
                self.misshapen |= read.as_ref().is_some_and(|found| !is_of(kind, found));
                let was_there = dispatch.exists(place);
                let members = read.as_ref().map(|found| found.members.as_slice());
                drift += dispatch.adopt(place, members);
                drift += usize::from(was_there != dispatch.exists(place));
            }
        }
        self.sets.retain(|_, set| set.wanted);
        let (changed, damaged) = self.ports.adopt(&mut found.sets);
        drift += changed;
        self.misshapen |= damaged;
        let strangers: BTreeSet<String> = found.sets.keys().cloned().collect();
        drift += strangers.difference(&self.strangers).count();
        self.strangers = strangers;
        self.dirty_sets = self.sets.keys().cloned().collect();
        let sets = &self.sets;
        self.dirty_sets
            .retain(|name| sets.get(name).is_some_and(|set| !set.in_sync()));
        self.found = found;
        let drift = if self.verified { drift } else { 0 };
        self.stale = false;
        self.verified = true;
        drift
    }

    /// Reads the table. False when that failed.
    pub(super) fn read(&mut self, now: Instant, pass: &mut Pass) -> bool {
        pass.reads += 1;
        match self.edge.read() {
            Ok(found) => {
                pass.drift += self.adopt(found);
                true
            }
            Err(error) => {
                pass.read_failures += 1;
                self.fail(error.to_string(), now);
                false
            }
        }
    }

    fn fail(&mut self, error: String, now: Instant) {
        self.backoff = Some(Backoff::after(self.backoff.as_ref(), error, now));
        self.stale = true;
    }

    /// Sends what differs; what is refused is left out the next time.
    pub(super) fn send(&mut self, may_delete: bool, now: Instant, pass: &mut Pass) {
        for attempt in 0..ATTEMPTS {
            let plan = self.plan_or_anew(may_delete, now);
            if plan.is_empty() {
                // Also after an answer that was lost although all was done.
                self.backoff = None;
                return;
            }
            match self.send_stages(plan, may_delete, pass) {
                Ok(()) => {
                    // What was left out before stays refused, and all else is done.
                    self.backoff = None;
                    return;
                }
                Err(SendError::Edge(error)) => return self.fail(error.to_string(), now),
                Err(SendError::Refused { objects, whole }) => {
                    // The first time the reason may be that the kernel is not as we think.
                    if !self.read(now, pass) {
                        return;
                    }
                    if attempt == 0 {
                        continue;
                    }
                    if objects.is_empty() {
                        let unnamed = || "refused without a reason".to_owned();
                        return self.fail(whole.unwrap_or_else(unnamed), now);
                    }
                    for (about, error) in objects {
                        let backoff = Backoff::after(self.refused.get(&about), error, now);
                        self.refused.insert(about, backoff);
                    }
                }
            }
        }
        self.fail("refused in whatever part it is sent".to_owned(), now);
    }

    fn send_stages(
        &mut self,
        plan: Plan,
        may_delete: bool,
        pass: &mut Pass,
    ) -> Result<(), SendError> {
        let is_new_base = |name: &String| {
            let hook = self.desired.get(name).and_then(|chain| chain.hook);
            hook.is_some() && !self.kernel.contains_key(name)
        };
        let mut has_rules = false;
        for stage in plan.stages(is_new_base) {
            let mut out = self.messages(&stage);
            let errors = self.edge.commit(&mut out).map_err(SendError::Edge)?;
            if !errors.is_empty() {
                let (objects, whole) = blame(&out, &errors);
                return Err(SendError::Refused { objects, whole });
            }
            has_rules |= stage.has_rules();
            self.note(stage, pass);
        }
        pass.batches += u32::from(has_rules);
        self.settle(may_delete);
        Ok(())
    }

    fn plan_or_anew(&mut self, may_delete: bool, now: Instant) -> Plan {
        if !(self.misshapen && may_delete) {
            return self.plan(may_delete, now);
        }
        self.adopt(Found::default());
        Plan {
            anew: true,
            ..self.plan(may_delete, now)
        }
    }

    /// The kernel took a plan, or a part of one.
    fn note(&mut self, plan: Plan, pass: &mut Pass) {
        pass.chains_changed += plan.write.len() + plan.delete.len();
        pass.set_changes += plan.set_changes();
        self.table = true;
        for name in plan.write {
            if let Some(chain) = self.desired.get(&name) {
                pass.rules_written += chain.rules.len();
                self.kernel.insert(name.clone(), chain.found());
            }
            self.dirty.remove(&name);
            self.refused.remove(&About::Chain(name));
        }
        for name in plan.stub {
            let stub = FoundChain {
                hook: None,
                hashes: vec![self.stub(&name).hash],
            };
            self.kernel.insert(name, stub);
        }
        for name in plan.delete {
            self.kernel.remove(&name);
            self.dirty.remove(&name);
        }
        for name in plan.make_sets {
            self.ports.note(&name, true);
            self.edit(name, |set| set.exists = true);
        }
        for (name, changes) in plan.sets {
            self.edit(name, |set| set.done(&changes));
        }
        let sets = &self.sets;
        self.dirty_sets
            .retain(|name| sets.get(name).is_some_and(|set| !set.in_sync()));
        for name in plan.delete_sets {
            self.ports.note(&name, false);
            self.sets.remove(&name);
            self.dirty_sets.remove(&name);
            self.strangers.remove(&name);
            self.found.sets.remove(&name);
        }
        for (family, place) in plan.make_maps {
            if let Some(dispatch) = self.dispatch.get_mut(&family) {
                dispatch.made(place);
            }
        }
        for (family, place, changes) in plan.maps {
            if let Some(dispatch) = self.dispatch.get_mut(&family) {
                dispatch.done(place, changes);
            }
            self.refused.remove(&About::Map(family, place));
        }
    }

    /// All of a plan was done.
    fn settle(&mut self, may_delete: bool) {
        for (family, dispatch) in &mut self.dispatch {
            let refused = |place| self.refused.contains_key(&About::Map(*family, place));
            if !PLACES.into_iter().any(refused) {
                dispatch.settle(may_delete);
            }
        }
    }

    /// Whether something is not as desired.
    fn is_pending(&self, about: &About) -> bool {
        match about {
            About::Table => !self.table,
            About::Chain(name) => self.dirty.contains(name),
            About::Set(name) => {
                let others = &self.strangers;
                self.dirty_sets.contains(name) || others.contains(name) || self.ports.is_dirty(name)
            }
            About::Map(family, _) => {
                let dispatch = self.dispatch.get(family);
                dispatch.is_some_and(|dispatch| !dispatch.in_sync())
            }
        }
    }

    pub(super) fn report(&mut self, pass: &mut Pass) {
        let settled = self.refused.keys().filter(|about| !self.is_pending(about));
        for about in settled.cloned().collect::<Vec<_>>() {
            self.refused.remove(&about);
        }
        for (about, backoff) in &self.refused {
            pass.fail(about.object(), &backoff.error);
            pass.retry(backoff.until);
        }
        if let Some(backoff) = &self.backoff {
            pass.fail(About::Table.object(), &backoff.error);
            pass.retry(backoff.until);
        }
    }
}

/// Whether a set is of the make that we give it.
pub(super) fn is_of(kind: Kind, found: &FoundSet) -> bool {
    let make = set_flags::INTERVAL | set_flags::CONCAT | set_flags::MAP;
    found.flags & make == kind.flags() & make && found.key_len == kind.key_len()
}
