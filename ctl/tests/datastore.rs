//! Export and import of the program itself: a whole cluster from a real etcd into an empty one, into an
//! embedded store, and back.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod standin;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use jiff::Timestamp;
use margay_datastore::{AnyStore, DatastoreConfig, connect};
use margay_ipam::check::look;
use margay_ipam::{Allocator, AssignRequest};
use margay_lab::Etcd;
use margay_model::keys::Keys;
use margay_model::kind::Kind;
use margay_model::store::{Store, Txn};
use standin::Standin;

fn margayctl(env: &[(&str, &str)], words: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_margayctl"))
        .args(words)
        .env_clear()
        .env("MARGAY_CONFIG", "/dev/null")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that fails early reads nothing.
    drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
    child.wait_with_output().unwrap()
}

fn done(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).unwrap()
}

/// Something of each kind, with text that is hard to keep.
const CLUSTER: &str = r#"
{apiVersion: projectcalico.org/v3, kind: ClusterInformation, metadata: {name: default}, spec: {clusterGUID: abc, datastoreReady: true}}
---
{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default}, spec: {asNumber: 64999}}
---
{apiVersion: projectcalico.org/v3, kind: BGPFilter, metadata: {name: f}, spec: {importV4: [{cidr: 10.0.0.0/8, matchOperator: In, action: Accept}]}}
---
{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 192.0.2.1, asNumber: 65000, filters: [f]}}
---
{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, spec: {logSeverityScreen: Debug}}
---
{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: sec}, spec: {order: 2.5}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: sec.deny, annotations: {why: "é \"quoted\"\nand lines"}}, spec: {tier: sec, selector: "all()", types: [Ingress]}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: nets, labels: {a: b}}, spec: {nets: [198.51.100.0/24]}}
---
{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: eth0}, spec: {node: n1, interfaceName: eth0}}
---
{apiVersion: projectcalico.org/v3, kind: IPAMConfiguration, metadata: {name: default}, spec: {strictAffinity: true, maxBlocksPerHost: 7}}
---
{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: main}, spec: {cidr: 10.65.0.0/16}}
---
{apiVersion: projectcalico.org/v3, kind: IPReservation, metadata: {name: gw}, spec: {reservedCIDRs: [10.65.0.1]}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: dns, namespace: prod}, spec: {egress: [{action: Allow, protocol: UDP, destination: {ports: [53]}}]}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkSet, metadata: {name: own, namespace: prod}, spec: {nets: [203.0.113.0/24]}}
---
{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n1}, spec: {bgp: {ipv4Address: 192.0.2.5/30}}}
---
{apiVersion: projectcalico.org/v3, kind: Profile, metadata: {name: net}, spec: {labelsToApply: {x: y}}}
---
{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {name: n1-cni-c1-eth0, namespace: prod}, spec: {orchestrator: cni, node: n1, containerID: c1, endpoint: eth0, ipNetworks: [10.65.0.9/32], interfaceName: mgyabc}}
"#;

fn store(etcd: &Etcd) -> AnyStore {
    let config = DatastoreConfig {
        endpoints: vec![etcd.url().to_owned()],
        ..DatastoreConfig::default()
    };
    connect(&config).unwrap()
}

/// Blocks, affinities, handles; a record of a newer release; what is no JSON; what does not last.
async fn fill_addresses(store: &AnyStore) {
    let view = look(store, &Keys::default()).await.unwrap().view();
    let mut allocator = Allocator::new(store.clone(), "/calico", "n1", view);
    allocator.load().await.unwrap();
    for i in 0..70 {
        let request = AssignRequest::new(format!("net.c{i}"), 1, 0, Timestamp::UNIX_EPOCH);
        allocator.assign(request).await.unwrap();
    }
    let txn = Txn::default()
        .put(
            "/calico/ipam/v2/handle/other",
            r#"{"block":{},  "newer": [1.50]}"#,
        )
        .put("/calico/strange", b"\x00\xff".as_slice())
        .put("/calico/margay/v1/alive/n1", "n1")
        .put("/calico/felix/v2/no-region/host/n1/status", "{}");
    store.txn(txn).await.unwrap();
}

