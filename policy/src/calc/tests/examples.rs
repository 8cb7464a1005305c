//! One example for each rule of the semantics.

use serde_json::Value;

use super::*;

const TCP_80: &str = "10.0.0.2 10.0.0.1 tcp 40000 80";
const UDP_53: &str = "10.0.0.2 10.0.0.1 udp 40000 53";

/// Endpoint `ns/a` (10.0.0.1) with the allowing profile, `ns/b` (10.0.0.2), and more.
fn cluster(more: &[AnyResource]) -> Cluster {
    let mut all = vec![
        wep(
            "ns/a",
            "10.0.0.1",
            json!({"app": "a"}),
            json!([DEFAULT_ALLOW_PROFILE]),
        ),
        wep(
            "ns/b",
            "10.0.0.2",
            json!({"app": "b"}),
            json!([DEFAULT_ALLOW_PROFILE]),
        ),
    ];
    all.extend_from_slice(more);
    Cluster::new(&all)
}

fn events(cluster: &Cluster) -> Vec<(String, String)> {
    let text = |e: &Event| (e.key.to_string(), e.message.clone().unwrap_or_default());
    cluster.events.iter().map(text).collect()
}

#[test]
fn without_policy_the_profiles_decide() {
    let cluster = Cluster::new(&[
        wep(
            "ns/open",
            "10.0.0.1",
            json!({}),
            json!([DEFAULT_ALLOW_PROFILE]),
        ),
        wep("ns/none", "10.0.0.2", json!({}), json!([])),
        wep("ns/web", "10.0.0.3", json!({}), json!(["first", "second"])),
        profile(
            "first",
            json!({"ingress": [
                {"action": "Deny", "protocol": "TCP", "destination": {"ports": [81]}},
                {"action": "Pass", "protocol": "TCP", "destination": {"ports": [82]}},
                {"action": "Allow", "protocol": "TCP", "destination": {"ports": [82]}},
            ]}),
        ),
        profile(
            "second",
            json!({"ingress": [
                {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["80:81"]}},
            ]}),
        ),
    ]);
    assert!(cluster.takes("ns/open", TCP_80) && cluster.sends("ns/open", TCP_80));
    assert!(!cluster.takes("ns/none", TCP_80) && !cluster.sends("ns/none", TCP_80));
    assert!(cluster.takes("ns/web", TCP_80));
    assert!(
        !cluster.takes("ns/web", "10.0.0.2 10.0.0.3 tcp 1 81"),
        "first match is final"
    );
    assert!(
        !cluster.takes("ns/web", "10.0.0.2 10.0.0.3 tcp 1 82"),
        "pass leaves a profile"
    );
    assert!(!cluster.sends("ns/web", TCP_80), "no egress rule");
}

#[test]
fn a_missing_profile_drops_whatever_follows_it() {
    let cluster = Cluster::new(&[wep(
        "ns/a",
        "10.0.0.1",
        json!({}),
        json!(["gone", DEFAULT_ALLOW_PROFILE]),
    )]);
    assert!(!cluster.takes("ns/a", TCP_80));
}

#[test]
fn a_policy_isolates_only_the_direction_it_is_about() {
    let cluster = cluster(&[np(
        "ns/p",
        json!({"selector": "app == 'a'", "types": ["Ingress"]}),
    )]);
    assert!(!cluster.takes("ns/a", TCP_80));
    assert!(cluster.sends("ns/a", TCP_80));
    assert!(cluster.takes("ns/b", TCP_80), "not selected");
}

#[test]
fn types_follow_from_the_rules_when_absent() {
    let rule = json!([{"action": "Allow"}]);
    let cases = [
        (json!({}), true, false),
        (json!({"ingress": rule}), true, false),
        (json!({"egress": rule}), false, true),
        (json!({"ingress": rule, "egress": rule}), true, true),
        (json!({"egress": rule, "types": ["Ingress"]}), true, false),
    ];
    for (spec, ingress, egress) in cases {
        let cluster = cluster(&[np("ns/p", spec.clone())]);
        let plan = cluster.plan("ns/a");
        assert_eq!(
            (!plan.ingress.is_empty(), !plan.egress.is_empty()),
            (ingress, egress),
            "{spec}"
        );
    }
}

