//! The `KubeControllersConfiguration` resource: settings of the controllers that the established
//! system runs beside Kubernetes. Kept for them; nothing of ours reads it.

use serde::{Deserialize, Serialize};

use crate::bgp_configuration::Toggle;
use crate::duration::GoDuration;
use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec, StringMap};
use crate::string_enum::string_enum;

/// Settings of the controllers; there is one, named `default`.
pub type KubeControllersConfiguration = Resource<KubeControllersConfigurationSpec>;

string_enum! {
    /// Which services get an address.
    pub enum AssignIps {
        /// All of type LoadBalancer.
        AllServices = "AllServices",
        /// Those that ask by an annotation.
        RequestedServicesOnly = "RequestedServicesOnly",
    }
}

/// Settings of the controllers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeControllersConfigurationSpec {
    /// Least severity that is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    /// Whether they answer to health checks; they do when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_checks: Option<Toggle>,
    /// How often they compact etcd; 10 minutes when absent, never when 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_v3_compaction_period: Option<GoDuration>,
    /// Port of the metrics; none when 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_port: Option<u16>,
    /// The controllers.
    #[serde(default)]
    pub controllers: Controllers,
    /// Port of the profiler; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_profile_port: Option<u16>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The controllers; one that is absent does not run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Controllers {
    /// Clears up after hosts that are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeController>,
    /// Copies policies of Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Controller>,
    /// Copies labels of pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_endpoint: Option<Controller>,
    /// Makes profiles of service accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<Controller>,
    /// Makes profiles of namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Controller>,
    /// Gives addresses to services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerController>,
    /// Renames what older releases wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationController>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A controller with no settings of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Controller {
    /// How often everything is looked at; 5 minutes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciler_period: Option<GoDuration>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Clears up after hosts that are gone, and makes endpoints of hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeController {
    /// How often everything is looked at; 5 minutes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciler_period: Option<GoDuration>,
    /// Whether labels of hosts are copied; they are when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_labels: Option<Toggle>,
    /// Makes endpoints of hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_endpoint: Option<AutoHostEndpoint>,
    /// For how long an address must look lost; 15 minutes when absent, for ever when 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leak_grace_period: Option<GoDuration>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Which endpoints of hosts are made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AutoHostEndpoint {
    /// Whether any is made; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_create: Option<Toggle>,
    /// Whether one for all interfaces of each host is made; it is when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_default_host_endpoint: Option<Toggle>,
    /// Others to make.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub templates: Vec<HostEndpointTemplate>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// An endpoint to make of each host that is selected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostEndpointTemplate {
    /// End of the name of the endpoint; each once.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub generate_name: String,
    /// Ranges that addresses of the host must be in.
    #[serde(
        rename = "interfaceCIDRs",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    pub interface_cidrs: Vec<String>,
    /// A regular expression of the interfaces to make one for each of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_pattern: Option<String>,
    /// Labels of the endpoint, beside those of the host.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub labels: StringMap,
    /// Annotations of the endpoint.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub annotations: StringMap,
    /// The hosts; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Gives addresses to services.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerController {
    /// To which; to all when absent.
    #[serde(rename = "assignIPs", default, skip_serializing_if = "Option::is_none")]
    pub assign_ips: Option<AssignIps>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Renames what older releases wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationController {
    /// Whether policies are renamed; they are when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_name_migrator: Option<Toggle>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for KubeControllersConfigurationSpec {
    const KIND: Kind = Kind::KubeControllersConfiguration;
}
