//! BFD over UDP (RFC 5881, RFC 5883), on a thread of its own: what 3 x 50 ms must notice cannot wait for
//! a turn of the core, which may take in a hundred thousand routes.
//!
//! The thread owns its sockets and sessions; it ends, telling the other sides that it does, when the
//! handle is dropped, or leaving its sessions to another process when it is asked to.

mod priority;
mod socket;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use margay_bgp::bfd::{Change, Config, Left, Output, Packet, Session};
use socket2::Socket;
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot},
    time::sleep_until,
};
use tracing::{debug, info, warn};

use self::socket::{MULTIHOP_PORT, Port, SINGLE_HOP_PORT};
use crate::peer_key::PeerKey;

/// Between attempts to open a port that somebody else has.
const RETRY: Duration = Duration::from_secs(5);
/// Silence that the other sides are asked to bear while another process takes over.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long they may take to agree: some round trips.
const AGREE: Duration = Duration::from_millis(500);

/// A path to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// Where the other side is.
    pub(crate) to: IpAddr,
    /// Index of the interface that a link-local address is on, else 0.
    pub(crate) scope: u32,
    /// Address to send from; the kernel's choice if there is none.
    pub(crate) source: Option<IpAddr>,
    /// The other side may be several hops away.
    pub(crate) multihop: bool,
    /// Timers.
    pub(crate) config: Config,
}

/// The paths to watch, by peer.
pub(crate) type Targets = BTreeMap<PeerKey, Target>;

/// A session that another process had up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeftPath {
    pub(crate) session: Left,
    /// Its packets come from this port.
    pub(crate) port: u16,
}

/// Those sessions, by peer.
pub(crate) type LeftPaths = BTreeMap<PeerKey, LeftPath>;

/// What the thread is told.
#[derive(Debug)]
enum Wish {
    /// To watch these paths and no others, going on with these sessions.
    Paths(Targets, LeftPaths),
    /// To end, and to tell what another process needs to go on.
    HandOver(oneshot::Sender<LeftPaths>),
}

/// The thread.
#[derive(Debug)]
pub(crate) struct Bfd(mpsc::UnboundedSender<Wish>);

impl Bfd {
    /// Starts it. Changes of sessions that it watches go to `changes`, which is unbounded: they are few,
    /// and this thread waits for nobody.
    pub(crate) fn spawn(changes: mpsc::UnboundedSender<(PeerKey, Change)>) -> io::Result<Self> {
        let (wanted, receiver) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("bfd".to_owned())
            .spawn(move || {
                if let Err(error) = priority::ahead_of_others() {
                    info!(%error, "BFD has no real-time priority: a busy host may look dead to its peers");
                }
                runtime.block_on(Watch::new(changes).run(receiver));
            })?;
        Ok(Self(wanted))
    }

    /// Watches these paths and no others; `left` are sessions that another process had up.
    pub(crate) fn watch(&self, targets: Targets, left: LeftPaths) {
        if self.0.send(Wish::Paths(targets, left)).is_err() {
            warn!("the thread of BFD has ended");
        }
    }

    /// Ends, after the other sides have agreed to be patient; sessions of those that have not are
    /// taken down administratively, which says nothing of the path.
    pub(crate) async fn hand_over(self) -> LeftPaths {
        let (reply, answer) = oneshot::channel();
        if self.0.send(Wish::HandOver(reply)).is_err() {
            warn!("the thread of BFD has ended");
        }
        answer.await.unwrap_or_default()
    }
}

/// A session and where its packets go out.
struct Watched {
    target: Target,
    session: Session,
    socket: Socket,
    to: SocketAddr,
}

/// What the thread owns.
struct Watch {
    watched: BTreeMap<PeerKey, Watched>,
    /// Wanted, but their sockets do not open.
    waiting: Targets,
    /// By family and port, while a session needs it.
    sockets: BTreeMap<Port, UdpSocket>,
    next_discr: u32,
    retry_at: Option<Instant>,
    changes: mpsc::UnboundedSender<(PeerKey, Change)>,
}

