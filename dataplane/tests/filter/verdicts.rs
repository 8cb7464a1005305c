//! What passes and what does not.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use ipnetwork::IpNetwork;
use margay_dataplane::filter::{
    Action, Backend, DenyAction, Direction, Family, Filter, Globals, HostAction, PolicyId,
    ProfileId, Rule, SetId, SetKind, SetMember, SetSpec, Tier, TierDefault,
};

use crate::lab::{
    Lab, Workload, allow_all, apply, connect, datagram_arrives, endpoint, filter, id, ingress,
    open_endpoint, pings, reaches, run, save, serve, tcp, tier,
};

crate::all_backends!(
    nothing_passes_before_an_endpoint_is_known_and_all_of_an_open_one_does,
    rules_match_what_they_say,
    tiers_pass_and_default_as_specified,
    a_workload_cannot_send_from_another_address,
    outgoing_traffic_is_masqueraded_and_traffic_between_pools_is_not,
    what_is_sent_to_a_service_that_nobody_translated_ends_here,
    the_host_reaches_its_workloads_and_they_reach_it_only_if_allowed,
    an_endpoint_that_changes_group_keeps_a_verdict_at_each_instant,
    a_missing_policy_or_set_drops,
);

fn addresses(workload: &Workload) -> [IpAddr; 2] {
    [workload.v4, workload.v6]
}

fn nothing_passes_before_an_endpoint_is_known_and_all_of_an_open_one_does(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80]);
    assert!(reaches(&a.netns, b.v4, 80), "the lab itself works");
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    apply(&mut filter);
    filter.allow_deletes();
    let both = |open: bool| {
        for to in addresses(&b) {
            assert_eq!(reaches(&a.netns, to, 80), open, "{to}");
            assert_eq!(pings(&a.netns, to), open, "{to}");
        }
    };
    both(false);
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    apply(&mut filter);
    both(false);
    filter.set_endpoint(id(&b), open_endpoint(&b)).unwrap();
    assert_eq!(apply(&mut filter).restores, 0, "the group was there");
    both(true);
    let mut down = open_endpoint(&b);
    down.admin_up = false;
    filter.set_endpoint(id(&b), down).unwrap();
    apply(&mut filter);
    both(false);
    filter.set_endpoint(id(&b), open_endpoint(&b)).unwrap();
    apply(&mut filter);
    both(true);
    filter.remove_endpoint(&id(&a));
    apply(&mut filter);
    both(false);
}

