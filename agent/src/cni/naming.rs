//! Names of what an attachment makes.

use margay_model::endpoint_name::{EndpointName, EndpointNameError};
use margay_model::kind::{Kind, ResourceKey};
use sha1::{Digest, Sha1};

use super::netconf::Call;

/// Namespace of endpoints that no Kubernetes pod stands behind.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// The host side of the veth pair: prefix and 11 hex digits of a hash of container and interface, so
/// that every interface of every sandbox has its own, also while an old sandbox of a pod is torn down.
pub(crate) fn host_ifname(prefix: &str, container_id: &str, ifname: &str) -> String {
    let digest = Sha1::digest(format!("{container_id}.{ifname}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{}", &hex[..11])
}

/// The handle that owns an attachment's addresses. The first interface has the established form;
/// further ones of the same container need their own, or one DEL would free them all.
pub(crate) fn handle_id(network: &str, container_id: &str, ifname: &str) -> String {
    if ifname == "eth0" {
        format!("{network}.{container_id}")
    } else {
        format!("{network}.{container_id}.{ifname}")
    }
}

/// The key of the call's workload endpoint: `NODE-k8s-POD-IF` in the pod's namespace, else
/// `NODE-cni-CONTAINER-IF` in the default one.
///
/// # Errors
/// A part that a name cannot hold.
pub(crate) fn endpoint_key(node: &str, call: &Call) -> Result<ResourceKey, EndpointNameError> {
    let (namespace, name) = match &call.pod {
        Some(pod) => (
            pod.namespace.as_str(),
            EndpointName::k8s(node, &pod.name, &call.ifname)?,
        ),
        None => (
            DEFAULT_NAMESPACE,
            EndpointName::cni(node, &call.container_id, &call.ifname)?,
        ),
    };
    Ok(ResourceKey::namespaced(
        Kind::WorkloadEndpoint,
        namespace,
        name.to_string(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_and_differ() {
        let a = host_ifname("mgy", "c1", "eth0");
        assert_eq!(a.len(), 14);
        assert_ne!(a, host_ifname("mgy", "c1", "eth1"));
        assert_ne!(a, host_ifname("mgy", "c2", "eth0"));
    }

    #[test]
    fn each_interface_has_a_handle_of_its_own() {
        assert_eq!(handle_id("net1", "cid1", "eth0"), "net1.cid1");
        assert_eq!(handle_id("net1", "cid1", "eth1"), "net1.cid1.eth1");
    }
}
