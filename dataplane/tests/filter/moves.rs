//! The rules move from one backend to another while packets flow: none is lost, none gets through.

use std::{
    net::{IpAddr, UdpSocket},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use margay_dataplane::filter::{
    Backend, Config, Filter, Globals, SetKind, SetMember, SetSpec, Wish,
};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{
    drift::desired,
    lab::{LEGACY, Lab, NFT, apply, filter, inside, reaches, save, serve},
};

const NFTABLES: Backend = Backend::Nftables;

/// Allowed on a connection that is open, allowed on a new one each time, denied.
const FLOWS: [(u16, bool); 3] = [(80, false), (80, true), (81, false)];
/// Between two packets of a flow: some thousand packets a second in all.
const GAP: Duration = Duration::from_micros(100);
/// All that can wait to be read.
const RECEIVE_BUFFER: usize = 64 * 1024 * 1024;

/// Numbered datagrams from one workload to ports of another, counted where they arrive.
struct Traffic<'a> {
    stop: &'a AtomicBool,
    sent: &'a [AtomicU64; 3],
    received: &'a [AtomicU64; 3],
}

impl Traffic<'_> {
    fn send(&self, flow: usize, netns: &str, to: IpAddr) {
        let (port, anew) = FLOWS[flow];
        inside(netns, || {
            let open = || UdpSocket::bind(("::", 0)).or_else(|_| UdpSocket::bind(("0.0.0.0", 0)));
            let mut socket = open().unwrap();
            while !self.stop.load(Ordering::Relaxed) {
                if anew {
                    socket = open().unwrap();
                }
                let number = self.sent[flow].fetch_add(1, Ordering::Relaxed);
                let mut payload = number.to_be_bytes().to_vec();
                payload.push(flow as u8);
                let sent = socket.send_to(&payload, (mapped(to), port));
                assert_eq!(sent.unwrap(), payload.len());
                thread::sleep(GAP);
            }
        });
    }

    fn receive(&self, socket: &UdpSocket) {
        let mut buffer = [0; 16];
        loop {
            // Senders may be kept from sending for a while, and end before they are waited for.
            let over = self.stop.load(Ordering::Relaxed);
            match socket.recv(&mut buffer) {
                Ok(9) => {
                    self.received[usize::from(buffer[8])].fetch_add(1, Ordering::Relaxed);
                }
                Ok(_) => {}
                Err(_) if over => return,
                Err(_) => {}
            }
        }
    }
}

/// As a socket of both families wants it.
fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    }
}

fn receiver(netns: &str, port: u16) -> UdpSocket {
    let socket = inside(netns, || UdpSocket::bind(("::", port)).unwrap());
    setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &RECEIVE_BUFFER).unwrap();
    // The end of everything: what was sent has long arrived.
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    socket
}

