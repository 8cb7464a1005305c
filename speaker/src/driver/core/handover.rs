//! Sessions come from the process before, and go to the next.

use std::{
    collections::{BTreeSet, HashMap, hash_map::RandomState},
    hash::BuildHasher,
    net::SocketAddr,
    time::Instant,
};

use bytes::BytesMut;
use margay_bgp::{
    prefix::Family,
    session::ConnId,
    wire::{Kind, MessageType, Notification, UpdateFrame, header},
};
use tokio::{net::TcpStream, sync::oneshot};
use tracing::{info, warn};

use super::Core;
use crate::{
    bfd::LeftPaths,
    config::SpeakerConfig,
    driver::{
        link::LinkId,
        peer::Peer,
        strangers::{member, range_of},
        watch,
    },
    handover::{Handover, Inherited, PeerLeft, State, TookOver, since_boot},
    peer_key::{BGP_PORT, PeerKey},
    socket,
    view::PathState,
};

impl Core {
    /// Stops, and leaves everything that another process needs to go on.
    pub(super) async fn hand_over(mut self, reply: oneshot::Sender<Handover>) {
        let mut paths = match self.bfd.take() {
            Some(bfd) => bfd.hand_over().await,
            None => LeftPaths::new(),
        };
        let (mut sockets, keyed) = self.listeners.leave();
        let now = Instant::now();
        while let Some(event) = self.waiting.pop_front() {
            self.event(event, now);
        }
        while self.rib.work() {}
        let mut state = State {
            frozen_at: since_boot(),
            seed: RandomState::new().hash_one(self.config.router_id),
            keyed,
            ..State::default()
        };
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        for key in keys {
            let Some(link) = self.peers.get(&key).and_then(|p| p.established) else {
                continue;
            };
            match self.leave(&key, link, state.seed) {
                Ok((mut peer, socket)) => {
                    peer.bfd = paths.remove(&key);
                    state.peers.push(peer);
                    sockets.push(socket);
                }
                Err(why) => {
                    warn!(peer = %key, why, "the session ends here");
                    state.dropped.push(key);
                }
            }
        }
        info!(sessions = state.peers.len(), "left to the next process");
        let state = state.encode();
        // Whoever asked has gone away: then the sockets close.
        drop(reply.send(Handover { state, sockets }));
    }

