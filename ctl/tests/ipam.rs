//! `ipam check` of the program itself against a real etcd: every kind of fault made by hand, and a
//! cluster at work.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use margay_datastore::{AnyStore, DatastoreConfig, connect};
use margay_ipam::check::look;
use margay_ipam::{Address, Allocator, AssignRequest, IpamError, ReleaseRequest, View};
use margay_lab::Etcd;
use margay_model::keys::Keys;
use margay_model::store::{Store, Txn};

const R: &str = "/calico/resources/v3/projectcalico.org/";
const I: &str = "/calico/ipam/v2/";

fn margayctl(etcd: &Etcd, words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_margayctl"))
        .args(words.split_whitespace())
        .env_clear()
        .env("MARGAY_CONFIG", "/dev/null")
        .env("ETCD_ENDPOINTS", etcd.url())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn store(etcd: &Etcd) -> AnyStore {
    let config = DatastoreConfig {
        endpoints: vec![etcd.url().to_owned()],
        ..DatastoreConfig::default()
    };
    connect(&config).unwrap()
}

fn resource(plural: &str, kind: &str, name: &str, spec: &str) -> (String, String) {
    let value = format!(
        r#"{{"kind":"{kind}","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{name}"}},"spec":{{{spec}}}}}"#
    );
    (format!("{R}{plural}/{name}"), value)
}

fn endpoint(name: &str, node: &str, ip: &str) -> (String, String) {
    let value = format!(
        r#"{{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{name}","namespace":"default","annotations":{{"margay.io/handle":"net.{name}"}}}},"spec":{{"orchestrator":"cni","node":"{node}","containerID":"{name}","endpoint":"eth0","ipNetworks":["{ip}/32"],"interfaceName":"i"}}}}"#
    );
    (format!("{R}workloadendpoints/default/{name}"), value)
}

fn block(
    cidr: &str,
    owner: &str,
    allocations: &str,
    free: &str,
    attributes: &str,
) -> (String, String) {
    let value = format!(
        r#"{{"cidr":"{cidr}","affinity":{owner},"allocations":{allocations},"unallocated":{free},"attributes":[{attributes}]}}"#
    );
    let key = format!("{I}assignment/ipv4/block/{}", cidr.replace('/', "-"));
    (key, value)
}

fn record(path: &str, value: &str) -> (String, String) {
    (format!("{I}{path}"), value.to_owned())
}

/// One of each kind that can be repaired.
fn corrupted() -> Vec<(String, String)> {
    let confirmed = r#"{"state":"confirmed","deleted":false}"#;
    let none = ("[null,null,null,null]", "[0,1,2,3]");
    let held = |handle: &str, node: &str| {
        format!(r#"{{"handle_id":"{handle}","secondary":{{"node":"{node}"}}}}"#)
    };
    let leaked = held("net.leak", "n1");
    let used = format!("{},{}", held("net.a", "n1"), leaked);
    vec![
        resource(
            "ippools",
            "IPPool",
            "main",
            r#""cidr":"10.65.0.0/24","blockSize":30"#,
        ),
        resource("nodes", "Node", "n1", ""),
        endpoint("a", "n1", "10.65.0.0"),
        // leaked; a handle that is missing; an affinity that is missing
        block(
            "10.65.0.0/30",
            r#""host:n1""#,
            "[0,1,null,null]",
            "[2,3]",
            &used,
        ),
        record("handle/net.a", r#"{"block":{"10.65.0.0/30":1}}"#),
        // used, not recorded
        endpoint("b", "n1", "10.65.0.9"),
        // handles: too many, unused, damaged
        block(
            "10.65.0.16/30",
            r#""host:n1""#,
            "[0,1,null,null]",
            "[2,3]",
            &format!("{},{}", held("net.c", "n1"), held("net.d", "n1")),
        ),
        record("host/n1/ipv4/block/10.65.0.16-30", confirmed),
        endpoint("c", "n1", "10.65.0.16"),
        endpoint("d", "n1", "10.65.0.17"),
        record("handle/net.c", r#"{"block":{"10.65.0.16/30":3}}"#),
        record("handle/net.d", "{"),
        record("handle/net.e", r#"{"block":{"10.65.0.16/30":1}}"#),
        // affinities: without a block, of another, pending, damaged
        record("host/n1/ipv4/block/10.65.0.20-30", confirmed),
        record("host/n2/ipv4/block/10.65.0.16-30", confirmed),
        block("10.65.0.24/30", r#""host:n1""#, none.0, none.1, ""),
        record("host/n1/ipv4/block/10.65.0.24-30", r#"{"state":"pending"}"#),
        block("10.65.0.28/30", r#""host:n1""#, none.0, none.1, ""),
        record("host/n1/ipv4/block/10.65.0.28-30", "7"),
        // blocks: damaged, overlapping, of the wrong size, outside, of a node that is gone
        record(
            "assignment/ipv4/block/10.65.0.32-30",
            r#"{"cidr":"10.65.0.32/30"}"#,
        ),
        record("host/n1/ipv4/block/10.65.0.32-30", confirmed),
        endpoint("f", "n1", "10.65.0.33"),
        block("10.65.0.16/31", r#""host:n1""#, "[null,null]", "[0,1]", ""),
        block("10.66.0.0/30", r#""host:n1""#, none.0, none.1, ""),
        record("host/n1/ipv4/block/10.66.0.0-30", confirmed),
        block("10.65.0.40/30", r#""host:n9""#, none.0, none.1, ""),
        record("host/n9/ipv4/block/10.65.0.40-30", confirmed),
    ]
}

#[test]
fn every_kind_of_fault_is_found_and_repaired() {
    let etcd = Etcd::start().unwrap();
    for (key, value) in corrupted() {
        etcd.ctl(&["put", &key, "--", &value]).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("r.json");
    let found = margayctl(&etcd, &format!("ipam check -o {}", report.display()));
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let json = std::fs::read_to_string(report).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let findings = json["findings"].as_array().unwrap();
    for kind in [
        "leaked",
        "used_unrecorded",
        "handle_count",
        "handle_unused",
        "corrupt_handle",
        "corrupt_block",
        "corrupt_affinity",
        "affinity_without_block",
        "affinity_of_another",
        "affinity_unfinished",
        "affinity_missing",
        "overlapping_blocks",
        "wrong_size",
        "outside_pools",
        "node_gone",
    ] {
        assert!(
            findings.iter().any(|f| f["kind"] == kind),
            "{kind}: {}",
            text(&found.stdout)
        );
    }
    let repaired = margayctl(&etcd, "ipam check --repair");
    assert_eq!(repaired.status.code(), Some(0), "{repaired:?}");
    let again = margayctl(&etcd, "ipam check");
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert!(text(&again.stdout).contains("\n0 problems"), "{again:?}");
}

/// Takes and gives back addresses with endpoints until told to stop, and leaves every third.
async fn work(store: AnyStore, view: View, node: String, stop: Arc<AtomicBool>) -> usize {
    let mut allocator = Allocator::new(store, "/calico", &node, view);
    allocator.load().await.unwrap();
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = format!("{node}-{done}");
        let handle = format!("net.{id}");
        let (key, _) = endpoint(&id, &node, "0.0.0.0");
        let (name, of) = (id.clone(), node.clone());
        let request = AssignRequest::new(handle.as_str(), 1, 0, Timestamp::now());
        let request = request.with_extra(move |addresses: &[Address]| {
            let ip = addresses[0].ip.to_string();
            let (key, value) = endpoint(&name, &of, &ip);
            Txn::default().when(key.as_str(), 0).put(key, value)
        });
        match allocator.assign(request).await {
            Ok(_) => {}
            Err(IpamError::Exhausted { .. }) => return done,
            Err(error) => panic!("{error}"),
        }
        if done % 3 > 0 {
            let release = ReleaseRequest {
                handle_id: handle,
                now: Timestamp::now(),
                extra: Txn::default().delete(key).into(),
            };
            allocator.release_by_handle(release).await.unwrap();
        }
        done += 1;
    }
    done
}

#[test]
fn a_cluster_at_work_is_healthy_and_repair_does_not_disturb_it() {
    let etcd = Etcd::start().unwrap();
    let mut records = vec![resource(
        "ippools",
        "IPPool",
        "main",
        r#""cidr":"10.65.0.0/18""#,
    )];
    records.extend((0..4).map(|n| resource("nodes", "Node", &format!("n{n}"), "")));
    records.push(record(
        "config",
        r#"{"auto_allocate_blocks":true,"ipCooldownSeconds":1}"#,
    ));
    for (key, value) in records {
        etcd.ctl(&["put", &key, "--", &value]).unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = store(&etcd);
    let view = runtime
        .block_on(look(&store, &Keys::default()))
        .unwrap()
        .view();
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..4)
        .map(|n| {
            let stop = Arc::clone(&stop);
            runtime.spawn(work(store.clone(), view.clone(), format!("n{n}"), stop))
        })
        .collect();
    for words in [
        "ipam check --grace 0",
        "ipam check --repair --grace 0",
        "ipam check --grace 0",
    ] {
        let ran = margayctl(&etcd, words);
        assert_eq!(ran.status.code(), Some(0), "{words}: {ran:?}");
        assert!(
            text(&ran.stdout).contains("\n0 problems"),
            "{words}: {ran:?}"
        );
        assert!(!text(&ran.stdout).contains("problem: "), "{words}: {ran:?}");
    }
    stop.store(true, Ordering::Relaxed);
    let done: usize = workers
        .into_iter()
        .map(|worker| runtime.block_on(worker).unwrap())
        .sum();
    assert!(done > 20, "only {done} changes while checks ran");
    let after = margayctl(&etcd, "ipam check --grace 0 --show-all-ips");
    assert_eq!(after.status.code(), Some(0), "{after:?}");
    let endpoints = runtime
        .block_on(store.list(&format!("{R}workloadendpoints/")))
        .unwrap();
    let used = text(&after.stdout).matches("WorkloadEndpoint/").count();
    assert_eq!(used, endpoints.kvs.len());
}
