//! The `FelixConfiguration` resource: settings of the dataplane, `default` or `node.NAME`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::bgp_configuration::Toggle;
use crate::duration::GoDuration;
use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::protocol::{Port, Protocol};
use crate::string_enum::string_enum;

/// Settings of the dataplane, for all hosts or for one.
pub type FelixConfiguration = Resource<FelixConfigurationSpec>;

string_enum! {
    /// What becomes of traffic from an endpoint to its own host, after its policy.
    pub enum EndpointToHostAction {
        /// Dropped.
        Drop = "Drop",
        /// Left to the host's own rules.
        Return = "Return",
        /// Accepted.
        Accept = "Accept",
    }
}

string_enum! {
    /// The variant of iptables in use.
    pub enum IptablesBackend {
        /// What the host already uses.
        Auto = "Auto",
        /// x_tables.
        Legacy = "Legacy",
        /// nf_tables.
        Nft = "NFT",
    }
}

string_enum! {
    /// Whether rules are written to a table of their own in nf_tables.
    pub enum NftablesMode {
        /// Unless others have rules in iptables.
        Auto = "Auto",
        /// They are.
        Enabled = "Enabled",
        /// They are written to iptables.
        Disabled = "Disabled",
    }
}

string_enum! {
    /// How denied packets end.
    pub enum DenyAction {
        /// Without an answer.
        Drop = "Drop",
        /// With an ICMP error.
        Reject = "Reject",
    }
}

string_enum! {
    /// How allowed packets leave our chains.
    pub enum AllowAction {
        /// Accepted at once.
        Accept = "Accept",
        /// Back to the host's own rules.
        Return = "Return",
    }
}

string_enum! {
    /// Where our jumps stand in the host's chains.
    pub enum ChainInsertMode {
        /// At the top.
        Insert = "Insert",
        /// At the end.
        Append = "Append",
    }
}

string_enum! {
    /// Whether endpoints may ask for further source addresses.
    pub enum SourceSpoofing {
        /// They may not.
        Disabled = "Disabled",
        /// They may.
        Any = "Any",
    }
}

string_enum! {
    /// What becomes of connections that policy denies from some change on.
    pub enum DeniedConnections {
        /// They end.
        End = "End",
        /// They go on until they end by themselves: rules are asked about what opens a connection.
        Keep = "Keep",
    }
}

string_enum! {
    /// Whether TCP of endpoints is asked for segments that the path takes whole.
    pub enum MssClamping {
        /// It is.
        Enabled = "Enabled",
        /// It is not: endpoints have to hear by ICMP of what does not fit.
        Disabled = "Disabled",
    }
}

