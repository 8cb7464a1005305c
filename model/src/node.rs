//! The `Node` resource: a host and its addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::asn::Asn;
use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::net::AddrCidr;

/// A host. Written by its agent when it starts.
pub type Node = Resource<NodeSpec>;

/// On a Node: `"true"` asks its agent to have its neighbours prefer other paths (RFC 8326).
pub const DRAIN_ANNOTATION: &str = "margay.io/drain";

/// Addresses of a host and how it takes part in routing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// Present when the host speaks BGP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<NodeBgp>,
    /// Address of the IPv4 VXLAN device.
    #[serde(
        rename = "ipv4VXLANTunnelAddr",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv4_vxlan_tunnel_addr: Option<Ipv4Addr>,
    /// Hardware address of the IPv4 VXLAN device.
    #[serde(
        rename = "vxlanTunnelMACAddr",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub vxlan_tunnel_mac_addr: Option<String>,
    /// Address of the IPv6 VXLAN device.
    #[serde(
        rename = "ipv6VXLANTunnelAddr",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv6_vxlan_tunnel_addr: Option<Ipv6Addr>,
    /// Hardware address of the IPv6 VXLAN device.
    #[serde(
        rename = "vxlanTunnelMACAddrV6",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub vxlan_tunnel_mac_addr_v6: Option<String>,
    /// Names of the host in orchestrators.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orch_refs: Vec<OrchRef>,
    /// WireGuard addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard: Option<NodeWireguard>,
    /// Every known address of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A host as a BGP speaker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeBgp {
    /// AS of this host; the cluster's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<Asn>,
    /// IPv4 address to peer from, with the length of its subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<AddrCidr>,
    /// Address of the IPIP device.
    #[serde(
        rename = "ipv4IPIPTunnelAddr",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv4_ipip_tunnel_addr: Option<Ipv4Addr>,
    /// IPv6 address to peer from, with the length of its subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<AddrCidr>,
    /// Makes the host a route reflector (RFC 4456) of this cluster id.
    #[serde(
        rename = "routeReflectorClusterID",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub route_reflector_cluster_id: Option<String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The name of a host in an orchestrator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrchRef {
    /// The name there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// The orchestrator, for example `k8s`.
    #[serde(default)]
    pub orchestrator: String,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Addresses of the WireGuard devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeWireguard {
    /// Address of the IPv4 device.
    #[serde(
        rename = "interfaceIPv4Address",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub interface_ipv4_address: Option<Ipv4Addr>,
    /// Address of the IPv6 device.
    #[serde(
        rename = "interfaceIPv6Address",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub interface_ipv6_address: Option<Ipv6Addr>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// One address of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAddress {
    /// An address, with or without a prefix length.
    #[serde(default)]
    pub address: String,
    /// `CalicoNodeIP`, `InternalIP` or `ExternalIP`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Where the status has the public keys of the WireGuard devices, by family.
const WIREGUARD_KEYS: [&str; 2] = ["wireguardPublicKey", "wireguardPublicKeyV6"];
const STATUS: &str = "status";

impl Node {
    /// The public key of the host's WireGuard device of a family, in base64; none where it has told of none.
    pub fn wireguard_key(&self, v6: bool) -> Option<&str> {
        let key = self
            .extra
            .get(STATUS)?
            .get(WIREGUARD_KEYS[usize::from(v6)])?;
        key.as_str().filter(|key| !key.is_empty())
    }

    /// Tells of another key, or of none; all else in the status stays.
    pub fn set_wireguard_key(&mut self, v6: bool, key: Option<String>) {
        let name = WIREGUARD_KEYS[usize::from(v6)];
        let status = self.extra.entry(STATUS.to_owned()).or_default();
        if !status.is_object() {
            *status = Value::Object(Map::new());
        }
        if let Value::Object(fields) = status {
            match key {
                Some(key) => drop(fields.insert(name.to_owned(), key.into())),
                None => drop(fields.remove(name)),
            }
            if fields.is_empty() {
                self.extra.remove(STATUS);
            }
        }
    }
}

impl Spec for NodeSpec {
    const KIND: Kind = Kind::Node;
}

impl NodeSpec {
    /// The IPv4 address that the host peers from.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        match self.bgp.as_ref()?.ipv4_address?.addr() {
            IpAddr::V4(addr) => Some(addr),
            IpAddr::V6(_) => None,
        }
    }

    /// The IPv6 address that the host peers from.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        match self.bgp.as_ref()?.ipv6_address?.addr() {
            IpAddr::V6(addr) => Some(addr),
            IpAddr::V4(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::ObjectMeta;

    #[test]
    fn keys_come_and_go_and_the_rest_of_the_status_stays() {
        let mut node = Node::new(ObjectMeta::named("h1"), NodeSpec::default());
        node.set_wireguard_key(false, None);
        assert!(node.extra.is_empty());
        node.set_wireguard_key(true, Some("six".to_owned()));
        node.set_wireguard_key(false, Some("four".to_owned()));
        assert_eq!(node.wireguard_key(false), Some("four"));
        assert_eq!(node.wireguard_key(true), Some("six"));
        let text = serde_json::to_string(&node).unwrap();
        let status = r#""status":{"wireguardPublicKey":"four","wireguardPublicKeyV6":"six"}"#;
        assert!(text.contains(status), "{text}");
        node.set_wireguard_key(true, None);
        node.set_wireguard_key(false, None);
        assert_eq!(node.wireguard_key(false), None);
        assert!(node.extra.is_empty());
        let kept = serde_json::json!({"podCIDRs": ["10.0.0.0/24"], "wireguardPublicKey": ""});
        node.extra.insert(STATUS.to_owned(), kept);
        assert_eq!(node.wireguard_key(false), None, "an empty one is none");
        node.set_wireguard_key(false, None);
        assert_eq!(
            node.extra[STATUS],
            serde_json::json!({"podCIDRs": ["10.0.0.0/24"]})
        );
    }
}
