//! One test for each rule of the conversion.

use serde_json::{Value, json};

use crate::manifest::decode_value;

/// The resource that a document becomes, or all that is wrong with it.
fn converted(document: Value) -> Result<Value, String> {
    let mut documents = decode_value(&document, &|_| Ok(()));
    let result = documents
        .remove(0)
        .result
        .map_err(|error| error.to_string());
    result.map(|resource| serde_json::to_value(&resource).unwrap())
}

fn network_policy(spec: Value) -> Result<Value, String> {
    converted(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p.q", "namespace": "prod", "labels": {"a": "b"}}, "spec": spec,
    }))
}

fn ingress(rules: Value) -> Value {
    network_policy(json!({"podSelector": {}, "ingress": rules})).unwrap()["spec"]["ingress"].clone()
}

fn cluster_policy(spec: Value) -> Result<Value, String> {
    converted(json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "p"}, "spec": spec,
    }))
}

const PODS: &str = "projectcalico.org/orchestrator == 'k8s'";

#[test]
fn a_network_policy_gets_prefix_order_and_tier() {
    let policy = network_policy(json!({"podSelector": {"matchLabels": {"b": "2", "a": "1"}}}));
    assert_eq!(
        policy.unwrap(),
        json!({
            "kind": "NetworkPolicy", "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "knp.default.p.q", "namespace": "prod"},
            "spec": {
                "tier": "default", "order": 1000,
                "selector": format!("{PODS} && a == '1' && b == '2'"), "types": ["Ingress"],
            },
        })
    );
}

#[test]
fn types_default_to_ingress_and_to_egress_only_with_rules() {
    for (spec, types) in [
        (json!({}), json!(["Ingress"])),
        (json!({"ingress": [{}]}), json!(["Ingress"])),
        (json!({"egress": []}), json!(["Ingress"])),
        (json!({"egress": [{}]}), json!(["Ingress", "Egress"])),
        (json!({"policyTypes": ["Egress"]}), json!(["Egress"])),
        (
            json!({"policyTypes": ["Ingress"], "egress": [{}]}),
            json!(["Ingress"]),
        ),
    ] {
        let policy = network_policy(spec.clone()).unwrap();
        assert_eq!(policy["spec"]["types"], types, "{spec}");
    }
}

#[test]
fn an_empty_rule_allows_everything() {
    assert_eq!(ingress(json!([{}])), json!([{"action": "Allow"}]));
    assert_eq!(
        ingress(json!([{"from": [], "ports": []}])),
        json!([{"action": "Allow"}])
    );
}

#[test]
fn selectors_of_one_peer_are_both_asked_and_peers_are_alternatives() {
    let pods = json!({"matchLabels": {"a": "1"}});
    let found = ingress(json!([{"from": [
        {"podSelector": pods},
        {"namespaceSelector": pods},
        {"podSelector": pods, "namespaceSelector": {}},
    ]}]));
    assert_eq!(
        found,
        json!([
            {"action": "Allow", "source": {"selector": format!("{PODS} && a == '1'")}},
            {"action": "Allow", "source": {"selector": PODS, "namespaceSelector": "a == '1'"}},
            {"action": "Allow", "source": {
                "selector": format!("{PODS} && a == '1'"), "namespaceSelector": "all()",
            }},
        ])
    );
}

#[test]
fn a_block_with_exceptions_is_one_rule_with_its_own_exceptions() {
    let found = ingress(json!([{"from": [
        {"ipBlock": {"cidr": "10.0.0.1/8", "except": ["10.1.0.0/16"]}},
        {"ipBlock": {"cidr": "10.1.2.0/24"}},
    ]}]));
    assert_eq!(
        found,
        json!([
            {"action": "Allow", "source": {"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"]}},
            {"action": "Allow", "source": {"nets": ["10.1.2.0/24"]}},
        ])
    );
}

