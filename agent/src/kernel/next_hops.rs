//! BGP next hops as the kernel can use them.
//!
//! A next hop of a mesh peer is often behind a router, and the kernel wants a gateway on a link: so each
//! next hop is resolved by the routes that are not ours (RFC 4271, section 5.1.3, "recursive").

use std::collections::BTreeMap;

use margay_dataplane::link::{self, Link};
use margay_dataplane::netlink::{NetlinkError, Socket};
use margay_dataplane::route_table::{NextHop, PROTO_MARGAY};
use tracing::{debug, warn};

use super::BgpNextHop;

/// Next hops seen so far and what they resolve to; none while there is no way.
pub(super) struct Resolver {
    socket: Socket,
    known: BTreeMap<BgpNextHop, Option<Resolved>>,
}

/// A next hop on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) hop: NextHop,
    /// The limit to the size of packets that the route to it has: it holds for what goes the same way.
    pub(super) mtu: Option<u32>,
}

impl Resolver {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::route()?,
            known: BTreeMap::new(),
        })
    }

    /// What `next_hop` resolves to; asked of the kernel once, until the next refresh.
    pub(super) fn resolve(&mut self, next_hop: BgpNextHop) -> Option<Resolved> {
        if let Some(known) = self.known.get(&next_hop) {
            return known.clone();
        }
        let resolved = ask(&mut self.socket, next_hop);
        self.known.insert(next_hop, resolved.clone());
        resolved
    }

    /// Asks again for every next hop; true when one resolves to something else than before.
    pub(super) fn refresh(&mut self) -> bool {
        let mut changed = false;
        for (next_hop, known) in &mut self.known {
            let resolved = ask(&mut self.socket, *next_hop);
            if *known != resolved {
                debug!(?next_hop, ?resolved, "next hop resolves anew");
                *known = resolved;
                changed = true;
            }
        }
        changed
    }

    /// Forgets next hops that no route has.
    pub(super) fn retain(&mut self, used: impl Fn(&BgpNextHop) -> bool) {
        self.known.retain(|next_hop, _| used(next_hop));
    }
}

fn ask(socket: &mut Socket, next_hop: BgpNextHop) -> Option<Resolved> {
    let asked = if next_hop.scope == 0 {
        by_route(socket, next_hop)
    } else {
        // A link-local address is on the link that it was heard on, and nowhere else.
        let link = link::by_index(socket, next_hop.scope);
        let resolved = |link: Link| Resolved {
            hop: NextHop::new(next_hop.addr).on(&link.name),
            mtu: None,
        };
        link.map(|link| link.map(resolved))
    };
    asked.unwrap_or_else(|error| {
        warn!(?next_hop, %error, "cannot resolve a next hop");
        None
    })
}

fn by_route(socket: &mut Socket, next_hop: BgpNextHop) -> Result<Option<Resolved>, NetlinkError> {
    let path = link::route_get(socket, next_hop.addr)?;
    // A next hop that only our own routes lead to would resolve through itself.
    let path = path.filter(|path| path.protocol != PROTO_MARGAY);
    Ok(path.map(|path| Resolved {
        hop: NextHop::new(path.gateway.unwrap_or(next_hop.addr)).on(&path.ifname),
        mtu: path.route_mtu,
    }))
}
