//! Step two: one decision for each prefix that changed.

use smallvec::SmallVec;

use super::{
    Compared, FamilyRib, FibNextHop, PeerId, Rib,
    attr_store::Kind,
    decision::{self, Candidate, Candidates, DecisionStep},
    index::NONE,
    table::{LOCAL, Path, Source},
};
use crate::prefix::{Family, Prefix};

/// A route for the FIB to take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FibChange {
    /// Its destination.
    pub prefix: Prefix,
    /// Its next hops in order; none to remove it. Several share the traffic.
    pub next_hops: SmallVec<[FibNextHop; 2]>,
}

/// A prefix without paths, whose id something may still refer to.
#[derive(Debug)]
pub(super) struct Dying {
    id: u32,
    /// The emission after which no new reference was made; [`REFERRED_TO`] while groups do.
    since: u64,
}

/// Of a prefix that is dying: not yet.
const REFERRED_TO: u64 = u64::MAX;

/// Dying prefixes looked at in a turn that changes nothing.
const LOOKS: usize = 256;

/// The outcome for one prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Selection {
    set: u32,
    source: Source,
    fib: u32,
}

/// What the decision made of a path.
#[derive(Debug, Clone, Default)]
pub(super) struct Explained {
    pub(super) eligible: bool,
    /// The step at which another was preferred.
    pub(super) lost: Option<(DecisionStep, Compared)>,
}

const NOTHING: Selection = Selection {
    set: NONE,
    source: LOCAL,
    fib: NONE,
};

impl Rib {
    /// Decides for every prefix that changed since the last call, and queues what follows for the
    /// FIB and the peers. Does nothing while our own restart is deferred.
    pub fn settle(&mut self) {
        self.settle_some(usize::MAX);
    }

    /// The same for up to `most` of them; `true` if more are left.
    pub(super) fn settle_some(&mut self, most: usize) -> bool {
        if self.deferral.as_ref().is_some_and(|d| !d.is_over()) {
            return false;
        }
        let mut left = most;
        for family in Family::ALL {
            let changed = self.families[family.index()].changed.take_some(left);
            left -= changed.len();
            if !changed.is_empty() {
                self.settle_family(family, &changed);
            }
            self.bury(family, changed.len());
            self.families[family.index()].changed.recycle(changed);
        }
        if self.families.iter().any(|f| !f.changed.list.is_empty()) {
            return true;
        }
        // Until then some prefix may still have a set, or a peer, selected that is gone.
        self.attrs.sweep();
        self.free_peers.append(&mut self.removed_peers);
        self.deferral = None;
        self.compare_with_before();
        false
    }

    fn settle_family(&mut self, family: Family, changed: &[u32]) {
        let mut moved = Vec::new();
        for &id in changed {
            let now = self.select(family, id);
            let rib = &mut self.families[family.index()];
            let dest = rib.table.dest_mut(id);
            if (dest.best, dest.best_source) != (now.set, now.source) {
                (dest.best, dest.best_source) = (now.set, now.source);
                moved.push(id);
            }
            if dest.fib != now.fib {
                dest.fib = now.fib;
                rib.fib_changed.insert(id);
            }
            if rib.table.paths(id).is_empty() && rib.is_dying.insert(id) {
                let since = REFERRED_TO;
                rib.dying.push_back(Dying { id, since });
            }
        }
        for group in self
            .groups
            .iter_mut()
            .flatten()
            .filter(|g| g.key.family == family)
        {
            // Any path may be one that is told, not only the selected one.
            let news = if group.key.add_path.is_some() {
                changed
            } else {
                &moved
            };
            news.iter().for_each(|&id| group.queue.push(id));
        }
    }

    fn select(&mut self, family: Family, id: u32) -> Selection {
        let paths = self.families[family.index()].table.paths(id);
        if let [path] = paths {
            return self.only(*path);
        }
        let mut equal = self.candidates(paths);
        if equal.is_empty() {
            return NOTHING;
        }
        decision::equal_routes(&mut equal, |_, _| {});
        let best = paths[decision::best(&equal, |_, _| {}).at];
        let mut hops: SmallVec<[u32; 8]> = SmallVec::new();
        if self.config.fib && best.source != LOCAL {
            // Which ones a limit leaves out must not depend on the order of arrival.
            equal.sort_unstable_by_key(|c| {
                (c.router_id, c.cluster_len, c.peer_addr, c.path_id, c.at)
            });
            let relax = self.config.multipath.as_path_relax;
            hops.push(self.attrs.set(best.post).next_hop);
            for path in equal.iter().map(|c| &paths[c.at]) {
                let hop = self.attrs.set(path.post).next_hop;
                if hops.len() < self.config.multipath.max_paths
                    && !hops.contains(&hop)
                    && (relax || self.attrs.same_as_path(path.post, best.post))
                {
                    hops.push(hop);
                }
            }
        }
        let fib = self.next_hops.intern_set(&hops);
        Selection {
            set: best.post,
            source: best.source,
            fib,
        }
    }

