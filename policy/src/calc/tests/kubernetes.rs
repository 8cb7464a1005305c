//! Policies of Kubernetes, converted and compiled, agree with what Kubernetes says they mean.
//!
//! The oracle here reads the documents as they are written, pod by pod, and knows nothing of tiers,
//! profiles or selectors of ours. Cases are counted as in `agreement.rs`.

use std::net::IpAddr;

use margay_model::manifest::decode_value;
use margay_model::net::Cidr;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value};

use super::agreement::clusters;
use super::*;

/// Each namespace has two, the last one has one; each with an address of both families.
const PODS: [(&str, &str, [&str; 2]); 5] = [
    ("x", "a", ["10.0.0.1", "fd00::1"]),
    ("x", "b", ["10.0.0.2", "fd00::2"]),
    ("y", "a", ["10.0.1.1", "fd00:1::1"]),
    ("y", "b", ["10.0.1.2", "fd00:1::2"]),
    ("z", "a", ["10.0.2.1", "fd00:2::1"]),
];
const STRANGERS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const PACKETS: usize = 100;

#[derive(Clone, Debug)]
struct World {
    /// Labels by namespace, with the name as Kubernetes sets it.
    namespaces: BTreeMap<String, Map<String, Value>>,
    pods: Vec<Pod>,
    policies: Vec<Value>,
}

#[derive(Clone, Debug)]
struct Pod {
    namespace: String,
    name: String,
    addresses: [IpAddr; 2],
    labels: Map<String, Value>,
    /// Name, protocol and number.
    ports: Vec<(&'static str, &'static str, u16)>,
}

fn without_nulls(mut value: Value) -> Value {
    value.as_object_mut().unwrap().retain(|_, v| !v.is_null());
    value
}

fn labels() -> impl Strategy<Value = Map<String, Value>> {
    let value = || weighted(0.6, select(vec!["1", "2", "3"]));
    (value(), value()).prop_map(|(app, tier)| {
        let labels = without_nulls(json!({"app": app, "tier": tier}));
        labels.as_object().unwrap().clone()
    })
}

fn label_selector() -> impl Strategy<Value = Value> {
    let key = || select(vec!["app", "tier"]);
    let expression = (
        key(),
        select(vec!["In", "NotIn", "Exists", "DoesNotExist"]),
        subsequence(vec!["1", "2", "3"], 1..3),
    );
    let expression = expression.prop_map(|(key, operator, values)| {
        let values = operator.ends_with("In").then_some(values);
        without_nulls(json!({"key": key, "operator": operator, "values": values}))
    });
    let by_label = (key(), select(vec!["1", "2", "3"])).prop_map(|(k, v)| json!({k: v}));
    prop_oneof![
        1 => Just(json!({})),
        3 => by_label.prop_map(|labels| json!({"matchLabels": labels})),
        3 => vec(expression, 1..3).prop_map(|list| json!({"matchExpressions": list})),
    ]
}