fn rules_match_what_they_say(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b, c) = (lab.workload(1), lab.workload(2), lab.workload(3));
    let ports = [80, 81, 82, 8080];
    let _server = serve(&b.netns, &ports);
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    for w in [&a, &c] {
        filter.set_endpoint(id(w), open_endpoint(w)).unwrap();
    }
    filter
        .set_endpoint(id(&b), endpoint(&b, tier(&["p"]), Direction::default()))
        .unwrap();
    let members = [a.v4, a.v6].map(SetMember::from).into();
    filter.set_ipset(
        "a".into(),
        SetSpec {
            kind: SetKind::Nets,
            members,
        },
    );
    let members = [b.v4, b.v6]
        .map(|ip| SetMember::NetPort(ip.into(), 6, 81))
        .into();
    filter.set_ipset(
        "named".into(),
        SetSpec {
            kind: SetKind::NetPorts,
            members,
        },
    );
    filter.allow_deletes();
    let nets = |nets: &[&str]| nets.iter().map(|n| n.parse().unwrap()).collect::<Vec<_>>();
    let many: Vec<u16> = (1000..1040).chain([82]).collect();
    let any = || Rule::any(Action::Allow);
    // Rule, then who reaches which port: a on v4, a on v6, c on v4, c on v6.
    let mut from_set = any();
    from_set.src.sets = vec![SetId::from("a")];
    let mut not_from_set = any();
    not_from_set.src.not_sets = vec![SetId::from("a")];
    let mut from_nets = any();
    from_nets.src.nets = nets(&["10.65.0.1/32", "10.9.0.0/16", "fd00:65::3/128"]);
    let mut except = any();
    except.src.nets = nets(&["10.65.0.0/24"]);
    except.src.not_nets = nets(&["10.65.0.3/32"]);
    let mut v6_only_not = any();
    v6_only_not.src.not_nets = nets(&["fd00:65::1/128"]);
    let mut mixed = tcp(Action::Allow, &[80]);
    mixed.dst.named_ports = vec![SetId::from("named")];
    let mut not_ports = Rule {
        protocol: Some(6),
        ..any()
    };
    not_ports.dst.not_ports = vec![80..=81];
    let everywhere = &ports[..];
    type Reach<'a> = [&'a [u16]; 4];
    let cases: [(&str, Rule, Reach<'_>); 9] = [
        ("set", from_set, [everywhere, everywhere, &[], &[]]),
        ("not set", not_from_set, [&[], &[], everywhere, everywhere]),
        ("nets", from_nets, [everywhere, &[], &[], everywhere]),
        ("nets and not nets", except, [everywhere, &[], &[], &[]]),
        (
            "not nets of v6 say nothing of v4",
            v6_only_not,
            [&[], &[], &[], everywhere],
        ),
        (
            "more than 15 ports",
            tcp(Action::Allow, &many),
            [&[82], &[82], &[82], &[82]],
        ),
        (
            "mixed ports",
            mixed,
            [&[80, 81], &[80, 81], &[80, 81], &[80, 81]],
        ),
        (
            "not ports",
            not_ports,
            [&[82, 8080], &[82, 8080], &[82, 8080], &[82, 8080]],
        ),
        (
            "one family",
            Rule {
                ip_version: Some(Family::V6),
                ..tcp(Action::Allow, &[80])
            },
            [&[], &[80], &[], &[80]],
        ),
    ];
    for (name, rule, expected) in cases {
        filter.set_policy("p".into(), ingress(vec![rule]));
        apply(&mut filter);
        let probes = [(&a, b.v4), (&a, b.v6), (&c, b.v4), (&c, b.v6)];
        for ((from, to), expected) in probes.into_iter().zip(expected) {
            let seen = reachable(&from.netns, to, &ports);
            assert_eq!(seen, expected, "{name}: {} to {to}", from.ifname);
        }
    }
}

/// All ports at once: the attempts that fail wait in parallel.
fn reachable(netns: &str, to: IpAddr, ports: &[u16]) -> Vec<u16> {
    thread::scope(|scope| {
        let probe = |port: u16| scope.spawn(move || reaches(netns, to, port).then_some(port));
        let probes: Vec<_> = ports.iter().map(|port| probe(*port)).collect();
        probes
            .into_iter()
            .filter_map(|probe| probe.join().unwrap())
            .collect()
    })
}

fn tiers_pass_and_default_as_specified(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let ports = [80, 81, 82, 83];
    let _server = serve(&b.netns, &ports);
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter.set_profile("shut".into(), ingress(vec![Rule::any(Action::Deny)]));
    filter.set_policy(
        "first".into(),
        ingress(vec![
            Rule {
                action: Action::Log,
                ..tcp(Action::Deny, &[80])
            },
            tcp(Action::Pass, &[80]),
            tcp(Action::Deny, &[81]),
        ]),
    );
    filter.set_policy(
        "second".into(),
        ingress(vec![tcp(Action::Allow, &[80, 81, 82])]),
    );
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    filter.allow_deletes();
    let tier = |policies: &[&str], default_action| Tier {
        name: "t".into(),
        policies: policies.iter().map(|p| PolicyId::from(*p)).collect(),
        default_action,
    };
    use TierDefault::{Deny, Pass};
    let cases: [(Vec<Tier>, &[&str], &[u16]); 8] = [
        (vec![tier(&["first", "second"], Deny)], &["open"], &[80, 82]),
        (vec![tier(&["first", "second"], Deny)], &["shut"], &[82]),
        (
            vec![tier(&["second", "first"], Deny)],
            &["shut"],
            &[80, 81, 82],
        ),
        (
            vec![tier(&["first"], Pass), tier(&["second"], Deny)],
            &["open"],
            &[80, 82],
        ),
        (
            vec![tier(&["first"], Deny), tier(&["second"], Deny)],
            &["open"],
            &[80],
        ),
        (
            vec![tier(&["first"], Pass), tier(&["second"], Pass)],
            &["open"],
            &[80, 82, 83],
        ),
        (vec![tier(&[], Deny)], &["open"], &ports),
        (vec![], &[], &[]),
    ];
    for (number, (tiers, profiles, expected)) in cases.into_iter().enumerate() {
        let mut target = endpoint(&b, Direction { tiers }, Direction::default());
        target.profiles = profiles.iter().map(|p| ProfileId::from(*p)).collect();
        filter.set_endpoint(id(&b), target).unwrap();
        apply(&mut filter);
        assert_eq!(reachable(&a.netns, b.v4, &ports), expected, "case {number}");
        assert_eq!(reachable(&a.netns, b.v6, &ports), expected, "case {number}");
    }
}

