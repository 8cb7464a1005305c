//! A program without the rules that nobody reaches, and with neighbours joined, says what the whole one
//! says.

use margay_model::rule::Rule as RuleSpec;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use super::arbitrary::{any_packet, neighbours, rules as any_rules};
use super::*;
use crate::calc::compile::{program, whole_program};
use crate::program::{Rule, SetKind, SetMember, TierPlan};

/// A view with one policy on one endpoint.
fn view(rules: &Arc<Rules>) -> View {
    let mut view = View::default();
    view.policies
        .insert(gnp("p", json!({})).key(), Arc::clone(rules));
    // Half of the sets have members, so that rules with sets match at times.
    for (i, id) in rules.set_ids().into_iter().enumerate() {
        let nets = ["10.0.0.0/29", "fd00::/125"].map(|net| SetMember::Net(net.parse().unwrap()));
        let members = nets.into_iter().filter(|_| i % 2 == 0).collect();
        view.sets.insert(id.clone(), (SetKind::Nets, members));
    }
    view
}

fn plan() -> EndpointPlan {
    let tiers = vec![TierPlan {
        name: "default".to_owned(),
        default_action: Action::Deny,
        policies: vec![gnp("p", json!({})).key()],
        if_enforced: None,
    }];
    EndpointPlan {
        key: wep("x/a", "10.0.0.1", json!({}), json!([])).key(),
        ifname: "if".to_owned(),
        addresses: Vec::new(),
        ingress: tiers.clone(),
        egress: tiers,
        profiles: Vec::new(),
        admin_up: true,
        allowed_source_prefixes: Vec::new(),
        qos: Default::default(),
        host_ports: Vec::new(),
    }
}

fn specs(rules: Value) -> Vec<RuleSpec> {
    serde_json::from_value(rules).unwrap()
}

/// What is left of rules, by index.
fn left(rules: Value) -> Vec<usize> {
    joined(rules).concat()
}

/// What is left of rules, by the indices of those that each stands for.
fn joined(rules: Value) -> Vec<Vec<usize>> {
    let program = program(&specs(rules), &[], None).unwrap();
    let indices = |rule: &Rule| rule.sources().iter().map(|s| s.index).collect();
    program.rules.ingress.iter().map(indices).collect()
}

#[test]
fn of_adjacent_equal_rules_the_first_stays() {
    let rule = json!({"action": "Allow", "protocol": "TCP", "source": {"selector": "app == 'a'"}});
    let annotated = json!({"action": "Allow", "protocol": "TCP", "source": {"selector": "app == 'a'"},
        "metadata": {"annotations": {"why": "again"}}});
    assert_eq!(left(json!([rule, rule, annotated])), [0]);
}

#[test]
fn nothing_is_left_behind_a_rule_that_matches_everything_nor_its_sets() {
    let rules = json!([
        {"action": "Deny"},
        {"action": "Allow", "source": {"selector": "app == 'a'"}},
    ]);
    let program = program(&specs(rules), &[], None).unwrap();
    assert_eq!(program.rules.ingress.len(), 1);
    assert!(program.sets.is_empty());
}

#[test]
fn a_rule_is_hidden_by_a_wider_one_whatever_it_does() {
    let port = |action: &str, ports: Value| json!({"action": action, "protocol": "TCP", "destination": {"ports": ports}});
    let wide = port("Pass", json!(["80:90"]));
    assert_eq!(left(json!([wide, port("Deny", json!([85]))])), [0]);
    assert_eq!(left(json!([wide, port("Deny", json!([85, 91]))])), [0, 1]);
    let from = |nets: Value| json!({"action": "Allow", "source": {"nets": nets}});
    let wide = from(json!(["10.0.0.0/8", "fd00::/8"]));
    assert_eq!(left(json!([wide, from(json!(["10.1.0.0/16"]))])), [0]);
    assert_eq!(left(json!([wide, from(json!(["11.0.0.0/16"]))])), [0, 1]);
    // Two rules together may hide a third.
    let [a, b] = [80, 81].map(|number| port("Allow", json!([number])));
    assert_eq!(left(json!([a, b, port("Deny", json!([81, 80]))])), [0, 1]);
}

#[test]
fn log_hides_nothing_and_every_log_stays_that_is_reached() {
    let log = json!({"action": "Log"});
    let allow = json!({"action": "Allow"});
    assert_eq!(left(json!([log, log, allow, log])), [0, 1, 2]);
}

/// Allow TCP from these networks to these ports.
fn tcp(nets: Value, ports: Value) -> Value {
    json!({"action": "Allow", "protocol": "TCP", "source": {"nets": nets},
        "destination": {"ports": ports}})
}

