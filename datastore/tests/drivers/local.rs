//! The drivers that need nothing but this process.

use std::path::Path;

use margay_api::Request;
use margay_datastore::{
    AnyStore, DatastoreConfig, DatastoreType, EmbeddedStore, MemoryStore, SocketStore, connect,
    serve_store_request,
};
use margay_model::store::{Store, StoreError, Txn};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use crate::suite::conformance;

#[tokio::test]
async fn memory_conforms() {
    let store = MemoryStore::new();
    conformance(store.clone(), |at| {
        store.compact(at);
        async {}
    })
    .await;
}

#[tokio::test]
async fn embedded_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let config = DatastoreConfig {
        kind: DatastoreType::Embedded,
        path: dir.path().join("store.redb"),
        ..DatastoreConfig::default()
    };
    let AnyStore::Embedded(store) = connect(&config).unwrap() else {
        panic!("the embedded driver was asked for");
    };
    let any = AnyStore::Embedded(store.clone());
    conformance(any, |at| {
        store.compact(at);
        async {}
    })
    .await;
}

/// Serves the store as the agent does: one request a connection.
fn serve(store: EmbeddedStore, path: &Path) -> AbortOnDropHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(store.clone(), stream));
        }
    }))
}

async fn answer(store: EmbeddedStore, stream: UnixStream) {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).await.unwrap();
    let Request::Store(request) = serde_json::from_str(&line).unwrap() else {
        panic!("a store request");
    };
    // A watcher that leaves is an error of the writer, and none of the test.
    serve_store_request(&store, request, &mut writer).await.ok();
}

#[tokio::test]
async fn socket_over_embedded_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&dir.path().join("store.redb")).unwrap();
    let path = dir.path().join("agent.sock");
    let _server = serve(store.clone(), &path);
    conformance(SocketStore::new(&path), |at| {
        store.compact(at);
        async {}
    })
    .await;
}

#[tokio::test]
async fn socket_without_an_agent_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let store = SocketStore::new(&path);
    let error = store.get("/a").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }));
    let text = error.to_string();
    assert!(
        text.contains("no agent listens on") && text.contains("agent.sock"),
        "{text}"
    );
    assert!(store.txn(Txn::default().put("/a", "1")).await.is_err());
}

#[tokio::test]
async fn socket_that_hangs_up_or_talks_nonsense_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        for answer in ["", "{\"val", "what?\n"] {
            let (stream, _) = listener.accept().await.unwrap();
            let (reader, mut writer) = stream.into_split();
            let mut line = String::new();
            BufReader::new(reader).read_line(&mut line).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut writer, answer.as_bytes())
                .await
                .unwrap();
        }
    }));
    let store = SocketStore::new(&path);
    for _ in 0..2 {
        let cut = store.get("/a").await.unwrap_err();
        assert!(matches!(cut, StoreError::Unavailable { .. }), "{cut}");
    }
    let nonsense = store.get("/a").await.unwrap_err();
    assert!(
        matches!(nonsense, StoreError::Rejected { .. }),
        "{nonsense}"
    );
}
