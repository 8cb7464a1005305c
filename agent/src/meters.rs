//! What the parts of the agent count about their own work, for monitoring to read.
//!
//! Whoever does the work writes, `metrics` reads. Nothing here decides anything, so that numbers which are a moment
//! apart do no harm: there is no lock around them as a whole.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use margay_model::kind::Kind;
use margay_speaker::carry::Outcome;

/// Observations that quantiles are taken of: the last so many. At one a second it is what happened in the last
/// minutes, as with the established system's window of ten.
const WINDOW: usize = 500;

/// Quantiles that are told.
pub(crate) const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Observations: how many there were, their sum, and the last of them.
#[derive(Debug, Default)]
pub(crate) struct Observed(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    last: VecDeque<f64>,
    sum: f64,
    count: u64,
}

/// [`Observed`] at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    /// The value below which each of [`QUANTILES`] lies; none while nothing was observed.
    pub(crate) quantiles: Vec<f64>,
    pub(crate) sum: f64,
    pub(crate) count: u64,
}

impl Observed {
    /// Takes one in. The lock is for two numbers and a ring; nothing else is done under it.
    pub(crate) fn observe(&self, value: f64) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.last.len() == WINDOW {
            window.last.pop_front();
        }
        window.last.push_back(value);
        window.sum += value;
        window.count += 1;
    }

    pub(crate) fn took(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    pub(crate) fn summary(&self) -> Summary {
        let (mut last, sum, count) = {
            let window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let last: Vec<f64> = window.last.iter().copied().collect();
            (last, window.sum, window.count)
        };
        last.sort_by(f64::total_cmp);
        let at = |quantile: f64| {
            // The nearest rank: the smallest value that so many are not above.
            let rank = (quantile * last.len() as f64).ceil() as usize;
            last.get(rank.max(1) - 1).copied()
        };
        Summary {
            quantiles: QUANTILES.into_iter().filter_map(at).collect(),
            sum,
            count,
        }
    }
}

/// How many resources there are in the cluster, of the kinds that monitoring asks about.
#[derive(Debug)]
pub(crate) struct Census(BTreeMap<Kind, Gauge>);

impl Default for Census {
    fn default() -> Self {
        let kinds = [
            Kind::Node,
            Kind::WorkloadEndpoint,
            Kind::HostEndpoint,
            Kind::NetworkPolicy,
            Kind::GlobalNetworkPolicy,
            Kind::Profile,
            Kind::Tier,
        ];
        Self(kinds.map(|kind| (kind, Gauge::default())).into())
    }
}

impl Census {
    /// A resource came or went; one that was only changed is counted already.
    pub(crate) fn changed(&self, kind: Kind, was: bool, is: bool) {
        let Some(count) = self.0.get(&kind) else {
            return;
        };
        // One task writes, so that nothing can come between the two.
        match (was, is) {
            (false, true) => count.set(count.value() + 1),
            (true, false) => count.set(count.value().saturating_sub(1)),
            _ => {}
        }
    }

    pub(crate) fn of(&self, kinds: &[Kind]) -> u64 {
        let counts = kinds.iter().filter_map(|kind| self.0.get(kind));
        counts.map(Gauge::value).sum()
    }
}

/// Calls of one command of CNI.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) failed: Counter,
    pub(crate) seconds: Observed,
}

/// Commands of CNI; whatever else somebody sends is not told apart.
const COMMANDS: [&str; 6] = ["ADD", "CHECK", "DEL", "GC", "STATUS", "other"];

