//! The routes the host should have, and keeping the kernel to them.
//!
//! [`RouteTable::set`] and [`RouteTable::remove`] only note what is wanted; [`RouteTable::apply`] alone talks to the
//! kernel, in batches. What fails stays noted and is tried again, later and later. [`RouteTable::resync`] reads the
//! kernel back and repairs what others changed.
//!
//! Routes of ours carry the protocol [`PROTO_MARGAY`]: so an agent that starts without memory knows them, adopts those
//! that are wanted, and deletes the rest only once [`RouteTable::allow_deletes`] said that it knows everything that is
//! wanted. Routes of other protocols are never changed. A route of ours has a metric of its own, [`METRIC_MARGAY`], so
//! it can stand beside another's for the same prefix (the lower metric wins); where another's has the very same metric,
//! that is a [`ApplyReport::conflicts`], not overwritten, and tried again.

mod dirty;
mod installed;
mod kernel;
#[cfg(test)]
mod tests;
mod wanted;

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt, HashSet};
use ipnetwork::IpNetwork;

use crate::netlink::{NetlinkError, RequestError, Socket};
use dirty::Dirty;
use installed::Installed;

pub use kernel::{Action, Change, KernelHop, KernelRoute, RouteKernel, RouteMtu, has_route_of};
pub(crate) use kernel::{decode_any, route_mtu};
pub use wanted::{NextHop, Route, Target};

/// Our protocol number in kernel routes. Taken elsewhere, by `/etc/iproute2/rt_protos` and the neighbours in the field:
/// 0-4 kernel, 8-18 routing daemons (12 BIRD), 42 Babel, 80 Calico, 84 OVN, 99 Open/R, 186-192 and up FRR.
pub const PROTO_MARGAY: u8 = 77;
/// Our metric in kernel routes: behind what an operator writes without one (0), before what DHCP brings (100 and up).
pub const METRIC_MARGAY: u32 = 77;
/// The kernel's main table.
pub const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;

/// Changes in one `send`: five times faster than one each; more bring nothing.
const BATCH: usize = 256;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// A change that did not work. It is tried again by a later `apply`.
#[derive(Debug, thiserror::Error)]
#[error("route {prefix}: {reason}")]
pub struct Failure {
    /// The route.
    pub prefix: IpNetwork,
    /// Why.
    pub reason: FailureReason,
}

/// Why a change did not work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FailureReason {
    /// The interface is not there (yet).
    #[error("interface {0} does not exist")]
    NoInterface(Arc<str>),
    /// The kernel refused it.
    #[error("the kernel refused: {0}")]
    Refused(RequestError),
    /// The outcome is unknown.
    #[error("{0}")]
    Unknown(Arc<NetlinkError>),
    /// A route with the same metric belongs to somebody else.
    #[error("the kernel has a route of protocol {protocol} with the same metric {metric}")]
    Conflict {
        /// The other's protocol.
        protocol: u8,
        /// The metric.
        metric: u32,
    },
}

/// What an `apply` did.
#[derive(Debug, Default)]
pub struct ApplyReport {
    /// Routes added.
    pub added: usize,
    /// Routes put in the place of others of ours.
    pub replaced: usize,
    /// Routes deleted.
    pub deleted: usize,
    /// What did not work, without the conflicts.
    pub failed: Vec<Failure>,
    /// Routes that another protocol has with the same metric.
    pub conflicts: Vec<Failure>,
    /// When to call `apply` again for what did not work.
    pub retry_after: Option<Duration>,
}

/// How far the kernel was from what it should be.
#[derive(Debug, Default)]
pub struct ResyncReport {
    /// Wanted routes that were not there though they had been added.
    pub missing: usize,
    /// Routes of ours that lead elsewhere than wanted.
    pub different: usize,
    /// Routes of ours that nobody wants.
    pub unwanted: usize,
    /// Wanted routes that were found and had not been added by this table: from an earlier run.
    pub adopted: usize,
    /// The repair.
    pub repair: ApplyReport,
}

/// Where and as whom a table works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Kernel table.
    pub table: u32,
    /// Protocol number of our routes.
    pub protocol: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            table: MAIN_TABLE,
            protocol: PROTO_MARGAY,
        }
    }
}

