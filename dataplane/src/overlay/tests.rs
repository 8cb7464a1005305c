//! Against the real kernel, in namespaces: made, broken by hand, mended, taken away.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::*;
use crate::lab::NetNs;
use crate::route_table::{Config, NextHop, Route, RouteTable};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn peers(all: &[(&str, u8, &str)]) -> BTreeMap<IpAddr, Peer> {
    let peer = |(vtep, mac, host): &(&str, u8, &str)| {
        let mac = [0x66, 0, 0, 0, 0, *mac];
        (
            ip(vtep),
            Peer {
                mac,
                host: ip(host),
            },
        )
    };
    all.iter().map(peer).collect()
}

fn v4() -> VxlanSpec {
    VxlanSpec {
        vni: 4096,
        port: 4789,
        local: ip("192.0.2.1"),
        mac: [0x66, 0, 0, 0, 0, 1],
        mtu: 1450,
        address: Some(ip("10.65.1.0")),
        peers: peers(&[
            ("10.65.2.0", 2, "192.0.2.2"),
            ("10.65.3.0", 3, "198.51.100.3"),
        ]),
    }
}

fn v6() -> VxlanSpec {
    VxlanSpec {
        local: ip("2001:db8::1"),
        mtu: 1430,
        address: Some(ip("fd00:65:1::")),
        peers: peers(&[("fd00:65:2::", 2, "2001:db8::2")]),
        ..v4()
    }
}

pub(super) fn both() -> Wanted {
    Wanted {
        vxlan_v4: Some(v4()),
        vxlan_v6: Some(v6()),
        ..Wanted::default()
    }
}

/// A host with an uplink.
pub(super) fn host() -> NetNs {
    let ns = NetNs::new();
    ns.ip("link add up0 type veth peer name far0");
    ns.ip("link set far0 up");
    ns.ip("link set up0 up");
    ns.ip("addr add 192.0.2.1/24 dev up0");
    ns.ip("addr add 2001:db8::1/64 dev up0 nodad");
    ns
}

/// Prepares and prunes, as one round.
pub(super) fn round(overlay: &mut Overlay) -> Report {
    let mut report = overlay.prepare();
    let pruned = overlay.prune();
    report.changed += pruned.changed;
    report.drift += pruned.drift;
    report.failures.extend(pruned.failures);
    report
}

pub(super) fn clean_round(overlay: &mut Overlay) -> Report {
    let report = round(overlay);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    report
}

/// All that there is of a device, without what differs from one to the next.
fn picture(ns: &NetNs, name: &str) -> String {
    let (is_there, link) = ns.command(&format!("ip -d -o link show dev {name}"));
    if !is_there {
        return String::new();
    }
    let link = link.split_once(": ").map(|(_, rest)| rest.to_owned());
    let (_, rp_filter) = ns.command(&format!("cat /proc/sys/net/ipv4/conf/{name}/rp_filter"));
    let addresses = ns.ip(&format!("-o addr show dev {name} scope global"));
    let addresses = addresses.lines().filter_map(|line| line.split_once("inet"));
    let addresses: Vec<_> = addresses.map(|(_, rest)| rest.trim().to_owned()).collect();
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        lines.retain(|line| !line.is_empty() && !line.contains("FAILED"));
        lines.sort();
        lines.join("\n")
    };
    let (_, fdb) = ns.command(&format!("bridge fdb show dev {name}"));
    let neighbours = ns.ip(&format!("neigh show dev {name} nud all"))
        + &ns.ip(&format!("-6 neigh show dev {name} nud all"));
    let neighbours: String = neighbours
        .lines()
        .filter(|line| !line.contains("NOARP"))
        .map(|line| format!("{line}\n"))
        .collect();
    format!(
        "{}\n{rp_filter}{addresses:?}\n{}\n{}",
        link.unwrap_or_default(),
        sorted(fdb),
        sorted(neighbours)
    )
}

