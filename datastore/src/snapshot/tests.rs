use super::*;

fn kv(key: &str, revision: Revision) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: format!("{key}@{revision}").into_bytes(),
        mod_revision: revision,
    }
}

fn deleted(key: &str, revision: Revision) -> SyncEvent {
    let key = key.to_owned();
    SyncEvent::Delete { key, revision }
}

/// Plays the events to a follower and waits until `expected` is what the file holds.
async fn kept(path: &Path, owner: &str, events: Vec<SyncEvent>, expected: &[KeyValue]) {
    let snapshot = Snapshot::keep(path, owner).unwrap();
    let (tx, rx) = mpsc::channel(64);
    let (follower, mut heard) = mpsc::channel(64);
    let task = tokio::spawn(snapshot.follow("t", rx, follower));
    for event in &events {
        tx.send(event.clone()).await.unwrap();
        assert_eq!(heard.recv().await.as_ref(), Some(event));
    }
    // What is noted leaves after the pause, whatever the clock of the test says.
    tokio::time::sleep(APART * 2).await;
    drop(tx);
    task.await.unwrap();
    let path = path.to_owned();
    let owner = owner.to_owned();
    let read = move || loop {
        // Held by the thread until it has written.
        if let Ok(read) = Snapshot::read(&path, &owner, "t") {
            return read;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let read = tokio::task::spawn_blocking(read).await.unwrap();
    assert_eq!(read.unwrap_or_default(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_what_the_follower_last_saw() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/snapshot");
    assert!(Snapshot::read(&path, "a", "t").unwrap().is_none());
    let listed = vec![
        SyncEvent::Init,
        SyncEvent::InitApply(kv("/a", 1)),
        SyncEvent::InitApply(kv("/b", 2)),
        SyncEvent::InitDone { revision: 2 },
        SyncEvent::Apply(kv("/c", 3)),
        SyncEvent::Apply(kv("/b", 4)),
        deleted("/a", 5),
    ];
    kept(&path, "a", listed, &[kv("/b", 4), kv("/c", 3)]).await;
    // Changes without a list, as after a start from the snapshot.
    let changes = vec![SyncEvent::Apply(kv("/d", 6)), deleted("/c", 7)];
    kept(&path, "a", changes, &[kv("/b", 4), kv("/d", 6)]).await;
    // A list takes away what it does not name.
    let listed = vec![
        SyncEvent::Init,
        SyncEvent::InitApply(kv("/d", 8)),
        SyncEvent::InitDone { revision: 9 },
    ];
    kept(&path, "a", listed, &[kv("/d", 8)]).await;
}

#[tokio::test(start_paused = true)]
async fn half_a_list_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot");
    let whole = vec![
        SyncEvent::Init,
        SyncEvent::InitApply(kv("/a", 1)),
        SyncEvent::InitDone { revision: 1 },
    ];
    kept(&path, "a", whole, &[kv("/a", 1)]).await;
    let half = vec![SyncEvent::Init, SyncEvent::InitApply(kv("/b", 2))];
    kept(&path, "a", half, &[kv("/a", 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn what_another_owner_left_is_not_read_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot");
    kept(
        &path,
        "a",
        vec![SyncEvent::Apply(kv("/a", 1))],
        &[kv("/a", 1)],
    )
    .await;
    assert!(Snapshot::read(&path, "b", "t").unwrap().is_none());
    kept(
        &path,
        "b",
        vec![SyncEvent::Apply(kv("/b", 2))],
        &[kv("/b", 2)],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_is_told_and_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot");
    fs::write(
        &path,
        "not a database, and longer than a header".repeat(200),
    )
    .unwrap();
    let error = Snapshot::read(&path, "a", "t").unwrap_err();
    assert!(error.to_string().starts_with("snapshot /"), "{error}");
    kept(
        &path,
        "a",
        vec![SyncEvent::Apply(kv("/a", 1))],
        &[kv("/a", 1)],
    )
    .await;
}
