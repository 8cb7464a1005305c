//! [`Filter`]: the one object that the owner of the dataplane holds.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use super::{
    names,
    sets::{Sets, SetsReport},
    state::{Families, RulesHits, RulesId, State},
    types::{
        Endpoint, EndpointId, Family, Globals, HostEndpoint, HostInterface, PolicyId, PolicyRules,
        ProfileId, SetId, SetMember, SetSpec,
    },
};
use crate::{
    ipset::{IfName, IpsetError, IpsetSocket},
    iptables::{Backend, BackendError, Programs, RestoreError, Tables, TablesReport},
};

/// How to reach the kernel.
#[derive(Clone, Debug)]
pub struct Config {
    /// Variant of iptables; detected when absent.
    pub backend: Option<Backend>,
    /// Program IPv6 as well. Off only where the kernel has no IPv6.
    pub ipv6: bool,
    /// The iptables programs.
    pub programs: Programs,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: None,
            ipv6: true,
            programs: Programs::default(),
        }
    }
}

/// Why a filter could not be opened, or an input not be taken. The caller corrects the input;
/// nothing is retried here.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// No usable iptables.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// No ip sets.
    #[error(transparent)]
    Ipset(#[from] IpsetError),
    /// Cleaning up failed.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A bad interface name.
    #[error(
        "endpoint {endpoint}: interface \"{ifname}\" must start with \"{prefix}\", have up to 15 bytes and no blank, slash or colon"
    )]
    Interface {
        /// Endpoint.
        endpoint: EndpointId,
        /// What was given.
        ifname: String,
        /// The prefix in force.
        prefix: String,
    },
    /// A bad prefix.
    #[error("interface prefix \"{0}\" must have 1 to 14 of the characters A-Z a-z 0-9 _ . -")]
    InterfacePrefix(String),
    /// Too few mark bits.
    #[error("mark mask {0:#x} must have at least two bits")]
    MarkMask(u32),
}

/// Something that could not be made so; it stays wanted and is retried.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The chain, the set, or the family's tables as a whole.
    pub object: String,
    /// One line.
    pub error: String,
}

/// What one [`Filter::apply`] did.
#[derive(Clone, Debug, Default)]
pub struct ApplyReport {
    /// Runs of `iptables-restore`; 0 when only set members changed.
    pub restores: u32,
    /// Chains written or deleted.
    pub chains_changed: usize,
    /// Sets made or destroyed, members added or deleted.
    pub set_changes: usize,
    /// Differences from what was left behind, found by a resync; repaired in the same apply.
    pub drift: usize,
    /// What is not as desired.
    pub failures: Vec<Failure>,
    /// When to call [`Filter::apply`] again even if nothing changes.
    pub retry_in: Option<Duration>,
}

impl ApplyReport {
    /// The kernel is as desired. Work that only waits (a set to be destroyed that is still
    /// referenced) counts as done.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.failures.is_empty()
    }
}

/// The driver. Every `set_*` and `remove_*` only marks; [`Filter::apply`] changes the kernel.
///
/// Blocking and without locks: hold it in the dataplane's own thread, or call [`Filter::apply`]
/// under `spawn_blocking`/`block_in_place`. Member changes take microseconds; rule changes run one
/// program per family (both in parallel) for some milliseconds.
#[derive(Debug)]
pub struct Filter {
    backend: Backend,
    programs: Programs,
    state: State,
    sets: Sets,
    tables: Families,
    may_delete: bool,
    /// The variant not in use may still hold rules of ours.
    other_backend_unclean: bool,
    /// That it was cleaned did not work out; tried again at the next resync.
    other_backend_failed: bool,
}

