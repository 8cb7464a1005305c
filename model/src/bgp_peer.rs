//! The `BGPPeer` resource: sessions to make.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::asn::Asn;
use crate::duration::GoDuration;
use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::net::Cidr;
use crate::string_enum::string_enum;

/// A session that some or all hosts make.
pub type BgpPeer = Resource<BgpPeerSpec>;

string_enum! {
    /// The next hop of routes sent to a peer.
    pub enum NextHopMode {
        /// By the rules of BGP.
        Auto = "Auto",
        /// Always the sender.
        SelfAddress = "Self",
        /// Always what was received.
        Keep = "Keep",
    }
}

string_enum! {
    /// The local address of a session.
    pub enum SourceAddress {
        /// The address of the host.
        UseNodeIp = "UseNodeIP",
        /// What the kernel chooses.
        None = "None",
    }
}

/// The AS of a peer: a number, or how it relates to the host's. The words are an extension of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAs {
    /// This one.
    Is(Asn),
    /// The host's.
    Internal,
    /// Any but the host's.
    External,
}

impl PeerAs {
    const INTERNAL: &str = "internal";
    const EXTERNAL: &str = "external";
}

/// Text that does not say which AS a peer is in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found \"{found}\", allowed: an AS number 0 to 4294967295, HIGH.LOW, internal or external")]
pub struct ParsePeerAsError {
    /// What was read.
    pub found: String,
}

impl FromStr for PeerAs {
    type Err = ParsePeerAsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            Self::INTERNAL => Ok(Self::Internal),
            Self::EXTERNAL => Ok(Self::External),
            _ => text
                .parse()
                .map(Self::Is)
                .map_err(|_source| ParsePeerAsError {
                    found: text.to_owned(),
                }),
        }
    }
}

impl fmt::Display for PeerAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(asn) => asn.fmt(f),
            Self::Internal => f.write_str(Self::INTERNAL),
            Self::External => f.write_str(Self::EXTERNAL),
        }
    }
}

impl Serialize for PeerAs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Is(asn) => asn.serialize(serializer),
            Self::Internal | Self::External => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for PeerAs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PeerAsVisitor)
    }
}

struct PeerAsVisitor;