/// The routes of one kernel table.
#[derive(Debug)]
pub struct RouteTable<K = Socket> {
    kernel: K,
    config: Config,
    wanted: HashMap<IpNetwork, Route>,
    /// Which of the wanted routes name an interface.
    by_interface: HashMap<Arc<str>, HashSet<IpNetwork>>,
    /// Our routes in the kernel, as far as is known, by prefix and metric.
    installed: Installed,
    /// Those of an earlier run that nobody has wanted yet, as they were last read.
    left: HashMap<(IpNetwork, u32), KernelRoute>,
    dirty: Dirty,
    retries: HashMap<IpNetwork, Retry>,
    deletes_allowed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    attempts: u32,
    due: Instant,
}

impl RouteTable {
    /// A table of the calling thread's network namespace. Call [`RouteTable::resync`] next, to adopt what is there.
    pub fn open(config: Config) -> Result<Self, NetlinkError> {
        Ok(Self::new(Socket::route()?, config))
    }

    /// The port that the kernel notes in the events that this table causes.
    pub const fn port(&self) -> u32 {
        self.kernel.port()
    }
}

impl<K: RouteKernel> RouteTable<K> {
    /// A table over a given kernel.
    pub fn new(kernel: K, config: Config) -> Self {
        Self {
            kernel,
            config,
            wanted: HashMap::new(),
            by_interface: HashMap::new(),
            installed: Installed::default(),
            left: HashMap::new(),
            dirty: Dirty::default(),
            retries: HashMap::new(),
            deletes_allowed: false,
        }
    }

    /// Wants a route. The host bits of the prefix do not count.
    pub fn set(&mut self, prefix: IpNetwork, route: Route) {
        let prefix = masked(prefix);
        if self.wanted.get(&prefix) == Some(&route) {
            return;
        }
        for ifname in route.interfaces() {
            match self.by_interface.get_mut(ifname) {
                Some(prefixes) => drop(prefixes.insert(prefix)),
                None => {
                    let prefixes = std::iter::once(prefix).collect();
                    self.by_interface.insert(Arc::clone(ifname), prefixes);
                }
            }
        }
        let before = self.wanted.insert(prefix, route);
        self.forget_interfaces(prefix, before);
        self.touch(prefix);
    }

    /// Wants no route for this prefix.
    pub fn remove(&mut self, prefix: IpNetwork) {
        let prefix = masked(prefix);
        let before = self.wanted.remove(&prefix);
        self.forget_interfaces(prefix, before);
        self.touch(prefix);
    }

    /// From here on everything wanted is known: routes of ours that nobody wants go, at the next `apply`.
    pub fn allow_deletes(&mut self) {
        self.deletes_allowed = true;
        let installed = self.installed.prefixes();
        let unwanted = installed.filter(|prefix| !self.wanted.contains_key(prefix));
        self.dirty.extend(unwanted);
    }

    /// An interface appeared, came up or went down, or lost an address: the kernel dropped routes through it without
    /// a word. The routes that name it are sent again at the next `apply`, and failed ones tried again. For an
    /// interface that leads to gateways of routes that name no interface, call [`RouteTable::resync`] too.
    pub fn on_link_event(&mut self, ifname: &str) {
        if let Some(prefixes) = self.by_interface.get(ifname) {
            self.dirty.extend(prefixes.iter().copied());
            for prefix in prefixes {
                self.retries.remove(prefix);
            }
        }
    }

    /// Number of wanted routes.
    pub fn len(&self) -> usize {
        self.wanted.len()
    }

