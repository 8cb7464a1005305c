//! What the real kernel makes of it.

use super::super::*;
use super::{hop, net};
use crate::lab::NetNs;

/// A namespace with three neighbours on `up0`, and `mgy0` towards a container.
fn lab() -> NetNs {
    let ns = NetNs::new();
    for (name, peer) in [("up0", "up1"), ("mgy0", "mgy1")] {
        ns.ip(&format!("link add {name} type veth peer name {peer}"));
        ns.ip(&format!("link set {peer} up"));
        ns.ip(&format!("link set {name} up"));
    }
    address(&ns);
    ns
}

fn address(ns: &NetNs) {
    ns.ip("addr replace 192.0.2.1/24 dev up0");
    ns.ip("addr replace 2001:db8::1/64 dev up0 nodad");
}

fn clean(report: &ApplyReport) {
    assert!(
        report.failed.is_empty() && report.conflicts.is_empty(),
        "{report:?}"
    );
}

/// Asserts that a resync finds nothing to do.
fn settled(table: &mut RouteTable) {
    let report = table.resync().unwrap();
    let found = (
        report.missing,
        report.different,
        report.unwanted,
        report.adopted,
    );
    assert_eq!(found, (0, 0, 0, 0), "{report:?}");
    let repair = &report.repair;
    assert_eq!(
        (repair.added, repair.replaced, repair.deleted),
        (0, 0, 0),
        "{report:?}"
    );
    clean(repair);
}

#[test]
fn every_kind_of_route_is_installed_and_read_back_the_same() {
    let ns = lab();
    ns.run(|| {
        let mut table = RouteTable::open(Config::default()).unwrap();
        let weighted = NextHop {
            weight: 3,
            ..hop("192.0.2.3")
        };
        let onlink = NextHop {
            onlink: true,
            ..hop("198.18.0.1").on("up0")
        };
        let with_src = Target::Device {
            ifname: "up0".into(),
            src: "192.0.2.1".parse().ok(),
        };
        for (prefix, route) in [
            ("10.65.0.1/32", Route::device("mgy0")),
            ("fd00:65::1/128", Route::device("mgy0")),
            ("10.65.0.0/26", Route::blackhole()),
            ("fd00:65::/122", Route::blackhole()),
            ("10.66.0.0/26", Route::via([hop("192.0.2.2")])),
            ("10.67.0.0/26", Route::via([hop("192.0.2.2"), weighted])),
            ("10.68.0.0/26", Route::via([onlink])),
            ("10.69.0.0/26", Route::via([hop("fe80::1").on("up0")])),
            (
                "10.70.0.0/26",
                Route::via([hop("fe80::1").on("up0"), hop("192.0.2.2")]),
            ),
            (
                "10.71.0.0/26",
                Route {
                    target: with_src,
                    metric: 500,
                    mtu: Some(1400),
                },
            ),
            ("fd00:66::/64", Route::via([hop("2001:db8::2")])),
            (
                "fd00:67::/64",
                Route::via([hop("2001:db8::2"), hop("2001:db8::3")]),
            ),
            ("fd00:68::/64", Route::via([hop("fe80::2").on("up0")])),
            ("0.0.0.0/0", Route::via([hop("192.0.2.2")])),
            ("::/0", Route::via([hop("2001:db8::2")])),
        ] {
            table.set(net(prefix), route);
        }
        let report = table.apply();
        clean(&report);
        assert_eq!(report.added, 15);
        settled(&mut table);
        let v4 = ns.ip("route show proto 77");
        assert!(
            v4.contains("10.69.0.0/26 via inet6 fe80::1 dev up0 metric 77"),
            "{v4}"
        );
        assert!(
            v4.contains("nexthop via 192.0.2.3 dev up0 weight 3"),
            "{v4}"
        );

        let all: Vec<_> = table.wanted().map(|(prefix, _)| *prefix).collect();
        for prefix in all {
            table.remove(prefix);
        }
        let report = table.apply();
        clean(&report);
        assert_eq!(report.deleted, 15);
        assert_eq!(
            ns.ip("route show proto 77") + &ns.ip("-6 route show proto 77"),
            ""
        );
    });
}

