//! The plugin's configuration and arguments, parsed into what an attachment needs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_api::cni::{CniError, CniRequest, Header, code};
use serde::Deserialize;
use serde_json::Value;

use super::annotations::{Wishes, is_annotation};
use super::identity::{Identity, StickyConf};
use super::mac::parse_mac;
use super::naming;

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
struct RuntimeConf {
    #[serde(default)]
    ips: Vec<String>,
    mac: Option<String>,
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
        let runtime = conf.runtime_config.unwrap_or(RuntimeConf {
            ips: Vec::new(),
            mac: None,
        });
        let mut from_conf = conf.args.and_then(|a| a.cni).unwrap_or_default();
        from_conf.annotations.extend(args.annotations);
        let wishes = Wishes::read(&from_conf.annotations, &from_conf.namespace_annotations)?;
        let from_args = from_conf.ips;
        // The spec's conventions: runtimeConfig before args before the environment.
        let (ip_source, ips) = if !runtime.ips.is_empty() {
            ("runtimeConfig.ips", runtime.ips)
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
        let given_ips = parse_ips("annotation ipAddrsNoIpam", &wishes.ips_without_ipam)?;
        let mut section = conf.ipam.unwrap_or_default();
        let delegate = section.delegate()?;
        let mut ipam = match delegate {
            Some(_) => IpamWish::default(),
            None => section.check()?,
        };
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
        let mac = match runtime.mac.or(args.mac) {
            Some(text) => Some(unicast_mac(&text)?),
            None => None,
        };
        Ok(Self {
            cni_version: header.cni_version.clone(),
            network: header.name.clone(),
            container_id: request.container_id.clone(),
            netns: request.netns.clone(),
            ifname: request.ifname.clone(),
            mtu: check_mtu(conf.mtu)?,
            ipam,
            requested_ips: parse_ips(ip_source, &ips)?,
            // A plugin is not asked for what is dictated.
            delegate: delegate.filter(|_| given_ips.is_empty()),
            given_ips,
            identity,
            mac,
            pod: args.pod,
            kubernetes_policy: conf.policy.and_then(|p| p.kind).is_some_and(|k| k == "k8s"),
            dns: conf.dns,
            prev_result: conf.prev_result,
        })
    }

