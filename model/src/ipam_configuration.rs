//! The `IPAMConfiguration` resource, and `IPReservation`.

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::net::Cidr;

/// Settings of address management.
pub type IpamConfiguration = Resource<IpamConfigurationSpec>;

/// Addresses never given to an endpoint.
pub type IpReservation = Resource<IpReservationSpec>;

/// Settings of address management.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamConfigurationSpec {
    /// No borrowing from blocks of other hosts.
    #[serde(default)]
    pub strict_affinity: bool,
    /// Most blocks a host may have; 0 or absent means 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_blocks_per_host: Option<u32>,
    /// Whether hosts take blocks by themselves; they do when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_allocate_blocks: Option<bool>,
    /// Kept, not used.
    #[serde(
        rename = "kubeVirtVMAddressPersistence",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub kube_virt_vm_address_persistence: Option<String>,
    /// Seconds before a released address is given again, 0 to 1200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_cooldown_seconds: Option<u32>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Addresses never given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpReservationSpec {
    /// Ranges or single addresses.
    #[serde(
        rename = "reservedCIDRs",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    pub reserved_cidrs: Vec<Cidr>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for IpamConfigurationSpec {
    const KIND: Kind = Kind::IpamConfiguration;
}

impl Spec for IpReservationSpec {
    const KIND: Kind = Kind::IpReservation;
}

impl IpamConfigurationSpec {
    /// Most blocks a host may have.
    pub fn max_blocks_per_host(&self) -> u32 {
        self.max_blocks_per_host
            .filter(|max| *max > 0)
            .unwrap_or(20)
    }

    /// Whether hosts take blocks by themselves.
    pub fn auto_allocate_blocks(&self) -> bool {
        self.auto_allocate_blocks.unwrap_or(true)
    }
}
