//! The `StagedNetworkPolicy`, `StagedGlobalNetworkPolicy` and `StagedKubernetesNetworkPolicy`
//! resources: policies to be tried before they are enforced.
//!
//! A staged policy decides about no packet. What it would decide is worked out beside what is
//! enforced.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::field_error::FieldError;
use crate::kind::Kind;
use crate::kubernetes;
use crate::meta::{Extra, Resource, Spec};
use crate::policy::{GlobalNetworkPolicySpec, NetworkPolicy, NetworkPolicySpec, PolicyType};
use crate::string_enum::string_enum;

/// A policy for the endpoints of one namespace, to be tried.
pub type StagedNetworkPolicy = Resource<StagedNetworkPolicySpec>;

/// A policy for endpoints of every namespace and of hosts, to be tried.
pub type StagedGlobalNetworkPolicy = Resource<StagedGlobalNetworkPolicySpec>;

/// A policy in the form of Kubernetes, to be tried.
pub type StagedKubernetesNetworkPolicy = Resource<StagedKubernetesNetworkPolicySpec>;

string_enum! {
    /// What would happen to the enforced policy of the same name.
    pub enum StagedAction {
        /// It would be made or replaced.
        Set = "Set",
        /// It would be deleted.
        Delete = "Delete",
        /// A tool suggests it, from flows that it saw.
        Learn = "Learn",
        /// Nothing: the suggestion was turned down.
        Ignore = "Ignore",
    }
}

/// The change to try, and the policy as it would be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StagedNetworkPolicySpec {
    /// `Set` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_action: Option<StagedAction>,
    /// The policy as it would be.
    #[serde(flatten)]
    pub policy: NetworkPolicySpec,
}

/// The change to try, and the policy as it would be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StagedGlobalNetworkPolicySpec {
    /// `Set` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_action: Option<StagedAction>,
    /// The policy as it would be.
    #[serde(flatten)]
    pub policy: GlobalNetworkPolicySpec,
}

/// The change to try, and the policy as it would be, in the form of Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StagedKubernetesNetworkPolicySpec {
    /// `Set` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_action: Option<StagedAction>,
    /// A label selector of Kubernetes; all pods of the namespace when empty.
    #[serde(default)]
    pub pod_selector: Map<String, Value>,
    /// Rules of Kubernetes for what the pods receive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Value>,
    /// Rules of Kubernetes for what the pods send.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Value>,
    /// The directions; when empty, Ingress, and Egress if there are rules for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy_types: Vec<PolicyType>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for StagedNetworkPolicySpec {
    const KIND: Kind = Kind::StagedNetworkPolicy;
}

impl Spec for StagedGlobalNetworkPolicySpec {
    const KIND: Kind = Kind::StagedGlobalNetworkPolicy;
}

impl Spec for StagedKubernetesNetworkPolicySpec {
    const KIND: Kind = Kind::StagedKubernetesNetworkPolicy;
}

impl StagedNetworkPolicySpec {
    /// What would happen to the enforced policy.
    pub fn action(&self) -> StagedAction {
        self.staged_action.unwrap_or(StagedAction::Set)
    }
}

impl StagedGlobalNetworkPolicySpec {
    /// What would happen to the enforced policy.
    pub fn action(&self) -> StagedAction {
        self.staged_action.unwrap_or(StagedAction::Set)
    }
}

impl StagedKubernetesNetworkPolicySpec {
    /// What would happen to the enforced policy.
    pub fn action(&self) -> StagedAction {
        self.staged_action.unwrap_or(StagedAction::Set)
    }
}

/// The policy that would be enforced, as one of Kubernetes is converted.
pub fn enforced(staged: &StagedKubernetesNetworkPolicy) -> Result<NetworkPolicy, Vec<FieldError>> {
    let mut spec = serde_json::json!({
        "podSelector": staged.spec.pod_selector,
        "policyTypes": staged.spec.policy_types,
    });
    // Rules are what a policy may have a thousand of: no member of their name means none.
    for (name, rules) in [
        ("ingress", &staged.spec.ingress),
        ("egress", &staged.spec.egress),
    ] {
        if !rules.is_empty() {
            spec[name] = Value::Array(rules.clone());
        }
    }
    kubernetes::network_policy(
        staged.metadata.name.clone(),
        staged.metadata.namespace.clone(),
        spec,
    )
}
