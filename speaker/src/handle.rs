//! The handle: how the rest of the process talks to the speaker's thread.

use std::{io, net::IpAddr, thread, time::Duration};

use margay_bgp::{
    prefix::Prefix,
    rib::{FibChange, Reachability},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    config::{ConfigError, SpeakerConfig},
    driver,
    handover::{Handover, TookOver},
    mrt::{TableCursor, TablePage},
    peer_key::PeerKey,
    view::{PeerEvent, PeerStatus, RouteCursor, RoutePage, RouteQuery, RouteView, Totals},
    watch::{HeldCursor, Watch, WatchId},
};

/// Commands in flight. A command is small and answered in order; whoever sends more waits.
const COMMANDS: usize = 64;
/// Batches for the FIB in flight. The RIB keeps the last state of each prefix until there is room,
/// so depth would only add staleness.
const FIB_BATCHES: usize = 1;
/// How long a stopping speaker may need to tell its peers.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// A route originated here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRouteChange {
    /// Destination.
    pub prefix: Prefix,
    /// What to do with it.
    pub action: LocalAction,
}

/// What to do with a local route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAction {
    /// Originate it, or replace what it carries.
    Announce(LocalAttrs),
    /// Stop originating it.
    Withdraw,
}

/// What a local route carries. The next hop is the speaker itself.
pub type LocalAttrs = margay_bgp::rib::LocalRoute;

/// Changes for the kernel's routing table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FibBatch {
    /// Last state of each prefix that changed since the last batch; without next hops it is to be
    /// removed.
    pub changes: Vec<FibChange>,
    /// Every peer that can be reached has sent its routes, or waiting for them took too long. Only
    /// from then on may routes that are in the kernel but were never in a batch be removed. Once
    /// true it stays true.
    pub initial_sync_done: bool,
}

/// Receives [`FibBatch`]es. While nobody receives, changes gather in the RIB, the last state of a
/// prefix replacing the one before. Dropping it is fine: the speaker goes on without a FIB.
#[derive(Debug)]
pub struct FibReceiver(pub(crate) mpsc::Receiver<FibBatch>);

impl FibReceiver {
    /// The next batch; `None` when the speaker has stopped. Cancel safe.
    pub async fn recv(&mut self) -> Option<FibBatch> {
        self.0.recv().await
    }
}

