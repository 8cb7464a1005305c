//! Endpoints each of which has policies of its own: packets find theirs among many.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use margay_dataplane::filter::{Action, Backend, Direction, Filter};

use crate::lab::{
    Lab, Workload, allow_all, apply, endpoint, filter, id, ingress, open_endpoint, reaches, save,
    serve, tcp, tier,
};
use crate::verdicts::changes_group;

crate::all_backends!(
    each_of_many_workloads_has_its_own_verdict,
    whole_networks_are_led_to_their_group_too,
    one_of_many_that_changes_group_keeps_a_verdict_at_each_instant,
);

const MANY: u32 = 70;

/// A workload without a container.
fn other(n: u32) -> Workload {
    Workload {
        netns: String::new(),
        ifname: format!("mgyo{n}"),
        v4: IpAddr::from(Ipv4Addr::from(0x0a41_0100 + n)),
        v6: IpAddr::from(Ipv6Addr::from(
            0xfd00_0065_0000_0000_0000_0000_0001_0000 + u128::from(n),
        )),
    }
}

/// So many workloads with policies of their own.
fn others(filter: &mut Filter, count: u32) {
    for n in 0..count {
        let policy = format!("own{n}");
        filter.set_policy(
            policy.as_str().into(),
            ingress(vec![tcp(Action::Allow, &[n as u16 + 1])]),
        );
        let workload = other(n);
        let own = endpoint(&workload, tier(&[&policy]), Direction::default());
        filter.set_endpoint(id(&workload), own).unwrap();
    }
}

fn prepared(backend: Backend, a: &Workload, b: &Workload) -> Filter {
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter.set_endpoint(id(a), open_endpoint(a)).unwrap();
    let allow = |ports: &[u16]| ingress(vec![tcp(Action::Allow, ports)]);
    filter.set_policy("web".into(), allow(&[80]));
    filter.set_policy("also".into(), allow(&[80, 81]));
    let shop = endpoint(b, tier(&["web"]), Direction::default());
    filter.set_endpoint(id(b), shop).unwrap();
    others(&mut filter, MANY);
    filter.allow_deletes();
    filter
}

/// How many rules there are in parts of the dispatch.
fn parts(backend: Backend) -> usize {
    let saved = save(backend);
    let chains = saved.lines().filter_map(|line| {
        let rule = line.strip_prefix("-A mgy-to-")?;
        rule.split(' ').next()
    });
    chains
        .filter(|name| name.len() == 2 && *name != "wl")
        .count()
}

fn each_of_many_workloads_has_its_own_verdict(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80, 81]);
    let passes = |ports: [bool; 2]| {
        for to in [b.v4, b.v6] {
            let found = [80, 81].map(|port| reaches(&a.netns, to, port));
            assert_eq!(found, ports, "{to}");
        }
    };
    let mut filter = prepared(backend, &a, &b);
    apply(&mut filter);
    passes([true, false]);
    let divided = backend != Backend::Nftables;
    assert_eq!(parts(backend) > 0, divided);
    // Another group, which has had no member with such an address.
    let shop = endpoint(&b, tier(&["own7"]), Direction::default());
    filter.set_endpoint(id(&b), shop).unwrap();
    apply(&mut filter);
    passes([false, false]);
    let shop = endpoint(&b, tier(&["also"]), Direction::default());
    filter.set_endpoint(id(&b), shop).unwrap();
    apply(&mut filter);
    passes([true, true]);
    // Another agent finds all as it should be.
    let shop = endpoint(&b, tier(&["web"]), Direction::default());
    filter.set_endpoint(id(&b), shop).unwrap();
    apply(&mut filter);
    filter.sweep();
    apply(&mut filter);
    let mut next = prepared(backend, &a, &b);
    let report = apply(&mut next);
    assert_eq!((report.restores, report.set_changes), (0, 0));
    passes([true, false]);
    // Few are left.
    for n in 0..MANY {
        next.remove_endpoint(&id(&other(n)));
    }
    next.sweep();
    apply(&mut next);
    assert_eq!(parts(backend), 0);
    passes([true, false]);
}

fn whole_networks_are_led_to_their_group_too(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80, 81]);
    let mut filter = prepared(backend, &a, &b);
    let mut whole = open_endpoint(&a);
    whole.addresses = vec![
        "10.65.0.0/29".parse().unwrap(),
        "fd00:65::/64".parse().unwrap(),
    ];
    filter.set_endpoint(id(&a), whole).unwrap();
    apply(&mut filter);
    for to in [b.v4, b.v6] {
        assert!(
            reaches(&a.netns, to, 80) && !reaches(&a.netns, to, 81),
            "{to}"
        );
    }
}

fn one_of_many_that_changes_group_keeps_a_verdict_at_each_instant(backend: Backend) {
    changes_group(&mut Lab::new(), backend, |filter| others(filter, MANY));
}
