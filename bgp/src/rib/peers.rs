//! Peers and their sessions, coming and going.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use super::{
    KeepStale, PeerId, PeerRibConfig, Rib, SessionInfo, apply,
    attr_store::{Class, Kind},
    chores::{Chore, Doomed},
    index::NONE,
    long_lived::{Grace, Then, long_lived},
    restart::RestartEvent,
    table::{Age, Path, Source},
};
use crate::{
    policy::{Facts, Filter},
    prefix::Family,
    wire::{NextHop, PeerKind},
};

/// A request that the RIB cannot fulfil. Not worth a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RibError {
    /// All ids are taken.
    #[error("there are {max} peers already, the most that one RIB serves")]
    TooManyPeers {
        /// The limit.
        max: u16,
    },
}

/// Most peers of one RIB; the last id is never used.
const MAX_PEERS: u16 = u16::MAX - 1;

/// What a peer got wrong, since it was configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerStats {
    /// UPDATEs whose routes were treated as withdrawn (RFC 7606).
    pub treated_as_withdraw: u64,
    /// UPDATEs of which an attribute was discarded (RFC 7606).
    pub attribute_discards: u64,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) info: SessionInfo,
    pub(super) class: u16,
    /// Egress group by family.
    pub(super) groups: [Option<usize>; 2],
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) config: PeerRibConfig,
    pub(super) session: Option<Session>,
    /// The last session, for what is kept of it.
    pub(super) last: Option<SessionInfo>,
    /// How long stale routes stay, by family; `None` where there are none, or none but those that
    /// a refresh has yet to repeat.
    pub(super) grace: [Option<Grace>; 2],
    /// Whether paths of a family may be stale.
    pub(super) stale: [bool; 2],
    /// The age of paths that it announces, by family.
    pub(super) age: [Age; 2],
    /// Ages since the first that a path of its may have, by family.
    pub(super) ages: [u8; 2],
    /// Paths held by family.
    pub(super) paths: [u32; 2],
    pub(super) stats: PeerStats,
    /// It is gone for good, and what it sent is on its way out.
    pub(super) removed: bool,
}

impl Rib {
    /// Adds a peer, without a session.
    pub fn add_peer(&mut self, config: PeerRibConfig) -> Result<PeerId, RibError> {
        self.learn_own(&config);
        let peer = Peer {
            config,
            session: None,
            last: None,
            grace: [None; 2],
            stale: [false; 2],
            age: [Age::FIRST; 2],
            ages: [0; 2],
            paths: [0; 2],
            stats: PeerStats::default(),
            removed: false,
        };
        if let Some(id) = self.free_peers.pop() {
            self.peers[usize::from(id)] = Some(peer);
            return Ok(PeerId(id));
        }
        if self.peers.len() > usize::from(MAX_PEERS) {
            return Err(RibError::TooManyPeers { max: MAX_PEERS });
        }
        self.peers.push(Some(peer));
        Ok(PeerId(self.peers.len() as u16 - 1))
    }

    /// Changes a peer's configuration. A session goes on: received routes are filtered again from
    /// what the peer sent, and what it is told is brought in line.
    ///
    /// A change of `kind`, `local_as` or `allow_own_as` takes effect with the next session.
    pub fn update_peer(&mut self, peer: PeerId, config: PeerRibConfig) {
        self.learn_own(&config);
        let Some(state) = self.peer_mut(peer) else {
            return;
        };
        let old = std::mem::replace(&mut state.config, config);
        let same_import = *old.import == *state.config.import;
        let client_changed = old.rr_client != state.config.rr_client;
        for family in Family::ALL {
            if !same_import {
                self.begin(Some(peer), family, Chore::Import);
            }
            self.regroup(peer, family);
        }
        if client_changed {
            self.export_again();
        }
    }

    /// Removes a peer; what it sent goes, in portions. Its id is not to be used any more.
    pub fn remove_peer(&mut self, peer: PeerId) {
        self.close(peer, None);
        self.restart_event(peer, RestartEvent::Gone);
        if let Some(state) = self.peer_mut(peer) {
            state.removed = true;
            self.forget(peer);
        }
    }

    /// A session is established.
    pub fn peer_up(&mut self, peer: PeerId, info: SessionInfo, now: Instant) {
        let (families, restart) = (info.families, info.restart);
        self.begin_session(peer, info, now);
        for family in families.iter() {
            self.join(peer, family);
        }
        if restart.is_none_or(|r| r.restarting) {
            self.restart_event(peer, RestartEvent::NotWaitedFor);
        }
    }

