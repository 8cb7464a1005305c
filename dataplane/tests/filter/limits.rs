//! Limits of one workload's packets and connections, and the mark on what leaves the cluster.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use margay_dataplane::filter::{Backend, Globals, Limits, WayLimits};

use crate::lab::{Lab, allow_all, apply, filter, id, inside, open_endpoint, run};

crate::all_backends!(
    packets_beyond_the_rate_are_dropped_and_those_of_others_are_not,
    connections_beyond_the_limit_are_denied_until_one_ends,
    what_leaves_the_cluster_is_marked,
);

/// How many datagrams arrive at once, sent as fast as it goes.
fn burst(from: &str, to: (&str, IpAddr), times: usize) -> usize {
    let receiver = inside(to.0, || UdpSocket::bind((to.1, 0)).unwrap());
    receiver
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let address = receiver.local_addr().unwrap();
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    inside(from, || {
        let socket = UdpSocket::bind(any).unwrap();
        for _ in 0..times {
            socket.send_to(b"x", address).unwrap();
        }
    });
    let mut arrived = 0;
    while receiver.recv(&mut [0]).is_ok() {
        arrived += 1;
    }
    arrived
}

fn packets_beyond_the_rate_are_dropped_and_those_of_others_are_not(backend: Backend) {
    const ALL: usize = 200;
    let mut lab = Lab::new();
    let (a, b, c) = (lab.workload(1), lab.workload(2), lab.workload(3));
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    for workload in [&a, &b, &c] {
        filter
            .set_endpoint(id(workload), open_endpoint(workload))
            .unwrap();
    }
    filter.allow_deletes();
    apply(&mut filter);
    assert_eq!(burst(&a.netns, (&b.netns, b.v4), ALL), ALL);
    let mut limited = open_endpoint(&b);
    let few = WayLimits {
        packets_a_second: Some(10),
        packets_at_once: Some(20),
        connections: None,
    };
    limited.limits.ingress = few.clone();
    filter.set_endpoint(id(&b), limited).unwrap();
    let mut limited = open_endpoint(&c);
    limited.limits.egress = few;
    filter.set_endpoint(id(&c), limited).unwrap();
    apply(&mut filter);
    for (from, to, is_limited) in [(&a, &b, true), (&c, &a, true), (&b, &a, false)] {
        for address in [to.v4, to.v6] {
            let begun = Instant::now();
            let arrived = burst(&from.netns, (&to.netns, address), ALL);
            let most = 22 + begun.elapsed().as_secs() as usize * 10 + 10;
            match is_limited {
                true => assert!((10..=most).contains(&arrived), "{arrived} of {most}"),
                false => assert_eq!(arrived, ALL),
            }
        }
    }
    filter.resync();
    let report = apply(&mut filter);
    assert_eq!((report.drift, report.restores), (0, 0));
    filter.set_endpoint(id(&b), open_endpoint(&b)).unwrap();
    filter.set_endpoint(id(&c), open_endpoint(&c)).unwrap();
    apply(&mut filter);
    assert_eq!(burst(&a.netns, (&b.netns, b.v4), ALL), ALL);
}

fn connections_beyond_the_limit_are_denied_until_one_ends(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    // Nobody takes them out of the backlog: they stay open as long as the client holds them.
    let _listener = inside(&b.netns, || TcpListener::bind(("::", 80)).unwrap());
    let connect = || {
        let to = SocketAddr::new(b.v4, 80);
        inside(&a.netns, || {
            TcpStream::connect_timeout(&to, Duration::from_millis(300)).ok()
        })
    };
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    let mut limited = open_endpoint(&b);
    limited.limits.ingress.connections = Some(2);
    filter.set_endpoint(id(&b), limited).unwrap();
    filter.allow_deletes();
    apply(&mut filter);
    let (first, second) = (connect(), connect());
    assert!(first.is_some() && second.is_some());
    assert!(connect().is_none(), "the third at a time");
    run("conntrack -D -p tcp --dport 80 > /dev/null 2>&1");
    assert!(connect().is_some(), "those before are over");
}

fn what_leaves_the_cluster_is_marked(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let outside = lab.outside();
    let count = "table inet t { chain i { type filter hook input priority 0; \
                 ip dscp af41 counter; ip6 dscp af41 counter; }; }";
    for netns in [&outside, &b.netns] {
        run(&format!("ip netns exec {netns} nft '{count}'"));
    }
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter
        .set_globals(Globals {
            all_pools: ["10.65.0.0/16", "fd00:65::/64"]
                .map(|p| p.parse().unwrap())
                .into(),
            ..Globals::default()
        })
        .unwrap();
    let mut marked = open_endpoint(&a);
    marked.limits = Limits {
        dscp: Some(34),
        ..Limits::default()
    };
    filter.set_endpoint(id(&a), marked).unwrap();
    filter.set_endpoint(id(&b), open_endpoint(&b)).unwrap();
    filter.allow_deletes();
    apply(&mut filter);
    for to in ["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()] {
        assert_eq!(burst(&a.netns, (&outside, to), 3), 3);
    }
    for to in [b.v4, b.v6] {
        assert_eq!(burst(&a.netns, (&b.netns, to), 3), 3);
    }
    let seen = |netns: &str| {
        run(&format!("ip netns exec {netns} nft list ruleset"))
            .matches("packets 3 ")
            .count()
    };
    assert_eq!((seen(&outside), seen(&b.netns)), (2, 0));
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    apply(&mut filter);
    filter.resync();
    let report = apply(&mut filter);
    assert_eq!((report.drift, report.restores), (0, 0));
    assert_eq!(
        burst(&a.netns, (&outside, "192.0.2.2".parse().unwrap()), 3),
        3
    );
    assert_eq!(seen(&outside), 2, "no more than before");
}
