//! The kernel thread: the one place that programs rules, sets and routes.
//!
//! It has an OS thread and a runtime of its own, because its work blocks. It takes batches of desired
//! state, coalesces what waits, applies policy before routes (nothing is reachable before its policy is
//! in place), tells the speaker what may be announced, and only then acknowledges.
//!
//! Ends when the last [`KernelHandle`] is dropped; the kernel's state stays. A panic here ends the agent:
//! a new one reads the kernel back.

mod answers;
mod conntrack;
mod counts;
mod denied;
mod desired;
mod handle;
mod hosts;
mod local;
mod look;
mod overlay;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use futures_util::FutureExt;
use ipnetwork::IpNetwork;
use margay_dataplane::conntrack::{UdpPorts, flush_udp};
use margay_dataplane::filter::{self, Filter, Nflog, SetId, Wish};
use margay_dataplane::monitor::{Interests, Monitor};
use margay_dataplane::netlink::NetlinkError;
use margay_dataplane::nft::Watch;
use margay_dataplane::route_table::{MAIN_TABLE, PROTO_MARGAY, has_route_of};
use margay_model::kind::ResourceKey;
use margay_policy::program::EndpointPlan;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use crate::fault;
use crate::meters::Meters;
use crate::translate;
use conntrack::Flusher;
use denied::{Denied, Found};
use handle::Input;
pub(crate) use handle::{
    Acknowledge, Batch, Expect, Explained, KernelHandle, KernelStatus, Learned, Unexplained,
    Waiting,
};
use hosts::Hosts;
use local::LocalPrefixes;
use look::{Heard, Interfaces, SWEEP, changed_by_others};
use overlay::Overlay;
use routes::Routes;

/// Batches that may wait; the graph coalesces further while it is held back.
const BATCHES: usize = 64;

/// Announcements of learned routes that may wait; the speaker coalesces while it is held back.
pub(crate) const LEARNED: usize = 64;

/// How often everything is read back and compared, whatever the monitor says, until the graph knows.
const RESYNC: Duration = Duration::from_secs(60);

/// How long the monitor is not heard after it spoke: making a container brings half a dozen events one after the
/// other, and to take each by itself would keep a processor from the making.
const DEAF: Duration = Duration::from_millis(5);

/// Events taken in before inputs are looked at again.
const EVENTS: usize = 1024;

/// How long until a tunnel device that was not to be had is tried again.
const TUNNEL_RETRY: Duration = Duration::from_secs(1);

/// Tells the speaker what this host has: prefixes to announce with their interfaces, prefixes to withdraw.
pub(crate) type Announce = Box<dyn FnMut(Vec<(IpNetwork, String)>, Vec<IpNetwork>) + Send>;

/// What the thread starts with.
pub(crate) struct Setup {
    /// Where policy is to be written whatever the datastore says.
    pub(crate) policy_backend: Option<Wish>,
    /// What rules are to hand up.
    pub(crate) nflog: Option<Nflog>,
    /// Whether there is a speaker whose peers must be heard before left-over routes may go.
    pub(crate) bgp: bool,
    pub(crate) learned: mpsc::Receiver<Learned>,
    pub(crate) announce: Announce,
    pub(crate) meters: Arc<Meters>,
    /// Where the private keys of WireGuard are.
    pub(crate) wireguard_keys: PathBuf,
}

/// Starts the thread. The second value resolves when the thread ends, with why if it failed.
///
/// # Errors
/// Sockets that cannot be opened, no variant of iptables.
pub(crate) fn spawn(
    setup: Setup,
) -> anyhow::Result<(KernelHandle, oneshot::Receiver<Result<(), String>>)> {
    let (inputs, receiver) = mpsc::channel(BATCHES);
    let (ended, end) = oneshot::channel();
    // Opened here, so that what is missing is told at start and by `main`.
    let filter = Filter::open(filter::Config {
        backend: setup.policy_backend.unwrap_or_default(),
        ..filter::Config::default()
    })?;
    let routes = Routes::open()?;
    let (mtu_sender, mtu) = watch::channel(None);
    let overlay = Overlay::open(mtu_sender, &setup.wireguard_keys)?;
    std::thread::Builder::new()
        .name("kernel".into())
        .spawn(move || {
            let result = run(setup, filter, routes, overlay, receiver);
            if let Err(unheard) = ended.send(result.map_err(|e| format!("{e:#}"))) {
                debug!(result = ?unheard, "the kernel thread ended after the agent");
            }
        })?;
    Ok((KernelHandle { inputs, mtu }, end))
}

