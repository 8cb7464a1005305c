//! Join: which interface dockerd is to move into the container, and the container's routes.
//!
//! A container may be on several networks. Its default route leads through one of them, which dockerd chooses; the
//! ranges of the others' addresses have routes of their own, so that the container speaks to each network's members from
//! its address in that network.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use margay_dataplane::attach::{self, GATEWAYS, gateways};
use margay_model::net::Cidr;
use margay_model::workload_endpoint::WorkloadEndpoint;
use serde_json::{Value, json};
use tracing::info;

use super::endpoint::NETWORK_ID;
use super::error::DockerError;
use super::protocol::{IFNAME, Target};
use super::{Driver, ORCHESTRATOR};
use crate::fault;
use crate::world::World;

/// The container's sandbox, as dockerd names it: what tells which endpoints are of one container.
pub(super) const SANDBOX: &str = "margay.io/docker-sandbox";
/// Which gateways the endpoint has, among those of its container.
const GATEWAY_NUMBER: &str = "margay.io/docker-gateway";

/// `RouteType` of an answer.
const NEXT_HOP: u8 = 0;
const CONNECTED: u8 = 1;

/// What the other endpoints of the container have.
#[derive(Debug, Default, PartialEq)]
struct Others {
    gateways: BTreeSet<u8>,
    ranges: BTreeSet<Cidr>,
}

impl Driver {
    pub(super) async fn join(
        self: &std::sync::Arc<Self>,
        call: Target,
    ) -> Result<Value, DockerError> {
        self.open_world().await?;
        let key = self.endpoint_key(&call.endpoint_id)?;
        let network = self.network(&call.network_id).await?;
        let _container = self.turns.take(&call.sandbox_key).await;
        let _turn = self.turns.take(&call.endpoint_id).await;
        let world = self.synced_world().await?;
        let known = world.endpoints.get(&key);
        let known = known.ok_or_else(|| DockerError::UnknownEndpoint(call.endpoint_id.clone()))?;
        let others = others(&world, &call);
        let free = (0..GATEWAYS).find(|number| !others.gateways.contains(number));
        let number =
            free.ok_or_else(|| DockerError::TooManyNetworks(call.sandbox_key.clone(), GATEWAYS))?;
        let spec = self.pair(&world, &call.endpoint_id, &known.resource.spec, network.mtu);
        self.make_pair(spec.clone()).await?;
        let (host_ifname, ipv6) = (spec.host_ifname.clone(), spec.ipv6);
        let netns = PathBuf::from(&call.sandbox_key);
        let served = tokio::task::spawn_blocking(move || {
            attach::serve_gateways(&host_ifname, number, ipv6)?;
            attach::moves_to(&host_ifname, &netns)
        });
        served
            .await
            .map_err(|panic| DockerError::Failed(panic.to_string()))??;
        fault::point("docker-after-gateways");
        let annotations = [
            (SANDBOX.to_owned(), call.sandbox_key.clone()),
            (GATEWAY_NUMBER.to_owned(), number.to_string()),
        ];
        let endpoint = self.amend(&key, |endpoint| {
            endpoint.metadata.annotations.extend(annotations.clone());
            true
        });
        let endpoint = endpoint.await?;
        fault::point("docker-before-join-answer");
        info!(
            endpoint = call.endpoint_id,
            network = network.name,
            "attached"
        );
        self.describe_later(key, &call.network_id, &call.endpoint_id);
        let mut answer = routes(&endpoint, &world, &others, number, network.internal);
        answer["InterfaceName"] = json!({
            "SrcName": spec.container_ifname,
            "DstPrefix": network.prefix,
            "DstName": call.options.get(IFNAME).and_then(Value::as_str).unwrap_or_default(),
        });
        Ok(answer)
    }
}

fn others(world: &World, call: &Target) -> Others {
    let mut others = Others::default();
    for endpoint in world.endpoints.values().map(|e| &e.resource) {
        let annotation = |name| endpoint.metadata.annotations.get(name).map(String::as_str);
        if endpoint.spec.orchestrator != ORCHESTRATOR
            || endpoint.spec.endpoint == call.endpoint_id
            || annotation(SANDBOX) != Some(&call.sandbox_key)
            || annotation(NETWORK_ID).is_none()
        {
            continue;
        }
        others
            .gateways
            .extend(annotation(GATEWAY_NUMBER).and_then(|n| n.parse::<u8>().ok()));
        others.ranges.extend(ranges(endpoint, world));
    }
    others
}

/// The ranges of the pools that an endpoint's addresses are of.
fn ranges(endpoint: &WorkloadEndpoint, world: &World) -> BTreeSet<Cidr> {
    let has = |range: &Cidr| {
        let mut nets = endpoint.spec.ip_networks.iter();
        nets.any(|net| range.contains(net.addr()))
    };
    let ranges = world.pools.iter().map(|pool| pool.spec.cidr);
    ranges.filter(has).collect()
}

