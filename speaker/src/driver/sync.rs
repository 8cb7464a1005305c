//! When the routes of all peers are known for the first time.

use std::{collections::BTreeSet, time::Instant};

use crate::peer_key::PeerKey;

/// Peers that have not sent all their routes since start.
///
/// One that cannot be reached is waited for until the deadline: it may be starting as well, and until it has
/// spoken its routes in the kernel lead where they led.
#[derive(Debug)]
pub(super) struct InitialSync {
    waiting: BTreeSet<PeerKey>,
    deadline: Instant,
    reported: bool,
}

impl InitialSync {
    pub(super) fn new(peers: impl Iterator<Item = PeerKey>, deadline: Instant) -> Self {
        Self {
            waiting: peers.collect(),
            deadline,
            reported: false,
        }
    }

    /// When waiting ends at the latest, while anyone is waited for.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.deadline)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.deadline <= now {
            self.waiting.clear();
        }
    }

    /// The peer has sent everything, or is not a peer any more.
    pub(super) fn done(&mut self, peer: &PeerKey) {
        self.waiting.remove(peer);
    }

    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the FIB has yet to hear that it is done; asked once a batch is certain to go.
    pub(super) const fn report(&mut self, done: bool) -> bool {
        let news = done && !self.reported;
        self.reported |= done;
        news
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use super::*;

    #[test]
    fn it_ends_when_every_peer_is_done_or_time_is_up() {
        let now = Instant::now();
        let [a, b] = [1, 2].map(|n| PeerKey::from(IpAddr::from([192, 0, 2, n])));
        let later = now + Duration::from_secs(1);
        let mut sync = InitialSync::new([a, b].into_iter(), later);
        sync.done(&a);
        assert!(!sync.is_done());
        sync.done(&b);
        assert!(sync.is_done());
        assert!(sync.report(true) && !sync.report(true));
        let mut slow = InitialSync::new([a].into_iter(), later);
        assert_eq!(slow.deadline(), Some(later));
        slow.handle_timeout(now);
        assert!(!slow.is_done());
        slow.handle_timeout(later);
        assert!(slow.is_done());
        assert_eq!(slow.deadline(), None);
    }
}
