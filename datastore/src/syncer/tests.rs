use std::collections::BTreeMap;

use margay_model::store::{Store, Txn};

use super::*;
use crate::memory::{Fault, MemoryStore};

/// Folds events the way a consumer does.
#[derive(Default)]
struct Mirror {
    state: BTreeMap<String, Vec<u8>>,
    fresh: BTreeMap<String, Vec<u8>>,
    inits: usize,
    in_sync: bool,
}

impl Mirror {
    fn apply(&mut self, event: SyncEvent) {
        match event {
            SyncEvent::Init => {
                self.fresh.clear();
                self.inits += 1;
                self.in_sync = false;
            }
            SyncEvent::InitApply(kv) => {
                self.fresh.insert(kv.key, kv.value);
            }
            SyncEvent::InitDone { .. } => {
                self.state = std::mem::take(&mut self.fresh);
                self.in_sync = true;
            }
            SyncEvent::Apply(kv) => {
                assert!(self.in_sync, "a change before InitDone");
                self.state.insert(kv.key, kv.value);
            }
            SyncEvent::Delete { key, .. } => {
                assert!(self.in_sync, "a change before InitDone");
                assert!(self.state.remove(&key).is_some(), "{key} was not there");
            }
        }
    }

    /// Reads until `done`, or until nothing comes for ten (virtual) minutes.
    async fn until(&mut self, rx: &mut mpsc::Receiver<SyncEvent>, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let event = tokio::time::timeout(Duration::from_secs(600), rx.recv())
                .await
                .expect("the syncer must go on")
                .expect("the syncer must live");
            self.apply(event);
        }
    }
}

async fn put(store: &MemoryStore, key: &str, value: &str) {
    store.txn(Txn::default().put(key, value)).await.unwrap();
}

fn follow(store: &MemoryStore, prefixes: &[&str]) -> (Syncer, mpsc::Receiver<SyncEvent>) {
    let (tx, rx) = mpsc::channel(16);
    let prefixes = prefixes.iter().map(|p| (*p).to_owned()).collect();
    (Syncer::spawn(store.clone(), prefixes, tx), rx)
}

#[tokio::test(start_paused = true)]
async fn follows_its_prefixes_and_nothing_else() {
    let store = MemoryStore::new();
    put(&store, "/c/a/1", "x").await;
    put(&store, "/c/b/1", "x").await;
    put(&store, "/c/other", "x").await;
    let (_syncer, mut rx) = follow(&store, &["/c/a/", "/c/b/"]);
    let mut mirror = Mirror::default();
    mirror.until(&mut rx, |m| m.in_sync).await;
    put(&store, "/c/other", "y").await;
    put(&store, "/c/b/2", "y").await;
    store.txn(Txn::default().delete("/c/a/1")).await.unwrap();
    mirror
        .until(&mut rx, |m| m.state.keys().eq(["/c/b/1", "/c/b/2"]))
        .await;
    assert_eq!(mirror.inits, 1);
}

#[tokio::test(start_paused = true)]
async fn compaction_loss_and_outage_are_just_another_init() {
    let store = MemoryStore::new();
    put(&store, "/a", "1").await;
    let (syncer, mut rx) = follow(&store, &["/"]);
    let mut status = syncer.status();
    let mut mirror = Mirror::default();
    mirror.until(&mut rx, |m| m.in_sync).await;
    status.wait_for(SyncStatus::is_connected).await.unwrap();

    store.set_unreachable(true);
    let lost = status
        .wait_for(|s| !s.is_connected())
        .await
        .unwrap()
        .clone();
    assert!(matches!(lost, SyncStatus::Disconnected { reason, .. } if reason.contains("cut")));
    store.set_unreachable(false);
    store
        .txn(Txn::default().delete("/a").put("/b", "2"))
        .await
        .unwrap();
    store.compact(store.revision() + 1);
    store.inject(3, Fault::Unavailable);
    mirror.until(&mut rx, |m| m.state.keys().eq(["/b"])).await;
    assert_eq!(mirror.inits, 2);
    status.wait_for(SyncStatus::is_connected).await.unwrap();
}

/// Counts how often a store that never works is asked.
#[tokio::test(start_paused = true)]
async fn a_dead_store_is_asked_at_a_bounded_rate() {
    let store = MemoryStore::new();
    store.inject(1000, Fault::Unavailable);
    let (_syncer, mut rx) = follow(&store, &["/"]);
    tokio::select! {
        _ = rx.recv() => panic!("a dead store has nothing to say"),
        () = sleep(Duration::from_secs(100)) => {}
    }
    drop(rx);
    let mut left = 0;
    while store.get("/a").await.is_err() {
        left += 1;
    }
    let asked = 1000 - left;
    assert!((20..=60).contains(&asked), "asked {asked} times in 100 s");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_at_once_does_not_spin() {
    let store = MemoryStore::new();
    let (_syncer, mut rx) = follow(&store, &["/"]);
    let mut inits = 0;
    let end = tokio::time::Instant::now() + Duration::from_secs(100);
    while let Ok(event) = tokio::time::timeout_at(end, rx.recv()).await {
        if matches!(event, Some(SyncEvent::InitDone { .. })) {
            inits += 1;
            store.cut_watches();
        }
    }
    assert!((15..=60).contains(&inits), "{inits} rounds in 100 s");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_stops_the_task() {
    let store = MemoryStore::new();
    let (syncer, mut rx) = follow(&store, &["/"]);
    assert_eq!(rx.recv().await, Some(SyncEvent::Init));
    drop(syncer);
    while rx.recv().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn a_change_between_two_lists_is_told_once() {
    let store = MemoryStore::new();
    put(&store, "/a/1", "1").await;
    // The second list waits, and the change happens before it.
    store.inject(1, Fault::Delay(Duration::from_millis(1)));
    store.inject(1, Fault::Delay(Duration::from_secs(5)));
    let (_syncer, mut rx) = follow(&store, &["/a/", "/b/"]);
    sleep(Duration::from_secs(1)).await;
    store
        .txn(Txn::default().put("/b/1", "2").put("/a/2", "2"))
        .await
        .unwrap();
    let mut events = Vec::new();
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(60), rx.recv()).await {
        events.push(event.unwrap());
    }
    let named = |key: &str| {
        let is = |e: &&SyncEvent| matches!(e, SyncEvent::InitApply(kv) | SyncEvent::Apply(kv) if kv.key == key);
        events.iter().filter(is).count()
    };
    assert_eq!((named("/a/1"), named("/a/2"), named("/b/1")), (1, 1, 1));
    assert!(events.contains(&SyncEvent::InitDone { revision: 1 }));
}

#[test]
fn covered_prefixes_are_dropped_and_the_rest_shares_one_watch() {
    let prefixes = |list: &[&str]| disjoint(list.iter().map(|p| (*p).to_owned()).collect());
    assert_eq!(prefixes(&["/c/a/", "/c/", "/c/b"]), ["/c/"]);
    assert_eq!(
        common_prefix(&prefixes(&["/c/pools/", "/c/peers/"])),
        "/c/p"
    );
    assert_eq!(common_prefix(&prefixes(&["/c/a/", "/d/"])), "/");
    assert_eq!(common_prefix(&prefixes(&["/c/"])), "/c/");
    assert_eq!(common_prefix(&prefixes(&["ä", "ö"])), "");
}
