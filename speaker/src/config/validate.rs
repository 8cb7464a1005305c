//! What types do not check.

use std::net::IpAddr;

use margay_bgp::prefix::Prefix;

use super::{DynamicPeers, PeerConfig, SpeakerConfig, Ttl};
use crate::{peer_key::PeerKey, remote_as::RemoteAs};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

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
