use serde_json::{Value, json};

use super::*;
use crate::ippool::IpPool;
use crate::kind::Kind;

/// The errors of a resource with this spec.
fn errors_named(kind: Kind, name: &str, spec: Value) -> Vec<String> {
    let value = json!({"metadata": {"name": name}, "spec": spec});
    let resource = AnyResource::from_value(kind, value).unwrap();
    validate(&resource, &|_| Ok(()))
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn errors(kind: Kind, spec: Value) -> Vec<String> {
    errors_named(
        kind,
        match kind {
            Kind::IpamConfiguration | Kind::KubeControllersConfiguration => "default",
            _ => "a",
        },
        spec,
    )
}

/// Asserts that the spec has exactly one error, at this path.
fn refused(kind: Kind, path: &str, spec: Value) {
    let found = errors(kind, spec.clone());
    assert_eq!(found.len(), 1, "{spec}: {found:?}");
    assert!(
        found[0].starts_with(&format!("{path}: ")),
        "{spec}: {found:?}"
    );
}

#[test]
fn pools_keep_to_their_limits() {
    let pool = |extra: Value| {
        let mut spec = json!({"cidr": "10.0.0.0/16"});
        spec.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        spec
    };
    assert_eq!(errors(Kind::IpPool, pool(json!({}))), [""; 0]);
    assert_eq!(
        errors(Kind::IpPool, pool(json!({"cidr": "10.0.0.0/26"}))),
        [""; 0]
    );
    assert_eq!(
        errors(
            Kind::IpPool,
            pool(json!({"cidr": "10.0.0.0/27", "disabled": true}))
        ),
        [""; 0]
    );
    for (path, extra) in [
        ("spec.blockSize", json!({"blockSize": 19})),
        ("spec.blockSize", json!({"blockSize": 33})),
        (
            "spec.blockSize",
            json!({"cidr": "fd00::/64", "blockSize": 115}),
        ),
        ("spec.cidr", json!({"cidr": "10.0.0.0/27"})),
        ("spec.cidr", json!({"cidr": "169.254.7.0/24"})),
        ("spec.cidr", json!({"cidr": "fe80::/64"})),
        ("spec.cidr", json!({"cidr": "169.0.0.0/8"})),
        (
            "spec.ipipMode",
            json!({"ipipMode": "Always", "vxlanMode": "CrossSubnet"}),
        ),
        (
            "spec.ipipMode",
            json!({"cidr": "fd00::/64", "ipipMode": "Always"}),
        ),
        (
            "spec.allowedUses",
            json!({"allowedUses": ["LoadBalancer", "Workload"]}),
        ),
        (
            "spec.vxlanMode",
            json!({"allowedUses": ["LoadBalancer"], "vxlanMode": "Always"}),
        ),
        (
            "spec.disableBGPExport",
            json!({"allowedUses": ["LoadBalancer"], "disableBGPExport": true}),
        ),
        (
            "spec.nodeSelector",
            json!({"allowedUses": ["LoadBalancer"], "nodeSelector": "a == 'b'"}),
        ),
        (
            "spec.namespaceSelector",
            json!({"allowedUses": ["Workload", "Tunnel"], "namespaceSelector": "has(a)"}),
        ),
        (
            "spec.namespaceSelector",
            json!({"namespaceSelector": "has(a)"}),
        ),
        ("spec.nodeSelector", json!({"nodeSelector": "global()"})),
    ] {
        refused(Kind::IpPool, path, pool(extra));
    }
}

#[test]
fn overlapping_pools_are_named() {
    let pool: IpPool =
        serde_json::from_value(json!({"metadata": {"name": "b"}, "spec": {"cidr": "10.1.0.0/16"}}))
            .unwrap();
    let others = [
        ("a", "10.0.0.0/8"),
        ("b", "10.1.0.0/16"),
        ("c", "10.2.0.0/16"),
    ];
    let others = others.map(|(name, cidr)| (name, cidr.parse().unwrap()));
    let found: Vec<_> = overlapping_pools(&pool, others)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "spec.cidr: found 10.1.0.0/16, allowed: a range that does not overlap with IPPool a \
          (10.0.0.0/8)"
        ]
    );
}

