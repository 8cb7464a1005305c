use margay_api::status::{DataplaneStatus, DatastoreStatus, NodeStatus};

use super::*;
use crate::verbs::version::VERSION;

fn healthy() -> NodeStatus {
    NodeStatus {
        node: "h1".into(),
        version: VERSION.into(),
        ready: true,
        datastore: DatastoreStatus {
            driver: "etcdv3".into(),
            connected: true,
            ..DatastoreStatus::default()
        },
        ..NodeStatus::default()
    }
}

#[test]
fn a_healthy_agent_gives_nothing_to_do() {
    assert_eq!(agent::findings(&healthy()), []);
}

#[test]
fn what_is_behind_a_reason_is_told_instead_of_the_reason() {
    let mut status = healthy();
    status.ready = false;
    status.not_ready_reasons = vec!["1 kernel objects are failing".into()];
    status.dataplane = DataplaneStatus {
        failing: vec!["ip set x: busy".into()],
        ..DataplaneStatus::default()
    };
    let found = agent::findings(&status);
    assert_eq!(found.len(), 1);
    assert!(found[0].what.ends_with("ip set x: busy"), "{found:?}");
    status.dataplane.failing.clear();
    assert!(agent::findings(&status)[0].what.contains("not ready"));
}

#[test]
fn the_datastore_is_told_with_its_error_and_for_how_long() {
    let mut status = healthy();
    status.datastore = DatastoreStatus {
        driver: "etcdv3".into(),
        connected: false,
        since_secs: 65,
        detail: "connection refused".into(),
    };
    let found = agent::findings(&status);
    assert!(found[0].what.ends_with("(etcdv3) for 1m5s"), "{found:?}");
    assert!(found[0].why.starts_with("connection refused."));
}
