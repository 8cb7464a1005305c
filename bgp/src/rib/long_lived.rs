//! Long-lived graceful restart (RFC 9494): what is kept of a peer beyond its restart time.

use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::{
    PeerId, Rib, apply,
    attr_store::AttrStore,
    chores::Chore,
    export::operate,
    index::NONE,
    table::{Age, Path},
};
use crate::{policy::Operation, prefix::Family, wire::attrs::community::LLGR_STALE};

/// How long the stale routes of a family stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grace {
    pub(super) until: Instant,
    pub(super) then: Then,
}

/// What follows when the time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// They go.
    Drop,
    /// They stay so long as long-lived stale ones.
    LongLived(Duration),
    /// That was it: they go.
    EndLongLived,
}

impl Grace {
    /// Grace that ends at `until`.
    pub(super) const fn until(until: Instant) -> Self {
        let then = Then::Drop;
        Self { until, then }
    }

    /// Whether the long-lived stale time runs, which nothing but its end or an End-of-RIB stops.
    pub(super) fn is_long_lived(self) -> bool {
        self.then == Then::EndLongLived
    }
}

impl Rib {
    /// The restart time of the peer is over (RFC 9494, section 4.2): what is stale is marked and
    /// stays until `until`, unless it asks not to.
    pub(super) fn begin_long_lived(&mut self, peer: PeerId, family: Family, until: Instant) {
        self.begin(Some(peer), family, Chore::LongLived);
        if let Some(state) = self.peer_mut(peer) {
            let then = Then::EndLongLived;
            state.grace[family.index()] = Some(Grace { until, then });
        }
    }

    /// Marks the stale paths of the peer for these prefixes.
    pub(super) fn make_long_lived(&mut self, peer: PeerId, family: Family, ids: &[u32]) {
        // One marked set for each pair of sets, however many prefixes use it.
        let mut made = HashMap::<(u32, u32), Option<u32>, foldhash::fast::RandomState>::default();
        let mut gone = 0;
        for &id in ids {
            let mut paths = self.paths_of(peer.0, family, id);
            paths.retain(|path| self.is_stale(family, path));
            let rib = &mut self.families[family.index()];
            for path in paths {
                let (pre, post) = (path.pre, path.post);
                let marked = made.entry((pre, post));
                let marked = marked.or_insert_with(|| long_lived(&mut self.attrs, pre, post));
                if let Some(post) = *marked {
                    let age = Age::LONG_STALE;
                    apply::put(rib, &mut self.attrs, id, Path { age, post, ..path });
                } else {
                    let key = (path.source, path.path_id);
                    gone += u32::from(apply::take(rib, &mut self.attrs, id, key));
                }
            }
        }
        self.count(peer, family, |count| count - gone);
    }
}

/// The set to go on with, marked; `None` if the route must not be kept.
pub(super) fn long_lived(attrs: &mut AttrStore, pre: u32, post: u32) -> Option<u32> {
    if attrs.set(pre).no_long_lived {
        return None;
    }
    if post == NONE || attrs.set(post).long_lived_stale {
        return Some(post);
    }
    if attrs.set(post).no_long_lived {
        return None;
    }
    let mut decoded = attrs.decode(post);
    operate(&mut decoded, &[Operation::AddCommunity(LLGR_STALE)]);
    let (class, next_hop) = (attrs.class_of(post), attrs.set(post).next_hop);
    Some(attrs.intern(class, &decoded, next_hop))
}
