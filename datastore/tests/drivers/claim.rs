//! Claims on a real etcd.

use std::time::{Duration, Instant};

use margay_datastore::{AnyStore, Claim, DatastoreConfig, connect};
use margay_lab::Etcd;
use margay_model::store::Store;

const SECOND: Duration = Duration::from_secs(1);

fn store(etcd: &Etcd) -> AnyStore {
    let config = DatastoreConfig {
        endpoints: vec![etcd.url().to_owned()],
        ..DatastoreConfig::default()
    };
    connect(&config).unwrap()
}

#[tokio::test]
async fn a_claim_has_one_holder_and_outlives_it_by_its_time() {
    let etcd = Etcd::start().unwrap();
    let store = store(&etcd);
    let mut a = Claim::new("/calico/margay/v1/x", "a", SECOND);
    let mut b = Claim::new("/calico/margay/v1/x", "b", SECOND);
    assert!(store.hold(&mut a).await.unwrap());
    assert!(!store.hold(&mut b).await.unwrap());
    assert!(store.hold(&mut a).await.unwrap());
    let held = store.get("/calico/margay/v1/x").await.unwrap().unwrap();
    assert_eq!(held.value, b"a");
    // Nobody renews it; etcd lets no lease live shorter than its election timeout.
    let begin = Instant::now();
    while !store.hold(&mut b).await.unwrap() {
        assert!(begin.elapsed() < 20 * SECOND, "the claim does not end");
        tokio::time::sleep(SECOND / 10).await;
    }
    assert!(!store.hold(&mut a).await.unwrap());
    // Taken away by an operator: free for whoever comes first.
    etcd.ctl(&["del", "/calico/margay/v1/x"]).unwrap();
    assert!(store.hold(&mut a).await.unwrap());
    assert!(!store.hold(&mut b).await.unwrap());
}

#[tokio::test]
async fn a_restarted_claimant_takes_its_own_claim_over_and_one_that_stops_leaves_it_free() {
    let etcd = Etcd::start().unwrap();
    let store = store(&etcd);
    let claim = |who: &str| Claim::new("/calico/margay/v1/x", who, 600 * SECOND);
    let (mut killed, mut next, mut other) = (claim("a"), claim("a"), claim("b"));
    assert!(store.hold(&mut killed).await.unwrap());
    assert!(store.hold(&mut next).await.unwrap());
    assert!(!store.hold(&mut other).await.unwrap());
    // Giving up what the key no longer hangs on takes nothing away.
    store.let_go(&mut killed).await.unwrap();
    assert!(!store.hold(&mut other).await.unwrap());
    store.let_go(&mut next).await.unwrap();
    store.let_go(&mut next).await.unwrap();
    assert!(store.hold(&mut other).await.unwrap());
}
