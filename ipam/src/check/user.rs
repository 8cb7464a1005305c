//! Who names an address: endpoints and nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_model::any::AnyResource;
use margay_model::node::Node;
use margay_model::store::Revision;
use margay_model::workload_endpoint::WorkloadEndpoint;

/// On an endpoint: the handle that holds its addresses.
const HANDLE_ANNOTATION: &str = "margay.io/handle";

/// A resource that names an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `WorkloadEndpoint/default/n1-cni-c1-eth0`, `Node/n1`.
    pub name: String,
    /// Its key in the store.
    pub key: String,
    /// Its revision.
    pub revision: Revision,
    /// The node that it is on.
    pub node: String,
    /// The handle that must hold the address, as far as it says so itself.
    pub handle: Option<String>,
    /// The handle that would hold the address, if it had to be recorded anew.
    pub(super) fallback_handle: String,
    /// What would be recorded beside the handle.
    pub(super) attrs: BTreeMap<String, String>,
    /// Whether address management must know the address. A host's own address it need not.
    pub(super) needs_record: bool,
}

/// The addresses that a resource names.
pub(super) fn users_of(
    resource: &AnyResource,
    key: &str,
    revision: Revision,
) -> Vec<(IpAddr, User)> {
    match resource {
        AnyResource::WorkloadEndpoint(endpoint) => of_endpoint(endpoint, key, revision),
        AnyResource::Node(node) => of_node(node, key, revision),
        _ => Vec::new(),
    }
}

fn of_endpoint(endpoint: &WorkloadEndpoint, key: &str, revision: Revision) -> Vec<(IpAddr, User)> {
    let spec = &endpoint.spec;
    let mut attrs = BTreeMap::from([("node".to_owned(), spec.node.clone())]);
    if !spec.pod.is_empty() {
        attrs.insert("pod".to_owned(), spec.pod.clone());
        let namespace = endpoint.metadata.namespace.clone();
        attrs.insert("namespace".to_owned(), namespace.unwrap_or_default());
    }
    let handle = endpoint.metadata.annotations.get(HANDLE_ANNOTATION);
    let user = User {
        name: endpoint.key().to_string(),
        key: key.to_owned(),
        revision,
        node: spec.node.clone(),
        handle: handle.cloned(),
        fallback_handle: handle.cloned().unwrap_or_else(|| fallback_handle(endpoint)),
        attrs,
        needs_record: true,
    };
    let single = spec.ip_networks.iter().filter(|cidr| cidr.is_host());
    let mut users: Vec<_> = single.map(|cidr| (cidr.addr(), user.clone())).collect();
    let outside = spec.ip_nats.iter().map(|nat| nat.external_ip);
    users.extend(outside.map(|ip| {
        let needs_record = false;
        (
            ip,
            User {
                needs_record,
                ..user.clone()
            },
        )
    }));
    users
}

/// As the established plugin names handles: network and container. The network is that of the one
/// profile, or the plugin's default name.
fn fallback_handle(endpoint: &WorkloadEndpoint) -> String {
    let spec = &endpoint.spec;
    if spec.container_id.is_empty() {
        return endpoint.metadata.name.clone();
    }
    let network = match (spec.orchestrator.as_str(), spec.profiles.first()) {
        ("cni", Some(profile)) => profile,
        _ => "k8s-pod-network",
    };
    format!("{network}.{}", spec.container_id)
}

fn of_node(node: &Node, key: &str, revision: Revision) -> Vec<(IpAddr, User)> {
    let name = &node.metadata.name;
    let spec = &node.spec;
    let bgp = spec.bgp.as_ref();
    let wireguard = spec.wireguard.as_ref();
    let tunnels: [(Option<IpAddr>, &str, &str); 5] = [
        (
            bgp.and_then(|b| b.ipv4_ipip_tunnel_addr).map(IpAddr::V4),
            "ipip",
            "ipipTunnelAddress",
        ),
        (
            spec.ipv4_vxlan_tunnel_addr.map(IpAddr::V4),
            "vxlan",
            "vxlanTunnelAddress",
        ),
        (
            spec.ipv6_vxlan_tunnel_addr.map(IpAddr::V6),
            "vxlan-v6",
            "vxlanV6TunnelAddress",
        ),
        (
            wireguard
                .and_then(|w| w.interface_ipv4_address)
                .map(IpAddr::V4),
            "wireguard",
            "wireguardTunnelAddress",
        ),
        (
            wireguard
                .and_then(|w| w.interface_ipv6_address)
                .map(IpAddr::V6),
            "wireguard-v6",
            "wireguardV6TunnelAddress",
        ),
    ];
    let user = |handle: Option<String>, kind: Option<&str>| User {
        name: format!("Node/{name}"),
        key: key.to_owned(),
        revision,
        node: name.clone(),
        needs_record: handle.is_some(),
        fallback_handle: handle.clone().unwrap_or_default(),
        handle,
        attrs: std::iter::once(("node", name.as_str()))
            .chain(kind.map(|kind| ("type", kind)))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
    };
    let mut users = Vec::new();
    for (ip, tunnel, kind) in tunnels {
        let handle = format!("{tunnel}-tunnel-addr-{name}");
        users.extend(ip.map(|ip| (ip, user(Some(handle), Some(kind)))));
    }
    let own = [spec.ipv4().map(IpAddr::V4), spec.ipv6().map(IpAddr::V6)];
    let other = spec.addresses.iter().filter_map(|address| {
        let text = address.address.split('/').next()?;
        text.parse().ok()
    });
    for ip in own.into_iter().flatten().chain(other) {
        if users.iter().all(|(named, _)| *named != ip) {
            users.push((ip, user(None, None)));
        }
    }
    users
}

/// The node whose tunnel device a handle stands for.
pub(super) fn tunnel_node(handle: &str) -> Option<&str> {
    ["ipip", "vxlan", "vxlan-v6", "wireguard", "wireguard-v6"]
        .iter()
        .find_map(|tunnel| {
            let rest = handle.strip_prefix(tunnel)?;
            rest.strip_prefix("-tunnel-addr-")
        })
}
