//! The format of the files of `policy test`: endpoints, namespaces, resources and expectations.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use margay_model::any::AnyResource;
use margay_model::defaults::DEFAULT_NAMESPACE;
use margay_model::manifest::decode_value;
use margay_model::meta::{ObjectMeta, StringMap};
use margay_model::net::Cidr;
use margay_model::protocol::Protocol;
use margay_model::workload_endpoint::{EndpointPort, WorkloadEndpoint, WorkloadEndpointSpec};
use serde::Deserialize;
use serde_json::Value;

use crate::files::check_selector;
use crate::verbs::policy::cluster::namespace;
use crate::verbs::policy::pods::{self, Known, Pod};
use crate::verbs::policy::traffic::Traffic;

/// A document of a test file that is not a resource.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    /// Files and folders with resources, seen from the folder of this file.
    #[serde(default)]
    manifests: Vec<PathBuf>,
    #[serde(default)]
    namespaces: Vec<Namespace>,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    /// Resources of any kind, as in a manifest.
    #[serde(default)]
    resources: Vec<Value>,
    #[serde(default)]
    tests: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Namespace {
    name: String,
    #[serde(default)]
    labels: StringMap,
}

/// An endpoint in short.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Endpoint {
    /// NAMESPACE/NAME.
    name: String,
    #[serde(default)]
    labels: StringMap,
    /// One is made up when there is none.
    #[serde(default)]
    addresses: Vec<IpAddr>,
    #[serde(default)]
    node: String,
    #[serde(default)]
    service_account: String,
    /// That of the namespace when absent.
    profiles: Option<Vec<String>>,
    #[serde(default = "kubernetes")]
    orchestrator: String,
    /// Names of ports: `http: 8080` or `dns: 53/UDP`.
    #[serde(default)]
    ports: BTreeMap<String, Word>,
}

fn kubernetes() -> String {
    "k8s".to_owned()
}

/// A text or a number.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Word {
    Number(u64),
    Text(String),
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// One or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Words {
    One(Word),
    Many(Vec<Word>),
}

impl Words {
    pub(super) fn texts(&self) -> Vec<String> {
        match self {
            Self::One(word) => vec![word.to_string()],
            Self::Many(words) => words.iter().map(ToString::to_string).collect(),
        }
    }
}

/// What is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expect {
    Allow,
    Deny,
}

/// Expectations: each sender, receiver and port with each other.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Case {
    pub(super) name: Option<String>,
    pub(super) from: Words,
    pub(super) to: Words,
    protocol: Option<Word>,
    port: Option<Words>,
    source_port: Option<u16>,
    icmp: Option<Word>,
    pub(super) expect: Expect,
    /// The policy, profile or tier that must be the one that decides, as KIND/[NAMESPACE/]NAME.
    pub(super) by: Option<String>,
}

impl Case {
    /// What is sent, for each of the ports.
    pub(super) fn traffic(&self) -> Vec<Traffic> {
        let ports = match &self.port {
            None => vec![None],
            Some(ports) => ports.texts().into_iter().map(Some).collect(),
        };
        let of = |port| Traffic {
            protocol: self.protocol.as_ref().map(ToString::to_string),
            port,
            sport: self.source_port,
            icmp: self.icmp.as_ref().map(ToString::to_string),
        };
        ports.into_iter().map(of).collect()
    }
}

/// All that test files say.
#[derive(Debug, Default)]
pub(super) struct Suite {
    pub(super) resources: Vec<AnyResource>,
    pub(super) manifests: Vec<PathBuf>,
    pub(super) cases: Vec<Case>,
    endpoints: Vec<Endpoint>,
}

impl Suite {
    /// Adds a file; gives what is wrong with it, a line each.
    pub(super) fn read(&mut self, file: &Path, text: &str) -> Vec<String> {
        let mut errors = Vec::new();
        for (i, document) in serde_norway::Deserializer::from_str(text).enumerate() {
            let place = format!("{}: document {}", file.display(), i + 1);
            match merged(document) {
                Ok(Value::Null) => {}
                Ok(value) if value.get("kind").is_some() => {
                    self.resource(&place, &value, &mut errors);
                }
                Ok(value) => self.document(file, &place, value, &mut errors),
                Err(error) => {
                    errors.push(format!("{place}: {error}"));
                    // Behind an error of syntax nothing can be told apart.
                    break;
                }
            }
        }
        errors
    }

