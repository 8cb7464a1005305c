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

mod interfaces;
mod kernel;
mod prefixes;
#[cfg(test)]
mod tests;
mod wanted;

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};
use ipnetwork::IpNetwork;

use crate::netlink::{NetlinkError, RequestError, Socket};
use interfaces::Interfaces;
use prefixes::{Prefixes, Waiting};

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
    /// What is wanted, and our routes in the kernel, as far as is known.
    prefixes: Prefixes,
    interfaces: Interfaces,
    /// Those of an earlier run that nobody has wanted yet, as they were last read.
    left: HashMap<(IpNetwork, u32), KernelRoute>,
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
            prefixes: Prefixes::default(),
            interfaces: Interfaces::default(),
            left: HashMap::new(),
            retries: HashMap::new(),
            deletes_allowed: false,
        }
    }

    /// Wants a route. The host bits of the prefix do not count.
    pub fn set(&mut self, prefix: IpNetwork, route: Route) {
        self.want(masked(prefix), Some(route));
    }

    /// Wants no route for this prefix.
    pub fn remove(&mut self, prefix: IpNetwork) {
        self.want(masked(prefix), None);
    }

    fn want(&mut self, prefix: IpNetwork, route: Option<Route>) {
        let names = route
            .as_ref()
            .is_some_and(|r| r.interfaces().next().is_some());
        // Else it is wanted already.
        if let Some(before) = self.prefixes.want(prefix, route) {
            let named = before
                .as_ref()
                .is_some_and(|r| r.interfaces().next().is_some());
            if names || named {
                let prefixes = &self.prefixes;
                self.interfaces
                    .changed(prefix, before.as_ref(), |prefix| prefixes.route(prefix));
            }
            self.retries.remove(&prefix);
        }
    }

    /// From here on everything wanted is known: routes of ours that nobody wants go, at the next `apply`.
    pub fn allow_deletes(&mut self) {
        self.deletes_allowed = true;
        let all = self.prefixes.iter();
        let unwanted =
            all.filter(|(_, known)| known.wanted.is_none() && !known.installed.is_empty());
        let unwanted: Vec<IpNetwork> = unwanted.map(|(prefix, _)| *prefix).collect();
        for prefix in unwanted {
            self.prefixes.mark(prefix);
        }
    }

    /// An interface appeared, came up or went down, or lost an address: the kernel dropped routes through it without
    /// a word. The routes that name it are sent again at the next `apply`, and failed ones tried again. For an
    /// interface that leads to gateways of routes that name no interface, call [`RouteTable::resync`] too.
    pub fn on_link_event(&mut self, ifname: &str) {
        for prefix in self.interfaces.of(ifname) {
            let names = |route: &Route| route.interfaces().any(|name| &**name == ifname);
            if self.prefixes.route(*prefix).is_some_and(names) {
                self.prefixes.mark(*prefix);
                self.retries.remove(prefix);
            }
        }
    }

    /// Number of wanted routes.
    pub const fn len(&self) -> usize {
        self.prefixes.wanted()
    }

    /// Whether no route is wanted.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an `apply` has something to do, now or later.
    pub fn is_dirty(&self) -> bool {
        self.prefixes.any_waits() || !self.retries.is_empty()
    }

    /// All wanted routes, in no order.
    pub fn wanted(&self) -> impl Iterator<Item = (&IpNetwork, &Route)> {
        let all = self.prefixes.iter();
        all.filter_map(|(prefix, known)| Some((prefix, known.wanted.as_ref()?)))
    }

    /// Whether the kernel is known to have our route for this prefix, as wanted.
    pub fn is_installed(&self, prefix: IpNetwork) -> bool {
        let prefix = masked(prefix);
        let known = self.prefixes.get(prefix);
        known.is_some_and(prefixes::Known::has_wanted)
            && !self.prefixes.waits(prefix)
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
            self.prefixes.unmark(*prefix);
        }
        let due = Waiting {
            direct: prefixes,
            via: Vec::new(),
        };
        self.bring(due, Instant::now())
    }

    /// Whether the kernel has more routes of ours than this.
    pub fn is_longer_than(&mut self, most: usize) -> Result<bool, NetlinkError> {
        self.kernel
            .has_more_than(self.config.table, self.config.protocol, most)
    }

    /// Brings the routes to single addresses to what is wanted, and adopts those that are there, whatever else waits:
    /// for a start beside a table that takes long to read. Only for the main table.
    pub fn apply_hosts(&mut self) -> Result<ApplyReport, NetlinkError> {
        let hosts = self.prefixes.waiting().filter(|prefix| is_host(*prefix));
        let hosts: Vec<IpNetwork> = hosts.collect();
        let found = self.kernel.to_hosts(self.config.table, &hosts)?;
        let ours = |route: &KernelRoute| route.protocol == self.config.protocol;
        for route in found.into_iter().flatten().filter(ours) {
            let key = (route.prefix, route.metric);
            self.prefixes.install(route.prefix, route.metric);
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
        self.prefixes.begin_read();
        self.left.clear();
        for route in &ours {
            let prefix = route.prefix;
            let known = self.prefixes.install(prefix, route.metric);
            let Some(wanted) = &known.wanted else {
                report.unwanted += 1;
                if self.deletes_allowed {
                    self.prefixes.mark(prefix);
                } else {
                    self.left.insert((prefix, route.metric), route.clone());
                }
                continue;
            };
            if wanted.metric != route.metric {
                report.unwanted += 1;
                self.prefixes.mark(prefix);
                continue;
            }
            let had = known.had();
            let resolved = resolve(&mut self.kernel, &mut links, self.config, prefix, wanted);
            if !resolved.is_ok_and(|w| wanted::same(&w, route)) {
                report.different += usize::from(!self.prefixes.waits(prefix));
                self.prefixes.mark(prefix);
            } else if !had {
                report.adopted += 1;
                self.prefixes.unmark(prefix);
                self.retries.remove(&prefix);
            }
        }
        for (prefix, had) in self.prefixes.end_read() {
            if !self.retries.contains_key(&prefix) {
                report.missing += usize::from(had);
                self.prefixes.mark(prefix);
            }
        }
        report.repair = self.apply_at(now);
        Ok(report)
    }

    fn apply_at(&mut self, now: Instant) -> ApplyReport {
        let prefixes = &self.prefixes;
        let retries = self.retries.iter().filter(|(_, retry)| retry.due <= now);
        let retries = retries.filter(|(prefix, _)| !prefixes.waits(**prefix));
        let retries: Vec<IpNetwork> = retries.map(|(prefix, _)| *prefix).collect();
        let mut due = self.prefixes.take_waiting();
        due.direct.extend(retries);
        due.direct.sort_unstable();
        due.via.sort_unstable();
        self.bring(due, now)
    }

    /// Adds before it deletes, so a prefix whose metric changes is never without a route. What is on a link comes
    /// before what is behind routers: IPv6 checks that when a route is added.
    fn bring(&mut self, due: Waiting, now: Instant) -> ApplyReport {
        let mut turn = Turn::default();
        let Waiting {
            mut direct,
            mut via,
        } = due;
        let mut puts = Vec::with_capacity(BATCH.min(direct.len() + via.len()));
        // What is tried again, or has come to lead through routers, is among the first.
        direct.retain(|prefix| {
            let done = self.put(*prefix, Target::is_direct, &mut puts, &mut turn);
            via.extend((!done).then_some(*prefix));
            done
        });
        for prefix in &via {
            self.put(*prefix, |_| true, &mut puts, &mut turn);
        }
        self.send(&mut puts, &mut turn);
        self.settle(&mut turn);
        self.delete_surplus(&mut turn);
        self.conclude(&Waiting { direct, via }, turn, now)
    }

    /// Puts the wanted route of a prefix among those to be sent, if its target is one that it is the turn of. False if
    /// it is not.
    fn put(
        &mut self,
        prefix: IpNetwork,
        is_its_turn: impl Fn(&Target) -> bool,
        puts: &mut Vec<Change>,
        turn: &mut Turn,
    ) -> bool {
        let Some(known) = self.prefixes.get(prefix) else {
            return true;
        };
        let target = known.wanted.as_ref().map(|route| &route.target);
        if !target.is_none_or(is_its_turn) {
            return false;
        }
        let keep = known.wanted.as_ref().map(|route| route.metric);
        let is_other = |metric| Some(metric) != keep;
        if known.installed.iter().any(is_other) {
            turn.surplus.push(prefix);
        }
        let Some(route) = &known.wanted else {
            if known.installed.is_empty() {
                self.prefixes.forget(prefix);
            }
            return true;
        };
        let ours = known.has_wanted();
        match resolve(
            &mut self.kernel,
            &mut turn.links,
            self.config,
            prefix,
            route,
        ) {
            Ok(route) => {
                // Sent again it would be a change to whoever watches the kernel's routes.
                let found = match self.left.is_empty() {
                    true => None,
                    false => self.left.remove(&(prefix, route.metric)),
                };
                if found.is_some_and(|found| wanted::same(&route, &found)) {
                    return true;
                }
                let action = if ours { Action::Replace } else { Action::Add };
                puts.push(Change { action, route });
                if puts.len() == BATCH {
                    self.send(puts, turn);
                }
            }
            Err(reason) => {
                turn.failed.insert(prefix, reason);
            }
        }
        true
    }

    /// Takes away our routes that are not the wanted ones, but where a wanted one failed.
    fn delete_surplus(&mut self, turn: &mut Turn) {
        let surplus = mem::take(&mut turn.surplus);
        let mut deletes = Vec::with_capacity(BATCH.min(surplus.len()));
        for prefix in surplus {
            if turn.failed.contains_key(&prefix) {
                continue;
            }
            let Some(known) = self.prefixes.get(prefix) else {
                continue;
            };
            let keep = known.wanted.as_ref().map(|route| route.metric);
            let others = known
                .installed
                .iter()
                .filter(|metric| Some(*metric) != keep);
            for metric in others {
                let route = Route::blackhole().with_metric(metric);
                let route = wanted::bare(prefix, self.config.protocol, &route);
                deletes.push(Change {
                    action: Action::Delete,
                    route,
                });
            }
            if deletes.len() >= BATCH {
                self.send(&mut deletes, turn);
            }
        }
        self.send(&mut deletes, turn);
    }

    /// Sends changes and notes what became of them, and which additions found their place taken.
    fn send(&mut self, changes: &mut Vec<Change>, turn: &mut Turn) {
        if changes.is_empty() {
            return;
        }
        let mut errors = match self.kernel.send(self.config.table, changes) {
            Ok(errors) => errors.into_iter().peekable(),
            Err(error) => {
                let reason = FailureReason::Unknown(Arc::new(error));
                let unknown = changes.drain(..).map(|c| (c.route.prefix, reason.clone()));
                return turn.failed.extend(unknown);
            }
        };
        for (place, change) in changes.drain(..).enumerate() {
            match errors.next_if(|(p, _)| *p == place).map(|(_, error)| error) {
                None => self.note_done(&change, &mut turn.report),
                Some(error) if change.action == Action::Add && error.exists() => {
                    turn.taken.push(change);
                }
                Some(error) if change.action == Action::Delete && error.is_missing() => {
                    let (prefix, metric) = (change.route.prefix, change.route.metric);
                    self.prefixes.uninstall(prefix, metric);
                }
                Some(error) => {
                    let reason = FailureReason::Refused(error);
                    turn.failed.insert(change.route.prefix, reason);
                }
            }
        }
    }

    fn note_done(&mut self, change: &Change, report: &mut ApplyReport) {
        let (prefix, metric) = (change.route.prefix, change.route.metric);
        match change.action {
            Action::Add => {
                report.added += 1;
                self.prefixes.install(prefix, metric);
            }
            Action::Replace => report.replaced += 1,
            Action::Delete => {
                report.deleted += 1;
                self.prefixes.uninstall(prefix, metric);
                self.left.remove(&(prefix, metric));
            }
        }
    }

    /// Finds out whose the routes are that additions met: ours are replaced, others' are conflicts.
    fn settle(&mut self, turn: &mut Turn) {
        let taken = mem::take(&mut turn.taken);
        if taken.is_empty() {
            return;
        }
        let present = match self.kernel.dump(self.config.table, None) {
            Ok(present) => present,
            Err(error) => {
                let reason = FailureReason::Unknown(Arc::new(error));
                let unknown = taken.iter().map(|c| (c.route.prefix, reason.clone()));
                return turn.failed.extend(unknown);
            }
        };
        let owner: HashMap<_, _> = present
            .iter()
            .map(|r| ((r.prefix, r.metric), r.protocol))
            .collect();
        let mut puts = Vec::new();
        for Change { route, .. } in taken {
            let (prefix, metric) = (route.prefix, route.metric);
            let action = match owner.get(&(prefix, metric)) {
                Some(protocol) if *protocol != self.config.protocol => {
                    let protocol = *protocol;
                    let reason = FailureReason::Conflict { protocol, metric };
                    turn.failed.insert(prefix, reason);
                    continue;
                }
                Some(_) => {
                    self.prefixes.install(prefix, metric);
                    Action::Replace
                }
                // Gone meanwhile. Should it come back again, the retry sees to it.
                None => Action::Add,
            };
            puts.push(Change { action, route });
            if puts.len() == BATCH {
                self.send(&mut puts, turn);
            }
        }
        self.send(&mut puts, turn);
        for change in mem::take(&mut turn.taken) {
            let error = RequestError {
                errno: libc::EEXIST,
                text: None,
            };
            let reason = FailureReason::Refused(error);
            turn.failed.insert(change.route.prefix, reason);
        }
    }

    fn conclude(&mut self, due: &Waiting, turn: Turn, now: Instant) -> ApplyReport {
        let Turn {
            mut report,
            mut failed,
            ..
        } = turn;
        if failed.is_empty() && self.retries.is_empty() {
            return report;
        }
        for prefix in due.direct.iter().chain(&due.via) {
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
        report
    }
}

/// What one apply is about to do, and what has become of it so far.
#[derive(Debug, Default)]
struct Turn {
    report: ApplyReport,
    links: Links,
    failed: HashMap<IpNetwork, FailureReason>,
    /// Additions whose place was taken.
    taken: Vec<Change>,
    /// Prefixes that have other routes of ours than the wanted one.
    surplus: Vec<IpNetwork>,
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
