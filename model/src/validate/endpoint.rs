//! Endpoints of workloads and hosts.

use crate::endpoint_name::EndpointName;
use crate::host_endpoint::HostEndpointSpec;
use crate::validate::Findings;
use crate::workload_endpoint::{WorkloadEndpoint, WorkloadEndpointSpec};

pub(super) fn check_workload(res: &WorkloadEndpoint, findings: &mut Findings<'_>) {
    let spec = &res.spec;
    check_workload_name(res, findings);
    for (i, network) in spec.ip_networks.iter().enumerate() {
        if !network.is_host() {
            findings.other(&format!("spec.ipNetworks[{i}]"), network, "a /32 or /128");
        }
    }
    for (i, nat) in spec.ip_nats.iter().enumerate() {
        let path = format!("spec.ipNATs[{i}]");
        if nat.internal_ip.is_ipv4() != nat.external_ip.is_ipv4() {
            let allowed = format!(
                "an address of the family of internalIP ({})",
                nat.internal_ip
            );
            findings.other(&format!("{path}.externalIP"), nat.external_ip, allowed);
        }
        if !spec
            .ip_networks
            .iter()
            .any(|network| network.contains(nat.internal_ip))
        {
            let allowed = "one of the addresses of ipNetworks";
            findings.other(&format!("{path}.internalIP"), nat.internal_ip, allowed);
        }
    }
    for (i, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        if !port.protocol.has_ports() {
            findings.other(&format!("{path}.protocol"), port.protocol, "TCP, UDP, SCTP");
        }
        if port.port == 0 {
            findings.other(&format!("{path}.port"), 0, "1 to 65535");
        }
        if port.name.is_empty() && port.host_port.unwrap_or(0) == 0 {
            findings.missing(&format!("{path}.name"), "a name, unless hostPort is set");
        }
    }
}

/// What identifies the endpoint, from the fields that its orchestrator uses.
fn identity(spec: &WorkloadEndpointSpec) -> (&'static str, &str) {
    match spec.orchestrator.as_str() {
        "k8s" => ("spec.pod", &spec.pod),
        "cni" => ("spec.containerID", &spec.container_id),
        "libnetwork" => ("spec.orchestrator", &spec.orchestrator),
        _ => ("spec.workload", &spec.workload),
    }
}

fn check_workload_name(res: &WorkloadEndpoint, findings: &mut Findings<'_>) {
    let spec = &res.spec;
    let (workload_path, workload) = identity(spec);
    let parts = [
        ("spec.node", spec.node.as_str()),
        ("spec.orchestrator", &spec.orchestrator),
        (workload_path, workload),
        ("spec.endpoint", &spec.endpoint),
    ];
    let mut complete = true;
    for (path, _) in parts.into_iter().filter(|(_, text)| text.is_empty()) {
        complete = false;
        findings.missing(path, "a name: it is part of the name of the endpoint");
    }
    if !complete {
        return;
    }
    match EndpointName::new(&spec.node, &spec.orchestrator, workload, &spec.endpoint) {
        Ok(expected) if EndpointName::parse(&res.metadata.name).as_ref() == Some(&expected) => {}
        Ok(expected) => findings.text(
            "metadata.name",
            &res.metadata.name,
            format!("{expected}, as the fields of spec have it"),
        ),
        Err(error) => findings.text("metadata.name", &res.metadata.name, error.to_string()),
    }
}

pub(super) fn check_host(spec: &HostEndpointSpec, findings: &mut Findings<'_>) {
    if spec.node.is_empty() {
        findings.missing("spec.node", "the name of a host");
    }
    if spec.interface_name.is_empty() && spec.expected_ips.is_empty() {
        let allowed = "the name of an interface or \"*\", unless expectedIPs is set";
        findings.missing("spec.interfaceName", allowed);
    }
    for (i, port) in spec.ports.iter().enumerate() {
        if !port.protocol.has_ports() {
            let path = format!("spec.ports[{i}].protocol");
            findings.other(&path, port.protocol, "TCP, UDP, SCTP");
        }
    }
}
