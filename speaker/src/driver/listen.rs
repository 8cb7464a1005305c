//! The listeners: one socket and one accepting task an address.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use margay_bgp::prefix::Prefix;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::AbortHandle,
};
use tracing::{debug, warn};

use crate::{
    config::ConnectionLimit,
    driver::{Event, rate::RateLimit},
    handle::SpeakerError,
    near::{self, LowestTtls},
    secret::Secret,
    socket,
};

/// Wait after accepting failed, as without file descriptors, so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Listener {
    socket: Arc<TcpListener>,
    acceptor: AbortHandle,
}

/// All listeners and the MD5 keys that they know.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: BTreeMap<SocketAddr, Listener>,
    keys: BTreeMap<Prefix, Secret>,
    lowest: LowestTtls,
    /// When some key was last set or removed: who connected before may have done so without.
    keys_changed: Option<Instant>,
    limit: ConnectionLimit,
    /// Connections closed because their address had opened too many.
    refused: Arc<AtomicU64>,
    /// Sockets of the process before, to be used instead of new ones.
    inherited: BTreeMap<SocketAddr, std::net::TcpListener>,
    /// Whom those have keys for.
    keyed: Vec<Prefix>,
}

impl Listeners {
    /// Uses what the process before has left, with the next configuration.
    pub(super) fn inherit(
        &mut self,
        sockets: BTreeMap<SocketAddr, std::net::TcpListener>,
        keyed: Vec<Prefix>,
    ) {
        (self.inherited, self.keyed) = (sockets, keyed);
    }

    /// Accepts no more; the sockets, whose connections wait in the kernel, and whom they have keys
    /// for.
    pub(super) fn leave(&mut self) -> (Vec<OwnedFd>, Vec<Prefix>) {
        self.open.values().for_each(|l| l.acceptor.abort());
        let socket = |listener: &Listener| listener.socket.as_fd().try_clone_to_owned().ok();
        let sockets = self.open.values().filter_map(socket).collect();
        (sockets, self.keys.keys().copied().collect())
    }

    /// Connections that came too often, since start.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Opens what is missing, closes what is not wanted, and brings the keys in line. Goes on
    /// after an error and reports the first.
    pub(super) fn configure(
        &mut self,
        wanted: &BTreeSet<SocketAddr>,
        limit: ConnectionLimit,
        keys: BTreeMap<Prefix, Secret>,
        lowest: LowestTtls,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), SpeakerError> {
        // Before anything is accepted by those that are opened now.
        self.set_lowest(lowest);
        if self.limit != limit {
            self.limit = limit;
            // An acceptor owns nothing: connections not taken yet wait in the kernel.
            for listener in self.open.values_mut() {
                listener.acceptor.abort();
                listener.acceptor = spawn(&listener.socket, limit, &self.refused, events);
            }
        }
        self.open.retain(|addr, listener| {
            let keep = wanted.contains(addr);
            if !keep {
                listener.acceptor.abort();
            }
            keep
        });
        let mut first_error = None;
        for &addr in wanted {
            if self.open.contains_key(&addr) {
                continue;
            }
            match self.listen(addr, &keys, events) {
                Ok(listener) => drop(self.open.insert(addr, listener)),
                Err(source) => {
                    first_error.get_or_insert(SpeakerError::Listen { addr, source });
                }
            }
        }
        self.set_keys(keys, events);
        self.inherited.clear();
        first_error.map_or(Ok(()), Err)
    }

    fn listen(
        &mut self,
        addr: SocketAddr,
        keys: &BTreeMap<Prefix, Secret>,
        events: &mpsc::Sender<Event>,
    ) -> io::Result<Listener> {
        let socket = match self.inherited.remove(&addr) {
            Some(socket) => socket,
            None => socket::listener(addr)?,
        };
        self.bound(&socket, addr);
        let socket = Arc::new(TcpListener::from_std(socket)?);
        // Keys that were set before are set again for this socket below.
        for (peer, key) in keys
            .iter()
            .filter(|(p, _)| p.addr().is_ipv4() == addr.is_ipv4())
        {
            socket::set_md5(&*socket, *peer, Some(key))?;
        }
        let acceptor = spawn(&socket, self.limit, &self.refused, events);
        Ok(Listener { socket, acceptor })
    }

