//! Real etcd: the suite, then TLS, users, restarts and the loss of a leader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use margay_datastore::{AnyStore, DatastoreConfig, EtcdStore, Secret, SyncStatus, connect};
use margay_lab::{Etcd, EtcdCluster, EtcdTls};
use margay_model::store::{Store, StoreError, Txn, TxnOutcome};

use crate::mirror::Mirror;
use crate::suite::conformance;

fn config(endpoints: Vec<String>) -> DatastoreConfig {
    DatastoreConfig {
        endpoints,
        ..DatastoreConfig::default()
    }
}

fn driver(endpoint: &str) -> EtcdStore {
    EtcdStore::new(&config(vec![endpoint.to_owned()])).unwrap()
}

async fn put(store: &impl Store, key: &str, value: &str) {
    store.txn(Txn::default().put(key, value)).await.unwrap();
}

#[tokio::test]
async fn etcd_conforms() {
    let etcd = Arc::new(Etcd::start().unwrap());
    let AnyStore::Etcd(store) = connect(&config(vec![etcd.url().to_owned()])).unwrap() else {
        panic!("the etcd driver was asked for");
    };
    conformance(store, |at| {
        let etcd = Arc::clone(&etcd);
        async move {
            etcd.ctl(&["compaction", &at.to_string()]).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_list_of_many_pages_is_whole_and_in_order() {
    let etcd = Etcd::start().unwrap();
    let store = driver(etcd.url());
    for chunk in 0..82 {
        let mut txn = Txn::default();
        for i in 0..128 {
            txn = txn.put(format!("/many/{:06}", chunk * 128 + i), "x");
        }
        store.txn(txn).await.unwrap();
    }
    let listing = store.list("/many/").await.unwrap();
    assert_eq!(listing.kvs.len(), 82 * 128);
    assert!(listing.kvs.is_sorted_by(|a, b| a.key < b.key));
}

#[tokio::test]
async fn tls_with_a_client_certificate_works_and_without_is_refused() {
    let tls = EtcdTls::new("agent").unwrap();
    let etcd = Etcd::start_tls(&tls).unwrap();
    let with = DatastoreConfig {
        ca_cert_file: Some(tls.file("ca.pem")),
        cert_file: Some(tls.file("client.pem")),
        key_file: Some(tls.file("client.key")),
        ..config(vec![etcd.url().to_owned()])
    };
    let store = EtcdStore::new(&with).unwrap();
    put(&store, "/tls/a", "1").await;
    let mut mirror = Mirror::of(store.clone(), "/tls/");
    mirror.until(|m| m.len() == 1).await;
    put(&store, "/tls/b", "1").await;
    mirror.until(|m| m.len() == 2).await;

    let nameless = DatastoreConfig {
        cert_file: None,
        key_file: None,
        request_timeout_ms: 1000,
        ..with.clone()
    };
    let refused = EtcdStore::new(&nameless).unwrap().get("/tls/a").await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })));

    let stranger = EtcdTls::new("agent").unwrap();
    let untrusting = DatastoreConfig {
        ca_cert_file: Some(stranger.file("ca.pem")),
        request_timeout_ms: 1000,
        ..with
    };
    let refused = EtcdStore::new(&untrusting).unwrap().get("/tls/a").await;
    let text = refused.unwrap_err().to_string();
    assert!(text.to_lowercase().contains("certificate"), "{text}");
}