/// Does things while packets flow, then tells how many were sent and how many arrived of each flow.
fn under_traffic(netns: [&str; 2], to: IpAddr, mut work: impl FnMut()) -> [(u64, u64); 3] {
    let (stop, sent, received) = Default::default();
    let traffic = Traffic {
        stop: &stop,
        sent: &sent,
        received: &received,
    };
    let traffic = &traffic;
    let sockets = [80, 81].map(|port| receiver(netns[1], port));
    thread::scope(|scope| {
        for socket in &sockets {
            scope.spawn(move || traffic.receive(socket));
        }
        for flow in 0..FLOWS.len() {
            let from = netns[0];
            scope.spawn(move || traffic.send(flow, from, to));
        }
        // A flow is established once an answer could come.
        let deadline = Instant::now() + Duration::from_secs(10);
        while received[0].load(Ordering::Relaxed) < 20 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        work();
        stop.store(true, Ordering::Relaxed);
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    [0, 1, 2].map(|flow| (count(&sent[flow]), count(&received[flow])))
}

/// The second workload accepts port 80 of the first, by UDP.
fn udp(filter: &mut Filter, lab: &mut Lab) -> [crate::lab::Workload; 2] {
    let workloads = [lab.workload(1), lab.workload(2)];
    desired(filter, &workloads[0], &workloads[1]);
    let mut rule = crate::lab::tcp(margay_dataplane::filter::Action::Allow, &[80]);
    rule.protocol = Some(17);
    rule.src.sets = vec!["s".into()];
    filter.set_policy("p".into(), crate::lab::ingress(vec![rule]));
    workloads
}

fn empty(backend: Backend) -> bool {
    let rules = save(backend);
    !rules.contains("mgy-") && !rules.contains("table inet margay")
}

#[test]
fn no_packet_is_lost_or_leaks_while_the_rules_move() {
    let mut lab = Lab::new();
    let mut filter = filter(NFTABLES);
    let [a, b] = udp(&mut filter, &mut lab);
    filter.allow_deletes();
    apply(&mut filter);
    for to in [b.v4, b.v6] {
        let flows = under_traffic([&a.netns, &b.netns], to, || {
            for backend in [NFT, NFTABLES, LEGACY, NFT, LEGACY, NFTABLES].repeat(2) {
                filter.set_backend(Wish::Exactly(backend)).unwrap();
                apply(&mut filter);
                assert_eq!(filter.backend(), backend);
                for other in Backend::ALL {
                    assert_eq!(empty(other), other != backend, "{other} after {backend}");
                }
            }
        });
        let [(sent, received), (opened, arrived), (denied, leaked)] = flows;
        assert!(sent > 50 && opened > 50 && denied > 50, "{flows:?}");
        let lost = (sent - received, opened - arrived);
        assert_eq!((lost, leaked), ((0, 0), 0), "{to}: {flows:?}");
    }
    assert!(!crate::lab::run("ipset -n list").contains("mgy"));
}

/// A set that a rule needs no longer is emptied together with the rule, as the agent does it.
#[test]
fn no_packet_is_lost_or_leaks_while_rules_and_their_sets_change_together() {
    let mut lab = Lab::new();
    let mut filter = filter(NFTABLES);
    let [a, b] = udp(&mut filter, &mut lab);
    filter.allow_deletes();
    apply(&mut filter);
    let rule = |set: Option<&str>, from: IpAddr| {
        let mut rule = crate::lab::tcp(margay_dataplane::filter::Action::Allow, &[80]);
        rule.protocol = Some(17);
        match set {
            Some(set) => rule.src.sets = vec![set.into()],
            None => rule.src.nets = vec![from.into()],
        }
        crate::lab::ingress(vec![rule])
    };
    let members = |filter: &mut Filter, id: &str| {
        let members = [a.v4, a.v6].map(SetMember::from).into();
        let kind = SetKind::Nets;
        filter.set_ipset(id.into(), SetSpec { kind, members });
    };
    let flows = under_traffic([&a.netns, &b.netns], b.v4, || {
        for round in 0..60 {
            let [new, old] = [round + 1, round].map(|n| format!("s{n}"));
            filter.set_policy("p".into(), rule(None, a.v4));
            filter.empty_ipset(&old.as_str().into());
            apply(&mut filter);
            members(&mut filter, &new);
            filter.set_policy("p".into(), rule(Some(&new), a.v4));
            filter.remove_ipset(&old.as_str().into());
            apply(&mut filter);
        }
    });
    let [(sent, received), (opened, arrived), (denied, leaked)] = flows;
    assert!(sent > 50 && opened > 50 && denied > 50, "{flows:?}");
    let lost = (sent - received, opened - arrived);
    assert_eq!((lost, leaked), ((0, 0), 0), "{flows:?}");
}

#[test]
fn a_fresh_agent_moves_what_it_finds_once_it_knows_everything() {
    let mut lab = Lab::new();
    let mut old = filter(LEGACY);
    let [a, b] = udp(&mut old, &mut lab);
    old.allow_deletes();
    apply(&mut old);
    drop(old);
    let flows = under_traffic([&a.netns, &b.netns], b.v4, || {
        let mut fresh = Filter::open(Config {
            backend: Wish::Nftables,
            ..Config::default()
        })
        .unwrap();
        fresh.set_globals(Globals::default()).unwrap();
        assert_eq!(fresh.backend(), LEGACY, "where the rules are");
        apply(&mut fresh);
        assert!(empty(NFTABLES));
        desired(&mut fresh, &a, &b);
        let mut rule = crate::lab::tcp(margay_dataplane::filter::Action::Allow, &[80]);
        rule.protocol = Some(17);
        fresh.set_policy("p".into(), crate::lab::ingress(vec![rule]));
        apply(&mut fresh);
        fresh.allow_deletes();
        apply(&mut fresh);
        assert_eq!(fresh.backend(), NFTABLES);
    });
    assert!(empty(LEGACY) && !empty(NFTABLES));
    let [(sent, received), (opened, arrived), (denied, leaked)] = flows;
    assert!(denied > 50, "{flows:?}");
    let lost = (sent - received, opened - arrived);
    assert_eq!((lost, leaked), ((0, 0), 0), "{flows:?}");
}

#[test]
fn nftables_is_chosen_unless_others_have_rules_in_iptables() {
    let mut lab = Lab::new();
    let choice = |wish: Wish| {
        let config = Config {
            backend: wish,
            ..Config::default()
        };
        Filter::open(config).unwrap().backend()
    };
    assert_eq!(choice(Wish::Auto), NFTABLES);
    crate::lab::run("iptables-nft -P FORWARD DROP");
    assert_eq!(
        choice(Wish::Auto),
        NFT,
        "what we accept would be dropped there"
    );
    assert_eq!(choice(Wish::Nftables), NFTABLES);
    crate::lab::run("iptables-nft -P FORWARD ACCEPT; iptables-legacy -A INPUT -p 99 -j DROP");
    assert_eq!(choice(Wish::Auto), LEGACY);
    assert_eq!(choice(Wish::Iptables), LEGACY);
    // What is ours does not count.
    crate::lab::run("iptables-legacy -F");
    let mut filter = filter(LEGACY);
    let [a, b] = udp(&mut filter, &mut lab);
    filter.allow_deletes();
    apply(&mut filter);
    filter.set_backend(Wish::Auto).unwrap();
    apply(&mut filter);
    assert_eq!(filter.backend(), NFTABLES);
    let _server = serve(&b.netns, &[80]);
    assert!(!reaches(&a.netns, b.v4, 80), "UDP alone is allowed");
}