    fn resource(&mut self, place: &str, value: &Value, errors: &mut Vec<String>) {
        if let Some(known) = pods::read(value) {
            for known in known {
                match known {
                    Ok(Known::Pod(Some(pod))) => self.endpoints.push(pod.into()),
                    // It is its host, as far as policy goes.
                    Ok(Known::Pod(None)) => {}
                    Ok(Known::Namespace(name, labels)) => {
                        self.resources.push(namespace(&name, &labels).into());
                    }
                    Err(error) => errors.push(format!("{place}: {error}")),
                }
            }
            return;
        }
        for document in decode_value(value, &check_selector) {
            match document.result {
                Ok(mut resource) => {
                    if resource.kind().namespaced() {
                        let namespace = &mut resource.metadata_mut().namespace;
                        namespace.get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned());
                    }
                    self.resources.push(resource.with_defaults());
                }
                Err(error) => errors.push(format!("{place}: {}: {error}", document.subject)),
            }
        }
    }

    fn document(&mut self, file: &Path, place: &str, value: Value, errors: &mut Vec<String>) {
        let document: Document = match serde_json::from_value(value) {
            Ok(document) => document,
            Err(error) => {
                errors.push(format!("{place}: {error}"));
                return;
            }
        };
        for value in &document.resources {
            self.resource(place, value, errors);
        }
        let folder = file.parent().unwrap_or_else(|| Path::new(""));
        let paths = document.manifests.iter().map(|path| folder.join(path));
        self.manifests.extend(paths);
        let namespaces = document.namespaces.iter();
        self.resources
            .extend(namespaces.map(|n| namespace(&n.name, &n.labels).into()));
        self.endpoints.extend(document.endpoints);
        self.cases.extend(document.tests);
    }

    /// Turns the endpoints in short into resources, with an address for each.
    pub(super) fn settle(&mut self) -> Vec<String> {
        let mut errors = Vec::new();
        let own = self.resources.iter().filter_map(|resource| match resource {
            AnyResource::WorkloadEndpoint(endpoint) => Some(&endpoint.spec.ip_networks),
            _ => None,
        });
        let given = self
            .endpoints
            .iter()
            .flat_map(|e| e.addresses.iter().copied());
        let used: BTreeSet<IpAddr> = own.flatten().map(|net| net.addr()).chain(given).collect();
        let mut free = invented().filter(|address| !used.contains(address));
        for endpoint in std::mem::take(&mut self.endpoints) {
            let name = endpoint.name.clone();
            match endpoint.resource(&mut free) {
                Ok(resource) => self.resources.push(resource.into()),
                Err(error) => errors.push(format!("endpoint {name}: {error}")),
            }
        }
        for resource in &mut self.resources {
            if let AnyResource::WorkloadEndpoint(endpoint) = resource
                && endpoint.spec.ip_networks.is_empty()
            {
                endpoint
                    .spec
                    .ip_networks
                    .extend(free.next().map(Cidr::host));
            }
        }
        errors
    }
}

/// Addresses for endpoints that have none: those set aside for benchmarks (RFC 2544), which nobody
/// has.
fn invented() -> impl Iterator<Item = IpAddr> {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 1));
    let last = u32::from(Ipv4Addr::new(198, 19, 255, 254));
    (first..=last).map(|bits| Ipv4Addr::from(bits).into())
}

fn merged(document: serde_norway::Deserializer<'_>) -> Result<Value, serde_norway::Error> {
    let mut value = serde_norway::Value::deserialize(document)?;
    value.apply_merge()?;
    serde_norway::from_value(value)
}

impl From<Pod> for Endpoint {
    fn from(pod: Pod) -> Self {
        let port = |(name, (port, protocol))| (name, Word::Text(format!("{port}/{protocol}")));
        Self {
            name: format!("{}/{}", pod.namespace, pod.name),
            labels: pod.labels,
            addresses: pod.addresses,
            node: pod.node,
            service_account: pod.service_account,
            profiles: None,
            ports: pod.ports.into_iter().map(port).collect(),
            orchestrator: kubernetes(),
        }
    }
}

impl Endpoint {
    fn resource(self, free: &mut impl Iterator<Item = IpAddr>) -> Result<WorkloadEndpoint, String> {
        let (namespace, name) = self
            .name
            .split_once('/')
            .ok_or("name: allowed: NAMESPACE/NAME")?;
        let mut addresses = self.addresses;
        if addresses.is_empty() {
            addresses.extend(free.next());
        }
        let ports: Result<_, String> = self.ports.into_iter().map(port).collect();
        let mut metadata = ObjectMeta::namespaced(namespace, name);
        metadata.labels = self.labels;
        let spec = WorkloadEndpointSpec {
            orchestrator: self.orchestrator,
            node: self.node,
            pod: name.to_owned(),
            endpoint: "eth0".to_owned(),
            service_account_name: self.service_account,
            ip_networks: addresses.into_iter().map(Cidr::host).collect(),
            profiles: self
                .profiles
                .unwrap_or_else(|| vec![format!("kns.{namespace}")]),
            ports: ports?,
            ..WorkloadEndpointSpec::default()
        };
        Ok(WorkloadEndpoint::new(metadata, spec))
    }
}

fn port((name, word): (String, Word)) -> Result<EndpointPort, String> {
    let text = word.to_string();
    let wrong = || format!("ports.{name}: found \"{text}\", allowed: PORT or PORT/PROTOCOL");
    let (number, protocol) = text.split_once('/').unwrap_or((&text, "TCP"));
    let port = number.parse::<u16>().ok().filter(|port| *port > 0);
    let protocol = protocol.parse::<Protocol>().ok().filter(|p| p.has_ports());
    let (Some(port), Some(protocol)) = (port, protocol) else {
        return Err(wrong());
    };
    Ok(EndpointPort {
        name: name.clone(),
        protocol,
        port,
        host_port: None,
        host_ip: None,
        extra: BTreeMap::new(),
    })
}