    /// Whether no route is wanted.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Whether an `apply` has something to do, now or later.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.retries.is_empty()
    }

    /// All wanted routes, in no order.
    pub fn wanted(&self) -> impl Iterator<Item = (&IpNetwork, &Route)> {
        self.wanted.iter()
    }

    /// Whether the kernel is known to have our route for this prefix, as wanted.
    pub fn is_installed(&self, prefix: IpNetwork) -> bool {
        let prefix = masked(prefix);
        let metric = self.wanted.get(&prefix).map(|route| route.metric);
        metric.is_some_and(|metric| self.installed.contains((prefix, metric)))
            && !self.dirty.contains(prefix)
            && !self.retries.contains_key(&prefix)
    }

    /// Brings the kernel to what is wanted, as far as is known without reading it back.
    pub fn apply(&mut self) -> ApplyReport {
        self.apply_at(Instant::now())
    }

    /// Applies these prefixes only, whatever else waits: for an ADD that waits for its one route.
    pub fn apply_now(&mut self, prefixes: &[IpNetwork]) -> ApplyReport {
        let prefixes: Vec<_> = prefixes.iter().map(|p| masked(*p)).collect();
        for prefix in &prefixes {
            self.dirty.remove(*prefix);
        }
        self.bring(prefixes, Instant::now())
    }

    /// Whether the kernel has more routes of ours than this.
    pub fn is_longer_than(&mut self, most: usize) -> Result<bool, NetlinkError> {
        self.kernel
            .has_more_than(self.config.table, self.config.protocol, most)
    }

    /// Brings the routes to single addresses to what is wanted, and adopts those that are there, whatever else waits:
    /// for a start beside a table that takes long to read. Only for the main table.
    pub fn apply_hosts(&mut self) -> Result<ApplyReport, NetlinkError> {
        let hosts = self.dirty.iter().filter(|prefix| is_host(**prefix));
        let hosts: Vec<IpNetwork> = hosts.copied().collect();
        let found = self.kernel.to_hosts(self.config.table, &hosts)?;
        let ours = |route: &KernelRoute| route.protocol == self.config.protocol;
        for route in found.into_iter().flatten().filter(ours) {
            let key = (route.prefix, route.metric);
            self.installed.insert(key);
            self.left.insert(key, route);
        }
        Ok(self.apply_now(&hosts))
    }

    /// Reads the kernel back, compares it with everything wanted, and repairs.
    pub fn resync(&mut self) -> Result<ResyncReport, NetlinkError> {
        let now = Instant::now();
        let ours = self
            .kernel
            .dump(self.config.table, Some(self.config.protocol))?;
        let mut report = ResyncReport::default();
        let mut links = Links::default();
        let known = mem::take(&mut self.installed);
        self.left.clear();
        for route in &ours {
            let key = (route.prefix, route.metric);
            self.installed.insert(key);
            match self.wanted.get(&route.prefix) {
                None => {
                    report.unwanted += 1;
                    if self.deletes_allowed {
                        self.dirty.insert(route.prefix);
                    } else {
                        self.left.insert(key, route.clone());
                    }
                }
                Some(wanted) if wanted.metric != route.metric => {
                    report.unwanted += 1;
                    self.dirty.insert(route.prefix);
                }
                Some(wanted) => {
                    let resolved = resolve(
                        &mut self.kernel,
                        &mut links,
                        self.config,
                        route.prefix,
                        wanted,
                    );
                    if !resolved.is_ok_and(|w| wanted::same(&w, route)) {
                        report.different += usize::from(!self.dirty.contains(route.prefix));
                        self.dirty.insert(route.prefix);
                    } else if !known.contains(key) {
                        report.adopted += 1;
                        self.dirty.remove(route.prefix);
                        self.retries.remove(&route.prefix);
                    }
                }
            }
        }
        for (prefix, route) in &self.wanted {
            let key = (*prefix, route.metric);
            if !self.installed.contains(key) && !self.retries.contains_key(prefix) {
                report.missing += usize::from(known.contains(key));
                self.dirty.insert(*prefix);
            }
        }
        report.repair = self.apply_at(now);
        Ok(report)
    }

    fn apply_at(&mut self, now: Instant) -> ApplyReport {
        let mut due = self.dirty.take();
        let retries = self.retries.iter().filter(|(_, retry)| retry.due <= now);
        due.extend(retries.map(|(prefix, _)| *prefix));
        due.sort_unstable();
        due.dedup();
        self.bring(due, now)
    }

    /// Adds before it deletes, so a prefix whose metric changes is never without a route.
    fn bring(&mut self, due: Vec<IpNetwork>, now: Instant) -> ApplyReport {
        let mut report = ApplyReport::default();
        let mut links = Links::default();
        let mut failed = HashMap::new();
        let mut puts = Vec::with_capacity(due.len().min(self.wanted.len()));
        // Those that have other routes of ours than the wanted one.
        let mut surplus = Vec::new();
        for prefix in &due {
            let wanted = self.wanted.get(prefix);
            let keep = wanted.map(|route| route.metric);
            let mut ours = false;
            let mut others = false;
            for metric in self.installed.of(*prefix) {
                ours |= Some(metric) == keep;
                others |= Some(metric) != keep;
            }
            surplus.extend(others.then_some(*prefix));
            let Some(route) = wanted else {
                continue;
            };
            match resolve(&mut self.kernel, &mut links, self.config, *prefix, route) {
                Ok(route) => {
                    let key = (*prefix, route.metric);
                    // Sent again it would be a change to whoever watches the kernel's routes.
                    let found = match self.left.is_empty() {
                        true => None,
                        false => self.left.remove(&key),
                    };
                    if found.is_some_and(|found| wanted::same(&route, &found)) {
                        continue;
                    }
                    let action = if ours { Action::Replace } else { Action::Add };
                    puts.push(Change { action, route });
                }
                Err(reason) => {
                    failed.insert(*prefix, reason);
                }
            }
        }
        // The gateways of others may be behind what is on a link: IPv6 checks that when a route is added.
        let is_via = |put: &Change| put.route.hops.iter().any(|hop| hop.gateway.is_some());
        if !puts.is_sorted_by_key(is_via) {
            puts.sort_by_key(is_via);
        }
        let taken = self.send(puts, &mut report, &mut failed);
        self.settle(taken, &mut report, &mut failed);
        let deletes = self.unwanted_of(&surplus, &failed);
        self.send(deletes, &mut report, &mut failed);
        self.conclude(&due, failed, now, &mut report);
        report
    }

    /// Our routes for these prefixes that are not the wanted ones.
    fn unwanted_of(
        &self,
        surplus: &[IpNetwork],
        failed: &HashMap<IpNetwork, FailureReason>,
    ) -> Vec<Change> {
        let mut deletes = Vec::with_capacity(surplus.len());
        for prefix in surplus.iter().filter(|prefix| !failed.contains_key(prefix)) {
            let keep = self.wanted.get(prefix).map(|route| route.metric);
            for metric in self.installed.of(*prefix) {
                if Some(metric) != keep {
                    let route = Route::blackhole().with_metric(metric);
                    let route = wanted::bare(*prefix, self.config.protocol, &route);
                    deletes.push(Change {
                        action: Action::Delete,
                        route,
                    });
                }
            }
        }
        deletes
    }

    /// Sends changes in batches and notes what became of them. Returns the additions whose place was taken.
    fn send(
        &mut self,
        changes: Vec<Change>,
        report: &mut ApplyReport,
        failed: &mut HashMap<IpNetwork, FailureReason>,
    ) -> Vec<Change> {
        let mut taken = Vec::new();
        for batch in changes.chunks(BATCH) {
            let mut errors = match self.kernel.send(self.config.table, batch) {
                Ok(errors) => errors.into_iter().peekable(),
                Err(error) => {
                    let reason = FailureReason::Unknown(Arc::new(error));
                    failed.extend(batch.iter().map(|c| (c.route.prefix, reason.clone())));
                    continue;
                }
            };
            for (place, change) in batch.iter().enumerate() {
                match errors.next_if(|(p, _)| *p == place).map(|(_, error)| error) {
                    None => self.note_done(change, report),
                    Some(error) if change.action == Action::Add && error.exists() => {
                        taken.push(change.clone());
                    }
                    Some(error) if change.action == Action::Delete && error.is_missing() => {
                        self.installed
                            .remove((change.route.prefix, change.route.metric));
                    }
                    Some(error) => {
                        failed.insert(change.route.prefix, FailureReason::Refused(error));
                    }
                }
            }
        }
        taken
    }

    fn note_done(&mut self, change: &Change, report: &mut ApplyReport) {
        let key = (change.route.prefix, change.route.metric);
        match change.action {
            Action::Add => {
                report.added += 1;
                self.installed.insert(key);
            }
            Action::Replace => report.replaced += 1,
            Action::Delete => {
                report.deleted += 1;
                self.installed.remove(key);
                self.left.remove(&key);
            }
        }
    }

    /// Finds out whose the routes are that additions met: ours are replaced, others' are conflicts.
    fn settle(
        &mut self,
        taken: Vec<Change>,
        report: &mut ApplyReport,
        failed: &mut HashMap<IpNetwork, FailureReason>,
    ) {
        if taken.is_empty() {
            return;
        }
        let present = match self.kernel.dump(self.config.table, None) {
            Ok(present) => present,
            Err(error) => {
                let reason = FailureReason::Unknown(Arc::new(error));
                failed.extend(taken.iter().map(|c| (c.route.prefix, reason.clone())));
                return;
            }
        };
        let owner: HashMap<_, _> = present
            .iter()
            .map(|r| ((r.prefix, r.metric), r.protocol))
            .collect();
        let mut puts = Vec::new();
        for Change { route, .. } in taken {
            let (prefix, metric) = (route.prefix, route.metric);
            match owner.get(&(prefix, metric)) {
                Some(protocol) if *protocol != self.config.protocol => {
                    let protocol = *protocol;
                    failed.insert(prefix, FailureReason::Conflict { protocol, metric });
                }
                Some(_) => {
                    self.installed.insert((prefix, metric));
                    puts.push(Change {
                        action: Action::Replace,
                        route,
                    });
                }
                // Gone meanwhile. Should it come back again, the retry sees to it.
                None => puts.push(Change {
                    action: Action::Add,
                    route,
                }),
            }
        }
        for change in self.send(puts, report, failed) {
            let error = RequestError {
                errno: libc::EEXIST,
                text: None,
            };
            failed.insert(change.route.prefix, FailureReason::Refused(error));
        }
    }

    fn conclude(
        &mut self,
        due: &[IpNetwork],
        mut failed: HashMap<IpNetwork, FailureReason>,
        now: Instant,
        report: &mut ApplyReport,
    ) {
        let due = match failed.is_empty() && self.retries.is_empty() {
            true => &[],
            false => due,
        };
        for prefix in due {
            let Some(reason) = failed.remove(prefix) else {
                self.retries.remove(prefix);
                continue;
            };
            let attempts = self.retries.get(prefix).map_or(0, |retry| retry.attempts);
            let pause = FIRST_RETRY
                .saturating_mul(1 << attempts.min(16))
                .min(LAST_RETRY);
            self.retries.insert(
                *prefix,
                Retry {
                    attempts: attempts + 1,
                    due: now + pause,
                },
            );
            let conflict = matches!(reason, FailureReason::Conflict { .. });
            let list = if conflict {
                &mut report.conflicts
            } else {
                &mut report.failed
            };
            list.push(Failure {
                prefix: *prefix,
                reason,
            });
        }
        let next = self.retries.values().map(|retry| retry.due).min();
        report.retry_after = next.map(|due| due.saturating_duration_since(now));
    }

    fn touch(&mut self, prefix: IpNetwork) {
        self.dirty.insert(prefix);
        self.retries.remove(&prefix);
    }

    /// Drops the index entries of a former route, unless the wanted one names the interface too.
    fn forget_interfaces(&mut self, prefix: IpNetwork, before: Option<Route>) {
        let Some(before) = before else {
            return;
        };
        let wanted = self.wanted.get(&prefix);
        for ifname in before.interfaces() {
            if wanted.is_some_and(|route| route.interfaces().any(|i| i == ifname)) {
                continue;
            }
            if let Some(prefixes) = self.by_interface.get_mut(ifname) {
                prefixes.remove(&prefix);
                if prefixes.is_empty() {
                    self.by_interface.remove(ifname);
                }
            }
        }
    }
}