#[test]
fn devices_have_what_is_wanted_and_learn_and_flood_nothing() {
    let ns = host();
    ns.run(|| {
        let mut overlay = Overlay::open().unwrap();
        overlay.set(both());
        assert!(clean_round(&mut overlay).changed > 0);
        let seen = picture(&ns, VXLAN_V4);
        for part in [
            "vxlan id 4096",
            "local 192.0.2.1",
            "dstport 4789",
            "nolearning",
            "mtu 1450",
            "66:00:00:00:00:01",
            "10.65.1.0/32",
            "66:00:00:00:00:02 dst 192.0.2.2 self permanent",
            "66:00:00:00:00:03 dst 198.51.100.3 self permanent",
            "10.65.2.0 lladdr 66:00:00:00:00:02 PERMANENT",
            "10.65.3.0 lladdr 66:00:00:00:00:03 PERMANENT",
        ] {
            assert!(seen.contains(part), "{part} is not in:\n{seen}");
        }
        assert!(!seen.contains("00:00:00:00:00:00 dst"), "floods:\n{seen}");
        let seen = picture(&ns, VXLAN_V6);
        for part in [
            "local 2001:db8::1",
            "fd00:65:1::/128",
            "66:00:00:00:00:02 dst 2001:db8::2 self permanent",
            "fd00:65:2:: lladdr 66:00:00:00:00:02 PERMANENT",
        ] {
            assert!(seen.contains(part), "{part} is not in:\n{seen}");
        }
        assert_eq!(clean_round(&mut overlay).changed, 0);
    });
}

#[test]
fn a_fresh_agent_adopts_what_it_finds_and_changes_nothing() {
    let ns = host();
    ns.run(|| {
        let mut first = Overlay::open().unwrap();
        first.set(both());
        clean_round(&mut first);
        drop(first);
        let (v4, v6) = (picture(&ns, VXLAN_V4), picture(&ns, VXLAN_V6));
        let mut second = Overlay::open().unwrap();
        second.set(both());
        second.allow_deletes();
        assert_eq!(clean_round(&mut second).changed, 0);
        assert_eq!((v4, v6), (picture(&ns, VXLAN_V4), picture(&ns, VXLAN_V6)));
    });
}

#[test]
fn whatever_somebody_breaks_is_mended_and_counted() {
    let ns = host();
    ns.run(|| {
        let mut overlay = Overlay::open().unwrap();
        overlay.set(both());
        overlay.allow_deletes();
        clean_round(&mut overlay);
        let whole = picture(&ns, VXLAN_V4);
        let breaks = [
            format!("ip link del {VXLAN_V4}"),
            format!("ip link set {VXLAN_V4} down"),
            format!("ip link set {VXLAN_V4} mtu 1300"),
            format!("ip link set {VXLAN_V4} address 66:00:00:00:00:77"),
            format!("ip link set {VXLAN_V4} type vxlan learning"),
            format!("ip addr del 10.65.1.0/32 dev {VXLAN_V4}"),
            format!("ip addr add 10.65.1.9/32 dev {VXLAN_V4}"),
            format!("sysctl -w net/ipv4/conf/{VXLAN_V4}/rp_filter=1"),
            format!("bridge fdb del 66:00:00:00:00:02 dev {VXLAN_V4} dst 192.0.2.2"),
            format!("bridge fdb replace 66:00:00:00:00:02 dev {VXLAN_V4} dst 192.0.2.99"),
            format!("bridge fdb add 66:00:00:00:00:88 dev {VXLAN_V4} dst 192.0.2.88"),
            format!("bridge fdb append 00:00:00:00:00:00 dev {VXLAN_V4} dst 192.0.2.88"),
            format!("ip neigh del 10.65.2.0 dev {VXLAN_V4}"),
            format!(
                "ip neigh replace 10.65.2.0 lladdr 66:00:00:00:00:99 dev {VXLAN_V4} nud permanent"
            ),
            format!(
                "ip neigh replace 10.65.2.0 lladdr 66:00:00:00:00:02 dev {VXLAN_V4} nud reachable"
            ),
            format!("ip neigh add 10.65.9.9 lladdr 66:00:00:00:00:99 dev {VXLAN_V4} nud permanent"),
        ];
        for broken in breaks {
            let (done, said) = ns.command(&broken);
            assert!(done, "{broken}: {said}");
            assert_ne!(picture(&ns, VXLAN_V4), whole, "{broken} breaks nothing");
            assert_eq!(
                clean_round(&mut overlay).changed,
                0,
                "nobody told of {broken}"
            );
            overlay.invalidate();
            let report = clean_round(&mut overlay);
            assert!(report.drift > 0, "{broken} was not noticed");
            assert_eq!(picture(&ns, VXLAN_V4), whole, "after {broken}");
        }
    });
}

