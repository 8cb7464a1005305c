//! The plugin's configuration and arguments, parsed into what an attachment needs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use margay_api::cni::{CniError, CniRequest, Header, code};
use margay_dataplane::bandwidth::Bandwidth;
use margay_model::net::Cidr;
use margay_model::workload_endpoint::EndpointPort;
use serde::Deserialize;
use serde_json::Value;

use super::annotations::Wishes;
use super::args::Args;
use super::budget::Budget;
use super::gates::{self, Gate};
use super::identity::{self, Identity, StickyConf};
use super::mac::parse_mac;
use super::naming;
use super::result::check_previous;
use super::runtime::RuntimeConf;
use super::shaping;

/// One CNI call, understood.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) cni_version: String,
    /// The network's name.
    pub(crate) network: String,
    pub(crate) container_id: String,
    /// Empty for a DEL without `CNI_NETNS`.
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) mtu: Option<u32>,
    /// Of the interface, each way; one if none.
    pub(crate) queues: Option<u32>,
    /// What has to answer before anything is attached.
    pub(crate) gates: Vec<Gate>,
    /// Families and pools asked for.
    pub(crate) ipam: IpamWish,
    /// Addresses asked for by name; at most one a family.
    pub(crate) requested_ips: Vec<IpAddr>,
    /// Addresses that are not ours to assign: of another plugin, or of whoever may dictate them.
    pub(crate) given_ips: Vec<IpAddr>,
    /// The plugin that `ipam.type` names, when it is not ours.
    pub(crate) delegate: Option<String>,
    /// Whose addresses they are, when they outlive the container.
    pub(crate) identity: Option<Identity>,
    /// The container side's MAC when the runtime names one.
    pub(crate) mac: Option<[u8; 6]>,
    /// The pod, when the runtime is a Kubernetes one.
    pub(crate) pod: Option<Pod>,
    /// `policy.type` is `k8s`: profiles come from Kubernetes, the network's own is not made.
    pub(crate) kubernetes_policy: bool,
    pub(crate) dns: Option<Value>,
    pub(crate) prev_result: Option<Value>,
    /// Ports of the host that are to lead to the container.
    pub(crate) host_ports: Vec<EndpointPort>,
    pub(crate) bandwidth: Bandwidth,
    /// Limits of packets and connections, as the endpoint has them.
    pub(crate) controls: Option<Value>,
    /// Further sources that the container may send from, where workloads may at all.
    pub(crate) source_prefixes: Vec<Cidr>,
    /// Addresses that are translated to the container's of the same family.
    pub(crate) floating_ips: Vec<IpAddr>,
    /// Whether the container may forward; left as the runtime has it if none.
    pub(crate) forwarding: Option<bool>,
    /// The result is to name the default routes.
    pub(crate) default_routes: bool,
    /// The node that the configuration is for, and the file that says so.
    pub(crate) nodename: Option<String>,
    pub(crate) nodename_file: Option<PathBuf>,
    /// How long ADD may take in all, and the kernel for policy and routes.
    pub(crate) budget_secs: u64,
    pub(crate) policy_secs: Option<u64>,
    /// ADD waits until a BGP peer was told of the addresses.
    pub(crate) wait_announced: bool,
}

/// A Kubernetes pod, from `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What the `ipam` section asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IpamWish {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
    /// Pool names or CIDRs; empty means any that qualifies.
    pub(crate) v4_pools: Vec<String>,
    pub(crate) v6_pools: Vec<String>,
}

#[derive(Deserialize)]
struct NetConf {
    mtu: Option<u32>,
    num_queues: Option<u32>,
    readiness_gates: Option<Vec<String>>,
    ipam: Option<IpamConf>,
    policy: Option<PolicyConf>,
    #[serde(default)]
    sticky: StickyConf,
    #[serde(default)]
    feature_control: FeatureControl,
    dns: Option<Value>,
    #[serde(rename = "runtimeConfig")]
    runtime_config: Option<RuntimeConf>,
    args: Option<ArgsConf>,
    #[serde(rename = "prevResult")]
    prev_result: Option<Value>,
    nodename: Option<String>,
    /// What the established plugin called `nodename` before.
    hostname: Option<String>,
    nodename_file: Option<PathBuf>,
    #[serde(default)]
    container_settings: ContainerSettings,
    #[serde(default)]
    include_default_routes: bool,
    device_type: Option<String>,
    policy_setup_timeout_seconds: Option<u64>,
    add_timeout_seconds: Option<u64>,
    #[serde(default)]
    wait_announced: bool,
}

#[derive(Default, Deserialize)]
struct ContainerSettings {
    allow_ip_forwarding: Option<bool>,
}

#[derive(Default, Deserialize)]
struct IpamConf {
    #[serde(rename = "type")]
    kind: Option<String>,
    assign_ipv4: Option<Flag>,
    assign_ipv6: Option<Flag>,
    #[serde(default)]
    ipv4_pools: Vec<String>,
    #[serde(default)]
    ipv6_pools: Vec<String>,
}

/// The established plugin takes these as strings; people write booleans.
#[derive(Deserialize)]
#[serde(untagged)]
enum Flag {
    Bool(bool),
    Text(String),
}

