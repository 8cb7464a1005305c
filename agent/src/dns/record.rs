//! What names say of an endpoint.

use std::collections::BTreeSet;
use std::net::IpAddr;

use margay_model::workload_endpoint::WorkloadEndpoint;

use crate::docker::{NAMES_ANNOTATION, NETWORKS_ANNOTATION};

/// Where an endpoint says how its workload is, as whoever runs it has found; nothing means well.
pub(crate) const HEALTH_ANNOTATION: &str = "margay.io/health";
/// What it says there of one that others should go to instead.
pub(crate) const UNHEALTHY: &str = "unhealthy";

/// The longest part of a name (RFC 1035, section 2.3.4).
const LABEL_MAX: usize = 63;

/// An endpoint's names, and what they stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// `WORKLOAD.GROUP`, in lower case; the first is the one that its addresses lead back to.
    pub(super) names: Vec<String>,
    pub(super) node: String,
    pub(super) ips: Vec<IpAddr>,
    pub(super) ports: Vec<Port>,
    /// Whoever runs the workload has found it unhealthy.
    pub(super) unhealthy: bool,
}

/// A port with a name, for SRV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// As in `_http`.
    pub(super) service: String,
    /// As in `_tcp`.
    pub(super) protocol: String,
    pub(super) number: u16,
}

