//! The `WorkloadEndpoint` resource: an attachment of a workload to the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::net::Cidr;
use crate::protocol::Protocol;

/// An attachment of a workload.
pub type WorkloadEndpoint = Resource<WorkloadEndpointSpec>;

/// Where the workload runs, its interface and its addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEndpointSpec {
    /// `k8s`, `cni`, `libnetwork`, ...
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub orchestrator: String,
    /// The workload, for orchestrators without a better word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// The host it runs on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The container.
    #[serde(
        rename = "containerID",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub container_id: String,
    /// The pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// The interface inside.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// The service account.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_account_name: String,
    /// Addresses, each a /32 or /128.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_networks: Vec<Cidr>,
    /// Addresses that are translated to it.
    #[serde(rename = "ipNATs", default, skip_serializing_if = "Vec::is_empty")]
    pub ip_nats: Vec<IpNat>,
    /// IPv4 gateway inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// IPv6 gateway inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// Profiles, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// The interface on the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface_name: String,
    /// Hardware address of the interface inside.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Ports that rules can name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
    /// Further sources it may send from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_spoofed_source_prefixes: Vec<Cidr>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A one-to-one translation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpNat {
    /// Address of the endpoint.
    #[serde(rename = "internalIP")]
    pub internal_ip: IpAddr,
    /// Address that is translated.
    #[serde(rename = "externalIP")]
    pub external_ip: IpAddr,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPort {
    /// The name; empty for a port that is only published.
    #[serde(default)]
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// Port of the host that leads here; 0 or absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// Address of the host for that port; empty or absent for all.
    #[serde(default, rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for WorkloadEndpointSpec {
    const KIND: Kind = Kind::WorkloadEndpoint;
}
