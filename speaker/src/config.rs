//! The desired state of the speaker, as plain data.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use margay_bgp::{
    prefix::{Family, Prefix},
    rib::PathLimit,
};
use serde::Deserialize;

use crate::{
    filter_config::{FilterConfig, prefix_text},
    peer_key::PeerKey,
    remote_as::RemoteAs,
    secret::Secret,
};

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

/// What is wrong with a configuration. Nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value of the speaker.
    #[error("{field} is {found}, allowed is {allowed}")]
    Speaker {
        /// Field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        allowed: &'static str,
    },
    /// A value of a range of dynamic peers.
    #[error("dynamic peers of {prefix}: {field} is {found}, allowed is {allowed}")]
    Dynamic {
        /// The range.
        prefix: Prefix,
        /// Field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        allowed: &'static str,
    },
    /// A value of a peer.
    #[error("peer {peer}: {field} is {found}, allowed is {allowed}")]
    Peer {
        /// The peer.
        peer: PeerKey,
        /// Field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        allowed: &'static str,
    },
}

impl SpeakerConfig {
    /// Checks what types do not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |field, found: &dyn ToString, allowed| {
            Err(ConfigError::Speaker {
                field,
                found: found.to_string(),
                allowed,
            })
        };
        if self.local_as == 0 {
            return wrong("local_as", &self.local_as, "1 to 4294967295");
        }
        if self.router_id.is_unspecified() {
            return wrong("router_id", &self.router_id, "anything but 0.0.0.0");
        }
        if let Some(graceful) = self.graceful_restart.filter(|g| g.restart_time_secs > 4095) {
            let found = graceful.restart_time_secs;
            return wrong("graceful_restart.restart_time_secs", &found, "0 to 4095");
        }
        let limit = self.connection_limit;
        if limit.burst == 0 {
            return wrong("connection_limit.burst", &0, "1 to 4294967295");
        }
        if limit.per_second == 0 {
            return wrong("connection_limit.per_second", &0, "1 to 4294967295");
        }
        for (&peer, config) in &self.peers {
            let checked = config.validate(peer.addr).and_then(|()| config.suits(peer));
            checked.map_err(|wrong| ConfigError::Peer {
                peer,
                field: wrong.field,
                found: wrong.found,
                allowed: wrong.allowed,
            })?;
        }
        for DynamicPeers {
            prefix,
            limit,
            peer,
        } in &self.dynamic
        {
            let limited = match limit {
                0 => Wrong::value("limit", &0, "1 to 4294967295"),
                _ => Ok(()),
            };
            let checked = limited.and_then(|()| peer.validate(prefix.addr()));
            checked.map_err(|wrong| ConfigError::Dynamic {
                prefix: *prefix,
                field: wrong.field,
                found: wrong.found,
                allowed: wrong.allowed,
            })?;
        }
        Ok(())
    }
}

/// A value that makes no sense.
struct Wrong {
    field: &'static str,
    found: String,
    allowed: &'static str,
}

impl Wrong {
    fn value(field: &'static str, found: &dyn ToString, allowed: &'static str) -> Result<(), Self> {
        let found = found.to_string();
        Err(Self {
            field,
            found,
            allowed,
        })
    }
}

impl PeerConfig {
    /// What a peer on an interface cannot have.
    fn suits(&self, peer: PeerKey) -> Result<(), Wrong> {
        if peer.interface.is_none() {
            return Ok(());
        }
        let allowed = "nothing for a peer on an interface";
        if let Some(source) = self.source {
            return Wrong::value("source", &source, allowed);
        }
        Ok(())
    }

