//! Which host a block belongs to.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{DecodeError, Problem};

/// Who a block is affine to, as in a block's `affinity` field: `host:n1` or `virtual:load-balancer`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A host, by node name.
    Host(String),
    /// Something that is no host, such as the load balancer's addresses.
    Virtual(String),
}

impl Owner {
    /// Parses `host:n1`; `None` when the kind is unknown.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            (_, "") => None,
            ("host", name) => Some(Self::Host(name.to_owned())),
            ("virtual", name) => Some(Self::Virtual(name.to_owned())),
            _ => None,
        }
    }

    /// `host` or `virtual`, as in keys.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Host(_) => "host",
            Self::Virtual(_) => "virtual",
        }
    }

    /// The name alone.
    pub fn name(&self) -> &str {
        match self {
            Self::Host(name) | Self::Virtual(name) => name,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.name())
    }
}

/// How far a claim has come. We write block and affinity in one transaction, so ours are always
/// confirmed; the others appear while an agent of the established system claims or releases a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AffinityState {
    /// The block is the owner's.
    Confirmed,
    /// The block may not exist yet or be another's: counts as absent.
    Pending,
    /// The block is being given up: counts as absent.
    PendingDeletion,
    /// Written by a newer version: counts as absent.
    #[serde(untagged)]
    Other(String),
}

/// The value below `/ipam/v2/host/<node>/ipv4/block/<cidr>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockAffinity {
    /// Only [`AffinityState::Confirmed`] counts.
    pub state: AffinityState,
    /// Used by another driver of the established system; always false in etcd.
    #[serde(default)]
    pub deleted: bool,
    /// Fields of newer versions, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl BlockAffinity {
    /// A confirmed affinity.
    pub fn confirmed() -> Self {
        Self {
            state: AffinityState::Confirmed,
            deleted: false,
            other: Map::new(),
        }
    }

    /// Whether routing and allocation may rely on it.
    pub fn is_confirmed(&self) -> bool {
        self.state == AffinityState::Confirmed && !self.deleted
    }

    /// Parses the value found at `key`.
    pub fn decode(key: &str, value: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(value).map_err(|e| Problem::Json(e).at(key))
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and booleans are always JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmed_is_written_as_the_established_system_does() {
        assert_eq!(
            BlockAffinity::confirmed().to_json(),
            br#"{"state":"confirmed","deleted":false}"#
        );
    }

    #[test]
    fn unfinished_and_unknown_states_do_not_count() {
        for (json, confirmed) in [
            (r#"{"state":"confirmed"}"#, true),
            (r#"{"state":"confirmed","deleted":true}"#, false),
            (r#"{"state":"pending","deleted":false}"#, false),
            (r#"{"state":"pendingDeletion"}"#, false),
            (r#"{"state":"somethingNew"}"#, false),
        ] {
            let affinity = BlockAffinity::decode("k", json.as_bytes()).unwrap();
            assert_eq!(affinity.is_confirmed(), confirmed, "{json}");
        }
        let bad = BlockAffinity::decode("/calico/x", b"[]").unwrap_err();
        assert!(
            bad.to_string().starts_with("/calico/x: invalid JSON"),
            "{bad}"
        );
    }

    #[test]
    fn owners_round_trip_and_unknown_kinds_are_none() {
        for text in ["host:n1", "virtual:load-balancer", "host:a:b"] {
            assert_eq!(Owner::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Owner::parse("host:"), None);
        assert_eq!(Owner::parse("rack:r1"), None);
        assert_eq!(Owner::parse("n1"), None);
    }
}
