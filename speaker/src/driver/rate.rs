//! How often an address may connect: what a stranger, or a peer that has lost its mind, can make
//! us do.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use crate::config::ConnectionLimit;

/// Addresses remembered one by one. Beyond it those that are new share one allowance, so that
/// nobody can make us remember more.
const SOURCES: usize = 1024;

/// The allowance of each address: a bucket of `burst` connections that fills at `per_second`.
#[derive(Debug)]
pub(super) struct RateLimit {
    interval: Duration,
    burst: u32,
    /// When the bucket of an address will be full again.
    full_at: HashMap<IpAddr, Instant>,
}

impl RateLimit {
    pub(super) fn new(limit: ConnectionLimit) -> Self {
        Self {
            interval: Duration::from_secs(1) / limit.per_second.max(1),
            burst: limit.burst.max(1),
            full_at: HashMap::new(),
        }
    }

    /// Whether a connection from `source` may be accepted; it counts if so.
    pub(super) fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        if self.full_at.len() >= SOURCES {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let known = self.full_at.len() < SOURCES || self.full_at.contains_key(&source);
        let source = if known {
            source
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let full_at = self.full_at.entry(source).or_insert(now);
        let after = (*full_at).max(now) + self.interval;
        let admitted = after <= now + self.interval * self.burst;
        if admitted {
            *full_at = after;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: ConnectionLimit = ConnectionLimit {
        burst: 3,
        per_second: 2,
    };

    #[test]
    fn a_burst_passes_then_so_many_a_second_and_others_are_not_held_back() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let [noisy, quiet] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let mut limit = RateLimit::new(LIMIT);
        let admitted = (0..10).filter(|_| limit.admit(noisy, at(0))).count();
        assert_eq!(admitted, 3);
        assert!(limit.admit(quiet, at(0)));
        assert!(!limit.admit(noisy, at(499)));
        assert!(limit.admit(noisy, at(500)));
        assert!(!limit.admit(noisy, at(500)));
        // After a rest the whole burst is there again, and no more.
        let admitted = (0..10).filter(|_| limit.admit(noisy, at(60_000))).count();
        assert_eq!(admitted, 3);
    }

    #[test]
    fn what_is_remembered_has_a_bound_and_known_addresses_keep_their_allowance() {
        let start = Instant::now();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let mut limit = RateLimit::new(LIMIT);
        let admitted = (0..5000)
            .filter(|n| limit.admit(address(*n), start))
            .count();
        assert!(limit.full_at.len() <= SOURCES + 1);
        assert_eq!(admitted, SOURCES + 3);
        assert!(limit.admit(address(7), start));
        // Those that have rested are forgotten and make room.
        assert!(limit.admit(address(9000), start + Duration::from_secs(10)));
        assert_eq!(limit.full_at.len(), 1);
    }
}
