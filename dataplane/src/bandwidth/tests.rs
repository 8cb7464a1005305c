use super::*;
use crate::attach::{self, AttachSpec, Wanted};
use crate::faults::{self, FAULTS};
use crate::lab::NetNs;
use crate::sysctl;

fn attach(container: &NetNs, host_ifname: &str) {
    let spec = AttachSpec {
        netns: container.path(),
        container_ifname: "eth0".into(),
        host_ifname: host_ifname.into(),
        mtu: None,
        mtu_follows: false,
        container_mac: None,
        allow_spoofing: false,
        container_forwarding: None,
        ipv6: false,
        queues: None,
    };
    attach::create(&spec, &["10.65.0.1".parse().unwrap()]).unwrap();
}

fn slow() -> Bandwidth {
    Bandwidth {
        to_container: Some(Limit {
            rate: 125_000,
            burst: 10_000,
            peak: None,
        }),
        from_container: Some(Limit {
            rate: 250_000,
            burst: 20_000,
            peak: Some(Peak {
                rate: 500_000,
                burst: 3000,
            }),
        }),
    }
}

/// Packets that the queue at the root of an interface has sent.
fn sent(host: &NetNs, ifname: &str) -> u64 {
    let (_, text) = host.command(&format!("tc -s qdisc show dev {ifname} root"));
    let sent = text
        .split("bytes")
        .nth(1)
        .and_then(|t| t.split_whitespace().next());
    sent.and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn both_ways_are_queued_as_asked_and_packets_pass() {
    let (host, c) = (NetNs::new(), NetNs::new());
    host.run(|| {
        sysctl::host_forwarding_on().unwrap();
        attach(&c, "mgy00000000001");
        limit("mgy00000000001", &slow()).unwrap();
        assert_eq!(
            check("mgy00000000001", &slow()).unwrap(),
            Vec::<String>::new()
        );
    });
    let (_, text) = host.command("tc qdisc show");
    assert!(
        text.contains("dev mgy00000000001 root") && text.contains("rate 1Mbit burst 10000b"),
        "{text}"
    );
    assert!(
        text.contains("dev ifb00000000001 root")
            && text.contains("rate 2Mbit burst 20000b peakrate 4Mbit minburst 3000b"),
        "{text}"
    );
    host.ip("addr add 192.0.2.1/32 dev lo");
    host.ip("route add 10.65.0.1 dev mgy00000000001 src 192.0.2.1");
    let (passed, output) = host.command("ping -c 3 -i 0.01 -W 2 10.65.0.1");
    assert!(passed, "{output}");
    assert!(sent(&host, "mgy00000000001") >= 3);
    assert!(sent(&host, "ifb00000000001") >= 3);
}

#[test]
fn check_tells_what_differs() {
    let (host, c) = (NetNs::new(), NetNs::new());
    host.run(|| {
        attach(&c, "mgy00000000001");
        let found = check("mgy00000000001", &slow()).unwrap();
        assert_eq!(
            found[0],
            "what is received is not limited on mgy00000000001"
        );
        assert_eq!(found.len(), 3, "{found:?}");
        limit("mgy00000000001", &slow()).unwrap();
        let faster = Bandwidth {
            to_container: Some(Limit {
                rate: 1,
                burst: 10_000,
                peak: None,
            }),
            ..slow()
        };
        let found = check("mgy00000000001", &faster).unwrap();
        assert_eq!(
            found,
            ["what is received is limited to 125000 bytes a second on mgy00000000001, not to 1"]
        );
        let mut level = slow();
        level.from_container.as_mut().unwrap().peak = None;
        let found = check("mgy00000000001", &level).unwrap();
        assert_eq!(
            found,
            ["bursts of what is sent pass at 500000 bytes a second on ifb00000000001, not at 0 (0 is no limit)"]
        );
    });
    host.command("tc qdisc del dev mgy00000000001 ingress");
    let found = host.run(|| check("mgy00000000001", &slow()).unwrap());
    assert_eq!(found, ["what is sent does not go over ifb00000000001"]);
}

#[test]
fn the_device_goes_with_its_host_end_and_one_left_over_is_in_nobodys_way() {
    let (host, c, d) = (NetNs::new(), NetNs::new(), NetNs::new());
    host.run(|| {
        attach(&c, "mgy00000000001");
        limit("mgy00000000001", &slow()).unwrap();
        let there = |name| {
            link::find(&mut Socket::route().unwrap(), name)
                .unwrap()
                .is_some()
        };
        assert!(there("ifb00000000001"));
        attach::remove_many(&["mgy00000000001"]).unwrap();
        assert!(!there("ifb00000000001") && !there("mgy00000000001"));
    });
    host.ip("link add ifb00000000002 type ifb");
    host.run(|| {
        attach(&d, "mgy00000000002");
        limit("mgy00000000002", &slow()).unwrap();
        assert_eq!(
            check("mgy00000000002", &slow()).unwrap(),
            Vec::<String>::new()
        );
    });
}

#[test]
fn queues_that_somebody_takes_away_or_changes_are_put_back_and_counted() {
    let (host, c) = (NetNs::new(), NetNs::new());
    host.run(|| {
        sysctl::host_forwarding_on().unwrap();
        attach(&c, "mgy00000000001");
        let wanted = Wanted {
            ends: [("mgy00000000001", false)].into(),
            ..Wanted::default()
        };
        let repaired = || {
            let repaired = attach::repair(&wanted).unwrap();
            assert!(repaired.refused.is_empty(), "{:?}", repaired.refused);
            repaired.parts
        };
        assert_eq!(repaired(), 0);
        limit("mgy00000000001", &slow()).unwrap();
        assert_eq!(repaired(), 0);
        host.ip("addr add 192.0.2.1/32 dev lo");
        host.ip("route add 10.65.0.1 dev mgy00000000001 src 192.0.2.1");
        for broken in [
            "tc qdisc del dev mgy00000000001 root",
            "tc qdisc replace dev mgy00000000001 root pfifo",
            "tc qdisc change dev mgy00000000001 root tbf rate 9mbit burst 20kb latency 9ms",
            "tc qdisc del dev mgy00000000001 ingress",
            "tc filter del dev mgy00000000001 parent ffff:",
            "tc qdisc del dev ifb00000000001 root",
            "tc qdisc replace dev ifb00000000001 root pfifo",
            "ip link set ifb00000000001 down",
            "ip link del ifb00000000001",
        ] {
            let (done, said) = host.command(broken);
            assert!(done, "{broken}: {said}");
            assert_eq!(repaired(), 1, "{broken}");
            assert_eq!(repaired(), 0, "{broken}");
            let left = check("mgy00000000001", &slow()).unwrap();
            assert_eq!(left, Vec::<String>::new(), "{broken}");
            let before = sent(&host, "ifb00000000001");
            let (passed, output) = host.command("ping -c 1 -w 5 10.65.0.1");
            assert!(passed, "{broken}: {output}");
            assert!(sent(&host, "ifb00000000001") > before, "{broken}");
        }
    });
}

#[test]
fn whatever_the_kernel_refuses_once_queues_are_put_back() {
    let (host, c) = (NetNs::new(), NetNs::new());
    host.run(|| {
        attach(&c, "mgy00000000001");
        limit("mgy00000000001", &slow()).unwrap();
        let wanted = Wanted {
            ends: [("mgy00000000001", false)].into(),
            ..Wanted::default()
        };
        let round = || attach::repair(&wanted).is_ok_and(|done| done.refused.is_empty());
        for fault in FAULTS {
            for nth in 0.. {
                host.command("tc qdisc del dev mgy00000000001 root");
                host.ip("link del ifb00000000001");
                faults::plan(nth, fault);
                let mut is_settled = round();
                let struck = faults::struck();
                for _ in 0..3 {
                    is_settled = is_settled || round();
                }
                assert!(is_settled, "{fault:?} at {nth}");
                let left = check("mgy00000000001", &slow()).unwrap();
                assert_eq!(left, Vec::<String>::new(), "{fault:?} at {nth}");
                assert_eq!(attach::repair(&wanted).unwrap().parts, 0);
                if !struck {
                    assert!(nth > 10, "only {nth} things were asked");
                    break;
                }
            }
        }
    });
}

/// The kernel takes the pair away with the container, and knows nothing of the device.
#[test]
fn a_device_whose_container_went_without_a_word_is_found_and_removed() {
    let (host, c) = (NetNs::new(), NetNs::new());
    let kept = NetNs::new();
    host.run(|| {
        attach(&c, "mgy00000000001");
        attach(&kept, "mgy00000000002");
        for name in ["mgy00000000001", "mgy00000000002"] {
            limit(name, &slow()).unwrap();
        }
        assert_eq!(orphans("mgy").unwrap(), []);
    });
    drop(c);
    host.run(|| {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while orphans("mgy").unwrap().is_empty() && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let found = orphans("mgy").unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        let (name, index) = &found[0];
        assert_eq!(name, "mgy00000000001");
        remove_orphan(*index).unwrap();
        remove_orphan(*index).unwrap();
        assert_eq!(orphans("mgy").unwrap(), []);
        assert_eq!(
            check("mgy00000000002", &slow()).unwrap(),
            Vec::<String>::new()
        );
    });
}
