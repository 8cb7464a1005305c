//! Who this node has BGP sessions with, and in which role.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use margay_bgp::prefix::Family;
use margay_model::any::AnyResource;
use margay_model::asn::Asn;
use margay_model::bgp_configuration::BgpConfigurationSpec;
use margay_model::bgp_peer::{BgpPeer, BgpPeerSpec, PeerAs, ReversePeering};
use margay_model::kind::{Kind, ResourceKey};
use margay_model::net::Cidr;
use margay_model::node::Node;
use margay_policy::selector::Selector;
use margay_speaker::{BGP_PORT, Interface, PeerKey, RemoteAs};
use tracing::warn;

use crate::graph::Cache;

/// Most peers from a range where maxPeers does not say.
const DYNAMIC_PEERS: u32 = 100;

/// A session that should be.
#[derive(Clone, Debug)]
pub(super) struct Peer<'a> {
    /// For people: `mesh NODE`, or the BGPPeer's name.
    pub(super) name: String,
    pub(super) remote_as: RemoteAs,
    /// The BGPPeer that asks for it, with its group's settings; none for the mesh.
    pub(super) spec: Option<Cow<'a, BgpPeerSpec>>,
    /// The node at the other end, when it is one of ours.
    pub(super) node: Option<&'a Node>,
    /// The routes that the session is for.
    pub(super) families: Vec<Family>,
    /// The BGPPeer is the other node's: what it says of its own end is said of the peer.
    pub(super) reverse: bool,
}

/// The settings that hold for a node: its own object wins over `default`, field by field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings<'a> {
    own: Option<&'a BgpConfigurationSpec>,
    cluster: Option<&'a BgpConfigurationSpec>,
}

impl<'a> Settings<'a> {
    pub(super) fn of(cache: &'a Cache, node: &str) -> Self {
        let find =
            |name: String| match cache.get(&ResourceKey::global(Kind::BgpConfiguration, name)) {
                Some(AnyResource::BgpConfiguration(config)) => Some(&config.spec),
                _ => None,
            };
        Self {
            own: find(format!("node.{node}")),
            cluster: find("default".to_owned()),
        }
    }

    pub(super) fn first<T>(
        &self,
        field: impl Fn(&'a BgpConfigurationSpec) -> Option<T>,
    ) -> Option<T> {
        self.own
            .and_then(&field)
            .or_else(|| self.cluster.and_then(&field))
    }

    /// The TCP port that the node listens on.
    pub(super) fn port(&self) -> u16 {
        let port = self.first(|s| s.listen_port);
        port.filter(|port| *port > 0).unwrap_or(BGP_PORT)
    }
}

/// The AS of a node: its own, else the cluster's.
pub(super) fn as_of(cache: &Cache, node: &Node) -> Asn {
    let own = node.spec.bgp.as_ref().and_then(|bgp| bgp.as_number);
    let settings = Settings::of(cache, &node.metadata.name);
    own.or_else(|| settings.first(|s| s.as_number))
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

/// All sessions of `me`, one an address. A BGPPeer wins over the mesh, and among BGPPeers the first by
/// name.
pub(super) fn peers<'a>(cache: &'a Cache, me: &'a Node) -> BTreeMap<PeerKey, Peer<'a>> {
    let mut peers = BTreeMap::new();
    for peer in configured(cache) {
        if let Some(spec) = spec_of(cache, peer) {
            explicit(cache, me, peer, spec, &mut peers);
        }
    }
    let settings = Settings::of(cache, &me.metadata.name);
    let mesh = settings
        .first(|s| s.node_to_node_mesh_enabled)
        .unwrap_or(true);
    if mesh && cluster_id(me).is_none() {
        for node in nodes(cache).filter(|node| cluster_id(node).is_none()) {
            let session = Peer {
                name: format!("mesh {}", node.metadata.name),
                remote_as: as_of(cache, node).0.into(),
                spec: None,
                node: Some(node),
                families: Vec::new(),
                reverse: false,
            };
            add_node(cache, me, node, &session, &mut peers);
        }
    }
    peers
}

/// Peers that connect from a range of addresses.
#[derive(Clone, Debug)]
pub(super) struct Range<'a> {
    pub(super) addresses: Cidr,
    pub(super) limit: u32,
    /// What each of them is.
    pub(super) peer: Peer<'a>,
}

/// The ranges that `me` takes connections from; of BGPPeers with the same the first by name.
pub(super) fn ranges<'a>(cache: &'a Cache, me: &Node) -> Vec<Range<'a>> {
    let mut ranges = BTreeMap::new();
    for peer in configured(cache).filter(|peer| is_for(peer, me)) {
        let Some(addresses) = peer.spec.peer_cidr else {
            continue;
        };
        let Some(spec) = spec_of(cache, peer) else {
            continue;
        };
        let limit = spec.max_peers.unwrap_or(DYNAMIC_PEERS);
        let peer = of_any_as(peer, spec);
        ranges.entry(addresses).or_insert(Range {
            addresses,
            limit,
            peer,
        });
    }
    ranges.into_values().collect()
}

fn configured(cache: &Cache) -> impl Iterator<Item = &BgpPeer> {
    cache
        .of_kind(Kind::BgpPeer)
        .filter_map(|resource| match resource {
            AnyResource::BgpPeer(peer) => Some(peer),
            _ => None,
        })
}