impl Filter {
    /// Opens the filter in the calling thread's network namespace. Reads, writes nothing.
    ///
    /// # Errors
    /// When no variant of iptables is installed or the netlink socket cannot be made.
    pub fn open(config: Config) -> Result<Self, FilterError> {
        let backend = match config.backend {
            Some(backend) => backend,
            None => Backend::detect(&config.programs)?,
        };
        let mut families = vec![Family::V4];
        families.extend(config.ipv6.then_some(Family::V6));
        let tables = families
            .iter()
            .map(|family| (*family, Tables::new(backend, *family)));
        let mut sets = Sets::new(IpsetSocket::open()?);
        Ok(Self {
            backend,
            programs: config.programs,
            tables: tables.collect(),
            state: State::new(families, &mut sets),
            sets,
            may_delete: false,
            other_backend_unclean: true,
            other_backend_failed: false,
        })
    }

    /// The variant in use.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Sets everything that is not per policy or endpoint.
    ///
    /// # Errors
    /// When a value is out of range; nothing is changed then.
    pub fn set_globals(&mut self, globals: Globals) -> Result<(), FilterError> {
        let prefix = &globals.interface_prefix;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if !(1..=14).contains(&prefix.len()) || !prefix.bytes().all(plain) {
            return Err(FilterError::InterfacePrefix(prefix.clone()));
        }
        if globals.mark_mask.count_ones() < 2 {
            return Err(FilterError::MarkMask(globals.mark_mask));
        }
        self.state.set_globals(globals);
        Ok(())
    }

    /// Adds or replaces a set.
    pub fn set_ipset(&mut self, id: SetId, spec: SetSpec) {
        self.state.set_ipset(&mut self.sets, id, spec);
    }

    /// Changes members of a set; costs only the changes. False when the set is not known.
    pub fn update_ipset(
        &mut self,
        id: &SetId,
        add: impl IntoIterator<Item = SetMember>,
        remove: impl IntoIterator<Item = SetMember>,
    ) -> bool {
        self.state.update_ipset(&mut self.sets, id, add, remove)
    }

    /// Takes all members out of a set, which stays: for one that may be needed again soon.
    pub fn empty_ipset(&mut self, id: &SetId) {
        self.state.empty_ipset(&mut self.sets, id);
    }

    /// Removes a set. Policies that still refer to it drop everything.
    pub fn remove_ipset(&mut self, id: &SetId) {
        self.state.remove_ipset(&mut self.sets, id);
    }

    /// Adds or replaces a policy.
    pub fn set_policy(&mut self, id: PolicyId, rules: PolicyRules) {
        self.state.set_rules(RulesId::Policy(id), rules);
    }

    /// Removes a policy. Endpoints that still refer to it drop what reaches it.
    pub fn remove_policy(&mut self, id: &PolicyId) {
        self.state.remove_rules(&RulesId::Policy(id.clone()));
    }

    /// Adds or replaces a profile.
    pub fn set_profile(&mut self, id: ProfileId, rules: PolicyRules) {
        self.state.set_rules(RulesId::Profile(id), rules);
    }

    /// Removes a profile. Endpoints that still refer to it drop what reaches it.
    pub fn remove_profile(&mut self, id: &ProfileId) {
        self.state.remove_rules(&RulesId::Profile(id.clone()));
    }

    /// Adds or replaces an endpoint. When its group exists, the next apply runs no program.
    ///
    /// # Errors
    /// When the interface name is not a workload's; nothing is changed then.
    pub fn set_endpoint(&mut self, id: EndpointId, endpoint: Endpoint) -> Result<(), FilterError> {
        let prefix = &self.state.globals().interface_prefix;
        let ifname = &endpoint.ifname;
        if IfName::new(ifname).is_none() || !ifname.starts_with(prefix.as_str()) {
            let (ifname, prefix) = (ifname.clone(), prefix.clone());
            return Err(FilterError::Interface {
                endpoint: id,
                ifname,
                prefix,
            });
        }
        self.state.set_endpoint(&mut self.sets, id, endpoint);
        Ok(())
    }