#[test]
fn neighbours_that_differ_in_one_list_become_one() {
    let (a, b) = (json!(["10.0.0.0/8"]), json!(["11.0.0.0/8", "12.0.0.0/8"]));
    assert_eq!(
        joined(json!([
            tcp(a.clone(), json!([80])),
            tcp(a.clone(), json!(["web", "90:99"]))
        ])),
        [[0, 1]]
    );
    assert_eq!(
        joined(json!([
            tcp(a.clone(), json!([80])),
            tcp(b.clone(), json!([80]))
        ])),
        [[0, 1]]
    );
    // Peers times ports, as the policies of others come.
    let all = [&a, &b].map(|nets| [80, 443].map(|port| tcp(nets.clone(), json!([port]))));
    assert_eq!(joined(json!(all.concat())), [[0, 1, 2, 3]]);
    let program = program(&specs(json!(all.concat())), &[], None).unwrap();
    let [rule] = &program.rules.ingress[..] else {
        panic!("{:?}", program.rules)
    };
    assert_eq!((rule.index, rule.source.nets.len()), (0, 3));
    assert_eq!(rule.destination.ports.len(), 2);
    // Both families may come together.
    let v6 = json!(["fd00::/8"]);
    assert_eq!(
        joined(json!([tcp(a, json!([80])), tcp(v6, json!([80]))])),
        [[0, 1]]
    );
}

#[test]
fn what_differs_in_more_is_counted_alone_or_stands_apart_is_not_joined() {
    let net = |octet: u8| json!([format!("{octet}.0.0.0/8")]);
    let apart = |rules: [Value; 2]| assert_eq!(joined(json!(rules)), [[0], [1]], "{rules:?}");
    apart([tcp(net(10), json!([80])), tcp(net(11), json!([81]))]);
    let mut udp = tcp(net(10), json!([81]));
    udp["protocol"] = json!("UDP");
    apart([tcp(net(10), json!([80])), udp]);
    let with = |name: &str, value: Value| {
        [10, 11].map(|octet| {
            let mut rule = tcp(net(octet), json!([80]));
            rule[name] = value.clone();
            rule
        })
    };
    apart(with("action", json!("Log")));
    apart(with("metadata", json!({"annotations": {"why": "mine"}})));
    // Any port is more than some ports.
    let mut any = tcp(net(10), json!([80]));
    any.as_object_mut().unwrap().remove("destination");
    apart([tcp(net(10), json!([80])), any]);
    let deny = json!({"action": "Deny", "protocol": "UDP"});
    assert_eq!(
        joined(json!([
            tcp(net(10), json!([80])),
            deny,
            tcp(net(11), json!([80]))
        ])),
        [[0], [1], [2]]
    );
}

#[test]
fn staged_rules_are_counted_one_by_one() {
    let rules = [80, 81].map(|port| tcp(json!(["10.0.0.0/8"]), json!([port])));
    let program = program(&specs(json!(rules)), &[], None).unwrap();
    assert_eq!(program.rules.ingress.len(), 1);
    assert_eq!(program.staged().rules.ingress.len(), 2);
}

#[test]
fn neighbours_are_joined_often_enough_for_the_property_to_mean_something() {
    let mut runner = TestRunner::deterministic();
    let (mut rules, mut left) = (0, 0);
    for _ in 0..500 {
        let sample = neighbours().new_tree(&mut runner).unwrap().current();
        let specs = specs(Value::Array(sample));
        if let (Ok(whole), Ok(short)) =
            (whole_program(&specs, &[], None), program(&specs, &[], None))
        {
            rules += whole.rules.ingress.len();
            let joined = |rule: &&Rule| !rule.parts.is_empty();
            left += short.rules.ingress.iter().filter(joined).count();
        }
    }
    assert!(left * 10 > rules, "{left} joined rules of {rules}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_same_rules_match_the_same_packets(
        one in any_rules(),
        two in any_rules(),
        three in neighbours(),
        packets in vec(any_packet(), 12),
    ) {
        let all = [one, two, three].concat();
        let specs = specs(Value::Array(all));
        let whole = whole_program(&specs, &specs, None);
        prop_assume!(whole.is_ok());
        let (whole, reduced) = (whole.unwrap(), program(&specs, &specs, None).unwrap());
        // The sets of the whole program serve both.
        let whole = view(&whole.rules);
        let mut short = whole.clone();
        short.policies.insert(gnp("p", json!({})).key(), reduced.rules);
        for packet in &packets {
            for direction in [Direction::Ingress, Direction::Egress] {
                // The same rules of the resource match, Log rules among them.
                prop_assert_eq!(
                    verdict(&whole, &plan(), direction, packet),
                    verdict(&short, &plan(), direction, packet)
                );
            }
        }
    }
}
