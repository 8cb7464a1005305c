//! Against a fake kernel for faults and ownership, against the real one for what the kernel makes of it.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use super::*;
use crate::lab::NetNs;

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn hop(gateway: &str) -> NextHop {
    NextHop::new(gateway.parse().unwrap())
}

mod fake {
    use super::*;

    /// Keeps routes as the kernel does and fails on request.
    #[derive(Debug, Default)]
    pub(super) struct Fake {
        pub(super) routes: BTreeMap<(IpNetwork, u32), KernelRoute>,
        pub(super) links: HashMap<String, u32>,
        /// Refuses changes of this prefix with this error number.
        pub(super) refuse: HashMap<IpNetwork, i32>,
        /// Answers the next sends with an overrun, after the changes were made.
        pub(super) overruns: usize,
        pub(super) sends: Vec<Vec<(Action, IpNetwork)>>,
        /// Done by somebody else just before the next dump.
        pub(super) before_dump: VecDeque<(IpNetwork, u32)>,
    }

    impl Fake {
        fn change(&mut self, change: &Change) -> Result<(), i32> {
            let route = &change.route;
            let key = (route.prefix, route.metric);
            if let Some(errno) = self.refuse.get(&route.prefix) {
                return Err(*errno);
            }
            match change.action {
                Action::Add if self.routes.contains_key(&key) => return Err(libc::EEXIST),
                Action::Add | Action::Replace => {
                    self.routes.insert(key, route.clone());
                }
                Action::Delete => {
                    let ours = self
                        .routes
                        .get(&key)
                        .is_some_and(|r| r.protocol == route.protocol);
                    if !ours {
                        return Err(libc::ESRCH);
                    }
                    self.routes.remove(&key);
                }
            }
            Ok(())
        }
    }

    impl RouteKernel for Fake {
        fn send(
            &mut self,
            _: u32,
            changes: &[Change],
        ) -> Result<Vec<(usize, RequestError)>, NetlinkError> {
            self.sends
                .push(changes.iter().map(|c| (c.action, c.route.prefix)).collect());
            let mut errors = Vec::new();
            for (place, change) in changes.iter().enumerate() {
                if let Err(errno) = self.change(change) {
                    errors.push((place, RequestError { errno, text: None }));
                }
            }
            if self.overruns > 0 {
                self.overruns -= 1;
                return Err(NetlinkError::Overrun);
            }
            Ok(errors)
        }

        fn has_more_than(&mut self, _: u32, _: u8, most: usize) -> Result<bool, NetlinkError> {
            Ok(self.routes.len() > most)
        }

        fn to_hosts(
            &mut self,
            _: u32,
            prefixes: &[IpNetwork],
        ) -> Result<Vec<Option<KernelRoute>>, NetlinkError> {
            let found = |prefix: &IpNetwork| {
                let mut routes = self.routes.values();
                routes.find(|route| route.prefix == *prefix).cloned()
            };
            Ok(prefixes.iter().map(found).collect())
        }

        fn dump(&mut self, _: u32, protocol: Option<u8>) -> Result<Vec<KernelRoute>, NetlinkError> {
            if let Some(key) = self.before_dump.pop_front() {
                self.routes.remove(&key);
            }
            let wanted = |r: &&KernelRoute| protocol.is_none_or(|p| r.protocol == p);
            Ok(self.routes.values().filter(wanted).cloned().collect())
        }

        fn link_index(&mut self, ifname: &str) -> Result<Option<u32>, NetlinkError> {
            if ifname == "broken" {
                let source = io::Error::from_raw_os_error(libc::EIO);
                return Err(NetlinkError::Socket {
                    action: "send",
                    source,
                });
            }
            Ok(self.links.get(ifname).copied())
        }
    }
}

fn table() -> RouteTable<fake::Fake> {
    let mut kernel = fake::Fake::default();
    kernel.links.insert("mgy0".into(), 7);
    RouteTable::new(kernel, Config::default())
}

fn foreign(prefix: &str, protocol: u8, metric: u32) -> ((IpNetwork, u32), KernelRoute) {
    let route = wanted::bare(
        net(prefix),
        protocol,
        &Route::blackhole().with_metric(metric),
    );
    ((route.prefix, metric), route)
}

