//! Endpoints of hosts, by named example.

use serde_json::Value;

use super::*;
use crate::explain::host_verdict;
use crate::program::{HostInterface, HostPath, Phase};

const IN: Direction = Direction::Ingress;
const OUT: Direction = Direction::Egress;

/// A host with one endpoint on eth0, labelled `role: edge`.
fn host_with(more: &[AnyResource]) -> Cluster {
    let host = host_endpoint_with(
        "h",
        json!({"role": "edge"}),
        json!({"interfaceName": "eth0"}),
    );
    Cluster::new(&[&[host], more].concat())
}

fn says(cluster: &Cluster, path: HostPath, direction: Direction, text: &str) -> Option<bool> {
    let plan = cluster.view.hosts.values().next().unwrap();
    let (verdict, _) = host_verdict(&cluster.view, plan, path, direction, &packet(text), false);
    verdict.map(|v| v == Verdict::Allow)
}

/// A policy for `role == 'edge'` that allows TCP to 80 both ways, and says more.
fn web(name: &str, more: Value) -> AnyResource {
    let rule = json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": [80]}});
    let mut spec = json!({"selector": "role == 'edge'", "ingress": [rule], "egress": [rule]});
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    gnp(name, spec)
}

const WEB: &str = "10.9.0.1 10.9.0.2 tcp 5000 80";
const SSH: &str = "10.9.0.1 10.9.0.2 tcp 5000 22";

#[test]
fn an_endpoint_without_policy_and_profile_drops_the_hosts_own_traffic_and_forwards() {
    let cluster = host_with(&[]);
    for direction in [IN, OUT] {
        assert_eq!(says(&cluster, HostPath::Own, direction, WEB), Some(false));
        for path in [HostPath::Untracked, HostPath::PreDnat, HostPath::Forwarded] {
            assert_eq!(says(&cluster, path, direction, WEB), None, "{path:?}");
        }
    }
}

#[test]
fn profiles_speak_for_the_hosts_own_traffic_alone() {
    let open = host_endpoint_with(
        "h",
        json!({}),
        json!({"interfaceName": "eth0", "profiles": [DEFAULT_ALLOW_PROFILE]}),
    );
    let cluster = Cluster::new(&[open]);
    assert_eq!(says(&cluster, HostPath::Own, IN, WEB), Some(true));
    assert_eq!(says(&cluster, HostPath::Forwarded, IN, WEB), None);
}

#[test]
fn normal_policy_is_for_the_hosts_own_traffic_unless_it_applies_on_forward() {
    let own = host_with(&[web("p", json!({}))]);
    assert_eq!(says(&own, HostPath::Own, IN, WEB), Some(true));
    assert_eq!(says(&own, HostPath::Own, IN, SSH), Some(false));
    assert_eq!(says(&own, HostPath::Forwarded, IN, SSH), None);
    let forwarded = host_with(&[web("p", json!({"applyOnForward": true}))]);
    assert_eq!(says(&forwarded, HostPath::Own, OUT, WEB), Some(true));
    assert_eq!(says(&forwarded, HostPath::Forwarded, OUT, WEB), Some(true));
    assert_eq!(says(&forwarded, HostPath::Forwarded, OUT, SSH), Some(false));
}

#[test]
fn forwarded_traffic_that_every_tier_passes_goes_on() {
    let pass = gnp(
        "p",
        json!({"selector": "all()", "applyOnForward": true, "ingress": [{"action": "Pass"}]}),
    );
    let cluster = host_with(&[pass]);
    assert_eq!(says(&cluster, HostPath::Forwarded, IN, WEB), None);
    assert_eq!(says(&cluster, HostPath::Own, IN, WEB), Some(false));
}