/// Why a speaker did not start, or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// The configuration makes no sense; nothing was changed.
    #[error("the configuration of the speaker is not usable")]
    Config(#[from] ConfigError),
    /// A listener cannot be opened; the rest of the configuration is in force.
    #[error("cannot listen on {addr}")]
    Listen {
        /// Where.
        addr: std::net::SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the speaker's thread")]
    Thread(#[source] io::Error),
    /// The thread has ended.
    #[error("the speaker has stopped")]
    Stopped,
}

/// How to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shutdown {
    /// Tell the peers why; they drop our routes (Cease, RFC 9003).
    Administrative(String),
    /// Close the connections without a word, so that peers with graceful restart keep forwarding
    /// until we are back.
    Restart,
}

#[derive(Debug)]
pub(crate) enum Command {
    Configure(
        Box<SpeakerConfig>,
        oneshot::Sender<Result<(), SpeakerError>>,
    ),
    Originate(Vec<LocalRouteChange>),
    Reachability(IpAddr, Reachability),
    Status(oneshot::Sender<Vec<PeerStatus>>),
    Routes(RouteQuery, RouteCursor, oneshot::Sender<RoutePage>),
    Events(oneshot::Sender<Vec<PeerEvent>>),
    Totals(oneshot::Sender<Totals>),
    Refresh(PeerKey, oneshot::Sender<bool>),
    Watch(Queries, oneshot::Sender<Watch>),
    Held(WatchId, HeldCursor),
    Table(Box<TableCursor>, oneshot::Sender<TablePage>),
    Stop(Shutdown),
    HandOver(oneshot::Sender<Handover>),
}

/// A running BGP speaker.
///
/// It lives on a thread of its own with a runtime of its own, so that keepalives never wait for
/// anything else in the process. Dropping the handle stops it as [`Shutdown::Restart`] if graceful
/// restart is configured, else with an administrative Cease.
#[derive(Debug)]
pub struct Speaker {
    commands: mpsc::Sender<Command>,
    /// Closed by the thread when it is done.
    done: oneshot::Receiver<()>,
    graceful: bool,
    took_over: Option<TookOver>,
}

impl Speaker {
    /// Starts the thread with `config` as its first desired state.
    ///
    /// Blocks until the listeners are open, which takes no I/O to speak of. A process that restarts
    /// gracefully should know its local routes by now: see [`spawn_with`](Self::spawn_with).
    pub fn spawn(config: SpeakerConfig) -> Result<(Self, FibReceiver), SpeakerError> {
        Self::spawn_with(config, Vec::new())
    }

    /// As [`spawn`](Self::spawn), with routes that are originated before any peer is talked to.
    ///
    /// After a graceful restart peers drop whatever was not told again by the first End-of-RIB, so
    /// routes that are originated later may be gone for a moment.
    pub fn spawn_with(
        config: SpeakerConfig,
        routes: Vec<LocalRouteChange>,
    ) -> Result<(Self, FibReceiver), SpeakerError> {
        Self::spawn_from(config, routes, None)
    }

    /// As [`spawn_with`](Self::spawn_with), going on with the sessions that another speaker has left.
    ///
    /// What fits `config` goes on: its peers are told nothing but what has changed meanwhile, so
    /// `routes` has to be all that is originated. Connections of others are closed, without a word.
    pub fn spawn_from(
        config: SpeakerConfig,
        routes: Vec<LocalRouteChange>,
        handover: Option<Handover>,
    ) -> Result<(Self, FibReceiver), SpeakerError> {
        config.validate()?;
        let graceful = config.graceful_restart.is_some();
        let (commands, command_rx) = mpsc::channel(COMMANDS);
        let (fib_tx, fib) = mpsc::channel(FIB_BATCHES);
        let (ready_tx, ready) = std::sync::mpsc::sync_channel(1);
        let (done_tx, done) = oneshot::channel::<()>();
        thread::Builder::new()
            .name("bgp-speaker".to_owned())
            .spawn(move || {
                driver::run(config, &routes, handover, (command_rx, fib_tx), &ready_tx);
                drop(done_tx);
            })
            .map_err(SpeakerError::Thread)?;
        let took_over = ready.recv().map_err(|_closed| SpeakerError::Stopped)??;
        Ok((
            Self {
                commands,
                done,
                graceful,
                took_over,
            },
            FibReceiver(fib),
        ))
    }

    /// What became of what another speaker had left; `None` if there was nothing.
    pub const fn took_over(&self) -> Option<TookOver> {
        self.took_over
    }

    /// Replaces the desired state.
    ///
    /// Sessions of unchanged peers are not touched. A change of filters, next hop settings, limits
    /// or route reflection takes effect without a reset; of anything else in the peer resets its
    /// session. Peers that are gone get a Cease.
    pub async fn configure(&mut self, config: SpeakerConfig) -> Result<(), SpeakerError> {
        config.validate()?;
        self.graceful = config.graceful_restart.is_some();
        self.ask(|reply| Command::Configure(Box::new(config), reply))
            .await?
    }

    /// Originates and withdraws routes. Returns when the changes are queued in order; peers are
    /// told in the same turn of the speaker's loop.
    pub async fn originate(&self, changes: Vec<LocalRouteChange>) -> Result<(), SpeakerError> {
        self.send(Command::Originate(changes)).await
    }

    /// Tells what the kernel knows of a next hop. What is not told about is reachable at cost 0.
    pub async fn set_reachability(
        &self,
        next_hop: IpAddr,
        reachability: Reachability,
    ) -> Result<(), SpeakerError> {
        self.send(Command::Reachability(next_hop, reachability))
            .await
    }

    /// A handle that only asks. It does not keep the speaker alive.
    pub fn queries(&self) -> Queries {
        Queries(self.commands.downgrade())
    }

    /// All peers, in the order of their keys.
    pub async fn status(&self) -> Result<Vec<PeerStatus>, SpeakerError> {
        self.queries().status().await
    }

    /// Routes, in the order of their prefixes. A query for a peer that is not configured has no
    /// routes.
    pub async fn routes(&self, query: RouteQuery) -> Result<Vec<RouteView>, SpeakerError> {
        self.queries().routes(query).await
    }

    /// Stops and waits, at most two seconds, until the peers have been told.
    pub async fn shutdown(self, how: Shutdown) {
        if self.send(Command::Stop(how)).await.is_ok() {
            self.wait().await;
        }
    }

    /// Stops without a word to anyone, so that a speaker in another process can go on from what this
    /// one leaves. The sockets hold the connections open until they are closed.
    ///
    /// Sessions that cannot go on elsewhere (of a peer without four-octet AS numbers, or in the
    /// middle of a graceful restart) are closed as by [`Shutdown::Restart`].
    ///
    /// # Errors
    /// The speaker has stopped already.
    pub async fn hand_over(self) -> Result<Handover, SpeakerError> {
        let handover = self.ask(Command::HandOver).await?;
        self.wait().await;
        Ok(handover)
    }

    async fn wait(self) {
        // The thread closes the channel without a word; a time-out leaves it to finish alone.
        drop(tokio::time::timeout(STOP_GRACE, self.done).await);
    }

    async fn send(&self, command: Command) -> Result<(), SpeakerError> {
        self.commands
            .send(command)
            .await
            .map_err(|_closed| SpeakerError::Stopped)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, SpeakerError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_closed| SpeakerError::Stopped)
    }
}