#[test]
fn one_refused_route_stays_dirty_and_the_others_go_on() {
    let mut table = table();
    table.kernel.refuse.insert(net("10.0.0.2/32"), libc::EBUSY);
    for n in 1..=3 {
        table.set(net(&format!("10.0.0.{n}/32")), Route::device("mgy0"));
    }
    let start = Instant::now();
    let report = table.apply_at(start);
    assert_eq!((report.added, report.failed.len()), (2, 1));
    assert_eq!(
        report.failed[0].to_string(),
        "route 10.0.0.2/32: the kernel refused: Device or resource busy (os error 16)"
    );
    assert_eq!(report.retry_after, Some(FIRST_RETRY));
    assert!(table.is_installed(net("10.0.0.1/32")) && !table.is_installed(net("10.0.0.2/32")));

    // Not before it is due; then later and later; then it works.
    assert!(table.apply_at(start + FIRST_RETRY / 2).failed.is_empty());
    let report = table.apply_at(start + FIRST_RETRY);
    assert_eq!(
        (report.failed.len(), report.retry_after),
        (1, Some(FIRST_RETRY * 2))
    );
    table.kernel.refuse.clear();
    let report = table.apply_at(start + FIRST_RETRY * 3);
    assert_eq!((report.added, report.retry_after), (1, None));
    assert!(!table.is_dirty());
}

#[test]
fn an_overrun_leaves_the_outcome_open_and_the_retry_finds_it_done() {
    let mut table = table();
    table.kernel.overruns = 1;
    table.set(net("10.0.0.1/32"), Route::device("mgy0"));
    let start = Instant::now();
    let report = table.apply_at(start);
    assert!(
        matches!(report.failed[0].reason, FailureReason::Unknown(_)),
        "{report:?}"
    );
    let report = table.apply_at(start + FIRST_RETRY);
    assert!(
        report.failed.is_empty() && report.conflicts.is_empty(),
        "{report:?}"
    );
    assert!(table.is_installed(net("10.0.0.1/32")));
}

#[test]
fn a_route_waits_for_its_interface() {
    let mut table = table();
    table.set(net("10.0.0.1/32"), Route::device("late0"));
    let report = table.apply();
    assert_eq!(
        report.failed[0].to_string(),
        "route 10.0.0.1/32: interface late0 does not exist"
    );
    table.kernel.links.insert("late0".into(), 9);
    assert_eq!(table.apply().added, 0, "not due yet");
    table.on_link_event("late0");
    assert_eq!(table.apply().added, 1);
    table.set(net("10.0.0.2/32"), Route::device("broken"));
    assert!(matches!(
        table.apply().failed[0].reason,
        FailureReason::Unknown(_)
    ));
}

#[test]
fn another_protocols_route_is_a_conflict_and_never_overwritten() {
    let mut table = table();
    let (key, route) = foreign("10.0.0.1/32", 12, METRIC_MARGAY);
    table.kernel.routes.insert(key, route.clone());
    table.set(net("10.0.0.1/32"), Route::device("mgy0"));
    let start = Instant::now();
    let report = table.apply_at(start);
    assert_eq!(
        report.conflicts[0].to_string(),
        "route 10.0.0.1/32: the kernel has a route of protocol 12 with the same metric 77"
    );
    assert_eq!(table.kernel.routes[&key], route);
    table.allow_deletes();
    table.remove(net("10.0.0.1/32"));
    table.apply();
    table.resync().unwrap();
    assert_eq!(table.kernel.routes[&key], route);

    // Once the other is gone, the retry takes the place.
    table.set(net("10.0.0.1/32"), Route::device("mgy0"));
    assert_eq!(table.apply_at(start).conflicts.len(), 1);
    table.kernel.before_dump.push_back(key);
    assert_eq!(table.apply_at(start + FIRST_RETRY).added, 1);
    assert_eq!(table.kernel.routes[&key].protocol, PROTO_MARGAY);
}

#[test]
fn a_fresh_table_adopts_ours_and_deletes_only_when_allowed() {
    let mut table = table();
    for prefix in ["10.0.0.1/32", "10.0.0.2/32"] {
        let (key, route) = foreign(prefix, PROTO_MARGAY, METRIC_MARGAY);
        table.kernel.routes.insert(key, route);
    }
    table.set(net("10.0.0.1/32"), Route::blackhole());
    let report = table.resync().unwrap();
    assert_eq!(
        (
            report.adopted,
            report.unwanted,
            report.missing,
            report.different
        ),
        (1, 1, 0, 0)
    );
    assert!(table.kernel.sends.is_empty(), "{:?}", table.kernel.sends);
    assert_eq!(table.kernel.routes.len(), 2);
    table.allow_deletes();
    assert_eq!(table.apply().deleted, 1);
    assert!(
        table
            .kernel
            .routes
            .contains_key(&(net("10.0.0.1/32"), METRIC_MARGAY))
    );
    assert_eq!(table.kernel.routes.len(), 1);
}

