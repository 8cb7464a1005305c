//! Everything that policy depends on, of the datastore or of files, calculated.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use margay_model::any::AnyResource;
use margay_model::felix_configuration::EndpointToHostAction;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::{ObjectMeta, StringMap};
use margay_model::profile::{Profile, ProfileSpec};
use margay_model::rule::{Action, Rule};
use margay_model::workload_endpoint::WorkloadEndpoint;
use margay_policy::calc::{Calc, Scope};
use margay_policy::program::View;
use margay_policy::staged::as_if_enforced;

use crate::context::{Context, Streams};
use crate::failure::Fatal;
use crate::files;
use crate::verbs::fatal;
use crate::verbs::policy::cases::Suite;

/// The kinds that decide about traffic, or that say who an address belongs to.
const KINDS: [Kind; 13] = [
    Kind::FelixConfiguration,
    Kind::GlobalNetworkPolicy,
    Kind::GlobalNetworkSet,
    Kind::HostEndpoint,
    Kind::NetworkPolicy,
    Kind::NetworkSet,
    Kind::Node,
    Kind::Profile,
    Kind::StagedGlobalNetworkPolicy,
    Kind::StagedKubernetesNetworkPolicy,
    Kind::StagedNetworkPolicy,
    Kind::Tier,
    Kind::WorkloadEndpoint,
];

/// A cluster at rest, to ask questions of: the same programs that the agents render.
pub(crate) struct Cluster {
    pub(crate) calc: Calc,
    pub(crate) view: View,
    pub(crate) resources: BTreeMap<ResourceKey, AnyResource>,
    by_address: BTreeMap<IpAddr, Vec<ResourceKey>>,
    /// By every name that people have for an endpoint.
    by_name: BTreeMap<String, BTreeSet<ResourceKey>>,
}

impl Cluster {
    /// Calculates the programs of all endpoints.
    pub(crate) fn new(resources: impl IntoIterator<Item = AnyResource>) -> Self {
        let mut calc = Calc::new(Scope::Cluster);
        let mut all = BTreeMap::new();
        let mut by_address: BTreeMap<IpAddr, Vec<ResourceKey>> = BTreeMap::new();
        let mut by_name = BTreeMap::new();
        for resource in resources {
            calc.update(&resource);
            all.insert(resource.key(), resource);
        }
        for (key, resource) in &all {
            if let AnyResource::WorkloadEndpoint(endpoint) = resource {
                for net in endpoint.spec.ip_networks.iter().filter(|net| net.is_host()) {
                    by_address.entry(net.addr()).or_default().push(key.clone());
                }
                let spec = &endpoint.spec;
                for name in [&key.name, &spec.pod, &spec.workload, &spec.container_id] {
                    if !name.is_empty() {
                        let keys: &mut BTreeSet<_> = by_name.entry(name.clone()).or_default();
                        keys.insert(key.clone());
                    }
                }
            }
        }
        let mut view = View::default();
        for update in calc.flush() {
            view.apply(update);
        }
        Self {
            calc,
            view,
            resources: all,
            by_address,
            by_name,
        }
    }

    /// The endpoint of a key.
    pub(crate) fn endpoint(&self, key: &ResourceKey) -> Option<&WorkloadEndpoint> {
        match self.resources.get(key) {
            Some(AnyResource::WorkloadEndpoint(endpoint)) => Some(endpoint),
            _ => None,
        }
    }

    /// All endpoints, by key.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (&ResourceKey, &WorkloadEndpoint)> {
        self.resources.iter().filter_map(|(key, res)| match res {
            AnyResource::WorkloadEndpoint(endpoint) => Some((key, endpoint)),
            _ => None,
        })
    }

    /// The endpoints that have an address.
    pub(crate) fn endpoints_at(&self, address: IpAddr) -> &[ResourceKey] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The endpoints that people call so: by name, pod, workload or container.
    pub(crate) fn endpoints_named(&self, namespace: Option<&str>, name: &str) -> Vec<&ResourceKey> {
        let keys = self.by_name.get(name).into_iter().flatten();
        keys.filter(|key| namespace.is_none() || key.namespace.as_deref() == namespace)
            .collect()
    }

    /// The host that an address belongs to.
    pub(crate) fn host_at(&self, address: IpAddr) -> Option<&str> {
        self.resources.values().find_map(|resource| match resource {
            AnyResource::Node(_) => self
                .host_addresses(&resource.metadata().name)
                .contains(&address)
                .then_some(&*resource.metadata().name),
            AnyResource::HostEndpoint(host) => host
                .spec
                .expected_ips
                .contains(&address)
                .then_some(&*host.spec.node),
            _ => None,
        })
    }

    /// The addresses of a host, as far as its resources say.
    pub(crate) fn host_addresses(&self, node: &str) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        if let Some(AnyResource::Node(node)) =
            self.resources.get(&ResourceKey::global(Kind::Node, node))
        {
            let bgp = node.spec.bgp.iter();
            let own = bgp.flat_map(|bgp| [bgp.ipv4_address, bgp.ipv6_address]);
            addresses.extend(own.flatten().map(|address| address.addr()));
        }
        for resource in self.resources.values() {
            if let AnyResource::HostEndpoint(host) = resource
                && host.spec.node == node
            {
                addresses.extend(&host.spec.expected_ips);
            }
        }
        addresses
    }

    /// What becomes of traffic from an endpoint to its own host, after its policy.
    pub(crate) fn to_host_action(&self, node: &str) -> EndpointToHostAction {
        let of = |name: &str| self.felix(name)?.default_endpoint_to_host_action;
        of(&format!("node.{node}"))
            .or_else(|| of("default"))
            .unwrap_or(EndpointToHostAction::Drop)
    }

    /// What is wrong with a resource, if the calculation says so.
    pub(crate) fn problem(&self, key: &ResourceKey) -> Option<&str> {
        let mut problems = self.calc.problems();
        problems.find_map(|(found, text)| (found == key).then_some(text))
    }
}

