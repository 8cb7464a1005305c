//! What is taken in before routes are decided.

use std::time::{Duration, Instant};

use crate::driver::link::LinkId;

/// How long a round takes in what one or more peers have sent: much for damping, little beside the
/// shortest hold time.
const LONGEST: Duration = Duration::from_millis(200);
/// Octets that a turn takes in where more of the same is about to come.
const PLENTY: usize = 4 << 10;

/// A round: as a rule one turn. While several peers send plenty at the same time, which they do when
/// they tell the same routes, it goes on until a look at the sockets brings little: one route of theirs
/// replaces the other, and what is decided in between would be told for nothing.
#[derive(Debug)]
pub(super) struct Round {
    began: Instant,
    /// Who was the first to say anything.
    first: Option<LinkId>,
    /// Others did.
    several: bool,
    /// Octets of this turn.
    octets: usize,
}

impl Round {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            began: now,
            first: None,
            several: false,
            octets: 0,
        }
    }

    /// So many octets of a link are taken in.
    pub(super) fn note(&mut self, link: LinkId, octets: usize) {
        self.several |= *self.first.get_or_insert(link) != link;
        self.octets += octets;
    }

    /// A turn ends. Whether the round does.
    pub(super) fn is_over(&mut self, now: impl FnOnce() -> Instant) -> bool {
        let plenty = std::mem::take(&mut self.octets) >= PLENTY;
        !(self.several && plenty) || now().duration_since(self.began) >= LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_is_answered_at_once_and_several_once_they_pause() {
        let now = Instant::now();
        let mut round = Round::new(now);
        round.note(1, 9 * PLENTY);
        assert!(round.is_over(|| now), "only one sends");
        let mut round = Round::new(now);
        round.note(1, PLENTY - 19);
        round.note(2, 19);
        assert!(!round.is_over(|| now));
        round.note(2, PLENTY);
        assert!(!round.is_over(|| now), "another has sent before");
        round.note(2, PLENTY - 1);
        assert!(round.is_over(|| now), "little came");
        round.note(2, PLENTY);
        assert!(round.is_over(|| now + LONGEST));
    }
}
