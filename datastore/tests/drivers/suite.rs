//! What every driver must do. Each case has a prefix of its own; compaction comes last.

use std::future::Future;
use std::time::Duration;

use margay_datastore::{Change, Watch, WatchError, WatchEvent, WatchStore};
use margay_model::store::{KeyValue, Revision, StoreError, Txn, TxnOutcome};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);

/// Runs the suite; `compact` forgets the history before a revision.
pub(crate) async fn conformance<S, F>(store: S, compact: impl Fn(Revision) -> F)
where
    S: WatchStore + Clone + 'static,
    F: Future<Output = ()>,
{
    absent_keys_and_empty_prefixes(&store).await;
    writes_are_read_back_with_their_revision(&store).await;
    prefixes_list_in_byte_order(&store).await;
    a_transaction_happens_whole_or_not_at_all(&store).await;
    a_conflict_tells_the_current_values(&store).await;
    nothing_changed_is_no_revision(&store).await;
    malformed_transactions_are_rejected(&store).await;
    large_values_come_back_whole(&store).await;
    concurrent_writers_lose_no_update(&store).await;
    a_watch_tells_each_transaction_once_and_in_order(&store).await;
    a_watch_resumes_where_the_listing_ended(&store).await;
    a_watch_sees_its_prefix_only(&store).await;
    a_compacted_watch_says_so(&store, compact).await;
}

async fn commit<S: WatchStore>(store: &S, txn: Txn) -> Revision {
    match store.txn(txn).await.unwrap() {
        TxnOutcome::Committed(revision) => revision,
        TxnOutcome::Conflict(now) => panic!("conflict: {now:?}"),
    }
}

/// The next event that carries changes.
async fn next(watch: &mut Watch) -> WatchEvent {
    loop {
        let event = timeout(SOON, watch.next())
            .await
            .expect("an event in time")
            .expect("a running watch");
        if !event.changes.is_empty() {
            return event;
        }
    }
}

fn kv(key: &str, value: &str, mod_revision: Revision) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value.into(),
        mod_revision,
    }
}

async fn absent_keys_and_empty_prefixes<S: WatchStore>(store: &S) {
    assert_eq!(store.get("/absent/key").await.unwrap(), None);
    assert!(store.list("/absent/").await.unwrap().kvs.is_empty());
}

async fn writes_are_read_back_with_their_revision<S: WatchStore>(store: &S) {
    let first = commit(store, Txn::default().put("/rw/a", "1")).await;
    assert_eq!(
        store.get("/rw/a").await.unwrap(),
        Some(kv("/rw/a", "1", first))
    );
    let second = commit(store, Txn::default().put("/rw/a", "2")).await;
    assert_eq!(second, first + 1);
    assert_eq!(
        store.get("/rw/a").await.unwrap(),
        Some(kv("/rw/a", "2", second))
    );
    let third = commit(store, Txn::default().delete("/rw/a")).await;
    assert_eq!(third, second + 1);
    assert_eq!(store.get("/rw/a").await.unwrap(), None);
}

async fn prefixes_list_in_byte_order<S: WatchStore>(store: &S) {
    let mut last = 0;
    for key in [
        "/list/b",
        "/list/a",
        "/list/a/x",
        "/list/ä",
        "/list/B",
        "/lisu",
        "/list",
    ] {
        last = commit(store, Txn::default().put(key, key)).await;
    }
    let listing = store.list("/list/").await.unwrap();
    let keys: Vec<&str> = listing.kvs.iter().map(|kv| kv.key.as_str()).collect();
    assert_eq!(
        keys,
        ["/list/B", "/list/a", "/list/a/x", "/list/b", "/list/ä"]
    );
    assert_eq!(listing.revision, last);
    let all = store.list("").await.unwrap();
    assert!(all.kvs.len() >= 7);
    assert!(all.kvs.is_sorted_by(|a, b| a.key < b.key));
}

