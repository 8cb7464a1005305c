//! Answers to queries.

use std::ops::Range;

use margay_bgp::{
    prefix::{Family, Prefix},
    rib::{Loop, PathState, Rib, RouteSource as RibSource},
};

use crate::{
    driver::{core::Peers, peer::Peer},
    view::{RouteCursor, RoutePage, RouteQuery, RouteSource, RouteView, next_hop_addrs},
};

/// Places to look at for one page: a millisecond or so, which no keepalive minds.
const PAGE: u32 = 4096;

/// The routes that `query` asks for, from `cursor` on, by prefix.
pub(super) fn page(query: RouteQuery, cursor: RouteCursor, rib: &Rib, peers: &Peers) -> RoutePage {
    let family = cursor.family;
    let end = cursor.place.saturating_add(PAGE);
    let places = cursor.place..end;
    let mut routes = match query {
        RouteQuery::Best => best(family, places, rib, peers),
        RouteQuery::Received(key) => match peers.get(&key) {
            Some(peer) => rib
                .adj_in(peer.rib, family, places)
                .map(|route| RouteView {
                    source: Some(RouteSource::Peer(key)),
                    path_id: route.path_id,
                    next_hops: next_hop_addrs(route.next_hop),
                    stale: route.stale,
                    ..RouteView::new(route.prefix, route.attrs)
                })
                .collect(),
            None => Vec::new(),
        },
        RouteQuery::Advertised(key) => match peers.get(&key) {
            Some(peer) => rib
                .adj_out(peer.rib, family, places)
                .map(|route| RouteView {
                    path_id: route.path_id,
                    next_hops: vec![route.next_hop.addr()],
                    ..RouteView::new(route.prefix, route.attrs)
                })
                .collect(),
            None => Vec::new(),
        },
        RouteQuery::Told(prefix) => return whole(told(prefix, rib, peers)),
        RouteQuery::Lookup(prefix) => return whole(lookup(prefix, rib, peers)),
        RouteQuery::LookupAddress(addr) => {
            let prefix = rib.longest_match(addr);
            return whole(prefix.map_or_else(Vec::new, |p| lookup(p, rib, peers)));
        }
    };
    routes.sort_by_key(|view: &RouteView| (view.prefix, view.path_id));
    let next = match family {
        _ if end < rib.places(family) => Some(RouteCursor { family, place: end }),
        Family::Ipv4Unicast => Some(RouteCursor {
            family: Family::Ipv6Unicast,
            place: 0,
        }),
        Family::Ipv6Unicast => None,
    };
    RoutePage { routes, next }
}

const fn whole(routes: Vec<RouteView>) -> RoutePage {
    RoutePage { routes, next: None }
}

fn best(family: Family, places: Range<u32>, rib: &Rib, peers: &Peers) -> Vec<RouteView> {
    rib.best(family, places)
        .map(|route| RouteView {
            source: origin(route.source, peers),
            next_hops: route.next_hops.iter().map(|n| n.addr).collect(),
            outcome: Some("best".to_owned()),
            ..RouteView::new(route.prefix, route.attrs)
        })
        .collect()
}

fn told(prefix: Prefix, rib: &Rib, peers: &Peers) -> Vec<RouteView> {
    let Some(place) = rib.place(prefix) else {
        return Vec::new();
    };
    let to_peer = |peer: &Peer| {
        let key = peer.key;
        let routes = rib.adj_out(peer.rib, prefix.family(), place..place + 1);
        routes.map(move |route| RouteView {
            source: Some(RouteSource::Peer(key)),
            path_id: route.path_id,
            next_hops: vec![route.next_hop.addr()],
            ..RouteView::new(route.prefix, route.attrs)
        })
    };
    peers.values().flat_map(to_peer).collect()
}

fn lookup(prefix: Prefix, rib: &Rib, peers: &Peers) -> Vec<RouteView> {
    rib.lookup(prefix)
        .into_iter()
        .map(|path| RouteView {
            source: origin(path.source, peers),
            path_id: path.path_id,
            next_hops: next_hop_addrs(path.next_hop),
            outcome: Some(outcome(path.state)),
            lost_at: match path.state {
                PathState::Lost(step) => Some(step.name()),
                _ => None,
            },
            compared: path.compared.map(|c| (c.this, c.preferred)),
            multipath: path.multipath,
            stale: path.stale,
            ..RouteView::new(prefix, path.attrs)
        })
        .collect()
}

fn outcome(state: PathState) -> String {
    match state {
        PathState::Best => "best".to_owned(),
        PathState::Lost(step) => format!("lost by {step}"),
        PathState::Looped(Loop::AsPath) => "looped: our AS is in AS_PATH".to_owned(),
        PathState::Looped(Loop::OriginatorId) => "looped: ORIGINATOR_ID is ours".to_owned(),
        PathState::Looped(Loop::ClusterList) => "looped: our cluster is in CLUSTER_LIST".to_owned(),
        PathState::Filtered => "refused by the import filter".to_owned(),
        PathState::BadNextHop => "the next hop cannot be used".to_owned(),
    }
}

/// `None` for a peer whose routes outlived its configuration by a moment.
fn origin(source: RibSource, peers: &Peers) -> Option<RouteSource> {
    match source {
        RibSource::Local => Some(RouteSource::Local),
        RibSource::Peer(id) => peers
            .values()
            .find(|p| p.rib == id)
            .map(|p| RouteSource::Peer(p.key)),
    }
}