fn namespace_selector() -> impl Strategy<Value = Value> {
    let name = select(vec!["x", "y"]);
    prop_oneof![
        3 => label_selector(),
        1 => name.prop_map(|n| json!({"matchLabels": {"kubernetes.io/metadata.name": n}})),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    let block = select(vec![
        json!({"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]}),
        json!({"cidr": "10.0.1.2/32"}),
        json!({"cidr": "0.0.0.0/0", "except": ["10.0.0.0/24", "192.0.2.0/24"]}),
        json!({"cidr": "fd00::/32"}),
        json!({"cidr": "::/0", "except": ["fd00:1::/64"]}),
    ]);
    prop_oneof![
        1 => block.prop_map(|block| json!({"ipBlock": block})),
        1 => label_selector().prop_map(|pods| json!({"podSelector": pods})),
        1 => namespace_selector().prop_map(|of| json!({"namespaceSelector": of})),
        1 => (label_selector(), namespace_selector())
            .prop_map(|(pods, of)| json!({"podSelector": pods, "namespaceSelector": of})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = weighted(0.7, select(vec!["TCP", "UDP", "SCTP"]));
    let port = select(vec![
        json!({}),
        json!({"port": 80}),
        json!({"port": 80, "endPort": 90}),
        json!({"port": "web"}),
        json!({"port": "dns"}),
    ]);
    (protocol, port).prop_map(|(protocol, mut port)| {
        port["protocol"] = json!(protocol);
        without_nulls(port)
    })
}

fn rule(word: &'static str) -> impl Strategy<Value = Value> {
    let some = |list: Vec<Value>| (!list.is_empty()).then_some(list);
    (vec(peer(), 0..3), vec(port(), 0..3)).prop_map(move |(peers, ports)| {
        without_nulls(json!({word: some(peers), "ports": some(ports)}))
    })
}

fn network_policy() -> BoxedStrategy<Value> {
    let types = weighted(0.5, subsequence(vec!["Ingress", "Egress"], 1..3));
    (
        select(vec!["x", "y"]),
        label_selector(),
        types,
        weighted(0.7, vec(rule("from"), 0..3)),
        weighted(0.5, vec(rule("to"), 0..3)),
    )
        .prop_map(|(namespace, pods, types, ingress, egress)| {
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace},
                "spec": without_nulls(json!({
                    "podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress,
                })),
            })
        })
        .boxed()
}

fn cluster_peer(networks: bool) -> impl Strategy<Value = Value> {
    let nets = subsequence(vec!["10.0.1.0/24", "192.0.2.0/24", "fd00::/32"], 1..3);
    let pods = (namespace_selector(), label_selector());
    let pods =
        pods.prop_map(|(of, pods)| json!({"pods": {"namespaceSelector": of, "podSelector": pods}}));
    prop_oneof![
        2 => namespace_selector().prop_map(|of| json!({"namespaces": of})),
        2 => pods,
        u32::from(networks) => nets.prop_map(|nets| json!({"networks": nets})),
    ]
}

fn cluster_rule(word: &'static str) -> impl Strategy<Value = Value> {
    let port = select(vec![
        json!({}),
        json!({"destinationPort": {"number": 80}}),
        json!({"destinationPort": {"range": {"start": 80, "end": 90}}}),
    ]);
    let protocol =
        (select(vec!["tcp", "udp", "sctp"]), port).prop_map(|(p, port)| json!({p: port}));
    let protocol = prop_oneof![
        4 => protocol,
        1 => Just(json!({"destinationNamedPort": "web"})),
    ];
    (
        select(vec!["Accept", "Deny", "Pass"]),
        vec(cluster_peer(word == "to"), 1..3),
        vec(protocol, 0..3),
    )
        .prop_map(move |(action, peers, protocols)| {
            let protocols = (!protocols.is_empty()).then_some(protocols);
            without_nulls(json!({"action": action, word: peers, "protocols": protocols}))
        })
}

fn cluster_policy() -> BoxedStrategy<Value> {
    (
        select(vec!["Admin", "Admin", "Baseline"]),
        cluster_peer(false),
        weighted(0.7, vec(cluster_rule("from"), 0..4)),
        weighted(0.7, vec(cluster_rule("to"), 0..4)),
    )
        .prop_map(|(tier, subject, ingress, egress)| {
            json!({
                "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
                "metadata": {},
                "spec": without_nulls(json!({
                    "tier": tier, "subject": subject, "ingress": ingress, "egress": egress,
                })),
            })
        })
        .boxed()
}

fn pod(
    (namespace, name, addresses): (&'static str, &'static str, [&str; 2]),
) -> BoxedStrategy<Pod> {
    let addresses = addresses.map(|address| address.parse().unwrap());
    let web = (
        Just("web"),
        select(vec!["TCP", "UDP"]),
        select(vec![80u16, 8080]),
    );
    let dns = (
        Just("dns"),
        select(vec!["UDP", "SCTP"]),
        select(vec![53u16, 80]),
    );
    (labels(), weighted(0.6, web), weighted(0.6, dns))
        .prop_map(move |(labels, web, dns)| Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            addresses,
            labels,
            ports: web.into_iter().chain(dns).collect(),
        })
        .boxed()
}

fn world() -> impl Strategy<Value = World> {
    let namespaces = vec(labels(), 3).prop_map(|list| {
        let named = ["x", "y", "z"].into_iter().zip(list);
        let named = named.map(|(name, mut labels)| {
            labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
            (name.to_owned(), labels)
        });
        named.collect::<BTreeMap<_, _>>()
    });
    let policies = vec(
        prop_oneof![3 => network_policy(), 2 => cluster_policy()],
        0..6,
    );
    let numbered = policies.prop_map(|mut list| {
        for (i, policy) in list.iter_mut().enumerate() {
            policy["metadata"]["name"] = json!(format!("p{i}"));
            // What a tie means is left open, so there are none; and the order is not that of names.
            if policy["kind"] == "ClusterNetworkPolicy" {
                policy["spec"]["priority"] = json!((i * 7) % 10);
            }
        }
        list
    });
    let pods = PODS.map(pod).to_vec();
    (namespaces, pods, numbered).prop_map(|(namespaces, pods, policies)| World {
        namespaces,
        pods,
        policies,
    })
}

/// Between pods, or a pod and a stranger.
fn packet() -> impl Strategy<Value = Packet> {
    let ends = |family: usize| {
        let pods = PODS.map(|(_, _, addresses)| addresses[family]);
        let all = pods.into_iter().chain([STRANGERS[family]]);
        let all: Vec<IpAddr> = all.map(|address| address.parse().unwrap()).collect();
        (select(all.clone()), select(all))
    };
    let port = select(vec![80u16, 85, 8080, 53, 7]);
    let ends = prop_oneof![ends(0), ends(1)];
    (ends, select(vec![6u8, 17, 132, 1]), port).prop_map(
        |((source, destination), protocol, port)| {
            let icmp = (protocol == 1).then_some((if source.is_ipv4() { 8 } else { 128 }, 0));
            Packet {
                source,
                destination,
                protocol: if protocol == 1 && source.is_ipv6() {
                    58
                } else {
                    protocol
                },
                source_port: if icmp.is_some() { 0 } else { 40000 },
                destination_port: if icmp.is_some() { 0 } else { port },
                icmp,
            }
        },
    )
}

/// A list, empty when absent.
fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn selects(selector: &Value, labels: &Map<String, Value>) -> bool {
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    let mut wanted = wanted.into_iter().flatten();
    let holds = |expression: &Value| {
        let found = labels.get(expression["key"].as_str().unwrap());
        let among = found.is_some_and(|value| list(expression, "values").contains(value));
        match expression["operator"].as_str().unwrap() {
            "In" => among,
            "NotIn" => !among,
            "Exists" => found.is_some(),
            _ => found.is_none(),
        }
    };
    wanted.all(|(key, value)| labels.get(key) == Some(value))
        && list(selector, "matchExpressions").iter().all(holds)
}

fn protocol_number(name: &str) -> u8 {
    match name.to_ascii_uppercase().as_str() {
        "TCP" => 6,
        "UDP" => 17,
        _ => 132,
    }
}

fn in_net(address: IpAddr, net: &Value) -> bool {
    net.as_str()
        .unwrap()
        .parse::<Cidr>()
        .unwrap()
        .contains(address)
}

impl World {
    fn at(&self, address: IpAddr) -> Option<&Pod> {
        self.pods
            .iter()
            .find(|pod| pod.addresses.contains(&address))
    }

    /// A port that the receiver gives this name, with this protocol.
    fn is_named(&self, name: &str, packet: &Packet) -> bool {
        let ports = self
            .at(packet.destination)
            .map_or(&[][..], |pod| &pod.ports);
        ports.iter().any(|(own, protocol, port)| {
            *own == name
                && protocol_number(protocol) == packet.protocol
                && *port == packet.destination_port
        })
    }

    fn port_matches(&self, spec: &Value, packet: &Packet) -> bool {
        let protocol = spec
            .get("protocol")
            .and_then(Value::as_str)
            .unwrap_or("TCP");
        if protocol_number(protocol) != packet.protocol {
            return false;
        }
        let port = u64::from(packet.destination_port);
        match (
            spec.get("port"),
            spec.get("endPort").and_then(Value::as_u64),
        ) {
            (None, _) => true,
            (Some(Value::String(name)), _) => self.is_named(name, packet),
            (Some(first), Some(last)) => (first.as_u64().unwrap()..=last).contains(&port),
            (Some(number), None) => number.as_u64() == Some(port),
        }
    }

    fn peer_matches(&self, peer: &Value, policy: &Value, address: IpAddr) -> bool {
        if let Some(block) = peer.get("ipBlock") {
            let except = list(block, "except").iter();
            return in_net(address, &block["cidr"])
                && !except.into_iter().any(|e| in_net(address, e));
        }
        self.at(address).is_some_and(|pod| {
            let namespace = match peer.get("namespaceSelector") {
                Some(selector) => selects(selector, &self.namespaces[&pod.namespace]),
                None => policy["metadata"]["namespace"] == *pod.namespace,
            };
            let own = peer.get("podSelector");
            namespace && own.is_none_or(|selector| selects(selector, &pod.labels))
        })
    }

    /// `subject` and peers of a cluster's policy.
    fn cluster_peer_matches(&self, peer: &Value, address: IpAddr) -> bool {
        if let Some(nets) = peer.get("networks") {
            return nets
                .as_array()
                .unwrap()
                .iter()
                .any(|net| in_net(address, net));
        }
        let (of, pods) = match peer.get("pods") {
            Some(pods) => (&pods["namespaceSelector"], &pods["podSelector"]),
            None => (&peer["namespaces"], &Value::Null),
        };
        let selected =
            |pod: &Pod| selects(of, &self.namespaces[&pod.namespace]) && selects(pods, &pod.labels);
        self.at(address).is_some_and(selected)
    }

    fn protocol_matches(&self, spec: &Value, packet: &Packet) -> bool {
        if let Some(name) = spec.get("destinationNamedPort") {
            return self.is_named(name.as_str().unwrap(), packet);
        }
        let (protocol, destination) = spec.as_object().unwrap().iter().next().unwrap();
        let wanted = &destination["destinationPort"];
        let port = u64::from(packet.destination_port);
        let in_port = match (wanted["number"].as_u64(), &wanted["range"]) {
            (Some(number), _) => number == port,
            (None, Value::Null) => true,
            (None, range) => {
                let bound = |name: &str| range[name].as_u64().unwrap();
                (bound("start")..=bound("end")).contains(&port)
            }
        };
        protocol_number(protocol) == packet.protocol && in_port
    }

    /// What the policies of a tier of the cluster say; nothing if none does, or if one passes.
    fn cluster_tier(
        &self,
        tier: &str,
        subject: IpAddr,
        remote: IpAddr,
        way: &Way,
        packet: &Packet,
    ) -> Option<bool> {
        let of_tier = |p: &&Value| {
            p["spec"]["tier"] == tier && self.cluster_peer_matches(&p["spec"]["subject"], subject)
        };
        let mut policies: Vec<&Value> = self.policies.iter().filter(of_tier).collect();
        policies.sort_by_key(|policy| policy["spec"]["priority"].as_u64());
        let rules = policies
            .into_iter()
            .flat_map(|p| list(&p["spec"], way.rules));
        let mut matching = rules.filter(|rule| {
            let protocols = list(rule, "protocols");
            let mut peers = list(rule, way.peers).iter();
            peers.any(|peer| self.cluster_peer_matches(peer, remote))
                && (protocols.is_empty()
                    || protocols.iter().any(|p| self.protocol_matches(p, packet)))
        });
        match matching.next()?["action"].as_str().unwrap() {
            "Accept" => Some(true),
            "Deny" => Some(false),
            _ => None,
        }
    }

    fn allows(&self, subject: IpAddr, remote: IpAddr, way: &Way, packet: &Packet) -> bool {
        let admin = self.cluster_tier("Admin", subject, remote, way, packet);
        let baseline = || self.cluster_tier("Baseline", subject, remote, way, packet);
        admin
            .or_else(|| self.network_policies(subject, remote, way, packet))
            .or_else(baseline)
            .unwrap_or(true)
    }

    /// Nothing for a pod that is not isolated in this direction.
    fn network_policies(
        &self,
        subject: IpAddr,
        remote: IpAddr,
        way: &Way,
        packet: &Packet,
    ) -> Option<bool> {
        let pod = self.at(subject)?;
        let isolates = |policy: &&Value| {
            let spec = &policy["spec"];
            let types = list(spec, "policyTypes");
            let by_default = way.kind == "Ingress" || !list(spec, way.rules).is_empty();
            policy["kind"] == "NetworkPolicy"
                && policy["metadata"]["namespace"] == *pod.namespace
                && selects(&spec["podSelector"], &pod.labels)
                && (types.contains(&json!(way.kind)) || (types.is_empty() && by_default))
        };
        let isolating: Vec<&Value> = self.policies.iter().filter(isolates).collect();
        let allows = |policy: &&Value| {
            list(&policy["spec"], way.rules).iter().any(|rule| {
                let (peers, ports) = (list(rule, way.peers), list(rule, "ports"));
                let is_peer = |peer: &Value| self.peer_matches(peer, policy, remote);
                (peers.is_empty() || peers.iter().any(is_peer))
                    && (ports.is_empty() || ports.iter().any(|p| self.port_matches(p, packet)))
            })
        };
        (!isolating.is_empty()).then(|| isolating.iter().any(allows))
    }

    /// The same as resources of ours.
    fn resources(&self) -> Vec<AnyResource> {
        let selector = |text: &str| {
            let parsed = text.parse::<Selector>();
            parsed.map(drop).map_err(|error| error.to_string())
        };
        let converted = self
            .policies
            .iter()
            .flat_map(|p| decode_value(p, &selector));
        let policies = converted.map(|document| document.result.unwrap());
        let namespaces = self.namespaces.iter().map(|(name, labels)| {
            let labels = labels.iter().map(|(k, v)| (format!("pcns.{k}"), v.clone()));
            let labels: Map<_, _> = labels.collect();
            let allow = json!([{"action": "Allow"}]);
            profile(
                &format!("kns.{name}"),
                json!({"labelsToApply": labels, "ingress": allow, "egress": allow}),
            )
        });
        let pods = self.pods.iter().map(|pod| {
            let ports = pod.ports.iter();
            let ports = ports.map(
                |(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}),
            );
            let spec = json!({
                "orchestrator": "k8s", "ipNetworks": pod.addresses,
                "profiles": [format!("kns.{}", pod.namespace)], "ports": ports.collect::<Vec<_>>(),
            });
            let name = format!("{}/{}", pod.namespace, pod.name);
            wep_with(&name, "10.0.0.1", json!(pod.labels), spec)
        });
        policies.chain(namespaces).chain(pods).collect()
    }
}

