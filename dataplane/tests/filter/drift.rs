//! Repair, adoption, clean-up: what is ours is recognised without memory, what is not is left alone.

use std::time::Instant;

use margay_dataplane::filter::{
    Action, Backend, Config, Direction, Family, Filter, Globals, PolicyRules, Programs, Rule,
    SetId, SetKind, SetMember, SetSpec, Variant,
};

use crate::lab::{
    Lab, NFT, Workload, allow_all, apply, by_hand, endpoint, filter, id, ingress, open_endpoint,
    reaches, run, save, serve, tcp, tier,
};

crate::all_backends!(
    a_fresh_filter_adopts_and_deletes_only_when_told,
    a_fresh_filter_with_the_same_state_writes_nothing,
    an_adopted_endpoint_moves_to_its_new_group_before_the_sync_is_complete,
    cleaning_leaves_what_others_made,
    an_endpoint_in_a_known_group_needs_no_program,
);

mod iptables {
    use super::*;

    crate::both_variants!(
        what_was_broken_by_hand_is_repaired,
        large_sets_are_rewritten_whole,
        the_variant_in_use_is_found_and_the_other_one_cleaned,
    );
}

/// Two workloads; the second accepts port 80 of those in a set that holds the first.
pub(crate) fn desired(filter: &mut Filter, a: &Workload, b: &Workload) {
    filter.set_profile("open".into(), allow_all());
    filter.set_endpoint(id(a), open_endpoint(a)).unwrap();
    filter
        .set_endpoint(id(b), endpoint(b, tier(&["p"]), Direction::default()))
        .unwrap();
    let members = [SetMember::from(a.v4), SetMember::from(a.v6)].into();
    filter.set_ipset(
        "s".into(),
        SetSpec {
            kind: SetKind::Nets,
            members,
        },
    );
    let mut rule = tcp(Action::Allow, &[80]);
    rule.src.sets = vec![SetId::from("s")];
    filter.set_policy("p".into(), ingress(vec![rule]));
}

fn what_was_broken_by_hand_is_repaired(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80, 81]);
    let mut filter = filter(backend);
    desired(&mut filter, &a, &b);
    filter.allow_deletes();
    apply(&mut filter);
    let good = save(backend);
    let name = by_hand(backend);
    let chain = |program: &str, pattern: &str| {
        let command =
            format!("{program}-{name}-save | grep -o '^:{pattern}[^ ]*' | head -1 | cut -c2-");
        run(&command).trim().to_owned()
    };
    let both = |pattern| ["iptables", "ip6tables"].map(|program| chain(program, pattern));
    let [policy, policy6] = both("mgy-pi-");
    let [group, group6] = both("mgy-to-[^w]");
    let breakages = [
        format!("ip6tables-{name} -F {policy6}"),
        format!("ip6tables-{name} -I {policy6} -j DROP"),
        format!("ip6tables-{name} -D {group6} 1"),
        format!("ip6tables-{name} -D FORWARD 1"),
        format!("ip6tables-{name} -t raw -F mgy-PREROUTING"),
        format!("ip6tables-{name} -F"),
        format!("ip6tables-{name} -N mgy-stranger"),
        "ipset del mgy6-wl fd00:65::1,mgy1".to_owned(),
        "ipset add mgy6-wl fd00:65::99,mgy1".to_owned(),
        "ipset create mgy6s:stranger hash:net family inet6".to_owned(),
        format!("iptables-{name} -F {policy}"),
        format!("iptables-{name} -I {policy} -j DROP"),
        format!("iptables-{name} -D {group} 1"),
        format!("iptables-{name} -I FORWARD -p tcp --dport 9 -j DROP"),
        format!("iptables-{name} -D FORWARD 1"),
        format!("iptables-{name} -t raw -F mgy-PREROUTING"),
        format!("iptables-{name} -N mgy-stranger"),
        "ipset del mgy4-wl 10.65.0.1,mgy1".to_owned(),
        "ipset add mgy4-wl 10.65.0.99,mgy1".to_owned(),
        "ipset create mgy4s:stranger hash:net".to_owned(),
        "for s in $(ipset -n list | grep ^mgy4s:); do ipset flush $s; done".to_owned(),
    ];
    for breakage in breakages {
        run(&breakage);
        filter.resync();
        let report = apply(&mut filter);
        assert!(report.drift > 0, "{breakage}");
        for to in [b.v4, b.v6] {
            assert!(
                reaches(&a.netns, to, 80) && !reaches(&a.netns, to, 81),
                "{breakage}: {to}"
            );
        }
        filter.resync();
        let report = apply(&mut filter);
        assert_eq!(
            (report.drift, report.restores, report.set_changes),
            (0, 0, 0),
            "{breakage}"
        );
    }
    run(&format!(
        "iptables-{name} -D FORWARD -p tcp --dport 9 -j DROP"
    ));
    assert_eq!(save(backend), good);
    assert!(!run("ipset -n list").contains("stranger"));
}