fn run(
    setup: Setup,
    filter: Filter,
    routes: Routes,
    overlay: Overlay,
    inputs: mpsc::Receiver<Input>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let mut monitor = Monitor::open(Interests {
            links: true,
            addresses: true,
            routes: true,
        })?;
        monitor.ignore_port(routes.port());
        monitor.ignore_port(overlay.port());
        monitor.hear_queues()?;
        let watch = match Watch::open() {
            Ok(watch) => Some(watch),
            Err(error) => {
                debug!(%error, "nobody tells of changes to nftables");
                None
            }
        };
        let (denied, found) = Denied::spawn()?;
        let kernel = Kernel {
            filter,
            routes,
            overlay,
            announce: setup.announce,
            meters: setup.meters,
            sets: 0,
            flusher: Flusher::spawn()?,
            denied,
            plans: BTreeMap::new(),
            hosts: Hosts::default(),
            refused: BTreeMap::new(),
            rules_of: BTreeMap::new(),
            unused: BTreeSet::new(),
            log_prefix: String::new(),
            interface_prefix: String::new(),
            local: LocalPrefixes::default(),
            in_sync: false,
            converged: !setup.bgp,
            failing: Vec::new(),
            rules_refused: false,
            tunnels_failing: Vec::new(),
            retry: None,
            resync: RESYNC,
            backend_fixed: setup.policy_backend.is_some(),
            nflog: setup.nflog,
            look_at_rules: None,
            interfaces: Interfaces::default(),
            looked_at_rules: Instant::now(),
            look_at_routes: Instant::now() + RESYNC,
            look_at_all: Instant::now() + RESYNC,
            sweep: Instant::now() + SWEEP,
        };
        kernel
            .serve((inputs, setup.learned, found), monitor, watch)
            .await
    })
}

struct Kernel {
    filter: Filter,
    routes: Routes,
    overlay: Overlay,
    announce: Announce,
    meters: Arc<Meters>,
    /// How many sets the calculation wants.
    sets: u64,
    flusher: Flusher,
    denied: Denied,
    plans: BTreeMap<ResourceKey, Arc<EndpointPlan>>,
    hosts: Hosts,
    /// Endpoints that cannot be programmed as they are, and why.
    refused: BTreeMap<ResourceKey, String>,
    /// Rules as the calculation gave them.
    rules_of: BTreeMap<RulesKey, Arc<margay_policy::program::Rules>>,
    /// What no endpoint needs at the moment; goes at the next sweep.
    unused: BTreeSet<Unused>,
    log_prefix: String,
    /// First characters of every host interface of ours.
    interface_prefix: String,
    local: LocalPrefixes,
    in_sync: bool,
    converged: bool,
    failing: Vec<String>,
    /// Some rules are not as they should be.
    rules_refused: bool,
    /// Devices that are not as wanted: no endpoint of this host waits for one.
    tunnels_failing: Vec<String>,
    retry: Option<Instant>,
    resync: Duration,
    backend_fixed: bool,
    nflog: Option<Nflog>,
    /// When to read rules and sets back, after somebody else changed them.
    look_at_rules: Option<Instant>,
    interfaces: Interfaces,
    looked_at_rules: Instant,
    look_at_routes: Instant,
    look_at_all: Instant,
    sweep: Instant,
}

/// Something that no endpoint needs. In this order: rules refer to sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unused {
    Rules(RulesKey),
    Set(SetId),
}

