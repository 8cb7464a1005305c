//! The `BGPConfiguration` resource: settings of the speakers, `default` or `node.NAME`.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::asn::Asn;
use crate::bgp_peer::BgpPassword;
use crate::duration::GoDuration;
use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::net::Cidr;
use crate::string_enum::string_enum;

/// Settings of the speakers, for all hosts or for one.
pub type BgpConfiguration = Resource<BgpConfigurationSpec>;

string_enum! {
    /// Where a speaker listens.
    pub enum BindMode {
        /// On every address.
        None = "None",
        /// On the address of its host only.
        NodeIp = "NodeIP",
    }
}

string_enum! {
    /// A switch with two positions.
    pub enum Toggle {
        /// On.
        Enabled = "Enabled",
        /// Off.
        Disabled = "Disabled",
    }
}

/// Settings of the speakers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpConfigurationSpec {
    /// Least severity that is logged; Info when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    /// Whether all hosts peer with each other; they do when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    /// AS of the cluster; 64512 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<Asn>,
    /// Ranges of load balancer addresses that are announced.
    #[serde(
        rename = "serviceLoadBalancerIPs",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    pub service_load_balancer_ips: Vec<CidrEntry>,
    /// Ranges of external service addresses that are announced.
    #[serde(
        rename = "serviceExternalIPs",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    pub service_external_ips: Vec<CidrEntry>,
    /// Ranges of cluster service addresses that are announced.
    #[serde(
        rename = "serviceClusterIPs",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    pub service_cluster_ips: Vec<CidrEntry>,
    /// Whether load balancer ranges are announced whole; Enabled when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_load_balancer_aggregation: Option<Toggle>,
    /// Names for communities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<NamedCommunity>,
    /// Communities that prefixes are announced with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    /// TCP port to listen on; 179 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// TCP MD5 password of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_password: Option<BgpPassword>,
    /// Restart time of the mesh (RFC 4724); 120 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_max_restart_time: Option<GoDuration>,
    /// Where to listen; None when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind_mode: Option<BindMode>,
    /// Interfaces whose routes are not looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_interfaces: Vec<String>,
    /// Address that local workloads peer with.
    #[serde(
        rename = "localWorkloadPeeringIPV4",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub local_workload_peering_ip_v4: Option<Ipv4Addr>,
    /// Address that local workloads peer with.
    #[serde(
        rename = "localWorkloadPeeringIPV6",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub local_workload_peering_ip_v6: Option<Ipv6Addr>,
    /// Which system programs routes between hosts; kept, not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_cluster_routes: Option<String>,
    /// Metric of IPv4 routes; 1024 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_normal_route_priority: Option<u32>,
    /// Metric of IPv6 routes; 1024 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_normal_route_priority: Option<u32>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CidrEntry {
    /// The range.
    pub cidr: Cidr,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A community and its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedCommunity {
    /// The name that prefixAdvertisements refer to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `AA:NN` (RFC 1997) or `AA:NN:MM` (RFC 8092).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A prefix and the communities it is announced with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrefixAdvertisement {
    /// The prefix; everything in it is meant.
    pub cidr: Cidr,
    /// Names or values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for BgpConfigurationSpec {
    const KIND: Kind = Kind::BgpConfiguration;
}

impl BgpConfigurationSpec {
    /// Whether all hosts peer with each other.
    pub fn mesh_enabled(&self) -> bool {
        self.node_to_node_mesh_enabled.unwrap_or(true)
    }

    /// AS of the cluster.
    pub fn asn(&self) -> Asn {
        self.as_number.unwrap_or(Asn::DEFAULT)
    }

    /// TCP port to listen on.
    pub fn port(&self) -> u16 {
        self.listen_port.filter(|port| *port > 0).unwrap_or(179)
    }

    /// These settings where they say something, otherwise those of `general`.
    ///
    /// For the settings of one host (`node.NAME`) over those of all (`default`).
    #[must_use]
    pub fn over(self, general: &Self) -> Self {
        let general = general.clone();
        let list = |own: Vec<CidrEntry>, other| if own.is_empty() { other } else { own };
        let mut extra = general.extra;
        extra.extend(self.extra);
        Self {
            log_severity_screen: self.log_severity_screen.or(general.log_severity_screen),
            node_to_node_mesh_enabled: self
                .node_to_node_mesh_enabled
                .or(general.node_to_node_mesh_enabled),
            as_number: self.as_number.or(general.as_number),
            service_load_balancer_ips: list(
                self.service_load_balancer_ips,
                general.service_load_balancer_ips,
            ),
            service_external_ips: list(self.service_external_ips, general.service_external_ips),
            service_cluster_ips: list(self.service_cluster_ips, general.service_cluster_ips),
            service_load_balancer_aggregation: self
                .service_load_balancer_aggregation
                .or(general.service_load_balancer_aggregation),
            communities: if self.communities.is_empty() {
                general.communities
            } else {
                self.communities
            },
            prefix_advertisements: if self.prefix_advertisements.is_empty() {
                general.prefix_advertisements
            } else {
                self.prefix_advertisements
            },
            listen_port: self.listen_port.or(general.listen_port),
            node_mesh_password: self.node_mesh_password.or(general.node_mesh_password),
            node_mesh_max_restart_time: self
                .node_mesh_max_restart_time
                .or(general.node_mesh_max_restart_time),
            bind_mode: self.bind_mode.or(general.bind_mode),
            ignored_interfaces: if self.ignored_interfaces.is_empty() {
                general.ignored_interfaces
            } else {
                self.ignored_interfaces
            },
            local_workload_peering_ip_v4: self
                .local_workload_peering_ip_v4
                .or(general.local_workload_peering_ip_v4),
            local_workload_peering_ip_v6: self
                .local_workload_peering_ip_v6
                .or(general.local_workload_peering_ip_v6),
            program_cluster_routes: self
                .program_cluster_routes
                .or(general.program_cluster_routes),
            ipv4_normal_route_priority: self
                .ipv4_normal_route_priority
                .or(general.ipv4_normal_route_priority),
            ipv6_normal_route_priority: self
                .ipv6_normal_route_priority
                .or(general.ipv6_normal_route_priority),
            extra,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_one_host_win_where_they_say_something() {
        let spec = |json: &str| serde_json::from_str::<BgpConfigurationSpec>(json).unwrap();
        let general = spec(
            r#"{"nodeToNodeMeshEnabled":false,"asNumber":63400,"listenPort":1790,"bindMode":"NodeIP","ignoredInterfaces":["a*"],"newer":{"a":1}}"#,
        );
        let own = spec(r#"{"listenPort":179,"ignoredInterfaces":["b*"],"newest":2}"#);
        assert_eq!(
            own.over(&general),
            spec(
                r#"{"nodeToNodeMeshEnabled":false,"asNumber":63400,"listenPort":179,"bindMode":"NodeIP","ignoredInterfaces":["b*"],"newer":{"a":1},"newest":2}"#,
            )
        );
        assert_eq!(BgpConfigurationSpec::default().over(&general), general);
    }

    #[test]
    fn what_is_not_set_has_the_established_default() {
        let spec = BgpConfigurationSpec::default();
        assert_eq!(
            (spec.mesh_enabled(), spec.asn(), spec.port()),
            (true, Asn(64512), 179)
        );
    }
}
