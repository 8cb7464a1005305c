//! The speaker's keeper: configures it as the graph derives, passes on what it learns and what this host
//! has, and answers for its state.
//!
//! One task owns the [`Speaker`], whose thread does the work. A speaker that cannot start (its port is
//! taken) is tried again; the rest of the agent goes on without it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use ipnetwork::IpNetwork;
use margay_api::status::{BgpStatus, PeerStatus};
use margay_bgp::prefix::Prefix;
use margay_speaker::{
    FibBatch, FibReceiver, LocalAction, LocalAttrs, LocalRouteChange, Queries, Shutdown, Speaker,
    SpeakerConfig,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::causes::in_full;
use crate::kernel::{Announce, BgpNextHop, Learned};

/// Pause before another attempt to start the speaker.
const RETRY: Duration = Duration::from_secs(5);

/// Prefixes that this host has, or has no more.
#[derive(Debug)]
pub(crate) enum Local {
    Announce(Vec<IpNetwork>),
    Withdraw(Vec<IpNetwork>),
}

/// The kernel thread's way to the speaker. Unbounded, because its producer is bounded by the endpoints
/// of this host and must never wait for BGP.
pub(crate) fn announcer(local: mpsc::UnboundedSender<Local>) -> Announce {
    Box::new(move |announce, withdraw| {
        for change in [Local::Withdraw(withdraw), Local::Announce(announce)] {
            if local.send(change).is_err() {
                warn!("the speaker's keeper is gone");
            }
        }
    })
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
    pub(crate) config: watch::Receiver<Option<SpeakerConfig>>,
    pub(crate) local: mpsc::UnboundedReceiver<Local>,
    pub(crate) learned: mpsc::Sender<Learned>,
}

struct Running {
    speaker: Speaker,
    fib: FibReceiver,
    config: SpeakerConfig,
}

impl Keeper {
    /// Starts the task; it ends on cancellation, leaving peers to keep our routes.
    pub(crate) fn spawn(
        self,
        cancel: CancellationToken,
    ) -> (BgpHandle, tokio::task::JoinHandle<()>) {
        let (asked, receiver) = watch::channel(None);
        let handle = BgpHandle(receiver);
        (handle, tokio::spawn(self.run(asked, cancel)))
    }

    async fn run(mut self, asked: watch::Sender<Option<Asked>>, cancel: CancellationToken) {
        // What a speaker that starts later must announce.
        let mut prefixes = BTreeSet::new();
        let mut running: Option<Running> = None;
        loop {
            // All arms are cancel-safe: receives, the watch's `changed`, a timer.
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                changed = self.config.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.take_local(&mut prefixes, running.as_ref()).await;
                    self.configure(&mut running, &prefixes).await;
                }
                Some(change) = self.local.recv() => {
                    note(&mut prefixes, &change);
                    if let Some(running) = &running {
                        originate(&running.speaker, &change).await;
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
                () = tokio::time::sleep(RETRY), if running.is_none() => {
                    self.configure(&mut running, &prefixes).await;
                }
            }
            asked.send_if_modified(|asked| tell(asked, running.as_ref()));
        }
        if let Some(running) = running {
            running.speaker.shutdown(Shutdown::Restart).await;
        }
    }

    /// Local routes that the kernel has already reported come before a new configuration.
    async fn take_local(&mut self, prefixes: &mut BTreeSet<IpNetwork>, running: Option<&Running>) {
        while let Ok(change) = self.local.try_recv() {
            note(prefixes, &change);
            if let Some(running) = running {
                originate(&running.speaker, &change).await;
            }
        }
    }

    async fn configure(&mut self, running: &mut Option<Running>, prefixes: &BTreeSet<IpNetwork>) {
        let Some(config) = self.config.borrow_and_update().clone() else {
            return;
        };
        match running {
            Some(running) if running.config == config => {}
            Some(running) => match running.speaker.configure(config.clone()).await {
                Ok(()) => running.config = config,
                Err(error) => warn!(error = in_full(&error), "BGP configuration refused"),
            },
            // With the local routes, so that they are in what peers hear before the first End-of-RIB.
            None => match Speaker::spawn_with(config.clone(), announcements(prefixes)) {
                Ok((speaker, fib)) => {
                    info!(asn = config.local_as, router_id = %config.router_id, "speaker started");
                    *running = Some(Running {
                        speaker,
                        fib,
                        config,
                    });
                }
                Err(error) => warn!(error = in_full(&error), "cannot start the speaker"),
            },
        }
    }
}

/// The next batch of a speaker that runs; for ever pending without one.
async fn next_batch(running: &mut Option<Running>) -> Option<FibBatch> {
    match running {
        Some(running) => running.fib.recv().await,
        None => std::future::pending().await,
    }
}

fn note(prefixes: &mut BTreeSet<IpNetwork>, change: &Local) {
    match change {
        Local::Announce(added) => prefixes.extend(added),
        Local::Withdraw(gone) => gone.iter().for_each(|prefix| {
            prefixes.remove(prefix);
        }),
    }
}

async fn originate(speaker: &Speaker, change: &Local) {
    let changes = match change {
        Local::Announce(prefixes) => announcements(prefixes),
        Local::Withdraw(prefixes) => {
            let withdraw = |prefix| LocalRouteChange {
                prefix,
                action: LocalAction::Withdraw,
            };
            bgp_prefixes(prefixes).map(withdraw).collect()
        }
    };
    if !changes.is_empty()
        && let Err(error) = speaker.originate(changes).await
    {
        warn!(%error, "local routes not told to the speaker");
    }
}

fn announcements<'a>(prefixes: impl IntoIterator<Item = &'a IpNetwork>) -> Vec<LocalRouteChange> {
    let action = LocalAction::Announce(LocalAttrs::default());
    bgp_prefixes(prefixes)
        .map(|prefix| LocalRouteChange {
            prefix,
            action: action.clone(),
        })
        .collect()
}

fn bgp_prefixes<'a>(
    networks: impl IntoIterator<Item = &'a IpNetwork>,
) -> impl Iterator<Item = Prefix> {
    networks
        .into_iter()
        .filter_map(|net| Prefix::new(net.ip(), net.prefix()))
}

fn learned(batch: FibBatch) -> Learned {
    let routes = batch.changes.into_iter().filter_map(|change| {
        let net = IpNetwork::new(change.prefix.addr(), change.prefix.len()).ok()?;
        let hops = change.next_hops.iter();
        let hops = hops.map(|hop| BgpNextHop {
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
