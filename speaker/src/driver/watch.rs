//! The watchers of the sessions: who is told what.

use std::{sync::Arc, time::SystemTime};

use bytes::{Bytes, BytesMut};
use margay_bgp::{
    prefix::Family,
    rib::Rib,
    session::{DownReason, Negotiated},
    wire::{header, update_encode::end_of_rib},
};
use tracing::warn;

use crate::{
    driver::{core::Peers, link::Link, peer::Peer},
    handle::Queries,
    watch::{self, Held, HeldCursor, Sender, Watch, WatchEvent, WatchId, WatchedPeer},
};

/// Places to look at for one answer: well below a millisecond of the speaker's time.
const PAGE: u32 = 8192;

/// All watchers.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    list: Vec<Sender>,
    next: WatchId,
}

impl Watchers {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// A new one, told of every session that is up.
    pub(super) fn add(&mut self, queries: Queries, peers: &Peers) -> Watch {
        self.next += 1;
        let (sender, watch) = watch::channel(self.next, queries);
        let up = peers.values().filter_map(|p| p.watched.as_ref());
        for peer in up {
            // A queue that is new has room for every OPEN.
            sender.tell(WatchEvent::Up(Arc::clone(peer), Held::Routes));
        }
        self.list.push(sender);
        watch
    }

    /// Tells everyone; whoever is gone, or too far behind, is dropped.
    pub(super) fn tell(&mut self, event: &WatchEvent) {
        self.list.retain(|watcher| {
            let kept = watcher.tell(event.clone());
            if !kept {
                warn!("a watcher of the sessions is gone or too slow, it is told no more");
            }
            kept
        });
    }

    /// Tells of UPDATEs as they were received.
    pub(super) fn updates(&mut self, peer: &Peer, messages: Bytes) {
        if let Some(peer) = peer.watched.as_ref().filter(|_| !messages.is_empty()) {
            let peer = Arc::clone(peer);
            self.tell(&WatchEvent::Updates(peer, messages, SystemTime::now()));
        }
    }

    /// Tells that a session is lost.
    pub(super) fn down(&mut self, peer: &mut Peer, reason: DownReason) {
        if let Some(peer) = peer.watched.take() {
            self.tell(&WatchEvent::Down(peer, reason, SystemTime::now()));
        }
    }

    /// Answers a watcher that asks what a peer had sent before.
    pub(super) fn held(&mut self, id: WatchId, from: HeldCursor, rib: &Rib, peers: &Peers) {
        let Some(at) = self.list.iter().position(|w| w.id == id) else {
            return;
        };
        let Some((peer, watched)) = peers
            .get(&from.peer)
            .and_then(|p| Some((p, p.watched.as_ref()?)))
        else {
            // The watcher has been told that the session is lost.
            return;
        };
        let end = from.place.saturating_add(PAGE);
        let mut messages = BytesMut::new();
        rib.adj_in_updates(peer.rib, from.family, from.place..end, &mut messages);
        let next = if end < rib.places(from.family) {
            Some(HeldCursor { place: end, ..from })
        } else {
            let negotiated = peer.session.negotiated();
            if negotiated.is_some_and(|n| n.families.contains(&from.family)) {
                end_of_rib(from.family, &mut messages);
            }
            (from.family == Family::Ipv4Unicast).then_some(HeldCursor {
                family: Family::Ipv6Unicast,
                place: 0,
                ..from
            })
        };
        let event = WatchEvent::Held(Arc::clone(watched), messages.freeze(), next);
        if !self.list.get(at).is_some_and(|watcher| watcher.tell(event)) {
            self.list.swap_remove(at);
        }
    }
}

/// The session of `peer` that has just come up over `link`, for watchers.
pub(super) fn watched(peer: &Peer, link: &Link, negotiated: &Negotiated) -> Option<WatchedPeer> {
    let session = peer.session.config();
    let [sent_open, received_open] = link.opens.clone();
    Some(WatchedPeer {
        key: peer.key,
        name: peer.config.name.clone(),
        remote_as: negotiated.peer.asn,
        local_as: session.local_as,
        peer_id: negotiated.peer.id,
        local: link.stream.local_addr().ok()?,
        remote: link.stream.peer_addr().ok()?,
        four_octet_as: negotiated.four_octet_as,
        path_ids: !negotiated.paths_received.is_empty(),
        sent_open,
        received_open,
        since: SystemTime::now(),
    })
}

/// The first message of `messages` if it is an OPEN.
pub(super) fn open_in(messages: &Bytes) -> Option<Bytes> {
    let (kind, len) = header::peek(messages, true).ok()??;
    (kind == margay_bgp::wire::MessageType::Open).then(|| messages.slice(..len))
}
