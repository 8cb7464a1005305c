//! What a backend has to offer: desired sets and chains in, the kernel made equal to them.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    time::{Duration, Instant},
};

use super::{
    backend::Backend,
    driver::{ApplyReport, Failure, FilterError, Sizes},
    program::{Chain, ChainId},
    types::Family,
};
use crate::{
    ipset::{Entry, SetType},
    iptables::{ChainHits, Table},
    nft::Concern,
};

/// One backend. Everything but [`Kernel::refresh`] and [`Kernel::write`] only marks.
pub(crate) trait Kernel: Debug + Send {
    fn backend(&self) -> Backend;
    /// Which changes of others it should hear of, if the backend has events.
    fn concern(&self) -> Option<Concern>;

    /// Wants a set; keeps its members when it is already wanted or adopted.
    fn want(&mut self, set: &str, set_type: SetType, family: Family);
    /// Wants a set gone, once no rule refers to it.
    fn unwant(&mut self, set: &str);
    /// Wants exactly these members.
    fn replace(&mut self, set: &str, entries: Vec<Entry>);
    fn insert(&mut self, set: &str, entry: Entry);
    fn remove(&mut self, set: &str, entry: &Entry);
    /// An entry that is wanted in the group set `keep` is not to stay in another one, whoever put it
    /// there.
    fn displace(&mut self, keep: &str, entry: &Entry, family: Family);
    /// Whether the kernel has all of these entries.
    fn holds(&self, set: &str, entries: &[Entry]) -> bool;

    fn set_chain(&mut self, family: Family, chain: Chain);
    fn remove_chain(&mut self, family: Family, table: Table, id: &ChainId);
    /// Wants packets at this point to go through a chain of ours first.
    fn hook(&mut self, family: Family, table: Table, point: &'static str, target: &'static str);
    fn unhook(&mut self, family: Family, table: Table, point: &'static str);
    /// Whether the kernel has the chain, whatever is in it.
    fn has_chain(&self, family: Family, table: Table, id: &ChainId) -> bool;
    /// Groups that an earlier agent left whole, to which packets must stay dispatched until it is
    /// known that nobody needs them. None where dispatch does not go by chains.
    fn adopted_groups(&self, family: Family) -> Vec<String>;
    /// Whether these chains, the fixed ones and the hooks are in the kernel as desired.
    fn in_force(&self, chains: &[ChainId]) -> bool;

    /// Reads what is stale.
    fn refresh(&mut self, now: Instant, pass: &mut Pass) -> Refreshed;
    /// Makes the kernel equal to what is desired. What nobody wants stays unless `may_delete`.
    fn write(&mut self, may_delete: bool, now: Instant, pass: &mut Pass);
    /// Reads everything back before the next change.
    fn invalidate(&mut self);
    /// How often each rule of each chain matched, in order.
    fn counters(&mut self) -> Result<BTreeMap<Family, ChainHits>, FilterError>;
    /// How much is desired.
    fn sizes(&self) -> Sizes;
    /// Removes everything of ours in this backend; forgets what is desired.
    fn clean(&mut self) -> Result<(), FilterError>;
}

/// What came of [`Kernel::refresh`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refreshed {
    /// The kernel is known well enough to change it, for one family at least.
    pub(crate) usable: bool,
    /// Chains were read anew.
    pub(crate) read: bool,
}

/// What one pass did.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    pub(crate) batches: u32,
    pub(crate) chains_changed: usize,
    pub(crate) rules_written: usize,
    pub(crate) reads: u32,
    pub(crate) read_failures: u32,
    pub(crate) set_changes: usize,
    pub(crate) drift: usize,
    pub(crate) failures: Vec<Failure>,
    pub(crate) retry_at: Option<Instant>,
}

impl Pass {
    pub(crate) fn fail(&mut self, object: impl Into<String>, error: impl ToString) {
        self.failures.push(Failure {
            object: object.into(),
            error: error.to_string(),
        });
    }

    pub(crate) fn retry(&mut self, at: Instant) {
        self.retry_at = Some(self.retry_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(crate) fn report(self, now: Instant) -> ApplyReport {
        let wait = |at: Instant| -> Duration { at.saturating_duration_since(now) };
        ApplyReport {
            restores: self.batches,
            chains_changed: self.chains_changed,
            rules_written: self.rules_written,
            reads: self.reads,
            read_failures: self.read_failures,
            set_changes: self.set_changes,
            drift: self.drift,
            failures: self.failures,
            retry_in: self.retry_at.map(wait),
        }
    }
}
