//! Addresses for dockerd: pools by name, and single addresses.
//!
//! Nothing is kept of a pool: its id says which IPPools it stands for. All addresses of a host's Docker containers are
//! under one handle, because dockerd asks for an address before it tells whom it is for, and gives it back after it has
//! forgotten. What is never given back has no endpoint, and the collector frees it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_dataplane::attach::gateways;
use margay_ipam::{AssignRequest, IpamError, ReleaseIpRequest, Request};
use margay_model::net::Cidr;
use serde_json::{Value, json};
use tracing::info;

use super::Driver;
use super::error::DockerError;
use super::protocol::{AddressCall, GATEWAY, MAC, REQUEST_TYPE, RequestPool};
use crate::fault;
use crate::ipam_task::TaskError;
use crate::world::World;

const V4_POOLS: &str = "ipv4_pools";
const V6_POOLS: &str = "ipv6_pools";

/// What a pool's id stands for: a family, and the IPPools by name or range; any when there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PoolId {
    v6: bool,
    pools: Vec<String>,
}

impl PoolId {
    fn to_text(&self) -> String {
        let family = if self.v6 { 6 } else { 4 };
        format!("{family}:{}", self.pools.join(","))
    }

    fn parse(text: &str) -> Result<Self, DockerError> {
        let unknown = || DockerError::option("PoolID", text, "one that RequestPool returned");
        let (family, pools) = text.split_once(':').ok_or_else(unknown)?;
        let v6 = match family {
            "4" => false,
            "6" => true,
            _ => return Err(unknown()),
        };
        let pools = pools.split(',').filter(|pool| !pool.is_empty());
        let pools = pools.map(str::to_owned).collect();
        Ok(Self { v6, pools })
    }

    fn gateway(&self) -> IpAddr {
        let (v4, v6) = gateways(0);
        if self.v6 { v6.into() } else { v4.into() }
    }
}

