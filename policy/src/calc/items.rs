//! Everything with labels and addresses: endpoints and network sets, and what they add to sets.

use std::borrow::Cow;
use std::sync::Arc;

use hashbrown::HashMap;
use margay_model::any::AnyResource;
use margay_model::host_endpoint::HostEndpoint;
use margay_model::kind::ResourceKey;
use margay_model::meta::StringMap;
use margay_model::net::Cidr;
use margay_model::qos::QosControls;
use margay_model::workload_endpoint::{EndpointPort, WorkloadEndpoint, WorkloadEndpointSpec};

use super::compile::NamedPort;
use super::floating;
use super::scope::{NAMESPACE, ORCHESTRATOR, SERVICE_ACCOUNT};
use crate::index::ItemId;
use crate::program::{HostInterface, HostPort, SetMember, WHOLE_ADDRESS};

/// What an item adds to the sets that its labels put it in. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contribution(Option<Arc<Addresses>>);

#[derive(Debug, PartialEq, Eq)]
struct Addresses {
    nets: Vec<Cidr>,
    /// Name and number of ports, for endpoints.
    ports: Vec<(NamedPort, u16)>,
}

impl Contribution {
    fn new(nets: &[Cidr], ports: &[EndpointPort]) -> Self {
        let mut nets = nets.to_vec();
        nets.sort_unstable();
        nets.dedup();
        let port = |p: &EndpointPort| {
            (
                NamedPort {
                    name: p.name.clone(),
                    protocol: p.protocol.number(),
                },
                p.port,
            )
        };
        let mut ports: Vec<_> = ports
            .iter()
            .filter(|p| !p.name.is_empty())
            .map(port)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Self((!nets.is_empty()).then(|| Arc::new(Addresses { nets, ports })))
    }

    /// Members of a set of addresses, or of one of a named port; each once.
    pub(super) fn members<'a>(
        &'a self,
        port: Option<&'a NamedPort>,
    ) -> impl Iterator<Item = SetMember> + 'a {
        self.0
            .iter()
            .flat_map(move |a| a.nets.iter().flat_map(move |net| a.of_net(*net, port)))
    }
}

impl Addresses {
    fn of_net<'a>(
        &'a self,
        net: Cidr,
        named: Option<&'a NamedPort>,
    ) -> impl Iterator<Item = SetMember> + 'a {
        let whole = named.is_none().then_some(SetMember::Net(net));
        let ports = self
            .ports
            .iter()
            .filter(move |(p, _)| named == Some(p))
            .map(move |(p, port)| SetMember::Port {
                addr: net.addr(),
                protocol: p.protocol,
                port: *port,
            });
        whole.into_iter().chain(ports)
    }
}

/// What only matters of an endpoint on the host it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Local {
    Workload(LocalWorkload),
    Host(LocalHost),
}

impl Local {
    /// In order.
    pub(super) fn profiles(&self) -> &[String] {
        match self {
            Self::Workload(workload) => &workload.profiles,
            Self::Host(host) => &host.profiles,
        }
    }
}

/// See [`Local`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalHost {
    pub(super) interface: HostInterface,
    pub(super) profiles: Vec<String>,
}

/// See [`Local`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalWorkload {
    pub(super) ifname: String,
    pub(super) addresses: Vec<Cidr>,
    pub(super) profiles: Vec<String>,
    pub(super) allowed_source_prefixes: Vec<Cidr>,
    /// What it asks for, if that can be read: limits are no protection.
    pub(super) qos: QosControls,
    /// Floating IPs among them, as far as the endpoint asks for them.
    pub(super) host_ports: Vec<HostPort>,
}

/// An endpoint or network set as it was given.
pub(super) struct ItemInput<'a> {
    /// Of several values of a label the first counts.
    pub(super) labels: Vec<(&'a str, &'a str)>,
    pub(super) parents: Vec<Cow<'a, str>>,
    pub(super) contribution: Contribution,
    /// Only for endpoints that rules are calculated for.
    pub(super) local: Option<Box<Local>>,
}

/// An address that does not parse leads nowhere: a port open to all would be more than was asked for.
fn host_ports(ports: &[EndpointPort]) -> Vec<HostPort> {
    let host_port = |port: &EndpointPort| {
        let host_ip = match port.host_ip.as_deref() {
            None | Some("") => None,
            Some(text) => Some(text.parse().ok()?),
        };
        Some(HostPort {
            protocol: port.protocol.number(),
            host_port: port.host_port.filter(|number| *number != 0)?,
            host_ip,
            port: port.port,
        })
    };
    ports.iter().filter_map(host_port).collect()
}

fn floating_ips(spec: &WorkloadEndpointSpec) -> impl Iterator<Item = HostPort> {
    floating::asked(spec).map(|address| HostPort {
        protocol: WHOLE_ADDRESS,
        host_port: 0,
        host_ip: Some(address),
        port: 0,
    })
}

fn pairs(labels: &StringMap) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().map(|(k, v)| (k.as_str(), v.as_str()))
}

fn borrowed(names: &[String]) -> Vec<Cow<'_, str>> {
    names.iter().map(|name| Cow::Borrowed(&**name)).collect()
}