async fn a_transaction_happens_whole_or_not_at_all<S: WatchStore>(store: &S) {
    let at = commit(store, Txn::default().put("/txn/a", "1").put("/txn/b", "1")).await;
    let refused = Txn::default()
        .when("/txn/a", at)
        .when("/txn/b", at - 1)
        .put("/txn/a", "2")
        .put("/txn/c", "2")
        .delete("/txn/b");
    assert!(matches!(
        store.txn(refused).await.unwrap(),
        TxnOutcome::Conflict(_)
    ));
    let listing = store.list("/txn/").await.unwrap();
    assert_eq!(listing.kvs, [kv("/txn/a", "1", at), kv("/txn/b", "1", at)]);
    let accepted = Txn::default()
        .when("/txn/a", at)
        .when("/txn/c", 0)
        .put("/txn/a", "2")
        .put("/txn/c", "2")
        .delete("/txn/b");
    let now = commit(store, accepted).await;
    let listing = store.list("/txn/").await.unwrap();
    assert_eq!(
        listing.kvs,
        [kv("/txn/a", "2", now), kv("/txn/c", "2", now)]
    );
}

async fn a_conflict_tells_the_current_values<S: WatchStore>(store: &S) {
    let at = commit(store, Txn::default().put("/conflict/b", "now")).await;
    let refused = Txn::default()
        .when("/conflict/c", 7)
        .when("/conflict/b", 0)
        .put("/conflict/a", "x");
    let TxnOutcome::Conflict(now) = store.txn(refused).await.unwrap() else {
        panic!("it must conflict");
    };
    assert_eq!(now, [None, Some(kv("/conflict/b", "now", at))]);
}

async fn nothing_changed_is_no_revision<S: WatchStore>(store: &S) {
    let before = commit(store, Txn::default().put("/none/a", "1")).await;
    let after = commit(store, Txn::default().delete("/none/absent")).await;
    assert_eq!(after, before);
    assert_eq!(
        commit(store, Txn::default().when("/none/a", before)).await,
        before
    );
}

async fn malformed_transactions_are_rejected<S: WatchStore>(store: &S) {
    let twice = Txn::default().put("/bad/a", "1").delete("/bad/a");
    let unnamed = Txn::default().put("", "1");
    let mut wide = Txn::default();
    for i in 0..=margay_datastore::MAX_TXN_OPS {
        wide = wide.put(format!("/bad/{i}"), "1");
    }
    let huge = Txn::default().put("/bad/huge", vec![b'x'; 4 << 20]);
    for bad in [twice, unnamed, wide, huge] {
        let refused = store.txn(bad).await.unwrap_err();
        assert!(matches!(refused, StoreError::Rejected { .. }), "{refused}");
    }
    assert!(store.list("/bad/").await.unwrap().kvs.is_empty());
}

async fn large_values_come_back_whole<S: WatchStore>(store: &S) {
    let value: Vec<u8> = (0..1_u32 << 20).map(|i| (i * 7 % 251) as u8).collect();
    let mut watch = store.watch("/large/", 0);
    // "What comes next" begins when the store has the watch; the mark shows that it has.
    for key in [
        "/large/mark",
        "/large/a",
        "/large/b",
        "/large/c",
        "/large/d",
        "/large/e",
    ] {
        commit(store, Txn::default().put(key, value.clone())).await;
    }
    let listing = store.list("/large/").await.unwrap();
    assert_eq!(listing.kvs.len(), 6);
    assert!(listing.kvs.iter().all(|kv| kv.value == value));
    loop {
        let event = next(&mut watch).await;
        let Change::Put(kv) = &event.changes[0] else {
            panic!("a put");
        };
        assert_eq!(kv.value, value);
        if kv.key == "/large/e" {
            break;
        }
    }
}

async fn concurrent_writers_lose_no_update<S: WatchStore + Clone + 'static>(store: &S) {
    const WRITERS: usize = 8;
    const EACH: usize = 10;
    let add = |store: S| async move {
        for _ in 0..EACH {
            loop {
                let now = store.get("/count/n").await.unwrap();
                let at = now.as_ref().map_or(0, |kv| kv.mod_revision);
                let n: usize = now.map_or(0, |kv| {
                    String::from_utf8(kv.value).unwrap().parse().unwrap()
                });
                let txn = Txn::default()
                    .when("/count/n", at)
                    .put("/count/n", (n + 1).to_string());
                if let TxnOutcome::Committed(_) = store.txn(txn).await.unwrap() {
                    break;
                }
            }
        }
    };
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| tokio::spawn(add(store.clone())))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let total = store.get("/count/n").await.unwrap().unwrap();
    assert_eq!(total.value, (WRITERS * EACH).to_string().as_bytes());
}

