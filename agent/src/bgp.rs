//! The speaker's keeper: configures it as the graph derives, passes on what it learns and what this host
//! has, and answers for its state.
//!
//! One task owns the [`Speaker`], whose thread does the work. A speaker that cannot start (its port is
//! taken) is tried again; the rest of the agent goes on without it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ipnetwork::IpNetwork;
use margay_api::status::{BgpStatus, PeerStatus};
use margay_bgp::prefix::Prefix;
use margay_dataplane::resolve::Router;
use margay_speaker::carry::Outcome;
use margay_speaker::{
    FibBatch, FibReceiver, Handover, LocalAction, LocalAttrs, LocalRouteChange, Queries, Shutdown,
    Speaker, SpeakerConfig,
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::causes::in_full;
use crate::derive::{Announcing, Bgp};
use crate::kernel::{Announce, Learned};
use crate::meters::Meters;
use crate::world::World;

/// Pause before another attempt to start the speaker.
const RETRY: Duration = Duration::from_secs(5);

/// How long sessions of the agent before may wait for a configuration. Then their connections close, so that graceful
/// restart begins before the peers' hold timers expire, which ends it.
const UNSERVED: Duration = Duration::from_secs(15);

/// Prefixes that this host has, or has no more.
#[derive(Debug)]
pub(crate) enum Local {
    /// With the interfaces that they are behind.
    Announce(Vec<(IpNetwork, String)>),
    Withdraw(Vec<IpNetwork>),
}

/// The kernel thread's way to the speaker. Unbounded, because its producer is bounded by the endpoints
/// of this host and must never wait for BGP.
pub(crate) fn announcer(local: mpsc::UnboundedSender<Local>) -> Announce {
    Box::new(move |announce, withdraw| {
        let tell = |change| {
            if local.send(change).is_err() {
                warn!("the speaker's keeper is gone");
            }
        };
        if !withdraw.is_empty() {
            tell(Local::Withdraw(withdraw));
        }
        if !announce.is_empty() {
            tell(Local::Announce(announce));
        }
    })
}

/// Tells what became of the sessions of the agent before. What another speaker of this process finds later is none of it.
pub(crate) fn handed_over(outcome: Outcome, meters: &Meters) {
    if meters.handover.set(outcome).is_ok() {
        let (kept, lost, pause) = outcome.sessions();
        let (result, pause_ms) = (outcome.name(), pause.as_millis());
        info!(result, kept, lost, pause_ms = %pause_ms, "hand-over from the process before");
    }
}

/// The speaker that runs, to be asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) queries: Queries,
    local_as: u32,
    router_id: Ipv4Addr,
}

/// Asks the speaker without going through its keeper.
#[derive(Clone, Debug)]
pub(crate) struct BgpHandle(watch::Receiver<Option<Asked>>);

impl BgpHandle {
    /// The speaker; none while it cannot start or is not configured.
    pub(crate) fn speaker(&self) -> Option<Asked> {
        self.0.borrow().clone()
    }

    pub(crate) async fn status(&self) -> BgpStatus {
        match self.speaker() {
            Some(asked) => status(&asked).await,
            None => BgpStatus::default(),
        }
    }
}

/// What the task works with.
pub(crate) struct Keeper {
    pub(crate) config: watch::Receiver<Option<Bgp>>,
    pub(crate) local: mpsc::UnboundedReceiver<Local>,
    pub(crate) learned: mpsc::Sender<Learned>,
    /// Tells how often a sticky address has moved.
    pub(crate) world: watch::Receiver<Arc<World>>,
    /// Sessions that the agent before has left, until the first speaker has them.
    pub(crate) inherited: Option<Handover>,
    /// Told what becomes of them.
    pub(crate) meters: Arc<Meters>,
}

/// How the speaker is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Peers keep our routes, by graceful restart.
    Close,
    /// Another process goes on with the sessions.
    HandOver,
}

/// What is announced of this node's endpoints.
type Announced = BTreeMap<IpNetwork, Held>;

/// An address of an endpoint.
#[derive(Debug)]
struct Held {
    /// The interface that it is behind.
    interface: String,
    /// How often it has moved, if it is sticky.
    moves: Option<u32>,
}

struct Running {
    speaker: Speaker,
    fib: FibReceiver,
    config: SpeakerConfig,
    announcing: Announcing,
}

