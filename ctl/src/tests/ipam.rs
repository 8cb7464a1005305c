//! Checking, repairing, releasing, configuring, splitting, and removing a host.

use super::*;

const R: &str = "/calico/resources/v3/projectcalico.org/";
const BLOCK: &str = "/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-30";
const AFFINITY: &str = "/calico/ipam/v2/host/n1/ipv4/block/10.65.0.0-30";

fn node(name: &str) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: Node, metadata: {{name: {name}}}, spec: {{}}}}"
    )
}

fn endpoint(lab: &Lab, name: &str, node: &str, ip: &str) {
    let value = format!(
        r#"{{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{name}","namespace":"default","annotations":{{"margay.io/handle":"net.{name}"}}}},"spec":{{"orchestrator":"cni","node":"{node}","containerID":"{name}","endpoint":"eth0","ipNetworks":["{ip}/32"],"interfaceName":"i"}}}}"#
    );
    lab.put(&format!("{R}workloadendpoints/default/{name}"), &value);
}

/// n1 with a block: an endpoint's address, and one that is leaked.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.apply(&POOL.replace("/16", "/24, blockSize: 30"));
    lab.apply(&node("n1"));
    lab.put(
        BLOCK,
        r#"{"cidr":"10.65.0.0/30","affinity":"host:n1","allocations":[0,1,null,null],"unallocated":[2,3],"attributes":[{"handle_id":"net.a","secondary":{"node":"n1","timestamp":"2026-11-21 05:02:40 +0000 UTC"}},{"handle_id":"net.b","secondary":{"node":"n1","timestamp":"2026-11-21 04:00:00 +0000 UTC"}}],"sequenceNumber":9,"sequenceNumberForAllocation":{"0":5,"1":6},"deleted":false}"#,
    );
    lab.put(AFFINITY, r#"{"state":"confirmed","deleted":false}"#);
    for id in ["net.a", "net.b"] {
        let count = r#"{"block":{"10.65.0.0/30":1},"deleted":false}"#;
        lab.put(&format!("/calico/ipam/v2/handle/{id}"), count);
    }
    endpoint(&lab, "a", "n1", "10.65.0.0");
    lab
}

const CLEAN: &str = "Checked 1 nodes, 1 pools, 1 blocks, 1 handles: 1 addresses in use (0 borrowed), \
                     1 resting.\n0 problems, 0 notes";

#[test]
fn check_tells_what_why_and_what_to_do_and_repair_does_it() {
    let lab = lab();
    let leak = "10.65.0.1 is held by net.b on node n1 since 2026-11-21T04:00:00Z, but no endpoint \
                names it";
    let problem = format!(
        "problem: {leak}; nobody can have it; repair would free 10.65.0.1, which then rests for 30 s\n"
    );
    let sums = "Checked 1 nodes, 1 pools, 1 blocks, 2 handles: 2 addresses in use (0 borrowed), 0 \
                resting.\n1 problems, 0 notes.\n";
    assert_eq!(
        lab.run("ipam check"),
        failed(&format!("{problem}{sums}"), "")
    );
    let tables = lab.run("ipam check --show-problem-ips --show-all-ips");
    assert_eq!(
        tables.out,
        format!(
            "{problem}
IP          PROBLEM   BLOCK          NODE   HANDLE   USED BY
10.65.0.1   leaked    10.65.0.0/30   n1     net.b


IP          STATE    BLOCK          NODE   HANDLE   SINCE                  USED BY
10.65.0.0   in use   10.65.0.0/30   n1     net.a    2026-11-21T05:02:40Z   WorkloadEndpoint/default/a
10.65.0.1   in use   10.65.0.0/30   n1     net.b    2026-11-21T04:00:00Z

{sums}"
        )
    );
    assert_eq!(
        lab.run("ipam check --repair"),
        ok(&format!(
            "repaired: {leak}; did free 10.65.0.1, which then rests for 30 s\n{CLEAN}, 1 repaired.\n"
        ))
    );
    assert_eq!(lab.at("/calico/ipam/v2/handle/net.b"), None);
    assert_eq!(lab.run("ipam check"), ok(&format!("{CLEAN}.\n")));
}