#[derive(Deserialize)]
struct PolicyConf {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct ArgsConf {
    cni: Option<CniArgsConf>,
}

#[derive(Default, Deserialize)]
struct CniArgsConf {
    #[serde(default)]
    ips: Vec<String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default, rename = "namespaceAnnotations")]
    namespace_annotations: BTreeMap<String, String>,
}

/// What the established plugin does only where it is allowed.
#[derive(Default, Deserialize)]
struct FeatureControl {
    #[serde(default)]
    ip_addrs_no_ipam: bool,
    #[serde(default)]
    floating_ips: bool,
}

impl Call {
    /// Understands a request whose environment and header were checked.
    ///
    /// # Errors
    /// Codes 2, 4, 6 and 7, naming the key or variable, what was found and what is allowed.
    pub(crate) fn parse(request: &CniRequest, header: &Header) -> Result<Self, CniError> {
        let conf: NetConf = serde_json::from_str(&request.config).map_err(|e| {
            CniError::new(
                code::DECODING_FAILURE,
                "network configuration does not decode",
            )
            .with_details(e.to_string())
        })?;
        let args = Args::parse(&request.args)?;
        let mut runtime = conf.runtime_config.unwrap_or_default();
        let mut from_conf = conf.args.and_then(|a| a.cni).unwrap_or_default();
        let mut annotations = runtime.annotations();
        annotations.append(&mut from_conf.annotations);
        annotations.extend(args.annotations);
        from_conf.annotations = annotations;
        let wishes = Wishes::read(&from_conf.annotations, &from_conf.namespace_annotations)?;
        let from_args = from_conf.ips;
        // The spec's conventions: runtimeConfig before args before the environment.
        let (ip_source, ips) = if !runtime.ips().is_empty() {
            ("runtimeConfig.ips", runtime.ips())
        } else if !from_args.is_empty() {
            ("args.cni.ips", from_args)
        } else if let Some(ip) = args.ip {
            ("CNI_ARGS IP", vec![ip])
        } else {
            ("annotation ipAddrs", wishes.ips)
        };
        if !wishes.ips_without_ipam.is_empty() && !conf.feature_control.ip_addrs_no_ipam {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                "annotation ipAddrsNoIpam is set, feature_control.ip_addrs_no_ipam must be true",
            ));
        }
        if !wishes.floating_ips.is_empty() && !conf.feature_control.floating_ips {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                "annotation floatingIPs is set, feature_control.floating_ips must be true",
            ));
        }
        let given_ips = parse_ips("annotation ipAddrsNoIpam", &wishes.ips_without_ipam)?;
        let mut section = conf.ipam.unwrap_or_default();
        let delegate = section.delegate()?;
        let mut ipam = match delegate {
            Some(_) => IpamWish::default(),
            None => section.check()?,
        };
        if let Some((v4, v6)) = wishes.families.filter(|_| delegate.is_none()) {
            (ipam.v4, ipam.v6) = (v4, v6);
        }
        for (pools, wished) in [
            (&mut ipam.v4_pools, wishes.v4_pools),
            (&mut ipam.v6_pools, wishes.v6_pools),
        ] {
            if !wished.is_empty() {
                *pools = wished;
            }
        }
        let identity = conf.sticky.identity(args.identity, args.pod.as_ref())?;
        if identity.is_some() && (delegate.is_some() || !given_ips.is_empty()) {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                "a sticky identity needs addresses of ours: ipam.type must be \"margay-ipam\" and \
                 ipAddrsNoIpam absent",
            ));
        }
        let host_ports = runtime.host_ports()?;
        let dns = runtime.dns(conf.dns);
        let mac = match runtime.mac.or(args.mac).or(wishes.mac) {
            Some(text) => Some(unicast_mac(&text)?),
            None => None,
        };
        check_device_type(conf.device_type)?;
        if let Some(previous) = &conf.prev_result {
            check_previous(previous)?;
        }
        Ok(Self {
            cni_version: header.cni_version.clone(),
            network: header.name.clone(),
            container_id: request.container_id.clone(),
            netns: request.netns.clone(),
            ifname: request.ifname.clone(),
            mtu: check_mtu(conf.mtu)?,
            queues: check_queues(conf.num_queues)?,
            gates: gates::parse(&conf.readiness_gates.unwrap_or_default())?,
            ipam,
            requested_ips: parse_ips(ip_source, &ips)?,
            // A plugin is not asked for what is dictated.
            delegate: delegate.filter(|_| given_ips.is_empty()),
            given_ips,
            identity,
            mac,
            pod: args.pod,
            kubernetes_policy: conf.policy.and_then(|p| p.kind).is_some_and(|k| k == "k8s"),
            dns,
            prev_result: conf.prev_result,
            host_ports,
            bandwidth: shaping::bandwidth(runtime.bandwidth, &from_conf.annotations)?,
            controls: shaping::controls(&from_conf.annotations)?,
            source_prefixes: wishes.source_prefixes,
            floating_ips: parse_ips("annotation floatingIPs", &wishes.floating_ips)?,
            forwarding: conf.container_settings.allow_ip_forwarding,
            default_routes: conf.include_default_routes,
            nodename: conf.nodename.or(conf.hostname),
            nodename_file: conf.nodename_file,
            budget_secs: Budget::check(conf.add_timeout_seconds)?,
            // The established plugin's 0 is "do not wait", which here nobody does.
            policy_secs: conf.policy_setup_timeout_seconds.filter(|secs| *secs > 0),
            wait_announced: conf.wait_announced,
        })
    }

    /// The handle that holds the workload's addresses.
    pub(crate) fn handle_id(&self) -> String {
        match &self.identity {
            Some(identity) => identity::handle_id(&self.network, &identity.name, &self.ifname),
            None => naming::handle_id(&self.network, &self.container_id, &self.ifname),
        }
    }
}

