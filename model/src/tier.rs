//! The `Tier` resource: an ordered group of policies.

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::rule::Action;

/// A group of policies.
pub type Tier = Resource<TierSpec>;

/// Where a group of policies stands, and what it ends with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// Lower comes first; absent comes last.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::order::serialize"
    )]
    pub order: Option<f64>,
    /// Deny or Pass when no rule matched; Deny when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_action: Option<Action>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for TierSpec {
    const KIND: Kind = Kind::Tier;
}
