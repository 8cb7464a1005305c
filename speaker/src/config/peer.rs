//! What is said of one peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use margay_bgp::{prefix::Family, rib::PathLimit};
use serde::Deserialize;

use super::{family_names, path_limit};
use crate::{filter_config::FilterConfig, remote_as::RemoteAs, secret::Secret};

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// What people call it; for status and logs only.
    #[serde(default)]
    pub name: String,
    /// Its AS: a number, `internal` for ours, `external` for any other.
    pub remote_as: RemoteAs,
    /// Our AS towards it, if not the speaker's.
    #[serde(default)]
    pub local_as: Option<u32>,
    /// Local address to dial from, and the only one to accept its connections on.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// Proposed hold time: 0 for none, or at least 3.
    #[serde(default = "default_hold_time_secs")]
    pub hold_time_secs: u16,
    /// Interval of KEEPALIVEs; a third of the negotiated hold time by default.
    #[serde(default)]
    pub keepalive_secs: Option<u16>,
    /// How long what we send may wait for a peer that reads nothing (RFC 9687); the greater of eight
    /// minutes and twice the negotiated hold time by default.
    #[serde(default)]
    pub send_hold_secs: Option<u16>,
    /// How long this peer keeps our routes while we are away, at most 4095 seconds; the speaker's
    /// `graceful_restart` by default, and without effect where that is off.
    #[serde(default)]
    pub restart_time_secs: Option<u16>,
    /// Time between attempts to connect, shortened at random by up to a quarter.
    #[serde(default = "default_connect_retry_secs")]
    pub connect_retry_secs: u16,
    /// Wait for the peer to connect.
    #[serde(default)]
    pub passive: bool,
    /// How far away the peer may be.
    #[serde(default)]
    pub ttl: Ttl,
    /// TCP MD5 key (RFC 2385), 1 to 80 octets: written out, `!file PATH` or `!env NAME`.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Families to offer.
    #[serde(default = "default_families", with = "family_names")]
    pub families: Vec<Family>,
    /// Tell ourselves as the next hop of every route.
    #[serde(default)]
    pub next_hop_self: bool,
    /// Tell external peers the next hop as received (route servers).
    #[serde(default)]
    pub next_hop_keep: bool,
    /// Our next hop for IPv4 routes; by default an address of the interface that the session uses.
    #[serde(default)]
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Our next hop for IPv6 routes; by default an address of the interface that the session uses.
    #[serde(default)]
    pub next_hop_v6: Option<Ipv6Addr>,
    /// What to take from the peer.
    #[serde(default)]
    pub import: FilterConfig,
    /// What to tell the peer.
    #[serde(default)]
    pub export: FilterConfig,
    /// The peer is our client in route reflection (RFC 4456).
    #[serde(default)]
    pub route_reflector_client: bool,
    /// Ask this peer to prefer other paths than ours (RFC 8326).
    #[serde(default)]
    pub graceful_shutdown: bool,
    /// How often our own AS may occur in the AS_PATH of a route from the peer.
    #[serde(default)]
    pub allow_own_as: u8,
    /// Put our AS for the peer's in what it is told: for sites that share an AS number.
    #[serde(default)]
    pub as_override: bool,
    /// Leave private AS numbers out of what an external peer is told.
    #[serde(default)]
    pub remove_private_as: bool,
    /// Most prefixes per family that the peer may send.
    #[serde(default)]
    pub max_prefixes: Option<u32>,
    /// What happens when it sends more.
    #[serde(default)]
    pub max_prefixes_action: MaxPrefixesAction,
    /// Offer messages beyond 4096 octets (RFC 8654).
    #[serde(default)]
    pub extended_messages: bool,
    /// Offer IPv4 routes with IPv6 next hops (RFC 8950). Over an IPv6 session, `next_hop_v4` aside, ours
    /// is then told as our IPv6 address.
    #[serde(default)]
    pub extended_next_hop: bool,
    /// Several paths of a prefix, in both families (RFC 7911).
    #[serde(default)]
    pub add_path: AddPathConfig,
    /// Keep routes for long after a session is lost (RFC 9494); without effect where the speaker has no
    /// `graceful_restart`.
    #[serde(default)]
    pub long_lived: Option<LongLivedConfig>,
    /// Watch the path with BFD (RFC 5880) and end the session as soon as it fails.
    #[serde(default)]
    pub bfd: Option<BfdConfig>,
}

