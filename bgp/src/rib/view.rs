//! Views for operators: what is known, what is selected and why, what is told.

use std::{net::IpAddr, ops::Range};

use smallvec::SmallVec;

use super::{
    DecisionStep, Loop, PeerId, Rib,
    egress::told_id,
    export::Export,
    group::GroupKey,
    index::NONE,
    next_hops::FibSet,
    settle::Explained,
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

/// What a path lost by: its own value and the one that was preferred, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Of the path.
    pub this: String,
    /// Of the one that was preferred.
    pub preferred: String,
}

/// A path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathView {
    /// Who sent it.
    pub source: RouteSource,
    /// The identifier that it was sent with, where the session has them (RFC 7911).
    pub path_id: Option<u32>,
    /// The next hop, `None` for what we originate.
    pub next_hop: Option<NextHop>,
    /// Attributes after import; as received if import refused it.
    pub attrs: PathAttrs,
    /// What became of it.
    pub state: PathState,
    /// The values that decided, for [`PathState::Lost`].
    pub compared: Option<Compared>,
    /// Not the best, but traffic goes its way as well (multipath).
    pub multipath: bool,
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
    /// The identifier that it is told with, where the session has them (RFC 7911).
    pub path_id: Option<u32>,
    /// Next hop told.
    pub next_hop: NextHop,
    /// Attributes told.
    pub attrs: PathAttrs,
}