fn a_workload_cannot_send_from_another_address(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    run(&format!(
        "ip -n {0} addr add 10.65.0.2/32 dev lo; ip -n {0} addr add fd00:65::2/128 dev lo nodad
         ip -n {0} addr add 10.77.0.1/32 dev lo",
        a.netns
    ));
    let c = lab.workload(3);
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    for w in [&a, &b, &c] {
        filter.set_endpoint(id(w), open_endpoint(w)).unwrap();
    }
    apply(&mut filter);
    for (own, others, to) in [(a.v4, b.v4, c.v4), (a.v6, b.v6, c.v6)] {
        assert!(datagram_arrives((&a.netns, own), (&c.netns, to)));
        assert!(!datagram_arrives((&a.netns, others), (&c.netns, to)));
    }
    let extra: IpAddr = [10, 77, 0, 1].into();
    assert!(!datagram_arrives((&a.netns, extra), (&c.netns, c.v4)));
    let mut router = open_endpoint(&a);
    router.allowed_source_prefixes = vec!["10.77.0.0/16".parse().unwrap()];
    filter.set_endpoint(id(&a), router).unwrap();
    apply(&mut filter);
    assert!(datagram_arrives((&a.netns, extra), (&c.netns, c.v4)));
}

fn outgoing_traffic_is_masqueraded_and_traffic_between_pools_is_not(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let outside = lab.outside();
    let _out = serve(&outside, &[80]);
    let _in = serve(&b.netns, &[80]);
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    for w in [&a, &b] {
        filter.set_endpoint(id(w), open_endpoint(w)).unwrap();
    }
    apply(&mut filter);
    let outside4: IpAddr = [192, 0, 2, 2].into();
    let outside6: IpAddr = "2001:db8::2".parse().unwrap();
    assert!(
        !reaches(&a.netns, outside4, 80),
        "nobody outside knows the way back"
    );
    let pools: std::collections::BTreeSet<_> = [
        "10.65.0.0/16".parse().unwrap(),
        "fd00:65::/64".parse().unwrap(),
    ]
    .into();
    let mut globals = Globals {
        masquerade_pools: pools.clone(),
        all_pools: pools,
        ..Globals::default()
    };
    filter.set_globals(globals.clone()).unwrap();
    let report = apply(&mut filter);
    assert!(
        report.restores > 0,
        "only the first pool brings translation"
    );
    globals.all_pools.insert("10.66.0.0/16".parse().unwrap());
    filter.set_globals(globals.clone()).unwrap();
    assert_eq!(apply(&mut filter).restores, 0, "pools are set members");
    assert_eq!(connect(&a.netns, outside4, 80), Some([192, 0, 2, 1].into()));
    assert_eq!(
        connect(&a.netns, outside6, 80),
        Some("2001:db8::1".parse().unwrap())
    );
    assert_eq!(connect(&a.netns, b.v4, 80), Some(a.v4));
    assert_eq!(connect(&a.netns, b.v6, 80), Some(a.v6));
    run("ip addr add 192.0.2.9/24 dev up0");
    globals.nat_outgoing_v4 = Some([192, 0, 2, 9].into());
    filter.set_globals(globals.clone()).unwrap();
    apply(&mut filter);
    assert_eq!(connect(&a.netns, outside4, 80), Some([192, 0, 2, 9].into()));
    // Whom hosts hear from themselves, when that is asked for: nobody here knows the way back.
    globals.hosts = [IpNetwork::from(outside4), IpNetwork::from(outside6)].into();
    globals.nat_excludes_hosts = true;
    filter.set_globals(globals.clone()).unwrap();
    apply(&mut filter);
    run("conntrack -F 2>/dev/null");
    assert!(!reaches(&a.netns, outside4, 80) && !reaches(&a.netns, outside6, 80));
    globals.nat_excludes_hosts = false;
    globals.nat_ports = Some(23_000..=23_009);
    filter.set_globals(globals).unwrap();
    apply(&mut filter);
    run("conntrack -F 2>/dev/null");
    assert_eq!(connect(&a.netns, outside4, 80), Some([192, 0, 2, 9].into()));
    assert!(reaches(&a.netns, outside6, 80));
    let tracked = run("for f in ipv4 ipv6; do conntrack -L -f $f 2>/dev/null; done");
    assert_eq!(tracked.matches("dport=2300").count(), 2, "{tracked}");
    assert!(pings(&a.netns, outside4), "without ports");
}