impl<'a> ItemInput<'a> {
    fn workload(endpoint: &'a WorkloadEndpoint, is_local: bool) -> Self {
        let spec = &endpoint.spec;
        let implicit = [
            (
                NAMESPACE,
                endpoint.metadata.namespace.as_deref().unwrap_or_default(),
            ),
            (ORCHESTRATOR, &spec.orchestrator),
            // Longer names cannot be label values.
            (
                SERVICE_ACCOUNT,
                Some(&*spec.service_account_name)
                    .filter(|n| n.len() < 63)
                    .unwrap_or(""),
            ),
        ];
        let implicit = implicit.into_iter().filter(|(_, value)| !value.is_empty());
        let local = is_local.then(|| {
            Box::new(Local::Workload(LocalWorkload {
                ifname: spec.interface_name.clone(),
                addresses: spec.ip_networks.clone(),
                profiles: spec.profiles.clone(),
                allowed_source_prefixes: spec.allow_spoofed_source_prefixes.clone(),
                qos: spec.qos_controls().unwrap_or_default(),
                host_ports: host_ports(&spec.ports)
                    .into_iter()
                    .chain(floating_ips(spec))
                    .collect(),
            }))
        });
        Self {
            labels: implicit.chain(pairs(&endpoint.metadata.labels)).collect(),
            parents: borrowed(&spec.profiles),
            contribution: Contribution::new(&spec.ip_networks, &spec.ports),
            local,
        }
    }

    fn host(endpoint: &'a HostEndpoint, is_local: bool) -> Self {
        let spec = &endpoint.spec;
        // It is in no namespace, whatever its labels say.
        let labels = pairs(&endpoint.metadata.labels).filter(|(key, _)| *key != NAMESPACE);
        let local = is_local.then(|| {
            Box::new(Local::Host(LocalHost {
                interface: match &*spec.interface_name {
                    "" => HostInterface::WithAddress(spec.expected_ips.clone()),
                    "*" => HostInterface::All,
                    name => HostInterface::Named(name.to_owned()),
                },
                profiles: spec.profiles.clone(),
            }))
        });
        let nets: Vec<_> = spec.expected_ips.iter().copied().map(Cidr::host).collect();
        Self {
            labels: labels.collect(),
            parents: borrowed(&spec.profiles),
            contribution: Contribution::new(&nets, &spec.ports),
            local,
        }
    }

    fn network_set(labels: &'a StringMap, namespace: Option<&'a str>, nets: &[Cidr]) -> Self {
        let implicit = namespace.map(|namespace| (NAMESPACE, namespace));
        let profile = namespace.map(|n| Cow::Owned(format!("{NAMESPACE_PROFILE}{n}")));
        Self {
            labels: implicit.into_iter().chain(pairs(labels)).collect(),
            parents: profile.into_iter().collect(),
            contribution: Contribution::new(nets, &[]),
            local: None,
        }
    }

    /// The item in a resource, if the resource is one.
    pub(super) fn from_resource(
        resource: &'a AnyResource,
        is_local: impl Fn(&str) -> bool,
    ) -> Option<Self> {
        let meta = resource.metadata();
        Some(match resource {
            AnyResource::WorkloadEndpoint(wep) => Self::workload(wep, is_local(&wep.spec.node)),
            AnyResource::HostEndpoint(hep) => Self::host(hep, is_local(&hep.spec.node)),
            AnyResource::NetworkSet(set) => {
                let namespace = Some(meta.namespace.as_deref().unwrap_or_default());
                Self::network_set(&meta.labels, namespace, &set.spec.nets)
            }
            AnyResource::GlobalNetworkSet(set) => {
                Self::network_set(&meta.labels, None, &set.spec.nets)
            }
            _ => return None,
        })
    }
}

/// The profile that stands for a namespace is this and the namespace's name.
pub(super) const NAMESPACE_PROFILE: &str = "kns.";

/// Items by number and by key. Numbers of removed items are reused.
#[derive(Debug, Default)]
pub(super) struct ItemTable {
    ids: HashMap<Arc<ResourceKey>, ItemId, foldhash::fast::RandomState>,
    items: Vec<Option<Item>>,
    free: Vec<ItemId>,
}

/// What is kept of an item, beside its labels, which the index keeps.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) key: Arc<ResourceKey>,
    pub(super) contribution: Contribution,
    pub(super) local: Option<Box<Local>>,
}

impl ItemTable {
    /// The number of an item, given to it now if it is new.
    pub(super) fn ensure(&mut self, key: &ResourceKey) -> ItemId {
        if let Some(&id) = self.ids.get(key) {
            return id;
        }
        let key = Arc::new(key.clone());
        let item = Item {
            key: Arc::clone(&key),
            contribution: Contribution::default(),
            local: None,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.items[id.0 as usize] = Some(item);
                id
            }
            None => {
                self.items.push(Some(item));
                ItemId(
                    u32::try_from(self.items.len() - 1)
                        .expect("fewer than 2^32 items fit in memory"),
                )
            }
        };
        self.ids.insert(key, id);
        id
    }

    pub(super) fn id(&self, key: &ResourceKey) -> Option<ItemId> {
        self.ids.get(key).copied()
    }

    pub(super) fn get(&self, id: ItemId) -> Option<&Item> {
        self.items.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: ItemId) -> Option<&mut Item> {
        self.items.get_mut(id.0 as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, id: ItemId) {
        if let Some(item) = self.items.get_mut(id.0 as usize).and_then(Option::take) {
            self.ids.remove(&item.key);
            self.free.push(id);
        }
    }
}