impl Keeper {
    /// Starts the task; it ends when it is told how, or when nobody is left to tell it.
    pub(crate) fn spawn(
        self,
        leave: oneshot::Receiver<Leave>,
    ) -> (BgpHandle, tokio::task::JoinHandle<Option<Handover>>) {
        let (asked, receiver) = watch::channel(None);
        let handle = BgpHandle(receiver);
        (handle, tokio::spawn(self.run(asked, leave)))
    }

    async fn run(
        mut self,
        asked: watch::Sender<Option<Asked>>,
        mut leave: oneshot::Receiver<Leave>,
    ) -> Option<Handover> {
        let started = Instant::now();
        let mut how = Leave::Close;
        // What a speaker that starts later must announce.
        let mut prefixes = Announced::new();
        let mut running: Option<Running> = None;
        loop {
            // All arms are cancel-safe: receives, the watch's `changed`, a timer.
            tokio::select! {
                biased;
                told = &mut leave => {
                    how = told.unwrap_or(Leave::Close);
                    break;
                }
                changed = self.config.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.take_local(&mut prefixes, running.as_ref()).await;
                    self.configure(&mut running, &prefixes).await;
                }
                Some(change) = self.local.recv() => {
                    self.tell(&mut prefixes, running.as_ref(), change).await;
                }
                changed = self.world.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let moved = moved(&prefixes, &self.world.borrow_and_update().moves);
                    if !moved.is_empty() {
                        let change = Local::Announce(moved);
                        self.tell(&mut prefixes, running.as_ref(), change).await;
                    }
                }
                batch = next_batch(&mut running) => match batch {
                    Some(batch) => {
                        if self.learned.send(learned(batch)).await.is_err() {
                            break;
                        }
                    }
                    None => {
                        warn!("the speaker stopped, starting another");
                        running = None;
                        self.configure(&mut running, &prefixes).await;
                    }
                },
                () = tokio::time::sleep_until((started + UNSERVED).into()), if self.inherited.is_some() => {
                    warn!("still no configuration, sessions of the process before start anew");
                    self.inherited = None;
                    handed_over(Outcome::Unserved, &self.meters);
                }
                () = tokio::time::sleep(RETRY), if running.is_none() => {
                    self.configure(&mut running, &prefixes).await;
                }
            }
            asked.send_if_modified(|asked| tell(asked, running.as_ref()));
        }
        match (running, how) {
            (None, Leave::Close) => None,
            // One that has not begun yet leaves what it was left.
            (None, Leave::HandOver) => self.inherited,
            (Some(running), Leave::Close) => {
                running.speaker.shutdown(Shutdown::Restart).await;
                None
            }
            (Some(running), Leave::HandOver) => {
                let left = running.speaker.hand_over().await;
                left.inspect_err(|error| warn!(%error, "nothing is handed over"))
                    .ok()
            }
        }
    }

    /// Local routes that the kernel has already reported come before a new configuration.
    async fn take_local(&mut self, prefixes: &mut Announced, running: Option<&Running>) {
        while let Ok(change) = self.local.try_recv() {
            self.tell(prefixes, running, change).await;
        }
    }

    /// Takes note of a change, and tells a speaker that runs. The graph publishes an endpoint before the
    /// kernel has its route, so how often its addresses have moved is known here.
    async fn tell(&self, prefixes: &mut Announced, running: Option<&Running>, change: Local) {
        let changes = match change {
            Local::Announce(added) => {
                let moves = Arc::clone(&self.world.borrow().moves);
                let held = |(net, interface)| {
                    let moves = moves.get(&net).copied();
                    (net, Held { interface, moves })
                };
                let added: Announced = added.into_iter().map(held).collect();
                let changes = running.map(|r| r.announcing.routes(&added).collect());
                prefixes.extend(added);
                changes
            }
            Local::Withdraw(gone) => {
                for net in &gone {
                    prefixes.remove(net);
                }
                Some(withdrawals(&gone).collect())
            }
        };
        if let (Some(running), Some(changes)) = (running, changes) {
            running.tell(changes).await;
        }
    }

    async fn configure(&mut self, running: &mut Option<Running>, prefixes: &Announced) {
        let Some(Bgp {
            speaker: config,
            announcing,
        }) = self.config.borrow_and_update().clone()
        else {
            return;
        };
        if let Some(running) = running {
            running.configure(config).await;
            running.announce_with(announcing, prefixes).await;
            return;
        }
        // With the local routes, so that they are in what peers hear before the first End-of-RIB.
        let routes = announcing.all(prefixes);
        match Speaker::spawn_from(config.clone(), routes, self.inherited.take()) {
            Ok((speaker, fib)) => {
                info!(asn = config.local_as, router_id = %config.router_id, "speaker started");
                if let Some(took) = speaker.took_over() {
                    handed_over(took.into(), &self.meters);
                }
                *running = Some(Running {
                    speaker,
                    fib,
                    config,
                    announcing,
                });
            }
            Err(error) => warn!(error = in_full(&error), "cannot start the speaker"),
        }
    }
}