#[test]
fn address_management_settings_fit_together() {
    assert_eq!(errors(Kind::IpamConfiguration, json!({})), [""; 0]);
    let strict =
        json!({"strictAffinity": true, "maxBlocksPerHost": 5, "autoAllocateBlocks": false});
    assert_eq!(errors(Kind::IpamConfiguration, strict), [""; 0]);
    for (path, spec) in [
        (
            "spec.autoAllocateBlocks",
            json!({"autoAllocateBlocks": false}),
        ),
        ("spec.maxBlocksPerHost", json!({"maxBlocksPerHost": 1})),
        ("spec.ipCooldownSeconds", json!({"ipCooldownSeconds": 1201})),
    ] {
        refused(Kind::IpamConfiguration, path, spec);
    }
    let found = errors_named(Kind::IpamConfiguration, "other", json!({}));
    assert_eq!(found, ["metadata.name: found \"other\", allowed: default"]);
}

#[test]
fn peers_say_one_thing() {
    assert_eq!(errors(Kind::BgpPeer, json!({})), [""; 0]);
    let on_link = json!({"interface": "eth0", "addPath": {"send": true, "maxSent": 4},
        "longLivedRestart": {"staleTime": "1h"}, "passive": true});
    assert_eq!(errors(Kind::BgpPeer, on_link), [""; 0]);
    let watched = json!({"interface": "eth0", "bfd": {}, "peerGroup": "spine"});
    assert_eq!(errors(Kind::BgpPeer, watched), [""; 0]);
    let range = json!({"peerCIDR": "10.0.0.0/24", "maxPeers": 5});
    assert_eq!(errors(Kind::BgpPeer, range), [""; 0]);
    for word in ["internal", "external"] {
        let by_word = json!({"peerIP": "10.0.0.1", "asNumber": word});
        assert_eq!(errors(Kind::BgpPeer, by_word), [""; 0]);
    }
    for (path, spec) in [
        (
            "spec.asNumber",
            json!({"asNumber": "internal", "peerSelector": "all()"}),
        ),
        (
            "spec.nodeSelector",
            json!({"node": "n", "nodeSelector": "all()"}),
        ),
        (
            "spec.peerIP",
            json!({"peerIP": "10.0.0.1", "peerSelector": "all()"}),
        ),
        (
            "spec.asNumber",
            json!({"asNumber": 5, "peerSelector": "all()"}),
        ),
        ("spec.asNumber", json!({"localWorkloadSelector": "all()"})),
        (
            "spec.peerIP",
            json!({"peerIP": "10.0.0.1", "localWorkloadSelector": "all()", "asNumber": 5}),
        ),
        (
            "spec.keepOriginalNextHop",
            json!({"keepOriginalNextHop": true, "nextHopMode": "Self"}),
        ),
        ("spec.reachableBy", json!({"reachableBy": "10.0.0.1"})),
        (
            "spec.reachableBy",
            json!({"reachableBy": "fd00::1", "peerIP": "10.0.0.1"}),
        ),
        (
            "spec.interface",
            json!({"interface": "eth0", "peerIP": "10.0.0.1"}),
        ),
        (
            "spec.interface",
            json!({"interface": "eth0", "peerSelector": "all()"}),
        ),
        (
            "spec.interface",
            json!({"interface": "eth0", "peerCIDR": "10.0.0.0/24"}),
        ),
        (
            "spec.peerCIDR",
            json!({"peerCIDR": "10.0.0.0/24", "peerIP": "10.0.0.1"}),
        ),
        (
            "spec.peerCIDR",
            json!({"peerCIDR": "10.0.0.0/24", "peerSelector": "all()"}),
        ),
    ] {
        refused(Kind::BgpPeer, path, spec);
    }
}

#[test]
fn settings_of_all_hosts_stay_out_of_those_of_one() {
    let spec = json!({"asNumber": 5, "nodeToNodeMeshEnabled": true, "listenPort": 1790});
    assert_eq!(
        errors_named(Kind::BgpConfiguration, "default", spec.clone()),
        [""; 0]
    );
    let found = errors_named(Kind::BgpConfiguration, "node.n1", spec);
    assert_eq!(
        found,
        [
            "spec.nodeToNodeMeshEnabled: found a value, allowed: nothing: only the \
             BGPConfiguration \"default\" may set it",
            "spec.asNumber: found a value, allowed: nothing: only the BGPConfiguration \"default\" \
             may set it",
        ]
    );
}

