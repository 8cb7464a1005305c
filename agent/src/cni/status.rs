//! STATUS: whether ADD can be served.
//!
//! Code 51 where what ADD lacks is what the containers that run need as well, which is a BGP peer: an ADD that waits for
//! one (`wait_announced`) has to wait for what makes them reachable. A single rule that the kernel refused is neither: a
//! runtime that hears of it would take the whole node for broken.

use margay_api::cni::{CniError, CniReply, CniRequest, Header, code};
use margay_model::ippool::IpPool;

use super::netconf::{Call, IpamWish};
use super::{Cni, LOCKED, delegate};
use crate::world::World;

/// What the state of a session is called that routes pass through.
const ESTABLISHED: &str = "Established";

/// No container's: looked up to hear whether the store answers.
const NOBODY: &str = "margay-status";

impl Cni {
    /// The agent, the store and the pools, in the order in which one needs the other.
    pub(super) async fn status(
        &self,
        request: &CniRequest,
        header: &Header,
    ) -> Result<CniReply, CniError> {
        let not_available = |msg: String| CniError::new(code::NOT_AVAILABLE, msg);
        let world = self.world();
        if !world.in_sync {
            return Err(not_available("the agent is not in sync yet".into()));
        }
        if world.locked {
            return Err(not_available(LOCKED.into()));
        }
        let call = Call::parse(request, header)?;
        if let Err(error) = self.ipam.addresses_of(NOBODY.to_owned()).await {
            return Err(not_available("the datastore does not answer".into())
                .with_details(error.to_string()));
        }
        match &call.delegate {
            Some(plugin) => delegate::forward(plugin, "STATUS", request).await?,
            None => ensure_pools(&world, &call.ipam).map_err(not_available)?,
        }
        if call.wait_announced && !self.has_peer().await {
            let msg = "no BGP peer is up: ADD would wait for one (wait_announced), and other hosts hear of no container";
            return Err(CniError::new(code::LIMITED, msg));
        }
        Ok(CniReply::done())
    }

    async fn has_peer(&self) -> bool {
        match &self.bgp {
            Some(bgp) => {
                let peers = bgp.status().await.peers;
                peers.iter().any(|peer| peer.state == ESTABLISHED)
            }
            None => false,
        }
    }
}

/// Each family that is asked for has an enabled pool, one of those that are named if any are.
fn ensure_pools(world: &World, wish: &IpamWish) -> Result<(), String> {
    for (wanted, is_v4, named) in [
        (wish.v4, true, &wish.v4_pools),
        (wish.v6, false, &wish.v6_pools),
    ] {
        let usable = |pool: &&IpPool| {
            let cidr = pool.spec.cidr.to_string();
            let is_named = |name: &String| *name == pool.metadata.name || *name == cidr;
            !pool.spec.disabled
                && pool.spec.cidr.addr().is_ipv4() == is_v4
                && (named.is_empty() || named.iter().any(is_named))
        };
        if wanted && !world.pools.iter().any(|pool| usable(&pool)) {
            let family = if is_v4 { "IPv4" } else { "IPv6" };
            let among = match named.is_empty() {
                true => String::new(),
                false => format!(" among {}", named.join(", ")),
            };
            return Err(format!("there is no enabled IPPool for {family}{among}"));
        }
    }
    Ok(())
}