    /// A session is there, in which nothing is told yet.
    pub(super) fn begin_session(&mut self, peer: PeerId, info: SessionInfo, now: Instant) {
        if self.session(peer).is_some() {
            self.close(peer, None);
        }
        // What it announces must not be taken for what it had announced.
        self.finish(peer);
        let Some(state) = self.peer_mut(peer) else {
            return;
        };
        let config = &state.config;
        let class = Class {
            kind: match config.kind {
                PeerKind::Ebgp => Kind::Ebgp,
                PeerKind::Ibgp => Kind::Ibgp,
            },
            four_octet_as: info.four_octet_as,
            local_as: config.local_as,
            allow_own_as: config.allow_own_as,
            scope: info.scope,
        };
        let identity = |i: &SessionInfo| (i.router_id, i.peer_addr);
        let other = state
            .last
            .as_ref()
            .is_some_and(|last| identity(last) != identity(&info));
        state.last = Some(info.clone());
        let families = info.families;
        let (restart, long_lived) = (info.restart, info.long_lived);
        let class = self.attrs.class_id(class);
        let session = Session {
            info,
            class,
            groups: [None; 2],
        };
        if let Some(state) = self.peer_mut(peer) {
            state.session = Some(session);
        }
        if other {
            self.reconsider(peer);
        }
        self.keep_stale_until_eor(peer, families, restart, long_lived, now);
    }

    /// The session is lost. Without `keep` all routes of the peer go.
    pub fn peer_down(&mut self, peer: PeerId, keep: Option<KeepStale>, now: Instant) {
        self.close(peer, keep.map(|keep| (keep, now)));
    }

    fn close(&mut self, peer: PeerId, keep: Option<(KeepStale, Instant)>) {
        for family in Family::ALL {
            self.leave(peer, family);
        }
        let Some(state) = self.peer_mut(peer) else {
            return;
        };
        state.session = None;
        for family in Family::ALL {
            match keep {
                Some((keep, now)) => self.keep_family(peer, family, keep, now),
                None => self.drop_family(peer, family),
            }
        }
    }

    fn drop_family(&mut self, peer: PeerId, family: Family) {
        self.cancel(peer, family);
        self.begin(Some(peer), family, Chore::Drop(Doomed::All));
        self.end_grace(peer, family);
    }

    fn keep_family(&mut self, peer: PeerId, family: Family, keep: KeepStale, now: Instant) {
        let long = keep.long_lived[family.index()];
        let restarts = keep.families.contains(family);
        if !restarts && long.is_zero() {
            return self.drop_family(peer, family);
        }
        let before = self.peer(peer).and_then(|p| p.grace[family.index()]);
        if let Some(before) = before.filter(|g| g.is_long_lived() && !long.is_zero()) {
            // RFC 9494, section 4.2: neither the routes nor the timer of the last loss change.
            self.mark_stale(peer, family);
            return self.begin_long_lived(peer, family, before.until);
        }
        if long.is_zero() {
            // RFC 4724, section 4.2: what was stale before does not survive a second loss.
            self.purge_stale(peer, family);
        }
        self.mark_stale(peer, family);
        if self.prefix_count(peer, family) == 0 {
            return self.end_grace(peer, family);
        }
        // RFC 9494, section 4.2: without graceful restart its time counts as zero.
        let restart_time = if restarts {
            keep.restart_time
        } else {
            Duration::ZERO
        };
        if restart_time.is_zero() && !long.is_zero() {
            return self.begin_long_lived(peer, family, now + long);
        }
        let then = if long.is_zero() {
            Then::Drop
        } else {
            Then::LongLived(long)
        };
        if let Some(state) = self.peer_mut(peer) {
            let until = now + restart_time;
            state.grace[family.index()] = Some(Grace { until, then });
        }
    }

    pub(super) fn end_grace(&mut self, peer: PeerId, family: Family) {
        if let Some(state) = self.peer_mut(peer) {
            state.grace[family.index()] = None;
        }
    }

    /// Received routes of a family, those that import refused included; each path counts.
    pub fn prefix_count(&self, peer: PeerId, family: Family) -> u32 {
        self.peer(peer).map_or(0, |p| p.paths[family.index()])
    }

    /// What the peer got wrong.
    pub fn peer_stats(&self, peer: PeerId) -> PeerStats {
        self.peer(peer).map_or_else(PeerStats::default, |p| p.stats)
    }