/// As the only address of its link.
fn alone(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

fn family_name(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

impl Driver {
    pub(super) async fn request_pool(&self, call: RequestPool) -> Result<Value, DockerError> {
        if !call.sub_pool.is_empty() {
            let allowed =
                "absent: a range of its own is an IPPool of its own, to be named by --subnet";
            return Err(DockerError::option("--ip-range", call.sub_pool, allowed));
        }
        let world = self.open_world().await?;
        let listed = listed_pools(&call)?;
        let (id, range) = match call.pool.is_empty() {
            false => {
                let range = pool_of_range(&world, &call.pool)?;
                let id = PoolId {
                    v6: !range.is_ipv4(),
                    pools: vec![range.to_string()],
                };
                (id, range.to_string())
            }
            true => {
                let id = PoolId {
                    v6: call.v6,
                    pools: listed,
                };
                check_pools(&world, &id)?;
                // dockerd compares any other range with the host's routes, where it finds those of the pool.
                let any = if call.v6 { "::/0" } else { "0.0.0.0/0" };
                (id, any.to_owned())
            }
        };
        let gateway = alone(id.gateway());
        Ok(json!({"PoolID": id.to_text(), "Pool": range, "Data": {GATEWAY: gateway}}))
    }

    pub(super) async fn request_address(&self, call: AddressCall) -> Result<Value, DockerError> {
        let pool = PoolId::parse(&call.pool_id)?;
        let wanted = wanted_address(&pool, &call.address)?;
        let world = self.open_world().await?;
        if call.options.get(REQUEST_TYPE).map(String::as_str) == Some(GATEWAY) {
            let gateway = pool.gateway();
            if wanted.is_some_and(|wanted| wanted != gateway) {
                let allowed = format!("absent: the gateway of every container is {gateway}");
                return Err(DockerError::option("--gateway", call.address, allowed));
            }
            return Ok(json!({"Address": alone(gateway), "Data": {}}));
        }
        let Some(mac) = call.options.get(MAC) else {
            // Only for containers does dockerd tell the hardware address.
            let reserved = |ip: &IpAddr| world.reservations.iter().any(|net| net.contains(*ip));
            return match wanted.filter(reserved) {
                Some(ip) => Ok(json!({"Address": alone(ip), "Data": {}})),
                None => {
                    let allowed =
                        "an address of an IPReservation, which keeps it free on every host";
                    Err(DockerError::option("--aux-address", call.address, allowed))
                }
            };
        };
        if let Some(ip) = wanted
            && let Some((key, _)) = self.endpoint_with(&world, ip)
        {
            let owner = key.name.clone();
            return Err(DockerError::InUse { ip, owner });
        }
        let ip = self.take(&pool, wanted, mac).await?;
        fault::point("docker-after-address");
        Ok(json!({"Address": alone(ip), "Data": {}}))
    }

    async fn take(
        &self,
        pool: &PoolId,
        wanted: Option<IpAddr>,
        mac: &str,
    ) -> Result<IpAddr, DockerError> {
        let automatic = u32::from(wanted.is_none());
        let (v4, v6) = if pool.v6 {
            (0, automatic)
        } else {
            (automatic, 0)
        };
        let now = jiff::Timestamp::now();
        let mut request = AssignRequest::new(self.handle.clone(), v4, v6, now);
        request.ips.extend(wanted);
        // One asked for by name may be ours already, from a call whose answer got lost; others under the handle
        // are other containers'.
        request.adopt = wanted.is_some();
        request.attrs = BTreeMap::from([("mac".to_owned(), mac.to_owned())]);
        let pools = pool.pools.iter().filter_map(|p| p.parse().ok()).collect();
        match pool.v6 {
            true => request.v6_pools = pools,
            false => request.v4_pools = pools,
        }
        let outcome = self.ipam.run(Request::Assign(request)).await?;
        let address = outcome.addresses.first();
        let address = address.ok_or_else(|| TaskError::Empty(self.handle.clone()))?;
        Ok(address.ip)
    }

    /// Nothing there is success. An endpoint that still has the address goes first: its container is gone.
    pub(super) async fn release_address(&self, call: AddressCall) -> Result<Value, DockerError> {
        let pool = PoolId::parse(&call.pool_id)?;
        let Some(ip) = wanted_address(&pool, &call.address)? else {
            return Err(DockerError::option("Address", "", "an address"));
        };
        let world = self.synced_world().await?;
        if ip == pool.gateway() {
            return Ok(json!({}));
        }
        if let Some((key, _)) = self.endpoint_with(&world, ip) {
            self.remove_endpoint(&key.clone()).await?;
        }
        let release = ReleaseIpRequest {
            ip,
            sequence: None,
            handle_id: Some(self.handle.clone()),
            now: jiff::Timestamp::now(),
            extra: Default::default(),
        };
        match self.ipam.run(Request::ReleaseIp(release)).await {
            Ok(_) => {}
            // The collector was first, and somebody else has it.
            Err(TaskError::Ipam(IpamError::Mismatch { found, .. })) => {
                info!(%ip, found, "address given back that is not Docker's");
            }
            Err(error) => return Err(error.into()),
        }
        fault::point("docker-after-release");
        Ok(json!({}))
    }
}

/// The pools that `--ipam-opt` names for the call's family.
fn listed_pools(call: &RequestPool) -> Result<Vec<String>, DockerError> {
    let known = [V4_POOLS, V6_POOLS];
    let ours = |option: &&String| !option.starts_with("com.docker.");
    let mut unknown = call.options.keys().filter(ours);
    if let Some(found) = unknown.find(|option| !known.contains(&option.as_str())) {
        return Err(DockerError::UnknownOption {
            found: found.clone(),
            known: known.join(" and "),
        });
    }
    let option = if call.v6 { V6_POOLS } else { V4_POOLS };
    let listed = call.options.get(option).map(String::as_str);
    let pools = listed.unwrap_or_default().split(',').map(str::trim);
    let pools = pools.filter(|pool| !pool.is_empty());
    Ok(pools.map(str::to_owned).collect())
}

/// The pool whose range the user named.
fn pool_of_range(world: &World, found: &str) -> Result<Cidr, DockerError> {
    let range: Option<Cidr> = found.parse().ok();
    let mut pools = world.pools.iter();
    let known = pools.find(|pool| Some(pool.spec.cidr) == range && !pool.spec.disabled);
    known.map(|pool| pool.spec.cidr).ok_or_else(|| {
        let pools = world.pools.iter().filter(|pool| !pool.spec.disabled);
        let pools: Vec<_> = pools
            .map(|pool| format!("{} ({})", pool.spec.cidr, pool.metadata.name))
            .collect();
        DockerError::NoSuchPool {
            found: found.to_owned(),
            pools: if pools.is_empty() {
                "none".to_owned()
            } else {
                pools.join(", ")
            },
        }
    })
}

/// Whether there is something behind the id, so that the user learns of a mistake while creating the network.
fn check_pools(world: &World, id: &PoolId) -> Result<(), DockerError> {
    let fits = |pool: &&margay_model::ippool::IpPool| {
        !pool.spec.disabled && pool.spec.cidr.is_ipv4() != id.v6
    };
    let option = if id.v6 { V6_POOLS } else { V4_POOLS };
    for wanted in &id.pools {
        let named = |pool: &margay_model::ippool::IpPool| {
            pool.metadata.name == *wanted || pool.spec.cidr.to_string() == *wanted
        };
        if !world.pools.iter().filter(fits).any(named) {
            let pools = world.pools.iter().filter(fits);
            let names: Vec<_> = pools.map(|pool| pool.metadata.name.as_str()).collect();
            let family = family_name(id.v6);
            let allowed = format!("enabled {family} IPPools: {}", names.join(", "));
            return Err(DockerError::option(
                format!("--ipam-opt {option}"),
                wanted,
                allowed,
            ));
        }
    }
    match world.pools.iter().any(|pool| fits(&pool)) {
        true => Ok(()),
        false => Err(DockerError::NoPool(family_name(id.v6))),
    }
}

fn wanted_address(pool: &PoolId, text: &str) -> Result<Option<IpAddr>, DockerError> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text.split('/').next().unwrap_or_default();
    let ip: Option<IpAddr> = bare.parse().ok();
    match ip.filter(|ip| ip.is_ipv6() == pool.v6) {
        Some(ip) => Ok(Some(ip)),
        None => {
            let allowed = format!("an {} address", family_name(pool.v6));
            Err(DockerError::option("the address", text, allowed))
        }
    }
}

#[cfg(test)]
mod tests {
    use margay_model::ippool::IpPoolSpec;
    use margay_model::meta::{ObjectMeta, Resource};
    use std::sync::Arc;

    use super::*;

    fn world() -> World {
        let pool = |name: &str, cidr: &str| {
            Resource::new(
                ObjectMeta::named(name),
                IpPoolSpec::new(cidr.parse().unwrap()),
            )
        };
        World {
            pools: Arc::new(vec![
                pool("four", "10.65.0.0/16"),
                pool("six", "fd00:65::/48"),
            ]),
            ..World::default()
        }
    }

    #[test]
    fn an_id_says_all_there_is_to_know_of_a_pool() {
        for (v6, pools) in [(false, vec![]), (true, vec!["fd00:65::/48", "b"])] {
            let pools = pools.into_iter().map(str::to_owned).collect();
            let id = PoolId { v6, pools };
            assert_eq!(PoolId::parse(&id.to_text()).unwrap(), id);
        }
        for garbage in ["", "5:", "x", "64"] {
            PoolId::parse(garbage).unwrap_err();
        }
    }

    #[test]
    fn a_range_is_an_enabled_pools_or_the_pools_are_told() {
        let world = world();
        assert!(pool_of_range(&world, "10.65.0.0/16").is_ok());
        let error = pool_of_range(&world, "10.66.0.0/16").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no IPPool has the range 10.66.0.0/16; there are: 10.65.0.0/16 (four), fd00:65::/48 (six)"
        );
    }

    #[test]
    fn pools_are_named_for_their_family() {
        let id = |v6, pool: &str| PoolId {
            v6,
            pools: vec![pool.to_owned()],
        };
        check_pools(&world(), &id(false, "four")).unwrap();
        check_pools(&world(), &id(true, "fd00:65::/48")).unwrap();
        let error = check_pools(&world(), &id(true, "four")).unwrap_err();
        let text = "--ipam-opt ipv6_pools is \"four\", must be enabled IPv6 IPPools: six";
        assert_eq!(error.to_string(), text);
        let none = PoolId {
            v6: true,
            pools: vec![],
        };
        assert!(check_pools(&World::default(), &none).is_err());
    }

    #[test]
    fn addresses_are_of_the_pools_family() {
        let four = PoolId {
            v6: false,
            pools: vec![],
        };
        assert_eq!(wanted_address(&four, "").unwrap(), None);
        assert_eq!(
            wanted_address(&four, "10.0.0.1/32").unwrap(),
            "10.0.0.1".parse().ok()
        );
        wanted_address(&four, "::1").unwrap_err();
        wanted_address(&four, "ten").unwrap_err();
    }
}
