//! Dynamic neighbours: peers that connect from a range without being named.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use margay_bgp::{
    prefix::{Family, Prefix},
    session::State,
};
use tracing::{info, warn};

use super::core::Core;
use crate::{
    config::{DynamicPeers, PeerConfig, SpeakerConfig},
    peer_key::PeerKey,
};

/// The range that an address is a peer of.
pub(super) fn range_of(config: &SpeakerConfig, addr: IpAddr) -> Option<&DynamicPeers> {
    let ranges = config.dynamic.iter();
    ranges
        .filter(|range| range.prefix.contains_addr(addr))
        .max_by_key(|range| range.prefix.len())
}

/// What a peer from a range is.
pub(super) fn member(range: &DynamicPeers) -> PeerConfig {
    let mut peer = PeerConfig {
        passive: true,
        ..range.peer.clone()
    };
    if peer.name.is_empty() {
        peer.name = range.prefix.to_string();
    }
    peer
}

impl Core {
    /// Someone who is no peer connected: makes it one if a range has room for it.
    pub(super) fn admit(
        &mut self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        now: Instant,
    ) -> Option<PeerKey> {
        let range = range_of(&self.config, remote.ip())?;
        if range
            .peer
            .source
            .is_some_and(|source| Some(source) != local)
        {
            return None;
        }
        let of_range = |prefix: Prefix| {
            let all = self.peers.values();
            all.filter(move |p| p.dynamic == Some(prefix)).count()
        };
        let (prefix, limit) = (range.prefix, range.limit);
        if of_range(prefix) >= limit as usize {
            warn!(%remote, range = %prefix, limit, "refused a connection: the range is full");
            return None;
        }
        let config = self.config.clone();
        let range = range_of(&config, remote.ip())?;
        let key = PeerKey::from(remote.ip());
        self.add_peer(key, &member(range), &config, now);
        let peer = self.peers.get_mut(&key)?;
        peer.dynamic = Some(prefix);
        peer.span
            .in_scope(|| info!(range = %prefix, "new dynamic peer"));
        self.watch();
        Some(key)
    }

    /// Forgets dynamic peers that have neither connection nor routes.
    pub(super) fn forget_strangers(&mut self, now: Instant) {
        if self.leaving.is_empty() {
            return;
        }
        for key in std::mem::take(&mut self.leaving) {
            let Some(peer) = self.peers.get(&key).filter(|p| p.dynamic.is_some()) else {
                continue;
            };
            if !peer.links.is_empty() {
                continue;
            }
            let routes = |family: &Family| self.rib.prefix_count(peer.rib, *family) > 0;
            // One that waits out an error is remembered, or the wait would be none.
            if peer.session.state() != State::Active || Family::ALL.iter().any(routes) {
                self.leaving.insert(key);
                continue;
            }
            peer.span.in_scope(|| info!("dynamic peer forgotten"));
            self.remove_peer(&key, now);
            self.watch();
        }
    }
}