#[test]
fn communities_are_defined_and_used() {
    let default = |spec| errors_named(Kind::BgpConfiguration, "default", spec);
    let found = default(json!({"communities": [{"name": "a", "value": "1:2"}]}));
    assert!(
        found[0].starts_with("spec.prefixAdvertisements: found nothing"),
        "{found:?}"
    );
    let found = default(json!({
        "communities": [{"name": "a", "value": "1:2"}],
        "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["a", "3:4", "b"]}],
    }));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("spec.prefixAdvertisements[0].communities[2]: found \"b\""));
    let found = default(json!({"nodeToNodeMeshEnabled": false, "nodeMeshMaxRestartTime": "10s"}));
    assert!(
        found[0].starts_with("spec.nodeMeshMaxRestartTime: "),
        "{found:?}"
    );
}

#[test]
fn filter_rules_are_complete() {
    for (path, rule) in [
        (
            "matchOperator",
            json!({"action": "Accept", "cidr": "10.0.0.0/8"}),
        ),
        ("cidr", json!({"action": "Accept", "matchOperator": "In"})),
        (
            "prefixLength",
            json!({"action": "Accept", "prefixLength": {"min": 8}}),
        ),
        (
            "prefixLength.min",
            json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In",
                   "prefixLength": {"min": 25, "max": 24}}),
        ),
        (
            "operations",
            json!({"action": "Reject", "operations": [{"setPriority": {"value": 1}}]}),
        ),
        (
            "operations[0]",
            json!({"action": "Accept", "operations": [{}]}),
        ),
        (
            "communities.values",
            json!({"action": "Accept", "communities": {"values": []}}),
        ),
    ] {
        refused(
            Kind::BgpFilter,
            &format!("spec.importV4[0].{path}"),
            json!({"importV4": [rule]}),
        );
    }
}

