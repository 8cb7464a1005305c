//! Random resources from small pools, so that they meet each other often.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_model::any::AnyResource;
use margay_policy::calc::DEFAULT_ALLOW_PROFILE;
use margay_policy::explain::Packet;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::fixtures::*;
use super::oracle::BROKEN;

/// Unknown to every endpoint of the pool, and inside some of the networks.
const STRANGERS: [&str; 4] = ["192.0.2.7", "10.0.0.14", "fd00::e", "2001:db8::7"];
const ADDRESSES: [&str; 7] = [
    "10.0.0.1", "10.0.0.2", "10.0.0.5", "10.0.0.9", "fd00::1", "fd00::2", "fd00::9",
];
const NETS: [&str; 8] = [
    "10.0.0.0/29",
    "10.0.0.1/32",
    "192.0.2.0/24",
    "0.0.0.0/0",
    "fd00::/125",
    "fd00::1/128",
    "::/0",
    "10.0.0.8/29",
];
const SELECTORS: [&str; 9] = [
    "all()",
    "app == 'a'",
    "app != 'a'",
    "app in {'a', 'b'}",
    "!has(zone)",
    "app == 'b' || has(zone)",
    "app starts with 'a' && zone not in {'1'}",
    "projectcalico.org/namespace == 'x'",
    "global()",
];
const NAMESPACE_SELECTORS: [&str; 5] = [
    "all()",
    "global()",
    "env == 'prod'",
    "env != 'prod'",
    "has(env) && projectcalico.org/name == 'x'",
];

fn labels() -> impl Strategy<Value = Value> {
    (
        weighted(0.8, select(vec!["a", "b", "ab"])),
        weighted(0.4, select(vec!["1", "2"])),
    )
        .prop_map(|(app, zone)| without_nulls(json!({"app": app, "zone": zone})))
}

fn without_nulls(mut value: Value) -> Value {
    let empty = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
    value.as_object_mut().unwrap().retain(|_, v| !empty(v));
    value
}

fn some_of(pool: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(pool.to_vec(), 0..=most)
}

fn namespace() -> impl Strategy<Value = &'static str> {
    select(vec!["x", "y"])
}

fn workload() -> impl Strategy<Value = AnyResource> {
    let ports = vec(
        (
            select(vec!["web", "dns"]),
            select(vec!["TCP", "UDP", "SCTP"]),
            select(vec![80, 81, 53]),
        )
            .prop_map(
                |(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}),
            ),
        0..3,
    );
    (
        (
            namespace(),
            select(vec!["a", "b", "c"]),
            some_of(&ADDRESSES, 2),
            labels(),
            ports,
        ),
        some_of(
            &["kns.x", "kns.y", "ksa.x.bob", "open", DEFAULT_ALLOW_PROFILE],
            3,
        ),
        weighted(0.4, select(vec!["bob", "eve"])),
        select(vec!["n1", "n1", "n2"]),
    )
        .prop_map(
            |((ns, name, ips, labels, ports), profiles, account, node)| {
                let more = json!({"ipNetworks": ips, "ports": ports, "profiles": profiles,
                "serviceAccountName": account, "node": node});
                wep_with(
                    &format!("{ns}/{name}"),
                    "10.0.0.1",
                    labels,
                    without_nulls(more),
                )
            },
        )
}

fn set_of_nets() -> impl Strategy<Value = AnyResource> {
    let name = select(vec!["x/s", "y/s", "s", "t"]);
    (name, labels(), some_of(&NETS, 2)).prop_map(|(name, labels, nets)| {
        if name.contains('/') {
            network_set(name, labels, json!(nets))
        } else {
            global_network_set(name, labels, json!(nets))
        }
    })
}

fn host() -> impl Strategy<Value = AnyResource> {
    let name = select(vec!["h", "i"]);
    let interface = weighted(0.6, select(vec!["eth0", "*"]));
    let profiles = some_of(&["kns.x", "open", DEFAULT_ALLOW_PROFILE], 2);
    (name, labels(), some_of(&ADDRESSES, 1), interface, profiles).prop_map(
        |(name, labels, ips, interface, profiles)| {
            let spec =
                json!({"expectedIPs": ips, "interfaceName": interface, "profiles": profiles});
            host_endpoint_with(name, labels, without_nulls(spec))
        },
    )
}

fn any_profile() -> impl Strategy<Value = AnyResource> {
    let name = select(vec!["kns.x", "kns.y", "ksa.x.bob", "open"]);
    let env = weighted(0.7, select(vec!["prod", "dev"]));
    (
        name,
        env,
        weighted(0.5, select(vec!["red"])),
        rules(),
        rules(),
    )
        .prop_map(|(name, env, team, ingress, egress)| {
            let labels = without_nulls(json!({"pcns.env": env, "pcsa.team": team}));
            profile(
                name,
                json!({"labelsToApply": labels, "ingress": ingress, "egress": egress}),
            )
        })
}