    /// Who may only be so far away.
    pub(super) fn set_lowest(&mut self, lowest: LowestTtls) {
        if self.lowest != lowest {
            self.lowest = lowest;
            for (addr, listener) in &self.open {
                self.bound(&*listener.socket, *addr);
            }
        }
    }

    /// Has a socket take only what is near enough. Where it cannot be told, each connection still is once it is taken.
    fn bound(&self, socket: &impl AsRawFd, addr: SocketAddr) {
        let filter = near::filter(&self.lowest, addr.is_ipv4());
        let set = match &filter {
            Some(filter) => socket::take_only(socket, filter),
            None => Err(io::Error::other("too many peers")),
        };
        if let Err(error) = set {
            warn!(%addr, %error, "cannot tell by the TTL who may connect (RFC 5082)");
        }
    }

    /// Whether keys have changed since `at`, when a connection was taken.
    pub(super) fn have_new_keys_since(&self, at: Instant) -> bool {
        self.keys_changed.is_some_and(|changed| at < changed)
    }

    /// Brings the keys in line.
    pub(super) fn set_keys(
        &mut self,
        keys: BTreeMap<Prefix, Secret>,
        events: &mpsc::Sender<Event>,
    ) {
        let before = self.keyed.drain(..).chain(self.keys.keys().copied());
        let gone: Vec<_> = before
            .filter(|peer| !keys.contains_key(peer))
            .map(|p| (p, None))
            .collect();
        let changed = keys
            .iter()
            .filter(|(peer, key)| self.keys.get(peer) != Some(key))
            .map(|(p, k)| (*p, Some(k)));
        let changes: Vec<_> = gone.into_iter().chain(changed).collect();
        let any = !changes.is_empty();
        for (peer, key) in changes {
            for (addr, listener) in &self.open {
                if addr.is_ipv4() != peer.addr().is_ipv4() {
                    continue;
                }
                match socket::set_md5(&*listener.socket, peer, key) {
                    // A listener that never knew the key has none to forget.
                    Err(e) if key.is_none() && e.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => warn!(%peer, %error, "cannot set the TCP MD5 key"),
                    Ok(()) => {}
                }
            }
        }
        self.keys = keys;
        if any {
            self.drop_unkeyed(events);
            self.keys_changed = Some(Instant::now());
        }
    }

    /// Takes the connections that wait in the kernel, where the keys of now were not asked for, and closes
    /// those of peers with a key.
    fn drop_unkeyed(&self, events: &mpsc::Sender<Event>) {
        for listener in self.open.values() {
            while let Ok((socket, remote)) = SockRef::from(&*listener.socket).accept() {
                let remote = remote.as_socket();
                let has_key = |at: &SocketAddr| self.keys.keys().any(|k| k.contains_addr(at.ip()));
                let Some(remote) = remote.filter(|at| !has_key(at)) else {
                    continue;
                };
                let (events, at) = (events.clone(), Instant::now());
                let stream = socket
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(socket.into()));
                if let Ok(stream) = stream {
                    tokio::spawn(async move {
                        // The speaker is stopping.
                        drop(events.send(Event::Accepted(stream, remote, at)).await);
                    });
                }
            }
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.open.values().for_each(|l| l.acceptor.abort());
    }
}

fn spawn(
    socket: &Arc<TcpListener>,
    limit: ConnectionLimit,
    refused: &Arc<AtomicU64>,
    events: &mpsc::Sender<Event>,
) -> AbortHandle {
    let accept = accept(
        Arc::clone(socket),
        RateLimit::new(limit),
        Arc::clone(refused),
        events.clone(),
    );
    tokio::spawn(accept).abort_handle()
}

/// Accepts for ever.
async fn accept(
    socket: Arc<TcpListener>,
    mut limit: RateLimit,
    refused: Arc<AtomicU64>,
    events: mpsc::Sender<Event>,
) {
    loop {
        match socket.accept().await {
            Ok((stream, remote)) => {
                if !limit.admit(remote.ip(), Instant::now()) {
                    refused.fetch_add(1, Ordering::Relaxed);
                    debug!(%remote, "refused a connection: too many from this address");
                    continue;
                }
                let accepted = Event::Accepted(stream, remote, Instant::now());
                if events.send(accepted).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
