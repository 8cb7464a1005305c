use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::*;
use crate::attach::tests::{attach, host_link, ips, spec};
use crate::attach::{AttachSpec, check, create, remove};
use crate::faults::{self, FAULTS, Fault};
use crate::lab::NetNs;
use crate::route_table::{Config, Route, RouteTable};

fn wanted<'a>(names: &[&'a str], path_mtu: Option<u32>, may_grow: bool) -> Wanted<'a> {
    Wanted {
        ends: names.iter().map(|name| (*name, true)).collect(),
        path_mtu,
        may_grow,
    }
}

/// With the MTU of the path.
fn following(netns: &NetNs, host_ifname: &str, mtu: u32) -> AttachSpec {
    AttachSpec {
        mtu: Some(mtu),
        mtu_follows: true,
        ..spec(netns, host_ifname)
    }
}

/// Of both ends.
fn mtus(container: &NetNs, host_ifname: &str) -> [u32; 2] {
    let inside = container.run(|| host_link("eth0").unwrap());
    [host_link(host_ifname).unwrap().mtu, inside.mtu]
}

fn clean(wanted: &Wanted<'_>) -> Repaired {
    let repaired = repair(wanted).unwrap();
    assert!(repaired.refused.is_empty(), "{:?}", repaired.refused);
    repaired
}

#[test]
fn what_somebody_changed_of_a_host_end_is_put_right_and_counted() {
    let (host, c) = (NetNs::new(), NetNs::new());
    let addresses = ips(&["10.65.0.1", "fd00:65::1"]);
    host.run(|| {
        attach(&spec(&c, "mgya"), &addresses);
        let mut routes = RouteTable::open(Config::default()).unwrap();
        for ip in &addresses {
            routes.set((*ip).into(), Route::device("mgya"));
        }
        routes.apply();
        let wanted = wanted(&["mgya", "mgygone"], None, true);
        assert_eq!(clean(&wanted).parts, 0);
        for (broken, count) in [
            ("ip link set mgya down", 1),
            ("ip link set mgya address 02:00:00:00:00:01", 1),
            ("ip addr del fe80::ecee:eeff:feee:eeee/64 dev mgya", 1),
            ("ip addr flush dev mgya", 1),
            ("ip link set mgya mtu 1300", 1),
            ("ip link set mgya mtu 9000", 1),
            ("ip link set mgya name lost0", 1),
            ("ip link set mgya down name lost0 mtu 1400", 3),
        ] {
            let (done, said) = host.command(broken);
            assert!(done, "{broken}: {said}");
            if broken.contains("mgya") && !broken.contains("addr") {
                let name = if broken.contains("lost0") {
                    "lost0"
                } else {
                    "mgya"
                };
                let amiss = is_amiss(&host_link(name).unwrap());
                assert_eq!(amiss.as_deref(), Some("mgya"), "{broken}");
            }
            assert_eq!(clean(&wanted).parts, count, "{broken}");
            assert_eq!(clean(&wanted).parts, 0, "{broken}");
            assert_eq!(is_amiss(&host_link("mgya").unwrap()), None, "{broken}");
            assert_eq!(mtus(&c, "mgya"), [1450, 1450], "{broken}");
            routes.on_link_event("mgya");
            assert!(routes.apply().failed.is_empty(), "{broken}");
            host.ip("addr replace 192.0.2.1/32 dev lo");
            host.ip("addr replace 2001:db8::1/128 dev lo");
            for to in ["192.0.2.1", "2001:db8::1"] {
                // The kernel's own address may still be tentative.
                let (passed, output) = c.command(&format!("ping -c 1 -w 5 {to}"));
                assert!(passed, "{broken}: {to}: {output}");
            }
        }
        // Who has no IPv6 needs no gateway for it.
        host.ip("addr flush dev mgya");
        let v4 = Wanted {
            ends: [("mgya", false)].into(),
            ..Wanted::default()
        };
        assert_eq!(clean(&v4).parts, 0);
    });
}