#[test]
fn rules_match_what_can_be() {
    let fine = json!({"ingress": [
        {"action": "Allow", "protocol": "TCP", "destination": {"ports": [80, "1:5", "http"]}},
        {"action": "Allow", "destination": {"ports": ["http"]}},
        {"action": "Allow", "protocol": 58, "ipVersion": 6, "icmp": {"type": 128}},
        {"action": "Allow", "source": {"nets": ["::/0"]}},
        {"action": "Allow", "source": {"namespaceSelector": "global( )"}},
    ]});
    assert_eq!(errors(Kind::GlobalNetworkPolicy, fine), [""; 0]);
    for (path, rule) in [
        ("destination.ports", json!({"destination": {"ports": [80]}})),
        (
            "source.notPorts",
            json!({"protocol": "ICMP", "source": {"notPorts": ["http"]}}),
        ),
        (
            "destination.ports[0]",
            json!({"protocol": "TCP", "destination": {"ports": [0]}}),
        ),
        (
            "icmp.type",
            json!({"protocol": "ICMP", "icmp": {"code": 0}}),
        ),
        ("protocol", json!({"icmp": {"type": 8}})),
        (
            "protocol",
            json!({"protocol": "TCP", "notICMP": {"type": 8}}),
        ),
        ("ipVersion", json!({"protocol": "ICMPv6", "ipVersion": 4})),
        ("ipVersion", json!({"notProtocol": 1, "ipVersion": 6})),
        (
            "source.nets[1]",
            json!({"source": {"nets": ["10.0.0.0/8", "fd00::/8"]}}),
        ),
        (
            "destination.notNets[0]",
            json!({"source": {"nets": ["10.0.0.0/8"]}, "destination": {"notNets": ["fd00::/8"]}}),
        ),
        (
            "source.nets[0]",
            json!({"ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}}),
        ),
        (
            "source.notNets[0]",
            json!({"source": {"notNets": ["0.0.0.0/0"]}}),
        ),
        (
            "source.selector",
            json!({"source": {"selector": "global()"}}),
        ),
        (
            "source.namespaceSelector",
            json!({"source": {"namespaceSelector": "global() && has(a)"}}),
        ),
        (
            "source.nets",
            json!({"source": {"services": {"name": "a", "namespace": "b"}, "nets": ["10.0.0.0/8"]}}),
        ),
        (
            "source.services.namespace",
            json!({"source": {"services": {"name": "a"}}}),
        ),
        (
            "destination.services",
            json!({"destination": {"services": {"name": "a", "namespace": "b"}}}),
        ),
        ("http", json!({"action": "Deny", "http": {}})),
        ("http", json!({"protocol": "UDP", "http": {}})),
        (
            "http.paths[0]",
            json!({"http": {"paths": [{"exact": "foo"}]}}),
        ),
        ("http.paths[0]", json!({"http": {"paths": [{}]}})),
    ] {
        let mut rule = rule;
        rule.as_object_mut()
            .unwrap()
            .entry("action")
            .or_insert(json!("Allow"));
        let spec = json!({"ingress": [rule]});
        refused(
            Kind::GlobalNetworkPolicy,
            &format!("spec.ingress[0].{path}"),
            spec,
        );
    }
}

#[test]
fn host_stages_exclude_each_other() {
    let policy = |spec| errors(Kind::GlobalNetworkPolicy, spec);
    assert_eq!(
        policy(json!({"preDNAT": true, "applyOnForward": true})),
        [""; 0]
    );
    for (path, spec) in [
        ("spec.applyOnForward", json!({"preDNAT": true})),
        ("spec.applyOnForward", json!({"doNotTrack": true})),
        (
            "spec.preDNAT",
            json!({"preDNAT": true, "doNotTrack": true, "applyOnForward": true}),
        ),
        (
            "spec.egress",
            json!({"preDNAT": true, "applyOnForward": true, "egress": [{"action": "Allow"}]}),
        ),
        (
            "spec.types",
            json!({"preDNAT": true, "applyOnForward": true, "types": ["Egress"]}),
        ),
        ("spec.types[1]", json!({"types": ["Ingress", "Ingress"]})),
    ] {
        refused(Kind::GlobalNetworkPolicy, path, spec);
    }
}

#[test]
fn names_keep_to_the_rules_of_their_kind() {
    let valid = |kind, name: &str| {
        let spec = if kind == Kind::IpPool {
            json!({"cidr": "10.0.0.0/8"})
        } else {
            json!({})
        };
        errors_named(kind, name, spec).is_empty()
    };
    assert!(valid(Kind::IpPool, "a.b-c.d"));
    assert!(valid(Kind::Tier, "my-tier"));
    assert!(!valid(Kind::Tier, "my.tier"));
    assert!(!valid(Kind::Tier, &"a".repeat(64)));
    assert!(valid(Kind::GlobalNetworkPolicy, "tier.name"));
    assert!(!valid(Kind::GlobalNetworkPolicy, "tier.name.more"));
    assert!(!valid(Kind::GlobalNetworkPolicy, "knp.default.a.b"));
    assert!(valid(Kind::NetworkPolicy, "knp.default.a.b"));
    for name in ["", "A", "a_b", "-a", "a-", "a..b", "a.", &"a".repeat(254)] {
        assert!(!valid(Kind::IpPool, name), "{name}");
    }
}

#[test]
fn namespaces_and_labels_are_checked() {
    let value = json!({
        "metadata": {"name": "a", "namespace": "x", "labels": {"a/b/c": "", "ok/a": "-"}},
        "spec": {},
    });
    let resource = AnyResource::from_value(Kind::GlobalNetworkSet, value).unwrap();
    let found = validate(&resource, &|_| Ok(()));
    let paths: Vec<_> = found.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "metadata.namespace",
            "metadata.labels.a/b/c",
            "metadata.labels.ok/a"
        ]
    );
}

#[test]
fn built_in_tiers_stay_as_they_are() {
    let good = json!({"order": 1_000_000, "defaultAction": "Deny"});
    assert_eq!(errors_named(Kind::Tier, "default", good), [""; 0]);
    let found = errors_named(Kind::Tier, "kube-admin", json!({"order": 5}));
    assert_eq!(
        found,
        [
            "spec.order: found 5, allowed: 1000 for tier kube-admin",
            "spec.defaultAction: found \"Deny\", allowed: Pass for tier kube-admin",
        ]
    );
}

