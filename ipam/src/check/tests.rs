//! A small healthy cluster, each kind of fault planted in it, and a naive model.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use margay_model::keys::Keys;
use margay_model::store::{KeyValue, Op, Txn};
use proptest::prelude::*;

use super::*;

const R: &str = "/calico/resources/v3/projectcalico.org/";
const B: &str = "/calico/ipam/v2/assignment/ipv4/block/";

/// A store, as far as a check needs one.
#[derive(Clone, Default)]
struct World {
    kvs: BTreeMap<String, KeyValue>,
    revision: i64,
}

impl World {
    fn put(&mut self, key: &str, value: impl Into<Vec<u8>>) {
        self.revision += 1;
        let kv = KeyValue {
            key: key.to_owned(),
            value: value.into(),
            mod_revision: self.revision,
        };
        self.kvs.insert(key.to_owned(), kv);
    }

    fn below(&self, prefix: &str) -> Vec<KeyValue> {
        let found = self.kvs.values().filter(|kv| kv.key.starts_with(prefix));
        found.cloned().collect()
    }

    fn look(&self) -> Snapshot {
        let ipam = self.below("/calico/ipam/v2/");
        Snapshot::new(&Keys::default(), &ipam, &self.below(R))
    }

    fn commit(&mut self, txn: &Txn) {
        for compare in &txn.compares {
            let found = self.kvs.get(&compare.key).map_or(0, |kv| kv.mod_revision);
            assert_eq!(found, compare.mod_revision, "{}", compare.key);
        }
        let revision = self.revision + 1;
        for op in &txn.ops {
            match op {
                Op::Put { key, value } => self.put(key, value.clone()),
                Op::Delete { key } => drop(self.kvs.remove(key)),
            }
        }
        // All of a transaction has one revision.
        self.revision = revision;
        for op in &txn.ops {
            if let Some(kv) = self.kvs.get_mut(op.key()) {
                kv.mod_revision = revision;
            }
        }
    }

    /// Mends what can be mended; says what was done.
    fn mend(&mut self) -> Vec<String> {
        let mut snapshot = self.look();
        let mut deeds = Vec::new();
        for finding in judge(&snapshot, when()) {
            if let Repair::Commit { txn, deed } = repair(&snapshot, &finding.fault, when()) {
                self.commit(&txn);
                snapshot.apply(&txn, self.revision);
                deeds.push(deed);
            }
        }
        deeds
    }

    fn endpoint(&mut self, name: &str, node: &str, ip: &str) {
        let value = format!(
            r#"{{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{name}","namespace":"default","annotations":{{"margay.io/handle":"net.{name}"}}}},"spec":{{"orchestrator":"cni","node":"{node}","containerID":"{name}","endpoint":"eth0","ipNetworks":["{ip}/32"],"profiles":["net"],"interfaceName":"i"}}}}"#
        );
        self.put(&format!("{R}workloadendpoints/default/{name}"), value);
    }

