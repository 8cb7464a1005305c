//! Identities that several hosts run at once: taken over, parked, their leases ended, in an order that a
//! seed chooses. Endpoints are part of the transactions, as the agent makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use margay_model::store::{Revision, Store, Txn};

use super::mem_store::Rng;
use super::*;
use crate::request::{Extra, ParkRequest};
use crate::sticky::{self, CONTAINER, ENDPOINT, Held, parked_until};

const HOSTS: u64 = 6;
const IDENTITIES: u64 = 3;
const SEEDS: u64 = if cfg!(debug_assertions) { 60 } else { 20_000 };
/// Seconds: less than the long leases.
const JUMP: i64 = 100_000;
/// As in the agent.
const ATTEMPTS: u32 = 10;
/// Where containers' endpoints are; the value is the handle.
const ENDPOINTS: &str = "/endpoints/";

fn endpoint_key(container: &str) -> String {
    format!("{ENDPOINTS}{container}")
}

/// What the hosts were told.
#[derive(Default)]
struct Told {
    addresses: BTreeMap<u64, IpAddr>,
    broken: Option<String>,
}

struct Host {
    id: u64,
    rng: Rng,
    clock: Arc<AtomicI64>,
    clocks_jump: bool,
    lease_secs: u32,
    told: Arc<Mutex<Told>>,
    store: MemStore,
    allocator: Allocator<MemStore>,
    /// Containers with their identities: those that may have something.
    containers: Vec<(String, u64)>,
}

impl Host {
    fn now(&mut self) -> Timestamp {
        let jump = match self.clocks_jump {
            true => [-JUMP, 0, 0, JUMP][self.rng.below(4) as usize],
            false => 0,
        };
        at(self.clock.fetch_add(1, Ordering::Relaxed) + jump)
    }

    async fn live(mut self) {
        for step in 0..5 {
            match self.rng.below(5) {
                0..=2 => {
                    let identity = self.rng.below(IDENTITIES);
                    let container = format!("c{}-{step}", self.id);
                    self.containers.push((container.clone(), identity));
                    self.add(&container, identity).await;
                }
                3 if !self.containers.is_empty() => {
                    let n = self.rng.below(self.containers.len() as u64);
                    let (container, identity) = self.containers.swap_remove(n as usize);
                    if self.del(&container, identity).await.is_err() {
                        self.containers.push((container, identity));
                    }
                }
                _ => self.end_leases().await,
            }
        }
        while let Some((container, identity)) = self.containers.pop() {
            if self.del(&container, identity).await.is_err() {
                self.containers.push((container, identity));
            }
        }
    }