#[test]
fn targets_can_be_exchanged_in_any_order() {
    let ns = lab();
    let v4: Vec<_> = ["192.0.2.2", "192.0.2.3", "192.0.2.4"].map(hop).into();
    let v6: Vec<_> = ["2001:db8::2", "2001:db8::3", "2001:db8::4"]
        .map(hop)
        .into();
    ns.run(|| {
        for (prefix, hops) in [(net("10.66.0.0/26"), v4), (net("fd00:66::/64"), v6)] {
            let targets = [
                Route::via(&hops[..1]),
                Route::via(&hops[..]),
                Route::via(&hops[1..]),
                Route::device("mgy0"),
                Route::blackhole(),
            ];
            let mut table = RouteTable::open(Config::default()).unwrap();
            for from in &targets {
                for to in &targets {
                    for route in [from, to] {
                        table.set(prefix, route.clone());
                        clean(&table.apply());
                        settled(&mut table);
                        let ours = table.kernel.dump_ours();
                        assert_eq!(ours.len(), 1, "{from:?} to {to:?}: {ours:?}");
                    }
                }
            }
            table.remove(prefix);
            clean(&table.apply());
            assert!(table.kernel.dump_ours().is_empty());
        }
    });
}

impl Socket {
    fn dump_ours(&mut self) -> Vec<KernelRoute> {
        RouteKernel::dump(self, MAIN_TABLE, Some(PROTO_MARGAY)).unwrap()
    }
}

#[test]
fn drift_is_repaired_and_counted() {
    let ns = lab();
    ns.run(|| {
        let mut table = RouteTable::open(Config::default()).unwrap();
        table.allow_deletes();
        for n in 1..=3 {
            table.set(net(&format!("10.65.0.{n}/32")), Route::device("mgy0"));
            table.set(net(&format!("fd00:65::{n}/128")), Route::device("mgy0"));
        }
        clean(&table.apply());
        ns.ip("route del 10.65.0.1");
        ns.ip("-6 route del fd00:65::1");
        ns.ip("route replace 10.65.0.2 dev up0 scope link proto 77 metric 77");
        ns.ip("route add 10.65.0.9 dev mgy0 proto 77 metric 77");
        ns.ip("route add 10.65.0.3 dev mgy0 proto 77 metric 78");
        ns.ip("route add 10.99.0.0/16 dev mgy0 proto 12");
        let report = table.resync().unwrap();
        assert_eq!(
            (report.missing, report.different, report.unwanted),
            (2, 1, 2),
            "{report:?}"
        );
        clean(&report.repair);
        settled(&mut table);
        assert!(
            ns.ip("route show proto 12").contains("10.99.0.0/16"),
            "not ours"
        );
    });
}

#[test]
fn another_process_finds_the_routes_of_the_last_and_keeps_them() {
    let ns = lab();
    ns.run(|| {
        let mut last = RouteTable::open(Config::default()).unwrap();
        for n in 1..=4 {
            last.set(net(&format!("10.65.0.{n}/32")), Route::device("mgy0"));
        }
        clean(&last.apply());
        drop(last);
        // Even without a resync, a route that is ours already is no conflict.
        let mut next = RouteTable::open(Config::default()).unwrap();
        next.set(net("10.65.0.1/32"), Route::device("mgy0"));
        clean(&next.apply());
        next.set(net("10.65.0.2/32"), Route::device("mgy0"));
        let report = next.resync().unwrap();
        assert_eq!((report.adopted, report.unwanted), (1, 2), "{report:?}");
        assert_eq!(next.kernel.dump_ours().len(), 4);
        next.allow_deletes();
        assert_eq!(next.apply().deleted, 2);
        settled(&mut next);
    });
}

#[test]
fn routes_come_back_after_their_link_went_down_or_was_made_anew() {
    let ns = lab();
    ns.run(|| {
        let mut table = RouteTable::open(Config::default()).unwrap();
        table.set(net("10.65.0.1/32"), Route::device("mgy0"));
        table.set(net("fd00:65::1/128"), Route::device("mgy0"));
        table.set(
            net("10.66.0.0/26"),
            Route::via([hop("192.0.2.2").on("up0")]),
        );
        clean(&table.apply());
        ns.ip("link set mgy0 down");
        ns.ip("link set mgy0 up");
        ns.ip("link del up0");
        table.on_link_event("mgy0");
        table.on_link_event("up0");
        let report = table.apply();
        assert_eq!(report.failed.len(), 1, "{report:?}");
        assert_eq!(table.kernel.dump_ours().len(), 2);
        ns.ip("link add up0 type veth peer name up1");
        ns.ip("link set up1 up");
        ns.ip("link set up0 up");
        address(&ns);
        table.on_link_event("up0");
        clean(&table.apply());
        settled(&mut table);
        assert_eq!(table.kernel.dump_ours().len(), 3);
    });
}

