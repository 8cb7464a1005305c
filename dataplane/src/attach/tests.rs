use std::fs;
use std::time::Duration;

use super::*;
use crate::lab::NetNs;
use crate::link::{self, Link};
use crate::netlink::Socket;
use crate::route_table::{Config, Route, RouteTable};

pub(super) fn spec(netns: &NetNs, host_ifname: &str) -> AttachSpec {
    AttachSpec {
        netns: netns.path(),
        container_ifname: "eth0".into(),
        host_ifname: host_ifname.into(),
        mtu: Some(1450),
        mtu_follows: false,
        container_mac: None,
        allow_spoofing: false,
        container_forwarding: None,
        ipv6: true,
        queues: None,
    }
}

pub(super) fn ips(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|a| a.parse().unwrap()).collect()
}

/// What the agent does: attach, then the host's routes.
pub(super) fn attach(spec: &AttachSpec, addresses: &[IpAddr]) -> Attached {
    let link = create(spec, addresses).unwrap();
    let mut routes = RouteTable::open(Config::default()).unwrap();
    for address in addresses {
        routes.set((*address).into(), Route::device(&spec.host_ifname));
    }
    let report = routes.apply();
    assert!(
        report.failed.is_empty() && report.conflicts.is_empty(),
        "{report:?}"
    );
    link
}

pub(super) fn host_link(name: &str) -> Option<Link> {
    link::find(&mut Socket::route().unwrap(), name).unwrap()
}

#[test]
fn first_packets_pass_between_containers_without_waiting() {
    let host = NetNs::new();
    let (a, b) = (NetNs::new(), NetNs::new());
    host.run(|| {
        crate::sysctl::host_forwarding_on().unwrap();
        attach(&spec(&a, "mgya"), &ips(&["10.65.0.1", "fd00:65::1"]));
        attach(&spec(&b, "mgyb"), &ips(&["10.65.0.2", "fd00:65::2"]));
    });
    // A lost or delayed first packet shows: one packet, and it has to be back within 200 ms, which is more than a
    // loaded machine takes and less than whoever has to ask somebody first.
    for (from, to) in [
        (&a, "10.65.0.2"),
        (&b, "10.65.0.1"),
        (&a, "fd00:65::2"),
        (&b, "fd00:65::1"),
    ] {
        let (passed, output) = from.command(&format!("ping -c 1 -W 5 {to}"));
        assert!(passed, "{to}: {output}");
        let took = output.split_once("time=").and_then(|(_, rest)| {
            let number = rest.split(' ').next()?;
            number.parse::<f64>().ok()
        });
        assert!(took.is_some_and(|millis| millis < 200.0), "{to}: {output}");
    }
    host.ip("addr add 192.0.2.1/32 dev lo");
    for to in ["10.65.0.1", "fd00:65::2"] {
        let (passed, output) = host.command(&format!("ping -c 1 -W 5 {to}"));
        assert!(passed, "host to {to}: {output}");
    }
}

#[test]
fn each_end_has_as_many_queues_as_asked_for() {
    let (host, a, b) = (NetNs::new(), NetNs::new(), NetNs::new());
    let addresses = ips(&["10.65.0.1", "fd00:65::1"]);
    host.run(|| {
        let many = AttachSpec {
            queues: Some(3),
            ..spec(&a, "mgy0")
        };
        create(&many, &addresses).unwrap();
        create(&spec(&b, "mgy1"), &addresses).unwrap();
    });
    let queues = |netns: &NetNs, ifname: &str| {
        let shown = netns.ip(&format!("-d link show {ifname}"));
        let words: Vec<&str> = shown.split_whitespace().collect();
        ["numtxqueues", "numrxqueues"].map(|name| {
            let place = words.iter().position(|word| *word == name).unwrap();
            words[place + 1].parse::<u32>().unwrap()
        })
    };
    assert_eq!(queues(&host, "mgy0"), [3, 3]);
    assert_eq!(queues(&a, "eth0"), [3, 3]);
    assert_eq!(queues(&host, "mgy1"), [1, 1]);
    assert_eq!(queues(&b, "eth0"), [1, 1]);
}