#[test]
fn what_was_assigned_a_moment_ago_is_a_note() {
    let lab = lab();
    lab.run("ipam release --ip 10.65.0.1");
    assert_eq!(lab.run("delete wep a").code, 0);
    let ran = lab.run("ipam check --repair --show-problem-ips");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.out
            .contains("note: 10.65.0.0 is held by net.a on node n1"),
        "{ran:?}"
    );
    let ran = lab.run("ipam check --repair --grace 5");
    assert!(
        ran.out.starts_with("repaired: 10.65.0.0 is held by"),
        "{ran:?}"
    );
}

#[test]
fn a_report_says_what_was_found_and_release_follows_it() {
    let lab = lab();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let report = path.display();
    assert_eq!(lab.run(&format!("ipam check -o {report}")).code, 1);
    let text = std::fs::read_to_string(&path).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["version"], 1);
    assert_eq!(value["summary"]["in_use"], 2);
    let finding = &value["findings"][0];
    let expected = [
        ("kind", "leaked"),
        ("severity", "problem"),
        ("ip", "10.65.0.1"),
        ("handle", "net.b"),
        ("outcome", "found"),
    ];
    for (field, expected) in expected {
        assert_eq!(finding[field], expected);
    }
    assert_eq!(finding["sequence"], 6);
    // Assigned anew since: another sequence number.
    let block = lab.at(BLOCK).unwrap();
    lab.put(BLOCK, &block.replace("\"1\":6", "\"1\":8"));
    assert_eq!(
        lab.run(&format!("ipam release --from-report {report}")),
        failed(
            "",
            "10.65.0.1: not released: it was assigned anew meanwhile\n"
        )
    );
    lab.put(BLOCK, &block);
    assert_eq!(
        lab.run(&format!("ipam release --from-report {report}")),
        ok("10.65.0.1: did free 10.65.0.1, which then rests for 30 s\n")
    );
    assert_eq!(lab.run("ipam release --from-report /dev/null").code, 2);
}

#[test]
fn release_spares_what_is_used_unless_forced() {
    let lab = lab();
    assert_eq!(
        lab.run("ipam release --ip 10.65.0.0 --ip 10.65.0.2"),
        failed(
            "10.65.0.2: is not in use\n",
            "10.65.0.0: not released: WorkloadEndpoint/default/a uses it; --force \
             frees it all the same, and others may get it\n"
        )
    );
    assert_eq!(lab.run("ipam release --ip 10.65.0.0 --force").code, 0);
    let used = lab.at(BLOCK).unwrap();
    let parked = used.replace(
        r#""node":"n1","timestamp":"2026-11-21 04:00:00 +0000 UTC""#,
        r#""identity":"db","leaseUntil":"2026-11-21T06:00:00Z""#,
    );
    lab.put(BLOCK, &parked);
    let refused = lab.run("ipam release --ip 10.65.0.1").err;
    assert!(
        refused.contains("not released: identity db keeps it until 2026-11-21T06:00:00Z; --force"),
        "{refused}"
    );
    lab.put(BLOCK, "{");
    let refused = lab.run("ipam release --ip 10.65.0.1 --force").err;
    assert_eq!(
        refused,
        "10.65.0.1: not released: its block cannot be read\n"
    );
    lab.put(BLOCK, &used);
    let check = lab.run("ipam check");
    assert!(
        check
            .out
            .contains("10.65.0.0 is used by WorkloadEndpoint/default/a, but on record it is"),
        "{check:?}"
    );
    assert_eq!(lab.run("ipam release").code, 2);
}