impl Watch {
    const fn new(changes: mpsc::UnboundedSender<(PeerKey, Change)>) -> Self {
        Self {
            watched: BTreeMap::new(),
            waiting: Targets::new(),
            sockets: BTreeMap::new(),
            next_discr: 1,
            retry_at: None,
            changes,
        }
    }

    async fn run(mut self, mut wanted: mpsc::UnboundedReceiver<Wish>) {
        let mut leaving: Option<(oneshot::Sender<LeftPaths>, Instant)> = None;
        loop {
            let sessions = self
                .watched
                .values()
                .filter_map(|w| w.session.poll_timeout());
            let until = leaving.as_ref().map(|(_, until)| *until);
            let wake = sessions.chain(self.retry_at).chain(until).min();
            let wake = wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            // Cancel safe: `recv` and `readable` take nothing when dropped, the sleep is made anew.
            let wish = tokio::select! {
                wish = wanted.recv(), if leaving.is_none() => Some(wish),
                () = socket::readable(&self.sockets) => None,
                () = sleep_until(wake.into()) => None,
            };
            let now = Instant::now();
            let late = now.saturating_duration_since(wake);
            for watched in self.watched.values_mut() {
                watched.session.handle_pause(late);
            }
            match wish {
                Some(Some(Wish::Paths(targets, left))) => self.configure(targets, &left, now),
                Some(Some(Wish::HandOver(reply))) => {
                    self.ask_for_patience();
                    leaving = Some((reply, now + AGREE));
                }
                Some(None) => return self.stop(now),
                None => {}
            }
            if self.retry_at.is_some_and(|at| at <= now) {
                let waiting = std::mem::take(&mut self.waiting);
                self.open(waiting, &LeftPaths::new(), now);
            }
            self.receive(now);
            self.turn(now);
            let agreed = || self.watched.values().all(|w| !w.session.is_polling());
            if let Some((reply, _)) = leaving.take_if(|(_, until)| *until <= now || agreed()) {
                // The speaker may be gone.
                drop(reply.send(self.leave(now)));
                return;
            }
        }
    }

    /// Asks the other sides to bear that nothing comes for a while (RFC 5880 section 6.8.3).
    fn ask_for_patience(&mut self) {
        for watched in self.watched.values_mut() {
            let config = watched.session.config();
            let min_tx = config
                .min_tx
                .max(PATIENCE / u32::from(config.detect_mult.max(1)));
            watched.session.set_config(Config { min_tx, ..config });
        }
    }

    fn leave(&mut self, now: Instant) -> LeftPaths {
        let mut left = LeftPaths::new();
        for (key, watched) in &mut self.watched {
            match (watched.session.left(), watched.port()) {
                (Some(session), Some(port)) => {
                    left.insert(*key, LeftPath { session, port });
                }
                _ => watched.admin_down(now),
            }
        }
        left
    }

