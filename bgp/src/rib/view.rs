//! Views for operators: what is known, what is selected and why, what is told.

use super::{
    DecisionStep, Loop, PeerId, Rib,
    index::NONE,
    next_hops::FibSet,
    table::{LOCAL, Path, Source},
};
use crate::{
    prefix::{Family, Prefix},
    wire::{AttrContext, NextHop, PathAttrs, PeerKind},
};

/// Who a route came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteSource {
    /// Originated here.
    Local,
    /// Learnt from a peer.
    Peer(PeerId),
}

impl From<Source> for RouteSource {
    fn from(source: Source) -> Self {
        if source == LOCAL {
            Self::Local
        } else {
            Self::Peer(PeerId(source))
        }
    }
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathState {
    /// It is the selected one.
    Best,
    /// Another was preferred, at this step.
    Lost(DecisionStep),
    /// It has come round to us.
    Looped(Loop),
    /// The import filter refused it.
    Filtered,
    /// Its next hop is unreachable, our own or no host's address.
    BadNextHop,
}

/// A path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathView {
    /// Who sent it.
    pub source: RouteSource,
    /// The next hop, `None` for what we originate.
    pub next_hop: Option<NextHop>,
    /// Attributes after import; as received if import refused it.
    pub attrs: PathAttrs,
    /// What became of it.
    pub state: PathState,
    /// Kept from a lost session.
    pub stale: bool,
}

/// A selected route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BestRoute {
    /// Destination.
    pub prefix: Prefix,
    /// Who it came from.
    pub source: RouteSource,
    /// Attributes after import.
    pub attrs: PathAttrs,
    /// What the FIB gets; empty for what we originate.
    pub next_hops: FibSet,
}

/// A route as a peer is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertisedRoute {
    /// Destination.
    pub prefix: Prefix,
    /// Next hop told.
    pub next_hop: NextHop,
    /// Attributes told.
    pub attrs: PathAttrs,
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RibSize {
    /// Prefixes with a path, all families.
    pub prefixes: usize,
    /// Distinct attribute sets.
    pub attribute_sets: usize,
    /// Egress groups.
    pub groups: usize,
    /// Octets of heap in tables and attribute sets.
    pub heap_bytes: usize,
}

impl Rib {
    /// Every path of `prefix`, the best first, with what became of each. As of the last
    /// [`Rib::settle`] if nothing came in since.
    pub fn lookup(&self, prefix: Prefix) -> Vec<PathView> {
        let table = &self.families[prefix.family().index()].table;
        let Some(id) = table.find_prefix(prefix) else {
            return Vec::new();
        };
        let paths = table.paths(id);
        let mut views: Vec<_> = paths
            .iter()
            .zip(self.explain(paths))
            .map(|(path, (eligible, lost))| self.path_view(path, eligible, lost))
            .collect();
        views.sort_by_key(|view| (view.state != PathState::Best, view.source));
        views
    }

    fn path_view(&self, path: &Path, eligible: bool, lost: Option<DecisionStep>) -> PathView {
        let looped = self.attrs.set(path.pre).looped;
        let state = match (eligible, lost, looped) {
            (true, None, _) => PathState::Best,
            (true, Some(step), _) => PathState::Lost(step),
            (false, _, Some(looped)) => PathState::Looped(looped),
            (false, ..) if path.post == NONE => PathState::Filtered,
            (false, ..) => PathState::BadNextHop,
        };
        let set = if path.post == NONE {
            path.pre
        } else {
            path.post
        };
        PathView {
            source: path.source.into(),
            next_hop: self.next_hops.wire(self.attrs.set(set).next_hop),
            attrs: self.attrs.decode(set),
            state,
            stale: path.stale,
        }
    }

    /// The selected routes of a family, in no order.
    pub fn best(&self, family: Family) -> impl Iterator<Item = BestRoute> + '_ {
        let table = &self.families[family.index()].table;
        table
            .ids()
            .filter(|&id| table.dest(id).best != NONE)
            .map(|id| {
                let dest = table.dest(id);
                BestRoute {
                    prefix: table.prefix(id),
                    source: dest.best_source.into(),
                    attrs: self.attrs.decode(dest.best),
                    next_hops: self.next_hops.set(dest.fib),
                }
            })
    }

    /// What a peer sent in a family, before import, in no order. [`PathView::state`] is only told
    /// by [`Rib::lookup`].
    pub fn adj_in(
        &self,
        peer: PeerId,
        family: Family,
    ) -> impl Iterator<Item = (Prefix, PathAttrs, Option<NextHop>)> + '_ {
        let table = &self.families[family.index()].table;
        table.ids().filter_map(move |id| {
            let path = table.paths(id).iter().find(|p| p.source == peer.0)?;
            let next_hop = self.next_hops.wire(self.attrs.set(path.pre).next_hop);
            Some((table.prefix(id), self.attrs.decode(path.pre), next_hop))
        })
    }

    /// What a peer is told in a family once all that is pending is sent, in no order.
    pub fn adj_out(
        &self,
        peer: PeerId,
        family: Family,
    ) -> impl Iterator<Item = AdvertisedRoute> + '_ {
        let table = &self.families[family.index()].table;
        let key = self
            .session(peer)
            .and_then(|s| Some(&self.groups.get(s.groups[family.index()]?)?.as_ref()?.key));
        table.ids().filter_map(move |id| {
            let key = key?;
            let export = self.export(key, id).filter(|e| e.source != peer.0)?;
            let rendered = self.render(key, export)?;
            let ctx = AttrContext {
                four_octet_as: key.four_octet_as,
                peer: PeerKind::Ibgp,
            };
            let attrs = PathAttrs::decode(&rendered.attrs, &ctx).attrs;
            let next_hop = rendered.mp_next_hop.or(attrs.next_hop.map(NextHop::V4))?;
            Some(AdvertisedRoute {
                prefix: table.prefix(id),
                next_hop,
                attrs,
            })
        })
    }

    /// How much there is.
    pub fn size(&self) -> RibSize {
        RibSize {
            prefixes: self.families.iter().map(|f| f.table.len()).sum(),
            attribute_sets: self.attrs.len(),
            groups: self.groups.iter().flatten().count(),
            heap_bytes: self
                .families
                .iter()
                .map(|f| f.table.heap_bytes())
                .sum::<usize>()
                + self.attrs.heap_bytes(),
        }
    }
}
