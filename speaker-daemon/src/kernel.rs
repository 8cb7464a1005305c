//! Best routes in the kernel's routing table.
//!
//! A thread of its own, because its work blocks, takes what the speaker finds best, resolves the next
//! hops by the host's other routes, and keeps the kernel to it. Routes of an earlier run are adopted, and
//! what of them nobody wants goes once all peers have been heard. In the end the routes are removed, or
//! left for the next run.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::FutureExt;
use ipnetwork::IpNetwork;
use margay_bgp::prefix::Prefix;
use margay_dataplane::monitor::{Event, Interests, Monitor};
use margay_dataplane::resolve::{Resolver, Router};
use margay_dataplane::route_table::{ApplyReport, Config, RouteTable};
use margay_speaker::{FibBatch, FibReceiver, KernelConfig};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

/// How often everything is read back and compared, whatever the monitor says.
const RESYNC: Duration = Duration::from_secs(60);
/// From a hint of drift to the look at the routes: a burst of events is one look.
const SETTLE: Duration = Duration::from_millis(50);
/// Looking at a full table takes its time, and others keep changing theirs: at most one part in so many
/// of the thread's time goes into it.
const LOOK_SHARE: u32 = 10;
/// Events taken in before routes are looked at again.
const EVENTS: usize = 1024;

/// What becomes of the routes in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// They go.
    Remove,
    /// They stay: traffic goes on until the next run has them.
    Leave,
}

/// The thread.
#[derive(Debug)]
pub(crate) struct KernelRoutes {
    end: oneshot::Sender<End>,
    done: oneshot::Receiver<()>,
}

impl KernelRoutes {
    /// Starts it in the network namespace of the calling thread.
    pub(crate) fn spawn(config: &KernelConfig, fib: FibReceiver) -> anyhow::Result<Self> {
        let (end, ended) = oneshot::channel();
        let (finished, done) = oneshot::channel::<()>();
        let keeper = Keeper::open(config).context("cannot reach the kernel's routing table")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let body = move || {
            if let Err(error) = runtime.block_on(keeper.run(fib, ended)) {
                error!("the kernel's routes are not kept any more: {error:#}");
            }
            drop(finished);
        };
        thread::Builder::new()
            .name("kernel-routes".to_owned())
            .spawn(body)?;
        Ok(Self { end, done })
    }

    /// Ends it, and waits until the routes are as `end` says.
    pub(crate) async fn stop(self, end: End) {
        // A thread that has failed has said so.
        if self.end.send(end).is_ok() {
            drop(self.done.await);
        }
    }
}

/// What the thread owns.
struct Keeper {
    table: RouteTable,
    resolver: Resolver,
    metric: u32,
    learned: BTreeMap<IpNetwork, Vec<Router>>,
    /// What did not work when it was last told.
    failing: BTreeSet<String>,
    look_at: Instant,
    /// No look before.
    rest_until: Instant,
    retry_at: Option<Instant>,
}

impl Keeper {
    fn open(config: &KernelConfig) -> anyhow::Result<Self> {
        let place = Config {
            table: config.table.get(),
            protocol: config.protocol,
        };
        Ok(Self {
            table: RouteTable::open(place)?,
            resolver: Resolver::open(config.protocol)?,
            metric: config.metric.get(),
            learned: BTreeMap::new(),
            failing: BTreeSet::new(),
            look_at: Instant::now(),
            rest_until: Instant::now(),
            retry_at: None,
        })
    }