fn a_fresh_filter_adopts_and_deletes_only_when_told(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b, c) = (lab.workload(1), lab.workload(2), lab.workload(3));
    let _server = serve(&b.netns, &[80, 81]);
    let mut old = filter(backend);
    desired(&mut old, &a, &b);
    apply(&mut old);
    drop(old);
    let forwarding = || reaches(&a.netns, b.v4, 80) && !reaches(&a.netns, b.v4, 81);
    assert!(forwarding());
    let mut fresh = filter(backend);
    apply(&mut fresh);
    assert!(
        forwarding(),
        "an agent that knows nothing yet changes nothing"
    );
    // An attachment that comes before the datastore: another policy, not known to the old agent.
    fresh.set_profile("open".into(), allow_all());
    fresh.set_policy("new".into(), allow_all());
    fresh
        .set_endpoint(id(&c), endpoint(&c, tier(&["new"]), tier(&["new"])))
        .unwrap();
    apply(&mut fresh);
    assert!(forwarding(), "the adopted groups stay dispatched to");
    assert!(
        !reaches(&c.netns, b.v4, 80),
        "c is not in the set of b's policy"
    );
    // The policy of b is not known yet although b is.
    fresh
        .set_endpoint(id(&b), endpoint(&b, tier(&["p"]), Direction::default()))
        .unwrap();
    apply(&mut fresh);
    assert!(
        forwarding(),
        "the chain of a policy that is not known yet stays"
    );
    desired(&mut fresh, &a, &b);
    fresh.remove_endpoint(&id(&c));
    fresh.remove_policy(&"new".into());
    fresh.allow_deletes();
    apply(&mut fresh);
    assert!(forwarding());
    for endpoint in [id(&a), id(&b)] {
        fresh.remove_endpoint(&endpoint);
    }
    fresh.remove_policy(&"p".into());
    fresh.remove_ipset(&"s".into());
    fresh.sweep();
    fresh.resync();
    apply(&mut fresh);
    // Sets outlive their last rule by some milliseconds.
    for _ in 0..3000 {
        if fresh.apply().retry_in.is_none() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(!reaches(&a.netns, b.v4, 80));
    let rules = save(backend);
    for gone in ["mgy-pi-", "mgy4g:", "policy-", "to-group", "members/"] {
        assert!(!rules.contains(gone), "{gone}: {rules}");
    }
    let sets = run("ipset -n list");
    assert_eq!(
        sets.lines().filter(|set| set.starts_with("mgy")).count(),
        if backend == Backend::Nftables { 0 } else { 10 },
        "{sets}"
    );
}

fn a_fresh_filter_with_the_same_state_writes_nothing(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let mut old = filter(backend);
    desired(&mut old, &a, &b);
    apply(&mut old);
    let mut fresh = filter(backend);
    desired(&mut fresh, &a, &b);
    fresh.allow_deletes();
    let report = apply(&mut fresh);
    assert_eq!(
        (report.restores, report.set_changes, report.drift),
        (0, 0, 0)
    );
}

fn an_adopted_endpoint_moves_to_its_new_group_before_the_sync_is_complete(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80, 81]);
    let mut old = filter(backend);
    desired(&mut old, &a, &b);
    apply(&mut old);
    // Whichever of the two groups comes first in the dispatch chain, one of these two shows it.
    for port in [80, 81] {
        let mut fresh = filter(backend);
        fresh.set_profile("open".into(), allow_all());
        let policy = format!("only{port}");
        fresh.set_policy(
            policy.as_str().into(),
            ingress(vec![tcp(Action::Allow, &[port])]),
        );
        let moved = endpoint(&b, tier(&[&policy]), Direction::default());
        fresh.set_endpoint(id(&b), moved).unwrap();
        apply(&mut fresh);
        let other = 161 - port;
        assert!(
            reaches(&a.netns, b.v4, port) && !reaches(&a.netns, b.v4, other),
            "{port}"
        );
    }
}

fn cleaning_leaves_what_others_made(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80]);
    let name = by_hand(backend);
    run(&format!(
        "ipset create foreign hash:ip; ipset create mgy4zebra hash:ip
         for i in iptables-{name} ip6tables-{name}; do
           $i -N theirs; $i -A theirs -p tcp --dport 7 -m comment --comment 'x -j mgy-FORWARD' -j DROP
           $i -A FORWARD -j theirs; $i -t mangle -A PREROUTING -j MARK --set-mark 1
           $i -t nat -A POSTROUTING -p tcp --dport 7 -j RETURN; $i -t raw -A OUTPUT -j RETURN
         done"
    ));
    let others = || match backend {
        Backend::Nftables => run("iptables-nft-save; ip6tables-nft-save; nft list tables"),
        Backend::Iptables(_) => save(backend),
    };
    let others = || {
        let text = others();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.collect::<Vec<_>>().join("\n")
    };
    let before = (others(), run("ipset save"));
    let mut filter = filter(backend);
    desired(&mut filter, &a, &b);
    filter.allow_deletes();
    apply(&mut filter);
    for line in before.0.lines() {
        assert!(others().contains(line), "{line}");
    }
    filter.clean().unwrap();
    assert_eq!((others(), run("ipset save")), before);
    assert!(
        reaches(&a.netns, b.v4, 80),
        "nothing of ours is left in the way"
    );
    // And it can start over.
    desired(&mut filter, &a, &b);
    apply(&mut filter);
    assert!(reaches(&a.netns, b.v4, 80));
}