    /// Removes an endpoint; its addresses drop from the next apply on.
    pub fn remove_endpoint(&mut self, id: &EndpointId) {
        self.state.remove_endpoint(&mut self.sets, id);
    }

    /// Sets all endpoints of the host itself. They come into force with [`Filter::allow_deletes`].
    /// Interfaces whose names no interface can have are left out, and so are those of workloads.
    pub fn set_hosts(&mut self, mut hosts: BTreeMap<HostInterface, HostEndpoint>) {
        let prefix = &self.state.globals().interface_prefix;
        hosts.retain(|interface, _| match interface {
            HostInterface::Named(name) => {
                let plain =
                    |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'+');
                let usable = IfName::new(name).is_some()
                    && name.bytes().all(plain)
                    && !name.starts_with(['!', '-'])
                    && !name.starts_with(prefix.as_str());
                if !usable {
                    tracing::warn!(
                        name,
                        "no interface of the host can have this name; left out"
                    );
                }
                usable
            }
            HostInterface::All => true,
        });
        self.state.set_hosts(hosts);
    }

    /// The endpoint as last set.
    #[must_use]
    pub fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.state.endpoint(id)
    }

    /// What each rule matched, read from the kernel: two runs of a program, at once.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn counters(&self) -> Result<Vec<RulesHits>, FilterError> {
        let (programs, backend) = (&self.programs, self.backend);
        let read = |family: Family| (family, programs.counters(backend, family));
        let mut kernel = BTreeMap::new();
        for (family, chains) in parallel(self.tables.keys().copied(), read) {
            kernel.insert(family, chains?);
        }
        Ok(self.state.hits(&kernel))
    }

    /// Whether the kernel has all that concerns this endpoint: its members, its group's chains with
    /// every policy and profile in them, the dispatch and the fixed chains. What an attachment waits
    /// for; failures of other objects do not matter. An unknown endpoint is not in force.
    #[must_use]
    pub fn in_force(&self, id: &EndpointId) -> bool {
        self.state.in_force(id, &self.sets, &self.tables)
    }

    /// The desired state is complete: from the next apply on, what is ours and not desired goes.
    pub fn allow_deletes(&mut self) {
        if !self.may_delete {
            self.may_delete = true;
            self.state.mark_structure();
        }
    }

    /// Makes the next apply read everything back and repair it. To be called every minute or so.
    pub fn resync(&mut self) {
        self.other_backend_unclean |= self.other_backend_failed;
        self.sets.invalidate();
        for tables in self.tables.values_mut() {
            tables.invalidate();
        }
    }

    /// Drops groups without endpoints, which are kept because their next endpoint then needs no
    /// program to run. To be called every ten minutes or so.
    pub fn sweep(&mut self) {
        if self.may_delete {
            self.state.sweep_groups(&mut self.sets);
        }
    }

    /// Makes the kernel equal to the desired state, as far as it goes; see [`ApplyReport`].
    pub fn apply(&mut self) -> ApplyReport {
        let now = Instant::now();
        let mut sets = SetsReport::default();
        let mut tables: Vec<TablesReport> = Vec::new();
        tables.resize_with(self.tables.len(), TablesReport::default);
        let readable = self.refresh(now, &mut sets, &mut tables);
        if readable.iter().any(|ok| *ok) {
            self.state
                .flush(&mut self.sets, &mut self.tables, self.may_delete);
        }
        self.sets.add(self.may_delete, now, &mut sets);
        self.write_tables(&readable, now, &mut tables);
        for (family, report) in self.tables.values().zip(&mut tables) {
            family.report(report);
        }
        self.remove_from_sets(now, &mut sets, &tables);
        self.sets.report(&mut sets);
        let report = collect(now, sets, tables);
        if self.may_delete && self.other_backend_unclean && report.is_ok() {
            self.clean_other_backend();
        }
        report
    }

    /// Reads what is stale; tells for each family whether its tables are known.
    fn refresh(
        &mut self,
        now: Instant,
        sets: &mut SetsReport,
        tables: &mut [TablesReport],
    ) -> Vec<bool> {
        let sets_known = self.sets.refresh(now, sets);
        // The usual case: nothing to read, no threads to start.
        if self.tables.values().all(Tables::is_readable) {
            return vec![sets_known; self.tables.len()];
        }
        let was_stale = self.tables.values().any(Tables::is_stale);
        let programs = &self.programs;
        let families = self.tables.values_mut().zip(tables);
        let known = parallel(families, |(tables, report)| {
            tables.refresh(programs, now, report)
        });
        if was_stale && !self.may_delete {
            self.state.mark_structure();
        }
        known.into_iter().map(|known| known && sets_known).collect()
    }

    fn write_tables(&mut self, readable: &[bool], now: Instant, reports: &mut [TablesReport]) {
        let (programs, may_delete) = (&self.programs, self.may_delete);
        let families = self.tables.values_mut().zip(reports).zip(readable);
        let ready = families.filter(|((tables, _), ok)| **ok && !tables.in_sync());
        parallel(ready, |((tables, report), _)| {
            tables.apply(programs, may_delete, now, report)
        });
    }

    /// Members out, then sets. Where the chains of groups are not in place, an endpoint keeps its
    /// earlier group so that it keeps its earlier verdict.
    fn remove_from_sets(&mut self, now: Instant, report: &mut SetsReport, tables: &[TablesReport]) {
        let broken: Vec<Family> = self
            .tables
            .keys()
            .zip(tables)
            .filter(|(_, report)| report.structure_failed)
            .map(|(family, _)| *family)
            .collect();
        let eligible =
            |name: &str, family: Family| !(broken.contains(&family) && names::is_group_set(name));
        self.sets.delete(self.may_delete, eligible, now, report);
        if self.may_delete {
            self.sets.destroy(now, report);
        }
    }

    fn clean_other_backend(&mut self) {
        let other = self.backend.other();
        self.other_backend_unclean = false;
        self.other_backend_failed = false;
        for family in self.tables.keys() {
            if let Err(error) = Tables::new(other, *family).clean(&self.programs) {
                // A variant that is not installed holds nothing that could be removed with it.
                tracing::debug!(%error, backend = other.name(), "other iptables variant not cleaned");
                self.other_backend_failed |= !error.is_not_installed();
            }
        }
    }

    /// Removes everything of ours from the kernel, in both variants. The desired state is forgotten:
    /// the filter is as new.
    ///
    /// # Errors
    /// The first failure; what was removed before stays removed.
    pub fn clean(&mut self) -> Result<(), FilterError> {
        for (family, tables) in &mut self.tables {
            tables.clean(&self.programs)?;
            *tables = Tables::new(self.backend, *family);
        }
        self.clean_other_backend();
        self.sets.clean()?;
        self.state = State::new(self.tables.keys().copied().collect(), &mut self.sets);
        self.may_delete = false;
        Ok(())
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

fn collect(now: Instant, sets: SetsReport, tables: Vec<TablesReport>) -> ApplyReport {
    let mut report = ApplyReport {
        set_changes: sets.changes,
        drift: sets.drift,
        ..ApplyReport::default()
    };
    let mut retry_at = sets.retry_at;
    let failures = sets.failures.into_iter();
    report
        .failures
        .extend(failures.map(|(object, error)| Failure {
            object: format!("ip set {object}"),
            error: error.to_string(),
        }));
    for family in tables {
        report.restores += family.restores;
        report.chains_changed += family.chains_changed;
        report.drift += family.drift;
        retry_at = [retry_at, family.retry_at].into_iter().flatten().min();
        let failures = family.failures.into_iter();
        report
            .failures
            .extend(failures.map(|(object, error)| Failure {
                object,
                error: error.to_string(),
            }));
    }
    report.retry_in = retry_at.map(|at| at.saturating_duration_since(now));
    report
}
