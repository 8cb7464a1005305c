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
}

impl Resolver {
    /// For whoever writes routes of this protocol, in the calling thread's network namespace.
    pub fn open(protocol: u8) -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::route()?,
            protocol,
            known: BTreeMap::new(),
        })
    }

    /// A route through these routers, as far as there are ways to them. Several may lie behind one gateway, which the
    /// kernel wants to hear of once.
    pub fn route(&mut self, routers: &[Router]) -> Option<Route> {
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
        (!via.is_empty()).then(|| Route::via(via).with_mtu(mtu))
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
        changed
    }

    /// Forgets routers that no route has.
    pub fn retain(&mut self, used: impl Fn(&Router) -> bool) {
        self.known.retain(|router, _| used(router));
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
