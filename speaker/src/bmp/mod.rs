//! BGP monitoring protocol (RFC 7854): what peers send, before import, to a collector.
//!
//! A [`Station`] is a task on the caller's runtime that keeps one collector informed. It takes
//! what the speaker tells its watchers ([`Watch`](crate::Watch)): a collector that is stuck fills
//! a queue with a bound, is then disconnected and begins anew once it answers. BGP never waits.

mod encode;
mod station;

use std::net::SocketAddr;

use serde::Deserialize;

pub use station::Station;

/// A collector.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BmpConfig {
    /// Where it listens.
    pub collector: SocketAddr,
    /// Seconds between statistics of each peer; 0 for none.
    #[serde(default = "default_statistics_secs")]
    pub statistics_secs: u64,
}

impl BmpConfig {
    /// A collector with statistics every minute.
    pub const fn new(collector: SocketAddr) -> Self {
        Self {
            collector,
            statistics_secs: default_statistics_secs(),
        }
    }
}

const fn default_statistics_secs() -> u64 {
    60
}