#[test]
fn ports_are_the_receivers_in_both_directions_and_grouped_by_protocol() {
    let ports = json!([
        {"port": 443}, {"protocol": "UDP", "port": "dns"}, {"port": 444},
        {"port": 8000, "endPort": 8080}, {"protocol": "SCTP"}, {"protocol": "SCTP", "port": 9},
    ]);
    let spec = json!({"ingress": [{"ports": ports}], "egress": [{"ports": ports}]});
    let spec = network_policy(spec).unwrap()["spec"].clone();
    let rules = json!([
        {"action": "Allow", "protocol": "SCTP"},
        {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["443:444", "8000:8080"]}},
        {"action": "Allow", "protocol": "UDP", "destination": {"ports": ["dns"]}},
    ]);
    assert_eq!(spec["ingress"], rules);
    assert_eq!(spec["egress"], rules);
}

#[test]
fn expressions_are_written_with_all_four_operators() {
    let expressions = json!([
        {"key": "a", "operator": "In", "values": ["x", "y"]},
        {"key": "b", "operator": "NotIn", "values": ["x"]},
        {"key": "c/d", "operator": "Exists"},
        {"key": "e", "operator": "DoesNotExist"},
    ]);
    let policy = network_policy(json!({"podSelector": {"matchExpressions": expressions}}));
    assert_eq!(
        policy.unwrap()["spec"]["selector"],
        format!("{PODS} && a in {{ 'x', 'y' }} && b not in {{ 'x' }} && has(c/d) && ! has(e)")
    );
}

#[test]
fn mistakes_of_a_network_policy_are_named() {
    let rule = |rule: Value| json!({"ingress": [rule]});
    for (spec, says) in [
        (
            rule(json!({"from": [{}]})),
            "spec.ingress[0].from[0]: found nothing",
        ),
        (
            rule(json!({"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]})),
            "from[0].ipBlock: found a block",
        ),
        (
            rule(json!({"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]})),
            "ipBlock.cidr: found",
        ),
        (
            rule(json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]})),
            "except[0]: found \"10.0.0.0/8\", allowed: a part of 10.0.0.0/8",
        ),
        (
            rule(json!({"ports": [{"protocol": "tcp"}]})),
            "ports[0].protocol: found \"tcp\"",
        ),
        (
            rule(json!({"ports": [{"port": 0}]})),
            "ports[0].port: found 0",
        ),
        (
            rule(json!({"ports": [{"port": "0123456789abcdef"}]})),
            "ports[0].port: found",
        ),
        (
            rule(json!({"ports": [{"port": "http", "endPort": 90}]})),
            "endPort: found 90",
        ),
        (
            rule(json!({"ports": [{"port": 91, "endPort": 90}]})),
            "endPort: found 90",
        ),
        (
            json!({"policyTypes": ["Both"]}),
            "policyTypes[0]: found \"Both\"",
        ),
        (
            json!({"podSelector": {"matchLabels": {"a": "x' || all()"}}}),
            "matchLabels.a: found",
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}),
            "operator: found \"Is\"",
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            "values: found 0 values",
        ),
        (
            json!({"podselector": {}}),
            "spec.podselector: found an unknown field, did you mean \"podSelector\"?",
        ),
    ] {
        let error = network_policy(spec.clone()).unwrap_err();
        assert!(error.contains(says), "{spec}: {error}");
    }
}

#[test]
fn a_cluster_policy_goes_to_the_tier_of_its_own() {
    let subject = json!({"namespaces": {"matchLabels": {"env": "prod"}}});
    let spec = json!({
        "tier": "Admin", "priority": 7, "subject": subject,
        "ingress": [{"name": "n", "action": "Deny", "from": [{"namespaces": {}}]}],
    });
    assert_eq!(
        cluster_policy(spec.clone()).unwrap(),
        json!({
            "kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "kcnp.kube-admin.p"},
            "spec": {
                "tier": "kube-admin", "order": 7, "selector": PODS,
                "namespaceSelector": "env == 'prod'", "types": ["Ingress"],
                "ingress": [{
                    "action": "Deny",
                    "source": {"selector": PODS, "namespaceSelector": "all()"},
                    "metadata": {"annotations": {"policy.networking.k8s.io/rule-name": "n"}},
                }],
            },
        })
    );
    let mut baseline = spec;
    baseline["tier"] = json!("Baseline");
    let baseline = cluster_policy(baseline).unwrap();
    assert_eq!(baseline["metadata"]["name"], "kcnp.kube-baseline.p");
    assert_eq!(baseline["spec"]["tier"], "kube-baseline");
}

#[test]
fn cluster_rules_keep_their_order_and_actions_and_networks_are_split_by_family() {
    let spec = json!({
        "tier": "Admin", "priority": 0,
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "1"}}}},
        "egress": [
            {"action": "Accept", "to": [{"networks": ["10.0.0.0/8", "fd00::/8"]}]},
            {"action": "Pass", "to": [{"pods": {"podSelector": {"matchLabels": {"b": "2"}}}}],
             "protocols": [
                {"tcp": {"destinationPort": {"number": 80}}},
                {"tcp": {"destinationPort": {"range": {"start": 90, "end": 99}}}}, {"udp": {}},
             ]},
        ],
    });
    let spec = cluster_policy(spec).unwrap()["spec"].clone();
    assert_eq!(spec["types"], json!(["Egress"]));
    assert_eq!(spec["selector"], format!("{PODS} && a == '1'"));
    let pods = json!({"selector": format!("{PODS} && b == '2'"), "namespaceSelector": "all()"});
    let mut with_ports = pods.clone();
    with_ports["ports"] = json!([80, "90:99"]);
    assert_eq!(
        spec["egress"],
        json!([
            {"action": "Allow", "destination": {"nets": ["10.0.0.0/8"]}},
            {"action": "Allow", "destination": {"nets": ["fd00::/8"]}},
            {"action": "Pass", "protocol": "TCP", "destination": with_ports},
            {"action": "Pass", "protocol": "UDP", "destination": pods},
        ])
    );
}

