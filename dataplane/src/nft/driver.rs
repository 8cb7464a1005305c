//! [`Nftables`]: the table as it should be and as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    base::BaseHook,
    dispatch::Dispatch,
    edge::{self, Edge},
    element::{Kind, Shape},
    names,
    parts::Parted,
    plan::{About, Backoff},
    ports::PortSets,
    read::{Found, FoundChain},
    render::Rule,
    set::Set,
    wire::{Message, Transaction, chain, rule},
};
use crate::{
    filter::{
        Family, FilterError,
        program::{Chain, ChainId, Line},
    },
    ipset::{Entry, SetType},
    iptables::{Rank, Table},
    netlink::NetlinkError,
};

/// Far longer than a packet takes through the rules.
const ON_ITS_WAY: Duration = Duration::from_millis(2);

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
    pub(super) fn found(&self) -> FoundChain {
        FoundChain {
            hook: self.hook.map(BaseHook::place),
            hashes: self.rules.iter().map(|rule| rule.hash.clone()).collect(),
        }
    }
}

/// Our table.
#[derive(Debug)]
pub(crate) struct Nftables {
    pub(super) edge: Box<dyn Edge>,
    pub(super) families: Vec<Family>,
    pub(super) desired: BTreeMap<String, Desired>,
    pub(super) hooks: BTreeMap<(Table, &'static str), BTreeMap<Family, &'static str>>,
    /// What base chains ask for these.
    pub(super) short_cuts: BTreeMap<String, Vec<Line>>,
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
    pub(super) verified: bool,
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
            short_cuts: BTreeMap::new(),
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
}