impl Record {
    /// Of an endpoint without a name or an address there is nothing to say.
    pub(crate) fn of(endpoint: &WorkloadEndpoint) -> Option<Self> {
        let spec = &endpoint.spec;
        let mut names = Vec::new();
        for group in groups(endpoint) {
            for workload in workloads(endpoint) {
                let name = format!("{workload}.{group}").to_ascii_lowercase();
                if is_name(&name) && !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        if names.is_empty() || spec.ip_networks.is_empty() {
            return None;
        }
        let named = spec.ports.iter().filter(|port| !port.name.is_empty());
        let ports = named.map(|port| Port {
            service: port.name.to_ascii_lowercase(),
            protocol: port.protocol.to_string().to_ascii_lowercase(),
            number: port.port,
        });
        Some(Self {
            names,
            node: spec.node.clone(),
            ips: spec.ip_networks.iter().map(|net| net.addr()).collect(),
            ports: ports.collect(),
            unhealthy: endpoint
                .metadata
                .annotations
                .get(HEALTH_ANNOTATION)
                .is_some_and(|told| told == UNHEALTHY),
        })
    }
}

/// What the workload is called by whoever runs it.
fn workloads(endpoint: &WorkloadEndpoint) -> Vec<String> {
    let spec = &endpoint.spec;
    let annotation = endpoint.metadata.annotations.get(NAMES_ANNOTATION);
    let names = annotation.map(String::as_str).unwrap_or_default();
    let names: BTreeSet<&str> = names.split_whitespace().collect();
    let own = match spec.orchestrator.as_str() {
        "k8s" => spec.pod.as_str(),
        "cni" => spec.container_id.as_str(),
        // The container's name, once dockerd has told it; the established system says the same of all.
        "libnetwork" if spec.workload == "libnetwork" => "",
        _ => spec.workload.as_str(),
    };
    // Ids of 64 digits are no part of a name; their first ones are what people use.
    let own: String = match own.len() > LABEL_MAX {
        true => own.chars().take(12).collect(),
        false => own.to_owned(),
    };
    let others = names.into_iter().map(str::to_owned).filter(|n| *n != own);
    let mut all: Vec<String> = others.collect();
    if !own.is_empty() {
        all.insert(0, own);
    }
    all
}

/// Networks where there are some, then the namespace.
fn groups(endpoint: &WorkloadEndpoint) -> Vec<String> {
    let spec = &endpoint.spec;
    let mut groups = Vec::new();
    let profile = spec.profiles.first().map(String::as_str);
    match spec.orchestrator.as_str() {
        "libnetwork" => {
            groups.extend(profile.and_then(|name| name.strip_prefix("docker.")));
            let told = endpoint.metadata.annotations.get(NETWORKS_ANNOTATION);
            groups.extend(told.map(String::as_str));
        }
        "cni" => groups.extend(profile),
        _ => {}
    }
    groups.extend(endpoint.metadata.namespace.as_deref());
    let mut distinct: Vec<String> = Vec::new();
    for group in groups {
        if !distinct.iter().any(|known| known == group) {
            distinct.push(group.to_owned());
        }
    }
    distinct
}

/// Room for a zone is left; what else is wrong with a name its parts show.
fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= LABEL_MAX
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    name.len() <= 180 && name.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use margay_model::meta::{ObjectMeta, Resource};
    use margay_model::net::Cidr;
    use margay_model::protocol::Protocol;
    use margay_model::workload_endpoint::{EndpointPort, WorkloadEndpointSpec};

    use super::*;

    fn endpoint(orchestrator: &str, spec: WorkloadEndpointSpec) -> WorkloadEndpoint {
        let spec = WorkloadEndpointSpec {
            orchestrator: orchestrator.into(),
            node: "h1".into(),
            ip_networks: vec![Cidr::host("10.0.0.1".parse().unwrap())],
            ..spec
        };
        Resource::new(ObjectMeta::namespaced("shop", "e"), spec)
    }

    fn names(endpoint: &WorkloadEndpoint) -> Vec<String> {
        Record::of(endpoint)
            .map(|record| record.names)
            .unwrap_or_default()
    }

    #[test]
    fn each_orchestrator_has_its_own_words() {
        let pod = WorkloadEndpointSpec {
            pod: "Web-0".into(),
            ..Default::default()
        };
        assert_eq!(names(&endpoint("k8s", pod)), ["web-0.shop"]);
        let cni = WorkloadEndpointSpec {
            container_id: "c1".into(),
            profiles: vec!["red".into()],
            ..Default::default()
        };
        assert_eq!(names(&endpoint("cni", cni.clone())), ["c1.red", "c1.shop"]);
        let long = WorkloadEndpointSpec {
            container_id: "ab".repeat(32),
            ..cni
        };
        assert_eq!(names(&endpoint("cni", long))[0], "abababababab.red");
        let vm = WorkloadEndpointSpec {
            workload: "vm1".into(),
            ..Default::default()
        };
        assert_eq!(names(&endpoint("openstack", vm)), ["vm1.shop"]);
    }

    #[test]
    fn a_docker_container_has_the_names_that_dockerd_told() {
        let spec = WorkloadEndpointSpec {
            workload: "libnetwork".into(),
            profiles: vec!["docker.front".into()],
            ..Default::default()
        };
        assert_eq!(Record::of(&endpoint("libnetwork", spec.clone())), None);
        let spec = WorkloadEndpointSpec {
            workload: "web".into(),
            ..spec
        };
        let mut told = endpoint("libnetwork", spec);
        told.metadata.annotations = [(NAMES_ANNOTATION, "web www"), (NETWORKS_ANNOTATION, "n1")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let all = [
            "web.front",
            "www.front",
            "web.n1",
            "www.n1",
            "web.shop",
            "www.shop",
        ];
        assert_eq!(names(&told), all);
    }

    #[test]
    fn what_cannot_be_a_name_is_none() {
        for workload in ["a b", "", "a..b", &"x".repeat(200)] {
            let spec = WorkloadEndpointSpec {
                pod: workload.into(),
                ..Default::default()
            };
            let names = names(&endpoint("k8s", spec));
            assert!(
                names.is_empty() || names == ["xxxxxxxxxxxx.shop"],
                "{names:?}"
            );
        }
    }

    #[test]
    fn named_ports_are_services() {
        let port = |name: &str, number| EndpointPort {
            name: name.into(),
            protocol: Protocol::Tcp,
            port: number,
            host_port: Some(1),
            host_ip: None,
            extra: Default::default(),
        };
        let spec = WorkloadEndpointSpec {
            pod: "web".into(),
            ports: vec![port("HTTP", 80), port("", 81)],
            ..Default::default()
        };
        let ports = Record::of(&endpoint("k8s", spec)).unwrap().ports;
        assert_eq!(ports.len(), 1);
        assert_eq!(
            (ports[0].service.as_str(), ports[0].protocol.as_str()),
            ("http", "tcp")
        );
    }
}
