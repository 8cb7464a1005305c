//! What pools and hosts make of tunnels: which devices this host has, and by which way a host's prefixes are reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use margay_dataplane::overlay::Peer;
use margay_dataplane::wireguard::PublicKey;
use margay_model::any::AnyResource;
use margay_model::ippool::{EncapMode, IpPoolSpec};
use margay_model::kind::{Kind, ResourceKey};
use margay_model::net::AddrCidr;
use margay_model::node::{Node, NodeSpec};
use sha1::{Digest, Sha1};
use tracing::warn;

use super::globals::Felix;
use super::wireguard::{self, WIREGUARD_OVERHEAD, WIREGUARD_V6_OVERHEAD, Wireguard};
use crate::graph::Cache;

/// Registered for VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;
/// The established system's.
const VXLAN_VNI: u32 = 4096;

/// Outer headers of VXLAN over IPv4: 20 IPv4, 8 UDP, 8 VXLAN, 14 Ethernet.
pub(crate) const VXLAN_OVERHEAD: u32 = 50;
/// The same over IPv6, whose header has 40.
pub(crate) const VXLAN_V6_OVERHEAD: u32 = 70;
/// The outer IPv4 header.
pub(crate) const IPIP_OVERHEAD: u32 = 20;

/// The kinds of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TunnelKind {
    VxlanV4,
    VxlanV6,
    Ipip,
    WireguardV4,
    WireguardV6,
}

impl TunnelKind {
    /// Those that pools ask for.
    pub(crate) const OF_POOLS: [Self; 3] = [Self::VxlanV4, Self::VxlanV6, Self::Ipip];
    /// Those that encrypt, by family.
    pub(crate) const WIREGUARD: [Self; 2] = [Self::WireguardV4, Self::WireguardV6];

    /// Whether its outer packets, and those inside, are of IPv6.
    pub(crate) const fn is_v6(self) -> bool {
        matches!(self, Self::VxlanV6 | Self::WireguardV6)
    }

    /// Whether a pool has traffic go this way, be it to some hosts only. What is encrypted is no matter of pools.
    pub(crate) fn serves(self, pool: &IpPoolSpec) -> bool {
        let asks = |mode: Option<EncapMode>| mode.is_some_and(|mode| mode != EncapMode::Never);
        match self {
            Self::VxlanV4 => pool.cidr.is_ipv4() && asks(pool.vxlan_mode),
            Self::VxlanV6 => !pool.cidr.is_ipv4() && asks(pool.vxlan_mode),
            Self::Ipip => pool.cidr.is_ipv4() && asks(pool.ipip_mode),
            Self::WireguardV4 => pool.cidr.is_ipv4(),
            Self::WireguardV6 => !pool.cidr.is_ipv4(),
        }
    }

    /// The device's own address, as a host tells it.
    pub(crate) fn address(self, node: &NodeSpec) -> Option<IpAddr> {
        match self {
            Self::VxlanV4 => node.ipv4_vxlan_tunnel_addr.map(IpAddr::V4),
            Self::VxlanV6 => node.ipv6_vxlan_tunnel_addr.map(IpAddr::V6),
            Self::Ipip => {
                let address = node.bgp.as_ref()?.ipv4_ipip_tunnel_addr;
                address.map(IpAddr::V4)
            }
            Self::WireguardV4 => {
                let address = node.wireguard.as_ref()?.interface_ipv4_address;
                address.map(IpAddr::V4)
            }
            Self::WireguardV6 => {
                let address = node.wireguard.as_ref()?.interface_ipv6_address;
                address.map(IpAddr::V6)
            }
        }
    }

    /// The host's address that outer packets are from and to.
    pub(crate) fn host(self, node: &NodeSpec) -> Option<IpAddr> {
        match self {
            Self::VxlanV4 | Self::Ipip | Self::WireguardV4 => node.ipv4().map(IpAddr::V4),
            Self::VxlanV6 | Self::WireguardV6 => node.ipv6().map(IpAddr::V6),
        }
    }

