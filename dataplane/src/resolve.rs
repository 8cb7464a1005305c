//! Routers of learned routes as the kernel can use them.
//!
//! A next hop of BGP is often behind another router, and the kernel wants a gateway on a link: so each is resolved by
//! the routes that are not ours (RFC 4271, section 5.1.3, "recursive").

use std::collections::BTreeMap;
use std::net::IpAddr;

use tracing::{debug, warn};

use crate::link::{self, Link};
use crate::netlink::{NetlinkError, Socket};
use crate::route_table::{NextHop, Route};

/// A router that a learned route leads to, however far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Router {
    /// Its address.
    pub addr: IpAddr,
    /// Index of the interface of a link-local address; 0 for any other.
    pub scope: u32,
}

impl Router {
    /// One with an address that is good everywhere.
    #[must_use]
    pub const fn of(addr: IpAddr) -> Self {
        Self { addr, scope: 0 }
    }
}

/// A router on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The way there.
    pub hop: NextHop,
    /// The limit to the size of packets that the route to it has: it holds for what goes the same way.
    pub mtu: Option<u32>,
}

/// Routers seen so far and what they resolve to; none while there is no way.
#[derive(Debug)]
pub struct Resolver {
    socket: Socket,
    /// Of the routes that count as ours.
    protocol: u8,
    known: BTreeMap<Router, Option<Resolved>>,
    /// Routes through routers that are known: a million prefixes behind the same ones share a list of next hops.
    routes: BTreeMap<Vec<Router>, Route>,
}

impl Resolver {
    /// For whoever writes routes of this protocol, in the calling thread's network namespace.
    pub fn open(protocol: u8) -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::route()?,
            protocol,
            known: BTreeMap::new(),
            routes: BTreeMap::new(),
        })
    }

    /// A route through these routers, as far as there are ways to them. Several may lie behind one gateway, which the
    /// kernel wants to hear of once.
    pub fn route(&mut self, routers: &[Router]) -> Option<Route> {
        if let Some(route) = self.routes.get(routers) {
            return Some(route.clone());
        }
        let mut via: Vec<NextHop> = Vec::with_capacity(routers.len());
        let mut mtu: Option<u32> = None;
        for router in routers {
            let Some(resolved) = self.resolve(*router) else {
                continue;
            };
            if !via.contains(&resolved.hop) {
                via.push(resolved.hop);
            }
            mtu = mtu.into_iter().chain(resolved.mtu).min();
        }
        let route = (!via.is_empty()).then(|| Route::via(via).with_mtu(mtu))?;
        self.routes.insert(routers.to_vec(), route.clone());
        Some(route)
    }

    /// What `router` resolves to; asked of the kernel once, until the next refresh.
    pub fn resolve(&mut self, router: Router) -> Option<Resolved> {
        if let Some(known) = self.known.get(&router) {
            return known.clone();
        }
        let resolved = self.ask(router);
        self.known.insert(router, resolved.clone());
        resolved
    }

    /// Asks again for every router; true when one resolves to something else than before.
    pub fn refresh(&mut self) -> bool {
        let mut known = std::mem::take(&mut self.known);
        let mut changed = false;
        for (router, known) in &mut known {
            let resolved = self.ask(*router);
            if *known != resolved {
                debug!(?router, ?resolved, "next hop resolves anew");
                *known = resolved;
                changed = true;
            }
        }
        self.known = known;
        if changed {
            self.routes.clear();
        }
        changed
    }

    /// Forgets routers that no route has.
    pub fn retain(&mut self, used: impl Fn(&Router) -> bool) {
        self.known.retain(|router, _| used(router));
        self.routes.retain(|routers, _| routers.iter().all(&used));
    }

    fn ask(&mut self, router: Router) -> Option<Resolved> {
        let asked = if router.scope == 0 {
            self.by_route(router)
        } else {
            // A link-local address is on the link that it was heard on, and nowhere else.
            let link = link::by_index(&mut self.socket, router.scope);
            let resolved = |link: Link| Resolved {
                hop: NextHop::new(router.addr).on(&link.name),
                mtu: None,
            };
            link.map(|link| link.map(resolved))
        };
        asked.unwrap_or_else(|error| {
            warn!(?router, %error, "cannot resolve a next hop");
            None
        })
    }

    fn by_route(&mut self, router: Router) -> Result<Option<Resolved>, NetlinkError> {
        let path = link::route_get(&mut self.socket, router.addr)?;
        // A next hop that only our own routes lead to would resolve through itself.
        let path = path.filter(|path| path.protocol != self.protocol);
        Ok(path.map(|path| Resolved {
            hop: NextHop::new(path.gateway.unwrap_or(router.addr)).on(&path.ifname),
            mtu: path.route_mtu,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::NetNs;
    use crate::route_table::{PROTO_MARGAY, Target};

    fn next_hops(route: Option<Route>) -> std::sync::Arc<[NextHop]> {
        match route.map(|route| route.target) {
            Some(Target::Via(hops)) => hops,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn routes_through_the_same_routers_share_next_hops_until_these_change() {
        let ns = NetNs::new();
        for name in ["up0", "up1"] {
            ns.ip(&format!("link add {name} up type veth peer name {name}p"));
            ns.ip(&format!("link set {name}p up"));
        }
        ns.ip("addr add 192.0.2.1/24 dev up0");
        ns.run(|| {
            let mut resolver = Resolver::open(PROTO_MARGAY).unwrap();
            let far = Router::of([198, 51, 100, 1].into());
            let near = Router::of([192, 0, 2, 2].into());
            assert_eq!(resolver.route(&[far]), None);
            let first = next_hops(resolver.route(&[near, far]));
            let second = next_hops(resolver.route(&[near, far]));
            assert!(std::sync::Arc::ptr_eq(&first, &second));
            assert_eq!(*first, [NextHop::new(near.addr).on("up0")]);

            ns.ip("addr add 203.0.113.1/24 dev up1");
            ns.ip("route add 198.51.100.0/24 via 203.0.113.9");
            assert!(resolver.refresh());
            let both = next_hops(resolver.route(&[near, far]));
            let way = NextHop::new([203, 0, 113, 9].into()).on("up1");
            assert_eq!(*both, [NextHop::new(near.addr).on("up0"), way]);

            resolver.retain(|router| *router == near);
            ns.ip("route del 198.51.100.0/24");
            assert_eq!(*next_hops(resolver.route(&[near, far])), *first);
        });
    }
}
