//! The agent's side of the socket store: one request in, answer lines out.

use std::io;
use std::time::Duration;

use margay_api::store::{StoreReply, StoreRequest};
use margay_model::store::{Revision, StoreError, TxnOutcome};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::watch::WatchStore;
use crate::wire;

/// An idle watch writes an empty event this often, which is how it finds out that its reader is gone.
const WATCH_HEARTBEAT: Duration = Duration::from_secs(5);

/// Answers `request` from `store`. A watch is served until the store ends it or the writer fails; the
/// caller decides who may ask (the socket's peer credentials) and closes the connection afterwards.
///
/// Cancelling it leaves the fate of a transaction open, and at most a part of a line written.
pub async fn serve_store_request<S, W>(
    store: &S,
    request: StoreRequest,
    writer: &mut W,
) -> io::Result<()>
where
    S: WatchStore,
    W: AsyncWrite + Unpin,
{
    let reply = match request {
        StoreRequest::Watch {
            prefix,
            from_revision,
        } => return serve_watch(store, &prefix, from_revision, writer).await,
        other => answer(store, other).await.unwrap_or_else(wire::store_error),
    };
    write_line(writer, &reply).await
}

async fn answer<S: WatchStore>(store: &S, request: StoreRequest) -> Result<StoreReply, StoreError> {
    Ok(match request {
        StoreRequest::Get { key } => StoreReply::Value(store.get(&key).await?.map(wire::key_value)),
        StoreRequest::List { prefix } => {
            let listing = store.list(&prefix).await?;
            StoreReply::Listing {
                kvs: listing.kvs.into_iter().map(wire::key_value).collect(),
                revision: listing.revision,
            }
        }
        StoreRequest::Txn { compares, ops } => {
            match store.txn(wire::read_txn(compares, ops)?).await? {
                TxnOutcome::Committed(revision) => StoreReply::Committed { revision },
                TxnOutcome::Conflict(kvs) => StoreReply::Conflict {
                    kvs: kvs.into_iter().map(|kv| kv.map(wire::key_value)).collect(),
                },
            }
        }
        StoreRequest::Watch { .. } => StoreReply::Rejected {
            reason: "a watch has no single answer".into(),
        },
    })
}

async fn serve_watch<S, W>(
    store: &S,
    prefix: &str,
    from_revision: Revision,
    writer: &mut W,
) -> io::Result<()>
where
    S: WatchStore,
    W: AsyncWrite + Unpin,
{
    let mut watch = store.watch(prefix, from_revision);
    let mut revision = from_revision - 1;
    // At once, so that the client knows the watch is running.
    write_line(writer, &alive(revision)).await?;
    loop {
        // `Watch::next` is cancel-safe: the heartbeat loses no event.
        let reply = match timeout(WATCH_HEARTBEAT, watch.next()).await {
            Ok(Ok(event)) => {
                revision = event.revision;
                wire::event(event)
            }
            Ok(Err(error)) => return write_line(writer, &wire::watch_error(error)).await,
            Err(_elapsed) => alive(revision),
        };
        write_line(writer, &reply).await?;
    }
}

fn alive(revision: Revision) -> StoreReply {
    StoreReply::Event {
        revision,
        changes: Vec::new(),
    }
}

async fn write_line<W: AsyncWrite + Unpin>(writer: &mut W, reply: &StoreReply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.flush().await
}