#[test]
fn policies_are_ordered_by_order_then_name_with_absent_orders_last() {
    let cluster = cluster(&[
        gnp("z", json!({"order": -1.5})),
        gnp("b", json!({"order": 10})),
        np("ns/b", json!({"order": 10})),
        np("ns/a", json!({"order": 10})),
        gnp("aa", json!({})),
        gnp("ab", json!({"order": 1e300})),
    ]);
    let order = cluster.policies("ns/a", Direction::Ingress);
    assert_eq!(
        order,
        ["z", "a", "b", "b", "ab", "aa"].map(|n| format!("default:{n}"))
    );
    let kinds: Vec<_> = cluster.plan("ns/a").ingress[0].policies[2..4]
        .iter()
        .map(|p| p.kind)
        .collect();
    assert_eq!(
        kinds,
        [Kind::GlobalNetworkPolicy, Kind::NetworkPolicy],
        "no namespace sorts first"
    );
}

#[test]
fn tiers_are_ordered_and_the_built_in_ones_exist() {
    let cluster = cluster(&[
        tier("late", json!({})),
        tier("early", json!({"order": 5})),
        tier("also-early", json!({"order": 5})),
        tier("default", json!({"order": 1, "defaultAction": "Pass"})),
        gnp("1", json!({"tier": "late"})),
        gnp("2", json!({"tier": "kube-baseline"})),
        gnp("3", json!({})),
        gnp("4", json!({"tier": "kube-admin"})),
        gnp("5", json!({"tier": "early"})),
        gnp("6", json!({"tier": "also-early"})),
    ]);
    let tiers: Vec<_> = cluster
        .plan("ns/a")
        .ingress
        .iter()
        .map(|t| (&*t.name, t.default_action))
        .collect();
    assert_eq!(
        tiers,
        [
            ("also-early", Action::Deny),
            ("early", Action::Deny),
            ("kube-admin", Action::Pass),
            ("default", Action::Deny),
            ("kube-baseline", Action::Pass),
            ("late", Action::Deny),
        ]
    );
}

#[test]
fn pass_leaves_the_tier_and_the_default_action_holds_without_a_match() {
    let cluster = cluster(&[
        tier("first", json!({"order": 1, "defaultAction": "Pass"})),
        gnp(
            "first.p",
            json!({"tier": "first", "order": 1, "ingress": [
                {"action": "Pass", "protocol": "TCP", "destination": {"ports": [80]}},
                {"action": "Deny", "protocol": "TCP", "destination": {"ports": [80]}},
            ]}),
        ),
        gnp(
            "first.q",
            json!({"tier": "first", "order": 2, "ingress": [
                {"action": "Deny", "protocol": "TCP"},
            ]}),
        ),
        tier("second", json!({"order": 2})),
        gnp(
            "second.p",
            json!({"tier": "second", "ingress": [{"action": "Pass", "protocol": "TCP"}]}),
        ),
    ]);
    assert!(
        cluster.takes("ns/a", TCP_80),
        "passed by both, profiles allow"
    );
    assert!(
        !cluster.takes("ns/a", "10.0.0.2 10.0.0.1 tcp 1 81"),
        "denied by the tier's second policy"
    );
    assert!(
        !cluster.takes("ns/a", UDP_53),
        "first passes by default, second drops by default"
    );
}

#[test]
fn tiers_without_applying_policies_are_skipped() {
    let cluster = cluster(&[
        tier("strict", json!({"order": 1})),
        gnp("other", json!({"tier": "strict", "selector": "app == 'b'"})),
        gnp("egress", json!({"tier": "strict", "types": ["Egress"]})),
    ]);
    assert!(cluster.takes("ns/a", TCP_80));
    assert!(!cluster.sends("ns/a", TCP_80));
}