    fn validate(&self, peer: IpAddr) -> Result<(), Wrong> {
        let wrong = Wrong::value;
        if self.remote_as == RemoteAs::Is(0) {
            let allowed = "1 to 4294967295, internal or external";
            return wrong("remote_as", &self.remote_as, allowed);
        }
        if self.local_as == Some(0) {
            return wrong("local_as", &0, "1 to 4294967295");
        }
        if matches!(self.hold_time_secs, 1 | 2) {
            return wrong("hold_time_secs", &self.hold_time_secs, "0, or 3 to 65535");
        }
        if self.keepalive_secs == Some(0) {
            return wrong("keepalive_secs", &0, "1 to 65535");
        }
        if self.send_hold_secs == Some(0) {
            return wrong("send_hold_secs", &0, "1 to 65535");
        }
        if let Some(secs) = self.restart_time_secs.filter(|secs| *secs > 4095) {
            return wrong("restart_time_secs", &secs, "0 to 4095");
        }
        if self.connect_retry_secs == 0 {
            return wrong("connect_retry_secs", &0, "1 to 65535");
        }
        if self.ttl == Ttl::Security(0) {
            return wrong("ttl.security", &0, "1 to 255");
        }
        if self.families.is_empty() {
            return wrong("families", &"empty", "at least one family");
        }
        if let Some(source) = self.source.filter(|s| s.is_ipv4() != peer.is_ipv4()) {
            return wrong("source", &source, "an address of the peer's family");
        }
        let long = self.long_lived.map(|l| l.stale_time_secs);
        if let Some(secs) = long.filter(|secs| !(1..1 << 24).contains(secs)) {
            return wrong("long_lived.stale_time_secs", &secs, "1 to 16777215");
        }
        if let Some(bfd) = self.bfd {
            let interval = |ms: u32| (10..=60_000).contains(&ms);
            if !interval(bfd.min_tx_ms) {
                return wrong("bfd.min_tx_ms", &bfd.min_tx_ms, "10 to 60000");
            }
            if !interval(bfd.min_rx_ms) {
                return wrong("bfd.min_rx_ms", &bfd.min_rx_ms, "10 to 60000");
            }
            if bfd.multiplier == 0 {
                return wrong("bfd.multiplier", &0, "1 to 255");
            }
        }
        let key_len = self.password.as_ref().map(|p| p.expose().len());
        if let Some(len) = key_len.filter(|len| !(1..=80).contains(len)) {
            return wrong("password", &format!("{len} octets long"), "1 to 80 octets");
        }
        Ok(())
    }
}

const fn yes() -> bool {
    true
}

/// As FRR's default.
const fn default_bfd_interval_ms() -> u32 {
    300
}

/// A rack's worth and some.
const fn default_dynamic_limit() -> u32 {
    256
}

const fn default_bfd_multiplier() -> u8 {
    3
}

const fn default_restart_time_secs() -> u16 {
    120
}

const fn default_hold_time_secs() -> u16 {
    90
}

/// As BIRD's in clusters: a rebooted neighbour is back within seconds.
const fn default_connect_retry_secs() -> u16 {
    5
}

/// Longer than any peer that is alive needs to connect and send its table.
const fn default_initial_sync_secs() -> u64 {
    60
}

fn default_families() -> Vec<Family> {
    Family::ALL.to_vec()
}

/// `all` or a number in configuration.
mod path_limit {
    use std::{fmt, num::NonZeroU16};

    use margay_bgp::rib::PathLimit;
    use serde::{Deserializer, de};

    struct Limit;

    impl de::Visitor<'_> for Limit {
        type Value = Option<PathLimit>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("`all` or 1 to 65535")
        }

        fn visit_u64<E: de::Error>(self, most: u64) -> Result<Self::Value, E> {
            let most = u16::try_from(most).ok().and_then(NonZeroU16::new);
            most.map(|most| Some(PathLimit::Best(most)))
                .ok_or_else(|| E::custom("a number of paths is 1 to 65535"))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            match text {
                "all" => Ok(Some(PathLimit::All)),
                _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
            }
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathLimit>, D::Error> {
        deserializer.deserialize_any(Limit)
    }
}

/// Families by name in configuration.
mod family_names {
    use margay_bgp::prefix::Family;
    use serde::{Deserialize, Deserializer};

    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Name {
        Ipv4Unicast,
        Ipv6Unicast,
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Family>, D::Error> {
        let names = Vec::<Name>::deserialize(deserializer)?;
        let mut families: Vec<_> = names
            .into_iter()
            .map(|name| match name {
                Name::Ipv4Unicast => Family::Ipv4Unicast,
                Name::Ipv6Unicast => Family::Ipv6Unicast,
            })
            .collect();
        families.sort();
        families.dedup();
        Ok(families)
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn impossible_values_name_peer_field_value_and_what_is_allowed() {
        let key = PeerKey::from(IpAddr::from([192, 0, 2, 2]));
        let good = PeerConfig::new(65002);
        for (peer, text) in [
            (
                PeerConfig {
                    hold_time_secs: 2,
                    ..good.clone()
                },
                "hold_time_secs is 2",
            ),
            (
                PeerConfig {
                    remote_as: RemoteAs::Is(0),
                    ..good.clone()
                },
                "remote_as is 0",
            ),
            (
                PeerConfig {
                    source: Some("::1".parse().unwrap()),
                    ..good.clone()
                },
                "source is ::1",
            ),
            (
                PeerConfig {
                    password: Some(Secret::new("x".repeat(81))),
                    ..good.clone()
                },
                "81 octets",
            ),
            (
                PeerConfig {
                    families: vec![],
                    ..good.clone()
                },
                "families is empty",
            ),
        ] {
            let mut config = SpeakerConfig::new(65001, [192, 0, 2, 1].into());
            config.peers.insert(key, peer);
            let error = config.validate().unwrap_err().to_string();
            assert!(
                error.starts_with("peer 192.0.2.2: ") && error.contains(text),
                "{error}"
            );
            assert!(error.contains("allowed"));
        }
    }
}
