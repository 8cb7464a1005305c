//! Eight allocators over one store, polled in an order that a seed chooses.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use super::mem_store::Rng;
use super::*;

const ALLOCATORS: u64 = 8;
/// Interleavings a test: an optimised build goes through twenty thousand in the same time.
const SEEDS: u64 = if cfg!(debug_assertions) { 500 } else { 20_000 };

/// Who was told to hold what. Two holders of one address are the failure looked for.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    holders: BTreeMap<IpAddr, String>,
    doubled: Vec<String>,
}

impl Ledger {
    fn take(&self, ip: IpAddr, handle: &str) {
        let mut ledger = self.0.lock().unwrap();
        match ledger.holders.insert(ip, handle.to_owned()) {
            Some(other) if other != handle => {
                ledger
                    .doubled
                    .push(format!("{ip} given to {other} and {handle}"));
            }
            _ => {}
        }
    }

    fn give_back(&self, handle: &str) {
        let mut ledger = self.0.lock().unwrap();
        ledger.holders.retain(|_, holder| holder != handle);
    }

    fn verdict(&self, in_store: usize) -> Result<(), String> {
        let ledger = self.0.lock().unwrap();
        match (ledger.doubled.first(), ledger.holders.len()) {
            (Some(doubled), _) => Err(doubled.clone()),
            (None, held) if held != in_store => {
                Err(format!("{held} addresses held, {in_store} on record"))
            }
            _ => Ok(()),
        }
    }
}

/// An agent that takes and gives back, and at the end gives back all or holds on.
struct Agent {
    id: u64,
    seed: u64,
    keep: bool,
    ledger: Ledger,
    allocator: Allocator<MemStore>,
}

impl Agent {
    async fn live(mut self) {
        let mut rng = Rng::new(self.seed);
        let mut held: Vec<String> = Vec::new();
        // The answer got lost: perhaps made after all, or still to be made.
        let mut doubtful: Vec<String> = Vec::new();
        for step in 0..3 {
            if held.is_empty() || rng.below(3) > 0 {
                let (took, lost) = self.take(step, &mut rng).await;
                held.extend(took);
                doubtful.extend(lost);
                continue;
            }
            let handle = held.swap_remove(rng.below(held.len() as u64) as usize);
            self.ledger.give_back(&handle);
            if self
                .allocator
                .release_by_handle(release(&handle, 0))
                .await
                .is_err()
            {
                doubtful.push(handle);
            }
        }
        if self.keep {
            return;
        }
        // What is under way may still arrive, at any time.
        held.append(&mut doubtful);
        held.iter().for_each(|handle| self.ledger.give_back(handle));
        while !held.is_empty() {
            let requests = held
                .iter()
                .map(|handle| Request::Release(release(handle, 0)));
            let results = self.allocator.run(requests.collect()).await;
            let failed = held.into_iter().zip(results);
            held = failed
                .filter_map(|(handle, result)| result.is_err().then_some(handle))
                .collect();
        }
    }

    async fn take(&mut self, step: u32, rng: &mut Rng) -> (Vec<String>, Vec<String>) {
        let n = 1 + rng.below(2);
        let handles = (0..n).map(|i| format!("net.{}-{step}-{i}", self.id));
        let handles: Vec<String> = handles.collect();
        let requests = handles.iter().map(|handle| {
            let v6 = u32::from(rng.below(2) == 0);
            let mut request = AssignRequest::new(handle.as_str(), 1 + step % 2, v6, at(0));
            request.adopt = self.seed.is_multiple_of(2);
            request
        });
        let results = self.allocator.assign_batch(requests.collect()).await;
        let (mut took, mut lost) = (Vec::new(), Vec::new());
        for (handle, result) in handles.into_iter().zip(results) {
            match result {
                Ok(outcome) => {
                    for address in outcome.addresses {
                        self.ledger.take(address.ip, &handle);
                    }
                    took.push(handle);
                }
                Err(IpamError::Store(_)) => lost.push(handle),
                Err(IpamError::Exhausted { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        (took, lost)
    }
}

/// One interleaving. `Err` says which invariant broke.
fn interleave(seed: u64, faults: bool, planted: bool) -> Result<(), String> {
    let store = match faults {
        true => MemStore::with_faults(seed),
        false => MemStore::default(),
    };
    if planted {
        store.forget_block_compares();
    }
    let ledger = Ledger::default();
    let keep = !faults && seed.is_multiple_of(3);
    // Room for 16 addresses a family: nodes claim, borrow, get into each other's way, and run dry.
    let mut config = view([pool("v4", "10.0.0.0/28", 30), pool("v6", "fd00::/124", 126)]);
    config.config.max_blocks_per_host = 1 + (seed % 2) as u32;
    config.config.strict_affinity = seed.is_multiple_of(5);
    let agent = |id: u64| Agent {
        id,
        seed: seed * ALLOCATORS + id,
        keep,
        ledger: ledger.clone(),
        // Two agents under one name, as while one replaces the other.
        allocator: allocator(&store, &format!("n{}", id.min(6)), config.clone()),
    };
    let mut agents: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    agents.extend((0..ALLOCATORS).map(|id| Box::pin(agent(id).live()) as _));
    let mut rng = Rng::new(seed);
    let mut cx = Context::from_waker(Waker::noop());
    while !agents.is_empty() {
        let next = rng.below(agents.len() as u64) as usize;
        if agents[next].as_mut().poll(&mut cx).is_ready() {
            drop(agents.swap_remove(next));
        }
    }
    let in_store = store.check()?;
    ledger.verdict(in_store)?;
    match in_store {
        leaked if !keep && leaked > 0 => Err(format!("{leaked} addresses leaked")),
        _ => Ok(()),
    }
}

fn all(seeds: std::ops::Range<u64>, faults: bool) {
    for seed in seeds {
        if let Err(broken) = interleave(seed, faults, false) {
            panic!("seed {seed}: {broken}");
        }
    }
}

#[test]
fn no_order_of_eight_allocators_doubles_or_leaks_an_address() {
    all(0..SEEDS, false);
}

#[test]
fn lost_and_late_answers_double_and_leak_nothing() {
    all(0..SEEDS, true);
}

/// Its answer lost, a request is planned again and finds that its own late transaction took the last addresses.
#[test]
fn a_request_in_doubt_is_not_told_that_there_is_no_address() {
    assert_eq!(interleave(6836, true, false), Ok(()));
}

#[test]
fn the_interleavings_find_a_planted_lost_update() {
    let caught = |seed: &u64| interleave(*seed, false, true).is_err();
    let caught = (0..200).filter(caught).count();
    assert!(caught > 20, "only {caught} of 200 saw the lost update");
}
