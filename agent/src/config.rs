//! The agent's own configuration: one YAML file, every field optional.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipnetwork::IpNetwork;
use margay_api::{DEFAULT_JOURNAL, DEFAULT_SOCKET};
use margay_dataplane::filter::Wish;
use margay_datastore::DatastoreConfig;
use margay_model::settings;
use margay_speaker::bmp::BmpConfig;
use serde::Deserialize;

use crate::dns::DnsConfig;
use crate::docker::DockerConfig;
use crate::flows::FlowsConfig;
use crate::http::TlsFiles;

/// Plain data, read once at start. What can change while running is in the datastore instead.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// This node's name in the datastore; the host name, in lower case, when absent.
    pub(crate) node_name: Option<String>,
    /// The unix socket for the CNI shim and the command line.
    pub(crate) socket: PathBuf,
    /// Where the shim leaves the DELs that it could not hand over.
    pub(crate) cni_journal: PathBuf,
    /// Where the resources are.
    pub(crate) datastore: DatastoreConfig,
    /// What the agent last read of the datastore, for a start while the datastore is away. Written anew when it is
    /// lost; holds all resources, and is readable by root only. Of no use with the embedded store.
    pub(crate) snapshot: PathBuf,
    /// Where the private keys of WireGuard are, a file for each family, readable by root only. Made when they are
    /// needed; without them a host gets new ones, and tells the others.
    pub(crate) wireguard_keys: PathBuf,
    /// The node's IPv4 address, with the prefix length of its subnet. When absent: what the Node
    /// resource says, else the address that the kernel uses towards the default route.
    pub(crate) node_ip: Option<String>,
    /// The node's IPv6 address, likewise; none when absent and the Node resource has none.
    pub(crate) node_ip6: Option<String>,
    /// Whether to run the BGP speaker.
    pub(crate) bgp: bool,
    /// Local addresses to accept BGP sessions on; all of them when empty.
    pub(crate) bgp_listen: Vec<IpAddr>,
    /// Where policy is written; as FelixConfiguration says when absent.
    pub(crate) policy_backend: Option<PolicyBackend>,
    /// BMP collectors (RFC 7854) to tell what peers send: `{collector: ADDRESS:PORT}`, with
    /// `statistics_secs` (60; 0 for none).
    pub(crate) bmp: Vec<BmpConfig>,
    /// Where `/metrics`, `/liveness` and `/readiness` are served; null for nowhere.
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// TLS for `metrics_listen`: `{cert_file, key_file, client_ca_file}`; without it there is none.
    pub(crate) metrics_tls: Option<TlsFiles>,
    /// Where the web page for people is served, which shows endpoints and policies and has no passwords: keep it on
    /// the loopback address. Null for nowhere.
    pub(crate) page_listen: Option<SocketAddr>,
    /// Where passwords that resources refer to are: `DIR/NAME/KEY`, a file each.
    pub(crate) secrets_dir: PathBuf,
    /// How often it is looked for what a crash or a reboot left, in seconds; 1 to 86400. What is found
    /// goes at the second look.
    pub(crate) audit_interval_secs: u64,
    /// How long an address without an endpoint, or a node without a Node resource, is left alone, in
    /// seconds; 0 to 86400. The established system waits as long.
    pub(crate) leak_grace_secs: u64,
    /// Settings as in the `spec` of a FelixConfiguration, for this host: they win over those of the datastore, and the
    /// environment (`FELIX_LOGPREFIX`) over them.
    pub(crate) felix: serde_json::Map<String, serde_json::Value>,
    /// The same of the environment. Not to be had in the file.
    #[serde(skip)]
    pub(crate) felix_env: serde_json::Map<String, serde_json::Value>,
    /// What of the environment is not used, and why.
    #[serde(skip)]
    pub(crate) env_errors: Vec<String>,
    /// Packets that policy decides about: of which `margayctl flows` tells (`capture: none`, `denied` or `all`), which
    /// are told of in the log (`log: none`, `rules`, `denied` or `all`), the `group` of NFLOG that they come through.
    pub(crate) flows: FlowsConfig,
    /// Docker's plugin interface; not served when absent. `{}` has it served with all defaults.
    pub(crate) docker: Option<DockerConfig>,
    /// A responder for the names of workloads; none when absent. `{}` has it listen on 169.254.1.53.
    pub(crate) dns: Option<DnsConfig>,
    /// Filter directives for the log, for example `info` or `margay_speaker=debug,info`.
    pub(crate) log: String,
    /// How the log is written: `text`, or `json` for an object in each line.
    pub(crate) log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For programs: an object in each line.
    Json,
}

