//! The `BlockAffinity` resource: which host a block of addresses belongs to.
//!
//! It is read only. Address management keeps affinities below keys of its own ([`IpamKeys`](crate::ipam::IpamKeys)),
//! in the form of [`crate::ipam::BlockAffinity`]; this is how they are shown.

use serde::{Deserialize, Serialize};

use crate::ipam::{self, AffinityState, BlockCidr, Owner};
use crate::kind::Kind;
use crate::meta::{Extra, ObjectMeta, Resource, Spec};
use crate::net::Cidr;

/// Which host a block of addresses belongs to.
pub type BlockAffinity = Resource<BlockAffinitySpec>;

/// A block, and whose it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockAffinitySpec {
    /// `confirmed`, `pending` or `pendingDeletion`; only the first counts.
    pub state: String,
    /// The host.
    pub node: String,
    /// `host`, or `virtual` for an owner that is none.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The block.
    pub cidr: Cidr,
    /// Used by another driver of the established system.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for BlockAffinitySpec {
    const KIND: Kind = Kind::BlockAffinity;
}

/// The name under which the established tool shows an affinity, `n1-10-65-79-0-26`.
pub fn affinity_name(owner: &Owner, cidr: BlockCidr) -> String {
    let block: String = cidr
        .to_string()
        .chars()
        .map(|c| if matches!(c, '.' | ':' | '/') { '-' } else { c })
        .collect();
    format!("{}-{block}", owner.name())
}

impl BlockAffinitySpec {
    /// How what is stored for a block is shown.
    pub fn shown(owner: &Owner, cidr: BlockCidr, stored: &ipam::BlockAffinity) -> BlockAffinity {
        let state = match &stored.state {
            AffinityState::Confirmed => "confirmed",
            AffinityState::Pending => "pending",
            AffinityState::PendingDeletion => "pendingDeletion",
            AffinityState::Other(other) => other,
        };
        let spec = Self {
            state: state.to_owned(),
            node: owner.name().to_owned(),
            kind: owner.kind().to_owned(),
            cidr: Cidr::new(cidr.network(), cidr.prefix_len())
                .expect("a block has a length of its family"),
            deleted: stored.deleted,
            extra: Extra::new(),
        };
        Resource::new(ObjectMeta::named(affinity_name(owner, cidr)), spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_affinity_is_shown_as_the_established_tool_names_it() {
        let stored = br#"{"state":"pendingDeletion","deleted":false}"#;
        let stored = ipam::BlockAffinity::decode("key", stored).unwrap();
        let shown = |owner: Owner, cidr: &str| {
            let shown = BlockAffinitySpec::shown(&owner, cidr.parse().unwrap(), &stored);
            serde_json::to_value(shown).unwrap()
        };
        let v4 = shown(Owner::Host("n-1".into()), "10.65.79.0/26");
        assert_eq!(v4["metadata"]["name"], "n-1-10-65-79-0-26");
        assert_eq!(
            v4["spec"],
            serde_json::json!({
                "state": "pendingDeletion", "node": "n-1", "type": "host", "cidr": "10.65.79.0/26"
            })
        );
        let v6 = shown(Owner::Virtual("lb".into()), "fd00:65::/122");
        assert_eq!(v6["metadata"]["name"], "lb-fd00-65---122");
        assert_eq!(v6["spec"]["type"], "virtual");
    }
}
