//! Pods and namespaces of Kubernetes, for questions about a cluster that is only written down.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_model::meta::StringMap;
use serde::Deserialize;
use serde_json::Value;

/// What a document of Kubernetes tells about who is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// A pod. One that shares the network of its host counts as the host, so it tells nothing.
    Pod(Option<Pod>),
    /// A namespace and its labels.
    Namespace(String, StringMap),
}

/// What policy needs of a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) labels: StringMap,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) node: String,
    pub(super) service_account: String,
    /// By name: number and protocol.
    pub(super) ports: BTreeMap<String, (u16, String)>,
}

/// The documents of core/v1 in a document; nothing if it is no pod, no namespace, and no list of them.
pub(super) fn read(value: &Value) -> Option<Vec<Result<Known, String>>> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    if text("apiVersion")? != "v1" {
        return None;
    }
    match text("kind")? {
        "Pod" => Some(vec![pod(value)]),
        "Namespace" => Some(vec![object(value).map(|namespace| {
            Known::Namespace(namespace.metadata.name, namespace.metadata.labels)
        })]),
        "List" | "PodList" | "NamespaceList" => {
            let items = value.get("items")?.as_array()?;
            // A list of anything else is somebody else's to read.
            let all: Option<Vec<_>> = items.iter().map(read).collect();
            all.map(|lists| lists.into_iter().flatten().collect())
        }
        _ => None,
    }
}

#[derive(Debug, Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    labels: StringMap,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    node_name: String,
    service_account_name: String,
    host_network: bool,
    containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Vec<ContainerPort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerPort {
    name: String,
    container_port: u16,
    protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Debug, Deserialize)]
struct PodIp {
    ip: IpAddr,
}

fn object(value: &Value) -> Result<Object, String> {
    Object::deserialize(value).map_err(|error| error.to_string())
}

fn pod(value: &Value) -> Result<Known, String> {
    let Object {
        metadata,
        spec,
        status,
    } = object(value)?;
    if spec.host_network {
        return Ok(Known::Pod(None));
    }
    let mut addresses: Vec<IpAddr> = status.pod_ips.into_iter().map(|ip| ip.ip).collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip);
    }
    let ports = spec.containers.into_iter().flat_map(|c| c.ports);
    let named = ports.filter(|port| !port.name.is_empty());
    let named = named.map(|port| {
        let protocol = port.protocol.unwrap_or_else(|| "TCP".to_owned());
        (port.name, (port.container_port, protocol))
    });
    Ok(Known::Pod(Some(Pod {
        namespace: metadata.namespace.unwrap_or_else(|| "default".to_owned()),
        name: metadata.name,
        labels: metadata.labels,
        addresses,
        node: spec.node_name,
        service_account: spec.service_account_name,
        ports: named.collect(),
    })))
}
