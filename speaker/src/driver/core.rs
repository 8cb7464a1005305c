//! The core: the one owner of sessions and RIB.

mod configure;
mod handover;
mod links;
mod sessions;
mod wait;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
    time::{Duration, Instant},
};

use margay_bgp::{
    bfd::Change,
    rib::{Multipath, Rib, RibConfig},
    wire::{Kind, Notification},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tracing::info;

use crate::{
    bfd::{Bfd, LeftPaths},
    config::SpeakerConfig,
    driver::{
        EVENTS, Event,
        link::{Link, LinkId},
        listen::Listeners,
        pace::Pace,
        peer::Peer,
        ready::Ready,
        round::Round,
        sync::InitialSync,
        table, views,
        watch::Watchers,
    },
    handle::{Command, FibBatch, LocalAction, LocalRouteChange, Shutdown, SpeakerError},
    handover::{Handover, Inherited, TookOver},
    peer_key::PeerKey,
    view::Totals,
};

use wait::{News, Waiter};

/// The peers by key.
pub(super) type Peers = BTreeMap<PeerKey, Peer>;

/// Events taken in before routes are decided and written.
const TURN_EVENTS: usize = 64;
/// Octets of messages likewise, some 100,000 routes: enough to damp path hunting, few enough that
/// peers hear of the first routes of a table while the last are still to be read.
const TURN_OCTETS: usize = 1 << 20;
/// How long each part of a turn may take, of which there are three: taking in, deciding, writing.
const TURN: Duration = Duration::from_millis(20);
/// A turn that takes longer lets all tasks run before the next.
const SHORT: Duration = Duration::from_millis(10);
/// Routes for the FIB in one batch: some 2 MiB, where a full table would be a hundred.
const FIB_BATCH: usize = 16 << 10;
/// How long connections may take to close when the speaker stops.
const STOP_GRACE: Duration = Duration::from_millis(1500);

/// What a turn is to do after its events.
#[derive(Debug, Default)]
struct Due {
    /// Some peer could take more than its turn allowed.
    send: bool,
    /// The FIB had no room.
    fib: bool,
    /// Not all is decided, or there is more to do about some table.
    work: bool,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: SpeakerConfig,
    pub(super) peers: Peers,
    /// Dynamic peers without a connection, to be forgotten once nothing is left of them.
    pub(super) leaving: BTreeSet<PeerKey>,
    pub(super) rib: Rib,
    links: HashMap<LinkId, Link, foldhash::fast::RandomState>,
    next_link: LinkId,
    listeners: Listeners,
    events_tx: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    fib: mpsc::Sender<FibBatch>,
    sync: InitialSync,
    closing: JoinSet<()>,
    /// The thread of BFD, once a peer wants it.
    bfd: Option<Bfd>,
    bfd_changes: mpsc::UnboundedReceiver<(PeerKey, Change)>,
    bfd_changes_tx: mpsc::UnboundedSender<(PeerKey, Change)>,
    watchers: Watchers,
    /// No timer of a session is due before.
    wake_at: Option<Instant>,
    due: Due,
    /// The links that can be read.
    ready: Arc<Ready>,
    /// Those that were read to the end in this turn.
    heard: Vec<LinkId>,
    /// Of the events of a round, those there was no time for.
    waiting: VecDeque<Event>,
    /// The round that is taking in what is to be decided at its end.
    round: Option<Round>,
    /// The first peer that a turn had no time to write to.
    next_to_write: Option<PeerKey>,
    pace: Pace,
    /// We have restarted, and wait for what the peers know.
    recovering: bool,
    /// Sessions of another process that wait for their peers to be configured, at start.
    inherited: Inherited,
    /// Of BFD, likewise.
    inherited_paths: LeftPaths,
    /// What became of all that.
    took_over: Option<TookOver>,
}

/// Why the core stops.
enum Flow {
    Go,
    Stop(Shutdown),
    HandOver(oneshot::Sender<Handover>),
}

impl Core {
    pub(super) fn new(
        config: SpeakerConfig,
        routes: &[LocalRouteChange],
        handover: Option<Handover>,
        fib: mpsc::Sender<FibBatch>,
    ) -> Result<Self, SpeakerError> {
        let now = Instant::now();
        let (events_tx, events) = mpsc::channel(EVENTS);
        let (bfd_changes_tx, bfd_changes) = mpsc::unbounded_channel();
        let rib_config = RibConfig {
            cluster_id: config.cluster_id.unwrap_or(config.router_id),
            multipath: Multipath {
                max_paths: config.multipath.max_paths.max(1),
                as_path_relax: config.multipath.as_path_relax,
            },
            hash_seed: RandomState::new().hash_one(config.router_id),
            ..RibConfig::new(config.local_as, config.router_id)
        };
        let deadline = now + Duration::from_secs(config.initial_sync_secs);
        let mut core = Self {
            sync: InitialSync::new(config.peers.keys().copied(), deadline),
            peers: Peers::new(),
            leaving: BTreeSet::new(),
            rib: Rib::new(rib_config),
            links: HashMap::default(),
            next_link: 0,
            listeners: Listeners::default(),
            events_tx,
            events,
            fib,
            closing: JoinSet::new(),
            bfd: None,
            bfd_changes,
            bfd_changes_tx,
            watchers: Watchers::default(),
            wake_at: None,
            due: Due::default(),
            ready: Arc::default(),
            heard: Vec::new(),
            waiting: VecDeque::new(),
            round: None,
            next_to_write: None,
            pace: Pace::new(now),
            recovering: false,
            inherited: handover.map(Inherited::open).unwrap_or_default(),
            inherited_paths: LeftPaths::new(),
            took_over: None,
            config: SpeakerConfig {
                peers: BTreeMap::new(),
                ..config.clone()
            },
        };
        let listeners = std::mem::take(&mut core.inherited.listeners);
        let keyed = std::mem::take(&mut core.inherited.keyed);
        core.listeners.inherit(listeners, keyed);
        core.listen(&config)?;
        core.originate(routes);
        core.add_peers(&config, now);
        let resumed = core.end_inheritance(&config, now);
        core.watch();
        if config.graceful_restart.is_some_and(|g| g.restarting) {
            // No other peer comes up before the first turn of the loop.
            let waited = |p: &&Peer| match &resumed {
                None => true,
                // The others had nothing to say before.
                Some(lost) => lost.contains(&p.key),
            };
            let ids: Vec<_> = core.peers.values().filter(waited).map(|p| p.rib).collect();
            core.recovering = !ids.is_empty();
            core.rib.begin_restart(&ids, deadline);
            core.tell_recovering();
        }
        core.config = config;
        // Of peers on interfaces whose sessions go on it is known now where they are.
        core.set_keys();
        Ok(core)
    }

    pub(super) const fn took_over(&self) -> Option<TookOver> {
        self.took_over
    }

    /// Runs until the handle is dropped or asks to stop.
    pub(super) async fn run(mut self, commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::with_capacity(TURN_EVENTS);
        let mut waiter = Waiter::new(commands, Arc::clone(&self.ready), self.next_wake());
        loop {
            waiter.set_alarm(self.next_wake());
            // What was taken in before is decided first, but for that of a round that goes on.
            let in_round = self.round.is_some();
            let hungry = self.waiting.is_empty() && (in_round || !self.rib.is_undecided());
            let idle = !self.is_busy();
            let news = waiter.wait(&mut self, &mut batch, (hungry, idle)).await;
            let now = Instant::now();
            match news {
                News::None => {}
                News::Path(key, change) => self.path_changed(&key, change, now),
                News::Command(Some(command)) => match self.command(command, now) {
                    Flow::Go => {}
                    Flow::Stop(how) => return self.stop(&how, now).await,
                    Flow::HandOver(reply) => {
                        self.waiting.extend(batch.drain(..));
                        return self.hand_over(reply).await;
                    }
                },
                News::Command(None) => {
                    let how = match self.config.graceful_restart {
                        Some(_) => Shutdown::Restart,
                        None => Shutdown::Administrative(String::new()),
                    };
                    return self.stop(&how, now).await;
                }
            }
            self.waiting.extend(batch.drain(..));
            self.turn(now, hungry);
            self.listen_to_peers();
            if self.pace.note(now, Instant::now()) > SHORT || self.is_busy() {
                // A look at the sockets of peers that have waited.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whether there is something to do without anything happening.
    fn is_busy(&self) -> bool {
        self.due.send
            || self.due.work
            || self.round.is_some()
            || !self.waiting.is_empty()
            || !self.ready.is_empty()
            || self.rib.is_undecided()
            || self.rib.is_ordering()
    }

    /// Events, what was read if that is wanted, timers, and at the end of a round decisions, FIB and
    /// peers.
    fn turn(&mut self, now: Instant, hungry: bool) {
        self.round.get_or_insert(Round::new(now));
        while let Some(event) = self.waiting.pop_front() {
            self.event(event, now);
            if now.elapsed() > TURN {
                break;
            }
        }
        if hungry {
            self.take_in(now);
        }
        self.timers(now);
        if let Some(round) = &mut self.round
            && !round.is_over(Instant::now)
        {
            return;
        }
        self.round = None;
        self.decide();
        self.transmit(now);
        // What nobody waits for comes after what peers wait for.
        self.forget_strangers(now);
        self.sync.handle_timeout(now);
        while self.closing.try_join_next().is_some() {}
        self.feed_fib();
    }

    /// Reads what peers have sent, in turn, as far as there is time.
    fn take_in(&mut self, now: Instant) {
        let mut octets = 0;
        while octets < TURN_OCTETS
            && (octets == 0 || now.elapsed() < TURN)
            && let Some(id) = self.ready.pop()
        {
            octets += self.read(id, now);
        }
    }

    /// Listens to the links that were read, once what follows from it is written. Only then does the
    /// other side hear that it was read.
    fn listen_to_peers(&mut self) {
        for id in self.heard.drain(..) {
            if let Some(link) = self.links.get_mut(&id) {
                link.acknowledge();
                link.listen();
            }
        }
    }

    fn timers(&mut self, now: Instant) {
        if self.wake_at.is_some_and(|at| at <= now) {
            let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
            self.wake_at = None;
            for key in keys {
                self.hear(&key, now);
                self.with_session(&key, now, |session| session.handle_timeout(now));
            }
        }
        if self.rib.poll_timeout().is_some_and(|at| at <= now) {
            self.rib.handle_timeout(now);
        }
    }

    fn tell_recovering(&mut self) {
        for peer in self.peers.values_mut() {
            peer.session.set_recovering(self.recovering);
        }
    }

    /// Decides, as far as there is time.
    fn decide(&mut self) {
        if self.recovering && self.rib.initial_sync_done() {
            self.recovering = false;
            self.tell_recovering();
        }
        self.due.work = self.rib.work();
        if !self.due.work {
            return;
        }
        let start = Instant::now();
        while self.due.work && start.elapsed() < TURN {
            self.due.work = self.rib.work();
        }
    }

    /// A peer whose messages wait for us is not silent, whatever its hold timer says.
    fn hear(&mut self, key: &PeerKey, now: Instant) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if peer.session.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        for (&conn, id) in &peer.links {
            if self.links.get(id).is_some_and(Link::has_unread) {
                peer.session.handle_waiting(conn, now);
            }
        }
    }

    fn next_wake(&self) -> Instant {
        [self.wake_at, self.rib.poll_timeout(), self.sync.deadline()]
            .into_iter()
            .flatten()
            .min()
            // Nothing is due: any far time will do.
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    fn feed_fib(&mut self) {
        self.due.fib = false;
        let done = self.sync.is_done() && self.rib.initial_sync_done();
        match self.fib.try_reserve() {
            Ok(permit) => {
                let mut changes = Vec::new();
                let more = self.rib.poll_fib_some(&mut changes, FIB_BATCH);
                self.due.fib = more;
                // Not before everything that is known has been told.
                let done = done && !more;
                let news = self.sync.report(done);
                if news {
                    info!("all peers that can be reached have sent their routes");
                }
                if news || !changes.is_empty() {
                    permit.send(FibBatch {
                        changes,
                        initial_sync_done: done,
                    });
                }
            }
            Err(mpsc::error::TrySendError::Full(())) => self.due.fib = true,
            Err(mpsc::error::TrySendError::Closed(())) => self.rib.discard_fib(),
        }
    }

    fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Writable(id) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.blocked = false;
                    self.flush(id, now);
                }
            }
            Event::Accepted(stream, remote, at) => self.accepted(stream, (remote, at), now),
            Event::Router(key, addr, scope) => self.meet(&key, addr, scope, now),
            Event::Dialled(key, conn, result) => self.dialled(key, conn, result, now),
        }
    }

    fn command(&mut self, command: Command, now: Instant) -> Flow {
        match command {
            Command::Configure(config, reply) => {
                // Whoever asked may have gone away.
                drop(reply.send(self.configure(*config, now)));
            }
            Command::Originate(changes) => self.originate(&changes),
            Command::Reachability(addr, reachability) => {
                self.rib.set_reachability(addr, reachability);
            }
            Command::Status(reply) => {
                let status = self
                    .peers
                    .values()
                    .map(|p| p.status(&self.rib, now))
                    .collect();
                drop(reply.send(status));
            }
            Command::Routes(query, cursor, reply) => {
                drop(reply.send(views::page(query, cursor, &self.rib, &self.peers)));
            }
            Command::Events(reply) => {
                let events = self.peers.values().flat_map(|p| p.events.entries());
                drop(reply.send(events.collect()));
            }
            Command::Totals(reply) => {
                let mut rib = self.rib.size();
                rib.egress_bytes += self.links.values().map(Link::queued).sum::<usize>();
                let totals = Totals {
                    rib,
                    longest_turn: self.pace.longest(now),
                    connections_refused: self.listeners.refused(),
                };
                reply.send(totals).ok();
            }
            Command::Refresh(key, reply) => {
                let mut asked = false;
                self.with_session(&key, now, |s| asked = s.handle_refresh_wanted());
                reply.send(asked).ok();
            }
            Command::Watch(queries, reply) => {
                drop(reply.send(self.watchers.add(queries, &self.peers)));
            }
            Command::Held(watch, from) => {
                self.watchers.held(watch, from, &self.rib, &self.peers);
            }
            Command::Table(cursor, reply) => {
                drop(reply.send(table::page(*cursor, &self.config, &self.rib, &self.peers)));
            }
            Command::Stop(how) => return Flow::Stop(how),
            Command::HandOver(reply) => return Flow::HandOver(reply),
        }
        Flow::Go
    }

    fn originate(&mut self, changes: &[LocalRouteChange]) {
        for change in changes {
            match &change.action {
                LocalAction::Announce(attrs) => self.rib.originate(change.prefix, attrs),
                LocalAction::Withdraw => {
                    self.rib.withdraw_local(change.prefix);
                }
            }
        }
    }

    async fn stop(mut self, how: &Shutdown, now: Instant) {
        info!(?how, "the speaker stops");
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        match how {
            Shutdown::Administrative(text) => {
                let cease = Notification::cease_with_text(Kind::CEASE_ADMIN_SHUTDOWN, text);
                for key in &keys {
                    self.with_session(key, now, |session| session.handle_stop(&cease, now));
                }
            }
            Shutdown::Restart => self.links.clear(),
        }
        // Peers that do not take the NOTIFICATION in time are left without.
        drop(
            timeout(STOP_GRACE, async {
                while self.closing.join_next().await.is_some() {}
            })
            .await,
        );
    }
}
