//! Settings, peers and filters of BGP.

use crate::asn::Asn;
use crate::bgp_configuration::{BgpConfiguration, BgpConfigurationSpec};
use crate::bgp_filter::{BgpFilterSpec, FilterAction, FilterOperation, FilterRule};
use crate::bgp_peer::{BgpPeerSpec, PeerAs};
use crate::community::Community;
use crate::validate::{Findings, is_default, is_set};

pub(super) fn check_configuration(res: &BgpConfiguration, findings: &mut Findings<'_>) {
    let spec = &res.spec;
    if !is_default(res) {
        check_for_all_hosts_only(spec, findings);
    }
    if !spec.mesh_enabled() {
        for (path, set) in [
            ("spec.nodeMeshPassword", spec.node_mesh_password.is_some()),
            (
                "spec.nodeMeshMaxRestartTime",
                spec.node_mesh_max_restart_time.is_some(),
            ),
        ] {
            if set {
                let allowed = "nothing, because nodeToNodeMeshEnabled is false";
                findings.other(path, "a value", allowed);
            }
        }
    }
    if !spec.communities.is_empty() && spec.prefix_advertisements.is_empty() {
        findings.missing(
            "spec.prefixAdvertisements",
            "a use of what communities defines",
        );
    }
    for (i, advertisement) in spec.prefix_advertisements.iter().enumerate() {
        for (j, community) in advertisement.communities.iter().enumerate() {
            let named = spec
                .communities
                .iter()
                .any(|known| known.name == *community);
            if !named && community.parse::<Community>().is_err() {
                findings.text(
                    &format!("spec.prefixAdvertisements[{i}].communities[{j}]"),
                    community,
                    "AA:NN, AA:NN:MM, or a name that communities defines",
                );
            }
        }
    }
}

/// Settings that a single host cannot have of its own.
fn check_for_all_hosts_only(spec: &BgpConfigurationSpec, findings: &mut Findings<'_>) {
    for (path, set) in [
        (
            "spec.nodeToNodeMeshEnabled",
            spec.node_to_node_mesh_enabled.is_some(),
        ),
        ("spec.asNumber", spec.as_number.is_some()),
        (
            "spec.serviceLoadBalancerIPs",
            !spec.service_load_balancer_ips.is_empty(),
        ),
        (
            "spec.serviceExternalIPs",
            !spec.service_external_ips.is_empty(),
        ),
        (
            "spec.serviceClusterIPs",
            !spec.service_cluster_ips.is_empty(),
        ),
        ("spec.nodeMeshPassword", spec.node_mesh_password.is_some()),
        (
            "spec.nodeMeshMaxRestartTime",
            spec.node_mesh_max_restart_time.is_some(),
        ),
    ] {
        if set {
            let allowed = "nothing: only the BGPConfiguration \"default\" may set it";
            findings.other(path, "a value", allowed);
        }
    }
}

pub(super) fn check_peer(spec: &BgpPeerSpec, findings: &mut Findings<'_>) {
    let by_selector = is_set(spec.peer_selector.as_deref());
    let by_workload = is_set(spec.local_workload_selector.as_deref());
    let asn = spec.as_number.filter(|asn| *asn != PeerAs::Is(Asn(0)));
    if is_set(spec.node.as_deref()) && is_set(spec.node_selector.as_deref()) {
        let found = spec.node_selector.as_deref().unwrap_or_default();
        findings.text("spec.nodeSelector", found, "nothing, because node is set");
    }
    if let Some(peer) = spec.peer_ip.filter(|_| by_selector || by_workload) {
        let other = if by_selector {
            "peerSelector"
        } else {
            "localWorkloadSelector"
        };
        findings.other(
            "spec.peerIP",
            peer,
            format!("nothing, because {other} is set"),
        );
    }
    if by_selector && by_workload {
        let found = spec.peer_selector.as_deref().unwrap_or_default();
        let allowed = "nothing, because localWorkloadSelector is set";
        findings.text("spec.peerSelector", found, allowed);
    }
    if let Some(asn) = asn.filter(|_| by_selector) {
        findings.other("spec.asNumber", asn, "nothing, because peerSelector is set");
    }
    if by_workload && asn.is_none() {
        findings.missing(
            "spec.asNumber",
            "an AS number, because localWorkloadSelector is set",
        );
    }
    if let Some(interface) = spec.interface.as_deref() {
        let rivals = [
            ("peerIP", spec.peer_ip.is_some()),
            ("peerSelector", by_selector),
            ("localWorkloadSelector", by_workload),
            ("peerCIDR", spec.peer_cidr.is_some()),
            ("password", spec.password.is_some()),
        ];
        if let Some((rival, _)) = rivals.into_iter().find(|(_, set)| *set) {
            let allowed = format!("nothing, because {rival} is set");
            findings.text("spec.interface", interface, allowed);
        }
    }
    if let Some(cidr) = spec.peer_cidr {
        let rivals = [
            ("peerIP", spec.peer_ip.is_some()),
            ("peerSelector", by_selector),
            ("localWorkloadSelector", by_workload),
        ];
        if let Some((rival, _)) = rivals.into_iter().find(|(_, set)| *set) {
            let allowed = format!("nothing, because {rival} is set");
            findings.other("spec.peerCIDR", cidr, allowed);
        }
    }
    if spec.keep_original_next_hop && spec.next_hop_mode.is_some() {
        let allowed = "false, because nextHopMode is set";
        findings.other("spec.keepOriginalNextHop", "true", allowed);
    }
    check_gateway(spec, findings);
    findings.selector("spec.nodeSelector", spec.node_selector.as_deref());
    findings.selector("spec.peerSelector", spec.peer_selector.as_deref());
    findings.selector(
        "spec.localWorkloadSelector",
        spec.local_workload_selector.as_deref(),
    );
}