/// A route as a peer sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRoute {
    /// Destination.
    pub prefix: Prefix,
    /// The identifier that it was sent with, where the session has them (RFC 7911).
    pub path_id: Option<u32>,
    /// Next hop as received.
    pub next_hop: Option<NextHop>,
    /// Attributes as received.
    pub attrs: PathAttrs,
    /// Kept from a session that was lost.
    pub stale: bool,
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
    /// Octets encoded that some peer has yet to take.
    pub egress_bytes: usize,
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
        let used = self.next_hops.set(table.dest(id).fib);
        let mut views: Vec<_> = paths
            .iter()
            .zip(self.explain(paths))
            .map(|(path, explained)| {
                let mut view = self.path_view(prefix.family(), path, explained);
                let hop = view.next_hop.map(NextHop::addr);
                view.multipath = matches!(view.state, PathState::Lost(step) if step > DecisionStep::IgpCost)
                    && used.iter().any(|h| Some(h.addr) == hop);
                view
            })
            .collect();
        views.sort_by_key(|view| (view.state != PathState::Best, view.source, view.path_id));
        views
    }

    /// The most specific prefix with a path that `addr` is in.
    pub fn longest_match(&self, addr: IpAddr) -> Option<Prefix> {
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let table = |prefix: &Prefix| &self.families[prefix.family().index()].table;
        (0..=most)
            .rev()
            .filter_map(|len| Prefix::new(addr, len))
            .find(|prefix| {
                let table = table(prefix);
                let id = table.find_prefix(*prefix);
                id.is_some_and(|id| !table.paths(id).is_empty())
            })
    }

    /// The identifier that a path was sent with, if its session has them.
    fn path_id(&self, family: Family, path: &Path) -> Option<u32> {
        let last = self.peer(PeerId(path.source))?.last.as_ref()?;
        last.add_path
            .receive
            .contains(family)
            .then_some(path.path_id)
    }

    fn path_view(&self, family: Family, path: &Path, explained: Explained) -> PathView {
        let looped = self.attrs.set(path.pre).looped;
        let state = match (explained.eligible, &explained.lost, looped) {
            (true, None, _) => PathState::Best,
            (true, Some((step, _)), _) => PathState::Lost(*step),
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
            path_id: self.path_id(family, path),
            next_hop: self.next_hops.wire(self.attrs.set(set).next_hop),
            attrs: self.attrs.decode(set),
            state,
            compared: explained.lost.map(|(_, compared)| compared),
            multipath: false,
            stale: self.is_stale(family, path),
        }
    }

    /// Prefixes of a family have places below this; the views of many routes go by place, so that
    /// they can be taken piece by piece.
    pub fn places(&self, family: Family) -> u32 {
        self.families[family.index()].table.id_bound()
    }

    /// The selected routes of a family at these places, in no order.
    pub fn best(&self, family: Family, places: Range<u32>) -> impl Iterator<Item = BestRoute> + '_ {
        let table = &self.families[family.index()].table;
        table
            .ids_in(places)
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

    /// What a peer sent in a family, before import, at these places, in no order. [`PathView::state`] is only told
    /// by [`Rib::lookup`].
    pub fn adj_in(
        &self,
        peer: PeerId,
        family: Family,
        places: Range<u32>,
    ) -> impl Iterator<Item = ReceivedRoute> + '_ {
        let table = &self.families[family.index()].table;
        table.ids_in(places).flat_map(move |id| {
            let of_peer = move |path: &&Path| path.source == peer.0;
            let paths = table.paths(id).iter().filter(of_peer);
            paths.map(move |path| ReceivedRoute {
                prefix: table.prefix(id),
                path_id: self.path_id(family, path),
                next_hop: self.next_hops.wire(self.attrs.set(path.pre).next_hop),
                attrs: self.attrs.decode(path.pre),
                stale: self.is_stale(family, path),
            })
        })
    }

    /// Where a prefix is among the places of its family.
    pub fn place(&self, prefix: Prefix) -> Option<u32> {
        self.families[prefix.family().index()]
            .table
            .find_prefix(prefix)
    }

    /// What a peer is told in a family once all that is pending is sent, at these places, in no
    /// order.
    pub fn adj_out(
        &self,
        peer: PeerId,
        family: Family,
        places: Range<u32>,
    ) -> impl Iterator<Item = AdvertisedRoute> + '_ {
        let table = &self.families[family.index()].table;
        let key = self.key_of(peer, family);
        let exports = move |id| -> SmallVec<[Export; 4]> {
            match key {
                None => SmallVec::new(),
                Some(key) => match key.add_path {
                    None => self.export(key, id).into_iter().collect(),
                    Some(limit) => self.exports(key, id, limit),
                },
            }
        };
        let routes = table.ids_in(places).flat_map(move |id| {
            let prefix = table.prefix(id);
            exports(id).into_iter().map(move |export| (prefix, export))
        });
        routes
            .filter(move |(_, export)| export.source != peer.0)
            .filter_map(move |(prefix, export)| self.advertised(key?, prefix, export))
    }

    fn advertised(
        &self,
        key: &GroupKey,
        prefix: Prefix,
        export: Export,
    ) -> Option<AdvertisedRoute> {
        let rendered = self.render(key, export)?;
        let ctx = AttrContext {
            four_octet_as: key.four_octet_as,
            peer: PeerKind::Ibgp,
        };
        let attrs = PathAttrs::decode(&rendered.attrs, &ctx).attrs;
        let next_hop = rendered.mp_next_hop.or(attrs.next_hop.map(NextHop::V4))?;
        Some(AdvertisedRoute {
            prefix,
            path_id: key.add_path.map(|_| told_id(export.number)),
            next_hop,
            attrs,
        })
    }

    /// How many routes a peer is told in a family, as far as that is encoded.
    pub fn advertised_count(&self, peer: PeerId, family: Family) -> usize {
        let group = self.session(peer).and_then(|s| s.groups[family.index()]);
        let group = group.and_then(|at| self.groups.get(at)?.as_ref());
        group.map_or(0, |group| group.held.told_count(peer.0))
    }

    fn key_of(&self, peer: PeerId, family: Family) -> Option<&GroupKey> {
        let group = self.session(peer)?.groups[family.index()]?;
        Some(&self.groups.get(group)?.as_ref()?.key)
    }

    /// How much there is.
    pub fn size(&self) -> RibSize {
        RibSize {
            prefixes: self.families.iter().map(|f| f.table.len()).sum(),
            attribute_sets: self.attrs.in_use(),
            groups: self.groups.iter().flatten().count(),
            egress_bytes: self.groups.iter().flatten().map(|g| g.log_bytes()).sum(),
            heap_bytes: self
                .families
                .iter()
                .map(|f| f.table.heap_bytes())
                .sum::<usize>()
                + self.attrs.heap_bytes(),
        }
    }
}
