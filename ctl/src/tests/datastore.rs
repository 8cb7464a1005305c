//! `datastore`: the lock, and files that are not whole.

use super::*;

const INFO: &str = "clusterinformations/default";

#[test]
fn the_lock_is_that_of_the_established_system() {
    let lab = Lab::new();
    assert_eq!(lab.run("datastore lock"), ok("Datastore locked.\n"));
    let stored = lab.stored(INFO).unwrap();
    assert!(
        stored.ends_with(
            r#""spec":{"clusterGUID":"6b6e5e6b98df4f9a9dc9a8cf7806cb8c","datastoreReady":false}}"#
        ),
        "{stored}"
    );
    assert_eq!(
        lab.run("datastore migrate lock"),
        ok("Datastore was locked already.\n")
    );
    assert_eq!(
        lab.run("datastore migrate unlock"),
        ok("Datastore unlocked.\n")
    );
    let unlocked = lab.stored(INFO).unwrap();
    assert_eq!(unlocked, stored.replace("false", "true"));
    assert_eq!(
        lab.run("datastore unlock"),
        ok("Datastore was unlocked already.\n")
    );
    lab.store.set_unreachable(true);
    assert_eq!(lab.run("datastore lock").code, 3);
}

#[test]
fn an_export_is_text_that_import_takes_whole_or_not_at_all() {
    let lab = Lab::new();
    lab.apply(POOL);
    let export = lab.run("datastore export").out;
    let lines: Vec<_> = export.lines().collect();
    assert_eq!(
        lines[0],
        r#"{"margayExport":1,"time":"2026-11-21T05:02:52Z","prefix":"/calico","revision":1,"keys":1}"#
    );
    assert!(
        lines[1].starts_with(
            r#"{"key":"resources/v3/projectcalico.org/ippools/main","value":{"kind":"IPPool","#
        ),
        "{}",
        lines[1]
    );
    assert_eq!(lines[2..], [r#"{"end":1}"#]);

    let other = Lab::new();
    let cut = export.replace("{\"end\":1}\n", "");
    assert_eq!(
        other.run_with("datastore import -f -", &cut),
        failed("", "-: is cut off: its last line is missing\n")
    );
    assert_eq!(
        other.run_with("datastore import -f -", "kind: IPPool\n"),
        failed(
            "",
            "-: found another text, allowed: what datastore export wrote\n"
        )
    );
    assert_eq!(other.below(""), Vec::<String>::new());
    assert_eq!(
        other.run_with("datastore import -f -", &export),
        ok("1 keys imported\n")
    );
    // The lock of the time between is gone: the file has none.
    assert_eq!(other.stored(INFO), None);
    assert_eq!(other.stored("ippools/main"), lab.stored("ippools/main"));
    // Prefixes may differ.
    assert_eq!(
        other.run("datastore export").out.lines().nth(1),
        Some(lines[1])
    );
}

#[test]
fn an_export_goes_to_a_file_of_its_owner() {
    use std::os::unix::fs::PermissionsExt;

    let lab = Lab::new();
    lab.apply(POOL);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.export");
    let ran = lab.run(&format!("datastore export -o {}", path.display()));
    assert_eq!(
        ran,
        ok(&format!("{}: 1 keys of revision 1\n", path.display()))
    );
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        lab.run("datastore export").out
    );
    assert_eq!(lab.run("datastore export -o /does/not/exist").code, 1);
}

/// As the established client writes it.
const ESTABLISHED: &str = r#"apiVersion: projectcalico.org/v3
items:
- apiVersion: projectcalico.org/v3
  kind: IPPool
  metadata:
    creationTimestamp: null
    name: main
  spec:
    blockSize: 26
    cidr: 10.65.0.0/16
    ipipMode: Never
    vxlanMode: Never
    nodeSelector: all()
kind: IPPoolList
metadata:
  resourceVersion: "7"
---
apiVersion: projectcalico.org/v3
items: []
kind: BGPPeerList
metadata: {}
---
===
{
  "kind": "ClusterInformation",
  "apiVersion": "projectcalico.org/v3",
  "metadata": {
    "name": "default",
    "creationTimestamp": null
  },
  "spec": {
    "clusterGUID": "abc",
    "datastoreReady": false
  }
}
===
{
  "block_affinities": [
    {
      "Key": "/calico/ipam/v2/host/n1/ipv4/block/10.65.0.0-26",
      "Value": {
        "state": "confirmed",
        "deleted": false
      },
      "TTL": 0
    }
  ],
  "handles": [
    {
      "Key": "/calico/ipam/v2/handle/h",
      "Value": {
        "block": {
          "10.65.0.0/26": 1
        }
      },
      "TTL": 0
    }
  ]
}
"#;

#[test]
fn an_export_of_the_established_client_is_taken() {
    let lab = Lab::new();
    assert_eq!(
        lab.run_with("datastore migrate import -f -", ESTABLISHED),
        ok("4 keys imported\n")
    );
    assert_eq!(
        lab.at("/calico/ipam/v2/handle/h").unwrap(),
        r#"{"block":{"10.65.0.0/26":1}}"#
    );
    assert_eq!(
        lab.at("/calico/ipam/v2/host/n1/ipv4/block/10.65.0.0-26")
            .unwrap(),
        r#"{"deleted":false,"state":"confirmed"}"#
    );
    assert_eq!(lab.run("get pools -o name"), ok("ippool/main\n"));
    // Locked, as it was exported: the established tools lock first.
    assert!(
        lab.stored(INFO)
            .unwrap()
            .contains("\"datastoreReady\":false")
    );
    assert_eq!(lab.run("datastore unlock"), ok("Datastore unlocked.\n"));

    let other = Lab::new();
    let broken = ESTABLISHED
        .replace("blockSize: 26", "blockSize: 99")
        .replace("/calico/ipam/v2/handle", "/x");
    let ran = other.run_with("datastore import -f -", &broken);
    assert_eq!(
        ran,
        failed(
            "",
            "-: document 1 item 1: IPPool/main: spec.blockSize (line 9): found 99, allowed: 20 to 32\n\
             -: /x/h: allowed: a key below /calico/\n"
        )
    );
    assert_eq!(other.below(""), Vec::<String>::new());
}
