//! Whatever rules are asked for, the kernel takes their rendering, and it reads back as written.

use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;
use margay_dataplane::filter::{
    Action, Backend, EntityMatch, Family, IcmpMatch, PolicyRules, Rule, SetId, SetKind, SetSpec,
};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};

use crate::lab::{Lab, apply, filter};

crate::all_backends!(any_rules_are_accepted_by_the_kernel);

const BATCHES: usize = 20;

fn net() -> impl Strategy<Value = IpNetwork> {
    let v4 =
        (any::<[u8; 4]>(), 0..=32u8).prop_map(|(a, len)| IpNetwork::new(a.into(), len).unwrap());
    let v6 =
        (any::<[u8; 16]>(), 0..=128u8).prop_map(|(a, len)| IpNetwork::new(a.into(), len).unwrap());
    prop_oneof![v4, v6]
}

fn ports() -> impl Strategy<Value = RangeInclusive<u16>> {
    (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a.min(b)..=a.max(b))
}

fn sets(name: &'static str) -> impl Strategy<Value = Vec<SetId>> {
    vec(
        (0..2u8).prop_map(move |n| SetId::from(format!("{name}{n}").as_str())),
        0..3,
    )
}

fn entity() -> impl Strategy<Value = EntityMatch> {
    let addresses = (
        vec(net(), 0..4),
        vec(net(), 0..3),
        sets("nets"),
        sets("nets"),
    );
    let numbers = (vec(ports(), 0..20), vec(ports(), 0..3));
    let named = (sets("ports"), sets("ports"), sets("ports"));
    (addresses, numbers, named).prop_map(|(addresses, numbers, named)| EntityMatch {
        nets: addresses.0,
        not_nets: addresses.1,
        sets: addresses.2,
        not_sets: addresses.3,
        ports: numbers.0,
        not_ports: numbers.1,
        port_sets: named.0,
        named_ports: named.1,
        not_named_ports: named.2,
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        Just(Action::Allow),
        Just(Action::Deny),
        Just(Action::Pass),
        Just(Action::Log),
    ];
    let family = option::of(prop_oneof![Just(Family::V4), Just(Family::V6)]);
    let protocol = || option::of(prop_oneof![4 => Just(6), 2 => Just(17), 1 => any::<u8>()]);
    let icmp = || {
        let some = (any::<u8>(), option::of(any::<u8>()))
            .prop_map(|(icmp_type, code)| IcmpMatch { icmp_type, code });
        option::weighted(0.1, some)
    };
    let protocols = (protocol(), protocol(), icmp(), icmp());
    let sparse = || prop_oneof![Just(EntityMatch::default()), entity()];
    (
        action,
        family,
        protocols,
        sparse(),
        sparse(),
        option::of(any::<String>()),
    )
        .prop_map(|(action, ip_version, protocols, src, dst, comment)| Rule {
            action,
            ip_version,
            protocol: protocols.0,
            not_protocol: protocols.1,
            icmp: protocols.2,
            not_icmp: protocols.3,
            src,
            dst,
            comment,
            place: None,
        })
}

fn any_rules_are_accepted_by_the_kernel(backend: Backend) {
    let _lab = Lab::new();
    let mut filter = filter(backend);
    for n in 0..2 {
        for (name, kind) in [("nets", SetKind::Nets), ("ports", SetKind::NetPorts)] {
            let spec = SetSpec {
                kind,
                members: Default::default(),
            };
            filter.set_ipset(format!("{name}{n}").as_str().into(), spec);
        }
    }
    filter.allow_deletes();
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    for _ in 0..BATCHES {
        let rules = vec(rule(), 12).new_tree(&mut runner).unwrap().current();
        let report = {
            filter.set_policy(
                "p".into(),
                PolicyRules {
                    ingress: rules.clone(),
                    egress: vec![],
                    ..PolicyRules::default()
                },
            );
            filter.apply()
        };
        assert!(report.is_ok(), "{:?}", report.failures);
        filter.resync();
        let report = apply(&mut filter);
        assert_eq!((report.drift, report.restores), (0, 0), "{rules:?}");
    }
}