#[test]
fn a_policy_of_a_missing_tier_comes_last_and_drops_with_an_event() {
    let cluster = cluster(&[gnp(
        "p",
        json!({"tier": "nowhere", "ingress": [
            {"action": "Allow", "protocol": "TCP"},
        ]}),
    )]);
    assert!(cluster.takes("ns/a", TCP_80) && !cluster.takes("ns/a", UDP_53));
    let [(key, message)] = &events(&cluster)[..] else {
        panic!("{:?}", cluster.events)
    };
    assert_eq!(key, "GlobalNetworkPolicy/p");
    assert!(message.contains("\"nowhere\" does not exist"), "{message}");
}

#[test]
fn a_tier_with_an_impossible_default_action_drops_with_an_event() {
    let cluster = cluster(&[
        tier("t", json!({"defaultAction": "Allow"})),
        gnp("p", json!({"tier": "t"})),
    ]);
    assert!(!cluster.takes("ns/a", TCP_80));
    let [(key, message)] = &events(&cluster)[..] else {
        panic!("{:?}", cluster.events)
    };
    assert_eq!(key, "Tier/t");
    assert!(
        message.contains("found Allow, allowed: Deny or Pass"),
        "{message}"
    );
}

#[test]
fn log_goes_on_with_the_next_rule() {
    let cluster = cluster(&[gnp(
        "p",
        json!({"ingress": [{"action": "Log"}, {"action": "Allow"}]}),
    )]);
    let (allowed, steps) = cluster.ask("ns/a", Direction::Ingress, &packet(TCP_80));
    let lines: Vec<_> = steps.iter().map(ToString::to_string).collect();
    assert!(allowed);
    assert_eq!(
        lines,
        [
            "tier default, GlobalNetworkPolicy/p: rule 0 says Log",
            "tier default, GlobalNetworkPolicy/p: rule 1 says Allow",
        ]
    );
}

#[test]
fn namespaced_policies_select_only_their_namespace() {
    let cluster = Cluster::new(&[
        wep("x/a", "10.0.0.1", json!({}), json!([DEFAULT_ALLOW_PROFILE])),
        wep("y/a", "10.0.0.2", json!({}), json!([DEFAULT_ALLOW_PROFILE])),
        np("x/p", json!({"selector": "all()"})),
    ]);
    assert!(!cluster.takes("x/a", TCP_80) && cluster.takes("y/a", TCP_80));
}

#[test]
fn pre_dnat_and_untracked_policies_are_not_for_workloads() {
    let cluster = cluster(&[
        gnp("p", json!({"preDNAT": true, "applyOnForward": true})),
        gnp("q", json!({"doNotTrack": true, "applyOnForward": true})),
    ]);
    assert!(cluster.takes("ns/a", TCP_80));
}

/// Two namespaces with labels, a host endpoint and network sets; `x/a` is asked.
fn scoped(source: Value, namespaced: bool) -> impl Fn(&str) -> bool {
    let spec =
        json!({"selector": "app == 'a'", "ingress": [{"action": "Allow", "source": source}]});
    let cluster = Cluster::new(&[
        wep("x/a", "10.0.0.1", json!({"app": "a"}), json!(["kns.x"])),
        wep_with(
            "x/b",
            "10.0.0.2",
            json!({"app": "b"}),
            json!({
                "profiles": ["kns.x", "ksa.x.bob"], "serviceAccountName": "bob",
            }),
        ),
        wep_with(
            "y/b",
            "10.0.0.3",
            json!({"app": "b"}),
            json!({
                "profiles": ["kns.y", "ksa.y.bob"], "serviceAccountName": "bob", "orchestrator": "k8s",
            }),
        ),
        profile("kns.x", json!({"labelsToApply": {"pcns.env": "prod"}})),
        profile("kns.y", json!({"labelsToApply": {"pcns.env": "dev"}})),
        profile("ksa.x.bob", json!({"labelsToApply": {"pcsa.team": "red"}})),
        profile("ksa.y.bob", json!({"labelsToApply": {"pcsa.team": "blue"}})),
        network_set("y/set", json!({"app": "b"}), json!(["10.1.0.0/16"])),
        global_network_set("set", json!({"app": "b"}), json!(["10.2.0.0/16"])),
        host_endpoint("host", json!({"app": "b"}), json!(["10.3.0.1"])),
        if namespaced {
            np("x/p", spec)
        } else {
            gnp("p", spec)
        },
    ]);
    assert_eq!(cluster.events, []);
    move |source| cluster.takes("x/a", &format!("{source} 10.0.0.1 tcp 1 80"))
}

