//! Policies of Kubernetes as resources of ours, named and ordered as the established tools do it.
//!
//! `NetworkPolicy` (networking.k8s.io/v1) becomes `NetworkPolicy` `knp.default.NAME` of order 1000 in
//! tier `default`; `ClusterNetworkPolicy` (policy.networking.k8s.io/v1alpha2) becomes
//! `GlobalNetworkPolicy` `kcnp.TIER.NAME` in tier `kube-admin` or `kube-baseline`, its priority the order.

mod cluster_network_policy;
mod labels;
mod network_policy;
mod ports;
#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::Value;

use crate::any::AnyResource;
use crate::field_error::FieldError;
use crate::policy::NetworkPolicy;

/// What of the metadata is taken over.
#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    namespace: Option<String>,
}

/// A document around a spec.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Object<S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: S,
    #[serde(rename = "status")]
    _status: Option<Value>,
}

/// The resource that a document of Kubernetes stands for; nothing if it is no policy of Kubernetes.
pub(crate) fn convert(value: &Value) -> Option<Result<AnyResource, Vec<FieldError>>> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    match (text("apiVersion")?, text("kind")?) {
        ("networking.k8s.io/v1", "NetworkPolicy") => Some(read(value).and_then(|object| {
            network_policy::convert(object.metadata, &object.spec).map(AnyResource::from)
        })),
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
            Some(read(value).and_then(cluster_network_policy::convert))
        }
        _ => None,
    }
}

/// The policy of ours that a spec of `NetworkPolicy` under this name stands for.
pub(crate) fn network_policy(
    name: String,
    namespace: Option<String>,
    spec: Value,
) -> Result<NetworkPolicy, Vec<FieldError>> {
    let spec = serde_json::from_value(spec).map_err(|error| {
        let allowed = "the spec of a NetworkPolicy of Kubernetes";
        vec![FieldError::new("spec", error.to_string(), allowed)]
    })?;
    network_policy::convert(Metadata { name, namespace }, &spec)
}

fn read<S: for<'de> Deserialize<'de>>(value: &Value) -> Result<Object<S>, Vec<FieldError>> {
    Object::deserialize(value).map_err(|error| {
        let allowed = "the fields of its kind";
        vec![FieldError::new("", error.to_string(), allowed)]
    })
}