#[tokio::test]
async fn users_see_what_their_role_allows() {
    let etcd = Etcd::start().unwrap();
    for args in [
        "user add root:secret",
        "user add agent:hush",
        "role add agent",
        "role grant-permission agent --prefix=true readwrite /calico/",
        "user grant-role agent agent",
        "auth enable",
    ] {
        etcd.ctl(&args.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let user = |password: &str| DatastoreConfig {
        username: Some("agent".into()),
        password: Some(Secret::new(password)),
        ..config(vec![etcd.url().to_owned()])
    };
    let store = EtcdStore::new(&user("hush")).unwrap();
    put(&store, "/calico/a", "1").await;
    let mut mirror = Mirror::of(store.clone(), "/calico/");
    mirror.until(|m| m.len() == 1).await;
    let refused = store.get("/other").await.unwrap_err();
    assert!(matches!(&refused, StoreError::PermissionDenied { key, .. } if key == "/other"));
    let refused = store.txn(Txn::default().put("/other", "1")).await;
    assert!(matches!(refused, Err(StoreError::PermissionDenied { .. })));

    let wrong = EtcdStore::new(&user("hash")).unwrap();
    let refused = wrong.get("/calico/a").await.unwrap_err();
    assert!(
        matches!(refused, StoreError::PermissionDenied { .. }),
        "{refused}"
    );
    assert!(!refused.to_string().contains("hash"));
    let nobody = driver(etcd.url()).get("/calico/a").await.unwrap_err();
    assert!(
        matches!(nobody, StoreError::PermissionDenied { .. }),
        "{nobody}"
    );
}

#[tokio::test]
async fn the_name_in_a_client_certificate_is_a_user() {
    let tls = EtcdTls::new("agent").unwrap();
    let etcd = Etcd::start_tls(&tls).unwrap();
    let flag = |flag: &str, file: &str| format!("--{flag}={}", tls.file(file).display());
    let flags = [
        flag("cacert", "ca.pem"),
        flag("cert", "client.pem"),
        flag("key", "client.key"),
    ];
    for words in [
        "user add root --no-password",
        "user grant-role root root",
        "user add agent --no-password",
        "role add agent",
        "role grant-permission agent --prefix=true readwrite /calico/",
        "user grant-role agent agent",
        "auth enable",
    ] {
        let args = flags.iter().map(String::as_str).chain(words.split(' '));
        etcd.ctl(&args.collect::<Vec<_>>()).unwrap();
    }
    let store = EtcdStore::new(&DatastoreConfig {
        ca_cert_file: Some(tls.file("ca.pem")),
        cert_file: Some(tls.file("client.pem")),
        key_file: Some(tls.file("client.key")),
        ..config(vec![etcd.url().to_owned()])
    })
    .unwrap();
    put(&store, "/calico/a", "1").await;
    let mut mirror = Mirror::of(store.clone(), "/calico/");
    mirror.until(|m| m.len() == 1).await;
    let refused = store.get("/other").await.unwrap_err();
    assert!(
        matches!(refused, StoreError::PermissionDenied { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn a_user_is_ignored_where_authentication_is_off() {
    let etcd = Etcd::start().unwrap();
    let config = DatastoreConfig {
        username: Some("agent".into()),
        password: Some(Secret::new("hush")),
        ..config(vec![etcd.url().to_owned()])
    };
    put(&EtcdStore::new(&config).unwrap(), "/calico/a", "1").await;
}

#[tokio::test]
async fn tokens_of_a_restarted_etcd_are_renewed() {
    let mut etcd = Etcd::start().unwrap();
    for args in [
        "user add root:secret",
        "user grant-role root root",
        "auth enable",
    ] {
        etcd.ctl(&args.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let store = EtcdStore::new(&DatastoreConfig {
        username: Some("root".into()),
        password: Some(Secret::new("secret")),
        ..config(vec![etcd.url().to_owned()])
    })
    .unwrap();
    put(&store, "/a", "1").await;
    etcd.restart().unwrap();
    let found = store.get("/a").await.unwrap();
    assert!(found.is_some());
}

#[tokio::test]
async fn a_watch_survives_a_restart_of_etcd() {
    let mut etcd = Etcd::start().unwrap();
    let store = driver(etcd.url());
    put(&store, "/r/a", "1").await;
    put(&store, "/r/b", "1").await;
    let mut mirror = Mirror::of(store.clone(), "/r/");
    mirror.until(|m| m.len() == 2).await;
    let mut status = mirror.syncer.status();
    status.wait_for(SyncStatus::is_connected).await.unwrap();

    etcd.kill().unwrap();
    status.wait_for(|s| !s.is_connected()).await.unwrap();
    let begun = Instant::now();
    let down = store.get("/r/a").await.unwrap_err();
    assert!(matches!(down, StoreError::Unavailable { .. }), "{down}");
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "nobody listens: say so at once"
    );

    etcd.restart().unwrap();
    let txn = Txn::default().delete("/r/a").put("/r/c", "1");
    store.txn(txn).await.unwrap();
    mirror.until(|m| m.keys().eq(["/r/b", "/r/c"])).await;
    status.wait_for(SyncStatus::is_connected).await.unwrap();
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let etcd = Etcd::start().unwrap();
    let dead = format!("http://127.0.0.1:{}", margay_lab::free_port().unwrap());
    let store = EtcdStore::new(&config(vec![dead, etcd.url().to_owned()])).unwrap();
    put(&store, "/a", "1").await;
    let mut mirror = Mirror::of(store, "/");
    mirror.until(|m| m.len() == 1).await;
}

/// Writes numbered keys until told to stop; the numbers acknowledged.
async fn write_on(
    store: EtcdStore,
    mut stop: tokio::sync::watch::Receiver<bool>,
) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    let mut n = 0;
    while !*stop.borrow_and_update() {
        let key = format!("/w/{n:06}");
        // A transaction of unknown fate is looked at, as every caller has to.
        let txn = Txn::default().when(key.as_str(), 0).put(key.as_str(), "x");
        match store.txn(txn).await {
            Ok(TxnOutcome::Committed(_) | TxnOutcome::Conflict(_)) => {
                acknowledged.insert(key);
                n += 1;
            }
            Err(StoreError::Unavailable { .. }) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
    acknowledged
}

#[tokio::test]
async fn losing_the_leader_loses_no_write_and_no_event() {
    let mut cluster = EtcdCluster::start(3).unwrap();
    let store = EtcdStore::new(&config(cluster.urls())).unwrap();
    let mut mirror = Mirror::of(store.clone(), "/w/");
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = tokio::spawn(write_on(store.clone(), stopped));
    mirror.until(|m| m.len() > 200).await;

    let leader = cluster.leader().unwrap();
    cluster.member(leader).kill().unwrap();
    let before = mirror.state.len();
    mirror.until(|m| m.len() > before + 500).await;
    stop.send_replace(true);
    let acknowledged = writer.await.unwrap();
    mirror.until(|m| m.len() >= acknowledged.len()).await;

    let listing = store.list("/w/").await.unwrap();
    let stored: BTreeSet<String> = listing.kvs.into_iter().map(|kv| kv.key).collect();
    assert!(acknowledged.is_subset(&stored));
    assert!(mirror.state.keys().eq(stored.iter()));
}