impl IpamConf {
    /// The other plugin that is to be asked: a program's name, never a path.
    fn delegate(&mut self) -> Result<Option<String>, CniError> {
        let Some(kind) = self.kind.take() else {
            return Ok(None);
        };
        match kind.as_str() {
            "margay-ipam" | "calico-ipam" => Ok(None),
            "" | "." | ".." => Err(bad_type(&kind)),
            name if name.contains('/') => Err(bad_type(name)),
            _ => Ok(Some(kind)),
        }
    }

    fn check(self) -> Result<IpamWish, CniError> {
        let v4 = flag("ipam.assign_ipv4", self.assign_ipv4, true)?;
        let v6 = flag("ipam.assign_ipv6", self.assign_ipv6, false)?;
        if !v4 && !v6 {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                "ipam.assign_ipv4 and ipam.assign_ipv6 are both false, one must be true",
            ));
        }
        Ok(IpamWish {
            v4,
            v6,
            v4_pools: self.ipv4_pools,
            v6_pools: self.ipv6_pools,
        })
    }
}

fn bad_type(kind: &str) -> CniError {
    CniError::new(
        code::UNSUPPORTED_FIELD,
        format!(
            "ipam.type is {kind:?}, must be \"margay-ipam\" or the name of a plugin in CNI_PATH"
        ),
    )
}

fn flag(name: &str, value: Option<Flag>, default: bool) -> Result<bool, CniError> {
    match value {
        None => Ok(default),
        Some(Flag::Bool(b)) => Ok(b),
        Some(Flag::Text(s)) => match s.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(CniError::new(
                code::INVALID_CONFIG,
                format!("{name} is {other:?}, must be true or false"),
            )),
        },
    }
}

fn check_device_type(found: Option<String>) -> Result<(), CniError> {
    match found.as_deref() {
        None | Some("" | "veth") => Ok(()),
        Some(other) => Err(CniError::new(
            code::UNSUPPORTED_FIELD,
            format!("device_type is {other:?}, must be \"veth\""),
        )),
    }
}

fn check_mtu(mtu: Option<u32>) -> Result<Option<u32>, CniError> {
    match mtu {
        // The established plugin writes 0 for "detect".
        None | Some(0) => Ok(None),
        // 1280 is what IPv6 demands of a link (RFC 8200, section 5); 65535 is the veth driver's limit.
        Some(n @ 1280..=65535) => Ok(Some(n)),
        Some(n) => Err(CniError::new(
            code::INVALID_CONFIG,
            format!("mtu is {n}, must be 0 (detect) or 1280 to 65535"),
        )),
    }
}

fn check_queues(queues: Option<u32>) -> Result<Option<u32>, CniError> {
    match queues {
        // The established plugin writes 0 for "the kernel's default".
        None | Some(0) => Ok(None),
        // More no interface of Linux can have.
        Some(n @ 1..=4096) => Ok(Some(n)),
        Some(n) => Err(CniError::new(
            code::INVALID_CONFIG,
            format!("num_queues is {n}, must be 0 (the default, 1) to 4096"),
        )),
    }
}

/// Bare or with a prefix length, which has no meaning where every address is a /32.
fn parse_ips(source: &str, ips: &[String]) -> Result<Vec<IpAddr>, CniError> {
    let mut parsed: Vec<IpAddr> = Vec::new();
    for text in ips {
        let bare = text.split_once('/').map_or(text.as_str(), |(ip, _)| ip);
        let ip: IpAddr = bare.parse().map_err(|_e: std::net::AddrParseError| {
            CniError::new(
                code::INVALID_CONFIG,
                format!("{source} has {text:?}, must be an IPv4 or IPv6 address"),
            )
        })?;
        if parsed.iter().any(|p| p.is_ipv4() == ip.is_ipv4()) {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                format!("{source} is {ips:?}, must have at most one address a family"),
            ));
        }
        parsed.push(ip);
    }
    Ok(parsed)
}

fn unicast_mac(text: &str) -> Result<[u8; 6], CniError> {
    parse_mac(text)
        // A multicast or all-zero address is no interface's.
        .filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6])
        .ok_or_else(|| {
            CniError::new(
                code::INVALID_CONFIG,
                format!("mac is {text:?}, must be six hex octets of a unicast address"),
            )
        })
}

#[cfg(test)]
mod tests;