/// x/b, y/b, y/set, the global set, the host, and somebody unknown.
const SOURCES: [&str; 6] = [
    "10.0.0.2",
    "10.0.0.3",
    "10.1.2.3",
    "10.2.2.3",
    "10.3.0.1",
    "192.0.2.1",
];

#[test]
fn selectors_of_rules_are_scoped_as_their_policy_is() {
    let t = true;
    let f = false;
    let cases = [
        // in a NetworkPolicy of namespace x          x/b y/b set gset host unknown
        (t, json!({}), [t, t, t, t, t, t]),
        (t, json!({"nets": ["0.0.0.0/0"]}), [t, t, t, t, t, t]),
        (t, json!({"selector": ""}), [t, t, t, t, t, t]),
        (t, json!({"selector": "app == 'b'"}), [t, f, f, f, f, f]),
        (t, json!({"notSelector": "app == 'c'"}), [t, f, f, f, f, f]),
        (t, json!({"notSelector": "app == 'b'"}), [f, f, f, f, f, f]),
        (
            t,
            json!({"serviceAccounts": {"names": ["bob"]}}),
            [t, f, f, f, f, f],
        ),
        (
            t,
            json!({"serviceAccounts": {"names": ["eve"]}}),
            [f, f, f, f, f, f],
        ),
        (
            t,
            json!({"serviceAccounts": {"names": ["bob"], "selector": "team == 'blue'"},
            "namespaceSelector": "all()"}),
            [f, t, f, f, f, f],
        ),
        (
            t,
            json!({"serviceAccounts": {"selector": "has(team)"}, "namespaceSelector": "all()"}),
            [t, t, f, f, f, f],
        ),
        (t, json!({"namespaceSelector": "all()"}), [t, t, t, f, f, f]),
        (
            t,
            json!({"namespaceSelector": "global()"}),
            [f, f, f, t, t, f],
        ),
        (
            t,
            json!({"namespaceSelector": "env == 'dev'"}),
            [f, t, t, f, f, f],
        ),
        (
            t,
            json!({"namespaceSelector": "projectcalico.org/name == 'y'"}),
            [f, t, t, f, f, f],
        ),
        (
            t,
            json!({"namespaceSelector": "env == 'dev'", "selector": "has(projectcalico.org/orchestrator)"}),
            [f, t, f, f, f, f],
        ),
        (
            t,
            json!({"namespaceSelector": "all()", "notSelector": "app == 'b'"}),
            [f, f, f, f, f, f],
        ),
        (t, json!({"selector": "global()"}), [t, f, f, f, f, f]),
        // in a GlobalNetworkPolicy
        (f, json!({"selector": "app == 'b'"}), [t, t, t, t, t, f]),
        (f, json!({"selector": "all()"}), [t, t, t, t, t, f]),
        (
            f,
            json!({"selector": "projectcalico.org/orchestrator == 'k8s'"}),
            [f, t, f, f, f, f],
        ),
        (
            f,
            json!({"selector": "projectcalico.org/namespace == 'y'"}),
            [f, t, t, f, f, f],
        ),
        (f, json!({"notSelector": "app == 'b'"}), [f, f, f, f, f, t]),
        (
            f,
            json!({"notSelector": "has(nothing)"}),
            [t, t, t, t, t, t],
        ),
        (f, json!({"selector": "!has(nothing)"}), [t, t, t, t, t, f]),
        (
            f,
            json!({"namespaceSelector": "env in {'dev','prod'}"}),
            [t, t, t, f, f, f],
        ),
        (
            f,
            json!({"namespaceSelector": "global()", "selector": "app == 'b'"}),
            [f, f, f, t, t, f],
        ),
        (
            f,
            json!({"serviceAccounts": {"names": ["bob"]}}),
            [t, t, f, f, f, f],
        ),
        (
            f,
            json!({"nets": ["10.0.0.0/8"], "notNets": ["10.0.0.2/31"], "selector": "app == 'b'"}),
            [f, f, t, t, t, f],
        ),
    ];
    for (namespaced, source, expected) in cases {
        let takes = scoped(source.clone(), namespaced);
        assert_eq!(
            SOURCES.map(&takes),
            expected,
            "namespaced: {namespaced}, source: {source}"
        );
    }
}