#[test]
fn both_ends_are_as_specified_and_check_agrees() {
    let (host, c) = (NetNs::new(), NetNs::new());
    let spec = AttachSpec {
        container_mac: Some([2, 0, 0, 0, 0, 9]),
        ..spec(&c, "mgy0")
    };
    let addresses = ips(&["10.65.0.1", "fd00:65::1"]);
    host.run(|| {
        let made = attach(&spec, &addresses);
        let ours = host_link("mgy0").unwrap();
        assert_eq!((made.host_ifindex, made.host_mac), (ours.index, HOST_MAC));
        assert_eq!((made.mtu, made.container_mac), (1450, [2, 0, 0, 0, 0, 9]));
        assert_eq!(ours.peer_index, Some(made.container_ifindex));
        let inside = c.run(|| host_link("eth0").unwrap());
        assert_eq!(
            (inside.index, inside.mac),
            (made.container_ifindex, Some(made.container_mac))
        );
        for (key, value) in [
            ("net/ipv4/conf/mgy0/forwarding", "1"),
            ("net/ipv4/conf/mgy0/proxy_arp", "1"),
            ("net/ipv4/conf/mgy0/rp_filter", "1"),
            ("net/ipv4/conf/mgy0/route_localnet", "1"),
            ("net/ipv4/neigh/mgy0/proxy_delay", "0"),
            ("net/ipv6/conf/mgy0/accept_ra", "0"),
            ("net/ipv6/conf/mgy0/forwarding", "1"),
            ("net/ipv6/conf/mgy0/proxy_ndp", "1"),
            ("net/ipv6/conf/mgy0/disable_ipv6", "0"),
        ] {
            assert_eq!(crate::sysctl::read(key).unwrap(), value, "{key}");
        }
        let gateway = link::addresses(&mut Socket::route().unwrap()).unwrap();
        let on_host_end: Vec<_> = gateway.iter().filter(|a| a.index == ours.index).collect();
        assert_eq!(on_host_end.len(), 1, "{on_host_end:?}");
        assert_eq!(on_host_end[0].address.ip(), IpAddr::V6(GATEWAY_V6));
        assert_eq!(check(&spec, &addresses).unwrap(), Vec::<String>::new());
    });
    // Nobody asks for the container before the first packet goes to it.
    for address in ["10.65.0.1", "fd00:65::1"] {
        let neighbour = host.ip(&format!("neigh show {address} dev mgy0"));
        assert!(neighbour.contains("02:00:00:00:00:09"), "{neighbour}");
    }
    assert!(
        c.ip("-4 route")
            .contains("default via 169.254.1.1 dev eth0")
    );
    assert!(
        c.ip("neigh show nud permanent")
            .contains("169.254.1.1 dev eth0 lladdr ee:ee:ee:ee:ee:ee")
    );
}

#[test]
fn check_says_what_is_wrong() {
    let (host, c) = (NetNs::new(), NetNs::new());
    let spec = spec(&c, "mgy0");
    let addresses = ips(&["10.65.0.1", "fd00:65::1"]);
    host.run(|| {
        attach(&spec, &addresses);
        c.ip("addr del fd00:65::1/128 dev eth0");
        c.ip("link set eth0 mtu 1400");
        c.ip("route del default");
        host.ip("route del 10.65.0.1");
        let at = format!("in {}", spec.netns.display());
        let found = check(&spec, &addresses).unwrap();
        assert_eq!(
            found,
            [
                "the host has no route for 10.65.0.1".to_owned(),
                format!("interface eth0 has MTU 1400 {at}, not 1450"),
                format!("address fd00:65::1/128 is missing on eth0 {at}"),
                format!("the default route via 169.254.1.1 is missing {at}"),
            ]
        );
        remove("mgy0").unwrap();
        let found = check(&spec, &addresses).unwrap();
        assert_eq!(found[0], "interface mgy0 is missing on the host");
        assert_eq!(found[1], format!("interface eth0 is missing {at}"));
    });
}

#[test]
fn what_exists_is_reported_and_left_alone() {
    let (host, a, b) = (NetNs::new(), NetNs::new(), NetNs::new());
    host.run(|| {
        let addresses = ips(&["10.65.0.1"]);
        let first = create(&spec(&a, "mgy0"), &addresses).unwrap();

        let error = create(&spec(&a, "mgy1"), &addresses).unwrap_err();
        assert!(
            matches!(error, AttachError::ContainerInterfaceExists { .. }),
            "{error}"
        );
        assert_eq!(host_link("mgy1"), None);

        let error = create(&spec(&b, "mgy0"), &addresses).unwrap_err();
        assert!(
            matches!(error, AttachError::HostInterfaceExists { .. }),
            "{error}"
        );
        assert_eq!(host_link("mgy0").unwrap().index, first.host_ifindex);
        assert_eq!(b.run(|| host_link("eth0")), None);

        remove("mgy0").unwrap();
        create(&spec(&a, "mgy0"), &addresses).unwrap();
    });
}

