//! Connections come and go, and are written to.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use margay_bgp::session::{ConnId, Incoming};
use tokio::{net::TcpStream, time::sleep};
use tracing::{debug, warn};

use super::{Core, TURN};
use crate::{
    driver::{
        Event,
        link::{Link, LinkId, Piece},
    },
    peer_key::PeerKey,
    socket,
};

/// Octets of routes to hold for a peer that reads slowly; the RIB keeps the rest as state.
const SEND_QUEUE: usize = 256 << 10;
/// Octets to write to one peer before others get their turn.
const SEND_TURN: usize = 1 << 20;
/// Until a connection that has to wait is looked at again.
const SECOND_LOOK: Duration = Duration::from_millis(20);

impl Core {
    /// Writes to every peer what it may be told, as far as its socket takes it.
    pub(super) fn transmit(&mut self, now: Instant) {
        self.due.send = false;
        let ready: Vec<(PeerKey, LinkId)> = self
            .peers
            .values()
            .filter_map(|p| p.established.map(|link| (p.key, link)))
            .filter(|(_, link)| self.links.get(link).is_some_and(|l| !l.blocked))
            .collect();
        // Who was left out is the first.
        let first = self.next_to_write.take();
        let first = first.map_or(0, |first| ready.partition_point(|(key, _)| *key < first));
        let (late, early) = ready.split_at(first);
        let start = Instant::now();
        for (key, id) in early.iter().chain(late) {
            if start.elapsed() > TURN {
                self.next_to_write = Some(*key);
                self.due.send = true;
                return;
            }
            self.transmit_to(key, *id, start + TURN, now);
        }
    }

    fn transmit_to(&mut self, key: &PeerKey, id: LinkId, until: Instant, now: Instant) {
        let mut turn = 0;
        loop {
            let (Some(peer), Some(link)) = (self.peers.get_mut(key), self.links.get_mut(&id))
            else {
                return;
            };
            // Until there is none: a peer that has caught up joins the others then.
            while link.queued() < SEND_QUEUE
                && let Some(messages) = self.rib.poll_transmit_shared(peer.rib)
            {
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
            if turn >= SEND_TURN || Instant::now() >= until {
                self.due.send = true;
                return;
            }
        }
    }

    /// Writes what is queued for a link.
    pub(super) fn flush(&mut self, id: LinkId, now: Instant) {
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
                    let stream = Arc::clone(&link.stream);
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

    /// Reads from a link that has something. Returns the number of octets.
    pub(super) fn read(&mut self, id: LinkId, now: Instant) -> usize {
        let Some(link) = self.links.get_mut(&id) else {
            return 0;
        };
        let Piece { data, more } = match link.read() {
            Ok(Some(piece)) => piece,
            Ok(None) => {
                self.closed(id, None, now);
                return 0;
            }
            Err(error) => {
                self.closed(id, Some(&error), now);
                return 0;
            }
        };
        if more {
            self.ready.push(id);
        } else {
            self.heard.push(id);
        }
        if data.is_empty() {
            return 0;
        }
        if let Some(round) = &mut self.round {
            round.note(id, data.len());
        }
        self.received(id, &data, now);
        data.len()
    }

    /// Someone connected, and was taken at `at`.
    pub(super) fn accepted(
        &mut self,
        stream: TcpStream,
        (remote, at): (SocketAddr, Instant),
        now: Instant,
    ) {
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
        if peer.config.password.is_some() && self.listeners.have_new_keys_since(at) {
            peer.span
                .in_scope(|| debug!("refused a connection from before its key was known"));
            return;
        }
        match peer.session.incoming(at, now) {
            Incoming::Take => {}
            Incoming::Refuse => {
                let why = "refused a connection: another one is under way";
                return peer.span.in_scope(|| debug!(why));
            }
            Incoming::Wait => {
                let events = self.events_tx.clone();
                tokio::spawn(async move {
                    sleep(SECOND_LOOK).await;
                    // The speaker is stopping.
                    drop(events.send(Event::Accepted(stream, remote, at)).await);
                });
                return;
            }
        }
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

    pub(super) fn dialled(
        &mut self,
        key: PeerKey,
        conn: ConnId,
        result: io::Result<TcpStream>,
        now: Instant,
    ) {
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

    pub(super) fn attach(&mut self, key: PeerKey, conn: ConnId, stream: TcpStream) -> LinkId {
        let id = self.next_link;
        self.next_link += 1;
        if let Some(peer) = self.peers.get_mut(&key) {
            let extended = peer.config.extended_messages;
            let ready = Arc::clone(&self.ready);
            let link = Link::new(id, (key, conn), stream, extended, ready);
            link.listen();
            self.links.insert(id, link);
            peer.links.insert(conn, id);
        }
        id
    }

    pub(super) fn closed(&mut self, id: LinkId, error: Option<&io::Error>, now: Instant) {
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

    pub(super) fn dial(&mut self, key: &PeerKey, conn: ConnId) {
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

    pub(super) fn close(&mut self, key: &PeerKey, conn: ConnId, discard: bool) {
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
}
