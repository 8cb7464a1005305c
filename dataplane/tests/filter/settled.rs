//! Short cuts for open connections let nothing through that would not pass without them.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use margay_dataplane::filter::{Backend, Filter, WayLimits};

use crate::lab::{Lab, Workload, allow_all, apply, filter, id, inside, open_endpoint, run};

crate::all_backends!(
    nothing_of_an_open_connection_passes_for_a_workload_that_is_gone,
    nobody_sends_into_the_open_connection_of_another,
    limits_hold_for_open_connections,
);

const QUICK: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(20);

/// Both ends of a flow that conntrack has come to call assured.
struct Open {
    near: UdpSocket,
    far: UdpSocket,
}

/// From and to the same port.
fn bound(netns: &str, from: IpAddr, to: IpAddr, port: u16) -> UdpSocket {
    inside(netns, || {
        let socket = UdpSocket::bind((from, port)).unwrap();
        socket.connect(SocketAddr::new(to, port)).unwrap();
        socket
    })
}

impl Open {
    fn between(near: (&str, IpAddr), far: (&str, IpAddr), port: u16) -> Self {
        let open = Self {
            near: bound(near.0, near.1, far.1, port),
            far: bound(far.0, far.1, near.1, port),
        };
        assert!(open.passes(PATIENCE) && open.answers(PATIENCE));
        // It does so after two seconds of packets in both directions.
        let family = if far.1.is_ipv4() { "ipv4" } else { "ipv6" };
        run(&format!(
            "conntrack -U -f {family} -p udp -s {} -d {} --sport {port} --dport {port} \
             -u SEEN_REPLY,ASSURED 2>&1 | grep ASSURED",
            near.1, far.1
        ));
        assert!(open.passes(PATIENCE) && open.answers(PATIENCE));
        open
    }

    fn passes(&self, within: Duration) -> bool {
        arrives(&self.near, &self.far, within)
    }

    fn answers(&self, within: Duration) -> bool {
        arrives(&self.far, &self.near, within)
    }
}

fn arrives(from: &UdpSocket, to: &UdpSocket, within: Duration) -> bool {
    to.set_read_timeout(Some(within)).unwrap();
    // A send may tell of the answer to an earlier one.
    from.send(b"x").is_ok() && to.recv(&mut [0]).is_ok()
}

fn open_to_all(backend: Backend, workloads: &[&Workload]) -> Filter {
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    for workload in workloads {
        let open = open_endpoint(workload);
        filter.set_endpoint(id(workload), open).unwrap();
    }
    filter.allow_deletes();
    apply(&mut filter);
    filter
}

fn nothing_of_an_open_connection_passes_for_a_workload_that_is_gone(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let outside = lab.outside();
    run(&format!(
        "ip -n {outside} route add 10.65.0.0/24 via 192.0.2.1
         ip -n {outside} -6 route add fd00:65::/64 via 2001:db8::1"
    ));
    let mut filter = open_to_all(backend, &[&a, &b]);
    let beyond: [IpAddr; 2] = ["192.0.2.2", "2001:db8::2"].map(|ip| ip.parse().unwrap());
    for (a_ip, b_ip, beyond) in [(a.v4, b.v4, beyond[0]), (a.v6, b.v6, beyond[1])] {
        let within = Open::between((&a.netns, a_ip), (&b.netns, b_ip), 4000);
        let leaving = Open::between((&b.netns, b_ip), (&outside, beyond), 4001);
        filter.remove_endpoint(&id(&b));
        apply(&mut filter);
        for open in [&within, &leaving] {
            assert!(!open.passes(QUICK) && !open.answers(QUICK), "{b_ip}");
        }
        filter.set_endpoint(id(&b), open_endpoint(&b)).unwrap();
        apply(&mut filter);
        for open in [&within, &leaving] {
            assert!(open.passes(PATIENCE) && open.answers(PATIENCE), "{b_ip}");
        }
    }
}

fn nobody_sends_into_the_open_connection_of_another(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b, c) = (lab.workload(1), lab.workload(2), lab.workload(3));
    let _filter = open_to_all(backend, &[&a, &b, &c]);
    for (own, others) in [(a.v4, b.v4), (a.v6, b.v6)] {
        let open = Open::between((&a.netns, own), (&b.netns, others), 4000);
        run(&format!("ip -n {} addr add {own} dev eth0 nodad", c.netns));
        let forger = bound(&c.netns, own, others, 4000);
        assert!(!arrives(&forger, &open.far, QUICK), "as {own}");
        // The same as the one that answers.
        run(&format!(
            "ip -n {} addr add {others} dev eth0 nodad",
            c.netns
        ));
        run(&format!("ip -n {} addr del {own} dev eth0", c.netns));
        let forger = bound(&c.netns, others, own, 4000);
        assert!(!arrives(&forger, &open.near, QUICK), "as {others}");
        assert!(open.passes(PATIENCE) && open.answers(PATIENCE));
    }
}

fn limits_hold_for_open_connections(backend: Backend) {
    const ALL: usize = 200;
    const MOST: usize = 20;
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let mut filter = open_to_all(backend, &[&a, &b]);
    let open = Open::between((&a.netns, a.v4), (&b.netns, b.v4), 4000);
    let mut limited = open_endpoint(&b);
    limited.limits.ingress = WayLimits {
        packets_a_second: Some(1),
        packets_at_once: Some(MOST as u32),
        connections: None,
    };
    filter.set_endpoint(id(&b), limited).unwrap();
    apply(&mut filter);
    let begun = std::time::Instant::now();
    for _ in 0..ALL {
        open.near.send(b"x").unwrap();
    }
    open.far.set_read_timeout(Some(QUICK)).unwrap();
    let arrived = std::iter::from_fn(|| open.far.recv(&mut [0]).ok()).count();
    let most = MOST + 2 + begun.elapsed().as_secs() as usize;
    assert!((1..=most).contains(&arrived), "{arrived} of {most}");
}