#[test]
fn a_name_that_another_took_is_told_of_and_the_rest_is_put_right() {
    let (host, a, b) = (NetNs::new(), NetNs::new(), NetNs::new());
    host.run(|| {
        attach(&spec(&a, "mgya"), &ips(&["10.65.0.1", "fd00:65::1"]));
        attach(&spec(&b, "mgyb"), &ips(&["10.65.0.2", "fd00:65::2"]));
        host.ip("link set mgya name lost0");
        host.ip("link add mgya type bridge");
        host.ip("link set mgyb down");
        let wanted = wanted(&["mgya", "mgyb"], None, true);
        let repaired = repair(&wanted).unwrap();
        assert_eq!((repaired.parts, repaired.refused.len()), (1, 1));
        let told = repaired.refused[0].to_string();
        assert!(
            told.contains("cannot give back the name for interface mgya"),
            "{told}"
        );
        assert!(host_link("mgyb").unwrap().up);
        host.ip("link del mgya");
        assert_eq!(clean(&wanted).parts, 1);
        assert!(host_link("mgya").is_some() && host_link("lost0").is_none());
    });
}

#[test]
fn the_check_of_sources_is_as_it_was_made() {
    let (host, a, b) = (NetNs::new(), NetNs::new(), NetNs::new());
    host.run(|| {
        attach(&spec(&a, "mgya"), &ips(&["10.65.0.1", "fd00:65::1"]));
        let lax = AttachSpec {
            allow_spoofing: true,
            ..spec(&b, "mgyb")
        };
        attach(&lax, &ips(&["10.65.0.2", "fd00:65::2"]));
        let wanted = wanted(&["mgya", "mgyb"], None, true);
        assert_eq!(clean(&wanted).switches, 0);
        let key = |name: &str| format!("net/ipv4/conf/{name}/rp_filter");
        sysctl::write(&key("mgya"), "0").unwrap();
        sysctl::write(&key("mgyb"), "1").unwrap();
        assert_eq!(clean(&wanted).switches, 2);
        assert_eq!(sysctl::read(&key("mgya")).unwrap(), "1");
        assert_eq!(sysctl::read(&key("mgyb")).unwrap(), "0");
    });
}

#[test]
fn both_ends_follow_the_path_unless_somebody_chose_their_mtu() {
    let (host, a, b, c) = (NetNs::new(), NetNs::new(), NetNs::new(), NetNs::new());
    host.run(|| {
        attach(
            &following(&a, "mgya", 1450),
            &ips(&["10.65.0.1", "fd00:65::1"]),
        );
        attach(&spec(&b, "mgyb"), &ips(&["10.65.0.2", "fd00:65::2"]));
        attach(
            &following(&c, "mgyc", 1450),
            &ips(&["10.65.0.3", "fd00:65::3"]),
        );
        c.ip("link set eth0 mtu 1420");
        let names = ["mgya", "mgyb", "mgyc"];
        let all = || [mtus(&a, "mgya"), mtus(&b, "mgyb"), mtus(&c, "mgyc")];
        let after = |path, may_grow| {
            let repaired = clean(&wanted(&names, path, may_grow));
            assert_eq!((repaired.parts, repaired.switches), (0, 0));
            (repaired.followed, all())
        };
        let made = [[1450, 1450], [1450, 1450], [1450, 1420]];
        assert_eq!(after(None, true), (0, made));
        assert_eq!(after(Some(1450), true), (0, made));
        let (fixed, by_hand) = ([1450, 1450], 1420);
        assert_eq!(
            after(Some(1430), false),
            (2, [[1430, 1430], fixed, [1430, by_hand]])
        );
        // It may be large no more.
        let small = [[1400, 1400], fixed, [1400, 1400]];
        assert_eq!(after(Some(1400), false), (2, small));
        assert_eq!(after(Some(1450), false), (0, small));
        // A fresh agent knows what is whose from what is written on the ends.
        assert_eq!(
            after(Some(1450), true),
            (2, [[1450, 1450], fixed, [1450, 1450]])
        );
        // What somebody made of the host's end is no reason to change the container's.
        c.ip("link set eth0 mtu 1420");
        host.ip("link set mgyc mtu 1500");
        assert_eq!(clean(&wanted(&names, Some(1450), true)).parts, 1);
        assert_eq!(mtus(&c, "mgyc"), [1450, 1420]);
    });
}