    async fn run(
        mut self,
        fib: FibReceiver,
        mut end: oneshot::Receiver<End>,
    ) -> anyhow::Result<()> {
        let mut monitor = Monitor::open(Interests {
            links: true,
            addresses: true,
            routes: true,
        })?;
        monitor.ignore_port(self.table.port());
        // What an earlier run left is adopted before anything is written.
        self.tick();
        let mut fib = Some(fib);
        loop {
            let wake = self.retry_at.unwrap_or(self.look_at).min(self.look_at);
            // All arms are cancel-safe: receives, the monitor's next event, a timer.
            tokio::select! {
                biased;
                end = &mut end => return self.end(end.unwrap_or(End::Leave)),
                batch = next(&mut fib) => match batch {
                    Some(batch) => self.learn(batch),
                    None => fib = None,
                },
                event = monitor.next() => {
                    self.notice(event?);
                    for _ in 0..EVENTS {
                        let Some(event) = monitor.next().now_or_never() else { break };
                        self.notice(event?);
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => self.tick(),
            }
        }
    }

    fn learn(&mut self, batch: FibBatch) {
        for change in batch.changes {
            let routers: Vec<Router> = change
                .next_hops
                .iter()
                .map(|hop| Router {
                    addr: hop.addr,
                    scope: hop.scope,
                })
                .collect();
            let Some(prefix) = network(change.prefix) else {
                continue;
            };
            if routers.is_empty() {
                self.learned.remove(&prefix);
            } else {
                self.learned.insert(prefix, routers);
            }
            self.decide(prefix);
        }
        if batch.initial_sync_done {
            self.table.allow_deletes();
        }
        let report = self.table.apply();
        self.tell(report);
    }

    fn decide(&mut self, prefix: IpNetwork) {
        let routers = self.learned.get(&prefix).map_or(&[][..], Vec::as_slice);
        match self.resolver.route(routers) {
            Some(route) => self.table.set(prefix, route.with_metric(self.metric)),
            None => self.table.remove(prefix),
        }
    }

    fn notice(&mut self, event: Event) {
        if let Event::Link(link) | Event::LinkGone(link) = event {
            self.table.on_link_event(&link.name);
        }
        let soon = self.rest_until.max(Instant::now() + SETTLE);
        self.look_at = self.look_at.min(soon);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if now < self.look_at {
            let report = self.table.apply();
            return self.tell(report);
        }
        self.look();
        self.look_at = now + RESYNC;
        self.rest_until = Instant::now() + now.elapsed() * LOOK_SHARE;
    }

    /// Resolves next hops anew, reads the kernel back and repairs it.
    fn look(&mut self) {
        let used: BTreeSet<Router> = self.learned.values().flatten().copied().collect();
        self.resolver.retain(|router| used.contains(router));
        if self.resolver.refresh() {
            for prefix in self.learned.keys().copied().collect::<Vec<_>>() {
                self.decide(prefix);
            }
        }
        match self.table.resync() {
            Ok(report) => {
                let drift = report.missing + report.different + report.unwanted;
                if drift > 0 {
                    info!(routes = drift, "kernel routes differed and were repaired");
                }
                self.tell(report.repair);
            }
            Err(error) => warn!(%error, "cannot read the kernel's routes"),
        }
    }

    /// Notes when to try again, and logs what has begun to fail.
    fn tell(&mut self, report: ApplyReport) {
        self.retry_at = report.retry_after.map(|wait| Instant::now() + wait);
        let all = report.failed.iter().chain(&report.conflicts);
        let failing: BTreeSet<String> = all.map(ToString::to_string).collect();
        for problem in failing.difference(&self.failing) {
            warn!(problem, "the kernel refused, will be tried again");
        }
        self.failing = failing;
    }

    fn end(mut self, end: End) -> anyhow::Result<()> {
        if end == End::Remove {
            for prefix in std::mem::take(&mut self.learned).into_keys() {
                self.table.remove(prefix);
            }
            self.table.allow_deletes();
            // What an earlier run left goes too, if there was no time to hear of it.
            let report = self.table.resync()?.repair;
            self.tell(report);
        }
        Ok(())
    }
}

/// The next batch; for ever pending once the speaker has stopped.
async fn next(fib: &mut Option<FibReceiver>) -> Option<FibBatch> {
    match fib {
        Some(fib) => fib.recv().await,
        None => std::future::pending().await,
    }
}

fn network(prefix: Prefix) -> Option<IpNetwork> {
    IpNetwork::new(prefix.addr(), prefix.len()).ok()
}