    async fn add(&mut self, container: &str, identity: u64) {
        let handle = format!("net.sticky-{identity}");
        for _ in 0..ATTEMPTS {
            let held = self.allocator.held_by(&handle).await.unwrap();
            let mut txn = Txn::default().put(endpoint_key(container), handle.as_str());
            for (key, revision) in self.replaced(&held, container, &handle).await {
                txn = txn.when(key.clone(), revision).delete(key);
            }
            let mut request = AssignRequest::new(handle.as_str(), 1, 0, self.now());
            let name = identity.to_string();
            let moves = sticky::moves_to(self.allocator.known.node(), &held);
            request.attrs = sticky::attrs(&name, self.lease_secs, container, container, moves);
            request.take_over = Some(held.iter().map(|h| Arc::clone(&h.attribute)).collect());
            let request = request.with_extra(move |_: &[Address]| Extra::from(txn.clone()));
            match self.allocator.assign(request).await {
                Ok(outcome) => {
                    assert!(outcome.revision > 0, "done at no time");
                    return self.note(identity, outcome.addresses[0].ip);
                }
                Err(IpamError::Moved { .. } | IpamError::ExtraConflict { .. }) => {}
                Err(IpamError::Store(_) | IpamError::Exhausted { .. }) => return,
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// An identity whose leases never end has the same address for ever.
    fn note(&self, identity: u64, ip: IpAddr) {
        let mut told = self.told.lock().unwrap();
        let before = told.addresses.insert(identity, ip);
        if self.lease_secs > 1000 && before.is_some_and(|before| before != ip) {
            told.broken = Some(format!("{identity} had {before:?} and got {ip}"));
        }
    }

    async fn replaced(&self, held: &[Held], own: &str, handle: &str) -> Vec<(String, Revision)> {
        let mut replaced = Vec::new();
        for held in held.iter().filter(|h| parked_until(&h.attribute).is_none()) {
            let other = held.attr(ENDPOINT).filter(|other| *other != own);
            let key = endpoint_key(other.unwrap_or_default());
            if let Some(kv) = self.store.get(&key).await.unwrap()
                && kv.value == handle.as_bytes()
            {
                replaced.push((key, kv.mod_revision));
            }
        }
        replaced
    }

    async fn del(&mut self, container: &str, identity: u64) -> Result<(), IpamError> {
        let key = endpoint_key(container);
        let mut endpoint = Some(0);
        loop {
            let txn = endpoint.map(|revision| {
                let txn = Txn::default().when(key.clone(), revision);
                txn.delete(key.clone())
            });
            let request = ParkRequest {
                handle_id: format!("net.sticky-{identity}"),
                container: container.to_owned(),
                now: self.now(),
                extra: txn.unwrap_or_default().into(),
            };
            match self.allocator.park(request).await {
                Err(IpamError::ExtraConflict { compared }) => {
                    let current = compared.into_iter().find_map(|(_, current)| current);
                    endpoint = current.map(|kv| kv.mod_revision);
                }
                other => return other.map(drop),
            }
        }
    }

    async fn end_leases(&mut self) {
        let (held, _) = self.allocator.held_everywhere().await.unwrap();
        let now = self.now();
        for held in held.into_iter().filter(|held| held.is_expired(now)) {
            match self.allocator.release_ip(held.release(now)).await {
                Ok(_) | Err(IpamError::Mismatch { .. } | IpamError::Store(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// Endpoints and addresses that are not parked are each other's, one to one.
fn check(store: &MemStore) -> Result<(), String> {
    store.check()?;
    let reader = allocator(store, "reader", view([]));
    let (held, _) = block_on(reader.held_everywhere()).unwrap();
    let running = held.iter().filter(|h| parked_until(&h.attribute).is_none());
    let named: Vec<_> = running.map(|h| h.attr(CONTAINER).unwrap_or("?")).collect();
    let of_addresses: BTreeSet<&str> = named.iter().copied().collect();
    let keys = store.keys();
    let endpoints = keys.iter().filter_map(|key| key.strip_prefix(ENDPOINTS));
    let endpoints: BTreeSet<&str> = endpoints.collect();
    match named.len() == of_addresses.len() && of_addresses == endpoints {
        true => Ok(()),
        false => Err(format!("endpoints {endpoints:?}, addresses of {named:?}")),
    }
}

/// What is wrong with the world.
#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    Nothing,
    Answers,
    Clocks,
    /// Blocks are written whatever their revision.
    Planted,
}

/// One interleaving. `Err` says which invariant broke.
fn interleave(seed: u64, wrong: Wrong) -> Result<(), String> {
    let store = match wrong {
        Wrong::Answers => MemStore::with_faults(seed),
        _ => MemStore::default(),
    };
    if wrong == Wrong::Planted {
        store.forget_block_compares();
    }
    let (clock, told) = (Arc::default(), Arc::<Mutex<Told>>::default());
    let host = |id: u64| Host {
        id,
        rng: Rng::new(seed * HOSTS + id),
        clock: Arc::clone(&clock),
        clocks_jump: wrong == Wrong::Clocks,
        lease_secs: if seed.is_multiple_of(2) { 4 } else { 1_000_000 },
        told: Arc::clone(&told),
        store: store.clone(),
        allocator: allocator(
            &store,
            &format!("n{id}"),
            view([pool("p", "10.0.0.0/28", 30)]),
        ),
        containers: Vec::new(),
    };
    let mut hosts: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    hosts.extend((0..HOSTS).map(|id| Box::pin(host(id).live()) as _));
    let mut rng = Rng::new(seed);
    let mut cx = Context::from_waker(Waker::noop());
    while !hosts.is_empty() {
        let next = rng.below(hosts.len() as u64) as usize;
        if hosts[next].as_mut().poll(&mut cx).is_ready() {
            drop(hosts.swap_remove(next));
        }
        if rng.below(16) == 0 {
            check(&store)?;
        }
    }
    store.settle();
    check(&store)?;
    if let Some(broken) = told.lock().unwrap().broken.take() {
        return Err(broken);
    }
    if store.keys().iter().any(|key| key.starts_with(ENDPOINTS)) {
        return Err("an endpoint whose container is gone".into());
    }
    let mut last = host(HOSTS);
    last.clock.store(2_000_000, Ordering::Relaxed);
    block_on(last.end_leases());
    match store.check()? {
        0 => Ok(()),
        leaked => Err(format!("{leaked} addresses leaked")),
    }
}

fn all(wrong: Wrong) {
    for seed in 0..SEEDS {
        if let Err(broken) = interleave(seed, wrong) {
            panic!("seed {seed}: {broken}");
        }
    }
}

#[test]
fn no_order_of_takeovers_parks_and_ends_of_leases_doubles_or_leaks() {
    all(Wrong::Nothing);
}

#[test]
fn lost_and_late_answers_leave_no_container_that_is_gone_an_address() {
    all(Wrong::Answers);
}

#[test]
fn clocks_that_jump_double_and_leak_nothing() {
    all(Wrong::Clocks);
}

#[test]
fn the_interleavings_find_a_planted_lost_update_of_identities() {
    let caught = |seed: &u64| interleave(*seed, Wrong::Planted).is_err();
    let caught = (0..100).filter(caught).count();
    assert!(caught > 20, "only {caught} of 100 saw the lost update");
}
