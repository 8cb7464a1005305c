//! The core: the one owner of sessions and RIB.

mod configure;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    io,
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use bytes::Bytes;
use margay_bgp::{
    bfd::Change,
    prefix::Family,
    rib::{KeepStale, Multipath, RefreshKind, Rib, RibConfig, UpdateOutcome},
    session::{Accepted, ConnId, DownReason, Output, Session},
    wire::{Kind, Notification, RouteRefresh, UpdateFrame, WireError, header, refresh},
};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    bfd::Bfd,
    config::{MaxPrefixesAction, SpeakerConfig},
    driver::{
        EVENTS, Event,
        link::{Link, LinkId},
        listen::Listeners,
        peer::Peer,
        sync::InitialSync,
        table, views,
        watch::{self, Watchers},
    },
    handle::{Command, FibBatch, LocalAction, LocalRouteChange, Shutdown, SpeakerError},
    local_addrs::LocalAddrs,
    peer_key::PeerKey,
    socket,
    view::Totals,
    watch::{Held, WatchEvent},
};

/// The peers by key.
pub(super) type Peers = BTreeMap<PeerKey, Peer>;

/// Events taken in before routes are decided and written: enough to damp path hunting, few enough
/// that no session waits long.
const TURN_EVENTS: usize = 64;
/// How long a turn takes in what one or more peers have sent: much for damping, little beside the
/// shortest hold time.
const TURN: Duration = Duration::from_millis(200);
/// A turn that takes longer lets all tasks run before the next.
const SHORT: Duration = Duration::from_millis(10);
/// Octets of routes to hold for a peer that reads slowly; the RIB keeps the rest as state.
const SEND_QUEUE: usize = 256 << 10;
/// Octets to write to one peer before others get their turn.
const SEND_TURN: usize = 1 << 20;
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
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: SpeakerConfig,
    pub(super) peers: Peers,
    /// Dynamic peers without a connection, to be forgotten once nothing is left of them.
    pub(super) leaving: BTreeSet<PeerKey>,
    pub(super) rib: Rib,
    links: HashMap<LinkId, Link>,
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
}

/// Why the core stops.
enum Flow {
    Go,
    Stop(Shutdown),
}

