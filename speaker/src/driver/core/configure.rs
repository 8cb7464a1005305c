//! Peers come, change and go, as the configuration says and as BFD sees their paths.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use margay_bgp::{
    bfd::{self, Change},
    prefix::Prefix,
    wire::{Kind, Notification},
};
use tracing::{info, warn};

use super::Core;
use crate::{
    bfd::{Bfd, Target, Targets},
    config::{PeerConfig, SpeakerConfig, Ttl},
    driver::{
        peer::{Peer, needs_reset, rib_config, session_config},
        strangers::{member, range_of},
        unnumbered::Watch,
    },
    handle::SpeakerError,
    local_addrs::LocalAddrs,
    near::LowestTtls,
    peer_key::PeerKey,
    secret::Secret,
    socket,
    view::PathState,
};

impl Core {
    pub(super) fn listen(&mut self, config: &SpeakerConfig) -> Result<(), SpeakerError> {
        let keys = self.keys(config);
        let lowest = self.lowest_ttls(config);
        let limit = config.connection_limit;
        self.listeners
            .configure(&config.listen, limit, keys, lowest, &self.events_tx)
    }

    /// The TCP MD5 keys, by whom they are for.
    fn keys(&self, config: &SpeakerConfig) -> BTreeMap<Prefix, Secret> {
        let keys = self.places(config).into_iter();
        keys.filter_map(|(at, peer)| Some((at, peer.password.clone()?)))
            .collect()
    }

    /// How far away whoever connects may be.
    fn lowest_ttls(&self, config: &SpeakerConfig) -> LowestTtls {
        let places = self.places(config).into_iter();
        places
            .map(|(at, peer)| (at, socket::lowest_ttl(peer.ttl)))
            .collect()
    }

