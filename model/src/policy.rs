//! The `NetworkPolicy` and `GlobalNetworkPolicy` resources.

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::rule::Rule;
use crate::string_enum::string_enum;

/// A policy for the endpoints of one namespace.
pub type NetworkPolicy = Resource<NetworkPolicySpec>;

/// A policy for endpoints of every namespace and of hosts.
pub type GlobalNetworkPolicy = Resource<GlobalNetworkPolicySpec>;

/// The tier of policies that name none.
pub const DEFAULT_TIER: &str = "default";

string_enum! {
    /// The direction that a policy is about.
    pub enum PolicyType {
        /// What the endpoint receives.
        Ingress = "Ingress",
        /// What the endpoint sends.
        Egress = "Egress",
    }
}

/// Rules and the endpoints they are for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// The tier; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Lower comes first; absent comes last.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::order::serialize"
    )]
    pub order: Option<f64>,
    /// For what the endpoint receives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Rule>,
    /// For what the endpoint sends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Rule>,
    /// The endpoints; all of the namespace when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The directions; see [`directions`](Self::directions).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<PolicyType>,
    /// Service accounts the endpoints run as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<String>,
    /// Hints for the calculation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub performance_hints: Vec<String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Rules and the endpoints they are for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalNetworkPolicySpec {
    /// The tier; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Lower comes first; absent comes last.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::order::serialize"
    )]
    pub order: Option<f64>,
    /// For what the endpoint receives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Rule>,
    /// For what the endpoint sends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Rule>,
    /// The endpoints; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The directions; see [`directions`](Self::directions).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<PolicyType>,
    /// Before connection tracking; host endpoints only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub do_not_track: bool,
    /// Before destination translation; host endpoints only.
    #[serde(
        rename = "preDNAT",
        default,
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub pre_dnat: bool,
    /// Also for what a host endpoint forwards.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apply_on_forward: bool,
    /// Service accounts the endpoints run as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<String>,
    /// Namespaces of the endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    /// Hints for the calculation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub performance_hints: Vec<String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for NetworkPolicySpec {
    const KIND: Kind = Kind::NetworkPolicy;
}

impl Spec for GlobalNetworkPolicySpec {
    const KIND: Kind = Kind::GlobalNetworkPolicy;
}

/// The directions of a policy that names none: those that it has rules for, else Ingress.
fn types_of(types: &[PolicyType], ingress: &[Rule], egress: &[Rule]) -> Vec<PolicyType> {
    if !types.is_empty() {
        return types.to_vec();
    }
    match (ingress.is_empty(), egress.is_empty()) {
        (_, true) => vec![PolicyType::Ingress],
        (true, false) => vec![PolicyType::Egress],
        (false, false) => vec![PolicyType::Ingress, PolicyType::Egress],
    }
}

impl NetworkPolicySpec {
    /// The tier.
    pub fn tier(&self) -> &str {
        self.tier.as_deref().unwrap_or(DEFAULT_TIER)
    }

    /// The directions; when none is named, those with rules, else Ingress.
    pub fn directions(&self) -> Vec<PolicyType> {
        types_of(&self.types, &self.ingress, &self.egress)
    }
}

impl GlobalNetworkPolicySpec {
    /// The tier.
    pub fn tier(&self) -> &str {
        self.tier.as_deref().unwrap_or(DEFAULT_TIER)
    }

    /// The directions; when none is named, those with rules, else Ingress.
    pub fn directions(&self) -> Vec<PolicyType> {
        types_of(&self.types, &self.ingress, &self.egress)
    }
}