/// Everything that is counted.
#[derive(Debug)]
pub(crate) struct Meters {
    /// Seconds of calculating policy, for each batch of changes.
    pub(crate) calculation: Observed,
    /// Resources of the cluster.
    pub(crate) census: Census,
    /// Seconds of programming the kernel, for each round.
    pub(crate) apply: Observed,
    /// Messages taken together in a round.
    pub(crate) batch: Observed,
    /// Of these, what the kernel said of interfaces, and of addresses, each time it said something of them.
    pub(crate) link_batch: Observed,
    pub(crate) address_batch: Observed,
    /// Seconds of reading all routes back.
    pub(crate) route_look: Observed,
    /// Rounds after which something was not as desired.
    pub(crate) apply_failures: Counter,
    /// Rounds after which rules or sets were not as desired.
    pub(crate) rule_failures: Counter,
    /// Sets that the kernel refuses, each time.
    pub(crate) set_failures: Counter,
    /// How often the datastore was listed as a whole.
    pub(crate) lists: Counter,
    /// Runs of `iptables-restore`, or batches with rules for nf_tables.
    pub(crate) rule_writes: Counter,
    /// Chains written or removed.
    pub(crate) chains_changed: Counter,
    /// Rules in the chains that were written.
    pub(crate) rules_written: Counter,
    /// How often rules were read back, and how often that failed.
    pub(crate) rule_reads: Counter,
    pub(crate) rule_read_failures: Counter,
    /// Sets made or removed, members added or removed.
    pub(crate) set_changes: Counter,
    /// Rules and sets that differed from what was written.
    pub(crate) rule_drift: Counter,
    /// Routes that differed from what was written.
    pub(crate) route_drift: Counter,
    /// Connections that a change of policy ended.
    pub(crate) connections_ended: Counter,
    /// How often connections could not be read or marked as policy wants.
    pub(crate) connection_failures: Counter,
    /// Other hosts that packets are encrypted to.
    pub(crate) encrypted_hosts: Gauge,
    /// Kernel switches, host ends of containers, and parts of tunnel devices that did.
    pub(crate) switch_drift: Counter,
    pub(crate) interface_drift: Counter,
    pub(crate) tunnel_drift: Counter,
    /// Policies in the kernel.
    pub(crate) policies: Gauge,
    /// Profiles in the kernel.
    pub(crate) profiles: Gauge,
    /// Sets of addresses that rules of this host need.
    pub(crate) sets: Gauge,
    /// Chains, the rules in them, and all sets, with those that no policy asks for.
    pub(crate) chains: Gauge,
    pub(crate) rules: Gauge,
    pub(crate) all_sets: Gauge,
    /// Addresses without an endpoint that are watched before they are given back.
    pub(crate) leak_suspects: Gauge,
    /// Addresses that were given back so.
    pub(crate) leaks_freed: Counter,
    /// What became of the sessions of the process before, once it is decided.
    pub(crate) handover: OnceLock<Outcome>,
    calls: BTreeMap<&'static str, Calls>,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            calculation: Observed::default(),
            census: Census::default(),
            apply: Observed::default(),
            batch: Observed::default(),
            link_batch: Observed::default(),
            address_batch: Observed::default(),
            route_look: Observed::default(),
            apply_failures: Counter::default(),
            rule_failures: Counter::default(),
            set_failures: Counter::default(),
            lists: Counter::default(),
            rule_writes: Counter::default(),
            chains_changed: Counter::default(),
            rules_written: Counter::default(),
            rule_reads: Counter::default(),
            rule_read_failures: Counter::default(),
            set_changes: Counter::default(),
            rule_drift: Counter::default(),
            route_drift: Counter::default(),
            connections_ended: Counter::default(),
            connection_failures: Counter::default(),
            encrypted_hosts: Gauge::default(),
            switch_drift: Counter::default(),
            interface_drift: Counter::default(),
            tunnel_drift: Counter::default(),
            policies: Gauge::default(),
            profiles: Gauge::default(),
            sets: Gauge::default(),
            chains: Gauge::default(),
            rules: Gauge::default(),
            all_sets: Gauge::default(),
            leak_suspects: Gauge::default(),
            leaks_freed: Counter::default(),
            handover: OnceLock::new(),
            calls: COMMANDS.map(|name| (name, Calls::default())).into(),
        }
    }
}

impl Meters {
    /// What somebody else had changed in the kernel and was put right, by what it was.
    pub(crate) fn drift(&self) -> [(&'static str, u64); 5] {
        [
            ("rules", self.rule_drift.value()),
            ("routes", self.route_drift.value()),
            ("switches", self.switch_drift.value()),
            ("interfaces", self.interface_drift.value()),
            ("tunnels", self.tunnel_drift.value()),
        ]
    }

    /// A call of the CNI shim was answered.
    pub(crate) fn called(&self, command: &str, time: Duration, failed: bool) {
        let calls = self.calls.get(command).or_else(|| self.calls.get("other"));
        if let Some(calls) = calls {
            calls.seconds.took(time);
            calls.failed.add(u64::from(failed));
        }
    }

    /// Calls of the CNI shim by command, of those that came.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (&'static str, &Calls, Summary)> {
        let calls = self.calls.iter();
        calls
            .map(|(name, calls)| (*name, calls, calls.seconds.summary()))
            .filter(|(_, _, summary)| summary.count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_last_observations_and_the_sum_is_of_all() {
        let observed = Observed::default();
        assert_eq!(observed.summary(), Summary::default());
        for value in 1..=600 {
            observed.observe(f64::from(value));
        }
        let summary = observed.summary();
        // The last 500: 101 to 600.
        assert_eq!(summary.quantiles, [350.0, 550.0, 595.0]);
        assert_eq!((summary.sum, summary.count), (180_300.0, 600));
    }

    #[test]
    fn the_census_counts_what_comes_and_goes_and_not_what_changes() {
        let census = Census::default();
        for (was, is) in [(false, true), (false, true), (true, true), (true, false)] {
            census.changed(Kind::NetworkPolicy, was, is);
        }
        census.changed(Kind::GlobalNetworkPolicy, false, true);
        census.changed(Kind::IpPool, false, true);
        let policies = [Kind::NetworkPolicy, Kind::GlobalNetworkPolicy];
        assert_eq!(census.of(&policies), 2);
        assert_eq!(census.of(&[Kind::IpPool]), 0);
    }

    #[test]
    fn calls_are_told_apart_by_the_commands_that_there_are() {
        let meters = Meters::default();
        meters.called("ADD", Duration::from_millis(2), false);
        meters.called("whatever", Duration::from_millis(1), true);
        let told: Vec<_> = meters
            .calls()
            .map(|(name, calls, summary)| (name, calls.failed.value(), summary.count))
            .collect();
        assert_eq!(told, [("ADD", 0, 1), ("other", 1, 1)]);
    }
}
