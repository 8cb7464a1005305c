//! What a watcher hears of the sessions: BMP stations and archives of updates.
//!
//! A watcher never slows BGP down: what it has not taken waits in a queue with a bound, and one
//! that lets it fill hears no more and has to begin anew.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use margay_bgp::{prefix::Family, session::DownReason};
use tokio::sync::mpsc;

use crate::peer_key::PeerKey;

/// Octets that may wait for a watcher: a full table of the Internet, as UPDATEs, fits.
const QUEUE: usize = 64 << 20;

/// What an event costs in the queue beside its octets.
const EVENT: usize = 256;

/// An Established session, as watchers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedPeer {
    /// The peer.
    pub key: PeerKey,
    /// Its name in the configuration; may be empty.
    pub name: String,
    /// Its AS.
    pub remote_as: u32,
    /// Our AS towards it.
    pub local_as: u32,
    /// Its BGP identifier.
    pub peer_id: Ipv4Addr,
    /// Our end of the connection.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// AS numbers in UPDATEs have four octets (RFC 6793).
    pub four_octet_as: bool,
    /// Prefixes of some family have path identifiers (RFC 7911).
    pub path_ids: bool,
    /// Our OPEN, the whole message.
    pub sent_open: Bytes,
    /// The peer's OPEN, the whole message.
    pub received_open: Bytes,
    /// When the session came up.
    pub since: SystemTime,
}

/// Where the routes that a peer had sent before go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldCursor {
    pub(crate) peer: PeerKey,
    pub(crate) family: Family,
    pub(crate) place: u32,
}

impl HeldCursor {
    /// The beginning of the routes of a peer.
    pub const fn start(peer: PeerKey) -> Self {
        Self {
            peer,
            family: Family::Ipv4Unicast,
            place: 0,
        }
    }
}

/// Something about a session.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// It is Established. `held`: it was so before the watch began, and what the peer had sent
    /// until then is to be asked for with [`Watch::ask`].
    Up(Arc<WatchedPeer>, Held),
    /// It is so no more.
    Down(Arc<WatchedPeer>, DownReason, SystemTime),
    /// UPDATEs as they were received, whole messages one after the other.
    Updates(Arc<WatchedPeer>, Bytes, SystemTime),
    /// UPDATEs that announce some of what the peer had sent, with four-octet AS numbers; messages
    /// may be longer than 4096 octets. `None`: that was all, End-of-RIB of each family included.
    Held(Arc<WatchedPeer>, Bytes, Option<HeldCursor>),
}

/// Whether a session has routes from before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It has just come up.
    Nothing,
    /// It was up already.
    Routes,
}

impl WatchEvent {
    fn cost(&self) -> usize {
        EVENT
            + match self {
                Self::Updates(_, messages, _) | Self::Held(_, messages, _) => messages.len(),
                Self::Up(peer, _) => peer.sent_open.len() + peer.received_open.len(),
                Self::Down(..) => 0,
            }
    }
}

/// Names a watcher; never reused.
pub(crate) type WatchId = u64;

/// The speaker's end.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) id: WatchId,
    events: mpsc::UnboundedSender<WatchEvent>,
    queued: Arc<AtomicUsize>,
}

impl Sender {
    /// Queues an event; `false` if the watcher is gone or too far behind.
    pub(crate) fn tell(&self, event: WatchEvent) -> bool {
        let cost = event.cost();
        let before = self.queued.fetch_add(cost, Ordering::Relaxed);
        before + cost <= QUEUE && self.events.send(event).is_ok()
    }
}

/// A watcher's end.
#[derive(Debug)]
pub struct Watch {
    id: WatchId,
    events: mpsc::UnboundedReceiver<WatchEvent>,
    queued: Arc<AtomicUsize>,
    queries: crate::handle::Queries,
}

impl Watch {
    /// The next event; `None` when the speaker has stopped, or when this watcher fell too far
    /// behind. Cancel safe.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        let event = self.events.recv().await?;
        self.queued.fetch_sub(event.cost(), Ordering::Relaxed);
        Some(event)
    }

    /// Asks for some of the routes that a peer had sent before; they come as
    /// [`WatchEvent::Held`], in their place among the other events.
    pub async fn ask(&self, from: HeldCursor) -> Result<(), crate::SpeakerError> {
        self.queries.ask_held(self.id, from).await
    }
}

/// Both ends of a new watch.
pub(crate) fn channel(id: WatchId, queries: crate::handle::Queries) -> (Sender, Watch) {
    let (tx, events) = mpsc::unbounded_channel();
    let queued = Arc::new(AtomicUsize::new(0));
    let sender = Sender {
        id,
        events: tx,
        queued: Arc::clone(&queued),
    };
    let watch = Watch {
        id,
        events,
        queued,
        queries,
    };
    (sender, watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_lets_its_queue_fill_is_told_no_more_and_what_is_taken_makes_room() {
        let key = PeerKey::from(std::net::IpAddr::from([192, 0, 2, 1]));
        let peer = Arc::new(WatchedPeer {
            key,
            name: String::new(),
            remote_as: 1,
            local_as: 2,
            peer_id: Ipv4Addr::LOCALHOST,
            local: ([192, 0, 2, 2], 179).into(),
            remote: ([192, 0, 2, 1], 179).into(),
            four_octet_as: true,
            path_ids: false,
            sent_open: Bytes::new(),
            received_open: Bytes::new(),
            since: SystemTime::UNIX_EPOCH,
        });
        let big = Bytes::from(vec![0; QUEUE / 4]);
        let event = || WatchEvent::Updates(Arc::clone(&peer), big.clone(), peer.since);
        let queries = crate::handle::Queries::of_nobody();
        let (sender, mut watch) = channel(1, queries);
        assert!((0..3).all(|_| sender.tell(event())));
        assert!(watch.next().await.is_some());
        assert!(sender.tell(event()));
        assert!(
            !sender.tell(event()),
            "the fourth does not fit with what it costs"
        );
        drop(sender);
        assert!(
            (watch.next().await, watch.next().await, watch.next().await)
                .2
                .is_some()
        );
        assert!(watch.next().await.is_none());
    }
}
