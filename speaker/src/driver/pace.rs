//! How long the turns of the core take.

use std::time::{Duration, Instant};

use tracing::warn;

/// The longest turn is told of the last one or two of these.
const WINDOW: Duration = Duration::from_secs(60);
/// A turn that is worth a look: a third of the shortest hold time.
const LONG: Duration = Duration::from_secs(1);

/// The longest turn of late.
#[derive(Debug)]
pub(super) struct Pace {
    window: Instant,
    this: Duration,
    last: Duration,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            window: now,
            this: Duration::ZERO,
            last: Duration::ZERO,
        }
    }

    /// A turn that began at `start` ends now; returns what it took.
    pub(super) fn note(&mut self, start: Instant, end: Instant) -> Duration {
        self.advance(end);
        let took = end.saturating_duration_since(start);
        self.this = self.this.max(took);
        if took > LONG {
            warn!(?took, "sessions had to wait long for this host");
        }
        took
    }

    /// The longest turn in the last minute or two.
    pub(super) fn longest(&mut self, now: Instant) -> Duration {
        self.advance(now);
        self.this.max(self.last)
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.window);
        if passed < WINDOW {
            return;
        }
        let next = passed < 2 * WINDOW;
        self.last = if next { self.this } else { Duration::ZERO };
        self.this = Duration::ZERO;
        self.window = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_turn_is_told_for_a_minute_or_two() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let after = |secs| start + Duration::from_secs(secs);
        let mut pace = Pace::new(start);
        pace.note(after(1), after(1) + ms(30));
        pace.note(after(2), after(2) + ms(20));
        assert_eq!(pace.longest(after(3)), ms(30));
        pace.note(after(61), after(61) + ms(10));
        assert_eq!(pace.longest(after(62)), ms(30));
        assert_eq!(pace.longest(after(122)), ms(10));
        assert_eq!(pace.longest(after(500)), Duration::ZERO);
    }
}