fn any_tier() -> impl Strategy<Value = AnyResource> {
    let order = weighted(0.7, select(vec![1.0, 2.0, 2e6]));
    (
        select(vec!["t1", "t2"]),
        order,
        weighted(0.6, select(vec!["Deny", "Pass"])),
    )
        .prop_map(|(name, order, action)| {
            tier(
                name,
                without_nulls(json!({"order": order, "defaultAction": action})),
            )
        })
}

fn entity(ports: bool) -> impl Strategy<Value = Value> {
    let port = || {
        let list = vec(
            select(vec![json!(80), json!("81:90"), json!("web"), json!("dns")]),
            1..3,
        );
        weighted(0.3, list).prop_map(move |list| list.filter(|_| ports))
    };
    let accounts = (
        some_of(&["bob", "eve"], 2),
        weighted(0.3, Just("team == 'red'")),
    )
        .prop_map(|(names, selector)| without_nulls(json!({"names": names, "selector": selector})));
    let selector = || prop_oneof![30 => select(SELECTORS.to_vec()), 1 => Just(BROKEN)];
    (
        weighted(0.2, some_of(&NETS, 3)),
        weighted(0.1, some_of(&NETS, 2)),
        weighted(0.3, selector()),
        weighted(0.1, selector()),
        weighted(0.2, select(NAMESPACE_SELECTORS.to_vec())),
        weighted(0.1, accounts),
        port(),
        port(),
    )
        .prop_map(
            |(nets, not_nets, selector, not, namespace, accounts, ports, not_ports)| {
                without_nulls(json!({
                    "nets": nets, "notNets": not_nets, "selector": selector, "notSelector": not,
                    "namespaceSelector": namespace, "serviceAccounts": accounts, "ports": ports,
                    "notPorts": not_ports,
                }))
            },
        )
}

/// On the heap, as the tree of all that a rule may be is too large for the stack of a test.
fn rule() -> BoxedStrategy<Value> {
    let protocol = select(vec![
        Value::Null,
        Value::Null,
        json!("TCP"),
        json!("UDP"),
        json!("SCTP"),
        json!(6),
        json!("ICMP"),
        json!("ICMPv6"),
        json!(47),
    ]);
    protocol.prop_flat_map(|protocol| {
        let is = |names: &[Value]| names.contains(&protocol);
        let ports = is(&[json!("TCP"), json!("UDP"), json!("SCTP"), json!(6)]);
        let icmp = is(&[json!("ICMP"), json!("ICMPv6")]);
        let kind = || {
            let fields = (select(vec![8, 128]), weighted(0.5, select(vec![0, 1])));
            let fields = fields.prop_map(|(t, c)| without_nulls(json!({"type": t, "code": c})));
            weighted(0.3, fields).prop_map(move |fields| fields.filter(|_| icmp))
        };
        let version = weighted(0.15, select(vec![4, 6])).prop_map(move |v| v.filter(|_| !icmp));
        (
            select(vec!["Allow", "Allow", "Deny", "Pass", "Log"]),
            version,
            weighted(0.1, select(vec![json!("TCP"), json!(17)])),
            (kind(), kind()),
            entity(ports),
            entity(ports),
        )
            .prop_map(move |(action, version, not_protocol, (icmp, not_icmp), source, destination)| {
                without_nulls(json!({
                    "action": action, "ipVersion": version, "protocol": protocol,
                    "notProtocol": not_protocol, "icmp": icmp, "notICMP": not_icmp, "source": source,
                    "destination": destination,
                }))
            })
    })
    .boxed()
}

pub(super) fn rules() -> impl Strategy<Value = Vec<Value>> {
    prop_oneof![3 => vec(rule(), 0..3), 1 => neighbours()]
}

/// Rules that differ in one list, and at times in another, as those of people often do.
pub(super) fn neighbours() -> BoxedStrategy<Vec<Value>> {
    let side = || select(vec!["source", "destination"]);
    let ports = vec(
        select(vec![
            json!(80),
            json!("81:90"),
            json!(53),
            json!("web"),
            json!("dns"),
        ]),
        1..3,
    );
    let lists = (
        vec(select(NETS.to_vec()), 1..3),
        ports,
        weighted(0.2, side()),
    );
    (rule(), side(), any::<bool>(), vec(lists, 2..5))
        .prop_map(|(base, side, by_nets, lists)| {
            let protocol = &base["protocol"];
            let has_ports =
                [json!("TCP"), json!("UDP"), json!("SCTP"), json!(6)].contains(protocol);
            let list = if by_nets || !has_ports {
                "nets"
            } else {
                "ports"
            };
            let rule = |(nets, ports, also): (Vec<_>, Vec<_>, Option<&str>)| {
                let mut rule = base.clone();
                rule[side][list] = if list == "nets" {
                    json!(nets)
                } else {
                    json!(ports)
                };
                if let Some(other) = also {
                    rule[other]["nets"] = json!(nets);
                }
                rule
            };
            lists.into_iter().map(rule).collect()
        })
        .boxed()
}