#[test]
fn a_foreign_route_of_the_same_metric_stays_in_the_kernel_too() {
    let ns = lab();
    ns.ip("route add 10.65.0.1/32 dev up0 proto 12 metric 77");
    ns.ip("-6 route add fd00:65::1/128 dev up0 proto 12 metric 77");
    ns.ip("route add 10.65.0.2/32 dev up0 proto 12");
    ns.run(|| {
        let mut table = RouteTable::open(Config::default()).unwrap();
        for prefix in ["10.65.0.1/32", "fd00:65::1/128", "10.65.0.2/32"] {
            table.set(net(prefix), Route::device("mgy0"));
        }
        let report = table.apply();
        assert_eq!((report.added, report.conflicts.len()), (1, 2), "{report:?}");
        for prefix in ["10.65.0.1/32", "fd00:65::1/128", "10.65.0.2/32"] {
            table.remove(net(prefix));
        }
        clean(&table.apply());
    });
    let left = ns.ip("route show proto 12") + &ns.ip("-6 route show proto 12");
    assert_eq!(left.lines().count(), 3, "{left}");
}

#[test]
fn a_table_of_its_own_is_used_and_may_not_exist_yet() {
    let ns = lab();
    ns.run(|| {
        let config = Config {
            table: 1000,
            ..Config::default()
        };
        let mut table = RouteTable::open(config).unwrap();
        settled(&mut table);
        table.set(net("10.65.0.1/32"), Route::device("mgy0"));
        clean(&table.apply());
        settled(&mut table);
    });
    assert!(
        ns.ip("route show table 1000")
            .contains("10.65.0.1 dev mgy0 proto 77")
    );
    assert_eq!(ns.ip("route show proto 77"), "");
}

#[test]
fn whether_a_protocol_has_a_route_is_told_of_either_family_whatever_others_have() {
    let ns = lab();
    let has = |table| ns.run(|| has_route_of(table, PROTO_MARGAY).unwrap());
    ns.ip("route add 10.0.0.0/24 dev up0 proto 12");
    assert!(!has(MAIN_TABLE) && !has(1000));
    ns.ip("-6 route add fd00:65::1/128 dev up0 proto 77 table 1000");
    assert!(!has(MAIN_TABLE) && has(1000));
    ns.ip("route add 10.65.0.1/32 dev up0 proto 77");
    assert!(has(MAIN_TABLE));
}

#[test]
fn routes_to_single_addresses_are_adopted_mended_and_added_without_reading_the_others() {
    let ns = lab();
    ns.ip("route add 10.65.0.1/32 dev mgy0 proto 77 metric 77 scope link");
    ns.ip("-6 route add fd00:65::1/128 dev mgy0 proto 77 metric 77");
    ns.ip("route add 10.65.0.2/32 via 192.0.2.2 proto 77 metric 77");
    ns.ip("route add 10.65.0.4/32 dev up0 proto 12");
    ns.ip("route add 10.66.0.0/24 via 192.0.2.2 proto 77 metric 77");
    let first = ns.run(|| {
        let mut table = RouteTable::open(Config::default()).unwrap();
        assert!(table.is_longer_than(3).unwrap() && !table.is_longer_than(4).unwrap());
        for n in 1..=4 {
            table.set(net(&format!("10.65.0.{n}/32")), Route::device("mgy0"));
        }
        table.set(net("fd00:65::1/128"), Route::device("mgy0"));
        table.set(net("10.65.0.0/26"), Route::blackhole());
        let report = table.apply_hosts().unwrap();
        clean(&report);
        assert!(
            table.is_installed(net("10.65.0.1/32")) && table.is_installed(net("fd00:65::1/128"))
        );
        assert!(!table.is_installed(net("10.65.0.0/26")));
        let first = (report.added, report.replaced, report.deleted);
        // All else when the whole table is read.
        let report = table.resync().unwrap();
        clean(&report.repair);
        assert_eq!((report.different, report.missing), (0, 0), "{report:?}");
        assert!(table.is_installed(net("10.65.0.0/26")));
        table.allow_deletes();
        assert_eq!(table.apply().deleted, 1);
        settled(&mut table);
        first
    });
    // 10.65.0.3, and beside another's 10.65.0.4; 10.65.0.2 led elsewhere.
    assert_eq!(first, (2, 1, 0));
    assert!(ns.ip("route show proto 12").contains("10.65.0.4 dev up0"));
}
