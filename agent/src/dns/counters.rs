//! What the responder has done, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::answer::Outcome;

/// Counted since the agent started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) found: AtomicU64,
    pub(crate) no_data: AtomicU64,
    pub(crate) no_name: AtomicU64,
    /// Also what is no query that we know.
    pub(crate) refused: AtomicU64,
    /// Answered by another name server.
    pub(crate) forwarded: AtomicU64,
    /// No other name server answered.
    pub(crate) failed: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, outcome: Outcome) {
        bump(match outcome {
            Outcome::Found => &self.found,
            Outcome::NoData => &self.no_data,
            Outcome::NoName => &self.no_name,
            Outcome::Refused => &self.refused,
        });
    }

    /// By the word that the metric has for it.
    pub(crate) fn all(&self) -> [(&'static str, u64); 6] {
        [
            ("found", &self.found),
            ("no_data", &self.no_data),
            ("no_name", &self.no_name),
            ("refused", &self.refused),
            ("forwarded", &self.forwarded),
            ("failed", &self.failed),
        ]
        .map(|(word, counter)| (word, counter.load(Ordering::Relaxed)))
    }
}

pub(super) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
