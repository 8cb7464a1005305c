//! Checks and repairs, while allocators work on the same records in an order that a seed chooses.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use margay_model::keys::Keys;
use margay_model::store::Txn;

use super::mem_store::{Rng, yield_once};
use super::*;
use crate::check::{Fault, Finding, Mended, Severity, When, confirmed, judge, look, mend};

const AGENTS: u64 = 4;
const SEEDS: u64 = if cfg!(debug_assertions) { 150 } else { 20_000 };
/// The worst case: every address is judged at once.
const WHEN_GRACE_SECS: u32 = 0;

fn when() -> When {
    When {
        now: at(100),
        grace_secs: WHEN_GRACE_SECS,
    }
}

const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";

fn endpoint_key(handle: &str) -> String {
    format!("{RESOURCES}workloadendpoints/default/{handle}")
}

fn endpoint(node: &str, handle: &str, addresses: &[Address]) -> String {
    let ips: Vec<_> = addresses
        .iter()
        .map(|a| format!("\"{}/32\"", a.ip))
        .collect();
    format!(
        r#"{{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{handle}","namespace":"default","annotations":{{"margay.io/handle":"{handle}"}}}},"spec":{{"orchestrator":"cni","node":"{node}","containerID":"c","endpoint":"eth0","ipNetworks":[{}],"interfaceName":"i"}}}}"#,
        ips.join(",")
    )
}

struct Agent {
    id: u64,
    seed: u64,
    /// Leaves addresses without an endpoint for a while, as an ADD that is cut off and repeated.
    half: bool,
    allocator: Allocator<MemStore>,
}

impl Agent {
    fn node(&self) -> String {
        format!("n{}", self.id)
    }

    async fn live(mut self) {
        let mut rng = Rng::new(self.seed);
        for step in 0..4 {
            let handle = format!("net.{}-{step}", self.id);
            if self.half && rng.below(2) == 0 {
                let request = AssignRequest::new(handle.as_str(), 1, 0, at(0));
                self.assign(request).await;
                for _ in 0..rng.below(60) {
                    yield_once().await;
                }
            }
            let (node, id) = (self.node(), handle.clone());
            let request = AssignRequest::new(handle.as_str(), 1, 0, at(0)).with_extra(
                move |addresses: &[Address]| {
                    let value = endpoint(&node, &id, addresses);
                    Txn::default()
                        .when(endpoint_key(&id), 0)
                        .put(endpoint_key(&id), value)
                },
            );
            if self.assign(request).await && rng.below(3) == 0 {
                let mut request = release(&handle, 0);
                request.extra.txn = Txn::default().delete(endpoint_key(&handle));
                self.allocator.release_by_handle(request).await.unwrap();
            }
        }
    }

    async fn assign(&mut self, request: AssignRequest) -> bool {
        match self.allocator.assign(request).await {
            Ok(_) => true,
            Err(IpamError::Exhausted { .. }) => false,
            Err(other) => panic!("{other}"),
        }
    }
}

/// What a checker found at two looks, and what it did.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Finding>>>);

async fn check(store: MemStore, log: Log, repairs: bool) {
    let keys = Keys::default();
    for _ in 0..3 {
        let first = judge(&look(&store, &keys).await.unwrap(), when());
        let mut snapshot = look(&store, &keys).await.unwrap();
        for finding in confirmed(&first, judge(&snapshot, when())) {
            if repairs {
                mend(&store, &mut snapshot, &finding, when()).await.unwrap();
            }
            log.0.lock().unwrap().push(finding);
        }
    }
}

fn set_up(store: &MemStore) {
    let pool = r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"main"},"spec":{"cidr":"10.0.0.0/27","blockSize":30}}"#;
    store.put(&format!("{RESOURCES}ippools/main"), pool);
    for id in 0..AGENTS {
        let node = format!(
            r#"{{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{{"name":"n{id}"}},"spec":{{}}}}"#
        );
        store.put(&format!("{RESOURCES}nodes/n{id}"), node);
    }
    store.put(
        "/calico/ipam/v2/config",
        r#"{"auto_allocate_blocks":true,"ipCooldownSeconds":0}"#,
    );
}

