//! The desired state of the speaker, as plain data.

mod family_names;
mod path_limit;
mod peer;
mod validate;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
};

use margay_bgp::prefix::Prefix;
use serde::Deserialize;

pub use peer::{AddPathConfig, BfdConfig, LongLivedConfig, MaxPrefixesAction, PeerConfig, Ttl};
pub use validate::ConfigError;

use crate::{filter_config::prefix_text, peer_key::PeerKey};

/// Everything that the speaker is told. See [`Speaker::configure`](crate::Speaker::configure).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeakerConfig {
    /// Our AS.
    pub local_as: u32,
    /// Our BGP identifier; every session is reset when it changes.
    pub router_id: Ipv4Addr,
    /// Addresses to accept connections on; empty to only dial. Usually port 179.
    #[serde(default)]
    pub listen: BTreeSet<SocketAddr>,
    /// How often one address may connect.
    #[serde(default)]
    pub connection_limit: ConnectionLimit,
    /// Graceful restart (RFC 4724). `None`: peers drop our routes when a session is lost.
    #[serde(default)]
    pub graceful_restart: Option<GracefulRestartConfig>,
    /// ECMP.
    #[serde(default)]
    pub multipath: MultipathConfig,
    /// Our cluster as a route reflector; `router_id` unless said otherwise (RFC 4456). Taken at
    /// start.
    #[serde(default)]
    pub cluster_id: Option<Ipv4Addr>,
    /// Ask all peers to prefer other paths than ours (RFC 8326): before maintenance.
    #[serde(default)]
    pub graceful_shutdown: bool,
    /// After start, how long [`FibBatch::initial_sync_done`](crate::FibBatch) may wait for peers.
    #[serde(default = "default_initial_sync_secs")]
    pub initial_sync_secs: u64,
    /// The peers.
    #[serde(default)]
    pub peers: BTreeMap<PeerKey, PeerConfig>,
    /// Peers that connect from a range of addresses without being named.
    #[serde(default)]
    pub dynamic: Vec<DynamicPeers>,
}

/// Peers that connect from a range of addresses: whoever does becomes a peer, and is forgotten once
/// its session and its routes are gone. Of ranges that overlap the longest counts; a peer of its own
/// comes first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicPeers {
    /// Where they are.
    #[serde(with = "prefix_text")]
    pub prefix: Prefix,
    /// Most of them at a time.
    #[serde(default = "default_dynamic_limit")]
    pub limit: u32,
    /// What each of them is; we never dial.
    pub peer: PeerConfig,
}

impl SpeakerConfig {
    /// A speaker without peers that listens nowhere.
    pub const fn new(local_as: u32, router_id: Ipv4Addr) -> Self {
        Self {
            local_as,
            router_id,
            listen: BTreeSet::new(),
            connection_limit: ConnectionLimit::DEFAULT,
            graceful_restart: None,
            multipath: MultipathConfig {
                max_paths: 64,
                as_path_relax: true,
            },
            cluster_id: None,
            graceful_shutdown: false,
            initial_sync_secs: default_initial_sync_secs(),
            peers: BTreeMap::new(),
            dynamic: Vec::new(),
        }
    }
}

/// How often one address may connect to us. What comes more often is closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionLimit {
    /// Connections at once, at least 1.
    pub burst: u32,
    /// Connections a second after that, at least 1.
    pub per_second: u32,
}

impl ConnectionLimit {
    /// Some 20 at once and 5 a second: a peer that flaps dials once a second or less.
    const DEFAULT: Self = Self {
        burst: 20,
        per_second: 5,
    };
}

impl Default for ConnectionLimit {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Our side of graceful restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GracefulRestartConfig {
    /// How long peers keep our routes while we are away, at most 4095 seconds.
    #[serde(default = "default_restart_time_secs")]
    pub restart_time_secs: u16,
    /// The process has just restarted and the kernel kept its routes: tell peers so (R and F
    /// bits), and take no decision before they have told us theirs. Read at start only.
    #[serde(default)]
    pub restarting: bool,
}

/// ECMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultipathConfig {
    /// Most next hops of a route; 1 turns multipath off. Taken at start.
    pub max_paths: usize,
    /// AS_PATHs of equal length may differ. Taken at start.
    #[serde(default = "yes")]
    pub as_path_relax: bool,
}

impl Default for MultipathConfig {
    fn default() -> Self {
        Self {
            max_paths: 64,
            as_path_relax: true,
        }
    }
}

const fn yes() -> bool {
    true
}

/// A rack's worth and some.
const fn default_dynamic_limit() -> u32 {
    256
}

const fn default_restart_time_secs() -> u16 {
    120
}

/// Longer than any peer that is alive needs to connect and send its table.
const fn default_initial_sync_secs() -> u64 {
    60
}

#[cfg(test)]
mod tests {
    use margay_bgp::prefix::Family;

    use super::*;

    const EXAMPLE: &str = "
local_as: 65001
router_id: 192.0.2.1
listen: ['0.0.0.0:179', '[::]:179']
graceful_restart: {}
peers:
  192.0.2.2:
    remote_as: 65002
    password: hunter2
    ttl: !security 1
    families: [ipv6-unicast, ipv4-unicast]
    import:
      rules:
        - {prefix: 10.0.0.0/8, max_len: 32, action: accept, operations: [!set_local_pref 200]}
    export: {default: accept}
  '[2001:db8::2]:1790': {remote_as: 65001, passive: true}
";

    #[test]
    fn yaml_reads_and_defaults_are_as_documented() {
        let config: SpeakerConfig = serde_norway::from_str(EXAMPLE).unwrap();
        config.validate().unwrap();
        assert_eq!(config.graceful_restart.unwrap().restart_time_secs, 120);
        let second = config
            .peers
            .get(&"[2001:db8::2]:1790".parse().unwrap())
            .unwrap();
        assert_eq!(
            *second,
            PeerConfig {
                passive: true,
                ..PeerConfig::new(65001)
            }
        );
        let first = config.peers.values().next().unwrap();
        assert_eq!(first.ttl, Ttl::Security(1));
        assert_eq!(first.families, Family::ALL);
        assert_eq!(
            first.import.rules[0].operations,
            [crate::Operation::SetLocalPref(200)]
        );
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let error = serde_norway::from_str::<SpeakerConfig>(
            "{local_as: 1, router_id: 1.1.1.1, peers: {1.1.1.2: {remote_as: 2, hold_time: 9}}}",
        );
        assert!(error.unwrap_err().to_string().contains("hold_time"));
    }
}
