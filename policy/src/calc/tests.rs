//! Tests of the calculation: named examples, sequences of states, and an oracle.

mod arbitrary;
mod checker;
mod examples;
mod oracle;
mod sequences;

use margay_model::meta::{ObjectMeta, Resource, Spec};
use serde_json::{Value, json};

use super::*;
use crate::explain::{Packet, Step, Verdict, verdict};
use crate::program::{Direction, View};

/// A resource of a kind; `name` is `namespace/name` or `name`.
fn resource<S: Spec>(name: &str, labels: Value, spec: Value) -> AnyResource
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
fn wep(name: &str, ip: &str, labels: Value, profiles: Value) -> AnyResource {
    wep_with(name, ip, labels, json!({"profiles": profiles}))
}

/// A workload endpoint on node `n1` with further fields.
fn wep_with(name: &str, ip: &str, labels: Value, more: Value) -> AnyResource {
    let ifname = format!("if-{}", name.replace('/', "-"));
    let mut spec = json!({
        "orchestrator": "cni", "node": "n1", "interfaceName": ifname, "ipNetworks": [ip],
    });
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    resource::<margay_model::workload_endpoint::WorkloadEndpointSpec>(name, labels, spec)
}

fn np(name: &str, spec: Value) -> AnyResource {
    resource::<margay_model::policy::NetworkPolicySpec>(name, json!({}), spec)
}

fn gnp(name: &str, spec: Value) -> AnyResource {
    resource::<margay_model::policy::GlobalNetworkPolicySpec>(name, json!({}), spec)
}

fn tier(name: &str, spec: Value) -> AnyResource {
    resource::<margay_model::tier::TierSpec>(name, json!({}), spec)
}

fn profile(name: &str, spec: Value) -> AnyResource {
    resource::<margay_model::profile::ProfileSpec>(name, json!({}), spec)
}

fn network_set(name: &str, labels: Value, nets: Value) -> AnyResource {
    resource::<margay_model::network_set::NetworkSetSpec>(name, labels, json!({"nets": nets}))
}

fn global_network_set(name: &str, labels: Value, nets: Value) -> AnyResource {
    resource::<margay_model::network_set::GlobalNetworkSetSpec>(name, labels, json!({"nets": nets}))
}

fn host_endpoint(name: &str, labels: Value, ips: Value) -> AnyResource {
    let spec = json!({"node": "n1", "expectedIPs": ips});
    resource::<margay_model::host_endpoint::HostEndpointSpec>(name, labels, spec)
}

/// What a fresh calculation over these resources emits, added up; the checker watches.
fn view_of<'a>(scope: Scope, resources: impl IntoIterator<Item = &'a AnyResource>) -> View {
    let mut calc = Calc::new(scope);
    for resource in resources {
        calc.update(resource);
    }
    let mut checker = checker::Checker::default();
    checker.take(calc.flush());
    checker.view
}

/// A cluster at rest, to ask questions of.
struct Cluster {
    view: View,
    events: Vec<Event>,
}

impl Cluster {
    fn new(resources: &[AnyResource]) -> Self {
        let mut calc = Calc::new(Scope::Cluster);
        resources.iter().for_each(|resource| calc.update(resource));
        let mut checker = checker::Checker::default();
        checker.take(calc.flush());
        Self {
            view: checker.view,
            events: calc.take_events(),
        }
    }

    fn plan(&self, name: &str) -> &EndpointPlan {
        let found = self.view.endpoints.iter().find(|(key, _)| {
            format!("{}/{}", key.namespace.as_deref().unwrap_or(""), key.name) == name
        });
        found.unwrap_or_else(|| panic!("no endpoint {name}")).1
    }

    fn ask(&self, name: &str, direction: Direction, packet: &Packet) -> (bool, Vec<Step>) {
        let (verdict, steps) = verdict(&self.view, self.plan(name), direction, packet);
        (verdict == Verdict::Allow, steps)
    }

    /// Whether the endpoint takes in a packet written as in [`packet`].
    fn takes(&self, name: &str, text: &str) -> bool {
        self.ask(name, Direction::Ingress, &packet(text)).0
    }

    /// Whether the endpoint may send a packet written as in [`packet`].
    fn sends(&self, name: &str, text: &str) -> bool {
        self.ask(name, Direction::Egress, &packet(text)).0
    }

    fn policies(&self, name: &str, direction: Direction) -> Vec<String> {
        let tiers = self.plan(name).tiers(direction);
        let names = |tier: &crate::program::TierPlan| {
            let tier_name = tier.name.clone();
            let policies = tier.policies.clone();
            policies
                .into_iter()
                .map(move |p| format!("{tier_name}:{}", p.name))
        };
        tiers.iter().flat_map(names).collect()
    }
}

/// `SOURCE DESTINATION PROTOCOL A B`: A and B are ports, or type and code with icmp and icmp6.
fn packet(text: &str) -> Packet {
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