#[test]
fn hosts_come_and_go_and_the_device_stays() {
    let ns = host();
    ns.run(|| {
        let mut overlay = Overlay::open().unwrap();
        overlay.allow_deletes();
        overlay.set(both());
        clean_round(&mut overlay);
        let index = |ns: &NetNs| {
            let link = ns.ip(&format!("-o link show dev {VXLAN_V4}"));
            link.split_once(": ").unwrap().0.to_owned()
        };
        let before = index(&ns);
        let mut wanted = both();
        let spec = wanted.vxlan_v4.as_mut().unwrap();
        spec.peers = (0..1000u32)
            .map(|n| {
                let [.., a, b] = n.to_be_bytes();
                let mac = [0x66, 1, 0, 0, a, b];
                let host = ip(&format!("198.18.{a}.{b}"));
                (ip(&format!("10.66.{a}.{b}")), Peer { mac, host })
            })
            .collect();
        overlay.set(wanted.clone());
        // Two entries for each new one, and those of the old ones.
        assert_eq!(clean_round(&mut overlay).changed, 2000 + 4);
        assert_eq!(clean_round(&mut overlay).changed, 0);
        wanted.vxlan_v4.as_mut().unwrap().peers.pop_first();
        wanted.vxlan_v4.as_mut().unwrap().mtu = 8950;
        wanted.vxlan_v4.as_mut().unwrap().address = Some(ip("10.65.1.5"));
        overlay.set(wanted);
        // Entry and neighbour, MTU, the new address and the old.
        assert_eq!(clean_round(&mut overlay).changed, 5);
        let seen = picture(&ns, VXLAN_V4);
        assert!(
            seen.contains("mtu 8950") && seen.contains("10.65.1.5/32"),
            "{seen}"
        );
        assert!(
            !seen.contains("10.66.0.0 ") && !seen.contains("10.65.1.0/32"),
            "{seen}"
        );
        assert_eq!(index(&ns), before);
    });
}

#[test]
fn what_cannot_be_changed_makes_the_device_anew() {
    let ns = host();
    ns.run(|| {
        let mut overlay = Overlay::open().unwrap();
        overlay.allow_deletes();
        overlay.set(both());
        clean_round(&mut overlay);
        let mut wanted = both();
        let spec = wanted.vxlan_v4.as_mut().unwrap();
        (spec.vni, spec.port) = (77, 8472);
        overlay.set(wanted);
        clean_round(&mut overlay);
        let seen = picture(&ns, VXLAN_V4);
        assert!(
            seen.contains("vxlan id 77") && seen.contains("dstport 8472"),
            "{seen}"
        );
        assert!(seen.contains("66:00:00:00:00:02 dst 192.0.2.2"), "{seen}");
    });
}

#[test]
fn a_device_that_nobody_wants_goes_once_everything_is_known() {
    let ns = host();
    ns.run(|| {
        let mut first = Overlay::open().unwrap();
        first.set(both());
        clean_round(&mut first);
        let mut second = Overlay::open().unwrap();
        second.set(Wanted {
            vxlan_v6: Some(v6()),
            ..Wanted::default()
        });
        clean_round(&mut second);
        assert!(picture(&ns, VXLAN_V4).contains("vxlan id"));
        second.allow_deletes();
        clean_round(&mut second);
        let links = ns.ip("-o link show");
        assert!(!links.contains(&format!(" {VXLAN_V4}:")), "{links}");
        assert!(links.contains(&format!(" {VXLAN_V6}:")), "{links}");
        let told = clean(&mut Socket::route().unwrap(), true).unwrap();
        assert_eq!(told, [format!("interface {VXLAN_V6}")]);
        assert!(
            ns.ip("-o link show").contains(VXLAN_V6),
            "a dry run removes nothing"
        );
        clean(&mut Socket::route().unwrap(), false).unwrap();
        assert!(!ns.ip("-o link show").contains(VXLAN_V6));
    });
}