#[test]
fn wrong_namespaces_are_refused() {
    let (host, c) = (NetNs::new(), NetNs::new());
    let file = tempfile::NamedTempFile::new().unwrap();
    host.run(|| {
        let in_netns = |netns: PathBuf| AttachSpec {
            netns,
            ..spec(&c, "mgy0")
        };
        let error = create_link(&in_netns("/run/netns/mgy-no-such".into())).unwrap_err();
        assert!(matches!(error, AttachError::NetnsMissing { .. }), "{error}");
        let error = create_link(&in_netns(host.path())).unwrap_err();
        assert!(matches!(error, AttachError::OwnNetns { .. }), "{error}");
        for other in [file.path().to_owned(), "/proc/self/ns/uts".into()] {
            let error = create_link(&in_netns(other)).unwrap_err();
            let named = matches!(
                error,
                AttachError::NotNetns { .. } | AttachError::Kernel { .. }
            );
            assert!(named, "{error}");
        }
        assert_eq!(host_link("mgy0"), None);
    });
}

#[test]
fn a_failure_half_way_leaves_nothing_behind() {
    let (host, c) = (NetNs::new(), NetNs::new());
    host.run(|| {
        let spec = spec(&c, "mgy0");
        // The kernel refuses an address that is there already.
        let error = create(&spec, &ips(&["10.65.0.1", "10.65.0.1"])).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot add an address for interface eth0"),
            "{error}"
        );
        assert_eq!(host_link("mgy0"), None);
        assert_eq!(c.run(|| host_link("eth0")), None);

        // The pair vanishes between the two phases.
        let pending = create_link(&self::spec(&c, "mgy1")).unwrap();
        remove("mgy1").unwrap();
        let error = pending.configure(&ips(&["10.65.0.1"])).unwrap_err();
        assert!(error.to_string().contains("for interface eth0"), "{error}");
        assert_eq!(c.run(|| host_link("eth0")), None);
    });
}

#[test]
fn removing_is_idempotent_and_takes_many_at_once() {
    let host = NetNs::new();
    let containers: Vec<_> = (0..8).map(|_| NetNs::new()).collect();
    host.run(|| {
        let names: Vec<_> = (0..8).map(|i| format!("mgy{i}")).collect();
        for (name, netns) in names.iter().zip(&containers).skip(1) {
            create_link(&spec(netns, name)).unwrap();
        }
        create_link(&AttachSpec {
            container_ifname: "eth1".into(),
            ..spec(&containers[1], "other")
        })
        .unwrap();
        // The first was never made.
        remove_many(&names).unwrap();
        assert!(
            link::list(&mut Socket::route().unwrap(), "mgy")
                .unwrap()
                .is_empty()
        );
        assert!(host_link("other").is_some());
        remove_many(&names).unwrap();
        remove("mgy0").unwrap();
        remove_many::<&str>(&[]).unwrap();
    });
}

#[test]
fn what_cannot_be_deleted_spoils_no_later_removal() {
    let (host, c) = (NetNs::new(), NetNs::new());
    host.run(|| {
        create_link(&spec(&c, "mgy0")).unwrap();
        // Nobody deletes the loopback interface.
        remove_many(&["lo", "mgy0"]).unwrap_err();
        remove_many(&["mgy0"]).unwrap();
        assert_eq!(host_link("mgy0"), None);
    });
}

#[test]
fn many_attach_and_detach_at_once() {
    let host = NetNs::new();
    let containers: Vec<_> = (0..8).map(|_| NetNs::new()).collect();
    std::thread::scope(|scope| {
        for (n, c) in containers.iter().enumerate() {
            let host = &host;
            scope.spawn(move || {
                host.run(|| {
                    let name = format!("mgy{n}");
                    let addresses = ips(&[&format!("10.65.0.{n}"), &format!("fd00:65::{n}")]);
                    for _ in 0..3 {
                        create(&spec(c, &name), &addresses).unwrap();
                        remove_many(&[&name]).unwrap();
                        assert_eq!(host_link(&name), None);
                    }
                    create(&spec(c, &name), &addresses).unwrap();
                });
            });
        }
    });
    let left = host.run(|| link::list(&mut Socket::route().unwrap(), "mgy").unwrap());
    assert_eq!(left.len(), 8);
}