impl Running {
    async fn configure(&mut self, config: SpeakerConfig) {
        if self.config == config {
            return;
        }
        match self.speaker.configure(config.clone()).await {
            Ok(()) => self.config = config,
            Err(error) => warn!(error = in_full(&error), "BGP configuration refused"),
        }
    }

    /// Announces everything once more if what it carries has changed.
    async fn announce_with(&mut self, announcing: Announcing, prefixes: &Announced) {
        if self.announcing == announcing {
            return;
        }
        let old = std::mem::replace(&mut self.announcing, announcing);
        let kept = |range: &&IpNetwork| {
            self.announcing.ranges.contains(range) || prefixes.contains_key(range)
        };
        let gone = old.ranges.iter().filter(|range| !kept(range));
        let mut changes: Vec<_> = withdrawals(gone).collect();
        changes.extend(self.announcing.all(prefixes));
        self.tell(changes).await;
    }

    async fn tell(&self, changes: Vec<LocalRouteChange>) {
        if !changes.is_empty()
            && let Err(error) = self.speaker.originate(changes).await
        {
            warn!(%error, "local routes not told to the speaker");
        }
    }
}

impl Announcing {
    /// All routes of this node.
    fn all(&self, prefixes: &Announced) -> Vec<LocalRouteChange> {
        let range = |net| self.route(net, LocalAttrs::default());
        let ranges = self.ranges.iter().filter_map(range);
        ranges.chain(self.routes(prefixes)).collect()
    }

    fn routes(&self, prefixes: &Announced) -> impl Iterator<Item = LocalRouteChange> {
        prefixes.iter().filter_map(|(net, held)| {
            let mut attrs = LocalAttrs {
                interface: held.interface.clone(),
                ..LocalAttrs::default()
            };
            prefer(&mut attrs, held.moves);
            self.route(net, attrs)
        })
    }

    fn route(&self, net: &IpNetwork, mut attrs: LocalAttrs) -> Option<LocalRouteChange> {
        let prefix = bgp_prefix(net)?;
        self.tag(prefix, &mut attrs);
        Some(LocalRouteChange {
            prefix,
            action: LocalAction::Announce(attrs),
        })
    }
}

/// The next batch of a speaker that runs; for ever pending without one.
async fn next_batch(running: &mut Option<Running>) -> Option<FibBatch> {
    match running {
        Some(running) => running.fib.recv().await,
        None => std::future::pending().await,
    }
}

/// What is announced as having moved less or more often than it has.
fn moved(announced: &Announced, moves: &BTreeMap<IpNetwork, u32>) -> Vec<(IpNetwork, String)> {
    // One that is sticky no more is withdrawn, or another workload's: told by the kernel thread.
    let differs = |(net, moves): (&IpNetwork, &u32)| {
        let told = announced.get(net)?;
        (told.moves != Some(*moves)).then(|| (*net, told.interface.clone()))
    };
    moves.iter().filter_map(differs).collect()
}

fn withdrawals<'a>(
    networks: impl IntoIterator<Item = &'a IpNetwork>,
) -> impl Iterator<Item = LocalRouteChange> {
    networks.into_iter().filter_map(|net| {
        Some(LocalRouteChange {
            prefix: bgp_prefix(net)?,
            action: LocalAction::Withdraw,
        })
    })
}

fn bgp_prefix(net: &IpNetwork) -> Option<Prefix> {
    Prefix::new(net.ip(), net.prefix())
}

/// LOCAL_PREF of an address that never moved; RFC 4271 has no default, everybody's is this.
const LOCAL_PREF: u32 = 100;
/// MULTI_EXIT_DISC of a sticky address that never moved. Far from 0, which is the best and also what a
/// route without the attribute counts as: each move must be able to better it.
const MED: u32 = 1_000_000;