#[test]
fn global_policies_select_by_namespace_and_service_account() {
    let policy = |more: Value| {
        let mut spec = json!({"types": ["Ingress"]});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Cluster::new(&[
            wep_with(
                "x/a",
                "10.0.0.1",
                json!({}),
                json!({
                    "profiles": [DEFAULT_ALLOW_PROFILE, "kns.x", "ksa.x.bob"], "serviceAccountName": "bob",
                }),
            ),
            wep(
                "y/a",
                "10.0.0.2",
                json!({}),
                json!([DEFAULT_ALLOW_PROFILE, "kns.y"]),
            ),
            profile("kns.x", json!({"labelsToApply": {"pcns.env": "prod"}})),
            profile("ksa.x.bob", json!({"labelsToApply": {"pcsa.team": "red"}})),
            gnp("p", spec),
        ])
    };
    for spec in [
        json!({"namespaceSelector": "env == 'prod'"}),
        json!({"serviceAccountSelector": "team == 'red'"}),
        json!({"namespaceSelector": "all()", "serviceAccountSelector": "has(team)"}),
    ] {
        let cluster = policy(spec.clone());
        assert_eq!(
            (cluster.takes("x/a", TCP_80), cluster.takes("y/a", TCP_80)),
            (false, true),
            "{spec}"
        );
    }
    let cluster = policy(json!({"namespaceSelector": "global()"}));
    assert!(cluster.takes("x/a", TCP_80) && cluster.takes("y/a", TCP_80));
}

/// Whether a rule with these fields allows a packet to 10.0.0.1 / fd00::1.
fn allows(rule: Value, text: &str) -> bool {
    let mut full = json!({"action": "Allow"});
    full.as_object_mut()
        .unwrap()
        .extend(rule.as_object().unwrap().clone());
    let cluster = cluster(&[gnp("p", json!({"ingress": [full]}))]);
    assert_eq!(cluster.events, [], "{rule}");
    cluster.takes("ns/a", text)
}