    /// One session; why it cannot go on, in words.
    fn leave(
        &mut self,
        key: &PeerKey,
        link: LinkId,
        seed: u64,
    ) -> Result<(PeerLeft, std::os::fd::OwnedFd), &'static str> {
        const GONE: &str = "its connection is gone";
        let peer = self.peers.get(key).ok_or(GONE)?;
        let left = peer.session.left(Instant::now()).ok_or(GONE)?;
        if !peer.session.negotiated().is_some_and(|n| n.four_octet_as) {
            return Err("the peer has no four-octet AS numbers");
        }
        if !self.rib.is_settled(peer.rib) {
            return Err("a graceful restart is going on");
        }
        let link = self.links.remove(&link).ok_or(GONE)?;
        let local = link.stream.local_addr();
        let ends = local.and_then(|local| Ok((local, link.stream.peer_addr()?)));
        let mut result = peer.leave(left, ends.map_err(|_gone| GONE)?, seed);
        let rest = link.leave().map_err(|_gone| GONE)?;
        (result.opens, result.partial, result.unsent) = (rest.opens, rest.partial, rest.unsent);
        let mut received = BytesMut::new();
        for family in Family::ALL {
            let all = 0..self.rib.places(family);
            self.rib
                .adj_in_updates(peer.rib, family, all, &mut received);
        }
        result.received = received.freeze();
        result.told = Family::ALL.map(|family| {
            let told = self.rib.take_told(peer.rib, family, seed);
            told.unwrap_or_default()
        });
        Ok((result, rest.socket))
    }

    /// Goes on with the session of a peer that has just been added, if another process has left it.
    pub(super) fn resume(&mut self, key: &PeerKey, now: Instant) -> bool {
        let Some((left, stream)) = self.inherited.peers.remove(key) else {
            return false;
        };
        match self.take_over(key, left, stream, now) {
            Ok(()) => true,
            Err(why) => {
                warn!(peer = %key, why, "the session cannot go on, it starts anew");
                self.inherited.dropped.insert(*key);
                false
            }
        }
    }

    fn take_over(
        &mut self,
        key: &PeerKey,
        mut left: PeerLeft,
        stream: std::net::TcpStream,
        now: Instant,
    ) -> Result<(), String> {
        let (seed, pause) = (self.inherited.seed, self.inherited.pause);
        let peer = self.peers.get_mut(key).ok_or("there is no such peer")?;
        if peer.settings_print(seed) != left.settings {
            return Err("its settings have changed".to_owned());
        }
        let stream = TcpStream::from_std(stream).map_err(|e| e.to_string())?;
        socket::adopt(
            &stream,
            left.remote.ip(),
            peer.config.ttl,
            peer.is_external(),
        )
        .map_err(|e| e.to_string())?;
        let hold = left.hold.map(|hold| hold.saturating_sub(pause));
        let opens = [&left.opens[0][..], &left.opens[1][..]];
        let how = (left.outgoing, hold, left.uptime + pause);
        let conn = peer
            .session
            .resume(opens, how, now)
            .map_err(|error| error.to_string())?;
        let link = self.attach_left(*key, conn, stream, &mut left);
        let Some(peer) = self.peers.get_mut(key) else {
            return Ok(());
        };
        if key.unnumbered().is_some() {
            let mut at = left.remote;
            at.set_port(key.port.unwrap_or(BGP_PORT));
            peer.neighbour = Some(at);
        }
        peer.place(Some(left.local.ip()));
        peer.mark_resumed(link, &left, pause, now);
        peer.reason = Some("taken over from the process before".to_owned());
        peer.note_state();
        self.rib.update_peer(peer.rib, peer.rib_config());
        let Some(negotiated) = peer.session.negotiated().cloned() else {
            return Ok(());
        };
        let info = peer.session_info(&negotiated);
        let told = std::mem::take(&mut left.told);
        self.rib.resume_peer(peer.rib, info, (told, seed), now);
        let link = self.links.get(&link);
        peer.watched = link
            .and_then(|link| watch::watched(peer, link, &negotiated))
            .map(std::sync::Arc::new);
        if let Some(path) = left.bfd {
            self.inherited_paths.insert(*key, path);
            peer.path = Some(PathState::Up);
        }
        let complete = feed(&left.received, |frame| {
            self.rib.handle_update(peer.rib, frame).is_ok()
        });
        self.sync.done(key);
        if !complete {
            // Known to be wrong, so that the peer is to say it all again.
            let cease = Notification::new(Kind::CEASE_ADMIN_RESET);
            self.with_session(key, now, |session| session.handle_reset(&cease, now));
        }
        self.touch(key);
        Ok(())
    }

    fn attach_left(
        &mut self,
        key: PeerKey,
        conn: ConnId,
        stream: TcpStream,
        left: &mut PeerLeft,
    ) -> LinkId {
        let id = self.attach(key, conn, stream);
        if let Some(link) = self.links.get_mut(&id) {
            let unsent = std::mem::take(&mut left.unsent);
            link.resume(left.opens.clone(), &left.partial, unsent);
        }
        id
    }

    /// All configured peers are there: those of ranges follow, and what is left is closed. Returns
    /// whom to wait for, as their routes are gone; `None` if nothing was inherited.
    pub(super) fn end_inheritance(
        &mut self,
        config: &SpeakerConfig,
        now: Instant,
    ) -> Option<BTreeSet<PeerKey>> {
        let dynamic = self.inherited.peers.iter().filter(|(_, (p, _))| p.dynamic);
        let ends: HashMap<PeerKey, SocketAddr> = dynamic
            .map(|(key, (peer, _))| (*key, peer.remote))
            .collect();
        for (key, remote) in ends {
            if let Some(range) = range_of(config, remote.ip())
                && !self.peers.contains_key(&key)
            {
                self.add_peer(key, &member(range), config, now);
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.dynamic = Some(range.prefix);
                }
            }
        }
        let Inherited {
            peers,
            dropped,
            pause,
            makes_sense,
            ..
        } = std::mem::take(&mut self.inherited);
        for key in peers.keys() {
            info!(peer = %key, "its session ends, it is not a peer any more");
        }
        let up = || self.peers.values().filter(|p| p.established.is_some());
        let sessions = up().count();
        self.took_over = makes_sense.map(|makes_sense| match makes_sense {
            false => TookOver::Unreadable,
            true => TookOver::Sessions {
                kept: sessions,
                lost: dropped.len(),
                pause: pause + now.elapsed(),
            },
        });
        if sessions == 0 {
            return None;
        }
        let of_peer = |peer: &Peer| Family::ALL.map(|f| self.rib.prefix_count(peer.rib, f));
        let routes: u32 = up().flat_map(of_peer).sum();
        // What is different now is told without waiting for any event.
        self.due.send = true;
        let (pause, took) = (pause.as_millis(), now.elapsed().as_millis());
        info!(
            sessions,
            lost = dropped.len(),
            routes,
            pause_ms = %pause,
            of_which_here_ms = %took,
            "took over sessions from the process before"
        );
        Some(dropped)
    }
}

/// Gives each UPDATE in `messages` to `take`; `false` if anything is not as it should be.
fn feed(messages: &[u8], mut take: impl FnMut(&UpdateFrame<'_>) -> bool) -> bool {
    let mut rest = messages;
    while !rest.is_empty() {
        let Ok(Some((MessageType::Update, len))) = header::peek(rest, true) else {
            return false;
        };
        let (message, after) = rest.split_at(len);
        rest = after;
        let body = message.get(header::HEADER_LEN..).unwrap_or_default();
        if !UpdateFrame::split(body).is_ok_and(|frame| take(&frame)) {
            return false;
        }
    }
    true
}
