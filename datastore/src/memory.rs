//! A store in memory, for tests: the semantics of etcd plus faults on demand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use margay_model::store::{
    Compare, KeyValue, Listing, Op, Revision, Store, StoreError, Txn, TxnOutcome,
};

use crate::history::History;
use crate::txn::{check, unavailable};
use crate::watch::{Change, Watch, WatchEvent, WatchStore};

/// What shall happen to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with `Unavailable` and has no effect.
    Unavailable,
    /// It takes effect and then fails with `Unavailable`: the answer got lost.
    AnswerLost,
    /// It takes effect after this time.
    Delay(Duration),
}

/// Clones are the same store.
#[derive(Clone, Debug)]
pub struct MemoryStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    // The store itself is the shared state; the lock is held for one map operation.
    state: Mutex<State>,
    history: History,
}

#[derive(Debug, Default)]
struct State {
    kvs: BTreeMap<String, (Vec<u8>, Revision)>,
    revision: Revision,
    faults: VecDeque<Fault>,
    faulty: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store at revision 0.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            history: History::new(0),
        }))
    }

    /// Lets the next `calls` calls meet `fault`, after the faults already queued.
    pub fn inject(&self, calls: usize, fault: Fault) {
        self.state()
            .faults
            .extend(std::iter::repeat_n(fault, calls));
    }

    /// While true every call fails with `Unavailable` and has no effect; watches that run are cut.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.state().faulty = unreachable;
        if unreachable {
            self.0.history.cut_watches();
        }
    }

    /// Forgets the history before `revision`: watches from before it end with `Compacted`.
    pub fn compact(&self, revision: Revision) {
        self.0.history.compact(revision);
    }

    /// Ends all running watches with `Lost`.
    pub fn cut_watches(&self) {
        self.0.history.cut_watches();
    }

    /// The revision of the last transaction.
    pub fn revision(&self) -> Revision {
        self.state().revision
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A transaction is checked before it changes anything, so a panic cannot leave it half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call<T>(
        &self,
        run: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let fault = {
            let mut state = self.state();
            if state.faulty {
                return Err(unavailable("injected: unreachable"));
            }
            state.faults.pop_front()
        };
        match fault {
            None => run(&mut self.state()),
            Some(Fault::Unavailable) => Err(unavailable("injected: unavailable")),
            Some(Fault::AnswerLost) => {
                run(&mut self.state())?;
                Err(unavailable("injected: answer lost"))
            }
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                run(&mut self.state())
            }
        }
    }

    fn commit(&self, state: &mut State, txn: Txn) -> TxnOutcome {
        if !txn.compares.iter().all(|c| state.holds(c)) {
            let now = txn.compares.iter().map(|c| state.read(&c.key)).collect();
            return TxnOutcome::Conflict(now);
        }
        let revision = state.revision + 1;
        let changes: Vec<Change> = txn
            .ops
            .into_iter()
            .filter_map(|op| state.apply(op, revision))
            .collect();
        if !changes.is_empty() {
            state.revision = revision;
            self.0.history.publish(WatchEvent { revision, changes });
        }
        TxnOutcome::Committed(state.revision)
    }
}

impl State {
    fn read(&self, key: &str) -> Option<KeyValue> {
        let (value, mod_revision) = self.kvs.get(key)?;
        Some(KeyValue {
            key: key.to_owned(),
            value: value.clone(),
            mod_revision: *mod_revision,
        })
    }

    fn holds(&self, compare: &Compare) -> bool {
        self.kvs.get(&compare.key).map_or(0, |(_, at)| *at) == compare.mod_revision
    }

    /// What changed, if anything.
    fn apply(&mut self, op: Op, revision: Revision) -> Option<Change> {
        match op {
            Op::Put { key, value } => {
                self.kvs.insert(key.clone(), (value.clone(), revision));
                Some(Change::Put(KeyValue {
                    key,
                    value,
                    mod_revision: revision,
                }))
            }
            Op::Delete { key } => {
                self.kvs.remove(&key)?;
                Some(Change::Delete { key })
            }
        }
    }
}

impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.call(|state| Ok(state.read(key))).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.call(|state| {
            let kvs = state
                .kvs
                .range(prefix.to_owned()..)
                .take_while(|(key, _)| key.starts_with(prefix))
                .map(|(key, (value, mod_revision))| KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    mod_revision: *mod_revision,
                })
                .collect();
            Ok(Listing {
                kvs,
                revision: state.revision,
            })
        })
        .await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        check(&txn)?;
        self.call(|state| Ok(self.commit(state, txn))).await
    }
}

impl WatchStore for MemoryStore {
    fn watch(&self, prefix: &str, from_revision: Revision) -> Watch {
        Watch::from_history(self.0.history.watch(prefix, from_revision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn injected_faults_meet_calls_in_order() {
        let store = MemoryStore::new();
        store.inject(1, Fault::Unavailable);
        store.inject(1, Fault::AnswerLost);
        assert!(store.txn(Txn::default().put("/a", "1")).await.is_err());
        assert!(store.txn(Txn::default().put("/b", "1")).await.is_err());
        let keys: Vec<_> = store.list("/").await.unwrap().kvs;
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].key, "/b");
    }

    #[tokio::test]
    async fn unreachable_store_fails_calls_and_cuts_watches() {
        let store = MemoryStore::new();
        let mut watch = store.watch("/", 1);
        store.set_unreachable(true);
        assert!(store.get("/a").await.is_err());
        assert!(watch.next().await.is_err());
        store.set_unreachable(false);
        assert_eq!(store.get("/a").await.unwrap(), None);
    }
}