#[test]
fn a_container_can_be_detached_from_inside() {
    let (host, c) = (NetNs::new(), NetNs::new());
    host.run(|| {
        create_link(&spec(&c, "mgy0")).unwrap();
        detach_container(&c.path(), "eth0").unwrap();
        assert_eq!(host_link("mgy0"), None);
        detach_container(&c.path(), "eth0").unwrap();
        detach_container(std::path::Path::new("/run/netns/mgy-no-such"), "eth0").unwrap();
    });
}

#[test]
fn an_ipv6_address_has_arrived_when_it_is_the_containers_own() {
    let (host, c) = (NetNs::new(), NetNs::new());
    let (spec, patience) = (spec(&c, "mgy0"), Duration::from_secs(60));
    let addresses = ips(&["10.65.0.1", "fd00:65::1", "fd00:65::2"]);
    host.run(|| {
        let (_, mut arriving) = create_link(&spec).unwrap().configure(&addresses).unwrap();
        assert!(arriving.wait(patience).unwrap());
        assert!(arriving.is_over().unwrap());
    });
    let shown = c.command("ip -6 route show table local type local").1;
    assert!(
        addresses[1..]
            .iter()
            .all(|ip| shown.contains(&ip.to_string())),
        "{shown}"
    );
    let look = |address: &str| {
        let socket = c.run(|| Socket::route().unwrap());
        Arriving::new(socket, &spec, &ips(&[address]))
    };
    assert!(
        look("192.0.2.1").is_over().unwrap(),
        "IPv4 is there at once"
    );
    let mut late = look("fd00:65::3");
    assert!(!late.wait(Duration::from_millis(1)).unwrap());
    c.ip("addr add fd00:65::3/128 dev eth0 nodad");
    assert!(late.wait(patience).unwrap());
}

#[test]
fn ipv6_works_in_a_container_that_starts_with_it_off() {
    let (host, c) = (NetNs::new(), NetNs::new());
    c.run(|| crate::sysctl::write("net/ipv6/conf/all/disable_ipv6", "1").unwrap());
    c.run(|| crate::sysctl::write("net/ipv6/conf/default/disable_ipv6", "1").unwrap());
    host.run(|| {
        crate::sysctl::host_forwarding_on().unwrap();
        let spec = AttachSpec {
            container_forwarding: Some(true),
            ..spec(&c, "mgy0")
        };
        attach(&spec, &ips(&["fd00:65::1"]));
        let (passed, output) = host.command("ping -c 1 -W 5 fd00:65::1");
        assert!(passed, "{output}");
    });
    c.run(|| {
        assert_eq!(
            fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(),
            "1\n"
        )
    });
}

#[test]
fn a_spoofed_source_is_dropped_unless_allowed() {
    let host = NetNs::new();
    let (a, b) = (NetNs::new(), NetNs::new());
    host.run(|| {
        crate::sysctl::host_forwarding_on().unwrap();
        // The higher of this and the interface's own counts.
        crate::sysctl::write("net/ipv4/conf/all/rp_filter", "0").unwrap();
        let strict = spec(&a, "mgya");
        let lax = AttachSpec {
            allow_spoofing: true,
            ..spec(&b, "mgyb")
        };
        attach(&strict, &ips(&["10.65.0.1"]));
        attach(&lax, &ips(&["10.65.0.2"]));
    });
    for (from, forged, target, to, passed) in [
        (&a, "10.65.9.1", &b, "10.65.0.2", "0"),
        (&b, "10.65.9.2", &a, "10.65.0.1", "1"),
    ] {
        // An address that the host does not route to this container, and so cannot answer to either.
        from.ip(&format!("addr add {forged}/32 dev eth0"));
        from.command(&format!("ping -c 1 -W 0.1 -I {forged} {to}"));
        let (_, counters) = target.command("nstat -asz IcmpInEchos");
        let line = counters
            .lines()
            .find(|l| l.starts_with("IcmpInEchos"))
            .unwrap();
        assert_eq!(line.split_whitespace().nth(1), Some(passed), "{counters}");
    }
}