/// Addresses that lost and got an owner in a round, and ports of the host that lead to a new place.
#[derive(Default)]
struct Moves {
    freed: BTreeSet<IpAddr>,
    assigned: BTreeSet<IpAddr>,
    udp: UdpPorts,
}

fn is_host(prefix: IpNetwork) -> bool {
    prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RulesKey {
    Policy(ResourceKey),
    Profile(String),
}

/// Desired state, what BGP learned, connections to be judged.
type Receivers = (
    mpsc::Receiver<Input>,
    mpsc::Receiver<Learned>,
    mpsc::UnboundedReceiver<Found>,
);

impl Kernel {
    async fn serve(
        mut self,
        (mut inputs, mut learned, mut found): Receivers,
        mut monitor: Monitor,
        mut watch: Option<Watch>,
    ) -> anyhow::Result<()> {
        let mut deaf_until = None;
        let mut hears_neighbours = false;
        loop {
            if !hears_neighbours && self.overlay.is_wanted() {
                monitor.hear_neighbours()?;
                hears_neighbours = true;
            }
            let look = self.look_at_routes.min(self.look_at_all);
            let soon = [self.look_at_rules, self.interfaces.look_at];
            let look = soon.into_iter().flatten().fold(look, Instant::min);
            let concern = self.filter.concern();
            let wake = self.retry.map_or(look, |retry| retry.min(look));
            let connections = self.denied.due().filter(|_| self.in_sync);
            let look_at_connections = connections.unwrap_or(wake);
            let hear_again = deaf_until.unwrap_or(wake);
            // All arms are cancel-safe: receives, the monitors' next events, timers.
            tokio::select! {
                biased;
                input = inputs.recv() => match input {
                    Some(input) => {
                        let mut waiting = vec![input];
                        while let Ok(more) = inputs.try_recv() {
                            waiting.push(more);
                        }
                        self.take(waiting);
                    }
                    None => {
                        info!("kernel state is left as it is");
                        return Ok(());
                    }
                },
                Some(news) = learned.recv() => {
                    let mut all = vec![news];
                    while let Ok(more) = learned.try_recv() {
                        all.push(more);
                    }
                    self.learn(all);
                }
                found = found.recv() => match found {
                    Some(found) => self.judge(found),
                    // It ends before this one only by a panic.
                    None => bail!("the thread that ends denied connections is gone"),
                },
                () = tokio::time::sleep_until(look_at_connections.into()), if connections.is_some() => {
                    self.look_at_connections();
                }
                event = monitor.next(), if deaf_until.is_none() => {
                    let mut heard = Heard::default();
                    self.notice(heard.of(event?));
                    for _ in 0..EVENTS {
                        let Some(event) = monitor.next().now_or_never() else { break };
                        self.notice(heard.of(event?));
                    }
                    heard.tell(&self.meters);
                    deaf_until = Some(Instant::now() + DEAF);
                }
                changed = changed_by_others(&mut watch, concern), if self.look_at_rules.is_none() => {
                    changed?;
                    self.look_at_rules_soon();
                }
                () = tokio::time::sleep_until(hear_again.into()), if deaf_until.is_some() => {
                    deaf_until = None;
                }
                () = tokio::time::sleep_until(wake.into()) => self.tick(),
            }
        }
    }

    fn take(&mut self, inputs: Vec<Input>) {
        let mut waiting = Vec::new();
        let mut synced = Vec::new();
        let mut settled = Vec::new();
        let mut asked = Vec::new();
        let mut counters = Vec::new();
        let mut encrypted = Vec::new();
        let mut unexplained = Vec::new();
        let mut moves = Moves::default();
        self.meters.batch.observe(inputs.len() as f64);
        for input in inputs {
            match input {
                Input::Batch(batch) => {
                    self.accept(batch.policy, &mut moves);
                    if let Some(globals) = batch.globals {
                        self.set_globals(globals);
                    }
                    if let Some(prefix) = batch.log_prefix {
                        self.log_prefix = prefix;
                    }
                    if let Some(wish) = batch.backend.filter(|_| !self.backend_fixed) {
                        self.set_backend(wish);
                    }
                    if let Some(resync) = batch.resync {
                        self.resync = resync;
                        self.look_at_all = self.look_at_all.min(Instant::now() + resync);
                    }
                    if let Some(blocks) = batch.blocks {
                        self.routes.set_blocks(blocks);
                    }
                    self.overlay.set_holders(batch.holders);
                    if let Some(tunnels) = batch.tunnels {
                        let families = tunnels.wireguard.iter().flatten();
                        let hosts = families.map(|tunnel| tunnel.peers.len()).max();
                        self.meters.encrypted_hosts.set(hosts.unwrap_or(0) as u64);
                        self.routes
                            .set_wireguard(tunnels.wireguard.each_ref().map(|tunnel| {
                                tunnel
                                    .as_ref()
                                    .map(|tunnel| tunnel.settings.device.as_str())
                            }));
                        self.overlay.set(tunnels);
                        let overlay = &self.overlay;
                        self.routes.refresh_limits(|through| overlay.limit(through));
                    }
                    for (net, through) in batch.ways {
                        let way = through.map(|through| (through, self.overlay.limit(through)));
                        self.routes.set_way(net, way);
                    }
                    waiting.extend(batch.waiting);
                }
                Input::InSync(done) => {
                    self.in_sync = true;
                    synced.push(done);
                }
                Input::Settled(done) => settled.push(done),
                Input::Status(answer) => asked.push(answer),
                Input::Counters(answer) => counters.push(answer),
                Input::Encrypted(answer) => encrypted.push(answer),
                Input::Explain(names, answer) => unexplained.push((names, answer)),
            }
        }
        let Moves {
            mut freed,
            assigned,
            udp,
        } = moves;
        // Containers that were there before this agent keep their connections.
        let redirected = self.in_sync && synced.is_empty() && !udp.is_empty();
        if self.in_sync && synced.is_empty() && !assigned.is_empty() {
            for ip in assigned.intersection(&freed) {
                self.flusher.elsewhere(*ip);
            }
            freed.retain(|ip| !assigned.contains(ip));
            let routes = &self.routes;
            self.flusher
                .assigned(&assigned, |ip| !routes.has_block_of(ip));
        }
        if !synced.is_empty() {
            // First everything wanted, then what nobody wants any more goes.
            self.apply();
            self.filter.allow_deletes();
            // Also what changed while no agent ran.
            self.denied.all_changed();
            self.overlay.allow_deletes();
            self.allow_route_deletes();
            self.look_at_interfaces_soon();
        }
        self.try_again_for(&waiting);
        self.apply();
        if redirected && let Err(error) = flush_udp(&udp) {
            warn!(%error, "flows to a host's port may still go where they went");
        }
        self.flusher.freed(freed);
        for Waiting { key, expect, ack } in waiting {
            // Whoever waited may have given up.
            ack.send(self.state_of(&key, expect)).unwrap_or_default();
        }
        for done in synced.into_iter().chain(settled) {
            done.send(()).unwrap_or_default();
            // The speaker may go on with sessions: what it waits for is there.
            if self.routes.take_time() {
                self.look_at_routes = Instant::now();
            }
        }
        for answer in asked {
            answer.send(self.status()).unwrap_or_default();
        }
        for answer in counters {
            // Whoever asked may have given up.
            drop(answer.send(self.counters()));
        }
        for answer in encrypted {
            drop(answer.send(self.overlay.encrypted_devices()));
        }
        for (names, answer) in unexplained {
            drop(answer.send(self.explain(&names)));
        }
    }

    /// The watch may have brought an endpoint before its interface was made: then its route has failed and
    /// waits for another attempt. Whoever waits for it knows that the interface is there.
    fn try_again_for(&mut self, waiting: &[Waiting]) {
        for waiting in waiting.iter().filter(|w| w.expect == Expect::Present) {
            if let Some(plan) = self.plans.get(&waiting.key)
                && let nets = translate::routed(plan)
                && !nets.iter().all(|net| self.routes.is_installed(*net))
            {
                self.routes.on_link_event(&plan.ifname);
            }
        }
    }

    fn learn(&mut self, all: Vec<Learned>) {
        let mut converged = self.converged;
        for news in all {
            for (prefix, next_hops) in news.routes {
                let ip = prefix.ip();
                if !next_hops.is_empty() && is_host(prefix) && self.routes.has_block_of(ip) {
                    self.flusher.elsewhere(ip);
                }
                self.routes.set_learned(prefix, next_hops);
            }
            converged |= news.converged;
        }
        self.routes.take_time();
        if converged && !self.converged {
            self.converged = true;
            self.allow_route_deletes();
        }
        self.apply();
    }

    /// Left-over routes may go once both sources of routes have told everything.
    fn allow_route_deletes(&mut self) {
        if self.in_sync && self.converged {
            self.routes.allow_deletes();
        }
    }

    /// Policy, then routes, then what the neighbours hear of.
    fn apply(&mut self) {
        let begun = Instant::now();
        self.withdraw();
        if let Some(hosts) = self.hosts.settle(&self.interface_prefix) {
            self.filter.set_hosts(hosts);
            self.denied.hosts_changed();
        }
        let filter = self.filter.apply();
        fault::point("after-policy");
        let mut tunnels = self.overlay.prepare();
        let routes = self.routes.apply();
        tunnels.extend(self.overlay.prune());
        self.meters.tunnel_drift.add(self.overlay.take_drift());
        // What fails as a whole is told by either step.
        tunnels.dedup();
        if filter.drift > 0 {
            info!(
                objects = filter.drift,
                "kernel rules or sets differed and were repaired"
            );
        }
        let refused = !filter.failures.is_empty();
        if std::mem::replace(&mut self.rules_refused, refused) && !refused {
            // What the old rules let in meanwhile.
            self.denied.all_changed();
        }
        let failing: Vec<String> = filter
            .failures
            .iter()
            .map(|failure| format!("{}: {}", failure.object, failure.error))
            .chain(
                routes
                    .failed
                    .iter()
                    .chain(&routes.conflicts)
                    .map(ToString::to_string),
            )
            .collect();
        let known = |problem: &&String| {
            self.failing.contains(problem) || self.tunnels_failing.contains(problem)
        };
        for problem in failing.iter().chain(&tunnels).filter(|p| !known(p)) {
            warn!(problem, "the kernel refused, will be tried again");
        }
        let retry_tunnels = (!tunnels.is_empty()).then_some(TUNNEL_RETRY);
        self.failing = failing;
        self.tunnels_failing = tunnels;
        self.count(&filter, begun.elapsed());
        let waits = [filter.retry_in, routes.retry_after];
        let wait = waits.into_iter().flatten().chain(retry_tunnels).min();
        self.retry = wait.map(|wait| Instant::now() + wait);
        if self.in_sync && self.interfaces.are_behind(self.overlay.path_mtu()) {
            self.look_at_interfaces_soon();
        }
        fault::point("after-route");
        self.advertise();
        fault::point("after-announcement");
    }

    /// Neighbours are told first that a prefix is going, so that less of its traffic comes in vain.
    fn withdraw(&mut self) {
        let gone = self.local.take_gone();
        if !gone.is_empty() {
            (self.announce)(Vec::new(), gone);
        }
    }

    fn advertise(&mut self) {
        let routes = &self.routes;
        let ready = self.local.take_ready(|net| routes.is_installed(net));
        if !ready.is_empty() {
            (self.announce)(ready, Vec::new());
        }
    }
}

/// What neighbours are told of an endpoint.
fn announced(plan: &EndpointPlan) -> Vec<IpNetwork> {
    if plan.admin_up {
        translate::routed(plan)
    } else {
        Vec::new()
    }
}

/// Whether this host has routes of ours: then an agent before us left forwarding in place.
pub(crate) fn forwarding_was_left() -> Result<bool, NetlinkError> {
    has_route_of(MAIN_TABLE, PROTO_MARGAY)
}
