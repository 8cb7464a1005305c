//! Cluster-wide settings of address management.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{DecodeError, Problem};

/// Blocks a host may own in each family when the configuration names no number.
pub const DEFAULT_MAX_BLOCKS_PER_HOST: u32 = 20;
/// Seconds for which a released address rests when the configuration names no number.
pub const DEFAULT_COOLDOWN_SECS: u32 = 30;
/// The longest rest that the established system accepts, in seconds.
pub const MAX_COOLDOWN_SECS: u32 = 1200;

/// The value of `/ipam/v2/config`. [`IpamConfig::default`] is what holds while there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IpamConfig {
    /// Never take single addresses from another host's block.
    #[serde(default, skip_serializing_if = "is_false")]
    pub strict_affinity: bool,
    /// Hosts claim new blocks on their own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto_allocate_blocks: bool,
    /// 0 means [`DEFAULT_MAX_BLOCKS_PER_HOST`].
    #[serde(default, rename = "maxBlocksPerHost", skip_serializing_if = "is_zero")]
    pub max_blocks_per_host: u32,
    /// `None` means [`DEFAULT_COOLDOWN_SECS`], 0 switches the rest off.
    #[serde(
        default,
        rename = "ipCooldownSeconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub ip_cooldown_seconds: Option<u32>,
    /// Fields of newer versions, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

fn is_false(b: &bool) -> bool {
    !*b
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Default for IpamConfig {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            ip_cooldown_seconds: None,
            other: Map::new(),
        }
    }
}

impl IpamConfig {
    /// Blocks a host may own in each family.
    pub fn max_blocks(&self) -> u32 {
        match self.max_blocks_per_host {
            0 => DEFAULT_MAX_BLOCKS_PER_HOST,
            n => n,
        }
    }

    /// Seconds for which a released address rests.
    pub fn cooldown_secs(&self) -> u32 {
        self.ip_cooldown_seconds
            .unwrap_or(DEFAULT_COOLDOWN_SECS)
            .min(MAX_COOLDOWN_SECS)
    }

    /// Parses the value found at `key`.
    pub fn decode(key: &str, value: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(value).map_err(|e| Problem::Json(e).at(key))
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("booleans and numbers are always JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_read_as_the_established_client_leaves_them_out() {
        let config = IpamConfig::decode("k", b"{}").unwrap();
        assert!(!config.strict_affinity && !config.auto_allocate_blocks);
        assert_eq!(config.max_blocks(), 20);
        assert_eq!(config.cooldown_secs(), 30);
        assert_eq!(config.to_json(), b"{}");
        assert!(IpamConfig::default().auto_allocate_blocks);
    }

    #[test]
    fn written_fields_have_the_established_names() {
        let json = br#"{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":4,"ipCooldownSeconds":0,"x":"y"}"#;
        let config = IpamConfig::decode("k", json).unwrap();
        assert_eq!(config.cooldown_secs(), 0);
        assert_eq!(config.to_json(), json);
    }
}
