//! Against a kernel in memory for faults and ownership, against the real one for what that makes of it.

mod fake;
mod on_kernel;

use super::apply::FIRST_RETRY;
use super::*;

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn hop(gateway: &str) -> NextHop {
    NextHop::new(gateway.parse().unwrap())
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