/// What makes neighbours prefer the newest of several hosts that announce a sticky address: the host that
/// had it may be dead or cut off, and its announcement outlives it for the hold time and a graceful restart.
/// Internal peers go by LOCAL_PREF. External ones never hear that; among hosts of one AS they go by the MED.
fn prefer(attrs: &mut LocalAttrs, moves: Option<u32>) {
    attrs.local_pref = moves.map(|moves| LOCAL_PREF.saturating_add(moves));
    attrs.med = moves.map(|moves| MED.saturating_sub(moves));
}

fn learned(batch: FibBatch) -> Learned {
    let routes = batch.changes.into_iter().filter_map(|change| {
        let net = IpNetwork::new(change.prefix.addr(), change.prefix.len()).ok()?;
        let hops = change.next_hops.iter();
        let hops = hops.map(|hop| Router {
            addr: hop.addr,
            scope: hop.scope,
        });
        Some((net, hops.collect()))
    });
    Learned {
        routes: routes.collect(),
        converged: batch.initial_sync_done,
    }
}

/// Keeps what askers see in step; whether it changed.
fn tell(asked: &mut Option<Asked>, running: Option<&Running>) -> bool {
    let same = match (&*asked, running) {
        (None, None) => true,
        (Some(asked), Some(running)) => {
            asked.queries.is_of(&running.speaker)
                && (asked.local_as, asked.router_id)
                    == (running.config.local_as, running.config.router_id)
        }
        _ => false,
    };
    if !same {
        *asked = running.map(|running| Asked {
            queries: running.speaker.queries(),
            local_as: running.config.local_as,
            router_id: running.config.router_id,
        });
    }
    !same
}

async fn status(asked: &Asked) -> BgpStatus {
    let now = SystemTime::now();
    let peers = asked.queries.status().await.unwrap_or_default();
    BgpStatus {
        local_as: asked.local_as,
        router_id: asked.router_id.to_string(),
        peers: peers
            .into_iter()
            .map(|peer| PeerStatus {
                name: peer.name,
                address: peer.key.to_string(),
                remote_as: peer.remote_as,
                state: peer.state.to_string(),
                since_secs: now.duration_since(peer.since).map_or(0, |d| d.as_secs()),
                last_error: peer.last_error.unwrap_or_default(),
                received: peer.routes.iter().map(|f| u64::from(f.received)).sum(),
                advertised: peer.routes.iter().map(|f| f.advertised as u64).sum(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use margay_speaker::TookOver;

    use super::*;

    #[test]
    fn the_first_outcome_of_a_hand_over_counts() {
        let meters = Meters::default();
        let pause = Duration::from_millis(120);
        let took = TookOver::Sessions {
            kept: 4,
            lost: 1,
            pause,
        };
        handed_over(took.into(), &meters);
        handed_over(Outcome::Unserved, &meters);
        let told = meters.handover.get().unwrap();
        assert_eq!(
            (told.name(), told.sessions()),
            ("taken_over", (4, 1, pause))
        );
        assert_eq!(Outcome::from(TookOver::Unreadable), Outcome::Unreadable);
    }

    #[test]
    fn each_move_of_a_sticky_address_makes_its_route_better_for_both_kinds_of_peers() {
        let preference = |moves| {
            let mut attrs = LocalAttrs::default();
            prefer(&mut attrs, moves);
            attrs
        };
        assert_eq!(preference(None), LocalAttrs::default());
        let [never, once, twice] = [0, 1, 2].map(|moves| preference(Some(moves)));
        assert_eq!(never.local_pref, Some(LOCAL_PREF));
        assert!(never.local_pref < once.local_pref && once.local_pref < twice.local_pref);
        assert!(never.med > once.med && once.med > twice.med);
    }

    #[test]
    fn an_address_that_returns_while_it_is_still_announced_is_announced_anew() {
        let net = |n: u8| IpNetwork::new([10, 65, 0, n].into(), 32).unwrap();
        let held = |moves| Held {
            interface: "mgy1".to_owned(),
            moves,
        };
        let announced = Announced::from([
            (net(1), held(Some(0))),
            (net(2), held(Some(1))),
            (net(3), held(None)),
        ]);
        let moves = BTreeMap::from([(net(1), 2), (net(2), 1), (net(9), 4)]);
        assert_eq!(moved(&announced, &moves), [(net(1), "mgy1".to_owned())]);
    }
}
