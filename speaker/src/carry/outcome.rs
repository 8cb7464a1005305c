//! What became of the sessions that the process before had left, for whoever is to be told.

use std::time::Duration;

use crate::TookOver;

/// Decided once, soon after the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was left: it crashed, or nobody keeps descriptors for it, or there was none.
    NothingLeft,
    /// Another process had taken it over, and crashed.
    TakenBefore,
    /// What was left is damaged, or of another version of its form.
    Unreadable,
    /// Nobody was to go on with it: no configuration came in time, or there is to be no speaker.
    Unserved,
    /// It was taken over.
    TakenOver {
        /// Sessions that go on.
        kept: usize,
        /// Sessions that were up, and start anew.
        lost: usize,
        /// For so long nobody has served them.
        pause: Duration,
    },
}

impl From<TookOver> for Outcome {
    fn from(took: TookOver) -> Self {
        match took {
            TookOver::Unreadable => Self::Unreadable,
            TookOver::Sessions { kept, lost, pause } => Self::TakenOver { kept, lost, pause },
        }
    }
}

impl Outcome {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NothingLeft => "nothing_left",
            Self::TakenBefore => "taken_before",
            Self::Unreadable => "unreadable",
            Self::Unserved => "unserved",
            Self::TakenOver { .. } => "taken_over",
        }
    }

    /// Sessions that go on, those that do not, and for how long nobody has served them.
    #[must_use]
    pub const fn sessions(self) -> (usize, usize, Duration) {
        match self {
            Self::TakenOver { kept, lost, pause } => (kept, lost, pause),
            _ => (0, 0, Duration::ZERO),
        }
    }
}