    /// The handle that holds the workload's addresses.
    pub(crate) fn handle_id(&self) -> String {
        match &self.identity {
            Some(identity) => identity.handle_id(&self.network, &self.ifname),
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

/// `CNI_ARGS`. Unknown keys are tolerated whether or not `IgnoreUnknown` is set.
#[derive(Debug, Default, PartialEq, Eq)]
struct Args {
    pod: Option<Pod>,
    ip: Option<String>,
    mac: Option<String>,
    identity: Option<String>,
    annotations: BTreeMap<String, String>,
}

impl Args {
    fn parse(text: &str) -> Result<Self, CniError> {
        let (mut namespace, mut name) = (None, None);
        let mut args = Self::default();
        for pair in text.split(';').filter(|p| !p.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(CniError::new(
                    code::INVALID_ENVIRONMENT,
                    format!("CNI_ARGS has {pair:?}, must be KEY=VALUE pairs joined by ';'"),
                ));
            };
            let value = Some(value.to_owned()).filter(|v| !v.is_empty());
            match key {
                "K8S_POD_NAMESPACE" => namespace = value,
                "K8S_POD_NAME" => name = value,
                "IP" => args.ip = value,
                "MAC" => args.mac = value,
                "MARGAY_IDENTITY" => args.identity = value,
                key if is_annotation(key) => {
                    args.annotations
                        .insert(key.to_owned(), value.unwrap_or_default());
                }
                _ => {}
            }
        }
        args.pod = namespace
            .zip(name)
            .map(|(namespace, name)| Pod { namespace, name });
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(config: &str, args: &str) -> Result<Call, CniError> {
        let request = CniRequest {
            command: "ADD".into(),
            container_id: "c1".into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: args.into(),
            config: config.into(),
            ..CniRequest::default()
        };
        let header = Header::parse(config).map_err(|(_, e)| e)?;
        Call::parse(&request, &header)
    }

    fn with(extra: &str) -> String {
        format!(r#"{{"cniVersion":"1.0.0","name":"net1","type":"margay-cni"{extra}}}"#)
    }

    #[test]
    fn a_bare_configuration_asks_for_one_ipv4_address() {
        let call = parse(&with(""), "").unwrap();
        assert_eq!(
            call.ipam,
            IpamWish {
                v4: true,
                v6: false,
                v4_pools: vec![],
                v6_pools: vec![]
            }
        );
        assert_eq!(call.pod, None);
    }

    #[test]
    fn flags_are_taken_as_text_and_as_booleans() {
        let call = parse(
            &with(r#","ipam":{"assign_ipv4":"false","assign_ipv6":true}"#),
            "",
        )
        .unwrap();
        assert!(!call.ipam.v4 && call.ipam.v6);
        let error = parse(&with(r#","ipam":{"assign_ipv4":"no"}"#), "").unwrap_err();
        assert_eq!(
            error.msg,
            "ipam.assign_ipv4 is \"no\", must be true or false"
        );
    }

    #[test]
    fn requested_addresses_follow_the_order_of_the_conventions() {
        let all = r#","runtimeConfig":{"ips":["10.0.0.1/24"]},"args":{"cni":{"ips":["10.0.0.2"]}}"#;
        let ips = |config: &str| parse(config, "IP=10.0.0.3").unwrap().requested_ips;
        assert_eq!(ips(&with(all)), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        let args_only = with(r#","args":{"cni":{"ips":["10.0.0.2"]}}"#);
        assert_eq!(ips(&args_only), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(ips(&with("")), ["10.0.0.3".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn annotations_win_over_the_configured_pools_and_lose_to_the_runtime() {
        let config = with(
            r#","ipam":{"ipv4_pools":["conf"],"ipv6_pools":["conf6"]},"args":{"cni":{
            "annotations":{"cni.projectcalico.org/ipAddrs":"[\"10.0.0.9\"]"},
            "namespaceAnnotations":{"cni.projectcalico.org/ipv4pools":"[\"ns\"]"}}}"#,
        );
        let call = parse(&config, "").unwrap();
        assert_eq!(call.ipam.v4_pools, ["ns"]);
        assert_eq!(call.ipam.v6_pools, ["conf6"]);
        assert_eq!(call.requested_ips, ["10.0.0.9".parse::<IpAddr>().unwrap()]);
        let call = parse(
            &config,
            "cni.projectcalico.org/ipv4pools=[\"pod\"];IP=10.0.0.8",
        )
        .unwrap();
        assert_eq!(call.ipam.v4_pools, ["pod"]);
        assert_eq!(call.requested_ips, ["10.0.0.8".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn addresses_without_ipam_are_taken_as_they_are_where_that_is_allowed() {
        let config = with(
            r#","feature_control":{"ip_addrs_no_ipam":true},"ipam":{"type":"host-local"},"args":
            {"cni":{"annotations":{"cni.projectcalico.org/ipAddrsNoIpam":"[\"10.9.0.1\"]"}}}"#,
        );
        let call = parse(&config, "").unwrap();
        assert_eq!(call.given_ips, ["10.9.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(call.delegate, None);
    }

    #[test]
    fn another_plugin_and_an_identity_are_recognised() {
        let call = parse(&with(r#","ipam":{"type":"host-local"}"#), "").unwrap();
        assert_eq!(call.delegate.as_deref(), Some("host-local"));
        let call = parse(
            &with(r#","sticky":{"leaseSeconds":9}"#),
            "MARGAY_IDENTITY=db",
        )
        .unwrap();
        let identity = call.identity.clone().unwrap();
        assert_eq!((identity.name.as_str(), identity.lease_secs), ("db", 9));
        assert!(call.handle_id().starts_with("net1.sticky-"));
    }

    #[test]
    fn a_pod_comes_from_the_arguments() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=x";
        let pod = parse(&with(""), args).unwrap().pod.unwrap();
        assert_eq!(
            pod,
            Pod {
                namespace: "shop".into(),
                name: "web-0".into()
            }
        );
    }

    #[test]
    fn bad_values_name_key_value_and_what_is_allowed() {
        for (config, args, code, needle) in [
            (r#","mtu":100"#, "", code::INVALID_CONFIG, "mtu is 100"),
            (
                r#","mtu":"big""#,
                "",
                code::DECODING_FAILURE,
                "does not decode",
            ),
            (
                r#","ipam":{"type":"/bin/sh"}"#,
                "",
                code::UNSUPPORTED_FIELD,
                "ipam.type is \"/bin/sh\"",
            ),
            (
                r#","ipam":{"type":"host-local"},"sticky":{"identity":"a"}"#,
                "",
                code::INVALID_CONFIG,
                "needs addresses of ours",
            ),
            (
                r#","args":{"cni":{"annotations":{"cni.projectcalico.org/ipAddrsNoIpam":"[\"10.0.0.1\"]"}}}"#,
                "",
                code::INVALID_CONFIG,
                "ip_addrs_no_ipam must be true",
            ),
            (
                "",
                "IP=10.0.0",
                code::INVALID_CONFIG,
                "CNI_ARGS IP has \"10.0.0\"",
            ),
            ("", "nonsense", code::INVALID_ENVIRONMENT, "KEY=VALUE"),
            ("", "MAC=01:00:00:00:00:00", code::INVALID_CONFIG, "unicast"),
            (
                r#","runtimeConfig":{"ips":["::1","::2"]}"#,
                "",
                code::INVALID_CONFIG,
                "one address",
            ),
        ] {
            let error = parse(&with(config), args).unwrap_err();
            assert_eq!(error.code, code, "{}", error.msg);
            assert!(error.msg.contains(needle), "{}", error.msg);
        }
    }
}
