//! The `Profile` resource: rules and labels shared by the endpoints that name it.

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec, StringMap};
use crate::rule::Rule;

/// Rules that apply when no policy decides, and labels to inherit.
pub type Profile = Resource<ProfileSpec>;

/// Rules and labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileSpec {
    /// For what the endpoint receives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Rule>,
    /// For what the endpoint sends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Rule>,
    /// Labels that endpoints inherit.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub labels_to_apply: StringMap,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for ProfileSpec {
    const KIND: Kind = Kind::Profile;
}