fn check_gateway(spec: &BgpPeerSpec, findings: &mut Findings<'_>) {
    let Some(gateway) = spec.reachable_by else {
        return;
    };
    match spec.peer_ip {
        None => findings.other(
            "spec.reachableBy",
            gateway,
            "nothing, because peerIP is not set",
        ),
        Some(peer) if peer.addr.is_ipv4() != gateway.is_ipv4() => {
            let allowed = format!("an address of the family of peerIP ({peer})");
            findings.other("spec.reachableBy", gateway, allowed);
        }
        Some(_) => {}
    }
}

pub(super) fn check_filter(spec: &BgpFilterSpec, findings: &mut Findings<'_>) {
    for (name, rules) in [
        ("exportV4", &spec.export_v4),
        ("importV4", &spec.import_v4),
        ("exportV6", &spec.export_v6),
        ("importV6", &spec.import_v6),
    ] {
        for (i, rule) in rules.iter().enumerate() {
            check_filter_rule(&format!("spec.{name}[{i}]"), rule, findings);
        }
    }
}

fn check_filter_rule(path: &str, rule: &FilterRule, findings: &mut Findings<'_>) {
    match (rule.cidr, rule.match_operator) {
        (Some(_), None) => findings.missing(
            &format!("{path}.matchOperator"),
            "Equal, NotEqual, In, NotIn, because cidr is set",
        ),
        (None, Some(_)) => {
            findings.missing(
                &format!("{path}.cidr"),
                "a range, because matchOperator is set",
            );
        }
        _ => {}
    }
    if let Some(lengths) = &rule.prefix_length {
        let path = format!("{path}.prefixLength");
        if rule.cidr.is_none() {
            findings.other(
                &path,
                "a range of lengths",
                "nothing, because cidr is not set",
            );
        }
        if let (Some(min), Some(max)) = (lengths.min, lengths.max)
            && min > max
        {
            findings.other(&format!("{path}.min"), min, format!("at most max ({max})"));
        }
    }
    if rule
        .communities
        .as_ref()
        .is_some_and(|communities| communities.values.len() != 1)
    {
        let path = format!("{path}.communities.values");
        findings.other(&path, "a list of another length", "exactly one community");
    }
    if rule.action != FilterAction::Accept && !rule.operations.is_empty() {
        let path = format!("{path}.operations");
        findings.other(&path, "a list", "nothing, because action is not Accept");
    }
    for (i, operation) in rule.operations.iter().enumerate() {
        check_operation(&format!("{path}.operations[{i}]"), operation, findings);
    }
}

fn check_operation(path: &str, operation: &FilterOperation, findings: &mut Findings<'_>) {
    let set = [
        operation.add_community.is_some(),
        operation.prepend_as_path.is_some(),
        operation.set_priority.is_some(),
    ];
    let count = set.iter().filter(|set| **set).count();
    if count != 1 {
        let allowed = "exactly one of addCommunity, prependASPath, setPriority";
        findings.other(path, format!("{count} members"), allowed);
    }
    if operation
        .prepend_as_path
        .as_ref()
        .is_some_and(|prepend| prepend.prefix.is_empty())
    {
        findings.missing(
            &format!("{path}.prependASPath.prefix"),
            "1 to 10 AS numbers",
        );
    }
}