/// What a BGPPeer says with its group; nothing if there is no such group, whose settings may be what
/// keeps others out.
fn spec_of<'a>(cache: &'a Cache, peer: &'a BgpPeer) -> Option<Cow<'a, BgpPeerSpec>> {
    let Some(group) = &peer.spec.peer_group else {
        return Some(Cow::Borrowed(&peer.spec));
    };
    match cache.get(&ResourceKey::global(Kind::BgpPeer, group.clone())) {
        Some(AnyResource::BgpPeer(shared)) => Some(Cow::Owned(peer.spec.within(&shared.spec))),
        _ => {
            let name = &peer.metadata.name;
            warn!(
                peer = name,
                group, "BGPPeer names a peerGroup that is not there, ignored"
            );
            None
        }
    }
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
    spec: Cow<'a, BgpPeerSpec>,
    peers: &mut BTreeMap<PeerKey, Peer<'a>>,
) {
    let name = &peer.metadata.name;
    let here = is_for(peer, me);
    if let Some(interface) = &peer.spec.interface {
        if here {
            on_interface(peer, spec, interface, peers);
        }
    } else if let Some(address) = spec.peer_ip {
        if !here || is_own(me, address.addr) {
            return;
        }
        // What it leaves out is known of our own nodes.
        let node = nodes(cache).find(|node| is_own(node, address.addr));
        let of_node = || node.map(|node| as_of(cache, node).0.into());
        let Some(remote_as) = spec.as_number.map(said).or_else(of_node) else {
            warn!(
                peer = name,
                "BGPPeer has no asNumber and its peerIP is no node's, ignored"
            );
            return;
        };
        let port = address.port.or_else(|| {
            let node = node?;
            Some(Settings::of(cache, &node.metadata.name).port())
        });
        let session = Peer {
            name: name.clone(),
            remote_as,
            spec: Some(spec),
            node,
            families: Family::ALL.to_vec(),
            reverse: false,
        };
        let at = SocketAddr::new(address.addr, port.unwrap_or(BGP_PORT));
        add(at, session, peers);
    } else if spec.peer_selector.is_some() {
        for node in nodes(cache) {
            let forward = here && selects(peer, "peerSelector", &spec.peer_selector, node);
            // The peers that this one selects must take the session, so they have it as well.
            let reverse = !forward
                && spec.reverse_peering != Some(ReversePeering::Manual)
                && is_for(peer, node)
                && selects(peer, "peerSelector", &spec.peer_selector, me);
            let remote_as = spec.local_as_number.filter(|_| reverse);
            if forward || reverse {
                let session = Peer {
                    name: format!("{name} {}", node.metadata.name),
                    remote_as: remote_as.unwrap_or_else(|| as_of(cache, node)).0.into(),
                    spec: Some(spec.clone()),
                    node: Some(node),
                    families: Vec::new(),
                    reverse,
                };
                add_node(cache, me, node, &session, peers);
            }
        }
    }
}

/// A peer without an address.
fn on_interface<'a>(
    peer: &'a BgpPeer,
    spec: Cow<'a, BgpPeerSpec>,
    interface: &str,
    peers: &mut BTreeMap<PeerKey, Peer<'a>>,
) {
    let Some(known) = Interface::new(interface) else {
        warn!(
            peer = peer.metadata.name,
            interface, "BGPPeer names no interface that can be, ignored"
        );
        return;
    };
    let session = of_any_as(peer, spec);
    peers.entry(PeerKey::on(known)).or_insert(session);
}

/// A peer that is not known by its address, and without asNumber not by its AS either.
fn of_any_as<'a>(peer: &BgpPeer, spec: Cow<'a, BgpPeerSpec>) -> Peer<'a> {
    Peer {
        name: peer.metadata.name.clone(),
        remote_as: spec.as_number.map_or(RemoteAs::External, said),
        spec: Some(spec),
        node: None,
        families: Family::ALL.to_vec(),
        reverse: false,
    }
}

/// What asNumber asks for.
fn said(asn: PeerAs) -> RemoteAs {
    match asn {
        PeerAs::Is(asn) => asn.0.into(),
        PeerAs::Internal => RemoteAs::Internal,
        PeerAs::External => RemoteAs::External,
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

/// Sessions between two nodes: as the established system has it, IPv4 routes over IPv4 and IPv6 routes
/// over IPv6. Where the nodes have only one family in common, its session carries both.
fn add_node<'a>(
    cache: &Cache,
    me: &Node,
    node: &Node,
    session: &Peer<'a>,
    peers: &mut BTreeMap<PeerKey, Peer<'a>>,
) {
    if node.metadata.name == me.metadata.name {
        return;
    }
    let port = Settings::of(cache, &node.metadata.name).port();
    let v4 = node.spec.ipv4().filter(|_| me.spec.ipv4().is_some());
    let v6 = node.spec.ipv6().filter(|_| me.spec.ipv6().is_some());
    let both = v4.is_some() && v6.is_some();
    let ends = [
        (v4.map(IpAddr::V4), Family::Ipv4Unicast),
        (v6.map(IpAddr::V6), Family::Ipv6Unicast),
    ];
    for (addr, family) in ends {
        let Some(addr) = addr else { continue };
        let session = Peer {
            families: if both {
                vec![family]
            } else {
                Family::ALL.to_vec()
            },
            ..session.clone()
        };
        add(SocketAddr::new(addr, port), session, peers);
    }
}

/// The first session with an address is the one: a second could not be told from it when the peer dials.
fn add<'a>(at: SocketAddr, session: Peer<'a>, peers: &mut BTreeMap<PeerKey, Peer<'a>>) {
    let any_port = PeerKey::from(at.ip());
    let mut known = peers
        .range(any_port..)
        .take_while(|(key, _)| key.addr == at.ip());
    if known.next().is_none() {
        peers.insert(PeerKey::from(at), session);
    }
}

fn is_own(node: &Node, addr: IpAddr) -> bool {
    node.spec.ipv4().map(IpAddr::V4) == Some(addr) || node.spec.ipv6().map(IpAddr::V6) == Some(addr)
}
