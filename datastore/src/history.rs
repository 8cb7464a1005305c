//! The recent past of an in-process store, for its watchers: bounded in events and in bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use margay_model::store::Revision;
use tokio::sync::watch as latest;

use crate::watch::{Change, WatchError, WatchEvent};

/// Transactions kept. A watcher that falls further behind lists again; 8 k is minutes of a busy host.
const KEPT_EVENTS: usize = 8192;

/// Bytes of values kept, so that large values cannot pin the memory of 8 k transactions.
const KEPT_BYTES: usize = 32 << 20;

/// Shared by a store and its watchers; clones are the same history.
#[derive(Clone, Debug)]
pub(crate) struct History(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    // A mutex because the store writes and any number of watchers read; held for a copy at most.
    past: Mutex<Past>,
    signal: latest::Sender<Signal>,
}

#[derive(Debug)]
struct Past {
    events: VecDeque<Arc<WatchEvent>>,
    bytes: usize,
    /// The oldest revision that can be watched from.
    oldest: Revision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signal {
    /// The store's revision.
    revision: Revision,
    /// Grows when all watches are cut.
    cuts: u64,
}

impl History {
    /// A history that starts after `revision`.
    pub(crate) fn new(revision: Revision) -> Self {
        let (signal, _) = latest::channel(Signal { revision, cuts: 0 });
        Self(Arc::new(Shared {
            past: Mutex::new(Past {
                events: VecDeque::new(),
                bytes: 0,
                oldest: revision + 1,
            }),
            signal,
        }))
    }

    /// Adds the next transaction. Called in the order of revisions, after the commit.
    pub(crate) fn publish(&self, event: WatchEvent) {
        let revision = event.revision;
        {
            let mut past = self.past();
            past.bytes += weight(&event);
            past.events.push_back(Arc::new(event));
            while past.events.len() > KEPT_EVENTS || past.bytes > KEPT_BYTES {
                past.forget_oldest();
            }
        }
        self.0.signal.send_modify(|s| s.revision = revision);
    }

    /// Forgets everything before `revision`.
    pub(crate) fn compact(&self, revision: Revision) {
        let mut past = self.past();
        while past.events.front().is_some_and(|e| e.revision < revision) {
            past.forget_oldest();
        }
        past.oldest = past.oldest.max(revision);
    }

    /// Ends all watches as a broken connection would.
    pub(crate) fn cut_watches(&self) {
        self.0.signal.send_modify(|s| s.cuts += 1);
    }

    pub(crate) fn watch(&self, prefix: &str, from_revision: Revision) -> HistoryWatch {
        let mut signal = self.0.signal.subscribe();
        let now = *signal.borrow_and_update();
        HistoryWatch {
            history: self.clone(),
            signal,
            cuts: now.cuts,
            prefix: prefix.to_owned(),
            next: if from_revision > 0 {
                from_revision
            } else {
                now.revision + 1
            },
        }
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        // Each change of `Past` leaves it consistent, so a panicked holder did no harm.
        self.0.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Past {
    fn forget_oldest(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= weight(&event);
            self.oldest = event.revision + 1;
        }
    }
}

/// What an event costs to keep, in bytes.
fn weight(event: &WatchEvent) -> usize {
    let change = |c: &Change| match c {
        Change::Put(kv) => kv.key.len() + kv.value.len(),
        Change::Delete { key } => key.len(),
    };
    event.changes.iter().map(change).sum()
}

/// A reader of the history that waits at its end.
#[derive(Debug)]
pub(crate) struct HistoryWatch {
    history: History,
    signal: latest::Receiver<Signal>,
    cuts: u64,
    prefix: String,
    next: Revision,
}

impl HistoryWatch {
    /// Cancel-safe: `next` moves only when an event is returned.
    pub(crate) async fn next(&mut self) -> Result<WatchEvent, WatchError> {
        loop {
            let now = *self.signal.borrow_and_update();
            if now.cuts != self.cuts {
                return Err(lost("watches were cut"));
            }
            if let Some(event) = self.take()? {
                return Ok(event);
            }
            if self.signal.changed().await.is_err() {
                return Err(lost("the store was closed"));
            }
        }
    }

    fn take(&mut self) -> Result<Option<WatchEvent>, WatchError> {
        let past = self.history.past();
        if self.next < past.oldest {
            return Err(WatchError::Compacted {
                compact_revision: past.oldest,
            });
        }
        let start = past.events.partition_point(|e| e.revision < self.next);
        for event in past.events.range(start..) {
            self.next = event.revision + 1;
            let changes: Vec<Change> = event
                .changes
                .iter()
                .filter(|c| c.key().starts_with(&self.prefix))
                .cloned()
                .collect();
            if !changes.is_empty() {
                return Ok(Some(WatchEvent {
                    revision: event.revision,
                    changes,
                }));
            }
        }
        Ok(None)
    }
}

fn lost(reason: &str) -> WatchError {
    WatchError::Lost {
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use margay_model::store::KeyValue;

    use super::*;

    fn put(revision: Revision, bytes: usize) -> WatchEvent {
        WatchEvent {
            revision,
            changes: vec![Change::Put(KeyValue {
                key: "/a".into(),
                value: vec![0; bytes],
                mod_revision: revision,
            })],
        }
    }

    #[tokio::test]
    async fn large_values_push_out_the_past_and_a_slow_watcher_is_told() {
        let history = History::new(0);
        let mut slow = history.watch("/", 1);
        for revision in 1..=40 {
            history.publish(put(revision, 1 << 20));
        }
        assert!(history.past().bytes <= KEPT_BYTES);
        let Err(WatchError::Compacted { compact_revision }) = slow.next().await else {
            panic!("a watcher behind the history must be told");
        };
        let mut again = history.watch("/", compact_revision);
        assert_eq!(again.next().await.unwrap().revision, compact_revision);
    }

    #[tokio::test]
    async fn number_of_events_is_bounded() {
        let history = History::new(0);
        for revision in 1..=(KEPT_EVENTS as i64 + 10) {
            history.publish(put(revision, 1));
        }
        assert_eq!(history.past().events.len(), KEPT_EVENTS);
        assert_eq!(history.past().oldest, 11);
    }
}
