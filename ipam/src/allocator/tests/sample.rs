//! What lies in the store is what the established system writes, byte for byte.

use super::*;

fn numbers(from: u32, to: u32) -> String {
    let numbers: Vec<_> = (from..=to).map(|n| n.to_string()).collect();
    numbers.join(",")
}

#[test]
fn after_add_and_after_del_the_store_holds_the_established_bytes() {
    let store = MemStore::default();
    let mut allocator = allocator(&store, "n1", view([pool("default", "10.65.40.128/26", 26)]));
    let now: Timestamp = "2026-11-21T05:02:52.314675961Z".parse().unwrap();
    let outcome = block_on(allocator.assign(AssignRequest::new("net1.cid1", 1, 0, now))).unwrap();
    assert_eq!(outcome.addresses[0].ip, ip("10.65.40.128"));

    let block = "/calico/ipam/v2/assignment/ipv4/block/10.65.40.128-26";
    let affinity = "/calico/ipam/v2/host/n1/ipv4/block/10.65.40.128-26";
    let handle = "/calico/ipam/v2/handle/net1.cid1";
    assert_eq!(store.keys(), [block, handle, affinity]);
    let nulls = vec!["null"; 63].join(",");
    let after_add = r#"{"cidr":"10.65.40.128/26","affinity":"host:n1","affinity_claim_time":"2026-11-21T05:02:52Z","allocations":[0,NULLS],"unallocated":[FREE],"attributes":[{"handle_id":"net1.cid1","secondary":{"node":"n1","timestamp":"2026-11-21 05:02:52.314675961 +0000 UTC"}}],"sequenceNumber":1795237372314675962,"sequenceNumberForAllocation":{"0":1795237372314675961},"deleted":false}"#
        .replace("NULLS", &nulls)
        .replace("FREE", &numbers(1, 63));
    assert_eq!(store.value(block).unwrap(), after_add);
    assert_eq!(
        store.value(handle).unwrap(),
        r#"{"block":{"10.65.40.128/26":1},"deleted":false}"#
    );
    assert_eq!(
        store.value(affinity).unwrap(),
        r#"{"state":"confirmed","deleted":false}"#
    );

    block_on(allocator.release_by_handle(release("net1.cid1", 0))).unwrap();
    assert_eq!(store.keys(), [block, affinity]);
    let after_del = r#"{"cidr":"10.65.40.128/26","affinity":"host:n1","affinity_claim_time":"2026-11-21T05:02:52Z","allocations":[null,NULLS],"unallocated":[FREE,0],"attributes":[],"sequenceNumber":1795237372314675963,"sequenceNumberForAllocation":{},"deleted":false}"#
        .replace("NULLS", &nulls)
        .replace("FREE", &numbers(1, 63));
    assert_eq!(store.value(block).unwrap(), after_del);
    assert_eq!(
        store.value(affinity).unwrap(),
        r#"{"state":"confirmed","deleted":false}"#
    );
}
