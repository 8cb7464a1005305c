//! The `IPPool` resource: a range that endpoints get their addresses from.

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::net::Cidr;
use crate::string_enum::string_enum;

/// A range of addresses.
pub type IpPool = Resource<IpPoolSpec>;

string_enum! {
    /// When traffic between hosts is encapsulated.
    pub enum EncapMode {
        /// Never: plain routing.
        Never = "Never",
        /// Always.
        Always = "Always",
        /// Only to hosts in another subnet.
        CrossSubnet = "CrossSubnet",
    }
}

string_enum! {
    /// What addresses of a pool may be used for.
    pub enum PoolUse {
        /// Endpoints.
        Workload = "Workload",
        /// Tunnel devices of hosts.
        Tunnel = "Tunnel",
        /// Service addresses.
        LoadBalancer = "LoadBalancer",
    }
}

string_enum! {
    /// Whether a pool takes part in automatic assignment.
    pub enum AssignmentMode {
        /// It does.
        Automatic = "Automatic",
        /// Only where it is asked for by name.
        Manual = "Manual",
    }
}

/// A range and how its addresses are used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolSpec {
    /// The range. Never changed.
    pub cidr: Cidr,
    /// VXLAN encapsulation; Never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_mode: Option<EncapMode>,
    /// IPIP encapsulation; Never when absent. IPv4 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipip_mode: Option<EncapMode>,
    /// Whether traffic that leaves all pools takes the host's address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nat_outgoing: bool,
    /// No new addresses from here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Not announced to peers.
    #[serde(
        rename = "disableBGPExport",
        default,
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub disable_bgp_export: bool,
    /// Prefix length of a host's block; 26 or 122 when absent. Never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u8>,
    /// Hosts that may take blocks; `all()` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// Namespaces whose endpoints may take addresses; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    /// What for; Workload and Tunnel when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_uses: Vec<PoolUse>,
    /// Automatic when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_mode: Option<AssignmentMode>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for IpPoolSpec {
    const KIND: Kind = Kind::IpPool;
}

impl IpPoolSpec {
    /// A pool with nothing but a range.
    pub const fn new(cidr: Cidr) -> Self {
        Self {
            cidr,
            vxlan_mode: None,
            ipip_mode: None,
            nat_outgoing: false,
            disabled: false,
            disable_bgp_export: false,
            block_size: None,
            node_selector: None,
            namespace_selector: None,
            allowed_uses: Vec::new(),
            assignment_mode: None,
            extra: Extra::new(),
        }
    }

    /// Prefix length of a block.
    pub fn block_size(&self) -> u8 {
        self.block_size
            .unwrap_or(if self.cidr.is_ipv4() { 26 } else { 122 })
    }

    /// Whether addresses may be used for this.
    pub fn allows(&self, wanted: PoolUse) -> bool {
        if self.allowed_uses.is_empty() {
            return matches!(wanted, PoolUse::Workload | PoolUse::Tunnel);
        }
        self.allowed_uses.contains(&wanted)
    }

    /// Whether addresses are assigned without being asked for by name.
    pub fn automatic(&self) -> bool {
        self.assignment_mode != Some(AssignmentMode::Manual)
    }
}