#[test]
fn a_container_that_cannot_be_reached_keeps_its_mtu_on_both_ends() {
    let (host, a, b) = (NetNs::new(), NetNs::new(), NetNs::new());
    host.run(|| {
        attach(
            &following(&a, "mgya", 1450),
            &ips(&["10.65.0.1", "fd00:65::1"]),
        );
        let id = host_link("mgya").unwrap();
        let record = Record::of(&id).unwrap();
        let mut socket = Socket::route().unwrap();
        let wanted = |path| wanted(&["mgya"], Some(path), true);
        for (netns, why) in [
            (Some(b.path()), "no longer in"),
            (Some("/run/netns/nope".into()), "cannot be opened"),
            (None, "not known"),
        ] {
            let elsewhere = Record {
                netns,
                ..record.clone()
            };
            elsewhere.write(&mut socket, id.index).unwrap();
            let repaired = repair(&wanted(1400)).unwrap();
            let told = repaired.refused[0].to_string();
            assert!(told.contains(why), "{told}");
            assert_eq!((repaired.followed, mtus(&a, "mgya")), (0, [1450, 1450]));
            // What somebody broke is mended all the same.
            host.ip("link set mgya mtu 1300");
            let repaired = repair(&Wanted {
                path_mtu: None,
                ..wanted(0)
            });
            assert_eq!(repaired.unwrap().parts, 1, "{why}");
            assert_eq!(mtus(&a, "mgya"), [1450, 1450]);
        }
        record.write(&mut socket, id.index).unwrap();
        assert_eq!(clean(&wanted(1400)).followed, 1);
        assert_eq!(mtus(&a, "mgya"), [1400, 1400]);
    });
}

/// dockerd moves the container's end later, and says where to.
#[test]
fn an_end_that_another_moves_follows_before_and_after() {
    let (host, c) = (NetNs::new(), NetNs::new());
    host.run(|| {
        let pair = AttachSpec {
            netns: Default::default(),
            container_ifname: "dkp0".into(),
            ..following(&c, "mgya", 1450)
        };
        crate::attach::create_pair(&pair).unwrap();
        assert_eq!(clean(&wanted(&["mgya"], Some(1400), false)).followed, 1);
        assert_eq!(host_link("dkp0").unwrap().mtu, 1400);
        crate::attach::moves_to("mgya", &c.path()).unwrap();
        crate::attach::moves_to("mgygone", &c.path()).unwrap();
        host.ip(&format!("link set dkp0 netns {} name eth0", c.name()));
        assert_eq!(clean(&wanted(&["mgya"], Some(1350), false)).followed, 1);
        assert_eq!(mtus(&c, "mgya"), [1350, 1350]);
    });
}

/// What a flow counts.
#[derive(Default)]
struct Count {
    sent: AtomicU64,
    arrived: AtomicU64,
}

/// Numbered packets until the end is told, each of a size that all MTUs take.
fn datagrams(from: &UdpSocket, to: &UdpSocket, length: usize, ends: &AtomicBool, count: &Count) {
    let mut packet = vec![0; length];
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut packet = vec![0; length];
            while let Ok(length) = to.recv(&mut packet) {
                match length {
                    1 => return,
                    // Before the flow.
                    7 => continue,
                    _ => {}
                }
                count.arrived.fetch_add(1, Ordering::Relaxed);
            }
        });
        while !ends.load(Ordering::Relaxed) {
            let number = count.sent.fetch_add(1, Ordering::Relaxed);
            packet[..8].copy_from_slice(&number.to_ne_bytes());
            from.send(&packet).unwrap();
            thread::sleep(Duration::from_micros(500));
        }
        from.send(&[0]).unwrap();
    });
}

/// Bytes until the end is told; those that arrive are those that were sent.
fn stream(mut from: TcpStream, mut to: TcpStream, ends: &AtomicBool, count: &Count) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = vec![0; 100_000];
            loop {
                let length = to.read(&mut bytes).unwrap();
                if length == 0 {
                    return;
                }
                let at = count.arrived.fetch_add(length as u64, Ordering::Relaxed);
                let same = bytes[..length].iter().enumerate();
                let mut same = same.map(|(n, byte)| (at + n as u64) % 251 == u64::from(*byte));
                assert!(same.all(|same| same), "other bytes behind {at}");
            }
        });
        while !ends.load(Ordering::Relaxed) {
            let at = count.sent.load(Ordering::Relaxed);
            let bytes: Vec<u8> = (at..at + 4_000).map(|n| (n % 251) as u8).collect();
            from.write_all(&bytes).unwrap();
            count.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            // As fast as it goes, it would fill the queue that all packets of a processor are in.
            thread::sleep(Duration::from_millis(1));
        }
        from.shutdown(std::net::Shutdown::Write).unwrap();
    });
}

