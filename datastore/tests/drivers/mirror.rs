//! A consumer of the syncer that keeps a copy of the store.

use std::collections::BTreeMap;
use std::time::Duration;

use margay_datastore::{SyncEvent, Syncer, WatchStore};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(crate) struct Mirror {
    pub(crate) state: BTreeMap<String, Vec<u8>>,
    pub(crate) syncer: Syncer,
    fresh: Option<BTreeMap<String, Vec<u8>>>,
    rx: mpsc::Receiver<SyncEvent>,
}

impl Mirror {
    pub(crate) fn of<S: WatchStore + 'static>(store: S, prefix: &str) -> Self {
        let (tx, rx) = mpsc::channel(16);
        Self {
            state: BTreeMap::new(),
            syncer: Syncer::spawn(store, vec![prefix.to_owned()], tx),
            fresh: None,
            rx,
        }
    }

    /// Follows until the copy is as wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&BTreeMap<String, Vec<u8>>) -> bool) {
        let follow = async {
            while !wanted(&self.state) {
                let event = self.rx.recv().await.expect("the syncer lives");
                match event {
                    SyncEvent::Init => self.fresh = Some(BTreeMap::new()),
                    SyncEvent::InitApply(kv) => {
                        let fresh = self.fresh.as_mut().expect("after Init");
                        fresh.insert(kv.key, kv.value);
                    }
                    SyncEvent::InitDone { .. } => {
                        self.state = self.fresh.take().expect("after Init");
                    }
                    SyncEvent::Apply(kv) => {
                        self.state.insert(kv.key, kv.value);
                    }
                    SyncEvent::Delete { key, .. } => {
                        self.state.remove(&key).expect("it was there");
                    }
                }
            }
        };
        timeout(Duration::from_secs(60), follow)
            .await
            .expect("in sync within a minute");
    }
}
