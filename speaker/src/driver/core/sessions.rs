//! What is received, and what the sessions make of it.

use std::{ops::Range, sync::Arc, time::Instant};

use bytes::Bytes;
use margay_bgp::{
    prefix::Family,
    rib::{KeepStale, RefreshKind, Rib, UpdateOutcome},
    session::{Accepted, ConnId, DownReason, Output, Session},
    wire::{Kind, Notification, RouteRefresh, UpdateFrame, WireError, header, refresh},
};
use tracing::{debug, info, warn};

use super::Core;
use crate::{
    config::MaxPrefixesAction,
    driver::{link::LinkId, peer::Peer, sync::InitialSync, watch},
    peer_key::PeerKey,
    watch::{Held, WatchEvent},
};

/// Attempts to reach a peer that may fail before its routes are not waited for.
const ATTEMPTS: u32 = 2;

impl Core {
    /// Whole messages of a link, or a broken one at the end.
    pub(super) fn received(&mut self, id: LinkId, data: &Bytes, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
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
    pub(super) fn with_session(
        &mut self,
        key: &PeerKey,
        now: Instant,
        tell: impl FnOnce(&mut Session),
    ) {
        if let Some(peer) = self.peers.get_mut(key) {
            tell(&mut peer.session);
            self.drain(key, now);
        }
    }

    /// The session's timers may have changed.
    pub(super) fn touch(&mut self, key: &PeerKey) {
        let at = self.peers.get(key).and_then(|p| p.session.poll_timeout());
        self.wake_at = [self.wake_at, at].into_iter().flatten().min();
    }

    /// Does what the session wants done.
    pub(super) fn drain(&mut self, key: &PeerKey, now: Instant) {
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
                peer.place(local.map(|a| a.ip()));
                peer.mark_up(id, now);
                self.rib.update_peer(peer.rib, peer.rib_config());
                self.rib
                    .peer_up(peer.rib, peer.session_info(&negotiated), now);
                let watched = self
                    .links
                    .get(&id)
                    .and_then(|link| watch::watched(peer, link, &negotiated));
                peer.watched = watched.map(Arc::new);
                if let Some(up) = &peer.watched {
                    let up = Arc::clone(up);
                    self.watchers.tell(&WatchEvent::Up(up, Held::Nothing));
                }
                let (hold, families) = (negotiated.hold_time, &negotiated.families);
                peer.span.in_scope(|| info!(?hold, ?families, "session up"));
                if peer.config.bfd.is_some() && peer.key.interface.is_some() {
                    // The interface may be another one of the same name.
                    self.watch();
                }
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
                    if peer.links.is_empty() {
                        peer.failures += 1;
                        if peer.failures == ATTEMPTS {
                            self.rib.stop_waiting_for(peer.rib);
                        }
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
