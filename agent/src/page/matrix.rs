//! Who may talk to whom, by the same calculation that the rules in the kernel come from.

use std::net::IpAddr;

use margay_datastore::AnyStore;
use margay_model::any::AnyResource;
use margay_model::keys::Keys;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::store::Store;
use margay_model::stored::decode_stored;
use margay_policy::calc::{Calc, Scope};
use margay_policy::explain::{Packet, Place, Step, Verdict, verdict};
use margay_policy::program::{Direction, EndpointPlan, View};
use serde_json::{Value, json};

use crate::status::StatusSource;

/// Most endpoints of a matrix, those of this host first.
const MOST: usize = 40;

/// Most endpoints of a cluster that is calculated as a whole for somebody who looks at a page.
const CLUSTER: u64 = 5000;

/// What decides about traffic between endpoints.
const KINDS: [Kind; 7] = [
    Kind::GlobalNetworkPolicy,
    Kind::GlobalNetworkSet,
    Kind::NetworkPolicy,
    Kind::NetworkSet,
    Kind::Profile,
    Kind::Tier,
    Kind::WorkloadEndpoint,
];

/// TCP, and the port that senders use in such questions: one of the ephemeral range (RFC 6335, section 6).
const TCP: u8 = 6;
const SOURCE_PORT: u16 = 49152;

pub(super) async fn read(
    store: &AnyStore,
    keys: &Keys,
    status: &StatusSource,
    query: &str,
) -> Result<Value, String> {
    let port = port(query)?;
    let endpoints = status.meters.census.of(&[Kind::WorkloadEndpoint]);
    if endpoints > CLUSTER {
        return Err(format!(
            "the cluster has {endpoints} endpoints: ask margayctl policy matrix -n NAMESPACE"
        ));
    }
    let mut resources = Vec::new();
    for kind in KINDS {
        let listing = store.list(&keys.kind(kind)).await;
        let listing = listing.map_err(|error| error.to_string())?;
        resources.extend(listing.kvs.iter().filter_map(|kv| {
            let key = keys.parse(&kv.key)?;
            decode_stored(&key, &kv.value).ok()
        }));
    }
    let node = status.node.clone();
    let work = tokio::task::spawn_blocking(move || matrix(&resources, &node, port));
    work.await.map_err(|error| error.to_string())
}

fn port(query: &str) -> Result<u16, String> {
    let Some(text) = query.strip_prefix("port=") else {
        return Ok(80);
    };
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("port: found {text:?}, allowed: 1 to 65535")),
    }
}

fn matrix(resources: &[AnyResource], node: &str, port: u16) -> Value {
    let mut calc = Calc::new(Scope::Cluster);
    resources.iter().for_each(|resource| calc.update(resource));
    let mut view = View::default();
    calc.flush()
        .into_iter()
        .for_each(|update| view.apply(update));
    let mut parties: Vec<_> = resources
        .iter()
        .filter_map(|resource| match resource {
            AnyResource::WorkloadEndpoint(endpoint) => {
                let key = resource.key();
                let plan = view.endpoints.get(&key)?;
                Some((endpoint.spec.node != node, key, plan))
            }
            _ => None,
        })
        .collect();
    let total = parties.len();
    parties.sort_by(|(a_far, a, _), (b_far, b, _)| (a_far, a).cmp(&(b_far, b)));
    parties.truncate(MOST);
    let names = parties
        .iter()
        .map(|(far, key, _)| json!({"name": key.name, "namespace": key.namespace, "local": !far}));
    let rows = parties.iter().map(|(_, from_key, from)| {
        let cells = parties
            .iter()
            .map(|(_, to_key, to)| cell(&view, (from_key, from), (to_key, to), port));
        cells.collect::<Vec<_>>()
    });
    json!({
        "port": port,
        "total": total,
        "endpoints": names.collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(),
    })
}

