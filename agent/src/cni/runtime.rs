//! `runtimeConfig`: what the runtime asks for a container, of the capabilities that the configuration declares.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_api::cni::{CniError, code};
use margay_model::protocol::Protocol;
use margay_model::workload_endpoint::EndpointPort;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Runtimes written in Go send `null` for a list that they have not made, and the reference plugins do not care for the
/// case of letters, so that containerd sends `HostPort` and `IngressRate`.
#[derive(Default, Deserialize)]
pub(super) struct RuntimeConf {
    ips: Option<Vec<String>>,
    pub(super) mac: Option<String>,
    #[serde(rename = "portMappings")]
    port_mappings: Option<Vec<PortMapping>>,
    pub(super) bandwidth: Option<BandwidthConf>,
    dns: Option<DnsConf>,
    /// All annotations of a pod, as containerd passes them to whoever declares it.
    #[serde(rename = "io.kubernetes.cri.pod-annotations")]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct PortMapping {
    #[serde(default, rename = "hostPort", alias = "HostPort")]
    host_port: u32,
    #[serde(default, rename = "containerPort", alias = "ContainerPort")]
    container_port: u32,
    #[serde(default, alias = "Protocol")]
    protocol: String,
    #[serde(default, rename = "hostIP", alias = "HostIP", alias = "hostIp")]
    host_ip: String,
}

/// In bits a second and bits; 0 is no limit.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct BandwidthConf {
    #[serde(rename = "ingressRate", alias = "IngressRate")]
    pub(super) ingress_rate: u64,
    #[serde(rename = "ingressBurst", alias = "IngressBurst")]
    pub(super) ingress_burst: u64,
    #[serde(rename = "egressRate", alias = "EgressRate")]
    pub(super) egress_rate: u64,
    #[serde(rename = "egressBurst", alias = "EgressBurst")]
    pub(super) egress_burst: u64,
}

/// The names are not those of a configuration's `dns`.
#[derive(Deserialize)]
struct DnsConf {
    #[serde(alias = "Servers")]
    servers: Option<Vec<String>>,
    #[serde(alias = "Searches")]
    searches: Option<Vec<String>>,
    #[serde(alias = "Options")]
    options: Option<Vec<String>>,
}

impl RuntimeConf {
    pub(super) fn ips(&self) -> Vec<String> {
        self.ips.clone().unwrap_or_default()
    }

    /// The pod's annotations.
    pub(super) fn annotations(&mut self) -> BTreeMap<String, String> {
        self.annotations.take().unwrap_or_default()
    }

    /// Ports of the host, without those that name none.
    pub(super) fn host_ports(&self) -> Result<Vec<EndpointPort>, CniError> {
        let wanted = self.port_mappings.iter().flatten();
        wanted
            .filter(|mapping| mapping.host_port != 0)
            .map(PortMapping::host_port)
            .collect()
    }

    /// The configuration's `dns`, with what the runtime says instead of it.
    pub(super) fn dns(&self, configured: Option<Value>) -> Option<Value> {
        let Some(asked) = &self.dns else {
            return configured;
        };
        let mut dns = match configured {
            Some(Value::Object(dns)) => dns,
            _ => Map::new(),
        };
        for (key, list) in [
            ("nameservers", &asked.servers),
            ("search", &asked.searches),
            ("options", &asked.options),
        ] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                dns.insert(key.to_owned(), list.clone().into());
            }
        }
        (!dns.is_empty()).then_some(Value::Object(dns))
    }
}

