//! The columns that each kind has in a table.

use margay_model::any::AnyResource;
use margay_model::asn::Asn;
use margay_model::bgp_peer::PeerAs;
use margay_model::ippool::EncapMode;
use margay_model::kind::Kind;
use margay_model::policy::{GlobalNetworkPolicySpec, NetworkPolicySpec};

/// The column of namespaced kinds when several namespaces are shown.
pub(crate) const NAMESPACE: &str = "NAMESPACE";

/// Longest list in a cell, in characters.
const LIST: usize = 80;

/// Column names: always shown, and shown in the wide table instead.
pub(crate) const fn headings(kind: Kind, wide: bool) -> &'static [&'static str] {
    match (kind, wide) {
        (Kind::BgpConfiguration, _) => &["NAME", "LOGSEVERITY", "MESHENABLED", "ASNUMBER"],
        (Kind::BgpFilter, _) => &[
            "NAME",
            "NUMEXPORTV4",
            "NUMIMPORTV4",
            "NUMEXPORTV6",
            "NUMIMPORTV6",
        ],
        (Kind::BgpPeer, _) => &["NAME", "PEERIP", "NODE", "ASN"],
        (Kind::BlockAffinity, false) => &["NAME", "CIDR", "NODE"],
        (Kind::BlockAffinity, true) => &["NAME", "CIDR", "NODE", "STATE"],
        (Kind::CalicoNodeStatus, false) => &["NAME", "NODE"],
        (Kind::CalicoNodeStatus, true) => &["NAME", "NODE", "CLASSES"],
        (Kind::ClusterInformation, _) => &[
            "NAME",
            "CLUSTERGUID",
            "CLUSTERTYPE",
            "CALICOVERSION",
            "DATASTOREREADY",
        ],
        (
            Kind::GlobalNetworkPolicy
            | Kind::NetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::StagedNetworkPolicy,
            false,
        ) => &["NAME", "TIER"],
        (
            Kind::GlobalNetworkPolicy
            | Kind::NetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::StagedNetworkPolicy,
            true,
        ) => &["NAME", "TIER", "ORDER", "SELECTOR"],
        (Kind::GlobalNetworkSet | Kind::NetworkSet, true) => &["NAME", "NETS"],
        (Kind::HostEndpoint, false) => &["NAME", "NODE"],
        (Kind::HostEndpoint, true) => &["NAME", "NODE", "INTERFACE", "IPS", "PROFILES"],
        (Kind::IpamConfiguration, false) => &["NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"],
        (Kind::IpamConfiguration, true) => &[
            "NAME",
            "STRICTAFFINITY",
            "AUTOALLOCATEBLOCKS",
            "MAXBLOCKSPERHOST",
        ],
        (Kind::IpPool, false) => &["NAME", "CIDR", "SELECTOR"],
        (Kind::IpPool, true) => &[
            "NAME",
            "CIDR",
            "NAT",
            "IPIPMODE",
            "VXLANMODE",
            "DISABLED",
            "DISABLEBGPEXPORT",
            "SELECTOR",
            "ASSIGNMENTMODE",
        ],
        (Kind::IpReservation, true) => &["NAME", "CIDRS"],
        (Kind::Node, true) => &["NAME", "ASN", "IPV4", "IPV6"],
        (Kind::Profile, true) => &["NAME", "LABELS"],
        (Kind::StagedKubernetesNetworkPolicy, true) => &["NAME", "PODSELECTOR"],
        (Kind::Tier, _) => &["NAME", "ORDER"],
        (Kind::WorkloadEndpoint, false) => &["WORKLOAD", "NODE", "NETWORKS", "INTERFACE"],
        (Kind::WorkloadEndpoint, true) => &[
            "NAME",
            "WORKLOAD",
            "NODE",
            "NETWORKS",
            "INTERFACE",
            "PROFILES",
            "NATS",
        ],
        (
            Kind::FelixConfiguration
            | Kind::GlobalNetworkSet
            | Kind::NetworkSet
            | Kind::IpReservation
            | Kind::KubeControllersConfiguration
            | Kind::Node
            | Kind::Profile
            | Kind::StagedKubernetesNetworkPolicy,
            _,
        ) => &["NAME"],
    }
}

/// The columns that can be asked for by name.
pub(crate) fn known(kind: Kind) -> Vec<&'static str> {
    let mut known = headings(kind, true).to_vec();
    let narrow = headings(kind, false).iter();
    let more: Vec<_> = narrow.filter(|heading| !known.contains(heading)).collect();
    known.extend(more);
    if kind.namespaced() {
        known.push(NAMESPACE);
    }
    known
}