/// Null where there is nothing to ask: an endpoint and itself, and two without a common family.
fn cell(
    view: &View,
    (from_key, from): (&ResourceKey, &EndpointPlan),
    (to_key, to): (&ResourceKey, &EndpointPlan),
    port: u16,
) -> Value {
    let address = |plan: &EndpointPlan, v4: bool| -> Option<IpAddr> {
        let mut all = plan.addresses.iter().map(|net| net.addr());
        all.find(|addr| addr.is_ipv4() == v4)
    };
    let pair = |v4| Some((address(from, v4)?, address(to, v4)?));
    let Some((source, destination)) = pair(true).or_else(|| pair(false)) else {
        return Value::Null;
    };
    if from_key == to_key {
        return Value::Null;
    }
    let packet = Packet {
        source,
        destination,
        protocol: TCP,
        source_port: SOURCE_PORT,
        destination_port: port,
        icmp: None,
    };
    let (sent, by_sender) = verdict(view, from, Direction::Egress, &packet);
    let (decided, steps, way) = match sent {
        Verdict::Deny => (sent, by_sender, "egress"),
        Verdict::Allow => {
            let (received, by_receiver) = verdict(view, to, Direction::Ingress, &packet);
            (received, by_receiver, "ingress")
        }
    };
    json!({
        "allow": decided == Verdict::Allow,
        "why": format!("{way}: {}", steps.last().map_or_else(String::new, reason)),
    })
}

fn reason(step: &Step) -> String {
    let name = |place: &Place| match place {
        Place::Policy { tier, policy } => format!("{policy} in tier {tier}"),
        Place::Profile(name) => format!("profile {name}"),
    };
    match step {
        Step::Rule { place, index, .. } => format!("rule {index} of {}", name(place)),
        Step::TierDefault { tier, .. } => format!("no rule of tier {tier} matches"),
        Step::Missing(place) => format!("{}, which does not exist", name(place)),
        Step::End => "no policy and no profile allows it".to_owned(),
        Step::NoMatch(place) | Step::Skipped { place, .. } | Step::Staged { place, .. } => {
            name(place)
        }
    }
}

#[cfg(test)]
mod tests {
    use margay_model::meta::{ObjectMeta, Resource};
    use margay_model::net::Cidr;
    use margay_model::policy::GlobalNetworkPolicySpec;
    use margay_model::workload_endpoint::WorkloadEndpointSpec;

    use super::*;

    fn endpoint(name: &str, node: &str, ip: &str, role: &str) -> AnyResource {
        let mut metadata = ObjectMeta::namespaced("default", name);
        metadata.labels.insert("role".to_owned(), role.to_owned());
        let spec = WorkloadEndpointSpec {
            node: node.to_owned(),
            interface_name: format!("cali{name}"),
            ip_networks: vec![Cidr::host(ip.parse().unwrap())],
            profiles: vec!["projectcalico-default-allow".to_owned()],
            ..WorkloadEndpointSpec::default()
        };
        AnyResource::WorkloadEndpoint(Resource::new(metadata, spec))
    }

    #[test]
    fn cells_say_what_decides_and_own_endpoints_come_first() {
        let policy: GlobalNetworkPolicySpec =
            serde_json::from_value(json!({"selector": "role == 'db'", "types": ["Ingress"]}))
                .unwrap();
        let policy = Resource::new(ObjectMeta::named("closed".to_owned()), policy);
        let resources = [
            endpoint("a", "far", "10.0.0.1", "web"),
            endpoint("b", "here", "10.0.0.2", "db"),
            AnyResource::GlobalNetworkPolicy(policy),
        ];
        let matrix = matrix(&resources, "here", 80);
        assert_eq!(matrix["endpoints"][0]["name"], "b");
        assert_eq!(matrix["rows"][0][0], Value::Null);
        assert_eq!(matrix["rows"][0][1]["allow"], true, "{matrix}");
        assert_eq!(matrix["rows"][1][0]["allow"], false, "{matrix}");
        let why = matrix["rows"][1][0]["why"].as_str().unwrap();
        assert!(why.starts_with("ingress: "), "{why}");
    }

    #[test]
    fn a_port_is_a_number() {
        assert_eq!(port(""), Ok(80));
        assert_eq!(port("port=443"), Ok(443));
        assert!(port("port=x").is_err() && port("port=0").is_err());
    }
}
