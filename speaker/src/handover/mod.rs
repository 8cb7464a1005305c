//! A speaker leaves its sessions to the next process, whose speaker goes on with them; peers notice
//! nothing. How the two meet is not known here: what is left is octets and sockets.

mod codec;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use margay_bgp::prefix::Prefix;
use nix::{
    sys::socket::{getsockopt, sockopt::AcceptConn},
    time::{ClockId, clock_gettime},
};
use tracing::{info, warn};

pub(crate) use codec::fnv1a;
pub(crate) use state::{PeerLeft, State};

use crate::peer_key::PeerKey;

/// What a speaker leaves: made by [`Speaker::hand_over`](crate::Speaker::hand_over), taken by
/// [`Speaker::spawn_from`](crate::Speaker::spawn_from).
#[derive(Debug)]
pub struct Handover {
    /// State of the sessions. Anything that was not written by a speaker is refused; then its peers
    /// see their connections close, and graceful restart does what it can.
    pub state: Vec<u8>,
    /// Connections and listeners, in any order. Others among them are closed.
    pub sockets: Vec<OwnedFd>,
}

/// What became of what another speaker had left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TookOver {
    /// It made no sense: of another version of its form, or damaged. All sessions start anew.
    Unreadable,
    /// It was taken over.
    Sessions {
        /// Sessions that go on.
        kept: usize,
        /// Sessions that were up, and start anew.
        lost: usize,
        /// For so long nobody has served them.
        pause: Duration,
    },
}

/// What a speaker finds at its start.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) peers: BTreeMap<PeerKey, (PeerLeft, TcpStream)>,
    pub(crate) listeners: BTreeMap<SocketAddr, TcpListener>,
    /// Whom the listeners have TCP MD5 keys for.
    pub(crate) keyed: Vec<Prefix>,
    /// Peers that were up and are so no more.
    pub(crate) dropped: BTreeSet<PeerKey>,
    pub(crate) seed: u64,
    /// For so long nobody has served the sessions.
    pub(crate) pause: Duration,
    /// Whether what was left makes sense; `None` where nothing was.
    pub(crate) makes_sense: Option<bool>,
}

impl Inherited {
    /// Makes sense of what was left; nothing of it if it makes none.
    pub(crate) fn open(handover: Handover) -> Self {
        let state = match State::decode(&handover.state) {
            Ok(state) => state,
            Err(error) => {
                warn!(%error, "what the speaker before has left is of no use, peers see a restart");
                return Self {
                    makes_sense: Some(false),
                    ..Self::default()
                };
            }
        };
        let mut connections = BTreeMap::new();
        let mut listeners = BTreeMap::new();
        for socket in handover.sockets {
            sort(socket, &mut connections, &mut listeners);
        }
        let mut dropped: BTreeSet<PeerKey> = state.dropped.into_iter().collect();
        let mut peers = BTreeMap::new();
        for peer in state.peers {
            match connections.remove(&(peer.local, peer.remote)) {
                Some(stream) => {
                    peers.insert(peer.key, (peer, stream));
                }
                None => {
                    info!(peer = %peer.key, "the connection was lost on the way");
                    dropped.insert(peer.key);
                }
            }
        }
        Self {
            peers,
            listeners,
            keyed: state.keyed,
            dropped,
            seed: state.seed,
            pause: since_boot().saturating_sub(state.frozen_at),
            makes_sense: Some(true),
        }
    }
}

/// Puts a socket where it belongs; closes what is neither connection nor listener.
fn sort(
    socket: OwnedFd,
    connections: &mut BTreeMap<(SocketAddr, SocketAddr), TcpStream>,
    listeners: &mut BTreeMap<SocketAddr, TcpListener>,
) {
    if getsockopt(&socket.as_fd(), AcceptConn).unwrap_or(false) {
        let listener = TcpListener::from(socket);
        if let Ok(at) = listener.local_addr() {
            listeners.insert(at, listener);
        }
        return;
    }
    let stream = TcpStream::from(socket);
    if let (Ok(local), Ok(remote)) = (stream.local_addr(), stream.peer_addr()) {
        connections.insert((local, remote), stream);
    }
}

/// The clock that both processes share.
pub(crate) fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
