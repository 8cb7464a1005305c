//! Graceful restart (RFC 4724): stale routes of others, and our own deferred start.

use std::time::Instant;

use super::{
    Families, LongLivedPeer, PeerId, PeerRestart, Rib,
    chores::{Chore, Doomed},
    long_lived::{Grace, Then},
    table::{Age, Path},
};
use crate::prefix::Family;

/// Our own restart: nothing is decided until the peers have told us what they know.
#[derive(Debug)]
pub(super) struct Deferral {
    deadline: Instant,
    /// Peers and the families whose End-of-RIB is outstanding; `None` until the session is up.
    waiting: Vec<(PeerId, Option<Families>)>,
    /// What is known is being decided; peers and FIB are told when all of it is.
    over: bool,
}

impl Deferral {
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// When it ends at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.over).then_some(self.deadline)
    }
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
            self.deferral = Some(Deferral {
                deadline,
                waiting,
                over: false,
            });
        }
    }

    /// The peer cannot be reached: our own restart does not wait for it any longer.
    pub fn stop_waiting_for(&mut self, peer: PeerId) {
        self.restart_event(peer, RestartEvent::NotWaitedFor);
    }

    /// Whether routes are being selected: at once on a cold start, else at the end of the
    /// deferral. Until then stale routes in the kernel have to stay.
    pub const fn initial_sync_done(&self) -> bool {
        !self.is_silent()
    }

    /// Does what is due at `now`: stale routes go or become long-lived ones, our own deferral ends.
    pub fn handle_timeout(&mut self, now: Instant) {
        let all = (0u16..).zip(&self.peers);
        let due: Vec<(PeerId, Family, Grace)> = all
            .filter_map(|(id, peer)| Some((PeerId(id), peer.as_ref()?)))
            .flat_map(|(id, peer)| Family::ALL.map(|f| (id, f, peer.grace[f.index()])))
            .filter_map(|(id, family, grace)| Some((id, family, grace?)))
            .filter(|(_, _, grace)| grace.until <= now)
            .collect();
        for (peer, family, grace) in due {
            match grace.then {
                Then::LongLived(time) => self.begin_long_lived(peer, family, now + time),
                Then::Drop | Then::EndLongLived => {
                    self.purge_stale(peer, family);
                    self.end_grace(peer, family);
                }
            }
        }
        let deadline = self.deferral.as_ref().and_then(Deferral::deadline);
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.end_deferral();
        }
    }

    pub(super) fn restart_event(&mut self, peer: PeerId, event: RestartEvent) {
        let families = self.session(peer).map(|s| s.info.families);
        let Some(deferral) = self.deferral.as_mut().filter(|d| !d.over) else {
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
        if let Some(deferral) = &mut self.deferral {
            deferral.over = true;
        }
        self.settle_some(self.limits.portion);
    }

    /// All that the peer has said of a family becomes stale: it is gone, or says all of it again, and what
    /// it does not repeat goes. What it says from here on is fresh.
    pub(super) fn mark_stale(&mut self, peer: PeerId, family: Family) {
        let at = family.index();
        if self.peer(peer).is_some_and(|p| p.ages[at] >= Age::MOST) {
            self.make_one_age(peer, family);
        }
        if let Some(state) = self.peer_mut(peer) {
            if state.paths[at] == 0 {
                state.ages[at] = 0;
            }
            state.stale[at] = true;
            state.age[at] = state.age[at].next();
            state.ages[at] += 1;
        }
    }

    /// Whether the peer that a path comes from has yet to repeat it.
    pub(super) fn is_stale(&self, family: Family, path: &Path) -> bool {
        let peer = self.peer(PeerId(path.source));
        peer.is_some_and(|p| path.age.is_before(p.age[family.index()]))
    }

    /// Nothing is left of the ages of a peer before `first`.
    pub(super) fn ages_since(&mut self, peer: PeerId, family: Family, first: Age) {
        if let Some(state) = self.peer_mut(peer) {
            let at = family.index();
            state.ages[at] = first.until(state.age[at]);
        }
    }

    /// No more ages can be told apart: whatever is stale is of the same.
    fn make_one_age(&mut self, peer: PeerId, family: Family) {
        // But for what is about to go.
        self.finish_family(peer, family);
        let at = family.index();
        let Some(state) = self.peer_mut(peer) else {
            return;
        };
        state.ages[at] = 0;
        let age = state.age[at];
        let table = &mut self.families[at].table;
        for id in 0..table.id_bound() {
            let paths = table.paths_mut(id).iter_mut();
            let of_peer = paths.filter(|p| p.source == peer.0 && p.age != Age::LONG_STALE);
            of_peer.for_each(|path| path.age = age);
        }
    }

    /// Drops what is stale.
    pub(super) fn purge_stale(&mut self, peer: PeerId, family: Family) {
        let Some(state) = self.peer_mut(peer) else {
            return;
        };
        let fresh = state.age[family.index()];
        if std::mem::take(&mut state.stale[family.index()]) {
            self.begin(Some(peer), family, Chore::Drop(Doomed::Before(fresh)));
        }
    }

    /// The peer is back (RFC 4724, section 4.2, RFC 9494, section 4.2): stale routes of families
    /// that it did not keep forwarding go at once, the others wait for End-of-RIB.
    pub(super) fn keep_stale_until_eor(
        &mut self,
        peer: PeerId,
        families: Families,
        restart: Option<PeerRestart>,
        long_lived: Option<LongLivedPeer>,
        now: Instant,
    ) {
        let deadline = now + self.config.stale_time;
        for family in Family::ALL {
            let Some(grace) = self.peer(peer).and_then(|p| p.grace[family.index()]) else {
                continue;
            };
            let forwarding = if grace.is_long_lived() {
                long_lived.is_some_and(|l| l.forwarding.contains(family))
            } else {
                restart.is_some_and(|r| r.forwarding.contains(family))
            };
            if !families.contains(family) || !forwarding {
                self.purge_stale(peer, family);
                self.end_grace(peer, family);
            } else if !grace.is_long_lived()
                && let Some(state) = self.peer_mut(peer)
            {
                state.grace[family.index()] = Some(Grace::until(deadline));
            }
        }
    }
}