fn is_host(prefix: IpNetwork) -> bool {
    prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 }
}

/// All routes of a table of the socket's namespace, of every protocol.
pub fn dump(socket: &mut Socket, table: u32) -> Result<Vec<KernelRoute>, NetlinkError> {
    RouteKernel::dump(socket, table, None)
}

/// All routes of all tables of the socket's namespace.
pub(crate) fn dump_all(socket: &mut Socket) -> Result<Vec<KernelRoute>, NetlinkError> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; 12];
        header[0] = family as u8;
        let read = |_, message: &[u8]| decode_any(message);
        all.extend(socket.dump(libc::RTM_GETROUTE, &header, |_| {}, read)?);
    }
    Ok(all)
}

/// Interface indexes looked up during one `apply`: they change when an interface is made anew.
#[derive(Debug, Default)]
struct Links(HashMap<Arc<str>, Option<u32>>);

fn resolve<K: RouteKernel>(
    kernel: &mut K,
    links: &mut Links,
    config: Config,
    prefix: IpNetwork,
    route: &Route,
) -> Result<KernelRoute, FailureReason> {
    let mut index_of = |ifname: &Arc<str>| -> Result<u32, FailureReason> {
        let index = match links.0.get(ifname) {
            Some(index) => *index,
            None => {
                let unknown = |error| FailureReason::Unknown(Arc::new(error));
                let index = kernel.link_index(ifname).map_err(unknown)?;
                links.0.insert(Arc::clone(ifname), index);
                index
            }
        };
        index.ok_or_else(|| FailureReason::NoInterface(Arc::clone(ifname)))
    };
    wanted::resolve(prefix, config.protocol, route, &mut index_of)
}

fn masked(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}