/// When a policy is asked.
fn flags() -> impl Strategy<Value = Vec<&'static str>> {
    select(vec![
        vec!["applyOnForward"],
        vec!["applyOnForward"],
        vec!["applyOnForward", "doNotTrack"],
        vec!["applyOnForward", "preDNAT"],
        vec!["doNotTrack", "preDNAT"],
    ])
}

fn policy() -> impl Strategy<Value = AnyResource> {
    let selector = prop_oneof![20 => select(SELECTORS.to_vec()), 1 => Just(BROKEN)];
    (
        select(vec!["x/p", "y/p", "x/q", "p", "q", "r"]),
        weighted(
            0.5,
            select(vec!["t1", "t2", "kube-admin", "kube-baseline", "default"]),
        ),
        weighted(0.7, select(vec![1.0, 2.0, -3.0])),
        weighted(0.8, selector),
        weighted(
            0.3,
            select(vec![
                json!(["Ingress"]),
                json!(["Egress"]),
                json!(["Ingress", "Egress"]),
            ]),
        ),
        weighted(0.2, select(NAMESPACE_SELECTORS.to_vec())),
        weighted(0.1, Just("team == 'red'")),
        (
            rules(),
            rules(),
            weighted(0.25, flags()),
            weighted(0.15, select(vec!["Set", "Delete"])),
        ),
    )
        .prop_map(
            |(
                name,
                tier,
                order,
                selector,
                types,
                namespaces,
                accounts,
                (ingress, egress, flags, staged),
            )| {
                let global = !name.contains('/');
                let mut spec = without_nulls(json!({
                    "tier": tier, "order": order, "selector": selector, "types": types,
                    "serviceAccountSelector": accounts, "ingress": ingress, "egress": egress,
                    "namespaceSelector": namespaces.filter(|_| global),
                }));
                if global {
                    for flag in flags.into_iter().flatten() {
                        spec[flag] = json!(true);
                    }
                }
                if let Some(action) = staged {
                    spec["stagedAction"] = json!(action);
                    return super::fixtures::staged(name, spec);
                }
                match global {
                    true => gnp(name, spec),
                    false => np(name, spec),
                }
            },
        )
}

/// One resource of any kind that matters.
pub(super) fn any_resource() -> impl Strategy<Value = AnyResource> {
    prop_oneof![
        5 => workload(),
        2 => set_of_nets(),
        2 => host(),
        2 => any_profile(),
        1 => any_tier(),
        5 => policy(),
    ]
}

/// A cluster: no two resources have one key.
pub(super) fn any_cluster() -> impl Strategy<Value = Vec<AnyResource>> {
    vec(any_resource(), 1..16).prop_map(|list| {
        let by_key: BTreeMap<_, _> = list.into_iter().map(|r| (r.key(), r)).collect();
        by_key.into_values().collect()
    })
}

/// A packet among the addresses of the pool, both of one family.
pub(super) fn any_packet() -> impl Strategy<Value = Packet> {
    let pool = |v6: bool| {
        let all = ADDRESSES.iter().chain(&STRANGERS).copied();
        let own = all.filter(|address| address.contains(':') == v6);
        let parsed = own.map(|address| address.parse::<IpAddr>().unwrap());
        select(parsed.collect::<Vec<_>>())
    };
    let (v4, v6) = ((pool(false), pool(false)), (pool(true), pool(true)));
    let port = || select(vec![80u16, 81, 53, 7]);
    let kind = (select(vec![8u8, 128]), select(vec![0u8, 1]));
    let protocol = select(vec![6u8, 17, 47, 1, 132]);
    (any::<bool>(), v4, v6, protocol, port(), port(), kind).prop_map(
        |(is_v6, v4, v6, protocol, source_port, destination_port, kind)| {
            let (source, destination) = if is_v6 { v6 } else { v4 };
            let protocol = if is_v6 && protocol == 1 { 58 } else { protocol };
            let port = |port| {
                if [6, 17, 132].contains(&protocol) {
                    port
                } else {
                    0
                }
            };
            Packet {
                source,
                destination,
                protocol,
                source_port: port(source_port),
                destination_port: port(destination_port),
                icmp: [1, 58].contains(&protocol).then_some(kind),
            }
        },
    )
}
