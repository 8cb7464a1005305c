//! What a session is told to be.

use std::{net::Ipv4Addr, time::Duration};

use crate::prefix::Family;

/// Settings of a session. Any value is valid unless a field says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// Our AS towards this peer.
    pub local_as: u32,
    /// Our BGP identifier, not 0.
    pub local_id: Ipv4Addr,
    /// The AS that the peer must be in; `None` for any but `local_as`.
    pub remote_as: Option<u32>,
    /// Proposed hold time: 0 for none, or at least 3.
    pub hold_time_secs: u16,
    /// KEEPALIVE interval; by default a third of the negotiated hold time. Never more than that.
    pub keepalive_secs: Option<u16>,
    /// How long octets may wait for a peer that reads none (RFC 9687); the greater of eight minutes and twice
    /// the negotiated hold time by default.
    pub send_hold: Option<Duration>,
    /// Time between attempts to dial, and for one attempt. Shortened at random by up to a quarter.
    pub connect_retry: Duration,
    /// Wait for the peer to dial.
    pub passive: bool,
    /// Families to offer.
    pub families: Vec<Family>,
    /// Offer graceful restart (RFC 4724).
    pub graceful_restart: Option<LocalRestart>,
    /// Offer messages beyond 4096 octets (RFC 8654).
    pub extended_messages: bool,
    /// Offer IPv4 routes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Offer path identifiers in all families (RFC 7911).
    pub add_path: AddPathOffer,
}

impl SessionConfig {
    /// Whether the peer is in another AS.
    pub fn is_external(&self) -> bool {
        self.remote_as != Some(self.local_as)
    }
}

/// Directions in which several paths of a prefix may go (RFC 7911).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddPathOffer {
    /// We want to send several.
    pub send: bool,
    /// We can receive several.
    pub receive: bool,
}

/// Our side of graceful restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalRestart {
    /// How long we may need to come back, at most 4095 seconds.
    pub restart_time_secs: u16,
    /// We have just restarted and the kernel kept forwarding: set the R bit until the session is
    /// first up, and the F bits.
    pub restarting: bool,
    /// Long-lived graceful restart (RFC 9494).
    pub long_lived: Option<LocalLongLived>,
}

/// Our side of long-lived graceful restart (RFC 9494).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalLongLived {
    /// How long peers may keep our routes beyond the restart time, seconds, below 2^24.
    pub stale_time_secs: u32,
    /// Longest that we keep those of peers, whatever they ask for.
    pub max_stale_time_secs: u32,
}