/// What a runtime does that moves the container's end in by itself: no neighbour entry is there to begin with, and
/// the host has no default route, which proxy ARP would need.
#[test]
fn a_pair_that_another_moves_in_is_reachable_by_gateways_that_answer() {
    let (host, c) = (NetNs::new(), NetNs::new());
    let pair = |number: u8| AttachSpec {
        netns: Default::default(),
        container_ifname: format!("tmp{number}"),
        host_ifname: format!("mgy{number}"),
        ..spec(&c, "")
    };
    host.run(|| {
        crate::sysctl::host_forwarding_on().unwrap();
        let mut routes = RouteTable::open(Config::default()).unwrap();
        for number in [0, 1] {
            let spec = pair(number);
            assert!(!is_here(&spec).unwrap());
            create_pair(&spec).unwrap();
            assert!(is_here(&spec).unwrap());
            serve_gateways(&spec.host_ifname, number, true).unwrap();
            serve_gateways(&spec.host_ifname, number, true).unwrap();
            for address in [format!("10.65.0.{number}"), format!("fd00:65::{number}")] {
                let address: IpAddr = address.parse().unwrap();
                routes.set(address.into(), Route::device(&spec.host_ifname));
            }
        }
        assert!(routes.apply().failed.is_empty());
    });
    for number in [0, 1] {
        host.ip(&format!(
            "link set tmp{number} netns {} name eth{number}",
            c.name()
        ));
        c.ip(&format!("addr add 10.65.0.{number}/32 dev eth{number}"));
        c.ip(&format!(
            "addr add fd00:65::{number}/128 dev eth{number} nodad"
        ));
        c.ip(&format!("link set eth{number} up"));
        let (v4, v6) = gateways(number);
        c.ip(&format!("route add {v4}/32 dev eth{number} scope link"));
        c.ip(&format!("-6 route add {v6}/128 dev eth{number}"));
        c.ip(&format!("route add 192.0.2.{number}/32 via {v4}"));
        c.ip(&format!(
            "-6 route add 2001:db8::{number}/128 via {v6} dev eth{number}"
        ));
        host.run(|| assert!(!is_here(&pair(number)).unwrap()));
    }
    for address in [
        "192.0.2.0/32",
        "192.0.2.1/32",
        "2001:db8::0/128",
        "2001:db8::1/128",
    ] {
        host.ip(&format!("addr add {address} dev lo"));
    }
    for to in ["192.0.2.0", "192.0.2.1", "2001:db8::0", "2001:db8::1"] {
        // The container's link-local address may still be tentative.
        let (passed, output) = c.command(&format!("ping -c 1 -w 5 {to}"));
        assert!(passed, "{to}: {output}");
    }
    // The host's own packets do not come from a gateway.
    host.ip("addr add 198.51.100.1/32 dev lo");
    let (_, output) = host.command("ip route get 10.65.0.1");
    assert!(
        output.contains("src 192.0.2.0") || output.contains("src 198.51.100.1"),
        "{output}"
    );
}

#[test]
fn two_interfaces_of_a_container_are_both_reached() {
    let (host, c) = (NetNs::new(), NetNs::new());
    host.ip("addr add 192.0.2.1/32 dev lo");
    host.ip("addr add 2001:db8::1/128 dev lo");
    host.run(|| {
        crate::sysctl::host_forwarding_on().unwrap();
        let second = AttachSpec {
            container_ifname: "eth1".into(),
            ..spec(&c, "mgyb")
        };
        let (one, two) = (
            ips(&["10.65.0.1", "fd00:65::1"]),
            ips(&["10.65.0.2", "fd00:65::2"]),
        );
        attach(&spec(&c, "mgya"), &one);
        attach(&second, &two);
        assert_eq!(
            check(&spec(&c, "mgya"), &one).unwrap(),
            Vec::<String>::new()
        );
        assert_eq!(check(&second, &two).unwrap(), Vec::<String>::new());
        for to in one.iter().chain(&two) {
            let source = if to.is_ipv4() {
                "192.0.2.1"
            } else {
                "2001:db8::1"
            };
            let (passed, output) = host.command(&format!("ping -c 1 -W 2 -I {source} {to}"));
            assert!(passed, "{to}: {output}");
        }
        remove("mgyb").unwrap();
        attach(&second, &two);
        assert_eq!(check(&second, &two).unwrap(), Vec::<String>::new());
    });
    assert_eq!(c.ip("route show default").lines().count(), 1);
}