fn what_is_sent_to_a_service_that_nobody_translated_ends_here(backend: Backend) {
    let mut lab = Lab::new();
    let a = lab.workload(1);
    let outside = lab.outside();
    // Somebody out there has both: it is our range that makes the difference.
    run(&format!(
        "ip -n {outside} addr add 198.51.100.7/32 dev lo; ip -n {outside} addr add 203.0.113.7/32 dev lo; \
         ip route add 198.51.100.7/32 via 192.0.2.2; ip route add 203.0.113.7/32 via 192.0.2.2"
    ));
    let _out = serve(&outside, &[80]);
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    let (service, other): (IpAddr, IpAddr) = ([198, 51, 100, 7].into(), [203, 0, 113, 7].into());
    let mut globals = Globals {
        masquerade_pools: ["10.65.0.0/16".parse().unwrap()].into(),
        ..Globals::default()
    };
    filter.set_globals(globals.clone()).unwrap();
    apply(&mut filter);
    assert!(reaches(&a.netns, service, 80) && reaches(&a.netns, other, 80));
    globals.services = ["198.51.100.0/24".parse().unwrap()].into();
    for (action, passes) in [
        (Some(DenyAction::Drop), false),
        (None, true),
        (Some(DenyAction::Reject), false),
    ] {
        globals.service_loops = action;
        filter.set_globals(globals.clone()).unwrap();
        apply(&mut filter);
        assert_eq!(reaches(&a.netns, service, 80), passes, "{action:?}");
        assert!(reaches(&a.netns, other, 80), "{action:?}");
    }
}

fn the_host_reaches_its_workloads_and_they_reach_it_only_if_allowed(backend: Backend) {
    let mut lab = Lab::new();
    let a = lab.workload(1);
    run("ip addr add 172.31.0.1/32 dev lo; ip addr add fd00:31::1/128 dev lo nodad");
    let host: [IpAddr; 2] = [[172, 31, 0, 1].into(), "fd00:31::1".parse().unwrap()];
    let (_in, _host) = (serve(&a.netns, &[80]), serve(&lab.host, &[80]));
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter.set_policy("none".into(), ingress(vec![]));
    let mut shut = endpoint(&a, tier(&["none"]), tier(&["none"]));
    shut.profiles.clear();
    filter.set_endpoint(id(&a), shut).unwrap();
    apply(&mut filter);
    let probe = |expected: bool| {
        for address in host {
            assert_eq!(reaches(&a.netns, address, 80), expected, "{address}");
        }
        for address in addresses(&a) {
            assert!(
                reaches(&lab.host, address, 80),
                "the host itself, {address}"
            );
        }
    };
    for action in [HostAction::Accept, HostAction::Return, HostAction::Drop] {
        let deny_action = DenyAction::Reject;
        let globals = Globals {
            endpoint_to_host: action,
            deny_action,
            ..Globals::default()
        };
        filter.set_globals(globals).unwrap();
        apply(&mut filter);
        probe(false);
    }
    for (action, open) in [
        (HostAction::Accept, true),
        (HostAction::Return, true),
        (HostAction::Drop, false),
    ] {
        filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
        filter
            .set_globals(Globals {
                endpoint_to_host: action,
                ..Globals::default()
            })
            .unwrap();
        apply(&mut filter);
        probe(open);
    }
    // Neighbour discovery goes on whatever policy says: the cache is emptied, traffic still flows.
    run("ip -6 neigh flush dev mgy1");
    assert!(reaches(&lab.host, a.v6, 80));
}