#[test]
fn devices_of_others_are_left_alone_and_their_names_told() {
    let ns = host();
    ns.ip(&format!("link add {VXLAN_V4} type bridge"));
    ns.ip("link add vxlan.calico type vxlan id 4096 dstport 4789 nolearning local 2001:db8::1");
    ns.run(|| {
        let mut overlay = Overlay::open().unwrap();
        overlay.allow_deletes();
        overlay.set(both());
        for _ in 0..2 {
            let told: Vec<String> = round(&mut overlay)
                .failures
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(told.len(), 2, "{told:?}");
            assert!(told[0].contains("somebody else's"), "{told:?}");
            assert!(
                told[1].starts_with(&format!("cannot create {VXLAN_V6}")),
                "{told:?}"
            );
        }
        overlay.set(Wanted::default());
        clean_round(&mut overlay);
        let links = ns.ip("-o link show");
        assert!(
            links.contains(VXLAN_V4) && links.contains("vxlan.calico"),
            "{links}"
        );
        // Both names and numbers are free again.
        overlay.set(both());
        ns.ip(&format!("link del {VXLAN_V4}"));
        ns.ip("link del vxlan.calico");
        clean_round(&mut overlay);
    });
}

/// Two hosts, and an address behind each: packets of both families go through, and none that is not addressed to a
/// host that was entered.
#[test]
fn packets_go_through_and_unknown_destinations_nowhere() {
    let (a, b) = (NetNs::new(), NetNs::new());
    a.ip(&format!(
        "link add up0 type veth peer name up0 netns {}",
        b.name()
    ));
    for (ns, n) in [(&a, 1), (&b, 2)] {
        ns.ip("link set up0 up");
        ns.ip(&format!("addr add 192.0.2.{n}/24 dev up0"));
        ns.ip(&format!("addr add 2001:db8::{n}/64 dev up0 nodad"));
        ns.ip(&format!("addr add 10.65.{n}.9/32 dev lo"));
        ns.ip(&format!("addr add fd00:65:{n}::9/128 dev lo"));
        let far = 3 - n;
        ns.run(|| {
            let spec = |net: &str, host: &str, mtu| VxlanSpec {
                vni: 4096,
                port: 4789,
                local: ip(&format!("{host}{n}")),
                mac: [0x66, 0, 0, 0, 0, n],
                mtu,
                address: Some(ip(&net.replace('N', &n.to_string()))),
                peers: peers(&[(
                    &net.replace('N', &far.to_string()),
                    far,
                    &format!("{host}{far}"),
                )]),
            };
            let mut overlay = Overlay::open().unwrap();
            overlay.set(Wanted {
                vxlan_v4: Some(spec("10.65.N.0", "192.0.2.", 1450)),
                vxlan_v6: Some(spec("fd00:65:N::", "2001:db8::", 1430)),
                ..Wanted::default()
            });
            clean_round(&mut overlay);
            let mut table = RouteTable::open(Config::default()).unwrap();
            let hop = |ip: IpAddr, name| Route::via([NextHop::new(ip).on(name).onlink()]);
            let net = |text: String| text.parse::<ipnetwork::IpNetwork>().unwrap();
            let vtep = ip(&format!("fd00:65:{far}::"));
            table.set(
                net(format!("10.65.{far}.0/26")),
                hop(ip(&format!("10.65.{far}.0")), VXLAN_V4),
            );
            table.set(vtep.into(), Route::device(VXLAN_V6));
            table.set(net(format!("fd00:65:{far}::/122")), hop(vtep, VXLAN_V6));
            // Nobody entered who has this.
            table.set(
                net("10.99.0.0/26".to_owned()),
                hop(ip("10.99.0.1"), VXLAN_V4),
            );
            let report = table.apply();
            assert!(report.failed.is_empty(), "{:?}", report.failed);
        });
    }
    for target in ["10.65.2.9", "fd00:65:2::9"] {
        let (pong, said) = a.command(&format!("ping -n -c 2 -i 0.2 -W 5 {target}"));
        assert!(pong, "{said}");
    }
    let wrapped = |ns: &NetNs| {
        let text = ns.ip(&format!("-s -o link show dev {VXLAN_V4}"));
        let (_, received) = text.split_once("RX:").unwrap();
        let (_, numbers) = received.split_once("mcast").unwrap();
        let mut numbers = numbers.split_whitespace();
        let packets = numbers.nth(2).unwrap();
        packets.parse::<u64>().unwrap_or_else(|_| panic!("{text}"))
    };
    let before = wrapped(&b);
    assert!(before >= 2, "the packets went around the tunnel");
    let (pong, _) = a.command("ping -n -c 1 -W 1 10.99.0.9");
    assert!(!pong);
    assert_eq!(
        wrapped(&b),
        before,
        "what is addressed to nobody was flooded"
    );
}

