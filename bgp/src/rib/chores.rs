//! What concerns a whole table is done in portions: nobody waits for a million routes to be
//! filtered anew, or to go with the peer that sent them.

use std::collections::VecDeque;

use super::{FamilyRib, PeerId, Rib, table::Age};
use crate::prefix::Family;

/// Something to be done about every path of a peer, or every prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chore {
    /// The paths of the peer go through its import filter once more.
    Import,
    /// The paths of the peer go.
    Drop(Doomed),
    /// The stale paths of the peer become long-lived stale ones.
    LongLived,
    /// The prefixes are decided again.
    Decide,
}

impl Chore {
    /// Whether all that `before` has to do is done by this one, begun later.
    fn covers(self, before: Self) -> bool {
        let stale = |chore| matches!(chore, Self::Drop(Doomed::Before(_)));
        self == before || stale(self) && stale(before)
    }
}

/// Which paths of a peer go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doomed {
    /// Every one.
    All,
    /// Those that it has not announced again in or after this age.
    Before(Age),
}

impl Doomed {
    pub(super) fn includes(self, age: Age) -> bool {
        match self {
            Self::All => true,
            Self::Before(fresh) => age.is_before(fresh),
        }
    }
}

/// A chore on its way through a table.
#[derive(Debug)]
struct Underway {
    /// The peer whose paths it is about; all of them if there is none.
    peer: Option<PeerId>,
    family: Family,
    chore: Chore,
    /// The id to look at next. Behind the last comes the first.
    next: u32,
    /// Ids below this are to be looked at: a younger one needs nothing.
    end: u32,
    /// How many of them are left.
    left: u32,
}

/// Ids looked at for one that there is something to do about.
const LOOKS: usize = 16;

/// Chores in the order in which they are done.
#[derive(Debug, Default)]
pub(super) struct Chores(VecDeque<Underway>);

impl Chores {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Rib {
    /// Decides for some of the prefixes that changed or, if there are none, does the next portion of
    /// what is to be done to whole tables. Returns whether more is left.
    ///
    /// Between two calls anything may happen, updates of the peer concerned included.
    pub fn work(&mut self) -> bool {
        let ordered = self.order_some();
        if self.settle_some(self.limits.portion) || ordered {
            return true;
        }
        if self.chores.is_empty() {
            return false;
        }
        self.portion(0);
        true
    }

    /// Whether prefixes that changed wait for [`Rib::work`] or [`Rib::settle`].
    pub fn is_undecided(&self) -> bool {
        let waits = |f: &FamilyRib| !f.changed.list.is_empty();
        let deferred = self.deferral.as_ref().is_some_and(|d| !d.is_over());
        !deferred && self.families.iter().any(waits)
    }

    /// Begins a chore, and does the first portion if no other is before it. One that is under way
    /// starts over from where it is, so that starting over again and again does not keep it from
    /// any part of the table; what is to go by then is more than it was.
    pub(super) fn begin(&mut self, peer: Option<PeerId>, family: Family, chore: Chore) {
        if peer.is_some_and(|peer| self.prefix_count(peer, family) == 0) {
            return;
        }
        let end = self.families[family.index()].table.id_bound();
        let is_same =
            |u: &&mut Underway| (u.peer, u.family) == (peer, family) && chore.covers(u.chore);
        if let Some(known) = self.chores.0.iter_mut().find(is_same) {
            (known.chore, known.end, known.left) = (chore, end, end);
            return;
        }
        self.chores.0.push_back(Underway {
            peer,
            family,
            chore,
            next: 0,
            end,
            left: end,
        });
        if self.chores.0.len() == 1 {
            self.portion(0);
        }
    }

    /// Does no more of what is to be done about the paths of a peer: they all go.
    pub(super) fn cancel(&mut self, peer: PeerId, family: Family) {
        let of_peer = |u: &Underway| (u.peer, u.family) == (Some(peer), family);
        self.chores.0.retain(|under| !of_peer(under));
    }

    /// Does at once all that is left to be done about the paths of a peer.
    pub(super) fn finish(&mut self, peer: PeerId) {
        for family in Family::ALL {
            self.finish_family(peer, family);
        }
    }

    /// The same for one family.
    pub(super) fn finish_family(&mut self, peer: PeerId, family: Family) {
        let of_peer = |u: &Underway| (u.peer, u.family) == (Some(peer), family);
        while let Some(at) = self.chores.0.iter().position(of_peer) {
            self.portion(at);
        }
    }

    /// One portion of the chore at this place in the queue.
    fn portion(&mut self, at: usize) {
        let Some(mut under) = self.chores.0.remove(at) else {
            return;
        };
        let ids = self.next_ids(&mut under);
        let Underway { peer, family, .. } = under;
        match (peer, under.chore) {
            (_, Chore::Decide) => {
                let changed = &mut self.families[family.index()].changed;
                ids.into_iter().for_each(|id| changed.insert(id));
            }
            (Some(peer), Chore::Import) => self.import_again(peer, family, &ids),
            (Some(peer), Chore::Drop(doomed)) => self.drop_paths(peer, family, &ids, doomed),
            (Some(peer), Chore::LongLived) => self.make_long_lived(peer, family, &ids),
            (None, _) => {}
        }
        let none = peer.is_some_and(|peer| self.prefix_count(peer, family) == 0);
        if under.left > 0 && !none {
            self.chores.0.insert(at, under);
        } else if let Some(peer) = peer {
            if let Chore::Drop(Doomed::Before(fresh)) = under.chore {
                self.ages_since(peer, family, fresh);
            }
            self.forget(peer);
        }
    }

    /// Has the id of a removed peer reused once nothing of it is left.
    pub(super) fn forget(&mut self, peer: PeerId) {
        let busy = self.chores.0.iter().any(|under| under.peer == Some(peer));
        if let Some(place) = self.peers.get_mut(usize::from(peer.0))
            && place.take_if(|state| state.removed && !busy).is_some()
        {
            self.removed_peers.push(peer.0);
        }
    }

    /// The ids that the next portion is about.
    fn next_ids(&self, under: &mut Underway) -> Vec<u32> {
        let table = &self.families[under.family.index()].table;
        let most = self.limits.portion;
        let mut ids = Vec::with_capacity(most.min(under.left as usize));
        let mut looks = most.saturating_mul(LOOKS);
        while under.left > 0 && looks > 0 && ids.len() < most {
            let id = under.next;
            under.next = if id + 1 < under.end { id + 1 } else { 0 };
            under.left -= 1;
            looks -= 1;
            let concerned = match under.peer {
                Some(peer) => table.paths(id).iter().any(|p| p.source == peer.0),
                None => table.is_used(id),
            };
            if concerned {
                ids.push(id);
            }
        }
        ids
    }
}