/// Keys and values that an export holds.
fn lasting(etcd: &Etcd) -> Vec<(String, Vec<u8>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let listing = runtime.block_on(async { store(etcd).list("/calico/").await.unwrap() });
    let kvs = listing.kvs.into_iter().map(|kv| (kv.key, kv.value));
    kvs.filter(|(key, _)| !key.contains("/margay/") && !key.contains("/felix/"))
        .collect()
}

fn filled() -> Etcd {
    let etcd = Etcd::start().unwrap();
    done(margayctl(
        &[("ETCD_ENDPOINTS", etcd.url())],
        &["apply", "-f", "-"],
        CLUSTER,
    ));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { fill_addresses(&store(&etcd)).await });
    etcd
}

/// An export without the line that names its revision.
fn body(export: &str) -> &str {
    export.split_once('\n').unwrap().1
}

#[test]
fn a_whole_cluster_goes_from_etcd_to_etcd_and_through_an_embedded_store() {
    let (from, to) = (filled(), Etcd::start().unwrap());
    let (source, target) = (
        [("ETCD_ENDPOINTS", from.url())],
        [("ETCD_ENDPOINTS", to.url())],
    );
    let export = done(margayctl(&source, &["datastore", "export"], ""));
    for kind in Kind::ALL {
        // What nobody writes by hand is not in the sample.
        let sampled = CLUSTER.contains(&format!("kind: {kind},"));
        assert_eq!(
            export.contains(&format!("/{}/", kind.plural())),
            sampled,
            "{kind}"
        );
    }
    let imported = done(margayctl(
        &target,
        &["datastore", "import", "-f", "-"],
        &export,
    ));
    let all = lasting(&from);
    assert!(all.len() > 17 + 70, "{}", all.len());
    assert_eq!(imported, format!("{} keys imported\n", all.len()));
    assert_eq!(lasting(&to), all);
    let again = done(margayctl(
        &target,
        &["datastore", "import", "-f", "-"],
        &export,
    ));
    assert_eq!(again, format!("{} keys, all there already\n", all.len()));

    let agent = Standin::start();
    let socket = agent.socket();
    let embedded = [("MARGAY_SOCKET", socket.to_str().unwrap())];
    done(margayctl(
        &embedded,
        &["datastore", "import", "-f", "-"],
        &export,
    ));
    let file = agent.folder().join("x.export");
    let words = [
        "datastore",
        "migrate",
        "export",
        "-o",
        file.to_str().unwrap(),
    ];
    done(margayctl(&embedded, &words, ""));
    let back = std::fs::read_to_string(file).unwrap();
    assert_eq!(body(&back), body(&export));
    // Addresses are those they were: the check finds what it found before.
    let check = |env: &[(&str, &str)]| margayctl(env, &["ipam", "check"], "").stdout;
    assert_eq!(
        String::from_utf8_lossy(&check(&embedded)),
        String::from_utf8_lossy(&check(&source))
    );
}

#[test]
fn an_import_that_was_cut_off_goes_on_and_one_into_another_cluster_is_refused() {
    let (from, to) = (filled(), Etcd::start().unwrap());
    let (source, target) = (
        [("ETCD_ENDPOINTS", from.url())],
        [("ETCD_ENDPOINTS", to.url())],
    );
    let export = done(margayctl(&source, &["datastore", "export"], ""));
    // A part of the keys, and the lock, is what a cut leaves.
    done(margayctl(
        &target,
        &["datastore", "import", "-f", "-"],
        &export,
    ));
    let gone = ["del", "--prefix", "/calico/ipam/v2/handle/net.c1"];
    to.ctl(&gone).unwrap();
    let locked = done(margayctl(&target, &["datastore", "lock"], ""));
    assert_eq!(locked, "Datastore locked.\n");
    let imported = done(margayctl(
        &target,
        &["datastore", "import", "-f", "-"],
        &export,
    ));
    assert!(imported.starts_with("12 keys imported, "), "{imported}");
    assert_eq!(lasting(&to), lasting(&from));

    to.ctl(&[
        "put",
        "/calico/resources/v3/projectcalico.org/ippools/main",
        "{}",
    ])
    .unwrap();
    let before = lasting(&to);
    let refused = margayctl(&target, &["datastore", "import", "-f", "-"], &export);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr),
        "the datastore is not empty: 1 keys are not those of the file, such as \
         resources/v3/projectcalico.org/ippools/main; nothing was written\n"
    );
    assert_eq!(lasting(&to), before);
}