/// A direction, in the words of Kubernetes.
struct Way {
    kind: &'static str,
    rules: &'static str,
    peers: &'static str,
}

const INGRESS: Way = Way {
    kind: "Ingress",
    rules: "ingress",
    peers: "from",
};
const EGRESS: Way = Way {
    kind: "Egress",
    rules: "egress",
    peers: "to",
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(clusters()))]

    #[test]
    fn converted_policies_mean_what_kubernetes_says(
        world in world(),
        packets in vec(packet(), PACKETS),
    ) {
        let resources = world.resources();
        let view = view_of(Scope::Cluster, &resources);
        let plan = |pod: &Pod| {
            let found = view.endpoints.iter().find(|(key, _)| {
                key.name == pod.name && key.namespace.as_ref() == Some(&pod.namespace)
            });
            found.unwrap().1
        };
        for packet in packets.iter().filter(|p| p.source != p.destination) {
            let (source, destination) = (packet.source, packet.destination);
            for (subject, remote, way, direction) in [
                (destination, source, &INGRESS, Direction::Ingress),
                (source, destination, &EGRESS, Direction::Egress),
            ] {
                let Some(pod) = world.at(subject) else { continue };
                let (found, steps) = verdict(&view, plan(pod), direction, packet);
                prop_assert_eq!(
                    found == Verdict::Allow,
                    world.allows(subject, remote, way, packet),
                    "{}/{} {:?} {:?}: {:?}", pod.namespace, pod.name, direction, packet, steps
                );
            }
        }
    }
}