    fn configure(&mut self, targets: Targets, left: &LeftPaths, now: Instant) {
        let highest = left.values().map(|path| path.session.my_discr).max();
        self.next_discr = highest.map_or(self.next_discr, |highest| {
            self.next_discr.max(highest.checked_add(1).unwrap_or(1))
        });
        let kept = |key: &PeerKey, watched: &Watched| {
            let new = targets.get(key);
            let path = |t: &Target| (t.to, t.scope, t.source, t.multihop);
            new.is_some_and(|t| path(t) == path(&watched.target))
        };
        let gone: Vec<PeerKey> = self
            .watched
            .iter()
            .filter(|(key, watched)| !kept(key, watched))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            if let Some(mut watched) = self.watched.remove(&key) {
                watched.admin_down(now);
            }
        }
        let mut new = Targets::new();
        for (key, target) in targets {
            match self.watched.get_mut(&key) {
                Some(watched) => {
                    watched.target = target;
                    watched.session.set_config(target.config);
                }
                None => {
                    new.insert(key, target);
                }
            }
        }
        self.open(new, left, now);
        let watched = &self.watched;
        self.sockets
            .retain(|port, _| watched.values().any(|w| port_of(w.target) == *port));
    }

    /// Starts sessions; those whose sockets do not open are tried again.
    fn open(&mut self, targets: Targets, left: &LeftPaths, now: Instant) {
        self.waiting = Targets::new();
        for (key, target) in targets {
            if let Err(error) = self.open_one(key, target, left.get(&key), now) {
                warn!(peer = %key, %error, "BFD cannot start, will be tried again");
                self.waiting.insert(key, target);
            }
        }
        self.retry_at = (!self.waiting.is_empty()).then(|| now + RETRY);
    }

    fn open_one(
        &mut self,
        key: PeerKey,
        target: Target,
        left: Option<&LeftPath>,
        now: Instant,
    ) -> io::Result<()> {
        let port = port_of(target);
        if let Entry::Vacant(vacant) = self.sockets.entry(port) {
            vacant.insert(socket::receiver(port)?);
        }
        let from = left.map(|left| left.port);
        let socket = socket::sender(target.to, target.scope, target.source, from)?;
        let seed = seed(key, now);
        let session = match left {
            Some(left) => Session::resume(target.config, left.session, seed, now),
            None => {
                let discr = self.next_discr;
                self.next_discr = self.next_discr.checked_add(1).unwrap_or(1);
                Session::new(target.config, discr, seed, now)
            }
        };
        let watched = Watched {
            target,
            session,
            socket,
            to: socket::at(target.to, port.1, target.scope),
        };
        self.watched.insert(key, watched);
        Ok(())
    }

    fn receive(&mut self, now: Instant) {
        for ((_, port), socket) in &self.sockets {
            socket::drain(socket, |received| {
                // RFC 5881 section 5: from one hop away, nothing arrives with less.
                if *port == SINGLE_HOP_PORT && received.ttl != Some(255) {
                    return;
                }
                let packet = &received.packet;
                let is_for = |watched: &&mut Watched| {
                    watched.target.to == received.from
                        && watched.target.scope == received.scope
                        && watched.to.port() == *port
                        && (packet.your_discr == 0
                            || packet.your_discr == watched.session.my_discr())
                };
                if let Some(watched) = self.watched.values_mut().find(is_for) {
                    watched.session.handle_packet(packet, now);
                }
            });
        }
    }

    fn turn(&mut self, now: Instant) {
        for (key, watched) in &mut self.watched {
            watched.session.handle_timeout(now);
            while let Some(output) = watched.session.poll_output(now) {
                match output {
                    Output::Send(packet) => watched.send(&packet),
                    Output::Changed(change) => {
                        info!(peer = %key, ?change, "BFD");
                        if self.changes.send((*key, change)).is_err() {
                            debug!("the speaker is gone");
                        }
                    }
                }
            }
        }
    }

    fn stop(mut self, now: Instant) {
        for watched in self.watched.values_mut() {
            watched.admin_down(now);
        }
    }
}

impl Watched {
    /// A packet that does not go out is as good as lost on the way.
    fn send(&self, packet: &Packet) {
        let mut out = BytesMut::new();
        packet.encode(&mut out);
        drop(self.socket.send_to(&out, &self.to.into()));
    }

    fn port(&self) -> Option<u16> {
        self.socket.local_addr().ok()?.as_socket().map(|a| a.port())
    }

    /// Tells the other side that what follows is no failure.
    fn admin_down(&mut self, now: Instant) {
        self.session.handle_admin_down(now);
        while let Some(output) = self.session.poll_output(now) {
            if let Output::Send(packet) = output {
                self.send(&packet);
            }
        }
    }
}

/// Family (whether IPv4) and port that a session's packets come in by.
fn port_of(target: Target) -> Port {
    let port = if target.multihop {
        MULTIHOP_PORT
    } else {
        SINGLE_HOP_PORT
    };
    (target.to.is_ipv4(), port)
}

/// Jitter only has to differ between sessions.
fn seed(key: PeerKey, now: Instant) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one((key, now))
}
