//! Graceful restart (RFC 4724): stale routes of others, and our own deferred start.

use std::time::Instant;

use super::{Families, PeerId, PeerRestart, Rib};
use crate::prefix::Family;

/// Our own restart: nothing is decided until the peers have told us what they know.
#[derive(Debug)]
pub(super) struct Deferral {
    pub(super) deadline: Instant,
    /// Peers and the families whose End-of-RIB is outstanding; `None` until the session is up.
    waiting: Vec<(PeerId, Option<Families>)>,
}

/// What may end the wait for a peer.
#[derive(Debug, Clone, Copy)]
pub(super) enum RestartEvent {
    /// It has sent all routes of a family.
    EndOfRib(Family),
    /// It restarted as well, or sends no End-of-RIB (RFC 4724, section 4.1).
    NotWaitedFor,
    /// It is no longer configured.
    Gone,
}

impl Rib {
    /// We have restarted and forwarding goes on: until each of `expected` has sent End-of-RIB for
    /// all its families, or `deadline`, nothing is selected, put in the FIB or told to anyone
    /// (RFC 4724, section 4.1). Peers without graceful restart are not waited for once up.
    pub fn begin_restart(&mut self, expected: &[PeerId], deadline: Instant) {
        if !expected.is_empty() {
            let waiting = expected.iter().map(|&peer| (peer, None)).collect();
            self.deferral = Some(Deferral { deadline, waiting });
        }
    }

    /// The peer cannot be reached: our own restart does not wait for it any longer.
    pub fn stop_waiting_for(&mut self, peer: PeerId) {
        self.restart_event(peer, RestartEvent::NotWaitedFor);
    }

    /// Whether routes are being selected: at once on a cold start, else at the end of the
    /// deferral. Until then stale routes in the kernel have to stay.
    pub const fn initial_sync_done(&self) -> bool {
        self.deferral.is_none()
    }

    /// Does what is due at `now`: stale routes go, our own deferral ends.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let peers: Vec<PeerId> = (0u16..)
            .zip(&self.peers)
            .filter(|(_, peer)| peer.as_ref().is_some_and(|p| due(p.stale_until)))
            .map(|(id, _)| PeerId(id))
            .collect();
        for peer in peers {
            for family in Family::ALL {
                self.purge_stale(peer, family);
            }
            if let Some(state) = self.peer_mut(peer) {
                state.stale_until = None;
            }
        }
        if due(self.deferral.as_ref().map(|d| d.deadline)) {
            self.end_deferral();
        }
    }

    pub(super) fn restart_event(&mut self, peer: PeerId, event: RestartEvent) {
        let families = self.session(peer).map(|s| s.info.families);
        let Some(deferral) = &mut self.deferral else {
            return;
        };
        deferral.waiting.retain_mut(|(waiting, outstanding)| {
            if *waiting != peer {
                return true;
            }
            let RestartEvent::EndOfRib(family) = event else {
                return false;
            };
            let before = outstanding.or(families).unwrap_or_default();
            let left: Families = before.iter().filter(|f| *f != family).collect();
            *outstanding = Some(left);
            left != Families::NONE
        });
        if deferral.waiting.is_empty() {
            self.end_deferral();
        }
    }

    fn end_deferral(&mut self) {
        self.deferral = None;
        self.settle();
    }

    /// Marks all routes of a family stale: they go unless they are announced again.
    pub(super) fn mark_stale(&mut self, peer: PeerId, family: Family) {
        for id in self.ids_of(peer.0, family) {
            let paths = self.families[family.index()].table.paths_mut(id);
            if let Some(path) = paths.iter_mut().find(|p| p.source == peer.0) {
                path.stale = true;
            }
        }
    }

    /// Drops what is stale.
    pub(super) fn purge_stale(&mut self, peer: PeerId, family: Family) {
        self.purge(peer, family, |stale| stale);
    }

    /// The peer is back (RFC 4724, section 4.2): stale routes of families that it did not keep
    /// forwarding go at once, the others wait for End-of-RIB.
    pub(super) fn keep_stale_until_eor(
        &mut self,
        peer: PeerId,
        families: Families,
        restart: Option<PeerRestart>,
        now: Instant,
    ) {
        let deadline = now + self.config.stale_time;
        let Some(state) = self.peer_mut(peer) else {
            return;
        };
        if state.stale_until.is_none() {
            return;
        }
        state.stale_until = Some(deadline);
        for family in Family::ALL {
            let forwarding = restart.is_some_and(|r| r.forwarding.contains(family));
            if !families.contains(family) || !forwarding {
                self.purge_stale(peer, family);
            }
        }
    }
}