/// Settings of the dataplane. Durations of zero switch the action off.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FelixConfigurationSpec {
    /// Whether IPv6 is programmed; it is when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_support: Option<bool>,
    /// Time between checks of routes; 90 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_refresh_interval: Option<GoDuration>,
    /// Time between checks of interfaces; 90 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_refresh_interval: Option<GoDuration>,
    /// Time between checks of rules; 3 min when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_refresh_interval: Option<GoDuration>,
    /// Time between checks of sets; 90 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipsets_refresh_interval: Option<GoDuration>,
    /// Auto when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_backend: Option<IptablesBackend>,
    /// Auto when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_mode: Option<NftablesMode>,
    /// How long to wait for the lock of iptables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_lock_timeout: Option<GoDuration>,
    /// Most members of a set; 1048576 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ipset_size: Option<u32>,
    /// Prefixes of interface names of endpoints, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_prefix: Option<String>,
    /// Interfaces of the host that are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_exclude: Option<String>,
    /// Insert when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_insert_mode: Option<ChainInsertMode>,
    /// Drop when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_endpoint_to_host_action: Option<EndpointToHostAction>,
    /// Accept when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_filter_allow_action: Option<AllowAction>,
    /// Accept when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_mangle_allow_action: Option<AllowAction>,
    /// Drop when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_filter_deny_action: Option<DenyAction>,
    /// Bits of the packet mark that are ours; 0xffff0000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_mark_mask: Option<u32>,
    /// Prefix of log lines of rules; `calico-packet` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_prefix: Option<String>,
    /// Least severity that is logged; Info when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    /// Ports always open towards the host; the usual ones when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failsafe_inbound_host_ports: Option<Vec<ProtoPort>>,
    /// Ports always open from the host; the usual ones when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failsafe_outbound_host_ports: Option<Vec<ProtoPort>>,
    /// Keeps packets of state INVALID; they are dropped when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_conntrack_invalid_check: Option<bool>,
    /// What becomes of connections of endpoints that policy denies from some change on; End when absent. Ours: the
    /// established system keeps them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied_connections: Option<DeniedConnections>,
    /// Whether TCP of endpoints is asked for segments that the path takes whole; Enabled when absent. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss_clamping: Option<MssClamping>,
    /// Source ports of translated traffic; the kernel's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_port_range: Option<Port>,
    /// Source address of translated traffic; the outgoing interface's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing_address: Option<IpAddr>,
    /// Destinations that are not translated; IPPoolsOnly when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing_exclusions: Option<String>,
    /// Interface that translation is limited to.
    #[serde(
        rename = "iptablesNATOutgoingInterfaceFilter",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub iptables_nat_outgoing_interface_filter: Option<String>,
    /// Protocol number of routes to local endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_route_protocol: Option<u8>,
    /// Source address of routes to local endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_route_source_address: Option<IpAddr>,
    /// Whether foreign routes to endpoints are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_external_routes: Option<bool>,
    /// Disabled when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_source_spoofing: Option<SourceSpoofing>,
    /// Whether `ipNATs` of endpoints lead to them; Disabled when absent.
    #[serde(
        rename = "floatingIPs",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub floating_ips: Option<Toggle>,
    /// What becomes of traffic to unused service addresses; Drop when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_loop_prevention: Option<String>,
    /// Whether forwarding is switched on in the kernel; Enabled when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_forwarding: Option<Toggle>,
    /// Interfaces whose MTU is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu_iface_pattern: Option<String>,
    /// MTU of the IPv4 VXLAN device; 0 finds it out.
    #[serde(rename = "vxlanMTU", default, skip_serializing_if = "Option::is_none")]
    pub vxlan_mtu: Option<u32>,
    /// MTU of the IPv6 VXLAN device; 0 finds it out.
    #[serde(
        rename = "vxlanMTUV6",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub vxlan_mtu_v6: Option<u32>,
    /// UDP port of VXLAN; 4789 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_port: Option<u16>,
    /// Network identifier of VXLAN; 4096 when absent.
    #[serde(rename = "vxlanVNI", default, skip_serializing_if = "Option::is_none")]
    pub vxlan_vni: Option<u32>,
    /// MTU of the IPIP device; 0 finds it out.
    #[serde(rename = "ipipMTU", default, skip_serializing_if = "Option::is_none")]
    pub ipip_mtu: Option<u32>,
    /// Whether IPv4 traffic between hosts is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_enabled: Option<bool>,
    /// MTU of the WireGuard device; 0 finds it out.
    #[serde(
        rename = "wireguardMTU",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub wireguard_mtu: Option<u32>,
    /// Whether IPv6 traffic between hosts is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_enabled_v6: Option<bool>,
    /// MTU of the IPv6 WireGuard device; 0 finds it out.
    #[serde(
        rename = "wireguardMTUV6",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub wireguard_mtu_v6: Option<u32>,
    /// Whether what hosts send each other is encrypted too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_host_encryption_enabled: Option<bool>,
    /// Name of the IPv4 device; `wireguard.cali` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_interface_name: Option<String>,
    /// Name of the IPv6 device; `wg-v6.cali` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_interface_name_v6: Option<String>,
    /// Time between two signs of life to each other host; none when 0 or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_keep_alive: Option<GoDuration>,
    /// Whether metrics tell of the devices of WireGuard; they do when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_wire_guard_metrics_enabled: Option<bool>,
    /// UDP port of the IPv4 device; 51820 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_listening_port: Option<u16>,
    /// UDP port of the IPv6 device; 51821 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_listening_port_v6: Option<u16>,
    /// Priority of the routing rule for what hosts send each other; 99 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_routing_rule_priority: Option<u32>,
    /// Whether what the devices of WireGuard receive is decrypted by kernel threads; not when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_threading_enabled: Option<bool>,
    /// Metric of IPv4 routes; 1024 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_normal_route_priority: Option<u32>,
    /// Metric of IPv6 routes; 1024 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_normal_route_priority: Option<u32>,
    /// Whether health is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_enabled: Option<bool>,
    /// Address that health is served on; `localhost` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_host: Option<String>,
    /// Port that health is served on; 9099 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_port: Option<u16>,
    /// Whether metrics are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_enabled: Option<bool>,
    /// Address that metrics are served on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_host: Option<String>,
    /// Port that metrics are served on; 9091 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_port: Option<u16>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A port of a protocol, optionally of some networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProtoPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// The network at the other end; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl FelixConfigurationSpec {
    /// Which hosts the object is for, where its name does not say that.
    pub fn node_selector(&self) -> Option<&str> {
        self.extra.get("nodeSelector")?.as_str()
    }
}

impl Spec for FelixConfigurationSpec {
    const KIND: Kind = Kind::FelixConfiguration;
}
