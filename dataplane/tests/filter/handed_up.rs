//! What rules log and deny comes up with the rule's name, and only so often.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use margay_dataplane::{
    filter::{
        Action, Backend, Cause, Direction, Globals, Label, Nflog, PolicyRules, Rule, Verdict,
    },
    nflog::{Listener, Packet},
};
use tokio::time::timeout;

use crate::lab::{
    Lab, Workload, allow_all, apply, endpoint, filter, id, inside, open_endpoint, run, tier,
};

crate::all_backends!(
    every_reason_is_told_with_the_flow,
    a_flood_is_told_of_in_part_and_denied_as_a_whole,
);

const GROUP: u16 = 77;

/// No more packets for so long: all are there.
const QUIET: Duration = Duration::from_millis(300);

fn udp(action: Action, port: u16, place: usize) -> Rule {
    let mut rule = Rule {
        protocol: Some(17),
        place: Some(place),
        ..Rule::any(action)
    };
    rule.dst.ports = vec![port..=port];
    rule
}

fn send(from: &Workload, source: IpAddr, to: IpAddr, port: u16, times: usize) {
    inside(&from.netns, || {
        let socket = UdpSocket::bind(SocketAddr::new(source, 0)).unwrap();
        for _ in 0..times {
            // An ICMP error that came back is an error of the next datagram.
            drop(socket.send_to(b"x", SocketAddr::new(to, port)));
        }
    });
}

/// What comes while `work` is done and until it is quiet.
fn heard(work: impl FnOnce()) -> Vec<(Label, Packet)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut listener = Listener::open(GROUP).unwrap();
        work();
        let mut all = Vec::new();
        while let Ok(packets) = timeout(QUIET, listener.packets()).await {
            all.extend(packets.unwrap());
        }
        assert_eq!(listener.lost(), 0);
        let labelled = all
            .into_iter()
            .map(|packet| (Label::parse(&packet.prefix).unwrap(), packet));
        labelled.collect()
    })
}

fn nflog(allowed: bool) -> Globals {
    Globals {
        nflog: Some(Nflog {
            group: GROUP,
            denied: true,
            allowed,
        }),
        ..Globals::default()
    }
}

fn every_reason_is_told_with_the_flow(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b, c) = (lab.workload(1), lab.workload(2), lab.workload(3));
    let mut filter = filter(backend);
    filter.set_globals(nflog(true)).unwrap();
    filter.set_profile("open".into(), allow_all());
    filter.set_policy(
        "NetworkPolicy/shop/web".into(),
        PolicyRules {
            ingress: vec![
                udp(Action::Log, 1000, 0),
                udp(Action::Allow, 1000, 1),
                udp(Action::Deny, 1001, 5),
            ],
            ..PolicyRules::default()
        },
    );
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    let web = endpoint(&b, tier(&["NetworkPolicy/shop/web"]), Direction::default());
    filter.set_endpoint(id(&b), web).unwrap();
    let mut shut = open_endpoint(&c);
    shut.profiles.clear();
    filter.set_endpoint(id(&c), shut).unwrap();
    filter.allow_deletes();
    apply(&mut filter);
    // Another address, which the workload does not have; and one that no workload has.
    run(&format!("ip -n {} addr add 10.65.9.9/32 dev eth0", a.netns));
    run(&format!("ip route add 10.65.9.8 dev {}", b.ifname));
    let told = heard(|| {
        for to in [b.v4, b.v6] {
            let any = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
            for port in [1000, 1001, 1002] {
                send(&a, any, to, port, 1);
            }
        }
        send(&a, a.v4, c.v4, 9, 1);
        send(&a, "10.65.9.9".parse().unwrap(), b.v4, 1000, 1);
        send(&a, a.v4, "10.65.9.8".parse().unwrap(), 1000, 1);
    });
    let policy = |rule| Cause::Policy {
        name: "NetworkPolicy/shop/web".into(),
        rule,
    };
    let profile = Cause::Profile {
        name: "open".into(),
        rule: 0,
    };
    let mut causes: BTreeMap<(Verdict, bool, Cause), usize> = BTreeMap::new();
    for (label, packet) in &told {
        assert_eq!((packet.protocol, packet.in_index.is_some()), (17, true));
        let key = (label.verdict, label.ingress, label.cause.clone());
        *causes.entry(key).or_default() += 1;
    }
    let expected = [
        ((Verdict::Log, true, policy(0)), 2),
        ((Verdict::Allow, true, policy(1)), 2),
        ((Verdict::Deny, true, policy(5)), 2),
        ((Verdict::Deny, true, Cause::TierEnd("default".into())), 2),
        ((Verdict::Deny, true, Cause::Nothing), 1),
        ((Verdict::Deny, false, Cause::Spoofed), 1),
        ((Verdict::Deny, true, Cause::NoSuchWorkload), 1),
        // The sender's own profile lets everything out, to three ports of each family and to the third workload.
        ((Verdict::Allow, false, profile), 7),
    ];
    assert_eq!(causes, BTreeMap::from(expected), "{told:?}");
    let denied = told.iter().find(|(label, _)| label.cause == policy(5));
    let (_, packet) = denied.unwrap();
    assert!([b.v4, b.v6].contains(&packet.destination), "{packet:?}");
    assert_eq!((packet.ports.1, packet.out_index.is_some()), (1001, true));
    // It is all still there for a fresh agent, and right.
    filter.resync();
    let report = apply(&mut filter);
    assert_eq!((report.drift, report.chains_changed), (0, 0));
}

fn a_flood_is_told_of_in_part_and_denied_as_a_whole(backend: Backend) {
    const FLOOD: usize = 5000;
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let mut filter = filter(backend);
    filter.set_globals(nflog(false)).unwrap();
    filter.set_profile("open".into(), allow_all());
    let rules = vec![udp(Action::Deny, 1000, 0)];
    filter.set_policy("p".into(), crate::lab::ingress(rules));
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    let target = endpoint(&b, tier(&["p"]), Direction::default());
    filter.set_endpoint(id(&b), target).unwrap();
    filter.allow_deletes();
    apply(&mut filter);
    let begun = std::time::Instant::now();
    let told = heard(|| send(&a, a.v4, b.v4, 1000, FLOOD));
    // 200 at once, and 100 for each second that it took.
    let most = 210 + (begun.elapsed().as_secs_f64() * 100.0) as usize;
    assert!(
        (150..=most).contains(&told.len()),
        "{} of {most}",
        told.len()
    );
    let counters = filter.counters().unwrap().rules;
    let of_policy = counters
        .iter()
        .find(|c| !c.ingress.is_empty() && c.egress.is_empty());
    assert_eq!(of_policy.unwrap().ingress[0].packets, FLOOD as u64);
}