impl PortMapping {
    fn host_port(&self) -> Result<EndpointPort, CniError> {
        let invalid = |key: &str, found: &dyn std::fmt::Debug, allowed: &str| {
            let msg = format!("runtimeConfig.portMappings: {key} is {found:?}, must be {allowed}");
            Err(CniError::new(code::INVALID_CONFIG, msg))
        };
        let number = |port: u32| u16::try_from(port).ok().filter(|port| *port != 0);
        let Some(host_port) = number(self.host_port) else {
            return invalid("hostPort", &self.host_port, "0 to 65535");
        };
        let Some(port) = number(self.container_port) else {
            return invalid("containerPort", &self.container_port, "1 to 65535");
        };
        let protocol = match self.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return invalid("protocol", &self.protocol, "tcp, udp or sctp"),
        };
        let host_ip = Some(self.host_ip.clone()).filter(|ip| !ip.is_empty());
        if host_ip
            .as_ref()
            .is_some_and(|ip| ip.parse::<IpAddr>().is_err())
        {
            return invalid("hostIP", &self.host_ip, "an address of the host or empty");
        }
        Ok(EndpointPort {
            name: String::new(),
            protocol,
            port,
            host_port: Some(host_port),
            host_ip,
            extra: margay_model::meta::Extra::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn conf(value: Value) -> RuntimeConf {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn port_mappings_become_ports_of_the_endpoint_and_port_0_is_none() {
        let ports = conf(json!({"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "TCP"},
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"},
            {"hostPort": 0, "containerPort": 7},
            {"hostPort": 9, "containerPort": 9, "protocol": "sctp", "hostIP": ""},
        ]}));
        let ports = ports.host_ports().unwrap();
        let brief: Vec<_> = ports
            .iter()
            .map(|p| (p.protocol, p.host_port, p.port, p.host_ip.as_deref()))
            .collect();
        assert_eq!(
            brief,
            [
                (Protocol::Tcp, Some(8080), 80, None),
                (Protocol::Udp, Some(53), 5353, Some("192.0.2.1")),
                (Protocol::Sctp, Some(9), 9, None),
            ]
        );
        assert!(
            conf(json!({"portMappings": null}))
                .host_ports()
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn impossible_mappings_name_key_value_and_what_is_allowed() {
        for (mapping, needle) in [
            (
                json!({"hostPort": 70000, "containerPort": 80}),
                "hostPort is 70000, must be 0 to 65535",
            ),
            (
                json!({"hostPort": 1}),
                "containerPort is 0, must be 1 to 65535",
            ),
            (
                json!({"hostPort": 1, "containerPort": 1, "protocol": "icmp"}),
                "protocol is \"icmp\", must be tcp, udp or sctp",
            ),
            (
                json!({"hostPort": 1, "containerPort": 1, "hostIP": "here"}),
                "hostIP is \"here\", must be an address",
            ),
        ] {
            let error = conf(json!({"portMappings": [mapping]}))
                .host_ports()
                .unwrap_err();
            assert_eq!(error.code, code::INVALID_CONFIG);
            assert!(error.msg.contains(needle), "{}", error.msg);
        }
    }

    #[test]
    fn names_of_the_runtime_win_over_those_of_the_configuration() {
        let asked = conf(
            json!({"dns": {"servers": ["192.0.2.53"], "searches": ["a.test"], "options": null}}),
        );
        let configured = json!({"nameservers": ["192.0.2.1"], "domain": "b.test"});
        assert_eq!(
            asked.dns(Some(configured.clone())),
            Some(json!({"nameservers": ["192.0.2.53"], "search": ["a.test"], "domain": "b.test"}))
        );
        assert_eq!(
            conf(json!({})).dns(Some(configured.clone())),
            Some(configured)
        );
        assert_eq!(conf(json!({"dns": {}})).dns(None), None);
    }
    #[test]
    fn what_containerd_writes_with_capitals_is_understood() {
        let mut asked = conf(json!({
            "portMappings": [{"HostPort": 8088, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": ""}],
            "bandwidth": {"IngressRate": 8, "IngressBurst": 16, "EgressRate": 0, "EgressBurst": 0},
            "dns": {"Servers": ["192.0.2.53"], "Searches": null, "Options": []},
            "io.kubernetes.cri.pod-annotations": {"a": "b"},
        }));
        let ports = asked.host_ports().unwrap();
        assert_eq!((ports[0].host_port, ports[0].port), (Some(8088), 8080));
        assert_eq!(
            asked.dns(None),
            Some(json!({"nameservers": ["192.0.2.53"]}))
        );
        assert_eq!(asked.annotations()["a"], "b");
        let bandwidth = asked.bandwidth.unwrap();
        assert_eq!((bandwidth.ingress_rate, bandwidth.ingress_burst), (8, 16));
    }
}