    /// The device's hardware address, as the host tells it or as the established system makes it of the host's name.
    pub(crate) fn mac(self, name: &str, node: &NodeSpec) -> [u8; 6] {
        let (told, hashed) = match self {
            Self::VxlanV6 => (&node.vxlan_tunnel_mac_addr_v6, format!("{name}-v6")),
            _ => (&node.vxlan_tunnel_mac_addr, name.to_owned()),
        };
        let told = told.as_deref().and_then(parse_mac);
        told.unwrap_or_else(|| {
            let hash = Sha1::digest(hashed.as_bytes());
            [0x66, hash[0], hash[1], hash[2], hash[3], hash[4]]
        })
    }

    fn overhead(self) -> u32 {
        match self {
            Self::VxlanV4 => VXLAN_OVERHEAD,
            Self::VxlanV6 => VXLAN_V6_OVERHEAD,
            Self::Ipip => IPIP_OVERHEAD,
            Self::WireguardV4 => WIREGUARD_OVERHEAD,
            Self::WireguardV6 => WIREGUARD_V6_OVERHEAD,
        }
    }

    /// Whether this host needs the device of a tunnel that pools ask for: one does, or other hosts may still send to the
    /// address that was told them.
    pub(crate) fn is_needed(self, cache: &Cache, own: &NodeSpec) -> bool {
        self.host(own).is_some()
            && (self.address(own).is_some() || pools(cache).any(|pool| self.serves(pool)))
    }
}

/// Six octets in hexadecimal, none of them a group's.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut mac {
        *octet = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}

/// A hardware address as it is told.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    let octets = mac.map(|octet| format!("{octet:02x}"));
    octets.join(":")
}

/// The way to a prefix of another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// Unwrapped, by the way that leads to this host.
    Plain(IpAddr),
    /// To the other end of the VXLAN, at this address and on this host.
    Vxlan { vtep: IpAddr, host: IpAddr },
    /// The other end of the VXLAN itself: IPv6 wants to know it before it takes routes through it.
    Vtep,
    /// IP in IP to this host.
    Ipip(IpAddr),
    /// Encrypted to this host.
    Wireguard(IpAddr),
    /// As BGP says: a prefix inside of one that is encrypted, on a host that has no key.
    Learned,
}

/// The devices of this host, and what they have to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tunnels {
    pub(crate) vxlan_v4: Option<VxlanTunnel>,
    pub(crate) vxlan_v6: Option<VxlanTunnel>,
    pub(crate) ipip: Option<IpipTunnel>,
    /// By family.
    pub(crate) wireguard: [Option<WireguardTunnel>; 2],
    /// The addresses of the other hosts, and how many octets may be wrapped around a packet on its way there.
    pub(crate) hosts: BTreeMap<IpAddr, u32>,
    /// This host's addresses, and the most that may be wrapped around a packet to any other host.
    pub(crate) own: BTreeMap<IpAddr, u32>,
}

/// A VXLAN device; one for each family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VxlanTunnel {
    pub(crate) vni: u32,
    pub(crate) port: u16,
    pub(crate) local: IpAddr,
    pub(crate) mac: [u8; 6],
    /// As configured; else it is found out.
    pub(crate) mtu: Option<u32>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) peers: BTreeMap<IpAddr, Peer>,
}

/// The IP in IP device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IpipTunnel {
    pub(crate) mtu: Option<u32>,
    pub(crate) address: Option<Ipv4Addr>,
}

/// A device that encrypts; one for each family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WireguardTunnel {
    pub(crate) settings: Wireguard,
    /// This host's address.
    pub(crate) local: IpAddr,
    pub(crate) address: Option<IpAddr>,
    /// The other hosts that told their keys.
    pub(crate) peers: BTreeMap<PublicKey, WireguardHost>,
    /// Whether what this host itself sends to theirs goes through the device.
    pub(crate) host_traffic: bool,
}

/// Another host's device that encrypts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WireguardHost {
    pub(crate) host: IpAddr,
    /// What is there beside containers: the device's address, and the host's, which answers containers.
    pub(crate) own: BTreeSet<IpNetwork>,
}

/// A pool some of whose traffic is wrapped.
#[derive(Clone, Debug)]
struct Wrapped {
    net: IpNetwork,
    kind: TunnelKind,
    /// Only to hosts in other subnets.
    cross: bool,
}