/// Records that nobody works on and that are wrong.
fn plant_left_overs(store: &MemStore) {
    store.put(
        "/calico/ipam/v2/handle/gone",
        r#"{"block":{"10.0.0.28/30":1}}"#,
    );
    store.put(
        "/calico/ipam/v2/host/n9/ipv4/block/10.0.0.24-30",
        r#"{"state":"confirmed"}"#,
    );
    let block = r#"{"cidr":"10.0.0.20/30","affinity":"host:n9","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"old","secondary":{"node":"n9"}}]}"#;
    store.put("/calico/ipam/v2/assignment/ipv4/block/10.0.0.20-30", block);
}

fn interleave(store: &MemStore, seed: u64, half: bool, repairs: bool) -> Vec<Finding> {
    set_up(store);
    let log = Log::default();
    let mut config = view([pool("main", "10.0.0.0/27", 30)]);
    config.config.max_blocks_per_host = 1 + (seed % 3) as u32;
    let mut tasks: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    tasks.push(Box::pin(check(store.clone(), log.clone(), repairs)));
    for id in 0..AGENTS {
        let agent = Agent {
            id,
            seed: seed * AGENTS + id,
            half,
            allocator: allocator(store, &format!("n{id}"), config.clone()),
        };
        tasks.push(Box::pin(agent.live()));
    }
    let mut rng = Rng::new(seed);
    let mut cx = Context::from_waker(Waker::noop());
    while !tasks.is_empty() {
        let next = rng.below(tasks.len() as u64) as usize;
        if tasks[next].as_mut().poll(&mut cx).is_ready() {
            drop(tasks.swap_remove(next));
        }
    }
    log.0.lock().unwrap().clone()
}

/// Every endpoint's address is held by the endpoint's own handle, and by no other endpoint.
fn damage(store: &MemStore) -> Result<(), String> {
    let snapshot = block_on(look(store, &Keys::default())).unwrap();
    let held: BTreeMap<IpAddr, String> = snapshot
        .addresses()
        .filter(|address| address.released_at.is_none())
        .map(|address| (address.ip, address.handle.unwrap_or_default()))
        .collect();
    for (ip, users) in snapshot.users_by_address() {
        match users {
            [user] if held.get(&ip) == user.handle.as_ref() => {}
            _ => return Err(format!("{ip}: {users:?}, held by {:?}", held.get(&ip))),
        }
    }
    Ok(())
}

fn problems(findings: &[Finding]) -> Vec<&Finding> {
    let problems = findings.iter();
    problems
        .filter(|f| f.fault.severity() == Severity::Problem)
        .collect()
}

#[test]
fn a_check_finds_no_fault_with_a_healthy_cluster_at_work() {
    for seed in 0..SEEDS {
        let store = MemStore::default();
        let found = interleave(&store, seed, false, false);
        assert_eq!(problems(&found), Vec::<&Finding>::new(), "seed {seed}");
    }
}

/// One interleaving with repairs. Says which invariant broke.
fn repair_at_work(seed: u64, planted: bool) -> Result<(), String> {
    let store = MemStore::default();
    plant_left_overs(&store);
    if planted {
        store.forget_handle_compares();
    }
    interleave(&store, seed, true, true);
    damage(&store)?;
    // In the quiet, everything can be mended.
    let keys = Keys::default();
    let mut snapshot = block_on(look(&store, &keys)).unwrap();
    for finding in judge(&snapshot, when()) {
        let mended = block_on(mend(&store, &mut snapshot, &finding, when())).unwrap();
        if finding.fault.severity() == Severity::Problem
            && !matches!(mended, Mended::Done(_) | Mended::Healed)
        {
            return Err(format!("{finding:?}: {mended:?}"));
        }
    }
    damage(&store)?;
    store.check().map(|_| ())?;
    let snapshot = block_on(look(&store, &keys)).unwrap();
    match judge(&snapshot, when()).as_slice() {
        [] => Ok(()),
        [.., last] if matches!(last.fault, Fault::EmptyOrphan { .. }) => Ok(()),
        [finding, ..] => Err(format!("left: {finding:?}")),
    }
}

#[test]
fn a_repair_among_allocators_mends_and_damages_nothing() {
    for seed in 0..SEEDS {
        if let Err(broken) = repair_at_work(seed, false) {
            panic!("seed {seed}: {broken}");
        }
    }
}

#[test]
fn the_interleavings_find_a_repair_that_does_not_compare_the_handle() {
    let caught = (0..300).filter(|seed| repair_at_work(*seed, true).is_err());
    let caught = caught.count();
    assert!(caught > 5, "only {caught} of 300 saw the damage");
}