#[test]
fn mistakes_of_a_cluster_policy_are_named() {
    let spec = |member: &str, value: Value| {
        let mut spec = json!({
            "tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [],
        });
        spec[member] = value;
        spec
    };
    let rule = |rule: Value| spec("ingress", json!([rule]));
    let anyone = json!([{"namespaces": {}}]);
    for (spec, says) in [
        (spec("tier", json!("Other")), "spec.tier: found \"Other\""),
        (spec("priority", json!(1001)), "spec.priority: found 1001"),
        (
            spec("subject", json!({})),
            "spec.subject: found none or several",
        ),
        (
            rule(json!({"action": "Allow", "from": anyone})),
            "action: found \"Allow\"",
        ),
        (
            rule(json!({"action": "Deny", "from": []})),
            "ingress[0].from: found nothing",
        ),
        (
            rule(json!({"action": "Deny", "from": [{"networks": ["10.0.0.0/8"]}]})),
            "from[0]: found none or several, allowed: exactly one of namespaces, pods",
        ),
        (
            rule(json!({"action": "Deny", "from": anyone, "protocols": [{}]})),
            "protocols[0]: found none or several",
        ),
        (
            rule(json!({"action": "Deny", "from": anyone, "protocols": [
                {"tcp": {"destinationPort": {"range": {"start": 9, "end": 1}}}},
            ]})),
            "protocols[0].destinationPort: found another port",
        ),
        (
            rule(json!({"action": "Deny", "from": [{"nodes": {}}]})),
            "from[0].nodes: found an unknown field",
        ),
        (
            spec(
                "egress",
                Value::Array(vec![json!({"action": "Deny", "to": anyone}); 26]),
            ),
            "spec.egress: found a list of 26, allowed: at most 25",
        ),
    ] {
        let error = cluster_policy(spec.clone()).unwrap_err();
        assert!(error.contains(says), "{spec}: {error}");
    }
}
