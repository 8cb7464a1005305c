//! Follows several prefixes of a store, whatever happens to the connection.
//!
//! One task: list every prefix, hand the lists over, then follow one watch of what the prefixes have in
//! common; when it breaks, begin again. Aborting the task is safe anywhere: it writes nothing.

use std::time::{Duration, Instant};

use margay_model::store::{KeyValue, Revision, StoreError};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::watch::{Change, WatchError, WatchEvent, WatchStore};

/// What a follower is told, in this order: `Init`, any number of `InitApply`, `InitDone`, then changes.
/// A new `Init` may come at any time, also before `InitDone`: collect anew, and swap at `InitDone`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncEvent {
    /// Everything follows, from the start.
    Init,
    /// A key that exists.
    InitApply(KeyValue),
    /// That was everything: what was not named since `Init` does not exist.
    InitDone {
        /// Every key is at least as new as this revision.
        revision: Revision,
    },
    /// A key was written.
    Apply(KeyValue),
    /// A key was removed.
    Delete {
        /// The key.
        key: String,
        /// The revision that removed it.
        revision: Revision,
    },
}

/// Whether the follower sees the store as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncStatus {
    /// In sync and watching.
    Connected {
        /// Since when.
        since: Instant,
    },
    /// Showing the past.
    Disconnected {
        /// Since when.
        since: Instant,
        /// What is wrong, for people.
        reason: String,
    },
}

impl SyncStatus {
    /// True when in sync and watching.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }

    fn disconnected(self, reason: String) -> Self {
        let since = match self {
            Self::Connected { .. } => Instant::now(),
            Self::Disconnected { since, .. } => since,
        };
        Self::Disconnected { since, reason }
    }
}

/// The handle of a running syncer; dropping it stops the syncer.
#[derive(Debug)]
pub struct Syncer {
    status: watch::Receiver<SyncStatus>,
    _task: AbortOnDropHandle<()>,
}

impl Syncer {
    /// Follows everything below `prefixes`. Events go to `tx`, whose depth bounds how far the syncer
    /// runs ahead; when it is full the syncer waits, and when it is closed the syncer ends.
    pub fn spawn<S>(store: S, prefixes: Vec<String>, tx: mpsc::Sender<SyncEvent>) -> Self
    where
        S: WatchStore + 'static,
    {
        let (status_tx, status) = watch::channel(SyncStatus::Disconnected {
            since: Instant::now(),
            reason: "not connected yet".into(),
        });
        let follower = Follower {
            store,
            prefixes: disjoint(prefixes),
            tx,
            status: status_tx,
        };
        Self {
            status,
            _task: AbortOnDropHandle::new(tokio::spawn(follower.run())),
        }
    }

    /// The connectivity, now and as it changes.
    pub fn status(&self) -> watch::Receiver<SyncStatus> {
        self.status.clone()
    }
}

struct Follower<S> {
    store: S,
    prefixes: Vec<String>,
    tx: mpsc::Sender<SyncEvent>,
    status: watch::Sender<SyncStatus>,
}

/// Why one round of list and watch ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("nobody listens")]
    Unheard,
}

impl<S: WatchStore> Follower<S> {
    async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let Err(ended) = self.round().await;
            if matches!(ended, Ended::Unheard) {
                return;
            }
            self.disconnected(ended.to_string());
            let pause = backoff.next(begun.elapsed());
            tokio::select! {
                () = sleep(pause) => {}
                () = self.tx.closed() => return,
            }
        }
    }

    /// Logs each reason once, not each round.
    fn disconnected(&self, why: String) {
        self.status.send_if_modified(|status| {
            let news = match status {
                SyncStatus::Connected { .. } => true,
                SyncStatus::Disconnected { reason, .. } => *reason != why,
            };
            if news {
                tracing::warn!(reason = why, "datastore out of sync");
                *status = status.clone().disconnected(why);
            }
            news
        });
    }

    /// Lists and follows until something breaks.
    async fn round(&self) -> Result<std::convert::Infallible, Ended> {
        let mut lists = Vec::with_capacity(self.prefixes.len());
        for prefix in &self.prefixes {
            lists.push(self.store.list(prefix).await?);
        }
        let listed: Vec<Revision> = lists.iter().map(|l| l.revision).collect();
        let revision = listed.iter().copied().min().unwrap_or(0);
        let mut watch = self
            .store
            .watch(common_prefix(&self.prefixes), revision + 1);
        self.send(SyncEvent::Init).await?;
        for kv in lists.into_iter().flat_map(|l| l.kvs) {
            self.send(SyncEvent::InitApply(kv)).await?;
        }
        self.send(SyncEvent::InitDone { revision }).await?;
        tracing::info!(revision, "datastore in sync");
        self.status.send_replace(SyncStatus::Connected {
            since: Instant::now(),
        });
        loop {
            tokio::select! {
                event = watch.next() => self.forward(event?, &listed).await?,
                () = self.tx.closed() => return Err(Ended::Unheard),
            }
        }
    }

    async fn forward(&self, event: WatchEvent, listed: &[Revision]) -> Result<(), Ended> {
        for change in event.changes {
            let seen = self
                .prefixes
                .iter()
                .zip(listed)
                .find(|(prefix, _)| change.key().starts_with(prefix.as_str()));
            // The watch covers more than the prefixes, and begins at the oldest of their lists.
            if seen.is_none_or(|(_, listed)| event.revision <= *listed) {
                continue;
            }
            self.send(match change {
                Change::Put(kv) => SyncEvent::Apply(kv),
                Change::Delete { key } => SyncEvent::Delete {
                    key,
                    revision: event.revision,
                },
            })
            .await?;
        }
        Ok(())
    }

    async fn send(&self, event: SyncEvent) -> Result<(), Ended> {
        self.tx.send(event).await.map_err(|_closed| Ended::Unheard)
    }
}

/// The prefixes without those that another one covers.
fn disjoint(mut prefixes: Vec<String>) -> Vec<String> {
    prefixes.sort();
    prefixes.dedup_by(|longer, kept| longer.starts_with(kept.as_str()));
    prefixes
}

/// The longest text that all of them start with: one watch of it keeps the order across prefixes.
fn common_prefix(prefixes: &[String]) -> &str {
    let Some((first, others)) = prefixes.split_first() else {
        return "";
    };
    let shared = |other: &String| {
        let mut end = 0;
        for ((at, a), b) in first.char_indices().zip(other.chars()) {
            if a != b {
                return at;
            }
            end = at + a.len_utf8();
        }
        end
    };
    let length = others.iter().map(shared).min().unwrap_or(first.len());
    &first[..length]
}

/// Pauses between rounds: doubling, each drawn from the upper half, so that the hosts of a cluster do
/// not all return in the same instant.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A round that held this long was a success: the next failure is a new story.
const HELD: Duration = Duration::from_secs(10);

impl Backoff {
    fn next(&mut self, round: Duration) -> Duration {
        if round >= HELD {
            self.failures = 0;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        doubled
            .min(LONGEST_PAUSE)
            .mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests;