#[test]
fn every_field_of_a_rule_must_match() {
    let v6 = "fd00::2 fd00::1 tcp 40000 80";
    let (icmp, icmp6) = ("10.0.0.2 10.0.0.1 icmp 8 0", "fd00::2 fd00::1 icmp6 128 0");
    let cases = [
        (json!({"ipVersion": 4}), TCP_80, true),
        (json!({"ipVersion": 4}), v6, false),
        (json!({"ipVersion": 6}), v6, true),
        (json!({"protocol": "TCP"}), UDP_53, false),
        (json!({"protocol": 6}), TCP_80, true),
        (json!({"notProtocol": "TCP"}), TCP_80, false),
        (json!({"notProtocol": 17}), TCP_80, true),
        (json!({"protocol": "ICMP"}), icmp, true),
        (json!({"protocol": "ICMP"}), icmp6, false),
        (json!({"protocol": "ICMPv6"}), icmp6, true),
        (json!({"protocol": "ICMP", "icmp": {"type": 8}}), icmp, true),
        (
            json!({"protocol": "ICMP", "icmp": {"type": 8, "code": 1}}),
            icmp,
            false,
        ),
        (
            json!({"protocol": "ICMP", "notICMP": {"type": 8, "code": 1}}),
            icmp,
            true,
        ),
        (
            json!({"protocol": "ICMP", "notICMP": {"type": 8}}),
            icmp,
            false,
        ),
        (
            json!({"protocol": "TCP", "destination": {"ports": [79, "80:81"]}}),
            TCP_80,
            true,
        ),
        (
            json!({"protocol": "TCP", "destination": {"ports": ["81:90"]}}),
            TCP_80,
            false,
        ),
        (
            json!({"protocol": "TCP", "source": {"ports": [80]}}),
            TCP_80,
            false,
        ),
        (
            json!({"protocol": "TCP", "destination": {"notPorts": [80]}}),
            TCP_80,
            false,
        ),
        (
            json!({"protocol": "TCP", "destination": {"ports": ["1:100"], "notPorts": [81]}}),
            TCP_80,
            true,
        ),
        (
            json!({"source": {"nets": ["10.0.0.0/30", "fd00::/64"]}}),
            TCP_80,
            true,
        ),
        (
            json!({"source": {"nets": ["10.0.0.0/30", "fd00::/64"]}}),
            v6,
            true,
        ),
        (json!({"source": {"nets": ["fd00::/64"]}}), TCP_80, false),
        (
            json!({"source": {"notNets": ["10.0.0.2/32"]}}),
            TCP_80,
            false,
        ),
        (
            json!({"source": {"notNets": ["10.0.0.3/32"]}}),
            TCP_80,
            true,
        ),
        (
            json!({"source": {"notNets": ["fd00::5/128"]}}),
            TCP_80,
            false,
        ),
        (json!({"source": {"notNets": ["fd00::5/128"]}}), v6, true),
        (
            json!({"source": {"notNets": ["fd00::5/128", "10.0.0.3/32"]}}),
            TCP_80,
            true,
        ),
        (json!({"source": {"notNets": ["0.0.0.0/0"]}}), TCP_80, false),
        (
            json!({"source": {"nets": ["10.0.0.0/8"], "notNets": ["10.0.0.2/32"]}}),
            TCP_80,
            false,
        ),
        (
            json!({"source": {"nets": ["10.0.0.0/8"]}, "destination": {"nets": ["fd00::/8"]}}),
            TCP_80,
            false,
        ),
        (json!({"source": {"selector": "app == 'b'"}}), TCP_80, true),
        (
            json!({"source": {"selector": "app == 'nobody'"}}),
            TCP_80,
            false,
        ),
        (
            json!({"source": {"notSelector": "app == 'nobody'"}}),
            TCP_80,
            true,
        ),
        (
            json!({"source": {"selector": "has(app)", "notSelector": "app == 'b'"}}),
            TCP_80,
            false,
        ),
    ];
    for (rule, text, expected) in cases {
        assert_eq!(allows(rule.clone(), text), expected, "{rule} on {text}");
    }
}

#[test]
fn rules_that_no_packet_can_match_are_left_out() {
    let cluster = cluster(&[gnp(
        "p",
        json!({"ingress": [
            {"action": "Allow", "source": {"notNets": ["0.0.0.0/0", "::/0"]}},
            {"action": "Allow", "source": {"nets": ["10.0.0.0/8"]}, "destination": {"nets": ["fd00::/8"]}},
            {"action": "Allow", "ipVersion": 6, "source": {"selector": "app == 'x'", "nets": ["10.0.0.0/8"]}},
            {"action": "Allow", "ipVersion": 6},
        ]}),
    )]);
    let rules = cluster.view.policies.values().next().unwrap();
    assert_eq!(
        rules.ingress.iter().map(|r| r.index).collect::<Vec<_>>(),
        [3]
    );
    assert!(cluster.view.sets.is_empty());
}