#[test]
fn endpoints_are_named_after_their_fields() {
    let spec = || {
        json!({"node": "n1", "orchestrator": "cni", "containerID": "c1", "endpoint": "eth0",
               "interfaceName": "mgy0", "ipNetworks": ["10.0.0.1/32"]})
    };
    assert_eq!(
        errors_named(Kind::WorkloadEndpoint, "n1-cni-c1-eth0", spec()),
        [""; 0]
    );
    let found = errors_named(Kind::WorkloadEndpoint, "other", spec());
    assert_eq!(
        found,
        ["metadata.name: found \"other\", allowed: n1-cni-c1-eth0, as the fields of spec have it"]
    );
    let mut bad = spec();
    bad["ipNetworks"] = json!(["10.0.0.0/31"]);
    bad["ipNATs"] = json!([{"internalIP": "10.0.0.9", "externalIP": "fd00::1"}]);
    bad["ports"] = json!([{"protocol": "ICMP", "port": 0}]);
    let found = errors_named(Kind::WorkloadEndpoint, "n1-cni-c1-eth0", bad);
    assert_eq!(found.len(), 6, "{found:?}");
}

#[test]
fn an_empty_bgp_of_a_node_is_refused() {
    assert_eq!(errors(Kind::Node, json!({})), [""; 0]);
    refused(Kind::Node, "spec.bgp", json!({"bgp": {}}));
}

#[test]
fn staged_policies_keep_to_the_rules_of_what_they_would_be() {
    let allow = json!([{"action": "Allow"}]);
    for kind in [Kind::StagedNetworkPolicy, Kind::StagedGlobalNetworkPolicy] {
        for action in ["Set", "Learn", "Ignore"] {
            let good = json!({"stagedAction": action, "ingress": allow, "types": ["Ingress"]});
            assert_eq!(errors(kind, good), [""; 0]);
            let twice = json!({"stagedAction": action, "types": ["Ingress", "Ingress"]});
            refused(kind, "spec.types[1]", twice);
        }
        refused(kind, "spec.selector", json!({"selector": "global()"}));
    }
    let host = json!({"preDNAT": true, "ingress": allow});
    refused(Kind::StagedGlobalNetworkPolicy, "spec.applyOnForward", host);
}

#[test]
fn a_staged_deletion_says_nothing_but_what_to_delete() {
    for kind in [Kind::StagedNetworkPolicy, Kind::StagedGlobalNetworkPolicy] {
        let good = json!({"stagedAction": "Delete", "tier": "a", "types": ["Ingress"]});
        assert_eq!(errors(kind, good), [""; 0]);
        for (field, value) in [
            ("order", json!(0)),
            ("selector", json!("all()")),
            ("ingress", json!([{"action": "Allow"}])),
        ] {
            let spec = json!({"stagedAction": "Delete", field: value});
            refused(kind, &format!("spec.{field}"), spec);
        }
    }
    let kind = Kind::StagedKubernetesNetworkPolicy;
    let good = json!({"stagedAction": "Delete", "podSelector": {}});
    assert_eq!(errors(kind, good), [""; 0]);
    let pods = json!({"stagedAction": "Delete", "podSelector": {"matchLabels": {"a": "b"}}});
    refused(kind, "spec.podSelector", pods);
}

#[test]
fn staged_policies_of_kubernetes_keep_to_the_rules_of_kubernetes() {
    let kind = Kind::StagedKubernetesNetworkPolicy;
    let good = json!({
        "podSelector": {"matchLabels": {"role": "db"}},
        "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 53, "protocol": "UDP"}]}],
    });
    assert_eq!(errors(kind, good), [""; 0]);
    for (path, rule) in [
        ("spec.ingress[0].from[0]", json!({"from": [{}]})),
        (
            "spec.ingress[0].ports[0].port",
            json!({"ports": [{"port": 0}]}),
        ),
        (
            "spec.ingress[0].ports[0].endPort",
            json!({"ports": [{"port": 80, "endPort": 79}]}),
        ),
        (
            "spec.ingress[0].from[0].ipBlock.except[0]",
            json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}]}),
        ),
    ] {
        refused(kind, path, json!({"ingress": [rule]}));
    }
}

