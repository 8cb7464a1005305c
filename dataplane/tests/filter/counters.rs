//! What rules matched can be read back.

use std::collections::BTreeMap;

use margay_dataplane::filter::{
    Action, Backend, Direction, Failsafe, Globals, HostEndpoint, HostInterface, PolicyRules, Rule,
    RulesId, Tier, TierDefault, Ways,
};

use crate::lab::{
    Lab, allow_all, apply, connect, datagram_arrives, endpoint, filter, id, ingress, open_endpoint,
    reaches, run, serve, tcp, tier,
};

crate::all_backends!(
    each_rule_counts_what_it_matched_and_staged_rules_only_count,
    what_no_rule_decides_is_counted_by_its_reason,
);

fn each_rule_counts_what_it_matched_and_staged_rules_only_count(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80, 81, 82]);
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    let staged = |ports: &[u16]| tcp(Action::CountAndStop(None), ports);
    let note = tcp(Action::CountAndGoOn, &[80, 81, 82]);
    filter.set_policy(
        "staged".into(),
        PolicyRules {
            ingress: vec![note, staged(&[82]), staged(&[80, 82])],
            ..PolicyRules::default()
        },
    );
    // So many ports that one line cannot name them.
    let many: Vec<u16> = (1000..1040).chain([80]).collect();
    filter.set_policy(
        "p".into(),
        PolicyRules {
            ingress: vec![
                tcp(Action::Deny, &[81]),
                tcp(Action::Allow, &many),
                Rule::any(Action::Allow),
            ],
            ..PolicyRules::default()
        },
    );
    let direction = Direction {
        tiers: vec![Tier {
            name: "default".into(),
            policies: vec!["staged".into(), "p".into()],
            default_action: TierDefault::Deny,
        }],
    };
    filter
        .set_endpoint(id(&b), endpoint(&b, direction, Direction::default()))
        .unwrap();
    filter.allow_deletes();
    apply(&mut filter);
    for to in [b.v4, b.v4, b.v6] {
        assert!(reaches(&a.netns, to, 80), "{to}");
    }
    assert!(reaches(&a.netns, b.v6, 82));
    assert!(!reaches(&a.netns, b.v4, 81));
    let counters = filter.counters().unwrap().rules;
    let ingress = |id: RulesId| -> Vec<u64> {
        let found = counters.iter().find(|rules| rules.id == id);
        let hits = &found.unwrap().ingress;
        assert!(hits.iter().all(|h| h.bytes >= h.packets * 40));
        hits.iter().map(|h| h.packets).collect()
    };
    let denied = ingress(RulesId::Policy("p".into()))[0];
    assert!(denied > 0, "one try, perhaps sent again");
    assert_eq!(ingress(RulesId::Policy("p".into())), [denied, 3, 1]);
    assert_eq!(
        ingress(RulesId::Policy("staged".into())),
        [denied + 4, 1, 3]
    );
}

fn what_no_rule_decides_is_counted_by_its_reason(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let outside = lab.outside();
    let _servers = [serve(&b.netns, &[80]), serve(&lab.host, &[22, 23])];
    let mut filter = filter(backend);
    let globals = Globals {
        failsafe_in: vec![Failsafe {
            protocol: 6,
            port: 22,
            net: None,
        }],
        ..Globals::default()
    };
    filter.set_globals(globals).unwrap();
    filter.set_profile("open".into(), allow_all());
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    filter.set_policy("p".into(), ingress(vec![tcp(Action::Allow, &[80])]));
    let shut = endpoint(&b, tier(&["p"]), Direction::default());
    filter.set_endpoint(id(&b), shut).unwrap();
    let own = Ways {
        ingress: tier(&["p"]),
        egress: Direction::default(),
    };
    let uplink = HostEndpoint {
        own,
        profiles: vec!["open".into()],
        ..HostEndpoint::default()
    };
    filter.set_hosts([(HostInterface::Named("up0".to_owned()), uplink)].into());
    filter.allow_deletes();
    apply(&mut filter);
    let mut counted = || -> BTreeMap<String, u64> {
        let others = filter.counters().unwrap().others.into_iter();
        others
            .map(|(reason, hits)| (reason, hits.packets))
            .collect()
    };
    assert!(
        counted().values().all(|packets| *packets == 0),
        "{:?}",
        counted()
    );
    // In neither family, allowed ones count for nothing here.
    assert!(reaches(&a.netns, b.v4, 80) && reaches(&a.netns, b.v6, 80));
    assert!(!reaches(&a.netns, b.v4, 81) && !reaches(&a.netns, b.v6, 81));
    let host = "192.0.2.1".parse().unwrap();
    assert!(connect(&outside, host, 22).is_some() && connect(&outside, host, 23).is_none());
    let told = counted();
    // To the workload and to the host; one try each, perhaps sent again.
    assert!(told["end of tier default"] >= 3, "{told:?}");
    assert_eq!(told["failsafe port"], 1, "{told:?}");
    assert_eq!(told["not from this workload"], 0, "{told:?}");
    for (ip, to) in [("10.65.0.9", b.v4), ("fd00:65::9", b.v6)] {
        run(&format!("ip -n {} addr add {ip} dev eth0 nodad", a.netns));
        let from = (a.netns.as_str(), ip.parse().unwrap());
        assert!(!datagram_arrives(from, (&b.netns, to)));
    }
    let told = counted();
    assert!(told["not from this workload"] >= 2, "{told:?}");
    assert_eq!(told["nothing allowed it"], 0, "{told:?}");
}