/// Pools and hosts, as far as tunnels are concerned.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fabric {
    pools: Vec<Wrapped>,
    own: Option<NodeSpec>,
    hosts: BTreeMap<String, NodeSpec>,
    /// By family.
    wireguard: [Wireguard; 2],
    own_keys: [Option<PublicKey>; 2],
    /// Kinds of which the Node has just begun to tell, so that others may not have heard.
    unheard: BTreeSet<TunnelKind>,
    /// Those of the other hosts.
    keys: BTreeMap<String, [Option<PublicKey>; 2]>,
}

impl Fabric {
    pub(crate) fn of(cache: &Cache, node: &str) -> Self {
        let wrapped = |pool: &IpPoolSpec| {
            let mut kinds = TunnelKind::OF_POOLS.into_iter();
            let kind = kinds.find(|kind| kind.serves(pool))?;
            let mode = match kind {
                TunnelKind::Ipip => pool.ipip_mode,
                _ => pool.vxlan_mode,
            };
            Some(Wrapped {
                net: pool.cidr.network(),
                kind,
                cross: mode == Some(EncapMode::CrossSubnet),
            })
        };
        let felix = Felix::of(cache, node);
        let mut keys = wireguard::keys(nodes(cache));
        let mut fabric = Self {
            pools: pools(cache).filter_map(wrapped).collect(),
            wireguard: [false, true].map(|v6| Wireguard::of(&felix, v6)),
            own_keys: keys.remove(node).unwrap_or_default(),
            keys,
            ..Self::default()
        };
        for found in nodes(cache) {
            if found.metadata.name == node {
                fabric.own = Some(found.spec.clone());
            } else {
                let name = found.metadata.name.clone();
                fabric.hosts.insert(name, found.spec.clone());
            }
        }
        fabric
    }

    /// Whether any prefix may have a way of its own.
    pub(crate) fn is_active(&self) -> bool {
        let encrypts = || [false, true].into_iter().any(|v6| self.has_wireguard(v6));
        self.own.is_some() && (!self.pools.is_empty() || encrypts())
    }

    /// Whether this host has the device that encrypts a family.
    fn has_wireguard(&self, v6: bool) -> bool {
        let (family, kind) = (usize::from(v6), TunnelKind::WIREGUARD[usize::from(v6)]);
        let Some(own) = self.own.as_ref().filter(|own| kind.host(own).is_some()) else {
            return false;
        };
        let is_told = self.own_keys[family].is_some() || kind.address(own).is_some();
        self.wireguard[family].is_needed(is_told)
    }

    /// The address of a host that what is for it is encrypted to: both must have told their keys, or one would not take
    /// what the other sends.
    fn encrypted(&self, name: &str, v6: bool) -> Option<IpAddr> {
        let family = usize::from(v6);
        if !self.has_wireguard(v6) || !self.wireguard[family].enabled {
            return None;
        }
        self.key(name, v6).filter(|_| self.is_heard(v6))?;
        TunnelKind::WIREGUARD[family].host(self.hosts.get(name)?)
    }

    /// Whether the other hosts know this host's key.
    fn is_heard(&self, v6: bool) -> bool {
        let kind = TunnelKind::WIREGUARD[usize::from(v6)];
        self.own_keys[usize::from(v6)].is_some() && !self.unheard.contains(&kind)
    }

    /// Of these kinds the Node has just begun to tell.
    pub(crate) fn set_unheard(&mut self, unheard: &BTreeSet<TunnelKind>) {
        self.unheard.clone_from(unheard);
    }

    fn key(&self, name: &str, v6: bool) -> Option<PublicKey> {
        self.keys.get(name)?[usize::from(v6)]
    }

    /// The device that packets of a prefix that `node` has are taken from, whichever way they are sent there.
    pub(crate) fn holder(&self, net: IpNetwork, node: &str) -> Option<PublicKey> {
        let v6 = !net.is_ipv4();
        self.key(node, v6).filter(|_| self.has_wireguard(v6))
    }

