//! Staged policies: looked at, never enforced.

use serde_json::Value;

use super::*;
use crate::explain::{Place, trace};
use crate::staged::as_if_enforced;

const WEB: &str = "10.0.0.2 10.0.0.1 tcp 40000 80";

/// An open endpoint `ns/a` at 10.0.0.1, and more.
fn resources(more: &[AnyResource]) -> Vec<AnyResource> {
    let a = wep(
        "ns/a",
        "10.0.0.1",
        json!({}),
        json!([DEFAULT_ALLOW_PROFILE]),
    );
    [&[a], more].concat()
}

fn deny_web(action: Value) -> AnyResource {
    let rule = json!({"action": "Deny", "protocol": "TCP", "destination": {"ports": [80]}});
    staged(
        "ns/p",
        json!({"ingress": [{"action": "Log"}, rule], "stagedAction": action}),
    )
}

fn allow_all() -> AnyResource {
    np("ns/p", json!({"ingress": [{"action": "Allow"}]}))
}

fn takes_web(resources: Vec<AnyResource>) -> bool {
    Cluster::new(&resources).takes("ns/a", WEB)
}

#[test]
fn a_staged_policy_decides_nothing_and_its_tier_is_skipped_without_others() {
    let all = resources(&[deny_web(json!("Set"))]);
    let cluster = Cluster::new(&all);
    let (allowed, steps) = cluster.ask("ns/a", Direction::Ingress, &packet(WEB));
    assert!(allowed);
    assert_eq!(steps.len(), 1, "the profile alone: {steps:?}");
    assert!(cluster.view.policies.values().all(|rules| rules.staged));
}

#[test]
fn the_plan_tells_how_a_tier_would_end_if_what_is_staged_in_it_were_enforced() {
    let mut all = resources(&[deny_web(json!("Set"))]);
    let cluster = Cluster::new(&all);
    let tier = &cluster.plan("ns/a").ingress[0];
    assert_eq!(
        (tier.default_action, tier.if_enforced),
        (Action::Pass, Some(Action::Deny))
    );
    all.push(np("ns/other", json!({"ingress": []})));
    let cluster = Cluster::new(&all);
    let tier = &cluster.plan("ns/a").ingress[0];
    assert_eq!(
        (tier.default_action, tier.if_enforced),
        (Action::Deny, None)
    );
}

#[test]
fn a_trace_tells_what_staged_policies_would_say() {
    let cluster = Cluster::new(&resources(&[deny_web(json!("Set"))]));
    let plan = cluster.plan("ns/a");
    let staged = |text: &str| {
        let (_, steps) = trace(&cluster.view, plan, Direction::Ingress, &packet(text));
        steps.into_iter().find_map(|step| match step {
            Step::Staged {
                place: Place::Policy { policy, .. },
                rule,
            } => Some((policy.to_string(), rule)),
            _ => None,
        })
    };
    let name = "StagedNetworkPolicy/ns/p".to_owned();
    assert_eq!(staged(WEB), Some((name.clone(), Some((1, Action::Deny)))));
    assert_eq!(staged("10.0.0.2 10.0.0.1 udp 40000 80"), Some((name, None)));
}

#[test]
fn a_tier_with_enforced_policies_ends_as_ever() {
    let cluster = Cluster::new(&resources(&[
        deny_web(json!("Set")),
        np("ns/other", json!({"ingress": []})),
    ]));
    assert!(!cluster.takes("ns/a", "10.0.0.2 10.0.0.1 udp 40000 80"));
}

#[test]
fn enforced_as_if_set_replaces_delete_removes_and_the_others_change_nothing() {
    let enforced = |policies: &[AnyResource]| as_if_enforced(resources(policies)).0;
    assert!(takes_web(resources(&[allow_all(), deny_web(json!("Set"))])));
    assert!(!takes_web(enforced(&[allow_all(), deny_web(json!("Set"))])));
    assert!(
        !takes_web(enforced(&[deny_web(json!("Set"))])),
        "one that is new"
    );
    let deny = np("ns/p", json!({"ingress": []}));
    assert!(takes_web(enforced(&[
        deny.clone(),
        deny_web(json!("Delete"))
    ])));
    for action in ["Learn", "Ignore"] {
        assert!(!takes_web(enforced(&[
            deny.clone(),
            deny_web(json!(action))
        ])));
    }
}

#[test]
fn only_set_is_counted() {
    for action in ["Delete", "Learn", "Ignore"] {
        let cluster = Cluster::new(&resources(&[deny_web(json!(action))]));
        assert!(cluster.view.policies.is_empty(), "{action}");
    }
}

#[test]
fn staged_policies_of_kubernetes_are_read_as_they_would_be_converted() {
    let staged = |spec: Value| {
        resource::<margay_model::staged_policy::StagedKubernetesNetworkPolicySpec>(
            "ns/k",
            json!({}),
            spec,
        )
    };
    let isolates = staged(json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    let pod = wep_with(
        "ns/a",
        "10.0.0.1",
        json!({}),
        json!({"orchestrator": "k8s", "profiles": [DEFAULT_ALLOW_PROFILE]}),
    );
    let all = vec![pod, isolates];
    assert!(takes_web(all.clone()));
    assert!(!takes_web(as_if_enforced(all).0));
    let broken = staged(json!({"ingress": [{"from": [{}]}]}));
    let (_, problems) = as_if_enforced([broken.clone()]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    let cluster = Cluster::new(&resources(&[broken]));
    assert_eq!(cluster.events.len(), 1);
    assert!(cluster.takes("ns/a", WEB), "it enforces nothing");
}