/// The resources, with staged changes made if that is asked for; what cannot be read of them is
/// complained about.
pub(crate) fn staged_or_not(
    resources: Vec<AnyResource>,
    staged: bool,
    streams: &mut Streams<'_>,
) -> Result<Vec<AnyResource>, Fatal> {
    if !staged {
        return Ok(resources);
    }
    let (resources, problems) = as_if_enforced(resources);
    for (key, problem) in problems {
        streams.fail(&format!("{key}: {problem}"))?;
    }
    Ok(resources)
}

/// All that matters of the datastore; what is damaged is complained about.
pub(crate) async fn read_datastore(context: &mut Context<'_>) -> Result<Vec<AnyResource>, Fatal> {
    let mut resources = Vec::new();
    for kind in KINDS {
        let listed = context.client.list(kind, None).await;
        let listed = listed.map_err(|error| fatal(&error))?;
        for error in &listed.damaged {
            context.streams.fail(&error.to_string())?;
        }
        resources.extend(listed.resources);
    }
    Ok(resources)
}

/// All resources of files and folders; what is wrong with one is complained about.
pub(crate) fn read_files(
    paths: &[PathBuf],
    streams: &mut Streams<'_>,
) -> Result<Vec<AnyResource>, Fatal> {
    let mut suite = Suite::default();
    let mut errors = Vec::new();
    for (name, text) in files::all_texts(paths, streams.stdin)? {
        errors.extend(suite.read(Path::new(&name), &text));
    }
    let manifests = std::mem::take(&mut suite.manifests);
    for (name, text) in files::all_texts(&manifests, streams.stdin)? {
        errors.extend(suite.read(Path::new(&name), &text));
    }
    errors.extend(suite.settle());
    for error in &errors {
        streams.fail(error)?;
    }
    let mut resources = suite.resources;
    if resources.is_empty() && errors.is_empty() {
        let names = paths.iter().map(|path| path.display().to_string());
        return Err(Fatal::NoResources(names.collect::<Vec<_>>().join(", ")));
    }
    add_namespaces(&mut resources);
    Ok(resources)
}

/// Adds the profiles of namespaces that endpoints name and nobody wrote down.
pub(crate) fn add_namespaces(resources: &mut Vec<AnyResource>) {
    let known: BTreeSet<String> = resources
        .iter()
        .filter(|resource| resource.kind() == Kind::Profile)
        .map(|resource| resource.metadata().name.clone())
        .collect();
    let missing: BTreeSet<String> = resources
        .iter()
        .filter_map(|resource| match resource {
            AnyResource::WorkloadEndpoint(endpoint) => Some(&endpoint.spec.profiles),
            _ => None,
        })
        .flatten()
        .filter(|name| !known.contains(*name))
        .filter_map(|name| name.strip_prefix("kns."))
        .map(str::to_owned)
        .collect();
    let added = missing
        .into_iter()
        .map(|name| namespace(&name, &StringMap::new()).into());
    resources.extend(added);
}

/// The profile that stands for a namespace: allows everything, and hands its labels on.
pub(crate) fn namespace(name: &str, labels: &StringMap) -> Profile {
    let mut labels_to_apply: StringMap = labels
        .iter()
        .map(|(key, value)| (format!("pcns.{key}"), value.clone()))
        .collect();
    for key in [
        "pcns.projectcalico.org/name",
        "pcns.kubernetes.io/metadata.name",
    ] {
        labels_to_apply.insert(key.to_owned(), name.to_owned());
    }
    let spec = ProfileSpec {
        ingress: vec![Rule::new(Action::Allow)],
        egress: vec![Rule::new(Action::Allow)],
        labels_to_apply,
        ..ProfileSpec::default()
    };
    Profile::new(ObjectMeta::named(format!("kns.{name}")), spec)
}