#[test]
fn named_ports_are_those_of_the_selected_endpoints() {
    let endpoint = |name: &str, ip: &str, app: &str, port: u16| {
        wep_with(
            name,
            ip,
            json!({"app": app}),
            json!({
                "ports": [{"name": "web", "protocol": "TCP", "port": port},
                          {"name": "web", "protocol": "UDP", "port": 99}],
            }),
        )
    };
    let cluster = |destination: Value| {
        let rule = json!({"action": "Allow", "protocol": "TCP", "destination": destination});
        Cluster::new(&[
            endpoint("ns/a", "10.0.0.1", "a", 80),
            endpoint("ns/b", "10.0.0.2", "b", 81),
            gnp("p", json!({"egress": [rule]})),
        ])
    };
    let reaches = |cluster: &Cluster, to: &str| {
        [80, 81, 99, 7].map(|port| cluster.sends("ns/a", &format!("10.0.0.9 {to} tcp 1 {port}")))
    };
    let any = cluster(json!({"ports": ["web"]}));
    assert_eq!(reaches(&any, "10.0.0.1"), [true, false, false, false]);
    assert_eq!(reaches(&any, "10.0.0.2"), [false, true, false, false]);
    assert_eq!(reaches(&any, "10.0.0.3"), [false; 4]);
    let selected = cluster(json!({"ports": ["web", 7], "selector": "app == 'a'"}));
    assert_eq!(reaches(&selected, "10.0.0.1"), [true, false, false, true]);
    assert_eq!(reaches(&selected, "10.0.0.2"), [false; 4]);
    let not = cluster(json!({"notPorts": ["web"]}));
    assert_eq!(reaches(&not, "10.0.0.1"), [false, true, true, true]);
    assert_eq!(reaches(&not, "10.0.0.3"), [true; 4]);
}

#[test]
fn sets_that_mean_the_same_are_shared() {
    let cluster = cluster(&[
        gnp(
            "p",
            json!({"ingress": [{"action": "Allow", "source": {"selector": "app in {'a','b'}"}}]}),
        ),
        gnp(
            "q",
            json!({"egress": [
                {"action": "Allow", "destination": {"selector": " (app in { \"b\", \"a\", })"}},
                {"action": "Deny", "destination": {"notSelector": "app in {'b', 'a'}"}},
            ]}),
        ),
    ]);
    assert_eq!(cluster.view.sets.len(), 1);
    let (_, members) = cluster.view.sets.values().next().unwrap();
    assert_eq!(members.len(), 2);
}

#[test]
fn what_cannot_be_compiled_drops_everything_it_selects_and_says_so() {
    let cases = [
        (
            json!({"selector": "app == "}),
            "selector: selector, column 7",
        ),
        (
            json!({"ingress": [{"action": "Allow", "source": {"selector": "x"}}]}),
            "ingress[0].source.selector",
        ),
        (
            json!({"ingress": [{"action": "Allow"}, {"action": "Allow", "ipVersion": 5}]}),
            "ingress[1].ipVersion: found 5",
        ),
        (
            json!({"ingress": [{"action": "Allow", "ipVersion": 6, "protocol": "ICMP"}]}),
            "found protocol ICMP",
        ),
        (
            json!({"ingress": [{"action": "Allow", "destination": {"ports": [80]}}]}),
            "ports need protocol",
        ),
        (
            json!({"ingress": [{"action": "Allow", "protocol": "TCP", "icmp": {"type": 8}}]}),
            "needs protocol ICMP",
        ),
        (
            json!({"ingress": [{"action": "Allow", "protocol": "ICMP", "icmp": {"code": 8}}]}),
            "without a type",
        ),
        (
            json!({"ingress": [{"action": "Allow", "protocol": "TCP", "http": {"methods": ["GET"]}}]}),
            "http: not supported",
        ),
        (
            json!({"ingress": [{"action": "Allow", "source": {"services": {"name": "s"}}}]}),
            "source.services: found",
        ),
        (
            json!({"ingress": [{"action": "Allow", "source": {"domains": ["x"]}}]}),
            "source.domains",
        ),
        (
            json!({"ingress": [{"action": "Allow", "sometimes": true}]}),
            "ingress[0].sometimes",
        ),
        (
            json!({"ingress": [{"action": "Allow"}], "onlyOn": "mondays"}),
            "onlyOn: not supported",
        ),
    ];
    for (mut spec, message) in cases {
        spec.as_object_mut()
            .unwrap()
            .insert("types".to_owned(), json!(["Ingress"]));
        let cluster = Cluster::new(&[
            wep("x/a", "10.0.0.1", json!({}), json!([DEFAULT_ALLOW_PROFILE])),
            wep("y/a", "10.0.0.2", json!({}), json!([DEFAULT_ALLOW_PROFILE])),
            np("x/p", spec.clone()),
        ]);
        assert!(!cluster.takes("x/a", TCP_80), "{spec}");
        assert!(
            cluster.sends("x/a", TCP_80) && cluster.takes("y/a", TCP_80),
            "{spec}"
        );
        let [(key, text)] = &events(&cluster)[..] else {
            panic!("{spec}: {:?}", cluster.events)
        };
        assert_eq!(key, "NetworkPolicy/x/p");
        assert!(text.contains(message), "{spec}: {text}");
    }
}

