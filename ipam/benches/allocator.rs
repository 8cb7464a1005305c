//! Allocation over a store in memory: what the allocator itself costs, without a network.

#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use margay_ipam::{Allocator, AssignRequest, Extra, Pool, Pools, ReleaseRequest, Request, View};
use margay_model::ippool::PoolUse;
use margay_model::store::{KeyValue, Listing, Op, Revision, Store, StoreError, Txn, TxnOutcome};

#[derive(Clone, Default)]
struct MemStore(Arc<Mutex<(BTreeMap<String, KeyValue>, Revision)>>);

impl Store for MemStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let state = self.0.lock().expect("one thread");
        Ok(state.0.get(key).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let state = self.0.lock().expect("one thread");
        let from = state.0.range(prefix.to_owned()..);
        let kvs = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(Listing {
            kvs: kvs.map(|(_, kv)| kv.clone()).collect(),
            revision: state.1,
        })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let mut state = self.0.lock().expect("one thread");
        let (kvs, revision) = &mut *state;
        let mut compares = txn.compares.iter();
        if !compares.all(|c| kvs.get(&c.key).map_or(0, |kv| kv.mod_revision) == c.mod_revision) {
            let current = txn.compares.iter().map(|c| kvs.get(&c.key).cloned());
            return Ok(TxnOutcome::Conflict(current.collect()));
        }
        *revision += 1;
        for op in txn.ops {
            match op {
                Op::Put { key, value } => {
                    let mod_revision = *revision;
                    let kv = KeyValue {
                        key: key.clone(),
                        value,
                        mod_revision,
                    };
                    kvs.insert(key, kv);
                }
                Op::Delete { key } => {
                    kvs.remove(&key);
                }
            }
        }
        Ok(TxnOutcome::Committed(*revision))
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            return value;
        }
    }
}

fn allocator() -> Allocator<MemStore> {
    let pool = Pool {
        name: "default".to_owned(),
        cidr: "10.65.0.0/16".parse().expect("a CIDR"),
        block_len: 26,
        disabled: false,
        automatic: true,
        uses: vec![PoolUse::Workload],
        selects_node: true,
        namespace_selector: None,
        created: String::new(),
    };
    let mut view = View {
        pools: Pools::new([pool]),
        ..View::default()
    };
    view.config.ip_cooldown_seconds = Some(0);
    Allocator::new(MemStore::default(), "/calico", "n1", view)
}

fn assign(i: u64) -> Request {
    let handle = format!("net1.cid{i}");
    let request = AssignRequest::new(handle, 1, 0, Timestamp::UNIX_EPOCH);
    Request::Assign(request.with_extra(move |addresses| {
        let key = format!("/calico/resources/v3/projectcalico.org/workloadendpoints/default/{i}");
        Txn::default().put(key, addresses[0].ip.to_string())
    }))
}

fn release(i: u64) -> Request {
    let key = format!("/calico/resources/v3/projectcalico.org/workloadendpoints/default/{i}");
    Request::Release(ReleaseRequest {
        handle_id: format!("net1.cid{i}"),
        now: Timestamp::UNIX_EPOCH,
        extra: Extra::from(Txn::default().delete(key)),
    })
}

fn run(allocator: &mut Allocator<MemStore>, requests: Vec<Request>) {
    for result in block_on(allocator.run(requests)) {
        result.expect("the pool is large enough");
    }
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("assign_and_release");
    // 40 others on the host: what a block costs depends on how full it is.
    for n in [1, 8, 100] {
        let mut allocator = allocator();
        run(&mut allocator, (1000..1040).map(assign).collect());
        group.throughput(Throughput::Elements(n));
        group.bench_function(format!("{n}_at_once"), |b| {
            b.iter(|| {
                run(&mut allocator, (0..n).map(assign).collect());
                run(&mut allocator, (0..n).map(release).collect());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