    /// The way to a prefix that `node` has; none where it is not for us to say, or not known yet: a host is sent
    /// wrapped packets only once it told that it takes them.
    pub(crate) fn through(&self, net: IpNetwork, node: &str) -> Option<Through> {
        let (own, far) = (self.own.as_ref()?, self.hosts.get(node)?);
        if let Some(host) = self.encrypted(node, !net.is_ipv4()) {
            return Some(Through::Wireguard(host));
        }
        let Some(pool) = self.pool_of(net) else {
            let inside = self.has_wireguard(!net.is_ipv4()) && is_host(net);
            return inside.then_some(Through::Learned);
        };
        let kind = pool.kind;
        kind.host(own)?;
        let host = kind.host(far)?;
        if pool.cross && is_near(own, host) {
            return Some(Through::Plain(host));
        }
        let vtep = kind.address(far)?;
        Some(match kind {
            TunnelKind::Ipip => Through::Ipip(host),
            _ => Through::Vxlan { vtep, host },
        })
    }

    /// Whether the prefix is in a pool that this concerns.
    pub(crate) fn concerns(&self, net: IpNetwork) -> bool {
        self.has_wireguard(!net.is_ipv4()) || self.pool_of(net).is_some()
    }

    fn pool_of(&self, net: IpNetwork) -> Option<&Wrapped> {
        let holds =
            |pool: &&Wrapped| pool.net.prefix() <= net.prefix() && pool.net.contains(net.network());
        self.pools.iter().find(holds)
    }

    /// The other ends over IPv6.
    pub(crate) fn vteps_v6(&self) -> impl Iterator<Item = IpNetwork> {
        let kind = TunnelKind::VxlanV6;
        let is_used = self.is_active() && self.pools.iter().any(|pool| pool.kind == kind);
        let hosts = self.hosts.values().filter(move |_| is_used);
        hosts.filter_map(move |far| kind.host(far).and(kind.address(far)).map(IpNetwork::from))
    }

    /// What this host needs of devices; nothing without a Node of its own. A device has the address that was assigned
    /// before the Node tells of it.
    pub(crate) fn tunnels(
        &self,
        cache: &Cache,
        node: &str,
        assigned: &BTreeMap<TunnelKind, IpAddr>,
    ) -> Tunnels {
        let Some(own) = &self.own else {
            return Tunnels::default();
        };
        let felix = Felix::of(cache, node);
        let needed = |kind: TunnelKind| kind.is_needed(cache, own);
        let address = |kind: TunnelKind| assigned.get(&kind).copied().or(kind.address(own));
        let found_out = |mtu: Option<u32>| mtu.filter(|mtu| *mtu > 0);
        let vxlan = |kind: TunnelKind, mtu: Option<u32>| {
            Some(VxlanTunnel {
                vni: vni(&felix),
                port: vxlan_port(&felix),
                local: kind.host(own).filter(|_| needed(kind))?,
                mac: kind.mac(node, own),
                mtu: found_out(mtu),
                address: address(kind),
                peers: self.peers(kind),
            })
        };
        let ipip = needed(TunnelKind::Ipip).then(|| IpipTunnel {
            mtu: found_out(felix.first(|f| f.ipip_mtu)),
            address: address(TunnelKind::Ipip).and_then(|ip| match ip {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(_) => None,
            }),
        });
        let wireguard = |v6| {
            let kind = TunnelKind::WIREGUARD[usize::from(v6)];
            let settings = &self.wireguard[usize::from(v6)];
            Some(WireguardTunnel {
                settings: settings.clone(),
                local: kind.host(own).filter(|_| self.has_wireguard(v6))?,
                address: address(kind),
                peers: self.wireguard_peers(kind),
                host_traffic: settings.host_traffic && settings.enabled && self.is_heard(v6),
            })
        };
        Tunnels {
            wireguard: [false, true].map(wireguard),
            vxlan_v4: vxlan(TunnelKind::VxlanV4, felix.first(|f| f.vxlan_mtu)),
            vxlan_v6: vxlan(TunnelKind::VxlanV6, felix.first(|f| f.vxlan_mtu_v6)),
            ipip,
            hosts: self.overheads(own),
            own: addresses(own).map(|ip| (ip, self.most(ip))).collect(),
        }
    }

    fn peers(&self, kind: TunnelKind) -> BTreeMap<IpAddr, Peer> {
        let peer = |(name, far): (&String, &NodeSpec)| {
            let host = kind.host(far)?;
            let mac = kind.mac(name, far);
            Some((kind.address(far)?, Peer { mac, host }))
        };
        self.hosts.iter().filter_map(peer).collect()
    }