#[test]
fn running_flows_of_both_families_lose_nothing_while_the_path_changes() {
    const SMALL: u32 = 1400;
    const LARGE: u32 = 1500;
    let (host, a, b) = (NetNs::new(), NetNs::new(), NetNs::new());
    host.run(|| {
        sysctl::host_forwarding_on().unwrap();
        attach(
            &following(&a, "mgya", LARGE),
            &ips(&["10.65.0.1", "fd00:65::1"]),
        );
        attach(
            &following(&b, "mgyb", LARGE),
            &ips(&["10.65.0.2", "fd00:65::2"]),
        );
    });
    let ends = AtomicBool::new(false);
    let counts: [Count; 4] = Default::default();
    let [udp4, udp6, tcp4, tcp6] = &counts;
    let udp = |from: IpAddr, to: IpAddr| {
        let to = b.run(|| UdpSocket::bind((to, 0)).unwrap());
        setsockopt(&to, sockopt::RcvBufForce, &(16 << 20)).unwrap();
        to.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let from = a.run(|| UdpSocket::bind((from, 0)).unwrap());
        from.connect(to.local_addr().unwrap()).unwrap();
        // A new container may miss what comes in its first moments, whatever becomes of the path.
        for _ in 0..20 {
            from.send(&[7; 7]).unwrap();
            thread::sleep(Duration::from_millis(10));
        }
        (from, to)
    };
    let tcp = |to: IpAddr| {
        let listener = b.run(|| TcpListener::bind((to, 0)).unwrap());
        let at: SocketAddr = listener.local_addr().unwrap();
        let from = a.run(|| TcpStream::connect(at).unwrap());
        (from, listener.accept().unwrap().0)
    };
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    thread::scope(|scope| {
        let ends = &ends;
        for (from, to, header, count) in [
            ("10.65.0.1", "10.65.0.2", 28, udp4),
            ("fd00:65::1", "fd00:65::2", 48, udp6),
        ] {
            let (from, to) = udp(ip(from), ip(to));
            let length = (SMALL - header) as usize;
            scope.spawn(move || datagrams(&from, &to, length, ends, count));
        }
        for (to, count) in [("10.65.0.2", tcp4), ("fd00:65::2", tcp6)] {
            let (from, to) = tcp(ip(to));
            scope.spawn(move || stream(from, to, ends, count));
        }
        let progress = || counts.each_ref().map(|c| c.arrived.load(Ordering::Relaxed));
        host.run(|| {
            let end = Ends(ends);
            for round in 0..20 {
                let mtu = if round % 2 == 0 { SMALL } else { LARGE };
                let repaired = clean(&wanted(&["mgya", "mgyb"], Some(mtu), true));
                assert_eq!(repaired.followed, 2);
                assert_eq!(mtus(&a, "mgya"), [mtu, mtu]);
                assert_eq!(mtus(&b, "mgyb"), [mtu, mtu]);
                // Each flow goes on.
                let before = progress();
                let start = std::time::Instant::now();
                while progress()
                    .iter()
                    .zip(&before)
                    .any(|(now, before)| now <= before)
                {
                    assert!(
                        start.elapsed() < Duration::from_secs(60),
                        "{:?}",
                        progress()
                    );
                    thread::sleep(Duration::from_millis(1));
                }
            }
            drop(end);
        });
    });
    let all = counts.each_ref().map(|count| {
        let [sent, arrived] = [&count.sent, &count.arrived].map(|n| n.load(Ordering::Relaxed));
        (sent, sent - arrived)
    });
    assert!(
        all.iter().all(|(_, lost)| *lost == 0),
        "sent and lost: {all:?}"
    );
}