    /// Who may connect from where. Of a peer on an interface that is known once it is found.
    fn places<'a>(&self, config: &'a SpeakerConfig) -> Vec<(Prefix, &'a PeerConfig)> {
        let place = |key: &PeerKey| match key.unnumbered() {
            Some(_) => Some(self.peers.get(key)?.neighbour?.ip()),
            None => Some(key.addr),
        };
        let peers = config.peers.iter();
        let peers = peers.filter_map(|(key, peer)| Some((Prefix::host(place(key)?), peer)));
        let ranges = config.dynamic.iter();
        let ranges = ranges.map(|range| (range.prefix, &range.peer));
        peers.chain(ranges).collect()
    }

    /// Where a peer on an interface is has changed.
    pub(in crate::driver) fn set_keys(&mut self) {
        let keys = self.keys(&self.config);
        self.listeners.set_keys(keys, &self.events_tx);
        self.listeners.set_lowest(self.lowest_ttls(&self.config));
    }

    pub(super) fn configure(
        &mut self,
        config: SpeakerConfig,
        now: Instant,
    ) -> Result<(), SpeakerError> {
        let is_gone = |p: &&Peer| match p.dynamic {
            None => !config.peers.contains_key(&p.key),
            // Another range, or a name of its own, is another peer.
            Some(range) => {
                let now = range_of(&config, p.key.addr).map(|range| range.prefix);
                config.peers.contains_key(&p.key) || now != Some(range)
            }
        };
        let gone = self.peers.values().filter(is_gone).map(|p| p.key);
        for key in gone.collect::<Vec<_>>() {
            self.remove_peer(&key, now);
        }
        let listening = self.listen(&config);
        for (key, new) in &config.peers {
            if self.peers.contains_key(key) {
                self.change_peer(key, new, &config, now);
            }
        }
        let dynamic = self.peers.values().filter(|p| p.dynamic.is_some());
        for key in dynamic.map(|p| p.key).collect::<Vec<_>>() {
            if let Some(range) = range_of(&config, key.addr) {
                self.change_peer(&key, &member(range), &config, now);
            }
        }
        self.add_peers(&config, now);
        self.watch();
        self.config = config;
        listening
    }

    /// Has BFD watch the paths to the peers that want it.
    pub(in crate::driver) fn watch(&mut self) {
        let targets: Targets = self
            .peers
            .values()
            .filter_map(|peer| Some((peer.key, target(peer)?)))
            .collect();
        if self.bfd.is_none() && !targets.is_empty() {
            match Bfd::spawn(self.bfd_changes_tx.clone()) {
                Ok(bfd) => self.bfd = Some(bfd),
                Err(error) => warn!(%error, "cannot start the thread of BFD"),
            }
        }
        for peer in self.peers.values_mut() {
            let wanted = peer.config.bfd.is_some();
            peer.path = wanted.then(|| peer.path.unwrap_or(PathState::Down));
        }
        if let Some(bfd) = &self.bfd {
            bfd.watch(targets, std::mem::take(&mut self.inherited_paths));
        }
    }

    /// RFC 5882 section 4: a path that fails takes its session along at once; one that its operator
    /// took down does not.
    pub(super) fn path_changed(&mut self, key: &PeerKey, change: Change, now: Instant) {
        let Some(peer) = self.peers.get_mut(key).filter(|p| p.path.is_some()) else {
            return;
        };
        let independent = match change {
            Change::Up => return peer.note_path(PathState::Up, "both directions work"),
            Change::RemoteAdminDown => {
                return peer.note_path(PathState::AdminDown, "taken down by the peer's operator");
            }
            Change::Down { diag, independent } => {
                peer.note_path(PathState::Down, &diag.to_string());
                independent
            }
        };
        if peer.established.is_some() {
            let cease = Notification::new(Kind::CEASE_BFD_DOWN);
            self.with_session(key, now, |session| session.handle_reset(&cease, now));
        } else if independent {
            // RFC 5882 section 4.3: forwarding is dead, whatever its control plane promised.
            self.rib.peer_down(peer.rib, None, now);
        }
    }

    pub(super) fn add_peers(&mut self, config: &SpeakerConfig, now: Instant) {
        for (key, peer) in &config.peers {
            if !self.peers.contains_key(key) {
                self.add_peer(*key, peer, config, now);
            }
        }
    }

    pub(in crate::driver) fn add_peer(
        &mut self,
        key: PeerKey,
        peer: &PeerConfig,
        config: &SpeakerConfig,
        now: Instant,
    ) {
        let peer = fitting(key, peer);
        let session = session_config(&peer, config);
        let id = match self.rib.add_peer(rib_config(
            &peer,
            &session,
            LocalAddrs::default(),
            config.graceful_shutdown,
        )) {
            Ok(id) => id,
            Err(error) => {
                warn!(peer = %key, %error, "cannot add the peer");
                return;
            }
        };
        let mut peer = Peer::new(key, peer, config, id);
        let events = || self.events_tx.clone();
        peer.watch = key
            .unnumbered()
            .map(|interface| Watch::start(key, interface, events()));
        self.peers.insert(key, peer);
        if !self.resume(&key, now) {
            self.start(&key, now);
        }
    }

    /// Starts the session, once it is known where the peer is.
    pub(in crate::driver) fn start(&mut self, key: &PeerKey, now: Instant) {
        let lost = |p: &Peer| p.key.unnumbered().is_some() && p.neighbour.is_none();
        if self.peers.get(key).is_some_and(|p| !lost(p)) {
            self.with_session(key, now, |session| session.handle_start(now));
        }
    }

    pub(super) fn change_peer(
        &mut self,
        key: &PeerKey,
        new: &PeerConfig,
        speaker: &SpeakerConfig,
        now: Instant,
    ) {
        let new = &fitting(*key, new);
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let new_session = session_config(new, speaker);
        let draining = speaker.graceful_shutdown;
        if peer.config == *new && *peer.session.config() == new_session && peer.draining == draining
        {
            return;
        }
        if peer.draining != draining {
            peer.span
                .in_scope(|| info!(draining, "graceful shutdown changed"));
        }
        peer.draining = draining;
        let reset = needs_reset((&peer.config, peer.session.config()), (new, &new_session));
        peer.config = new.clone();
        peer.session.set_config(new_session);
        let rib_config = peer.rib_config();
        if reset {
            let cease = Notification::new(Kind::CEASE_CONFIG_CHANGE);
            self.with_session(key, now, |session| session.handle_stop(&cease, now));
        }
        if let Some(peer) = self.peers.get(key) {
            self.rib.update_peer(peer.rib, rib_config);
        }
        if reset {
            self.start(key, now);
        }
    }

    pub(in crate::driver) fn remove_peer(&mut self, key: &PeerKey, now: Instant) {
        let cease = Notification::new(Kind::CEASE_PEER_DECONFIGURED);
        self.with_session(key, now, |session| session.handle_stop(&cease, now));
        if let Some(peer) = self.peers.remove(key) {
            peer.dials
                .values()
                .for_each(tokio::task::AbortHandle::abort);
            self.rib.remove_peer(peer.rib);
        }
        self.sync.done(key);
    }
}

/// The settings of a peer, with what follows from where it is.
fn fitting(key: PeerKey, peer: &PeerConfig) -> PeerConfig {
    PeerConfig {
        // Without addresses IPv4 has no other way.
        extended_next_hop: peer.extended_next_hop || key.interface.is_some(),
        ..peer.clone()
    }
}

/// The path that BFD is to watch for a peer, once it is known where the peer is.
fn target(peer: &Peer) -> Option<Target> {
    let bfd = peer.config.bfd?;
    let at = peer.target()?;
    Some(Target {
        to: at.ip(),
        scope: match at {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(at) => at.scope_id(),
        },
        source: peer.config.source,
        multihop: match peer.config.ttl {
            Ttl::Direct => false,
            Ttl::Multihop => true,
            Ttl::Security(hops) => hops > 1,
        },
        config: bfd::Config {
            min_tx: Duration::from_millis(bfd.min_tx_ms.into()),
            min_rx: Duration::from_millis(bfd.min_rx_ms.into()),
            detect_mult: bfd.multiplier,
        },
    })
}