/// What stands in a column. `asn` is the AS of hosts that name none.
pub(crate) fn cell(resource: &AnyResource, heading: &str, asn: Asn) -> String {
    match heading {
        "NAME" => return resource.metadata().name.clone(),
        NAMESPACE => return resource.metadata().namespace.clone().unwrap_or_default(),
        _ => {}
    }
    match resource {
        AnyResource::BgpConfiguration(res) => match heading {
            "LOGSEVERITY" => res.spec.log_severity_screen.clone().unwrap_or_default(),
            "MESHENABLED" => or_dash(res.spec.node_to_node_mesh_enabled),
            _ => or_dash(res.spec.as_number),
        },
        AnyResource::BgpFilter(res) => match heading {
            "NUMEXPORTV4" => res.spec.export_v4.len().to_string(),
            "NUMIMPORTV4" => res.spec.import_v4.len().to_string(),
            "NUMEXPORTV6" => res.spec.export_v6.len().to_string(),
            _ => res.spec.import_v6.len().to_string(),
        },
        AnyResource::BgpPeer(res) => match heading {
            "PEERIP" => or_empty(res.spec.peer_ip),
            "NODE" => {
                let selected = res.spec.node.as_ref().or(res.spec.node_selector.as_ref());
                selected.map_or_else(|| "(global)".to_owned(), Clone::clone)
            }
            _ => res.spec.as_number.unwrap_or(PeerAs::Is(Asn(0))).to_string(),
        },
        AnyResource::BlockAffinity(res) => match heading {
            "CIDR" => res.spec.cidr.to_string(),
            "NODE" => res.spec.node.clone(),
            _ => res.spec.state.clone(),
        },
        AnyResource::CalicoNodeStatus(res) => match heading {
            "NODE" => res.spec.node.clone(),
            _ => join(&res.spec.classes),
        },
        AnyResource::ClusterInformation(res) => match heading {
            "CLUSTERGUID" => res.spec.cluster_guid.clone(),
            "CLUSTERTYPE" => res.spec.cluster_type.clone(),
            "CALICOVERSION" => res.spec.calico_version.clone(),
            _ => or_empty(res.spec.datastore_ready),
        },
        AnyResource::GlobalNetworkPolicy(res) => global_policy_cell(heading, &res.spec),
        AnyResource::NetworkPolicy(res) => namespaced_policy_cell(heading, &res.spec),
        AnyResource::StagedGlobalNetworkPolicy(res) => {
            global_policy_cell(heading, &res.spec.policy)
        }
        AnyResource::StagedNetworkPolicy(res) => namespaced_policy_cell(heading, &res.spec.policy),
        AnyResource::StagedKubernetesNetworkPolicy(res) => {
            serde_json::Value::Object(res.spec.pod_selector.clone()).to_string()
        }
        AnyResource::GlobalNetworkSet(res) => list(&res.spec.nets),
        AnyResource::NetworkSet(res) => list(&res.spec.nets),
        AnyResource::HostEndpoint(res) => match heading {
            "NODE" => res.spec.node.clone(),
            "INTERFACE" => res.spec.interface_name.clone(),
            "IPS" => join(&res.spec.expected_ips),
            _ => join(&res.spec.profiles),
        },
        AnyResource::IpamConfiguration(res) => match heading {
            "STRICTAFFINITY" => res.spec.strict_affinity.to_string(),
            "AUTOALLOCATEBLOCKS" => res.spec.auto_allocate_blocks().to_string(),
            _ => res.spec.max_blocks_per_host.unwrap_or(0).to_string(),
        },
        AnyResource::IpPool(res) => match heading {
            "CIDR" => res.spec.cidr.to_string(),
            "NAT" => res.spec.nat_outgoing.to_string(),
            "IPIPMODE" => res.spec.ipip_mode.unwrap_or(EncapMode::Never).to_string(),
            "VXLANMODE" => res.spec.vxlan_mode.unwrap_or(EncapMode::Never).to_string(),
            "DISABLED" => res.spec.disabled.to_string(),
            "DISABLEBGPEXPORT" => res.spec.disable_bgp_export.to_string(),
            "SELECTOR" => res
                .spec
                .node_selector
                .clone()
                .unwrap_or_else(|| "all()".to_owned()),
            _ => (if res.spec.automatic() {
                "Automatic"
            } else {
                "Manual"
            })
            .to_owned(),
        },
        AnyResource::IpReservation(res) => list(&res.spec.reserved_cidrs),
        AnyResource::Node(res) => {
            let Some(bgp) = &res.spec.bgp else {
                return String::new();
            };
            match heading {
                "ASN" => bgp
                    .as_number
                    .map_or_else(|| format!("({asn})"), |own| own.to_string()),
                "IPV4" => or_empty(bgp.ipv4_address),
                _ => or_empty(bgp.ipv6_address),
            }
        }
        AnyResource::Profile(res) => {
            let labels = res.spec.labels_to_apply.iter();
            labels
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(",")
        }
        AnyResource::Tier(res) => or_empty(res.spec.order),
        AnyResource::WorkloadEndpoint(res) => match heading {
            "WORKLOAD" => {
                let candidates = [&res.spec.workload, &res.spec.pod, &res.spec.container_id];
                candidates
                    .into_iter()
                    .find(|c| !c.is_empty())
                    .cloned()
                    .unwrap_or_default()
            }
            "NODE" => res.spec.node.clone(),
            "NETWORKS" => join(&res.spec.ip_networks),
            "INTERFACE" => res.spec.interface_name.clone(),
            "PROFILES" => join(&res.spec.profiles),
            _ => {
                let nats = res.spec.ip_nats.iter();
                let texts = nats.map(|nat| format!("{}={}", nat.external_ip, nat.internal_ip));
                texts.collect::<Vec<_>>().join(",")
            }
        },
        AnyResource::FelixConfiguration(_) | AnyResource::KubeControllersConfiguration(_) => {
            String::new()
        }
    }
}

fn global_policy_cell(heading: &str, spec: &GlobalNetworkPolicySpec) -> String {
    policy_cell(heading, spec.tier(), spec.order, spec.selector.as_deref())
}

fn namespaced_policy_cell(heading: &str, spec: &NetworkPolicySpec) -> String {
    policy_cell(heading, spec.tier(), spec.order, spec.selector.as_deref())
}

fn policy_cell(heading: &str, tier: &str, order: Option<f64>, selector: Option<&str>) -> String {
    match heading {
        "TIER" => tier.to_owned(),
        "ORDER" => or_empty(order),
        _ => selector.unwrap_or("all()").to_owned(),
    }
}

fn or_empty(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn join(items: &[impl ToString]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Items as far as they fit.
fn list(items: &[impl ToString]) -> String {
    let text = join(items);
    match text.char_indices().nth(LIST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
