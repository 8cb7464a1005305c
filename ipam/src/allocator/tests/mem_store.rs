//! A store in memory that yields before and after each answer, and loses answers by chance.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use margay_model::ipam::{Block, Handle, IpamKey, IpamKeys};
use margay_model::store::{KeyValue, Listing, Op, Revision, Store, StoreError, Txn, TxnOutcome};

/// xorshift64*: the tests' only randomness, seeded.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

#[derive(Debug, Default)]
struct State {
    kvs: BTreeMap<String, KeyValue>,
    revision: Revision,
    txns: u64,
    reads: u64,
    /// Transactions that arrive later than their sender waits.
    late: Vec<Txn>,
    faults: Option<Rng>,
    /// How many of the next transactions are held up.
    hold_up: u32,
    /// How many of the next transactions are made, and their answers lost.
    lose_answers: u32,
    forget_block_compares: bool,
    forget_handle_compares: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct MemStore(Arc<Mutex<State>>);

impl State {
    fn apply(&mut self, txn: &Txn) -> TxnOutcome {
        let current: Vec<_> = txn
            .compares
            .iter()
            .map(|c| self.kvs.get(&c.key).cloned())
            .collect();
        let holds = txn.compares.iter().zip(&current).all(|(compare, current)| {
            let planted = (self.forget_block_compares && compare.key.contains("/assignment/"))
                || (self.forget_handle_compares && compare.key.contains("/handle/"));
            planted || current.as_ref().map_or(0, |kv| kv.mod_revision) == compare.mod_revision
        });
        if !holds {
            return TxnOutcome::Conflict(current);
        }
        let mut keys: Vec<_> = txn.ops.iter().map(Op::key).collect();
        keys.sort_unstable();
        assert!(
            keys.windows(2).all(|w| w[0] != w[1]),
            "a key written twice: {keys:?}"
        );
        assert!(
            txn.ops.len() <= 128 && txn.compares.len() <= 128,
            "too large for etcd"
        );
        self.revision += 1;
        for op in &txn.ops {
            match op {
                Op::Put { key, value } => {
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        mod_revision: self.revision,
                    };
                    self.kvs.insert(key.clone(), kv);
                }
                Op::Delete { key } => {
                    self.kvs.remove(key);
                }
            }
        }
        TxnOutcome::Committed(self.revision)
    }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable {
        reason: reason.to_owned(),
    }
}