/// A place to write policy to.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PolicyBackend {
    /// nftables, unless others have rules in iptables.
    Auto,
    Nftables,
    /// In the variant that others use.
    Iptables,
}

impl From<PolicyBackend> for Wish {
    fn from(backend: PolicyBackend) -> Self {
        match backend {
            PolicyBackend::Auto => Self::Auto,
            PolicyBackend::Nftables => Self::Nftables,
            PolicyBackend::Iptables => Self::Iptables,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: None,
            socket: DEFAULT_SOCKET.into(),
            cni_journal: DEFAULT_JOURNAL.into(),
            datastore: DatastoreConfig::default(),
            snapshot: "/var/lib/margay/snapshot.redb".into(),
            wireguard_keys: "/var/lib/margay/wireguard".into(),
            node_ip: None,
            node_ip6: None,
            bgp: true,
            bgp_listen: Vec::new(),
            policy_backend: None,
            bmp: Vec::new(),
            metrics_listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9091))),
            metrics_tls: None,
            page_listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9089))),
            secrets_dir: "/etc/margay/secrets".into(),
            audit_interval_secs: 60,
            leak_grace_secs: 900,
            felix: serde_json::Map::new(),
            felix_env: serde_json::Map::new(),
            env_errors: Vec::new(),
            flows: FlowsConfig::default(),
            docker: None,
            dns: None,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}