#[test]
fn events_come_once_and_go_when_the_resource_is_mended() {
    let mut calc = Calc::new(Scope::Cluster);
    let bad = gnp("p", json!({"selector": "("}));
    calc.update(&bad);
    calc.flush();
    assert_eq!(calc.take_events().len(), 1);
    calc.update(&bad);
    calc.flush();
    assert_eq!(calc.take_events(), []);
    assert_eq!(calc.problems().count(), 1);
    calc.update(&gnp("p", json!({})));
    calc.flush();
    assert_eq!(
        calc.take_events(),
        [Event {
            key: bad.key(),
            message: None
        }]
    );
    assert_eq!(calc.problems().count(), 0);
}

#[test]
fn only_what_local_endpoints_need_is_emitted() {
    let remote = |name: &str, ip: &str, labels: Value| {
        wep_with(name, ip, labels, json!({"node": "n2", "profiles": ["far"]}))
    };
    let view = view_of(
        Scope::Node("n1".to_owned()),
        &[
            wep("ns/a", "10.0.0.1", json!({"app": "a"}), json!(["near"])),
            remote("ns/b", "10.0.0.2", json!({"app": "b"})),
            profile("near", json!({})),
            profile("far", json!({})),
            gnp(
                "here",
                json!({"selector": "app == 'a'", "ingress": [
                {"action": "Allow", "source": {"selector": "app == 'b'"}}]}),
            ),
            gnp(
                "there",
                json!({"selector": "app == 'b'", "ingress": [
                {"action": "Allow", "source": {"selector": "app == 'a'"}}]}),
            ),
        ],
    );
    assert_eq!(view.endpoints.len(), 1);
    assert_eq!(
        view.policies.keys().map(|k| &*k.name).collect::<Vec<_>>(),
        ["here"]
    );
    assert_eq!(view.profiles.keys().collect::<Vec<_>>(), ["near"]);
    let (_, members) = view.sets.values().next().unwrap();
    assert_eq!(
        (view.sets.len(), members.len()),
        (1, 1),
        "members come from the whole cluster"
    );
}

#[test]
fn plans_carry_what_the_host_needs_of_the_endpoint() {
    let cluster = Cluster::new(&[
        wep_with(
            "ns/a",
            "10.0.0.1",
            json!({}),
            json!({"allowSpoofedSourcePrefixes": ["10.9.0.0/16"]}),
        ),
        wep_with("ns/b", "fd00::1", json!({}), json!({"interfaceName": ""})),
    ]);
    let plan = cluster.plan("ns/a");
    assert_eq!((&*plan.ifname, plan.admin_up), ("if-ns-a", true));
    assert_eq!(plan.addresses, ["10.0.0.1/32".parse().unwrap()]);
    assert_eq!(
        plan.allowed_source_prefixes,
        ["10.9.0.0/16".parse().unwrap()]
    );
    assert!(!cluster.plan("ns/b").admin_up);
}
