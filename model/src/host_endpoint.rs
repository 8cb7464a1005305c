//! The `HostEndpoint` resource: an interface of a host that policies apply to.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::workload_endpoint::EndpointPort;

/// An interface of a host.
pub type HostEndpoint = Resource<HostEndpointSpec>;

/// Which interface of which host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostEndpointSpec {
    /// The host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// A name, `*` for all, or empty to go by addresses.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface_name: String,
    /// Addresses of the interface.
    #[serde(rename = "expectedIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub expected_ips: Vec<IpAddr>,
    /// Profiles, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Ports that rules can name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for HostEndpointSpec {
    const KIND: Kind = Kind::HostEndpoint;
}
