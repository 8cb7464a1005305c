//! One watch on one endpoint, until it breaks.

use std::sync::Arc;

use etcd_client::{Client, Event, EventType, WatchOptions, WatchResponse, WatchStream};
use margay_model::store::Revision;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::error::Failure;
use super::members::{MAX_MESSAGE_BYTES, Members};
use super::{key_value, range_of};
use crate::watch::{Change, WatchError, WatchEvent};

type Events = mpsc::Sender<Result<WatchEvent, WatchError>>;

/// Feeds `tx` until the watch ends; says why it ended.
pub(super) async fn run(
    members: Arc<Members>,
    prefix: String,
    from: Revision,
    tx: Events,
) -> WatchError {
    let (index, client) = match timeout(members.request_timeout(), members.client()).await {
        Ok(Ok(found)) => found,
        Ok(Err(failure)) => return lost(failure, &prefix),
        Err(_elapsed) => return lost(Failure::timeout(members.request_timeout()), &prefix),
    };
    let opened = timeout(members.request_timeout(), open(client, &prefix, from)).await;
    let failure = match opened {
        Ok(Ok(stream)) => match pump(stream, &tx).await {
            Ended::Told(error) => return error,
            Ended::Broken(failure) => failure,
        },
        Ok(Err(failure)) => failure,
        Err(_elapsed) => Failure::timeout(members.request_timeout()),
    };
    members.leave(index);
    lost(failure, &prefix)
}

async fn open(client: Client, prefix: &str, from: Revision) -> Result<WatchStream, Failure> {
    let (start, end) = range_of(prefix);
    let mut options = WatchOptions::new().with_range(end).with_progress_notify();
    if from > 0 {
        options = options.with_start_revision(from);
    }
    let stream = client
        .watch_client()
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .watch(start, Some(options))
        .await?;
    Ok(stream)
}

enum Ended {
    /// The server closed this watch and said why.
    Told(WatchError),
    /// The connection or the member is at fault: the next watch goes elsewhere.
    Broken(Failure),
}

async fn pump(mut stream: WatchStream, tx: &Events) -> Ended {
    loop {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Ended::Broken(Failure::Unknown("stream closed by etcd".into())),
            Err(error) => return Ended::Broken(error.into()),
        };
        if response.compact_revision() > 0 {
            return Ended::Told(WatchError::Compacted {
                compact_revision: response.compact_revision(),
            });
        }
        if response.canceled() {
            return Ended::Broken(Failure::Unknown(response.cancel_reason().to_owned()));
        }
        if response.created() {
            continue;
        }
        for event in by_revision(&response) {
            if tx.send(Ok(event)).await.is_err() {
                return Ended::Told(WatchError::Lost {
                    reason: "nobody is watching".into(),
                });
            }
        }
    }
}

/// One event per revision: etcd sends whole revisions, several in one message when it catches up.
fn by_revision(response: &WatchResponse) -> Vec<WatchEvent> {
    let mut events: Vec<WatchEvent> = Vec::new();
    if response.events().is_empty() {
        // Everything up to here has been sent.
        let revision = response.header().map_or(0, |h| h.revision());
        events.push(WatchEvent {
            revision,
            changes: Vec::new(),
        });
    }
    for (revision, change) in response.events().iter().filter_map(change) {
        match events.last_mut() {
            Some(last) if last.revision == revision => last.changes.push(change),
            _ => events.push(WatchEvent {
                revision,
                changes: vec![change],
            }),
        }
    }
    events
}

fn change(event: &Event) -> Option<(Revision, Change)> {
    let kv = key_value(event.kv()?.clone())?;
    let revision = kv.mod_revision;
    let change = match event.event_type() {
        EventType::Put => Change::Put(kv),
        EventType::Delete => Change::Delete { key: kv.key },
    };
    Some((revision, change))
}

fn lost(failure: Failure, prefix: &str) -> WatchError {
    match failure {
        Failure::Compacted => WatchError::Compacted {
            compact_revision: 0,
        },
        other => WatchError::Lost {
            reason: other.into_store_error(prefix).to_string(),
        },
    }
}