#[test]
fn untracked_and_pre_dnat_policies_decide_only_what_their_rules_match() {
    let cluster = host_with(&[
        web("raw", json!({"doNotTrack": true, "applyOnForward": true})),
        gnp(
            "early",
            json!({"selector": "role == 'edge'", "preDNAT": true, "applyOnForward": true,
                "ingress": [{"action": "Deny", "protocol": "TCP", "destination": {"ports": [22]}}]}),
        ),
    ]);
    assert_eq!(cluster.events, []);
    for direction in [IN, OUT] {
        assert_eq!(
            says(&cluster, HostPath::Untracked, direction, WEB),
            Some(true)
        );
        assert_eq!(says(&cluster, HostPath::Untracked, direction, SSH), None);
    }
    assert_eq!(says(&cluster, HostPath::PreDnat, IN, SSH), Some(false));
    assert_eq!(says(&cluster, HostPath::PreDnat, IN, WEB), None);
    assert_eq!(says(&cluster, HostPath::PreDnat, OUT, SSH), None);
    assert_eq!(says(&cluster, HostPath::Own, IN, WEB), Some(false));
    let phases: Vec<Phase> = cluster.view.policies.values().map(|r| r.phase).collect();
    assert_eq!(phases, [Phase::PreDnat, Phase::Untracked]);
}

#[test]
fn the_endpoint_of_all_interfaces_knows_no_untracked_policy() {
    let all = host_endpoint_with("h", json!({"role": "edge"}), json!({"interfaceName": "*"}));
    let raw = web("raw", json!({"doNotTrack": true, "applyOnForward": true}));
    let cluster = Cluster::new(&[all, raw]);
    assert_eq!(says(&cluster, HostPath::Untracked, IN, WEB), None);
}

#[test]
fn contradictions_drop_everything_in_their_phase_and_say_so() {
    for (more, message) in [
        (
            json!({"doNotTrack": true, "preDNAT": true, "applyOnForward": true, "egress": []}),
            "preDNAT: found beside doNotTrack",
        ),
        (
            json!({"preDNAT": true, "applyOnForward": true}),
            "egress: found with preDNAT",
        ),
    ] {
        let cluster = host_with(&[web("p", more)]);
        let [event] = &*cluster.events else {
            panic!("{:?}", cluster.events)
        };
        assert!(
            event.message.as_ref().unwrap().contains(message),
            "{event:?}"
        );
        let decided =
            [HostPath::Untracked, HostPath::PreDnat].map(|path| says(&cluster, path, IN, WEB));
        assert!(decided.contains(&Some(false)), "{message}");
    }
}

#[test]
fn namespaced_policies_and_namespace_selectors_do_not_reach_hosts() {
    let labelled = host_endpoint_with(
        "h",
        json!({"role": "edge", "projectcalico.org/namespace": "x"}),
        json!({"interfaceName": "eth0"}),
    );
    let policies = [
        np("x/p", json!({"selector": "role == 'edge'"})),
        gnp("all", json!({"namespaceSelector": "all()"})),
        gnp("none", json!({"namespaceSelector": "global()"})),
    ];
    let cluster = Cluster::new(&[&[labelled], &policies[..]].concat());
    let plan = cluster.view.hosts.values().next().unwrap();
    let names: Vec<_> = plan.own.ingress[0]
        .policies
        .iter()
        .map(|p| &*p.name)
        .collect();
    assert_eq!(names, ["none"]);
}

#[test]
fn the_interface_is_named_or_all_or_found_by_address() {
    let interface = |spec: Value| {
        let cluster = Cluster::new(&[host_endpoint_with("h", json!({}), spec)]);
        let plan = cluster.view.hosts.values().next().unwrap();
        plan.interface.clone()
    };
    let ips = json!(["192.0.2.1"]);
    assert_eq!(
        interface(json!({"interfaceName": "eth1", "expectedIPs": ips})),
        HostInterface::Named("eth1".to_owned())
    );
    assert_eq!(interface(json!({"interfaceName": "*"})), HostInterface::All);
    assert_eq!(
        interface(json!({"expectedIPs": ips})),
        HostInterface::WithAddress(vec!["192.0.2.1".parse().unwrap()])
    );
}

#[test]
fn endpoints_of_other_hosts_are_not_planned_for() {
    let here = host_endpoint_with("h", json!({}), json!({"interfaceName": "eth0"}));
    assert_eq!(
        view_of(Scope::Node("n1".to_owned()), [&here]).hosts.len(),
        1
    );
    assert_eq!(
        view_of(Scope::Node("n2".to_owned()), [&here]).hosts.len(),
        0
    );
}