    fn wireguard_peers(&self, kind: TunnelKind) -> BTreeMap<PublicKey, WireguardHost> {
        let peer = |(name, far): (&String, &NodeSpec)| {
            let host = kind.host(far)?;
            let own = [Some(host), kind.address(far)].into_iter().flatten();
            let own = own.map(IpNetwork::from).collect();
            Some((self.key(name, kind.is_v6())?, WireguardHost { host, own }))
        };
        self.hosts.iter().filter_map(peer).collect()
    }

    /// What encryption takes of every packet between hosts; it may begin to any of them at any time.
    fn encryption(&self, v6: bool) -> u32 {
        match self.has_wireguard(v6) {
            true => TunnelKind::WIREGUARD[usize::from(v6)].overhead(),
            false => 0,
        }
    }

    fn overheads(&self, own: &NodeSpec) -> BTreeMap<IpAddr, u32> {
        let hosts = self.hosts.values().flat_map(addresses);
        hosts
            .map(|ip| {
                let wraps = |pool: &&Wrapped| {
                    pool.net.is_ipv4() == ip.is_ipv4() && !(pool.cross && is_near(own, ip))
                };
                let most = self.pools.iter().filter(wraps).map(|p| p.kind.overhead());
                (
                    ip,
                    most.max().unwrap_or(0).max(self.encryption(ip.is_ipv6())),
                )
            })
            .collect()
    }

    fn most(&self, ip: IpAddr) -> u32 {
        let same = |pool: &&Wrapped| pool.net.is_ipv4() == ip.is_ipv4();
        let overheads = self.pools.iter().filter(same).map(|p| p.kind.overhead());
        overheads
            .max()
            .unwrap_or(0)
            .max(self.encryption(ip.is_ipv6()))
    }
}

fn pools(cache: &Cache) -> impl Iterator<Item = &IpPoolSpec> {
    let all = cache.of_kind(Kind::IpPool);
    all.filter_map(|resource| match resource {
        // A disabled one too: the addresses that it gave are still in use.
        AnyResource::IpPool(pool) => Some(&pool.spec),
        _ => None,
    })
}

fn nodes(cache: &Cache) -> impl Iterator<Item = &Node> {
    let all = cache.of_kind(Kind::Node);
    all.filter_map(|resource| match resource {
        AnyResource::Node(node) => Some(node),
        _ => None,
    })
}

fn is_host(net: IpNetwork) -> bool {
    net.prefix() == if net.is_ipv4() { 32 } else { 128 }
}

fn addresses(node: &NodeSpec) -> impl Iterator<Item = IpAddr> {
    let v4 = node.ipv4().map(IpAddr::V4);
    v4.into_iter().chain(node.ipv6().map(IpAddr::V6))
}

/// Whether an address is in a subnet of this host.
fn is_near(own: &NodeSpec, ip: IpAddr) -> bool {
    let bgp = own.bgp.as_ref();
    let own = match ip {
        IpAddr::V4(_) => bgp.and_then(|bgp| bgp.ipv4_address),
        IpAddr::V6(_) => bgp.and_then(|bgp| bgp.ipv6_address),
    };
    own.map(AddrCidr::subnet)
        .is_some_and(|net| net.contains(ip))
}

/// The addresses of every host, this one too.
pub(super) fn every_host(cache: &Cache) -> impl Iterator<Item = IpNetwork> {
    let all = nodes(cache).map(|node| &node.spec);
    all.flat_map(addresses).map(IpNetwork::from)
}

/// This host's own.
pub(super) fn own_node<'a>(cache: &'a Cache, node: &str) -> Option<&'a Node> {
    match cache.get(&ResourceKey::global(Kind::Node, node))? {
        AnyResource::Node(node) => Some(node),
        _ => None,
    }
}

pub(super) fn vxlan_port(felix: &Felix<'_>) -> u16 {
    felix.first(|f| f.vxlan_port).unwrap_or(VXLAN_PORT)
}

fn vni(felix: &Felix<'_>) -> u32 {
    match felix.first(|f| f.vxlan_vni) {
        None => VXLAN_VNI,
        Some(vni) if (1..1 << 24).contains(&vni) => vni,
        Some(vni) => {
            warn!(vni, "vxlanVNI must be 1 to 16777215, using {VXLAN_VNI}");
            VXLAN_VNI
        }
    }
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;
