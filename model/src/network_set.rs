//! The `NetworkSet` and `GlobalNetworkSet` resources: labelled sets of networks.

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::net::Cidr;

/// Networks that selectors of one namespace find by label.
pub type NetworkSet = Resource<NetworkSetSpec>;

/// Networks that selectors find by label.
pub type GlobalNetworkSet = Resource<GlobalNetworkSetSpec>;

/// Networks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSetSpec {
    /// The networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<Cidr>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Networks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalNetworkSetSpec {
    /// The networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<Cidr>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for NetworkSetSpec {
    const KIND: Kind = Kind::NetworkSet;
}

impl Spec for GlobalNetworkSetSpec {
    const KIND: Kind = Kind::GlobalNetworkSet;
}
