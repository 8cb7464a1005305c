//! STATUS: whether ADD can be served.
//!
//! Never code 51: what runs does not need what ADD needs, and a runtime that hears of a single rule that the kernel
//! refused would take the whole node for broken.

use margay_api::cni::{CniError, CniReply, CniRequest, Header, code};
use margay_model::ippool::IpPool;

use super::netconf::{Call, IpamWish};
use super::{Cni, LOCKED, delegate};
use crate::world::World;

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
        Ok(CniReply::done())
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
