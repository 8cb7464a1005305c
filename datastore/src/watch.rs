//! Watching a prefix: ordered changes, one event per revision.

use std::future::Future;

use margay_model::store::{KeyValue, Revision, Store};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::history::HistoryWatch;

/// One key changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Created or overwritten.
    Put(KeyValue),
    /// Removed.
    Delete {
        /// The key removed.
        key: String,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key } => key,
        }
    }
}

/// All changes that one transaction made below the watched prefix.
///
/// Without changes it is a progress mark: everything up to `revision` has been delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The revision of the transaction. Strictly ascending among events that carry changes.
    pub revision: Revision,
    /// What changed; a key appears once.
    pub changes: Vec<Change>,
}

/// Why a watch ended. Whoever watches lists again and starts a new watch: see `Syncer`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The revision asked for is no longer kept.
    #[error("revision was compacted away, the oldest one kept is {compact_revision}")]
    Compacted {
        /// The oldest revision that can still be watched from.
        compact_revision: Revision,
    },
    /// The connection, the leader or the store went away, or access was refused.
    #[error("watch lost: {reason}")]
    Lost {
        /// What the driver saw, without secrets.
        reason: String,
    },
}

/// A running watch. Dropping it stops it.
#[derive(Debug)]
pub struct Watch(Source);

#[derive(Debug)]
enum Source {
    /// Reads an in-process history directly.
    History(HistoryWatch),
    /// Fed by a driver's task, which is safe to abort anywhere: it holds a connection and nothing else.
    Task {
        events: mpsc::Receiver<Result<WatchEvent, WatchError>>,
        _task: AbortOnDropHandle<()>,
    },
    Ended,
}

/// Events buffered between a driver's task and the watcher. When full the task stops reading its
/// connection and the store's flow control holds the rest back.
const WATCH_DEPTH: usize = 64;

impl Watch {
    pub(crate) fn from_history(history: HistoryWatch) -> Self {
        Self(Source::History(history))
    }

    /// Runs `feed` as the watch's task. It ends the watch by returning why.
    pub(crate) fn spawn<F>(
        feed: impl FnOnce(mpsc::Sender<Result<WatchEvent, WatchError>>) -> F,
    ) -> Self
    where
        F: Future<Output = WatchError> + Send + 'static,
    {
        let (tx, events) = mpsc::channel(WATCH_DEPTH);
        let running = feed(tx.clone());
        let task = tokio::spawn(async move {
            let reason = running.await;
            // A closed channel means that the watcher is gone and wants no reason.
            drop(tx.send(Err(reason)).await);
        });
        Self(Source::Task {
            events,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// The next event, waiting for it. After an error the watch is over and says `Lost` for ever.
    ///
    /// Cancel-safe: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<WatchEvent, WatchError> {
        let next = match &mut self.0 {
            Source::History(history) => history.next().await,
            Source::Task { events, .. } => events.recv().await.unwrap_or_else(|| Err(ended())),
            Source::Ended => Err(ended()),
        };
        if next.is_err() {
            self.0 = Source::Ended;
        }
        next
    }
}

fn ended() -> WatchError {
    WatchError::Lost {
        reason: "the watch has ended".into(),
    }
}

/// A store that can be watched. Every driver is one.
pub trait WatchStore: Store {
    /// Watches everything below `prefix` from `from_revision` on (inclusive); 0 or less means whatever
    /// happens next. Use `listing.revision + 1` to miss nothing. Problems come out of `Watch::next`.
    ///
    /// Needs a running tokio runtime.
    fn watch(&self, prefix: &str, from_revision: Revision) -> Watch;
}

impl<S: WatchStore> WatchStore for std::sync::Arc<S> {
    fn watch(&self, prefix: &str, from_revision: Revision) -> Watch {
        (**self).watch(prefix, from_revision)
    }
}