    fn handle(&mut self, id: &str, counts: &str) {
        let key = format!("/calico/ipam/v2/handle/{id}");
        self.put(&key, format!(r#"{{"block":{{{counts}}},"deleted":false}}"#));
    }

    fn affinity(&mut self, node: &str, block: &str, state: &str) {
        let key = format!("/calico/ipam/v2/host/{node}/ipv4/block/{block}");
        self.put(&key, format!(r#"{{"state":"{state}","deleted":false}}"#));
    }

    /// A /30 with the holders of its addresses, `-` for none, `~` before one that rests.
    fn block(&mut self, network: &str, owner: &str, holders: [&str; 4]) {
        let (mut allocations, mut free, mut attributes) = (Vec::new(), Vec::new(), Vec::new());
        let mut sequences = Vec::new();
        for (ordinal, holder) in holders.into_iter().enumerate() {
            if holder == "-" {
                allocations.push("null".to_owned());
                free.push(ordinal.to_string());
                continue;
            }
            allocations.push(attributes.len().to_string());
            let (handle, node) = holder.split_once('@').unwrap_or((holder, "n1"));
            let rests = match handle.starts_with('~') {
                true => r#","releasedAt":"2026-11-21T11:59:50Z""#,
                false => "",
            };
            let handle = handle.trim_start_matches('~');
            attributes.push(format!(
                r#"{{"handle_id":"{handle}","secondary":{{"node":"{node}","timestamp":"2026-11-21 11:00:00 +0000 UTC"}}{rests}}}"#
            ));
            sequences.push(format!(r#""{ordinal}":{}"#, 7 + ordinal));
        }
        let owner = match owner {
            "" => "null".to_owned(),
            owner => format!(r#""host:{owner}""#),
        };
        let value = format!(
            r#"{{"cidr":"{network}/30","affinity":{owner},"allocations":[{}],"unallocated":[{}],"attributes":[{}],"sequenceNumber":20,"sequenceNumberForAllocation":{{{}}},"deleted":false}}"#,
            allocations.join(","),
            free.join(","),
            attributes.join(","),
            sequences.join(",")
        );
        self.put(&format!("{B}{network}-30"), value);
    }

    fn node(&mut self, name: &str, spec: &str) {
        let value = format!(
            r#"{{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{name}"}},"spec":{{{spec}}}}}"#
        );
        self.put(&format!("{R}nodes/{name}"), value);
    }

    fn pool(&mut self, name: &str, cidr: &str) {
        let value = format!(
            r#"{{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{name}"}},"spec":{{"cidr":"{cidr}","blockSize":30}}}}"#
        );
        self.put(&format!("{R}ippools/{name}"), value);
    }
}

fn when() -> When {
    When {
        now: "2026-11-21T12:00:00Z".parse().unwrap(),
        grace_secs: DEFAULT_GRACE_SECS,
    }
}

/// Two nodes; n1 has a block with an endpoint of its own, a tunnel address, one that n2 borrowed, and
/// one that rests.
fn healthy() -> World {
    let mut world = World::default();
    world.pool("main", "10.0.0.0/24");
    world.node(
        "n1",
        r#""ipv4VXLANTunnelAddr":"10.0.0.1","bgp":{"ipv4Address":"192.168.0.1/24"}"#,
    );
    world.node("n2", "");
    let tunnel = "vxlan-tunnel-addr-n1";
    world.block("10.0.0.0", "n1", ["net.a", tunnel, "net.b@n2", "~net.z"]);
    world.affinity("n1", "10.0.0.0-30", "confirmed");
    for id in ["net.a", tunnel, "net.b"] {
        world.handle(id, r#""10.0.0.0/30":1"#);
    }
    world.endpoint("a", "n1", "10.0.0.0");
    world.endpoint("b", "n2", "10.0.0.2");
    world
}

#[test]
fn nothing_is_wrong_with_a_healthy_cluster() {
    let world = healthy();
    assert_eq!(judge(&world.look(), when()), Vec::new());
    let summary = Summary {
        nodes: 2,
        pools: 1,
        blocks: 1,
        handles: 3,
        in_use: 3,
        resting: 1,
        borrowed: 1,
        named: 4,
    };
    assert_eq!(world.look().summary(), summary);
}

#[test]
fn a_parked_address_is_leaked_only_when_its_lease_is_over() {
    for (until, faults) in [("2026-11-21T12:30:00Z", 0), ("2026-11-21T10:00:00Z", 1)] {
        let mut world = healthy();
        let value = format!(
            r#"{{"cidr":"10.0.0.4/30","affinity":"host:n1","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{{"handle_id":"net.sticky-1","secondary":{{"identity":"web-0","leaseUntil":"{until}","timestamp":"2026-11-21 09:00:00 +0000 UTC"}}}}],"sequenceNumber":9,"sequenceNumberForAllocation":{{"0":7}},"deleted":false}}"#
        );
        world.put(&format!("{B}10.0.0.4-30"), value);
        world.affinity("n1", "10.0.0.4-30", "confirmed");
        world.handle("net.sticky-1", r#""10.0.0.4/30":1"#);
        let found = judge(&world.look(), when());
        assert_eq!(found.len(), faults, "{found:?}");
        assert!(
            found
                .iter()
                .all(|f| matches!(f.fault, Fault::Leaked { .. }))
        );
    }
}

type Plant = fn(&mut World);

/// A fault of each kind.
const CASES: [(&str, Plant); 29] = [
    ("an address without an endpoint", |w| {
        w.block("10.0.0.4", "n2", ["net.c", "-", "-", "-"]);
        w.affinity("n2", "10.0.0.4-30", "confirmed");
        w.handle("net.c", r#""10.0.0.4/30":1"#);
    }),
    ("an endpoint that is on its way", |w| {
        w.block("10.0.0.4", "n2", ["net.c", "-", "-", "-"]);
        w.affinity("n2", "10.0.0.4-30", "confirmed");
        w.handle("net.c", r#""10.0.0.4/30":1"#);
        let key = format!("{B}10.0.0.4-30");
        let value = String::from_utf8(w.kvs[&key].value.clone()).unwrap();
        w.put(&key, value.replace("11:00:00", "11:59:30"));
    }),
    ("two addresses, one of them used", |w| {
        w.block("10.0.0.4", "n2", ["net.c@n2", "net.c@n2", "-", "-"]);
        w.affinity("n2", "10.0.0.4-30", "confirmed");
        w.handle("net.c", r#""10.0.0.4/30":2"#);
        w.endpoint("c", "n2", "10.0.0.4");
    }),
    ("an endpoint without its address on record", |w| {
        w.endpoint("c", "n2", "10.0.0.9");
    }),
    ("an endpoint whose address rests", |w| {
        w.endpoint("z", "n1", "10.0.0.3")
    }),
    ("an endpoint with an address from elsewhere", |w| {
        w.endpoint("x", "n1", "172.16.0.1");
        w.mend();
    }),
    ("one address, two endpoints", |w| {
        w.endpoint("c", "n2", "10.0.0.0")
    }),
    ("an address held by another", |w| {
        w.kvs.remove(&format!("{R}workloadendpoints/default/a"));
        w.endpoint("c", "n2", "10.0.0.0");
    }),
    ("a tunnel address that its node does not have", |w| {
        w.node("n1", "")
    }),
    ("a tunnel address that is not on record", |w| {
        w.node("n2", r#""ipv4VXLANTunnelAddr":"10.0.0.8""#);
    }),
    ("a reserved address in use", |w| {
        w.put(
            &format!("{R}ipreservations/r"),
            r#"{"kind":"IPReservation","apiVersion":"projectcalico.org/v3","metadata":{"name":"r"},"spec":{"reservedCIDRs":["10.0.0.2/32"]}}"#,
        );
    }),
    ("a handle that counts too many", |w| {
        w.handle("net.a", r#""10.0.0.0/30":2,"10.0.0.8/30":1"#)
    }),
    ("a handle that is missing", |w| {
        drop(w.kvs.remove("/calico/ipam/v2/handle/net.a"))
    }),
    ("a handle without an address", |w| {
        w.handle("net.q", r#""10.0.0.0/30":1"#)
    }),
    ("a handle without a block", |w| w.handle("net.q", "")),
    ("a handle that cannot be read", |w| {
        w.put("/calico/ipam/v2/handle/net.a", "{")
    }),
    ("an affinity without a block", |w| {
        w.affinity("n2", "10.0.0.4-30", "pending")
    }),
    ("an affinity to a block of another", |w| {
        w.affinity("n2", "10.0.0.0-30", "confirmed")
    }),
    ("an affinity that is not confirmed", |w| {
        w.affinity("n1", "10.0.0.0-30", "pendingDeletion")
    }),
    ("an affinity that is missing", |w| {
        w.kvs
            .remove("/calico/ipam/v2/host/n1/ipv4/block/10.0.0.0-30");
    }),
    ("an affinity that cannot be read", |w| {
        w.put("/calico/ipam/v2/host/n1/ipv4/block/10.0.0.0-30", "[]");
    }),
    ("blocks outside of the pools", |w| {
        w.block("10.9.0.0", "n1", ["-", "-", "-", "~net.y"]);
        w.affinity("n1", "10.9.0.0-30", "confirmed");
        w.block("10.9.0.4", "n1", ["net.c", "-", "-", "-"]);
        w.affinity("n1", "10.9.0.4-30", "confirmed");
        w.handle("net.c", r#""10.9.0.4/30":1"#);
        w.endpoint("c", "n1", "10.9.0.4");
    }),
    ("a block of the wrong size, over another", |w| {
        let value = r#"{"cidr":"10.0.0.0/31","affinity":"host:n1","allocations":[null,null],"unallocated":[0,1],"attributes":[]}"#;
        w.put(&format!("{B}10.0.0.0-31"), value);
        w.affinity("n1", "10.0.0.0-31", "confirmed");
    }),
    ("a node that does not exist", |w| {
        w.block("10.0.0.4", "n3", ["-", "-", "-", "-"]);
        w.affinity("n3", "10.0.0.4-30", "confirmed");
        w.block("10.0.0.8", "n3", ["net.c", "-", "-", "-"]);
        w.affinity("n3", "10.0.0.8-30", "confirmed");
        w.handle("net.c", r#""10.0.0.8/30":1"#);
        w.endpoint("c", "n1", "10.0.0.8");
    }),
    ("an empty block of nobody", |w| {
        w.block("10.0.0.4", "", ["-", "-", "-", "-"])
    }),
    ("an address that rested long enough", |w| {
        let config = r#"{"auto_allocate_blocks":true,"ipCooldownSeconds":5}"#;
        w.put("/calico/ipam/v2/config", config);
    }),
    ("a block that cannot be read", |w| {
        w.put(&format!("{B}10.0.0.0-30"), r#"{"cidr":1}"#)
    }),
    ("an endpoint that cannot be read", |w| {
        w.put(&format!("{R}workloadendpoints/default/b"), "nonsense");
    }),
    ("other things that cannot be read", |w| {
        w.put("/calico/ipam/v2/config", "{");
        w.put("/calico/ipam/v2/what", "x");
        w.pool("other", "10.0.0.0/25");
    }),
];

#[test]
fn each_planted_fault_is_found_told_and_mended() {
    let mut told = String::new();
    for (name, plant) in CASES {
        let mut world = healthy();
        plant(&mut world);
        writeln!(told, "## {name}").unwrap();
        for finding in judge(&world.look(), when()) {
            writeln!(told, "{}: {}", finding.fault.kind(), finding.line()).unwrap();
        }
        for deed in world.mend() {
            writeln!(told, "did {deed}").unwrap();
        }
        // A block that is made anew leaves handles behind.
        for deed in world.mend() {
            writeln!(told, "then did {deed}").unwrap();
        }
        for finding in judge(&world.look(), when()) {
            let repair = repair(&world.look(), &finding.fault, when());
            assert!(matches!(repair, Repair::Refused(_)), "{name}: {finding:?}");
            writeln!(told, "left {}", finding.fault.kind()).unwrap();
        }
        writeln!(told).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/check/golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &told).unwrap();
    }
    assert_eq!(told, std::fs::read_to_string(path).unwrap());
}

#[test]
fn a_fault_of_one_snapshot_alone_is_not_confirmed() {
    let mut world = healthy();
    let before = judge(&world.look(), when());
    world.handle("net.q", "");
    world.kvs.remove(&format!("{R}workloadendpoints/default/a"));
    let first = judge(&world.look(), when());
    assert_eq!(confirmed(&before, first.clone()), Vec::new());
    // The same address, but assigned again since.
    let key = format!("{B}10.0.0.0-30");
    let value = String::from_utf8(world.kvs[&key].value.clone()).unwrap();
    world.put(&key, value.replace(r#""0":7"#, r#""0":21"#));
    let second = judge(&world.look(), when());
    let kinds = confirmed(&first, second);
    let kinds: Vec<_> = kinds.iter().map(|f| f.fault.kind()).collect();
    assert_eq!(kinds, ["handle_unused"]);
}

#[test]
fn release_by_hand_is_careful_unless_forced() {
    let world = healthy();
    let snapshot = world.look();
    let ip: IpAddr = "10.0.0.0".parse().unwrap();
    let free = |sequence, force| {
        release(
            &snapshot,
            Free {
                ip,
                sequence,
                force,
            },
            when(),
        )
    };
    let uses = Repair::Refused("WorkloadEndpoint/default/a uses it".to_owned());
    assert_eq!(free(None, false), uses);
    assert!(matches!(free(Some(8), true), Repair::Refused(_)));
    assert!(matches!(free(Some(7), true), Repair::Commit { .. }));
}

/// What a small random cluster should be found to suffer from, said as simply as can be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Naive {
    leaked: BTreeSet<IpAddr>,
    unrecorded: BTreeSet<IpAddr>,
    handles: BTreeSet<String>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn random_faults_are_those_of_a_naive_model_and_repair_spares_what_is_used(
        held in proptest::collection::vec(0usize..4, 8),
        used in proptest::collection::vec(0usize..4, 8),
        counted in proptest::collection::vec(0u32..3, 8),
    ) {
        let names = ["-", "net.p", "net.q", "net.r"];
        let networks = ["10.0.0.8", "10.0.0.12"];
        let mut world = healthy();
        let mut naive = Naive::default();
        for (network, held) in networks.iter().zip(held.chunks(4)) {
            let holders = [0, 1, 2, 3].map(|i| names[held[i]]);
            world.block(network, "n1", holders);
            world.affinity("n1", &format!("{network}-30"), "confirmed");
        }
        let ip = |i: usize| IpAddr::from([10, 0, 0, 8 + i as u8]);
        for i in 0..8 {
            if used[i] > 0 {
                // The endpoint of its holder, where there is one.
                let owner = if held[i] > 0 { held[i] } else { used[i] };
                let handle = names[owner];
                let name = format!("e{i}");
                world.endpoint(&name, "n1", &ip(i).to_string());
                let key = format!("{R}workloadendpoints/default/{name}");
                let value = String::from_utf8(world.kvs[&key].value.clone()).unwrap();
                world.put(&key, value.replace(&format!("net.{name}"), handle));
                if held[i] == 0 {
                    naive.unrecorded.insert(ip(i));
                }
            } else if held[i] > 0 {
                naive.leaked.insert(ip(i));
            }
        }
        for (h, name) in names.iter().enumerate().skip(1) {
            let mut texts = Vec::new();
            let mut right = true;
            for (b, network) in networks.iter().enumerate() {
                let truth = held[b * 4..b * 4 + 4].iter().filter(|x| **x == h).count() as u32;
                let count = counted[h * 2 + b - 2];
                right &= truth == count;
                if count > 0 {
                    texts.push(format!(r#""{network}/30":{count}"#));
                }
            }
            if !texts.is_empty() {
                world.handle(name, &texts.join(","));
            }
            if !right {
                naive.handles.insert((*name).to_owned());
            }
        }
        let mut found = Naive::default();
        for finding in judge(&world.look(), when()) {
            match finding.fault {
                Fault::Leaked { ip, .. } => { found.leaked.insert(ip); }
                Fault::UsedUnrecorded { ip, .. } => { found.unrecorded.insert(ip); }
                Fault::HandleCount { handle, .. } | Fault::HandleUnused { handle, .. } => {
                    found.handles.insert(handle);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert_eq!(found, naive);
        world.mend();
        let snapshot = world.look();
        let recorded: BTreeSet<IpAddr> = snapshot
            .addresses()
            .filter(|address| address.released_at.is_none())
            .map(|address| address.ip)
            .collect();
        for i in (0..8).filter(|i| used[*i] > 0) {
            prop_assert!(recorded.contains(&ip(i)), "{} was freed", ip(i));
        }
        for finding in judge(&snapshot, when()) {
            // What shares its handle with something used waits for it.
            prop_assert!(matches!(finding.fault, Fault::Leaked { .. }), "{:?}", finding);
        }
    }
}