impl Visitor<'_> for PeerAsVisitor {
    type Value = PeerAs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an AS number, internal or external")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<PeerAs, E> {
        let number = u32::try_from(value).map(|asn| PeerAs::Is(Asn(asn)));
        number.map_err(|_source| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<PeerAs, E> {
        let number = u32::try_from(value).map(|asn| PeerAs::Is(Asn(asn)));
        number.map_err(|_source| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<PeerAs, E> {
        value.parse().map_err(E::custom)
    }
}

string_enum! {
    /// Whether hosts selected by peerSelector peer back by themselves.
    pub enum ReversePeering {
        /// They do.
        Auto = "Auto",
        /// Only if another BGPPeer says so.
        Manual = "Manual",
    }
}

/// Who peers with whom, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerSpec {
    /// The one host that makes the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The hosts that make the session; all when neither is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// Address of the peer.
    #[serde(rename = "peerIP", default, skip_serializing_if = "Option::is_none")]
    pub peer_ip: Option<PeerAddr>,
    /// Interface that the peer is behind, when it has no address: router advertisements tell who is
    /// there. Without asNumber it may be in any AS but the host's. An extension of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Addresses that peers connect from without being named: whoever does is one. Without asNumber
    /// they may be in any AS but the host's. An extension of ours.
    #[serde(rename = "peerCIDR", default, skip_serializing_if = "Option::is_none")]
    pub peer_cidr: Option<Cidr>,
    /// Most peers from peerCIDR at a time; 100 when absent. An extension of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_peers: Option<u32>,
    /// A BGPPeer whose settings hold where this one says nothing: one place for what many share. It
    /// need not be a peer itself. An extension of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_group: Option<String>,
    /// AS of the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<PeerAs>,
    /// AS that the host shows this peer instead of its own.
    #[serde(
        rename = "localASNumber",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub local_as_number: Option<Asn>,
    /// Hosts of the cluster to peer with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_selector: Option<String>,
    /// Former spelling of nextHopMode Keep.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_original_next_hop: bool,
    /// Auto when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop_mode: Option<NextHopMode>,
    /// TCP MD5 password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<BgpPassword>,
    /// Local address; UseNodeIP when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<SourceAddress>,
    /// Restart time (RFC 4724); 120 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_restart_time: Option<GoDuration>,
    /// Time between keepalives; a third of the hold time when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<GoDuration>,
    /// How often the own AS may stand in a received path.
    #[serde(
        rename = "numAllowedLocalASNumbers",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub num_allowed_local_as_numbers: Option<u8>,
    /// Hops to the peer (RFC 5082); unchecked when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// Gateway to the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable_by: Option<IpAddr>,
    /// BGPFilters, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// Local workloads to peer with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_workload_selector: Option<String>,
    /// Auto when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_peering: Option<ReversePeering>,
    /// Watch the path with BFD (RFC 5880); off when absent. An extension of ours: `bfd: {}` turns it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdSpec>,
    /// Several paths of a prefix (RFC 7911); one when absent. An extension of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_path: Option<AddPathSpec>,
    /// Long-lived graceful restart (RFC 9494); none when absent. An extension of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_lived_restart: Option<LongLivedSpec>,
    /// Wait for the peer to connect. An extension of ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passive: bool,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Timers of BFD, each side's own; the slower of both counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdSpec {
    /// Shortest time between packets that are sent; 300 ms when absent, 10 ms to 1 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transmit_interval: Option<GoDuration>,
    /// Shortest time between packets that are received; 300 ms when absent, 10 ms to 1 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_interval: Option<GoDuration>,
    /// Packets in a row that may be missed; 3 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect_multiplier: Option<u8>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Several paths of a prefix with a peer, each way where both sides want it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddPathSpec {
    /// Take several.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub receive: bool,
    /// Send several.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub send: bool,
    /// Most that are sent of a prefix, the best first; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sent: Option<u16>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// How long routes are kept beyond the restart time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LongLivedSpec {
    /// Ours by the peer; an hour when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_time: Option<GoDuration>,
    /// Longest that the peer's are kept by us, whatever it asks for; staleTime when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_stale_time: Option<GoDuration>,
    /// Not every router of the AS has it: an internal peer is told what is kept with LOCAL_PREF 0, and
    /// one without the capability with NO_EXPORT (section 4.6), instead of not at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial_deployment: bool,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Where a password is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPassword {
    /// A key of a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A key of a secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The secret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The key in it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for BgpPeerSpec {
    const KIND: Kind = Kind::BgpPeer;
}

impl BgpPeerSpec {
    /// This one with the settings of its group where it says nothing itself. Who the peer is, and
    /// which hosts have the session, no group says.
    #[must_use]
    pub fn within(&self, group: &Self) -> Self {
        fn or<T: Clone>(own: &Option<T>, shared: &Option<T>) -> Option<T> {
            own.as_ref().or(shared.as_ref()).cloned()
        }
        let own_mode = self.keep_original_next_hop || self.next_hop_mode.is_some();
        let mode = if own_mode { self } else { group };
        let filters = if self.filters.is_empty() {
            &group.filters
        } else {
            &self.filters
        };
        Self {
            as_number: or(&self.as_number, &group.as_number),
            local_as_number: or(&self.local_as_number, &group.local_as_number),
            keep_original_next_hop: mode.keep_original_next_hop,
            next_hop_mode: mode.next_hop_mode,
            password: or(&self.password, &group.password),
            source_address: or(&self.source_address, &group.source_address),
            max_restart_time: or(&self.max_restart_time, &group.max_restart_time),
            keepalive_time: or(&self.keepalive_time, &group.keepalive_time),
            num_allowed_local_as_numbers: or(
                &self.num_allowed_local_as_numbers,
                &group.num_allowed_local_as_numbers,
            ),
            ttl_security: or(&self.ttl_security, &group.ttl_security),
            filters: filters.clone(),
            bfd: or(&self.bfd, &group.bfd),
            add_path: or(&self.add_path, &group.add_path),
            long_lived_restart: or(&self.long_lived_restart, &group.long_lived_restart),
            passive: self.passive || group.passive,
            max_peers: or(&self.max_peers, &group.max_peers),
            ..self.clone()
        }
    }
}

/// Address of a peer, with a port when it is not the usual one: `10.0.0.1`, `10.0.0.1:1790`,
/// `fd00::1`, `[fd00::1]:1790`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr {
    /// The address.
    pub addr: IpAddr,
    /// The TCP port; the cluster's when absent.
    pub port: Option<u16>,
}

