//! A stand-in for the agent: serves an embedded store and a status on a socket.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use margay_api::status::{BgpStatus, DataplaneStatus, DatastoreStatus, NodeStatus};
use margay_api::{Reply, Request};
use margay_datastore::{EmbeddedStore, serve_store_request};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

/// Answers until it is dropped.
pub(crate) struct Standin {
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Standin {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("store.redb")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(folder.path().join("s")).unwrap()
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = serve(listener, store) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            folder,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// A folder of its own.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn serve(listener: UnixListener, store: EmbeddedStore) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let store = store.clone();
        // A client that goes away in the middle is no fault of the stand-in.
        tokio::spawn(async move { drop(answer(stream, store).await) });
    }
}

async fn answer(stream: UnixStream, store: EmbeddedStore) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).await?;
    let reply = match serde_json::from_str::<Request>(&line)? {
        Request::Store(request) => return serve_store_request(&store, request, &mut writer).await,
        Request::NodeStatus {} => Reply::Ok(status()),
        _ => Reply::Error("a stand-in knows nothing of that".to_owned()),
    };
    writer
        .write_all((serde_json::to_string(&reply)? + "\n").as_bytes())
        .await
}

fn status() -> NodeStatus {
    NodeStatus {
        node: "n1".to_owned(),
        version: "9.9.9".to_owned(),
        ready: true,
        not_ready_reasons: Vec::new(),
        uptime_secs: 61,
        datastore: DatastoreStatus {
            driver: "embedded".to_owned(),
            connected: true,
            since_secs: 61,
            detail: String::new(),
        },
        bgp: BgpStatus {
            local_as: 64512,
            router_id: "192.0.2.1".to_owned(),
            peers: Vec::new(),
        },
        dataplane: DataplaneStatus {
            backend: "iptables-nft".to_owned(),
            endpoints: 2,
            routes: 3,
            failing: Vec::new(),
        },
    }
}