/// Where the kernel has no driver, that is what is told, and nothing else fails.
#[test]
fn ipip_is_set_up_and_taken_away_or_said_to_be_missing() {
    let ns = host();
    ns.run(|| {
        let mut overlay = Overlay::open().unwrap();
        overlay.allow_deletes();
        overlay.set(Wanted {
            vxlan_v4: Some(v4()),
            ipip: Some(IpipSpec {
                mtu: 1480,
                address: Some([10, 65, 1, 0].into()),
            }),
            ..Wanted::default()
        });
        let report = round(&mut overlay);
        if let Some(error) = report.failures.first() {
            let told = error.to_string();
            assert!(told.starts_with("cannot create tunl0"), "{told}");
            assert!(picture(&ns, VXLAN_V4).contains("vxlan id"));
            eprintln!("NOT RUN: this kernel has no IP in IP ({told})");
            return;
        }
        let seen = picture(&ns, IPIP);
        assert!(
            seen.contains("mtu 1480") && seen.contains("10.65.1.0/32"),
            "{seen}"
        );
        ns.ip("addr add 203.0.113.1/32 dev tunl0");
        for broken in [
            "ip link set tunl0 down",
            "ip link set tunl0 mtu 1300",
            "ip addr del 10.65.1.0/32 dev tunl0",
        ] {
            ns.command(broken);
            overlay.invalidate();
            assert!(
                clean_round(&mut overlay).drift > 0,
                "{broken} was not noticed"
            );
            let seen = picture(&ns, IPIP);
            assert!(
                seen.contains("mtu 1480") && seen.contains("10.65.1.0/32"),
                "{seen}"
            );
        }
        overlay.set(Wanted::default());
        clean_round(&mut overlay);
        let seen = picture(&ns, IPIP);
        assert!(
            seen.contains("203.0.113.1/32"),
            "somebody's address is gone: {seen}"
        );
        assert!(!seen.contains("10.65.1.0/32"), "{seen}");
    });
}

#[test]
fn packets_go_through_ipip_where_the_kernel_has_it() {
    let (a, b) = (NetNs::new(), NetNs::new());
    a.ip(&format!(
        "link add up0 type veth peer name up0 netns {}",
        b.name()
    ));
    let mut missing = None;
    for (ns, n) in [(&a, 1), (&b, 2)] {
        ns.ip("link set up0 up");
        ns.ip(&format!("addr add 192.0.2.{n}/24 dev up0"));
        ns.ip(&format!("addr add 10.66.{n}.9/32 dev lo"));
        let far = 3 - n;
        missing = ns.run(|| {
            let mut overlay = Overlay::open().unwrap();
            overlay.set(Wanted {
                ipip: Some(IpipSpec {
                    mtu: 1480,
                    address: Some([10, 66, n, 0].into()),
                }),
                ..Wanted::default()
            });
            if let Some(error) = round(&mut overlay).failures.first() {
                return Some(error.to_string());
            }
            let mut table = RouteTable::open(Config::default()).unwrap();
            let host = NextHop::new(ip(&format!("192.0.2.{far}")));
            let block = format!("10.66.{far}.0/26").parse().unwrap();
            table.set(block, Route::via([host.on(IPIP).onlink()]));
            let report = table.apply();
            assert!(report.failed.is_empty(), "{:?}", report.failed);
            None
        });
    }
    if let Some(told) = missing {
        assert!(told.starts_with("cannot create tunl0"), "{told}");
        eprintln!("NOT RUN: this kernel has no IP in IP ({told})");
        return;
    }
    let (pong, said) = a.command("ping -n -c 2 -i 0.2 -W 5 10.66.2.9");
    assert!(pong, "{said}");
    let text = b.ip("-s -o link show dev tunl0");
    let (_, received) = text.split_once("mcast").unwrap();
    let packets = received.split_whitespace().nth(2).unwrap();
    assert_ne!(packets, "0", "the packets went around the tunnel: {text}");
}