#[test]
fn a_left_over_route_that_is_wanted_late_is_sent_only_if_it_differs() {
    let mut table = table();
    for prefix in ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32"] {
        let (key, route) = foreign(prefix, PROTO_MARGAY, METRIC_MARGAY);
        table.kernel.routes.insert(key, route);
    }
    table.resync().unwrap();
    table.set(net("10.0.0.1/32"), Route::blackhole());
    table.set(net("10.0.0.2/32"), Route::device("mgy0"));
    table.allow_deletes();
    let report = table.apply();
    assert_eq!((report.added, report.replaced, report.deleted), (0, 1, 1));
    let replaced = (Action::Replace, net("10.0.0.2/32"));
    let deleted = (Action::Delete, net("10.0.0.3/32"));
    assert_eq!(table.kernel.sends, [vec![replaced], vec![deleted]]);
    assert!(table.is_installed(net("10.0.0.1/32")) && !table.is_dirty());
    // What was seen once is not believed for ever.
    table.set(net("10.0.0.1/32"), Route::device("mgy0"));
    table.apply();
    table.set(net("10.0.0.1/32"), Route::blackhole());
    assert_eq!(table.apply().replaced, 1);
}

#[test]
fn what_is_removed_by_name_goes_even_before_all_is_known() {
    let mut table = table();
    table.set(net("10.0.0.1/32"), Route::device("mgy0"));
    table.apply();
    table.remove(net("10.0.0.1/32"));
    assert_eq!(table.apply().deleted, 1);
    // A second removal, and one that somebody else did already, are no errors.
    table.remove(net("10.0.0.1/32"));
    table.set(net("10.0.0.2/32"), Route::device("mgy0"));
    table.apply();
    table.kernel.routes.clear();
    table.remove(net("10.0.0.2/32"));
    let report = table.apply();
    assert_eq!((report.deleted, report.failed.len()), (0, 0));
    assert!(!table.is_dirty());
}

#[test]
fn a_new_metric_is_added_before_the_old_one_goes() {
    let mut table = table();
    let prefix = net("10.0.0.0/24");
    table.set(prefix, Route::blackhole());
    table.apply();
    table.kernel.sends.clear();
    table.set(prefix, Route::blackhole().with_metric(90));
    table.apply();
    assert_eq!(
        table.kernel.sends,
        [[(Action::Add, prefix)], [(Action::Delete, prefix)]]
    );
    // If the new one cannot be added, the old one stays.
    table.kernel.refuse.insert(prefix, libc::ENOMEM);
    table.set(prefix, Route::blackhole().with_metric(91));
    assert_eq!(table.apply().failed.len(), 1);
    assert!(table.kernel.routes.contains_key(&(prefix, 90)));
}

#[test]
fn apply_now_sends_only_what_it_is_told() {
    let mut table = table();
    for n in 0..200 {
        table.set(net(&format!("10.0.1.{n}/32")), Route::device("mgy0"));
    }
    let urgent = net("10.0.0.1/32");
    table.set(urgent, Route::device("mgy0"));
    assert_eq!(table.apply_now(&[urgent]).added, 1);
    assert_eq!(table.kernel.sends, [[(Action::Add, urgent)]]);
    assert_eq!(table.apply().added, 200);
}

#[test]
fn setting_the_same_again_does_nothing_and_host_bits_do_not_count() {
    let mut table = table();
    table.set(net("10.0.0.1/24"), Route::device("mgy0"));
    table.apply();
    table.set(net("10.0.0.9/24"), Route::device("mgy0"));
    assert!(!table.is_dirty());
    assert_eq!(table.len(), 1);
}

#[test]
fn batches_are_of_256() {
    let mut table = table();
    for n in 0..600u16 {
        table.set(
            net(&format!("10.0.{}.{}/32", n / 256, n % 256)),
            Route::device("mgy0"),
        );
    }
    assert_eq!(table.apply().added, 600);
    assert_eq!(
        table.kernel.sends.iter().map(Vec::len).collect::<Vec<_>>(),
        [256, 256, 88]
    );
}

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