impl Config {
    /// Reads the file, then lets the environment override where the datastore is.
    ///
    /// # Errors
    /// A file that cannot be read or does not parse, an impossible environment variable.
    pub(crate) fn load(path: Option<&Path>) -> anyhow::Result<Self> {
        let mut config = match path {
            Some(path) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("cannot read configuration {}", path.display()))?;
                Self::parse(&text).with_context(|| format!("configuration {}", path.display()))?
            }
            None => Self::default(),
        };
        config
            .datastore
            .apply_env(|name| std::env::var(name).ok())?;
        let texts = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let (felix, errors) = settings::from_environment(texts);
        config.felix_env = felix;
        config.env_errors = errors.iter().map(ToString::to_string).collect();
        Ok(config)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        // An empty file is a mapping without entries to a person, and null to YAML.
        let config: Option<Self> = serde_norway::from_str(text)?;
        let mut config = config.unwrap_or_default();
        let errors = settings::check(&mut config.felix);
        if !errors.is_empty() {
            let errors: Vec<_> = errors.iter().map(|e| format!("felix.{e}")).collect();
            bail!("{}", errors.join("; "));
        }
        config.node_networks()?;
        if let Some(Err(error)) = config.dns.as_ref().map(DnsConfig::check) {
            bail!("{error}");
        }
        let audit = config.audit_interval_secs;
        if !(1..=86_400).contains(&audit) {
            bail!("audit_interval_secs is {audit}, must be 1 to 86400");
        }
        let grace = config.leak_grace_secs;
        if grace > 86_400 {
            bail!("leak_grace_secs is {grace}, must be 0 to 86400");
        }
        Ok(config)
    }

    /// The configured node addresses.
    ///
    /// # Errors
    /// An address that does not parse or is of the wrong family.
    pub(crate) fn node_networks(&self) -> anyhow::Result<(Option<IpNetwork>, Option<IpNetwork>)> {
        let parse = |field: &str, value: &Option<String>, v4: bool| {
            let Some(text) = value else { return Ok(None) };
            match text.parse::<IpNetwork>() {
                Ok(net) if net.is_ipv4() == v4 => Ok(Some(net)),
                _ => {
                    let family = if v4 { "an IPv4" } else { "an IPv6" };
                    bail!(
                        "{field} is {text:?}, must be {family} address with its subnet's prefix \
                         length"
                    )
                }
            }
        };
        Ok((
            parse("node_ip", &self.node_ip, true)?,
            parse("node_ip6", &self.node_ip6, false)?,
        ))
    }
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::{Capture, Logged};

    #[test]
    fn an_empty_file_is_all_defaults() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.socket, Path::new("/run/margay/margayd.sock"));
        assert!(config.bgp);
        assert_eq!(config.policy_backend, None);
    }

    #[test]
    fn the_configurations_that_are_shipped_are_read() {
        Config::parse(include_str!("../../deploy/deb/margayd.yaml")).unwrap();
        let manifests = include_str!("../../deploy/kubernetes/margay.yaml");
        let (_, rest) = manifests.split_once("margayd.yaml: |\n").unwrap();
        let lines = rest.lines().take_while(|line| line.starts_with("    "));
        let text: String = lines.map(|line| format!("{}\n", &line[4..])).collect();
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.policy_backend, Some(PolicyBackend::Nftables));
        assert_eq!(config.datastore.endpoints, ["https://192.0.2.1:2379"]);
    }

    #[test]
    fn a_policy_backend_is_one_of_three_words() {
        let backend = |word: &str| Config::parse(&format!("policy_backend: {word}"));
        let nftables = backend("nftables").unwrap().policy_backend;
        assert_eq!(nftables, Some(PolicyBackend::Nftables));
        let error = backend("nft").unwrap_err().to_string();
        assert!(
            error.contains("auto") && error.contains("iptables"),
            "{error}"
        );
    }

    #[test]
    fn what_is_denied_is_kept_and_what_rules_log_is_told() {
        let flows = Config::parse("flows: {log: denied}").unwrap().flows;
        assert_eq!(
            (flows.capture, flows.log),
            (Capture::Denied, Logged::Denied)
        );
        assert_eq!(Config::parse("").unwrap().flows.log, Logged::Rules);
        let error = Config::parse("flows: {capture: some}").unwrap_err();
        assert!(error.to_string().contains("denied"), "{error}");
    }

    #[test]
    fn metrics_are_on_at_home_unless_said_otherwise() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.metrics_listen, "127.0.0.1:9091".parse().ok());
    }

    #[test]
    fn metrics_can_be_off_and_collectors_named() {
        let text = "metrics_listen: null\nbmp: [{collector: '192.0.2.1:11019'}]";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.metrics_listen, None);
        assert_eq!(config.bmp[0].statistics_secs, 60);
    }

    #[test]
    fn settings_of_felix_are_held_against_the_rules_of_the_resource() {
        let config =
            Config::parse("felix: {logPrefix: edge, iptablesRefreshInterval: 5s}").unwrap();
        assert_eq!(config.felix["logPrefix"], "edge");
        let error = Config::parse("felix: {logPrefx: a, chainInsertMode: Sideways}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "felix.chainInsertMode: found \"Sideways\", allowed: Insert, Append; felix.logPrefx: found an \
             unknown field, did you mean \"logPrefix\"?"
        );
    }

    #[test]
    fn docker_and_names_are_off_until_named_and_then_have_defaults() {
        let config = Config::parse("").unwrap();
        assert_eq!((config.docker, config.dns), (None, None));
        let config = Config::parse("docker: {}\ndns: {zone: lab.internal}").unwrap();
        let socket = config.docker.unwrap().socket;
        assert_eq!(socket, Path::new("/run/docker/plugins/margay.sock"));
        assert_eq!(
            config.dns.unwrap().listen,
            ["169.254.1.53:53".parse().unwrap()]
        );
        let error = Config::parse("dns: {ttl_secs: 9999}").unwrap_err();
        assert!(
            error.to_string().contains("dns.ttl_secs is 9999"),
            "{error}"
        );
        let error = Config::parse("docker: {sockt: /x}").unwrap_err();
        assert!(error.to_string().contains("sockt"), "{error}");
    }

    #[test]
    fn unknown_keys_and_bad_addresses_are_refused() {
        assert!(
            Config::parse("sockt: /x")
                .unwrap_err()
                .to_string()
                .contains("sockt")
        );
        let error = Config::parse("node_ip: fe80::1/64")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("node_ip is \"fe80::1/64\", must be an IPv4 address"),
            "{error}"
        );
    }
}