/// Asks a running speaker.
#[derive(Debug, Clone)]
pub struct Queries(mpsc::WeakSender<Command>);

impl Queries {
    /// Whether it asks this speaker.
    pub fn is_of(&self, speaker: &Speaker) -> bool {
        let own = self.0.upgrade();
        own.is_some_and(|own| own.same_channel(&speaker.commands))
    }

    /// All peers, in the order of their keys.
    pub async fn status(&self) -> Result<Vec<PeerStatus>, SpeakerError> {
        self.ask(Command::Status).await
    }

    /// The last changes of state of every peer, by peer, oldest first.
    pub async fn events(&self) -> Result<Vec<PeerEvent>, SpeakerError> {
        self.ask(Command::Events).await
    }

    /// What the tables hold, and what was turned away.
    pub async fn totals(&self) -> Result<Totals, SpeakerError> {
        self.ask(Command::Totals).await
    }

    /// Asks a peer to send all its routes again (RFC 2918); `false` if its session is not up, or it does
    /// not know how to. Where both sides have enhanced route refresh (RFC 7313), what it does not
    /// repeat goes.
    pub async fn refresh(&self, peer: PeerKey) -> Result<bool, SpeakerError> {
        self.ask(|reply| Command::Refresh(peer, reply)).await
    }

    /// Hears of every session and of what its peer sends, from now on.
    pub async fn watch(&self) -> Result<Watch, SpeakerError> {
        let own = self.clone();
        self.ask(|reply| Command::Watch(own, reply)).await
    }

    /// Some of the table as MRT records (RFC 6396), from `from` on. What changes while it is
    /// collected may be in it or not.
    pub async fn table(&self, from: TableCursor) -> Result<TablePage, SpeakerError> {
        self.ask(|reply| Command::Table(Box::new(from), reply))
            .await
    }

    pub(crate) async fn ask_held(
        &self,
        watch: WatchId,
        from: HeldCursor,
    ) -> Result<(), SpeakerError> {
        let commands = self.0.upgrade().ok_or(SpeakerError::Stopped)?;
        let sent = commands.send(Command::Held(watch, from)).await;
        sent.map_err(|_closed| SpeakerError::Stopped)
    }

    /// Asks a speaker that is gone.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        Self(mpsc::channel(1).0.downgrade())
    }

    /// Routes, in the order of their prefixes; look-ups have the best first. What changes while
    /// they are collected may be in the list or not.
    pub async fn routes(&self, query: RouteQuery) -> Result<Vec<RouteView>, SpeakerError> {
        let mut all = Vec::new();
        let mut cursor = Some(RouteCursor::START);
        while let Some(from) = cursor {
            let page = self.page(query, from).await?;
            all.extend(page.routes);
            cursor = page.next;
        }
        if !matches!(query, RouteQuery::Lookup(_) | RouteQuery::LookupAddress(_)) {
            all.sort_by_key(|view| (view.prefix, view.path_id));
        }
        Ok(all)
    }

    /// Some of the routes. However many there are, the speaker is kept busy for a moment only.
    pub async fn page(
        &self,
        query: RouteQuery,
        from: RouteCursor,
    ) -> Result<RoutePage, SpeakerError> {
        self.ask(|reply| Command::Routes(query, from, reply)).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, SpeakerError> {
        let commands = self.0.upgrade().ok_or(SpeakerError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        let sent = commands.send(command(reply)).await;
        sent.map_err(|_closed| SpeakerError::Stopped)?;
        answer.await.map_err(|_closed| SpeakerError::Stopped)
    }
}