/// Several paths of a prefix on a session (RFC 7911), each way where both sides want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddPathConfig {
    /// Take several.
    #[serde(default)]
    pub receive: bool,
    /// Send several: `all`, or at most so many of the best. One without says nothing of the kind.
    #[serde(default, deserialize_with = "path_limit::deserialize")]
    pub send: Option<PathLimit>,
}

/// Long-lived graceful restart with a peer (RFC 9494).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongLivedConfig {
    /// How long the peer may keep our routes beyond the restart time, seconds, below 2^24.
    pub stale_time_secs: u32,
    /// Longest that we keep the peer's, whatever it asks for; `stale_time_secs` by default.
    #[serde(default)]
    pub max_stale_time_secs: Option<u32>,
    /// Not every router of our AS has it: an internal peer is told what is kept with LOCAL_PREF 0, and
    /// one without the capability with NO_EXPORT (section 4.6), instead of not at all.
    #[serde(default)]
    pub partial_deployment: bool,
}

/// BFD with a peer. One hop (RFC 5881), or several (RFC 5883) where `ttl` lets the peer be further away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BfdConfig {
    /// Shortest interval between packets that we send, milliseconds.
    #[serde(default = "default_bfd_interval_ms")]
    pub min_tx_ms: u32,
    /// Shortest interval between packets that we can take, milliseconds.
    #[serde(default = "default_bfd_interval_ms")]
    pub min_rx_ms: u32,
    /// Packets in a row that may be missed.
    #[serde(default = "default_bfd_multiplier")]
    pub multiplier: u8,
}

impl Default for BfdConfig {
    /// 3 x 300 ms.
    fn default() -> Self {
        Self {
            min_tx_ms: default_bfd_interval_ms(),
            min_rx_ms: default_bfd_interval_ms(),
            multiplier: default_bfd_multiplier(),
        }
    }
}

impl PeerConfig {
    /// A peer with the defaults. It exchanges no routes until it is given filters (RFC 8212).
    pub fn new(remote_as: impl Into<RemoteAs>) -> Self {
        Self {
            name: String::new(),
            remote_as: remote_as.into(),
            local_as: None,
            source: None,
            hold_time_secs: default_hold_time_secs(),
            keepalive_secs: None,
            send_hold_secs: None,
            restart_time_secs: None,
            connect_retry_secs: default_connect_retry_secs(),
            passive: false,
            ttl: Ttl::Direct,
            password: None,
            families: default_families(),
            next_hop_self: false,
            next_hop_keep: false,
            next_hop_v4: None,
            next_hop_v6: None,
            import: FilterConfig::default(),
            export: FilterConfig::default(),
            route_reflector_client: false,
            graceful_shutdown: false,
            allow_own_as: 0,
            as_override: false,
            remove_private_as: false,
            max_prefixes: None,
            max_prefixes_action: MaxPrefixesAction::Restart,
            extended_messages: false,
            extended_next_hop: false,
            add_path: AddPathConfig::default(),
            long_lived: None,
            bfd: None,
        }
    }
}

/// What a peer that sends too many prefixes gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxPrefixesAction {
    /// A line in our log, once a session.
    Warn,
    /// A Cease (6/1); it may come back after a pause that grows.
    #[default]
    Restart,
    /// A Cease (6/1); it stays out until its configuration changes.
    Stop,
}

/// How far away a peer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ttl {
    /// External peers on the same link only (TTL 1); internal ones anywhere.
    #[default]
    Direct,
    /// Anywhere.
    Multihop,
    /// At most this many hops away, enforced on what we receive (GTSM, RFC 5082).
    Security(u8),
}

/// As FRR's default.
const fn default_bfd_interval_ms() -> u32 {
    300
}

const fn default_bfd_multiplier() -> u8 {
    3
}

const fn default_hold_time_secs() -> u16 {
    90
}

/// As BIRD's in clusters: a rebooted neighbour is back within seconds.
const fn default_connect_retry_secs() -> u16 {
    5
}

fn default_families() -> Vec<Family> {
    Family::ALL.to_vec()
}
