//! The store behind an agent's socket: how other processes on the host use an embedded store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use margay_api::Request;
use margay_api::store::{StoreReply, StoreRequest};
use margay_model::store::{KeyValue, Listing, Revision, Store, StoreError, Txn, TxnOutcome};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::txn::{rejected, unavailable};
use crate::watch::{Watch, WatchError, WatchEvent, WatchStore};
use crate::wire;

/// How long one request may take; the agent's own store has 5 s by default.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The agent writes to an idle watch every 5 s; after this silence it counts as gone.
const WATCH_SILENCE: Duration = Duration::from_secs(20);

/// A connection per request: connecting to a local socket costs microseconds.
#[derive(Clone, Debug)]
pub struct SocketStore {
    path: Arc<PathBuf>,
}

impl SocketStore {
    /// Connects to nothing yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: Arc::new(path.to_owned()),
        }
    }

    async fn ask(&self, key: &str, request: StoreRequest) -> Result<StoreReply, StoreError> {
        let exchange = async {
            let mut lines = Lines::open(&self.path, request).await?;
            lines.next().await
        };
        let answer = timeout(REQUEST_TIMEOUT, exchange)
            .await
            .map_err(|_elapsed| unavailable("the agent did not answer within 10 s"))?;
        match answer.map_err(|e| self.failed(key, &e))? {
            StoreReply::Unavailable { reason } => Err(StoreError::Unavailable { reason }),
            StoreReply::Rejected { reason } | StoreReply::Error(reason) => {
                Err(StoreError::Rejected { reason })
            }
            StoreReply::PermissionDenied { key, reason } => {
                Err(StoreError::PermissionDenied { key, reason })
            }
            reply => Ok(reply),
        }
    }

    fn failed(&self, key: &str, error: &io::Error) -> StoreError {
        let path = self.path.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => StoreError::PermissionDenied {
                key: key.to_owned(),
                reason: format!("agent socket {path}: {error}"),
            },
            io::ErrorKind::InvalidData => rejected(format!("agent socket {path}: {error}")),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                unavailable(format!("no agent listens on {path}: {error}"))
            }
            _ => unavailable(format!("agent socket {path}: {error}")),
        }
    }
}

/// The answer lines of one connection.
struct Lines {
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
}

impl Lines {
    async fn open(path: &Path, request: StoreRequest) -> io::Result<Self> {
        let mut stream = UnixStream::connect(path).await?;
        let mut line = serde_json::to_vec(&Request::Store(request))?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        line.clear();
        Ok(Self {
            stream: BufReader::new(stream),
            line,
        })
    }

    async fn next(&mut self) -> io::Result<StoreReply> {
        self.line.clear();
        self.stream.read_until(b'\n', &mut self.line).await?;
        if self.line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_slice(&self.line)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

fn unexpected(reply: &StoreReply) -> StoreError {
    rejected(format!("the agent answered something else: {reply:?}"))
}

impl Store for SocketStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let request = StoreRequest::Get {
            key: key.to_owned(),
        };
        match self.ask(key, request).await? {
            StoreReply::Value(kv) => kv.map(wire::read_key_value).transpose(),
            other => Err(unexpected(&other)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let request = StoreRequest::List {
            prefix: prefix.to_owned(),
        };
        match self.ask(prefix, request).await? {
            StoreReply::Listing { kvs, revision } => Ok(Listing {
                kvs: kvs
                    .into_iter()
                    .map(wire::read_key_value)
                    .collect::<Result<_, _>>()?,
                revision,
            }),
            other => Err(unexpected(&other)),
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let key = txn.ops.first().map_or("", |op| op.key()).to_owned();
        match self.ask(&key, wire::txn_request(txn)).await? {
            StoreReply::Committed { revision } => Ok(TxnOutcome::Committed(revision)),
            StoreReply::Conflict { kvs } => {
                let read = |kv: Option<_>| kv.map(wire::read_key_value).transpose();
                let kvs = kvs.into_iter().map(read).collect::<Result<_, _>>()?;
                Ok(TxnOutcome::Conflict(kvs))
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl WatchStore for SocketStore {
    fn watch(&self, prefix: &str, from_revision: Revision) -> Watch {
        let path = Arc::clone(&self.path);
        let request = StoreRequest::Watch {
            prefix: prefix.to_owned(),
            from_revision,
        };
        Watch::spawn(|tx| async move {
            match follow(&path, request, &tx).await {
                Ok(ended) => ended,
                Err(error) => lost(format!("agent socket {}: {error}", path.display())),
            }
        })
    }
}

type Events = mpsc::Sender<Result<WatchEvent, WatchError>>;

async fn follow(path: &Path, request: StoreRequest, tx: &Events) -> io::Result<WatchError> {
    let mut lines = Lines::open(path, request).await?;
    loop {
        let reply = timeout(WATCH_SILENCE, lines.next())
            .await
            .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        let event = match reply {
            StoreReply::Event { revision, changes } => match wire::read_changes(changes) {
                Ok(changes) => WatchEvent { revision, changes },
                Err(error) => return Ok(lost(error.to_string())),
            },
            StoreReply::Compacted { compact_revision } => {
                return Ok(WatchError::Compacted { compact_revision });
            }
            StoreReply::WatchLost { reason } | StoreReply::Error(reason) => {
                return Ok(lost(reason));
            }
            other => return Ok(lost(unexpected(&other).to_string())),
        };
        if tx.send(Ok(event)).await.is_err() {
            return Ok(lost("nobody is watching".into()));
        }
    }
}

fn lost(reason: String) -> WatchError {
    WatchError::Lost { reason }
}