#[test]
fn configure_changes_what_is_named_in_both_places() {
    let lab = Lab::new();
    lab.put(
        "/calico/ipam/v2/config",
        r#"{"strict_affinity":true,"auto_allocate_blocks":true,"newer":1}"#,
    );
    assert_eq!(
        lab.run("ipam configure --max-blocks-per-host 4 --ip-cooldown-seconds 0"),
        ok("\
PROPERTY             VALUE
StrictAffinity       true
AutoAllocateBlocks   true
MaxBlocksPerHost     4
IPCooldownSeconds    0
")
    );
    assert_eq!(
        lab.run("ipam configure --strictaffinity=false --auto-allocate-blocks=false")
            .code,
        0
    );
    assert_eq!(
        lab.at("/calico/ipam/v2/config").unwrap(),
        r#"{"maxBlocksPerHost":4,"ipCooldownSeconds":0,"newer":1}"#
    );
    let resource = lab.stored("ipamconfigurations/default").unwrap();
    assert!(
        resource
            .contains(r#""strictAffinity":false,"maxBlocksPerHost":4,"autoAllocateBlocks":false"#),
        "{resource}"
    );
    assert_eq!(lab.run("ipam configure").code, 2);
    assert_eq!(lab.run("ipam configure --ip-cooldown-seconds 1201").code, 2);
}

#[test]
fn split_makes_equal_pools_and_cuts_no_block() {
    let lab = lab();
    assert_eq!(
        lab.run("ipam split 4 --cidr 10.65.0.0/24"),
        ok("\
IPPool/main: split into 4
IPPool/main-0: created, 10.65.0.0/26
IPPool/main-1: created, 10.65.0.64/26
IPPool/main-2: created, 10.65.0.128/26
IPPool/main-3: created, 10.65.0.192/26
")
    );
    assert_eq!(lab.stored("ippools/main"), None);
    assert!(
        lab.stored("ippools/main-3")
            .unwrap()
            .contains(r#""natOutgoing":true,"blockSize":30"#)
    );
    assert_eq!(
        lab.run("ipam split 32 --name main-0"),
        failed(
            "",
            "IPPool/main-0: not split: its parts would be /31, smaller than a block (/30)\n"
        )
    );
    let value = lab
        .at(BLOCK)
        .unwrap()
        .replace("10.65.0.0/30", "10.65.0.64/29");
    lab.put(
        "/calico/ipam/v2/assignment/ipv4/block/10.65.0.64-29",
        &value,
    );
    assert_eq!(
        lab.run("ipam split 16 --name main-1"),
        failed(
            "",
            "IPPool/main-1: not split: block 10.65.0.64/29 would be cut by parts of /30\n"
        )
    );
    assert_eq!(lab.run("ipam split 3 --name main-0").code, 2);
    assert_eq!(lab.run("ipam split 2 --name absent").code, 1);
    lab.apply(&POOL.replace("main", "main-0-1").replace("10.65", "10.66"));
    assert_eq!(
        lab.run("ipam split 2 --name main-0"),
        failed(
            "",
            "IPPool/main-0: not split: IPPool/main-0-1 exists already\n"
        )
    );
}

#[test]
fn a_host_is_removed_with_all_that_it_has() {
    let lab = lab();
    lab.apply(&node("n2"));
    endpoint(&lab, "z", "n2", "10.99.0.1");
    lab.put(
        "/calico/ipam/v2/host/n1/ipv4/block/10.65.0.8-30",
        r#"{"state":"pending","deleted":false}"#,
    );
    let unclaimed = lab
        .at(BLOCK)
        .unwrap()
        .replace("10.65.0.0/30", "10.65.0.4/30");
    let empty = unclaimed.replace("[0,1,null,null]", "[null,null,null,null]");
    let empty = empty.replace("[2,3]", "[0,1,2,3]");
    lab.put("/calico/ipam/v2/assignment/ipv4/block/10.65.0.4-30", &empty);
    assert_eq!(
        lab.run("node remove n1"),
        failed(
            "",
            "Node/n1: still has 1 endpoints, 2 addresses, 2 blocks; if the host is gone for good, \
             --yes releases them all\n"
        )
    );
    assert_eq!(
        lab.run("node remove n1 --yes"),
        ok("Node/n1: released 1 endpoints, 2 addresses, 2 blocks\nNode/n1: deleted\n")
    );
    let left = lab.below("/calico/ipam/");
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(lab.stored("workloadendpoints/default/a"), None);
    assert!(lab.stored("workloadendpoints/default/z").is_some());
    assert_eq!(
        lab.run("node remove n1"),
        ok(
            "Node/n1: released 0 endpoints, 0 addresses, 0 blocks\nNode/n1: did not exist any more\n"
        )
    );
}

#[test]
fn a_node_whose_agent_runs_is_only_removed_by_force() {
    let lab = lab();
    lab.put("/calico/margay/v1/agents/n1", "n1");
    lab.put("/calico/margay/v1/instances/n1", "x");
    let refused = lab.run("node remove n1 --yes");
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
    assert!(
        refused.err.starts_with("Node/n1: its agent runs"),
        "{refused:?}"
    );
    assert!(lab.stored("workloadendpoints/default/a").is_some());
    assert_eq!(lab.run("node remove n1 --yes --force").code, 0);
    assert_eq!(lab.stored("workloadendpoints/default/a"), None);
    // What its agent had under way cannot be committed any more.
    assert_eq!(lab.at("/calico/margay/v1/instances/n1"), None);
}

#[test]
fn deleting_a_node_alone_says_what_stays() {
    let lab = lab();
    assert_eq!(
        lab.run("delete node n1"),
        ok(
            "Node/n1: deleted\nNode/n1: its 1 blocks and their addresses stay; margayctl node \
            remove n1 gives them back\n"
        )
    );
    assert_eq!(lab.run("node remove n1 --yes").code, 0);
    assert_eq!(lab.below("/calico/ipam/"), Vec::<String>::new());
}

#[test]
fn affinities_are_shown_as_resources_and_kept_by_address_management() {
    let lab = lab();
    let v6 = "/calico/ipam/v2/host/n-2/ipv6/block/fd00:65::-122";
    lab.put(v6, r#"{"state":"pending","deleted":false}"#);
    assert_eq!(
        lab.run("get blockaffinities -o wide"),
        ok("\
NAME                CIDR            NODE   STATE
n-2-fd00-65---122   fd00:65::/122   n-2    pending
n1-10-65-0-0-30     10.65.0.0/30    n1     confirmed
")
    );
    let one = lab.run("get affinity n1-10-65-0-0-30 -o json");
    let one: serde_json::Value = serde_json::from_str(&one.out).unwrap();
    assert_eq!(one["kind"], "BlockAffinity");
    assert_eq!(one["spec"]["type"], "host");
    assert_eq!(lab.run("get affinity n1-nothing").code, 1);
    let kept = "address management keeps affinities; margayctl ipam release and node remove give blocks back";
    assert_eq!(
        lab.run("delete affinity n1-10-65-0-0-30"),
        failed(
            "",
            &format!("BlockAffinity/n1-10-65-0-0-30: may not be deleted: {kept}\n")
        )
    );
    let given = "{apiVersion: projectcalico.org/v3, kind: BlockAffinity, metadata: {name: x}, \
                 spec: {state: confirmed, node: n1, cidr: 10.65.0.0/30}}";
    assert_eq!(lab.run_with("validate -f -", given).code, 0);
    let refused = lab.run_with("apply -f -", given);
    assert_eq!(refused.code, 1);
    assert!(
        refused
            .err
            .contains("affinities are kept by address management"),
        "{refused:?}"
    );
    assert_eq!(
        lab.at(AFFINITY).unwrap(),
        r#"{"state":"confirmed","deleted":false}"#
    );
}
