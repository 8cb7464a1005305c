//! A program without the rules that nobody reaches says what the whole one says.

use margay_model::rule::Rule as RuleSpec;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use super::arbitrary::{any_packet, rules as any_rules};
use super::*;
use crate::calc::compile::{program, whole_program};
use crate::program::{SetKind, SetMember, TierPlan};

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
    }
}

fn specs(rules: Value) -> Vec<RuleSpec> {
    serde_json::from_value(rules).unwrap()
}

/// What is left of rules, by index.
fn left(rules: Value) -> Vec<usize> {
    let program = program(&specs(rules), &[], None).unwrap();
    program
        .rules
        .ingress
        .iter()
        .map(|rule| rule.index)
        .collect()
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
}

#[test]
fn log_hides_nothing_and_every_log_stays_that_is_reached() {
    let log = json!({"action": "Log"});
    let allow = json!({"action": "Allow"});
    assert_eq!(left(json!([log, log, allow, log])), [0, 1, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_same_rules_match_the_same_packets(
        one in any_rules(),
        two in any_rules(),
        three in any_rules(),
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
                prop_assert_eq!(
                    verdict(&whole, &plan(), direction, packet),
                    verdict(&short, &plan(), direction, packet)
                );
            }
        }
    }
}