impl Core {
    pub(super) fn new(
        config: SpeakerConfig,
        routes: &[LocalRouteChange],
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
            links: HashMap::new(),
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
            config: SpeakerConfig {
                peers: BTreeMap::new(),
                ..config.clone()
            },
        };
        core.listen(&config)?;
        core.originate(routes);
        core.add_peers(&config, now);
        core.watch();
        if config.graceful_restart.is_some_and(|g| g.restarting) {
            // No peer comes up before the first turn of the loop.
            let ids: Vec<_> = core.peers.values().map(|p| p.rib).collect();
            core.rib.begin_restart(&ids, deadline);
        }
        core.config = config;
        Ok(core)
    }

    /// Runs until the handle is dropped or asks to stop.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::with_capacity(TURN_EVENTS);
        // Of a batch, what there was no time for.
        let mut waiting = VecDeque::new();
        loop {
            let wake = self.next_wake();
            let idle = !self.due.send && waiting.is_empty();
            // Cancel safe throughout: `recv`, `recv_many` and `reserve` take nothing when
            // dropped, the sleeps are made anew.
            let mut path = None;
            let command = tokio::select! {
                biased;
                Some(change) = self.bfd_changes.recv() => {
                    path = Some(change);
                    None
                }
                command = commands.recv() => Some(command),
                _ = self.events.recv_many(&mut batch, TURN_EVENTS), if waiting.is_empty() => None,
                _ = self.fib.reserve(), if self.due.fib => None,
                () = sleep_until(wake.into()), if idle => None,
                () = std::future::ready(()), if !idle => None,
            };
            let now = Instant::now();
            if let Some((key, change)) = path {
                self.path_changed(&key, change, now);
            }
            match command {
                None => {}
                Some(Some(command)) => {
                    if let Flow::Stop(how) = self.command(command, now) {
                        return self.stop(&how, now).await;
                    }
                }
                Some(None) => {
                    let how = match self.config.graceful_restart {
                        Some(_) => Shutdown::Restart,
                        None => Shutdown::Administrative(String::new()),
                    };
                    return self.stop(&how, now).await;
                }
            }
            waiting.extend(batch.drain(..));
            while let Some(event) = waiting.pop_front() {
                self.event(event, now);
                if now.elapsed() > TURN {
                    break;
                }
            }
            self.turn(now);
            if now.elapsed() > SHORT {
                // The readers of other peers, which have waited.
                tokio::task::yield_now().await;
            }
        }
    }

    /// What follows the events of a turn: timers, decisions, FIB, peers.
    fn turn(&mut self, now: Instant) {
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
        self.forget_strangers(now);
        self.sync.handle_timeout(now);
        while self.closing.try_join_next().is_some() {}
        self.rib.settle();
        self.feed_fib();
        self.transmit(now);
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
        // Nothing is due: any far time will do.
        let far = Instant::now() + Duration::from_secs(3600);
        [self.wake_at, self.rib.poll_timeout(), self.sync.deadline()]
            .into_iter()
            .flatten()
            .fold(far, Instant::min)
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

    /// Writes to every peer what it may be told, as far as its socket takes it.
    fn transmit(&mut self, now: Instant) {
        self.due.send = false;
        let ready: Vec<(PeerKey, LinkId)> = self
            .peers
            .values()
            .filter_map(|p| p.established.map(|link| (p.key, link)))
            .filter(|(_, link)| self.links.get(link).is_some_and(|l| !l.blocked))
            .collect();
        for (key, id) in ready {
            self.transmit_to(&key, id, now);
        }
    }

    fn transmit_to(&mut self, key: &PeerKey, id: LinkId, now: Instant) {
        let mut turn = 0;
        loop {
            let (Some(peer), Some(link)) = (self.peers.get_mut(key), self.links.get_mut(&id))
            else {
                return;
            };
            while link.queued() < SEND_QUEUE && self.rib.pending(peer.rib) {
                let Some(messages) = self.rib.poll_transmit_shared(peer.rib) else {
                    break;
                };
                peer.octets_sent += messages.len() as u64;
                link.push(messages);
            }
            if link.is_drained() {
                return;
            }
            let before = link.queued();
            self.flush(id, now);
            turn += before;
            match self.links.get(&id) {
                Some(link) if !link.blocked => {}
                _ => return,
            }
            if turn >= SEND_TURN {
                self.due.send = true;
                return;
            }
        }
    }

    /// Writes what is queued for a link.
    fn flush(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.blocked {
            return;
        }
        let (result, written) = link.write();
        let (key, conn) = (link.peer, link.conn);
        match result {
            Ok(drained) => {
                if !drained {
                    link.blocked = true;
                    let stream = std::sync::Arc::clone(&link.stream);
                    let events = self.events_tx.clone();
                    tokio::spawn(async move {
                        // An error shows up at the next write.
                        drop(stream.writable().await);
                        drop(events.send(Event::Writable(id)).await);
                    });
                }
                let Some(peer) = self.peers.get_mut(&key) else {
                    return;
                };
                if written > 0 {
                    peer.session.handle_sent(conn, !drained, now);
                } else if !drained {
                    peer.session.handle_blocked(conn, now);
                }
                self.touch(&key);
            }
            Err(error) => self.closed(id, Some(&error), now),
        }
    }

    fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Received(id, data) => self.received(id, &data, now),
            Event::Writable(id) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.blocked = false;
                    self.flush(id, now);
                }
            }
            Event::Closed(id, error) => self.closed(id, error.as_ref(), now),
            Event::Accepted(stream, remote) => self.accepted(stream, remote, now),
            Event::Router(key, addr, scope) => self.meet(&key, addr, scope, now),
            Event::Dialled(key, conn, result) => self.dialled(key, conn, result, now),
        }
    }

    fn accepted(&mut self, stream: TcpStream, remote: SocketAddr, now: Instant) {
        let local = stream.local_addr().map(|a| a.ip()).ok();
        let known = self.peers.values().find(|p| p.is_at(remote, local));
        let known = known.map(|p| p.key);
        let Some(key) = known.or_else(|| self.admit(remote, local, now)) else {
            debug!(%remote, "refused a connection from a stranger");
            return;
        };
        if let (Some(_), SocketAddr::V6(remote)) = (key.unnumbered(), remote) {
            self.meet(&key, *remote.ip(), remote.scope_id(), now);
        }
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if let Err(error) = socket::adopt(&stream, remote.ip(), peer.config.ttl, peer.is_external())
        {
            peer.span
                .in_scope(|| warn!(%error, "cannot set up an accepted connection"));
            return;
        }
        let Some(conn) = peer.session.handle_incoming(now) else {
            peer.span
                .in_scope(|| debug!("refused a connection: the session is idle"));
            return;
        };
        self.attach(key, conn, stream);
        self.drain(&key, now);
    }

    fn dialled(&mut self, key: PeerKey, conn: ConnId, result: io::Result<TcpStream>, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if peer.dials.remove(&conn).is_none() {
            return;
        }
        match result {
            Ok(stream) => {
                self.attach(key, conn, stream);
                self.with_session(&key, now, |session| session.handle_connected(conn, now));
            }
            Err(error) => {
                peer.span.in_scope(|| debug!(%error, "could not connect"));
                self.with_session(&key, now, |session| {
                    session.handle_connection_lost(conn, now)
                });
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.last_error = Some(format!("could not connect: {error}"));
                }
            }
        }
    }

    fn attach(&mut self, key: PeerKey, conn: ConnId, stream: TcpStream) {
        let id = self.next_link;
        self.next_link += 1;
        if let Some(peer) = self.peers.get_mut(&key) {
            let extended = peer.config.extended_messages;
            let events = self.events_tx.clone();
            let link = Link::new(id, (key, conn), stream, extended, events);
            self.links.insert(id, link);
            peer.links.insert(conn, id);
        }
    }

    fn closed(&mut self, id: LinkId, error: Option<&io::Error>, now: Instant) {
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        let (key, conn) = (link.peer, link.conn);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.links.remove(&conn);
            peer.span.in_scope(|| debug!(?error, "connection closed"));
        }
        self.with_session(&key, now, |session| {
            session.handle_connection_lost(conn, now)
        });
    }

    /// Whole messages of a link, or a broken one at the end.
    fn received(&mut self, id: LinkId, data: &Bytes, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.taken();
        if let Some(open) = watch::open_in(data) {
            link.opens[1] = open;
        }
        let (key, conn) = (link.peer, link.conn);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.octets_received += data.len() as u64;
        }
        let mut rest = &data[..];
        // UPDATEs in a row that watchers have yet to hear of.
        let mut updates = 0..0;
        while !rest.is_empty() {
            let Some(peer) = self.peers.get_mut(&key) else {
                return;
            };
            // What was sent is the most that the peer may send: both come from one negotiation.
            let extended = peer
                .session
                .negotiated()
                .is_some_and(|n| n.max_message_len > header::MAX_LEN);
            let (kind, len) = match header::peek(rest, extended) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(error) => {
                    peer.session
                        .handle_error(conn, error.into_notification(), now);
                    break;
                }
            };
            let (message, after) = rest.split_at(len);
            rest = after;
            let body = message.get(header::HEADER_LEN..).unwrap_or_default();
            if peer.session.handle_message(conn, kind, body, now) == Accepted::Update {
                updates.end = data.len() - rest.len();
                if let Err(error) = take_update(peer, &mut self.rib, &mut self.sync, body) {
                    peer.session
                        .handle_error(conn, error.into_notification(), now);
                }
            } else {
                self.tell_updates(&key, data, &updates);
                updates = data.len() - rest.len()..data.len() - rest.len();
                self.drain(&key, now);
            }
        }
        self.tell_updates(&key, data, &updates);
        self.check_limit(&key, conn, now);
        self.drain(&key, now);
    }

    fn tell_updates(&mut self, key: &PeerKey, data: &Bytes, updates: &Range<usize>) {
        if !self.watchers.is_empty()
            && !updates.is_empty()
            && let Some(peer) = self.peers.get(key)
        {
            self.watchers.updates(peer, data.slice(updates.clone()));
        }
    }

    fn check_limit(&mut self, key: &PeerKey, conn: ConnId, now: Instant) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Some(limit) = peer.config.max_prefixes else {
            return;
        };
        let over = |f: &Family| self.rib.prefix_count(peer.rib, *f) > limit;
        let Some(family) = Family::ALL.into_iter().find(over) else {
            return;
        };
        if peer.config.max_prefixes_action == MaxPrefixesAction::Warn {
            if !std::mem::replace(&mut peer.warned, true) {
                peer.span.in_scope(
                    || warn!(%family, limit, "the peer sends more prefixes than allowed"),
                );
            }
            return;
        }
        {
            let [afi_hi, afi_lo] = family.afi().to_be_bytes();
            let data = [&[afi_hi, afi_lo, family.safi()][..], &limit.to_be_bytes()].concat();
            let cease = Notification::with_data(Kind::CEASE_MAX_PREFIXES, &data);
            if peer.config.max_prefixes_action == MaxPrefixesAction::Stop {
                peer.session.handle_stop(&cease, now);
            } else {
                peer.session.handle_error(conn, cease, now);
            }
        }
    }

    /// Tells the session something and does what follows.
    fn with_session(&mut self, key: &PeerKey, now: Instant, tell: impl FnOnce(&mut Session)) {
        if let Some(peer) = self.peers.get_mut(key) {
            tell(&mut peer.session);
            self.drain(key, now);
        }
    }

    /// The session's timers may have changed.
    fn touch(&mut self, key: &PeerKey) {
        let at = self.peers.get(key).and_then(|p| p.session.poll_timeout());
        self.wake_at = [self.wake_at, at].into_iter().flatten().min();
    }

    /// Does what the session wants done.
    fn drain(&mut self, key: &PeerKey, now: Instant) {
        let mut to_flush = Vec::new();
        while let Some(output) = self
            .peers
            .get_mut(key)
            .and_then(|p| p.session.poll_output())
        {
            match output {
                Output::Dial(conn) => self.dial(key, conn),
                Output::Send(conn, messages) => {
                    if let Some(id) = self.peers.get(key).and_then(|p| p.links.get(&conn))
                        && let Some(link) = self.links.get_mut(id)
                    {
                        if let Some(open) = watch::open_in(&messages) {
                            link.opens[0] = open;
                        }
                        link.push_urgent(messages);
                        to_flush.push(*id);
                    }
                }
                Output::Close(conn) => self.close(key, conn, false),
                other => self.session_output(key, other, now),
            }
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.note_state();
            if peer.dynamic.is_some() && peer.links.is_empty() {
                self.leaving.insert(*key);
            }
        }
        for id in to_flush {
            self.flush(id, now);
        }
        self.touch(key);
    }

    fn session_output(&mut self, key: &PeerKey, output: Output, now: Instant) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        match output {
            Output::Up(conn, negotiated) => {
                let Some(&id) = peer.links.get(&conn) else {
                    return;
                };
                let local = self.links.get(&id).and_then(|l| l.stream.local_addr().ok());
                peer.local_addr = local.map(|a| a.ip());
                peer.local = match (peer.local_addr, peer.key.interface) {
                    (Some(addr), Some(interface)) => LocalAddrs::on(addr, interface),
                    (Some(addr), None) => LocalAddrs::beside(addr),
                    (None, _) => LocalAddrs::default(),
                };
                peer.mark_up(id, now);
                self.rib.update_peer(peer.rib, peer.rib_config());
                self.rib
                    .peer_up(peer.rib, peer.session_info(&negotiated), now);
                let watched = self
                    .links
                    .get(&id)
                    .and_then(|link| watch::watched(peer, link, &negotiated));
                peer.watched = watched.map(std::sync::Arc::new);
                if let Some(up) = &peer.watched {
                    let up = std::sync::Arc::clone(up);
                    self.watchers.tell(&WatchEvent::Up(up, Held::Nothing));
                }
                let (hold, families) = (negotiated.hold_time, &negotiated.families);
                peer.span.in_scope(|| info!(?hold, ?families, "session up"));
            }
            Output::Down { reason, retain } => {
                let keep = retain.map(|r| KeepStale {
                    families: r.families.into_iter().collect(),
                    restart_time: r.restart_time,
                    long_lived: r.long_lived,
                });
                peer.span
                    .in_scope(|| warn!(%reason, graceful = keep.is_some(), "session down"));
                peer.mark_down();
                peer.last_error = Some(reason.to_string());
                peer.reason = Some(reason.to_string());
                self.rib.peer_down(peer.rib, keep, now);
                self.watchers.down(peer, reason);
            }
            Output::Failed(reason) => {
                if reason != DownReason::Sent(Notification::new(Kind::CEASE_COLLISION)) {
                    peer.span.in_scope(|| info!(%reason, "connection failed"));
                    peer.last_error = Some(reason.to_string());
                    peer.reason = Some(reason.to_string());
                    peer.failures += 1;
                    if self.sync.failed(key, peer.failures) {
                        self.rib.stop_waiting_for(peer.rib);
                    }
                }
            }
            Output::Refresh(RouteRefresh { family, kind }) => {
                let kind = match kind {
                    refresh::RefreshKind::Request => RefreshKind::Request,
                    refresh::RefreshKind::Begin => RefreshKind::Begin,
                    refresh::RefreshKind::End => RefreshKind::End,
                };
                self.rib.handle_refresh(peer.rib, family, kind);
            }
            Output::Dial(_) | Output::Send(..) | Output::Close(_) => {}
        }
    }

    fn dial(&mut self, key: &PeerKey, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Some(target) = peer.target() else {
            peer.session.handle_connection_lost(conn, Instant::now());
            return;
        };
        let socket = socket::dialler(
            target,
            peer.config.source,
            peer.config.ttl,
            peer.is_external(),
            peer.config.password.as_ref(),
        );
        let (key, events) = (*key, self.events_tx.clone());
        let task = tokio::spawn(async move {
            let result = match socket {
                Ok(socket) => socket.connect(target).await,
                Err(e) => Err(e),
            };
            // The speaker is stopping.
            drop(events.send(Event::Dialled(key, conn, result)).await);
        });
        peer.dials.insert(conn, task.abort_handle());
    }

    fn close(&mut self, key: &PeerKey, conn: ConnId, discard: bool) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if let Some(dial) = peer.dials.remove(&conn) {
            dial.abort();
        }
        if let Some(link) = peer
            .links
            .remove(&conn)
            .and_then(|id| self.links.remove(&id))
        {
            link.close(discard, &mut self.closing);
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
                    connections_refused: self.listeners.refused(),
                };
                reply.send(totals).ok();
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

/// Gives an UPDATE to the RIB.
fn take_update(
    peer: &mut Peer,
    rib: &mut Rib,
    sync: &mut InitialSync,
    body: &[u8],
) -> Result<(), WireError> {
    peer.updates_received += 1;
    let frame = UpdateFrame::split(body)?;
    match rib.handle_update(peer.rib, &frame)? {
        UpdateOutcome::EndOfRib(family) => {
            if let Some(seen) = peer.end_of_rib.get_mut(family.index()) {
                *seen = true;
            }
            let complete = peer.session.negotiated().is_some_and(|n| {
                n.families
                    .iter()
                    .all(|f| peer.end_of_rib.get(f.index()).is_some_and(|e| *e))
            });
            if complete {
                sync.done(&peer.key);
            }
            peer.span.in_scope(|| debug!(%family, "end of RIB"));
        }
        UpdateOutcome::TreatedAsWithdraw(error) => {
            peer.span
                .in_scope(|| warn!(%error, "routes taken as withdrawn"));
        }
        UpdateOutcome::AttributeDiscarded => {
            peer.span.in_scope(|| debug!("attribute discarded"));
        }
        UpdateOutcome::Routes => {}
    }
    Ok(())
}