pub(super) async fn yield_once() {
    let mut yielded = false;
    poll_fn(|_| match std::mem::replace(&mut yielded, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

impl MemStore {
    pub(super) fn with_faults(seed: u64) -> Self {
        let store = Self::default();
        store.0.lock().unwrap().faults = Some(Rng::new(seed));
        store
    }

    /// The next `n` transactions get no answer, and arrive when things settle.
    pub(super) fn hold_up(&self, n: u32) {
        self.0.lock().unwrap().hold_up = n;
    }

    /// Transactions that are held up.
    pub(super) fn held_up(&self) -> usize {
        self.0.lock().unwrap().late.len()
    }

    /// The next `n` transactions are made, and their answers lost.
    pub(super) fn lose_answers(&self, n: u32) {
        self.0.lock().unwrap().lose_answers = n;
    }

    /// Plants the lost update: blocks are written whatever their revision.
    pub(super) fn forget_block_compares(&self) {
        self.0.lock().unwrap().forget_block_compares = true;
    }

    /// Plants another: handles are written whatever their revision.
    pub(super) fn forget_handle_compares(&self) {
        self.0.lock().unwrap().forget_handle_compares = true;
    }

    /// Transactions and reads so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = self.0.lock().unwrap();
        (state.txns, state.reads)
    }

    pub(super) fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Revision {
        let mut state = self.0.lock().unwrap();
        state.apply(&Txn::default().put(key, value));
        state.revision
    }

    pub(super) fn value(&self, key: &str) -> Option<String> {
        let state = self.0.lock().unwrap();
        let kv = state.kvs.get(key)?;
        Some(String::from_utf8(kv.value.clone()).unwrap())
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.0.lock().unwrap().kvs.keys().cloned().collect()
    }

    /// Lets everything that is under way arrive, and ends the faults.
    pub(super) fn settle(&self) {
        let mut state = self.0.lock().unwrap();
        state.faults = None;
        for txn in std::mem::take(&mut state.late) {
            state.apply(&txn);
        }
    }

    /// Blocks, handles and affinities must tell the same story. Returns the addresses in use.
    pub(super) fn check(&self) -> Result<usize, String> {
        let keys = IpamKeys::default();
        let state = self.0.lock().unwrap();
        let mut by_blocks = BTreeMap::new();
        let mut by_handles = BTreeMap::new();
        for kv in state.kvs.values() {
            match keys.parse(&kv.key) {
                Some(IpamKey::Block(cidr)) => {
                    let block = Block::decode(&kv.key, cidr, &kv.value);
                    let block = block.map_err(|e| e.to_string())?;
                    let held = (0..cidr.size()).filter_map(|o| block.attribute(o));
                    for held in held.filter(|a| !a.is_resting()) {
                        let handle = held.handle().unwrap_or_default().to_owned();
                        *by_blocks.entry((handle, cidr)).or_insert(0) += 1;
                    }
                    let affinity = block.owner().map(|owner| keys.affinity(&owner, cidr));
                    if affinity.is_some_and(|key| !state.kvs.contains_key(&key)) {
                        return Err(format!("{cidr} has no affinity record"));
                    }
                }
                Some(IpamKey::Handle(id)) => {
                    let handle = Handle::decode(&kv.key, &kv.value).map_err(|e| e.to_string())?;
                    if handle.blocks.is_empty() {
                        return Err(format!("handle {id} is empty"));
                    }
                    let counts = handle.blocks.into_iter();
                    by_handles.extend(counts.map(|(cidr, n)| ((id.clone(), cidr), n)));
                }
                Some(IpamKey::Affinity(owner, cidr)) => {
                    let block = state.kvs.get(&keys.block(cidr));
                    let block = block.and_then(|kv| Block::decode(&kv.key, cidr, &kv.value).ok());
                    if block.and_then(|b| b.owner()) != Some(owner.clone()) {
                        return Err(format!("{owner} has an affinity to {cidr}, not the block"));
                    }
                }
                _ => {}
            }
        }
        if by_blocks != by_handles {
            return Err(format!(
                "blocks say {by_blocks:?}, handles say {by_handles:?}"
            ));
        }
        Ok(by_blocks.values().sum::<u32>() as usize)
    }
}

impl Store for MemStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        yield_once().await;
        let kv = {
            let mut state = self.0.lock().unwrap();
            state.reads += 1;
            state.kvs.get(key).cloned()
        };
        yield_once().await;
        Ok(kv)
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        yield_once().await;
        let listing = {
            let mut state = self.0.lock().unwrap();
            state.reads += 1;
            let from = state.kvs.range(prefix.to_owned()..);
            let kvs = from.take_while(|(key, _)| key.starts_with(prefix));
            Listing {
                kvs: kvs.map(|(_, kv)| kv.clone()).collect(),
                revision: state.revision,
            }
        };
        yield_once().await;
        Ok(listing)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        yield_once().await;
        let outcome = {
            let mut state = self.0.lock().unwrap();
            state.txns += 1;
            let mut dice = state.faults.as_mut().map_or(99, |rng| rng.below(40));
            if state.hold_up > 0 {
                state.hold_up -= 1;
                dice = 2;
            } else if state.lose_answers > 0 {
                state.lose_answers -= 1;
                dice = 1;
            }
            if dice >= 30 && state.faults.is_some() && !state.late.is_empty() {
                let late = state.late.remove(0);
                state.apply(&late);
            }
            match dice {
                0 => Err(unavailable("lost before the commit")),
                1 => {
                    state.apply(&txn);
                    Err(unavailable("lost after the commit"))
                }
                2 => {
                    state.late.push(txn);
                    Err(unavailable("still under way"))
                }
                _ => Ok(state.apply(&txn)),
            }
        };
        yield_once().await;
        outcome
    }
}