fn an_endpoint_in_a_known_group_needs_no_program(backend: Backend) {
    let mut lab = Lab::new();
    let a = lab.workload(1);
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    filter.allow_deletes();
    apply(&mut filter);
    let mut times = Vec::new();
    for n in 0..500u16 {
        let [high, low] = n.to_be_bytes();
        let mut next = open_endpoint(&a);
        next.ifname = format!("mgyx{n}");
        next.addresses = vec![
            std::net::IpAddr::from([10, 66, high, low]).into(),
            std::net::IpAddr::from([0xfd00, 0x66, 0, 0, 0, 0, 0, n]).into(),
        ];
        let start = Instant::now();
        filter
            .set_endpoint(format!("x{n}").as_str().into(), next)
            .unwrap();
        let report = filter.apply();
        times.push(start.elapsed());
        assert!(
            report.is_ok() && report.restores == 0 && report.set_changes == 4,
            "{report:?}"
        );
    }
    times.sort_unstable();
    eprintln!("{}: p50 {:?}, p99 {:?}", backend, times[250], times[495]);
    let timed = |filter: &mut Filter| {
        let start = Instant::now();
        apply(filter);
        start.elapsed()
    };
    filter.set_policy("p".into(), allow_all());
    let policy = timed(&mut filter);
    filter.resync();
    eprintln!(
        "{}: new policy {policy:?}, resync {:?}",
        backend,
        timed(&mut filter)
    );
    // The floor is tens of microseconds; a program would take milliseconds, and many on a loaded machine.
    assert!(times[250].as_micros() < 10_000, "{:?}", times[250]);
}

fn large_sets_are_rewritten_whole(backend: Backend) {
    let _lab = Lab::new();
    let mut filter = filter(backend);
    let spec = |from: u32| {
        let nets = (from..from + 20_000).map(|n| std::net::Ipv4Addr::from(n << 4));
        let mut members: std::collections::BTreeSet<SetMember> = nets
            .map(|ip| SetMember::from(std::net::IpAddr::from(ip)))
            .collect();
        members.insert("0.0.0.0/0".parse::<ipnetwork::IpNetwork>().unwrap().into());
        SetSpec {
            kind: SetKind::Nets,
            members,
        }
    };
    filter.allow_deletes();
    filter.set_ipset("big".into(), spec(1000));
    assert_eq!(
        apply(&mut filter).set_changes,
        20_002 + 12,
        "both halves of 0/0; 12 sets"
    );
    filter.set_ipset("big".into(), spec(12_000));
    assert_eq!(apply(&mut filter).set_changes, 22_000);
    filter.resync();
    let report = apply(&mut filter);
    assert_eq!((report.drift, report.set_changes), (0, 0));
    assert_eq!(run("ipset -n list").lines().count(), 12);
}

fn the_variant_in_use_is_found_and_the_other_one_cleaned(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80]);
    let detect = || Variant::detect(&Programs::default()).unwrap();
    assert_eq!(detect(), Variant::Nft, "the default");
    let (one, two) = match backend {
        NFT => (Variant::Nft, Variant::Legacy),
        _ => (Variant::Legacy, Variant::Nft),
    };
    let other = Backend::Iptables(two);
    let mut old = filter(other);
    desired(&mut old, &a, &b);
    apply(&mut old);
    assert_eq!(detect(), two, "ours alone");
    let name = one.name();
    run(&format!(
        "iptables-{name} -A OUTPUT -j ACCEPT; iptables-{name} -A OUTPUT -j RETURN"
    ));
    assert_eq!(detect(), one, "those of others weigh more");
    let mut fresh = Filter::open(Config::default()).unwrap();
    assert_eq!(fresh.backend(), other, "where ours are, until all is known");
    desired(&mut fresh, &a, &b);
    apply(&mut fresh);
    assert!(save(other).contains("mgy-"));
    fresh.allow_deletes();
    apply(&mut fresh);
    assert_eq!(fresh.backend(), backend);
    assert!(!save(other).contains("mgy-"));
    assert!(reaches(&a.netns, b.v4, 80));
}

#[test]
fn globals_out_of_range_are_refused() {
    let _lab = Lab::new();
    let mut filter = filter(NFT);
    let bad_prefix = Globals {
        interface_prefix: "a b".to_owned(),
        ..Globals::default()
    };
    assert!(filter.set_globals(bad_prefix).is_err());
    assert!(
        filter
            .set_globals(Globals {
                mark_mask: 0x1000,
                ..Globals::default()
            })
            .is_err()
    );
    let mut lone = Rule::any(Action::Allow);
    lone.ip_version = Some(Family::V4);
    filter.set_policy(
        "p".into(),
        PolicyRules {
            ingress: vec![lone],
            egress: Vec::new(),
            ..PolicyRules::default()
        },
    );
    apply(&mut filter);
}
