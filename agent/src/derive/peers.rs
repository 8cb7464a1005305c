//! Who this node has BGP sessions with, and in which role.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use margay_model::any::AnyResource;
use margay_model::asn::Asn;
use margay_model::bgp_configuration::BgpConfigurationSpec;
use margay_model::bgp_peer::{BgpPeer, BgpPeerSpec, ReversePeering};
use margay_model::kind::{Kind, ResourceKey};
use margay_model::node::Node;
use margay_policy::selector::Selector;
use margay_speaker::{BGP_PORT, PeerKey};
use tracing::warn;

use crate::graph::Cache;

/// A session that should be.
#[derive(Clone, Debug)]
pub(super) struct Peer<'a> {
    /// For people: `mesh NODE`, or the BGPPeer's name.
    pub(super) name: String,
    pub(super) remote_as: Asn,
    /// The BGPPeer that asks for it; none for the mesh.
    pub(super) spec: Option<&'a BgpPeerSpec>,
    /// The node at the other end, when it is one of ours.
    pub(super) node: Option<&'a Node>,
}

/// The AS of a node: its own, else the cluster's.
pub(super) fn as_of(node: &Node, defaults: Option<&BgpConfigurationSpec>) -> Asn {
    let own = node.spec.bgp.as_ref().and_then(|bgp| bgp.as_number);
    own.or_else(|| defaults.and_then(|d| d.as_number))
        .unwrap_or(Asn::DEFAULT)
}

/// The cluster id of a route reflector; none for an ordinary node.
pub(super) fn cluster_id(node: &Node) -> Option<&str> {
    let id = node
        .spec
        .bgp
        .as_ref()?
        .route_reflector_cluster_id
        .as_deref()?;
    Some(id).filter(|id| !id.is_empty())
}

/// The settings that hold for the cluster.
pub(super) fn defaults(cache: &Cache) -> Option<&BgpConfigurationSpec> {
    match cache.get(&ResourceKey::global(Kind::BgpConfiguration, "default")) {
        Some(AnyResource::BgpConfiguration(config)) => Some(&config.spec),
        _ => None,
    }
}

/// All sessions of `me`, one an address and port. A BGPPeer wins over the mesh, and among BGPPeers the
/// first by name.
pub(super) fn peers<'a>(cache: &'a Cache, me: &'a Node) -> BTreeMap<PeerKey, Peer<'a>> {
    let defaults = defaults(cache);
    let mut peers = BTreeMap::new();
    for resource in cache.of_kind(Kind::BgpPeer) {
        if let AnyResource::BgpPeer(peer) = resource {
            explicit(cache, me, peer, &mut peers);
        }
    }
    let mesh = defaults
        .and_then(|d| d.node_to_node_mesh_enabled)
        .unwrap_or(true);
    if mesh && cluster_id(me).is_none() {
        for node in nodes(cache).filter(|node| cluster_id(node).is_none()) {
            add_node(
                me,
                node,
                defaults,
                None,
                &format!("mesh {}", node.metadata.name),
                &mut peers,
            );
        }
    }
    peers
}

fn nodes(cache: &Cache) -> impl Iterator<Item = &Node> {
    cache
        .of_kind(Kind::Node)
        .filter_map(|resource| match resource {
            AnyResource::Node(node) => Some(node),
            _ => None,
        })
}

fn explicit<'a>(
    cache: &'a Cache,
    me: &'a Node,
    peer: &'a BgpPeer,
    peers: &mut BTreeMap<PeerKey, Peer<'a>>,
) {
    let name = &peer.metadata.name;
    let spec = &peer.spec;
    let defaults = defaults(cache);
    let here = is_for(peer, me);
    if let Some(address) = spec.peer_ip {
        let key = PeerKey {
            addr: address.addr,
            port: address.port,
        };
        if here && !is_own(me, address.addr) {
            // A peer without an AS is one of our own nodes by its address.
            let node = nodes(cache).find(|node| is_own(node, address.addr));
            let by_node = node.map(|node| as_of(node, defaults));
            match spec.as_number.or(by_node) {
                Some(remote_as) => {
                    let session = Peer {
                        name: name.clone(),
                        remote_as,
                        spec: Some(spec),
                        node,
                    };
                    peers.entry(key).or_insert(session);
                }
                None => warn!(
                    peer = name,
                    "BGPPeer has no asNumber and its peerIP is no node's, ignored"
                ),
            }
        }
    } else if spec.peer_selector.is_some() {
        for node in nodes(cache) {
            let forward = here && selects(peer, "peerSelector", &spec.peer_selector, node);
            // The peers that this one selects must take the session, so they have it as well.
            let reverse = spec.reverse_peering != Some(ReversePeering::Manual)
                && is_for(peer, node)
                && selects(peer, "peerSelector", &spec.peer_selector, me);
            if forward || reverse {
                add_node(me, node, defaults, Some(spec), name, peers);
            }
        }
    }
}

/// Whether a BGPPeer is meant for this node: named, selected, or neither said.
fn is_for(peer: &BgpPeer, node: &Node) -> bool {
    match &peer.spec.node {
        Some(name) if !name.is_empty() => *name == node.metadata.name,
        _ => match &peer.spec.node_selector {
            None => true,
            selector => selects(peer, "nodeSelector", selector, node),
        },
    }
}

/// A selector that does not parse selects nothing.
fn selects(peer: &BgpPeer, field: &str, selector: &Option<String>, node: &Node) -> bool {
    let Some(text) = selector else { return false };
    match text.parse::<Selector>() {
        Ok(selector) => selector.matches(&node.metadata.labels),
        Err(error) => {
            warn!(peer = peer.metadata.name, field, selector = text, %error, "BGPPeer ignored");
            false
        }
    }
}

fn add_node<'a>(
    me: &Node,
    node: &'a Node,
    defaults: Option<&BgpConfigurationSpec>,
    spec: Option<&'a BgpPeerSpec>,
    name: &str,
    peers: &mut BTreeMap<PeerKey, Peer<'a>>,
) {
    if node.metadata.name == me.metadata.name {
        return;
    }
    // One session carries both families; it runs over IPv4 where both ends have it.
    let v4 = node
        .spec
        .ipv4()
        .filter(|_| me.spec.ipv4().is_some())
        .map(IpAddr::V4);
    let v6 = node
        .spec
        .ipv6()
        .filter(|_| me.spec.ipv6().is_some())
        .map(IpAddr::V6);
    let Some(addr) = v4.or(v6) else { return };
    let session = Peer {
        name: name.to_owned(),
        remote_as: as_of(node, defaults),
        spec,
        node: Some(node),
    };
    let port = defaults.and_then(|d| d.listen_port).unwrap_or(BGP_PORT);
    peers
        .entry(PeerKey::from(SocketAddr::new(addr, port)))
        .or_insert(session);
}

fn is_own(node: &Node, addr: IpAddr) -> bool {
    node.spec.ipv4().map(IpAddr::V4) == Some(addr) || node.spec.ipv6().map(IpAddr::V6) == Some(addr)
}
