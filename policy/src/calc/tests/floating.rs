//! Floating IPs that several endpoints ask for.

use std::net::IpAddr;

use super::*;

const FLOATING: &str = "203.0.113.7";

/// An endpoint on a node that asks for [`FLOATING`].
fn asker(name: &str, node: &str, ip: &str, created: Option<&str>) -> AnyResource {
    let spec = json!({"node": node, "ipNATs": [{"internalIP": ip, "externalIP": FLOATING}]});
    let mut asker = wep_with(name, ip, json!({}), spec);
    if let AnyResource::WorkloadEndpoint(endpoint) = &mut asker {
        endpoint.metadata.creation_timestamp = created.map(str::to_owned);
    }
    asker
}

/// What a host announces and translates, by endpoint, after these resources in this order.
fn held(calc: &mut Calc, view: &mut checker::Checker) -> Vec<String> {
    view.take(calc.flush());
    let floating: IpAddr = FLOATING.parse().unwrap();
    let plans = view.view.endpoints.iter();
    let having = plans.filter(|(_, plan)| plan.floating_ips().any(|ip| ip == floating));
    having.map(|(key, _)| key.name.clone()).collect()
}

const OLD: Option<&str> = Some("2026-01-01T00:00:00Z");
const YOUNG: Option<&str> = Some("2026-01-01T00:00:01Z");

#[test]
fn the_oldest_of_all_hosts_has_a_floating_ip_whatever_order_they_come_in() {
    let old = asker("ns/z-old", "n1", "10.0.0.1", OLD);
    let young = asker("ns/a-young", "n2", "10.0.0.2", YOUNG);
    let undated = asker("ns/b-undated", "n3", "10.0.0.3", None);
    let all = [old, young, undated];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        for (node, holds) in [("n1", true), ("n2", false), ("n3", false)] {
            let mut calc = Calc::new(Scope::Node(node.to_owned()));
            let mut view = checker::Checker::default();
            for at in order {
                calc.update(&all[at]);
                held(&mut calc, &mut view);
            }
            assert_eq!(
                held(&mut calc, &mut view).len(),
                usize::from(holds),
                "{node}"
            );
            let owners: Vec<_> = calc.floating_ips().map(|(_, key)| &*key.name).collect();
            assert_eq!(owners, ["z-old"]);
            assert_eq!(calc.problems().count(), usize::from(!holds), "{node}");
        }
    }
}

#[test]
fn of_the_same_second_the_first_name_counts_and_the_next_follows_when_it_goes() {
    let mut calc = Calc::new(Scope::Cluster);
    let mut view = checker::Checker::default();
    let (a, b) = (
        asker("ns/a", "n1", "10.0.0.1", OLD),
        asker("ns/b", "n2", "10.0.0.2", OLD),
    );
    calc.update(&b);
    assert_eq!(held(&mut calc, &mut view), ["b"]);
    calc.update(&a);
    assert_eq!(held(&mut calc, &mut view), ["a"]);
    let problem = calc.take_events().pop().unwrap();
    assert_eq!(problem.key.name, "b");
    let text = problem.message.unwrap();
    assert!(
        text.contains("floating IP 203.0.113.7 is endpoint ns/a's"),
        "{text}"
    );
    // It may give it up, too.
    calc.update(&wep("ns/a", "10.0.0.1", json!({}), json!([])));
    assert_eq!(held(&mut calc, &mut view), ["b"]);
    assert_eq!(calc.take_events().pop().unwrap().message, None);
    calc.update(&a);
    held(&mut calc, &mut view);
    calc.remove(&a.key());
    assert_eq!(held(&mut calc, &mut view), ["b"]);
    calc.remove(&b.key());
    assert!(held(&mut calc, &mut view).is_empty());
    assert_eq!(calc.floating_ips().count() + calc.problems().count(), 0);
}

#[test]
fn where_they_are_switched_off_only_openstacks_lead_anywhere() {
    let mut calc = Calc::new(Scope::Node("n1".to_owned()));
    let mut view = checker::Checker::default();
    calc.enable_floating_ips(false);
    let mut endpoint = asker("ns/a", "n1", "10.0.0.1", OLD);
    calc.update(&endpoint);
    assert!(held(&mut calc, &mut view).is_empty());
    calc.enable_floating_ips(true);
    assert_eq!(held(&mut calc, &mut view), ["a"]);
    calc.enable_floating_ips(false);
    assert!(held(&mut calc, &mut view).is_empty());
    if let AnyResource::WorkloadEndpoint(endpoint) = &mut endpoint {
        endpoint.spec.orchestrator = "openstack".to_owned();
    }
    calc.update(&endpoint);
    assert_eq!(held(&mut calc, &mut view), ["a"]);
}