/// Tells the flows to end, also on a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Each thing that the kernel is asked meets each fault, until there are no more; `round` says whether it is settled.
/// `holds` is asserted in between.
fn with_each_fault(
    begin: impl Fn(),
    round: impl Fn() -> bool,
    holds: impl Fn(),
    settled: impl Fn(),
) {
    for fault in FAULTS {
        for nth in 0.. {
            begin();
            faults::plan(nth, fault);
            let mut is_settled = round();
            let struck = faults::struck();
            holds();
            for _ in 0..3 {
                is_settled = is_settled || round();
                holds();
            }
            assert!(is_settled, "{fault:?} at {nth}");
            settled();
            if !struck {
                assert!(nth > 5, "{fault:?}: only {nth} things were asked");
                break;
            }
        }
    }
}

#[test]
fn whatever_the_kernel_refuses_once_host_ends_are_put_right() {
    let (host, c) = (NetNs::new(), NetNs::new());
    host.run(|| {
        attach(&spec(&c, "mgya"), &ips(&["10.65.0.1", "fd00:65::1"]));
        let wanted = wanted(&["mgya"], None, true);
        let begin = || {
            let all = "link set mgya down name lost0 mtu 1400 address 02:00:00:00:00:01";
            host.ip(all);
            sysctl::write("net/ipv4/conf/lost0/rp_filter", "0").unwrap();
        };
        let round = || repair(&wanted).is_ok_and(|repaired| repaired.refused.is_empty());
        let settled = || {
            let repaired = clean(&wanted);
            assert_eq!((repaired.parts, repaired.switches), (0, 0));
            assert_eq!(is_amiss(&host_link("mgya").unwrap()), None);
        };
        with_each_fault(begin, round, || {}, settled);
    });
}

#[test]
fn whatever_the_kernel_refuses_once_containers_follow_the_path() {
    let (host, c) = (NetNs::new(), NetNs::new());
    host.run(|| {
        attach(
            &following(&c, "mgya", 1500),
            &ips(&["10.65.0.1", "fd00:65::1"]),
        );
        let path = std::cell::Cell::new(1500);
        let begin = || path.set(if path.get() == 1500 { 1400 } else { 1500 });
        let round = || {
            let repaired = repair(&wanted(&["mgya"], Some(path.get()), true));
            repaired.is_ok_and(|repaired| repaired.refused.is_empty())
        };
        // What a container may send, its host takes.
        let holds = || {
            let [outside, inside] = mtus(&c, "mgya");
            assert!(inside <= outside, "{inside} inside, {outside} outside");
        };
        let settled = || {
            let repaired = clean(&wanted(&["mgya"], Some(path.get()), true));
            assert_eq!((repaired.parts, repaired.followed), (0, 0));
            assert_eq!(mtus(&c, "mgya"), [path.get(); 2]);
        };
        // Both ways, for each fault.
        with_each_fault(begin, round, holds, settled);
        let other_way = || {
            begin();
            clean(&wanted(&["mgya"], Some(path.get()), true));
            begin();
        };
        path.set(1500);
        with_each_fault(other_way, round, holds, settled);
        path.set(1400);
        with_each_fault(other_way, round, holds, settled);
    });
}

#[test]
fn whatever_the_kernel_refuses_once_an_attachment_is_whole_or_leaves_nothing() {
    let (host, c) = (NetNs::new(), NetNs::new());
    let addresses = ips(&["10.65.0.1", "fd00:65::1"]);
    host.run(|| {
        let spec = spec(&c, "mgya");
        let mut routes = RouteTable::open(Config::default()).unwrap();
        for ip in &addresses {
            routes.set((*ip).into(), Route::device("mgya"));
        }
        for fault in FAULTS {
            for nth in 0.. {
                faults::plan(nth, fault);
                let made = create(&spec, &addresses);
                let struck = faults::struck();
                match made {
                    Ok(_) => {
                        routes.on_link_event("mgya");
                        routes.apply();
                        assert_eq!(check(&spec, &addresses).unwrap(), Vec::<String>::new());
                        assert!(
                            !struck || is_harmless(fault),
                            "{fault:?} at {nth} is unheard"
                        );
                    }
                    Err(_) => {
                        assert!(host_link("mgya").is_none(), "{fault:?} at {nth}");
                        assert!(c.run(|| host_link("eth0")).is_none(), "{fault:?} at {nth}");
                    }
                }
                remove("mgya").unwrap();
                if !struck {
                    break;
                }
            }
        }
    });
}

/// What is there already, and a table of neighbours that takes no more, are no reason to give up.
const fn is_harmless(fault: Fault) -> bool {
    matches!(fault, Fault::Refused(_))
}