    /// The common case: nothing to compare.
    fn only(&self, path: Path) -> Selection {
        if path.post == NONE {
            return NOTHING;
        }
        let hop = self.attrs.set(path.post).next_hop;
        if path.source != LOCAL && self.next_hops.cost(hop).is_none() {
            return NOTHING;
        }
        let fib = if self.config.fib { hop } else { NONE };
        Selection {
            set: path.post,
            source: path.source,
            fib,
        }
    }

    /// The eligible ones of `paths`.
    pub(super) fn candidates(&self, paths: &[Path]) -> Candidates {
        let candidate = |(at, path): (usize, &Path)| self.candidate(at, path);
        paths.iter().enumerate().filter_map(candidate).collect()
    }

    fn candidate(&self, at: usize, path: &Path) -> Option<Candidate> {
        if path.post == NONE {
            return None;
        }
        let set = self.attrs.set(path.post);
        let igp_cost = match path.source {
            LOCAL => 0,
            _ => self.next_hops.cost(set.next_hop)?,
        };
        let last = self.peer(PeerId(path.source)).and_then(|p| p.last.as_ref());
        let router_id = last.map_or(self.config.router_id, |info| info.router_id);
        Some(Candidate {
            at,
            rank: set.rank,
            neighbour_as: set.neighbour_as,
            med: set.med,
            ebgp: self.attrs.kind(path.post) == Kind::Ebgp,
            igp_cost,
            router_id: if set.originator != 0 {
                set.originator
            } else {
                router_id.into()
            },
            cluster_len: set.cluster_len,
            peer_addr: last.map_or(self.config.router_id.into(), |info| info.peer_addr),
            path_id: path.path_id,
        })
    }

    /// For each of `paths`, whether it took part in the decision and where it lost.
    pub(super) fn explain(&self, paths: &[Path]) -> Vec<Explained> {
        let all = self.candidates(paths);
        let mut outcome = vec![Explained::default(); paths.len()];
        all.iter().for_each(|c| outcome[c.at].eligible = true);
        if all.is_empty() {
            return outcome;
        }
        let mut lost = Vec::new();
        let mut equal = all.clone();
        decision::equal_routes(&mut equal, |at, step| lost.push((at, step)));
        let best = decision::best(&equal, |at, step| lost.push((at, step)));
        for (at, step) in lost {
            if let Some(this) = all.iter().find(|c| c.at == at) {
                outcome[at].lost = Some((step, decision::compare(step, this, &best, &all)));
            }
        }
        outcome
    }

    /// Appends the routes that changed since the last call; the last state only.
    pub fn poll_fib(&mut self, changes: &mut Vec<FibChange>) {
        self.poll_fib_some(changes, usize::MAX);
    }

    /// The same, up to `most` of them; `true` if more are left.
    pub fn poll_fib_some(&mut self, changes: &mut Vec<FibChange>, most: usize) -> bool {
        let mut left = most;
        for rib in &mut self.families {
            let taken = rib.fib_changed.take_some(left);
            left -= taken.len();
            changes.extend(taken.into_iter().map(|id| FibChange {
                prefix: rib.table.prefix(id),
                next_hops: self.next_hops.set(rib.table.dest(id).fib),
            }));
        }
        let waits = |rib: &FamilyRib| !rib.fib_changed.list.is_empty();
        self.families.iter().any(waits)
    }

    /// Forgets the changes for the FIB: nobody wants them.
    pub fn discard_fib(&mut self) {
        for rib in &mut self.families {
            let changes = rib.fib_changed.take();
            rib.fib_changed.recycle(changes);
        }
    }

    /// Gives back ids that nothing refers to any more: no path, no group that holds or queues the
    /// prefix, no unread log that names it, no decision to come. Looks at so many as `changed` prefixes can make up for,
    /// for as long as a peer reads nothing they may be a whole table.
    fn bury(&mut self, family: Family, changed: usize) {
        let rib = &mut self.families[family.index()];
        if rib.dying.is_empty() {
            return;
        }
        let groups = || {
            self.groups
                .iter()
                .flatten()
                .filter(|g| g.key.family == family)
        };
        let unread = groups()
            .filter_map(|g| g.oldest_unread())
            .min()
            .unwrap_or(u64::MAX);
        let emissions = self.emissions;
        let (table, is_dying) = (&mut rib.table, &mut rib.is_dying);
        let waits = |id| rib.fib_changed.bits.contains(id) || rib.changed.bits.contains(id);
        let looks = rib.dying.len().min(4 * changed + LOOKS);
        for _ in 0..looks {
            let Some(mut dying) = rib.dying.pop_front() else {
                break;
            };
            let id = dying.id;
            if !table.paths(id).is_empty() {
                is_dying.remove(id);
                continue;
            }
            if waits(id) || groups().any(|g| g.refers_to(id)) {
                dying.since = REFERRED_TO;
            } else if dying.since == REFERRED_TO {
                dying.since = emissions;
            }
            if dying.since == REFERRED_TO || unread <= dying.since {
                rib.dying.push_back(dying);
                continue;
            }
            is_dying.remove(id);
            table.release(id);
        }
        // All of a full table may have been withdrawn at once.
        if rib.dying.capacity() > 4 * rib.dying.len() + 4096 {
            rib.dying.shrink_to_fit();
        }
    }
}