#[test]
fn node_status_requests_are_complete() {
    let kind = Kind::CalicoNodeStatus;
    let good = json!({"node": "n1", "classes": ["BGP", "Agent"], "updatePeriodSeconds": 86_400});
    assert_eq!(errors(kind, good), [""; 0]);
    let twice = json!({"node": "n1", "classes": ["BGP", "BGP"], "updatePeriodSeconds": 0});
    refused(kind, "spec.classes[1]", twice);
    let none = json!({"classes": ["BGP"], "updatePeriodSeconds": 0});
    refused(kind, "spec.node", none);
    refused(
        kind,
        "spec.updatePeriodSeconds",
        json!({"node": "n1", "classes": ["BGP"]}),
    );
    let long = json!({"node": "n1", "classes": ["BGP"], "updatePeriodSeconds": 86_401});
    refused(kind, "spec.updatePeriodSeconds", long);
}

#[test]
fn templates_of_host_endpoints_can_be_told_apart() {
    let kind = Kind::KubeControllersConfiguration;
    let templates = |templates: Value| json!({"controllers": {"node": {"hostEndpoint": {"templates": templates}}}});
    let at = |rest: &str| format!("spec.controllers.node.hostEndpoint.templates[{rest}");
    assert_eq!(errors(kind, json!({})), [""; 0]);
    let good = json!([
        {"generateName": "a", "interfaceCIDRs": ["10.0.0.0/8"]},
        {"generateName": "b", "interfacePattern": "^eth\\d+$", "nodeSelector": "all()"},
    ]);
    assert_eq!(errors(kind, templates(good)), [""; 0]);
    for (path, found) in [
        ("0]", json!([{"generateName": "a"}])),
        ("0].generateName", json!([{"interfacePattern": "eth0"}])),
        (
            "0].generateName",
            json!([{"generateName": "a".repeat(254), "interfacePattern": "eth0"}]),
        ),
        (
            "1].generateName",
            json!([
                {"generateName": "a", "interfacePattern": "eth0"},
                {"generateName": "a", "interfacePattern": "eth1"},
            ]),
        ),
        (
            "0].interfacePattern",
            json!([{"generateName": "a", "interfacePattern": "eth("}]),
        ),
        (
            "0].labels.a b",
            json!([{"generateName": "a", "interfacePattern": "e", "labels": {"a b": "c"}}]),
        ),
        (
            "0].annotations.a b",
            json!([{"generateName": "a", "interfacePattern": "e", "annotations": {"a b": "c"}}]),
        ),
        (
            "0].nodeSelector",
            json!([{"generateName": "a", "interfacePattern": "e", "nodeSelector": "global()"}]),
        ),
    ] {
        refused(kind, &at(path), templates(found));
    }
}

#[test]
fn settings_of_the_dataplane_do_not_contradict_each_other() {
    let kind = Kind::FelixConfiguration;
    let named = |name: &str, spec: Value| errors_named(kind, name, spec);
    let selected = json!({"nodeSelector": "rack == 'a'"});
    assert_eq!(named("racks", selected.clone()), [""; 0]);
    for name in ["default", "node.n1"] {
        assert_eq!(named(name, selected.clone()).len(), 1, "{name}");
    }
    let range = |min: u8, max: u8| json!({"min": min, "max": max});
    refused(
        kind,
        "spec.routeTableRange",
        json!({"routeTableRange": range(1, 2), "routeTableRanges": [range(1, 2)]}),
    );
    refused(
        kind,
        "spec.routeTableRanges[1].min",
        json!({"routeTableRanges": [range(1, 2), range(3, 2)]}),
    );
}

#[test]
fn hints_stand_once() {
    let hint = "AssumeNeededOnEveryNode";
    for kind in [Kind::NetworkPolicy, Kind::GlobalNetworkPolicy] {
        assert_eq!(errors(kind, json!({"performanceHints": [hint]})), [""; 0]);
        let twice = json!({"performanceHints": [hint, hint]});
        refused(kind, "spec.performanceHints[1]", twice);
    }
}