fn routes(
    endpoint: &WorkloadEndpoint,
    world: &World,
    others: &Others,
    number: u8,
    internal: bool,
) -> Value {
    let (v4, v6) = gateways(number);
    let has = |v4: bool| {
        let mut nets = endpoint.spec.ip_networks.iter();
        nets.any(|net| net.is_ipv4() == v4)
    };
    let mut answer = json!({});
    let mut list = Vec::new();
    for (field, gateway, wanted) in [
        ("Gateway", IpAddr::from(v4), has(true)),
        ("GatewayIPv6", IpAddr::from(v6), has(false)),
    ] {
        if !wanted {
            continue;
        }
        if !internal {
            answer[field] = json!(gateway);
        }
        let on_link = Cidr::host(gateway).to_string();
        list.push(json!({"Destination": on_link, "RouteType": CONNECTED, "NextHop": ""}));
        // Another network of the container has the range, or the container would have two routes to it.
        let own = ranges(endpoint, world).into_iter();
        let own = own.filter(|range| !others.ranges.contains(range));
        for range in own.filter(|range| range.is_ipv4() == gateway.is_ipv4()) {
            list.push(
                json!({"Destination": range.to_string(), "RouteType": NEXT_HOP,
                             "NextHop": gateway}),
            );
        }
    }
    answer["StaticRoutes"] = list.into();
    answer
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use margay_model::ippool::IpPoolSpec;
    use margay_model::kind::{Kind, ResourceKey};
    use margay_model::meta::{ObjectMeta, Resource};
    use margay_model::workload_endpoint::WorkloadEndpointSpec;

    use super::*;
    use crate::world::LocalEndpoint;

    fn endpoint(id: &str, sandbox: &str, number: u8, ips: &[&str]) -> WorkloadEndpoint {
        let mut metadata = ObjectMeta::namespaced("libnetwork", id);
        metadata.annotations = [
            (SANDBOX.to_owned(), sandbox.to_owned()),
            (GATEWAY_NUMBER.to_owned(), number.to_string()),
            (NETWORK_ID.to_owned(), "n".to_owned()),
        ]
        .into();
        let spec = WorkloadEndpointSpec {
            orchestrator: ORCHESTRATOR.into(),
            endpoint: id.into(),
            ip_networks: ips
                .iter()
                .map(|ip| Cidr::host(ip.parse().unwrap()))
                .collect(),
            ..WorkloadEndpointSpec::default()
        };
        Resource::new(metadata, spec)
    }

    fn world(endpoints: Vec<WorkloadEndpoint>) -> World {
        let pool = |name: &str, cidr: &str| {
            Resource::new(
                ObjectMeta::named(name),
                IpPoolSpec::new(cidr.parse().unwrap()),
            )
        };
        let local = |resource: WorkloadEndpoint| {
            let key = ResourceKey::namespaced(
                Kind::WorkloadEndpoint,
                "libnetwork",
                resource.metadata.name.clone(),
            );
            let endpoint = LocalEndpoint {
                resource,
                mod_revision: 1,
            };
            (key, Arc::new(endpoint))
        };
        World {
            pools: Arc::new(vec![
                pool("a", "10.1.0.0/16"),
                pool("b", "10.2.0.0/16"),
                pool("c", "fd00::/64"),
            ]),
            endpoints: Arc::new(endpoints.into_iter().map(local).collect()),
            ..World::default()
        }
    }

    #[test]
    fn only_the_same_containers_other_endpoints_count() {
        let world = world(vec![
            endpoint("e1", "s1", 0, &["10.1.0.1"]),
            endpoint("e2", "s1", 2, &["10.2.0.1", "fd00::1"]),
            endpoint("e3", "s2", 1, &["10.1.0.2"]),
        ]);
        let call = Target {
            endpoint_id: "e1".into(),
            sandbox_key: "s1".into(),
            ..Target::default()
        };
        let found = others(&world, &call);
        assert_eq!(found.gateways, BTreeSet::from([2]));
        let ranges = ["10.2.0.0/16", "fd00::/64"].map(|r| r.parse().unwrap());
        assert_eq!(found.ranges, BTreeSet::from(ranges));
    }

    #[test]
    fn routes_lead_through_the_endpoints_own_gateways() {
        let world = world(vec![]);
        let one = endpoint("e1", "s1", 0, &["10.1.0.1", "fd00::1"]);
        let answer = routes(&one, &world, &Others::default(), 1, false);
        assert_eq!(answer["Gateway"], "169.254.1.2");
        assert_eq!(answer["GatewayIPv6"], "fe80::ecee:eeff:feee:eeef");
        let destinations: Vec<_> = answer["StaticRoutes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| {
                (
                    r["Destination"].as_str().unwrap(),
                    r["RouteType"].as_u64().unwrap(),
                )
            })
            .collect();
        let gateway6 = "fe80::ecee:eeff:feee:eeef/128";
        assert_eq!(
            destinations,
            [
                ("169.254.1.2/32", 1),
                ("10.1.0.0/16", 0),
                (gateway6, 1),
                ("fd00::/64", 0)
            ]
        );
        let taken = Others {
            ranges: BTreeSet::from(["10.1.0.0/16".parse().unwrap()]),
            ..Others::default()
        };
        let answer = routes(&one, &world, &taken, 1, true);
        assert!(answer.get("Gateway").is_none());
        assert_eq!(answer["StaticRoutes"].as_array().unwrap().len(), 3);
    }
}