    pub(super) fn peer(&self, peer: PeerId) -> Option<&Peer> {
        self.peers.get(usize::from(peer.0))?.as_ref()
    }

    pub(super) fn peer_mut(&mut self, peer: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(usize::from(peer.0))?.as_mut()
    }

    pub(super) fn import_filter(&self, peer: PeerId) -> Option<Arc<Filter>> {
        self.peer(peer).map(|p| Arc::clone(&p.config.import))
    }

    pub(super) fn bump(&mut self, peer: PeerId, change: impl FnOnce(&mut PeerStats)) {
        if let Some(peer) = self.peer_mut(peer) {
            change(&mut peer.stats);
        }
    }

    pub(super) fn count(&mut self, peer: PeerId, family: Family, f: impl FnOnce(u32) -> u32) {
        if let Some(peer) = self.peer_mut(peer) {
            let count = &mut peer.paths[family.index()];
            *count = f(*count);
        }
    }

    /// Our own next hops are addresses of ours.
    fn learn_own(&mut self, config: &PeerRibConfig) {
        let mut any = false;
        for next_hop in [config.next_hop_v4, config.next_hop_v6]
            .into_iter()
            .flatten()
        {
            any |= self.next_hops.add_own(next_hop.addr());
            if let NextHop::V6 { global, .. } = next_hop {
                any |= self.next_hops.add_own(global.into());
            }
        }
        if any {
            self.reconsider_all();
        }
    }

    /// What ties are broken by changed: the peer's routes are decided again.
    fn reconsider(&mut self, peer: PeerId) {
        for family in Family::ALL {
            self.begin(Some(peer), family, Chore::Decide);
        }
    }

    /// The paths of `peer` for a prefix.
    pub(super) fn paths_of(&self, source: Source, family: Family, id: u32) -> SmallVec<[Path; 2]> {
        let paths = self.families[family.index()].table.paths(id).iter();
        paths.filter(|p| p.source == source).copied().collect()
    }

    /// Drops the paths of `peer` for these prefixes that `doomed` condemns.
    pub(super) fn drop_paths(&mut self, peer: PeerId, family: Family, ids: &[u32], doomed: Doomed) {
        let mut gone = 0;
        for &id in ids {
            for path in self.paths_of(peer.0, family, id) {
                if doomed.includes(path.age) {
                    let rib = &mut self.families[family.index()];
                    let key = (path.source, path.path_id);
                    gone += u32::from(apply::take(rib, &mut self.attrs, id, key));
                }
            }
        }
        self.count(peer, family, |count| count - gone);
    }

    /// Filters what `peer` sent for these prefixes once more (soft reconfiguration inbound).
    pub(super) fn import_again(&mut self, peer: PeerId, family: Family, ids: &[u32]) {
        let Some(filter) = self.import_filter(peer) else {
            return;
        };
        // One modified set for each set and rule, however many prefixes use it.
        let mut made =
            hashbrown::HashMap::<(u32, u16), u32, foldhash::fast::RandomState>::default();
        let interface = self.peer(peer).and_then(|p| p.last.as_ref());
        let interface = interface.map(|info| info.interface.clone());
        let mut gone = 0;
        for &id in ids {
            for path in self.paths_of(peer.0, family, id) {
                let rib = &mut self.families[family.index()];
                let prefix = rib.table.prefix(id);
                let set = self.attrs.set(path.pre);
                let attrs = filter.needs_attrs().then(|| self.attrs.decode(path.pre));
                let facts = Facts {
                    attrs: attrs.as_ref(),
                    interface: interface.as_deref().unwrap_or_default(),
                };
                let rule = if set.looped.is_some() {
                    None
                } else {
                    filter.decide(prefix, self.attrs.kind(path.pre).into(), &facts)
                };
                let mut post = match rule {
                    None => NONE,
                    Some(Filter::PLAIN) => path.pre,
                    Some(rule) => *made.entry((path.pre, rule)).or_insert_with(|| {
                        apply::modified(&mut self.attrs, path.pre, &filter, rule)
                    }),
                };
                if path.age == Age::LONG_STALE {
                    let Some(marked) = long_lived(&mut self.attrs, path.pre, post) else {
                        let key = (path.source, path.path_id);
                        gone += u32::from(apply::take(rib, &mut self.attrs, id, key));
                        continue;
                    };
                    post = marked;
                }
                apply::put(rib, &mut self.attrs, id, Path { post, ..path });
            }
        }
        self.count(peer, family, |count| count - gone);
    }
}