async fn a_watch_tells_each_transaction_once_and_in_order<S: WatchStore>(store: &S) {
    let from = store.list("/watch/").await.unwrap().revision + 1;
    let mut watch = store.watch("/watch/", from);
    let first = commit(
        store,
        Txn::default().put("/watch/a", "1").put("/watch/b", "1"),
    )
    .await;
    let second = commit(
        store,
        Txn::default().delete("/watch/a").put("/watch/b", "2"),
    )
    .await;
    let third = commit(store, Txn::default().delete("/watch/b")).await;

    let mut event = next(&mut watch).await;
    event.changes.sort_by(|a, b| a.key().cmp(b.key()));
    assert_eq!(event.revision, first);
    assert_eq!(
        event.changes,
        [
            Change::Put(kv("/watch/a", "1", first)),
            Change::Put(kv("/watch/b", "1", first))
        ]
    );
    let mut event = next(&mut watch).await;
    event.changes.sort_by(|a, b| a.key().cmp(b.key()));
    assert_eq!(event.revision, second);
    let deleted = |key: &str| Change::Delete { key: key.into() };
    assert_eq!(
        event.changes,
        [
            deleted("/watch/a"),
            Change::Put(kv("/watch/b", "2", second))
        ]
    );
    let event = next(&mut watch).await;
    assert_eq!(
        (event.revision, event.changes),
        (third, vec![deleted("/watch/b")])
    );
}

async fn a_watch_resumes_where_the_listing_ended<S: WatchStore>(store: &S) {
    commit(store, Txn::default().put("/resume/a", "1")).await;
    let listing = store.list("/resume/").await.unwrap();
    let mut expected = Vec::new();
    for i in 0..50 {
        let key = format!("/resume/{i}");
        expected.push(commit(store, Txn::default().put(key, "x")).await);
    }
    let mut watch = store.watch("/resume/", listing.revision + 1);
    for revision in expected {
        assert_eq!(next(&mut watch).await.revision, revision);
    }
}

async fn a_watch_sees_its_prefix_only<S: WatchStore>(store: &S) {
    let from = store.list("/only/").await.unwrap().revision + 1;
    let mut watch = store.watch("/only/in/", from);
    commit(
        store,
        Txn::default().put("/only/out", "x").put("/only/in/a", "x"),
    )
    .await;
    commit(store, Txn::default().put("/only/out", "y")).await;
    let last = commit(store, Txn::default().put("/only/in/b", "x")).await;
    let event = next(&mut watch).await;
    assert_eq!(event.changes.len(), 1);
    assert_eq!(event.changes[0].key(), "/only/in/a");
    let event = next(&mut watch).await;
    assert_eq!(
        (event.revision, event.changes[0].key()),
        (last, "/only/in/b")
    );
}

async fn a_compacted_watch_says_so<S, F>(store: &S, compact: impl Fn(Revision) -> F)
where
    S: WatchStore,
    F: Future<Output = ()>,
{
    let first = commit(store, Txn::default().put("/compact/a", "1")).await;
    commit(store, Txn::default().put("/compact/a", "2")).await;
    let last = commit(store, Txn::default().put("/compact/a", "3")).await;
    compact(last).await;
    let mut watch = store.watch("/compact/", first);
    let ended = loop {
        match timeout(SOON, watch.next())
            .await
            .expect("an answer in time")
        {
            Ok(event) => assert!(event.changes.is_empty(), "the past is gone: {event:?}"),
            Err(ended) => break ended,
        }
    };
    assert_eq!(
        ended,
        WatchError::Compacted {
            compact_revision: last
        }
    );
    assert!(timeout(SOON, watch.next()).await.unwrap().is_err());
    let mut watch = store.watch("/compact/", last);
    assert_eq!(next(&mut watch).await.revision, last);
}