/// Text that is not the address of a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found \"{found}\", allowed: ADDRESS, IPV4:PORT or [IPV6]:PORT")]
pub struct ParsePeerAddrError {
    /// What was read.
    pub found: String,
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.addr, port).fmt(f),
            None => self.addr.fmt(f),
        }
    }
}

impl FromStr for PeerAddr {
    type Err = ParsePeerAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(addr) = text.parse() {
            return Ok(Self { addr, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(socket) if socket.port() > 0 => Ok(Self {
                addr: socket.ip(),
                port: Some(socket.port()),
            }),
            _ => Err(ParsePeerAddrError {
                found: text.to_owned(),
            }),
        }
    }
}

impl Serialize for PeerAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_the_settings_of_its_group_but_for_its_own() {
        let read = |text: &str| serde_json::from_str::<BgpPeerSpec>(text).unwrap();
        let group = read(
            r#"{"node": "h9", "asNumber": 65000, "keepaliveTime": "1s", "filters": ["f"], "bfd": {},
                "nextHopMode": "Self", "passive": true, "maxPeers": 5, "ttlSecurity": 1}"#,
        );
        let peer = read(
            r#"{"peerIP": "192.0.2.1", "peerGroup": "g", "keepaliveTime": "5s", "keepOriginalNextHop": true}"#,
        );
        let all = peer.within(&group);
        let shared = read(
            r#"{"peerIP": "192.0.2.1", "peerGroup": "g", "asNumber": 65000, "keepaliveTime": "5s",
                "filters": ["f"], "bfd": {}, "keepOriginalNextHop": true, "passive": true, "maxPeers": 5,
                "ttlSecurity": 1}"#,
        );
        assert_eq!(all, shared);
        assert_eq!(peer.within(&BgpPeerSpec::default()), peer);
    }

    #[test]
    fn the_as_of_a_peer_is_a_number_or_one_of_two_words() {
        for (json, read, written) in [
            ("65000", PeerAs::Is(Asn(65000)), "65000"),
            ("\"1.10\"", PeerAs::Is(Asn(65546)), "65546"),
            ("\"internal\"", PeerAs::Internal, "\"internal\""),
            ("\"external\"", PeerAs::External, "\"external\""),
        ] {
            assert_eq!(serde_json::from_str::<PeerAs>(json).unwrap(), read);
            assert_eq!(serde_json::to_string(&read).unwrap(), written);
        }
        for json in ["-1", "4294967296", "\"outside\"", "\"External\"", "[]"] {
            assert!(serde_json::from_str::<PeerAs>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn addresses_of_peers_may_have_a_port() {
        for text in ["10.0.0.1", "10.0.0.1:1790", "fd00::1", "[fd00::1]:1790"] {
            assert_eq!(text.parse::<PeerAddr>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "10.0.0.1:",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "fd00::1:99999",
            "[fd00::1]",
            "tor",
        ] {
            assert!(text.parse::<PeerAddr>().is_err(), "{text}");
        }
    }
}