fn an_endpoint_that_changes_group_keeps_a_verdict_at_each_instant(backend: Backend) {
    let mut lab = Lab::new();
    changes_group(&mut lab, backend, |_| {});
    let (chains, expected) = match backend {
        Backend::Nftables => (save(backend), "chain v4-to-group/"),
        Backend::Iptables(variant) => {
            let chains = run(&format!("iptables-{}-save", variant.name()));
            (chains.replace(":mgy-to-wl", ""), ":mgy-to-")
        }
    };
    assert_eq!(chains.matches(expected).count(), 2, "two groups:\n{chains}");
}

/// An endpoint goes from group to group, beside whatever else there is.
pub(crate) fn changes_group(lab: &mut Lab, backend: Backend, beside: impl FnOnce(&mut Filter)) {
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80, 81]);
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    filter.allow_deletes();
    let stop = AtomicBool::new(false);
    let (a, b, stop) = (&a, &b, &stop);
    filter.set_policy("p0".into(), ingress(vec![tcp(Action::Allow, &[80])]));
    filter
        .set_endpoint(id(b), endpoint(b, tier(&["p0"]), Direction::default()))
        .unwrap();
    beside(&mut filter);
    apply(&mut filter);
    thread::scope(|scope| {
        let probe = move |port: u16| {
            let mut results = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                match reaches(&a.netns, b.v4, port) {
                    true => results.0 += 1,
                    false => results.1 += 1,
                }
            }
            results
        };
        let allowed = scope.spawn(move || probe(80));
        let denied = scope.spawn(move || probe(81));
        for round in 1..=30 {
            // A new policy and a new group each time; the old group goes at the sweep.
            let (name, old) = (format!("p{round}"), format!("p{}", round - 1));
            filter.set_policy(
                name.as_str().into(),
                ingress(vec![tcp(Action::Allow, &[80])]),
            );
            let next = endpoint(b, tier(&[&name]), Direction::default());
            filter.set_endpoint(id(b), next).unwrap();
            apply(&mut filter);
            filter.remove_policy(&old.as_str().into());
            apply(&mut filter);
        }
        stop.store(true, Ordering::Relaxed);
        let (passed, lost) = allowed.join().unwrap();
        let (leaked, dropped) = denied.join().unwrap();
        assert!(
            passed > 20 && dropped > 0,
            "{passed} passed, {dropped} dropped"
        );
        assert_eq!(
            (lost, leaked),
            (0, 0),
            "of {passed} allowed and {dropped} denied"
        );
    });
}

fn a_missing_policy_or_set_drops(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80]);
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    filter
        .set_endpoint(
            id(&b),
            endpoint(&b, tier(&["p", "q"]), Direction::default()),
        )
        .unwrap();
    filter.set_policy("q".into(), allow_all());
    filter.allow_deletes();
    apply(&mut filter);
    assert!(!reaches(&a.netns, b.v4, 80), "p is not known");
    let mut deny_set = Rule::any(Action::Deny);
    deny_set.src.sets = vec![SetId::from("bad")];
    filter.set_policy("p".into(), ingress(vec![deny_set]));
    apply(&mut filter);
    assert!(!reaches(&a.netns, b.v4, 80), "the set is not known");
    let spec = SetSpec {
        kind: SetKind::Nets,
        members: [SetMember::from(b.v4)].into(),
    };
    filter.set_ipset("bad".into(), spec);
    apply(&mut filter);
    assert!(reaches(&a.netns, b.v4, 80));
    assert!(filter.update_ipset(&"bad".into(), [SetMember::from(a.v4)], []));
    assert_eq!(apply(&mut filter).restores, 0);
    assert!(!reaches(&a.netns, b.v4, 80));
    filter.remove_ipset(&"bad".into());
    apply(&mut filter);
    filter.update_ipset(&"bad".into(), [], [SetMember::from(a.v4)]);
    assert!(!reaches(&a.netns, b.v4, 80), "the set is gone");
}
