//! Resources and packets in short.

use margay_model::any::AnyResource;
use margay_model::meta::{ObjectMeta, Resource, Spec};
use margay_policy::explain::Packet;
use serde_json::{Value, json};

/// A resource of a kind; `name` is `namespace/name` or `name`.
pub(super) fn resource<S: Spec>(name: &str, labels: Value, spec: Value) -> AnyResource
where
    Resource<S>: Into<AnyResource>,
{
    let mut metadata = match name.split_once('/') {
        Some((namespace, name)) => ObjectMeta::namespaced(namespace, name),
        None => ObjectMeta::named(name),
    };
    metadata.labels = serde_json::from_value(labels).unwrap();
    Resource::<S>::new(metadata, serde_json::from_value(spec).unwrap()).into()
}

/// A workload endpoint on node `n1`.
pub(super) fn wep(name: &str, ip: &str, labels: Value, profiles: Value) -> AnyResource {
    wep_with(name, ip, labels, json!({"profiles": profiles}))
}

/// A workload endpoint on node `n1` with further fields.
pub(super) fn wep_with(name: &str, ip: &str, labels: Value, more: Value) -> AnyResource {
    let ifname = format!("if-{}", name.replace('/', "-"));
    let mut spec = json!({
        "orchestrator": "cni", "node": "n1", "interfaceName": ifname, "ipNetworks": [ip],
    });
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    resource::<margay_model::workload_endpoint::WorkloadEndpointSpec>(name, labels, spec)
}

pub(super) fn np(name: &str, spec: Value) -> AnyResource {
    resource::<margay_model::policy::NetworkPolicySpec>(name, json!({}), spec)
}

pub(super) fn gnp(name: &str, spec: Value) -> AnyResource {
    resource::<margay_model::policy::GlobalNetworkPolicySpec>(name, json!({}), spec)
}

/// A staged policy, of a namespace if its name has one.
pub(super) fn staged(name: &str, spec: Value) -> AnyResource {
    use margay_model::staged_policy::{StagedGlobalNetworkPolicySpec, StagedNetworkPolicySpec};
    match name.contains('/') {
        true => resource::<StagedNetworkPolicySpec>(name, json!({}), spec),
        false => resource::<StagedGlobalNetworkPolicySpec>(name, json!({}), spec),
    }
}

pub(super) fn tier(name: &str, spec: Value) -> AnyResource {
    resource::<margay_model::tier::TierSpec>(name, json!({}), spec)
}

pub(super) fn profile(name: &str, spec: Value) -> AnyResource {
    resource::<margay_model::profile::ProfileSpec>(name, json!({}), spec)
}

pub(super) fn network_set(name: &str, labels: Value, nets: Value) -> AnyResource {
    resource::<margay_model::network_set::NetworkSetSpec>(name, labels, json!({"nets": nets}))
}

pub(super) fn global_network_set(name: &str, labels: Value, nets: Value) -> AnyResource {
    resource::<margay_model::network_set::GlobalNetworkSetSpec>(name, labels, json!({"nets": nets}))
}

pub(super) fn host_endpoint(name: &str, labels: Value, ips: Value) -> AnyResource {
    host_endpoint_with(name, labels, json!({"expectedIPs": ips}))
}

/// An endpoint of the host `n1`.
pub(super) fn host_endpoint_with(name: &str, labels: Value, mut spec: Value) -> AnyResource {
    spec["node"] = json!("n1");
    resource::<margay_model::host_endpoint::HostEndpointSpec>(name, labels, spec)
}

/// `SOURCE DESTINATION PROTOCOL A B`: A and B are ports, or type and code with icmp and icmp6.
pub(super) fn packet(text: &str) -> Packet {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [source, destination, protocol, a, b] = words[..] else {
        panic!("{text}")
    };
    let protocol = match protocol {
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        "icmp6" => 58,
        number => number.parse().unwrap(),
    };
    let icmp = [1, 58]
        .contains(&protocol)
        .then(|| (a.parse().unwrap(), b.parse().unwrap()));
    let port = |text: &str| {
        if icmp.is_some() {
            0
        } else {
            text.parse().unwrap()
        }
    };
    Packet {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol,
        source_port: port(a),
        destination_port: port(b),
        icmp,
    }
}
