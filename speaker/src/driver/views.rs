//! Answers to queries.

use margay_bgp::{
    prefix::Family,
    rib::{PathState, Rib, RouteSource as RibSource},
};

use crate::{
    driver::core::Peers,
    view::{RouteQuery, RouteSource, RouteView, next_hop_addrs},
};

/// The routes that `query` asks for, by prefix.
pub(super) fn routes(query: RouteQuery, rib: &Rib, peers: &Peers) -> Vec<RouteView> {
    let mut views = match query {
        RouteQuery::Best => best(rib, peers),
        RouteQuery::Lookup(prefix) => return lookup(prefix, rib, peers),
        RouteQuery::Received(key) => {
            let Some(peer) = peers.get(&key) else {
                return Vec::new();
            };
            Family::ALL
                .into_iter()
                .flat_map(|family| rib.adj_in(peer.rib, family))
                .map(|(prefix, attrs, next_hop)| RouteView {
                    prefix,
                    source: Some(RouteSource::Peer(key)),
                    next_hops: next_hop_addrs(next_hop),
                    attrs,
                    outcome: None,
                    stale: false,
                })
                .collect()
        }
        RouteQuery::Advertised(key) => {
            let Some(peer) = peers.get(&key) else {
                return Vec::new();
            };
            Family::ALL
                .into_iter()
                .flat_map(|family| rib.adj_out(peer.rib, family))
                .map(|route| RouteView {
                    prefix: route.prefix,
                    source: None,
                    next_hops: vec![route.next_hop.addr()],
                    attrs: route.attrs,
                    outcome: None,
                    stale: false,
                })
                .collect()
        }
    };
    views.sort_by_key(|v: &RouteView| v.prefix);
    views
}

fn best(rib: &Rib, peers: &Peers) -> Vec<RouteView> {
    Family::ALL
        .into_iter()
        .flat_map(|family| rib.best(family))
        .map(|route| RouteView {
            prefix: route.prefix,
            source: origin(route.source, peers),
            next_hops: route.next_hops.iter().map(|n| n.addr).collect(),
            attrs: route.attrs,
            outcome: Some("best".to_owned()),
            stale: false,
        })
        .collect()
}

fn lookup(prefix: margay_bgp::prefix::Prefix, rib: &Rib, peers: &Peers) -> Vec<RouteView> {
    rib.lookup(prefix)
        .into_iter()
        .map(|path| RouteView {
            prefix,
            source: origin(path.source, peers),
            next_hops: next_hop_addrs(path.next_hop),
            outcome: Some(match path.state {
                PathState::Best => "best".to_owned(),
                PathState::Lost(step) => format!("lost by {step}"),
                PathState::Looped(what) => format!("looped: {what:?}"),
                PathState::Filtered => "refused by the import filter".to_owned(),
                PathState::BadNextHop => "the next hop cannot be used".to_owned(),
            }),
            attrs: path.attrs,
            stale: path.stale,
        })
        .collect()
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
