//! The speaker's whole configuration, from the resources.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;

use margay_bgp::prefix::Prefix;
use margay_model::any::AnyResource;
use margay_model::bgp_configuration::BindMode;
use margay_model::bgp_peer::{AddPathSpec, BfdSpec, LongLivedSpec, NextHopMode, SourceAddress};
use margay_model::duration::GoDuration;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::net::Cidr;
use margay_model::node::{DRAIN_ANNOTATION, Node};
use margay_speaker::{
    Action, AddPathConfig, BfdConfig, ConfigError, DynamicPeers, FilterConfig, FilterRule,
    GracefulRestartConfig, LongLivedConfig, PathLimit, PeerConfig, PeerKey, RemoteAs, RouteOrigin,
    SpeakerConfig, Ttl,
};
use sha1::{Digest, Sha1};
use tracing::warn;

use super::announcing::Announcing;
use super::filters;
use super::password::{self, StoredSecrets};
use super::peers::{Peer, Range, Settings, as_of, cluster_id, peers, ranges};
use crate::graph::Cache;

/// Most prefixes that an external peer may send in each family: what a rack of containers can have, and
/// far from what fills memory. More ends the session.
const EXTERNAL_MAX_PREFIXES: u32 = 100_000;

/// What of the agent's own configuration concerns BGP.
#[derive(Clone, Debug)]
pub(crate) struct BgpSettings {
    /// Addresses to listen on; all when empty.
    pub(crate) listen: Vec<IpAddr>,
    /// The kernel kept the routes of an agent before us.
    pub(crate) restarting: bool,
    /// Where passwords are: `DIR/SECRET/KEY`, a file each; see [`password::read`].
    pub(crate) secrets: PathBuf,
    /// Those that the datastore has.
    pub(crate) stored: StoredSecrets,
}

/// Everything that the speaker's keeper is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bgp {
    pub(crate) speaker: SpeakerConfig,
    pub(crate) announcing: Announcing,
}

/// What BGP should do; nothing without a Node of our own.
pub(crate) fn bgp(cache: &Cache, node: &str, settings: &BgpSettings) -> Option<Bgp> {
    Some(Bgp {
        speaker: speaker(cache, node, settings)?,
        announcing: Announcing::of(cache, node),
    })
}

/// The configuration; none without a Node of our own.
fn speaker(cache: &Cache, node: &str, settings: &BgpSettings) -> Option<SpeakerConfig> {
    let Some(AnyResource::Node(me)) = cache.get(&ResourceKey::global(Kind::Node, node)) else {
        return None;
    };
    let own = Settings::of(cache, node);
    let mut config = SpeakerConfig::new(as_of(cache, me).0, router_id(me));
    let port = own.port();
    let node_only = own.first(|s| s.bind_mode) == Some(BindMode::NodeIp);
    config.listen = listen_addresses(me, settings, node_only)
        .map(|ip| SocketAddr::new(ip, port))
        .collect();
    config.graceful_restart = Some(GracefulRestartConfig {
        restart_time_secs: own
            .first(|s| s.node_mesh_max_restart_time.as_ref())
            .map_or(120, restart_secs),
        restarting: settings.restarting,
    });
    config.cluster_id = cluster_id(me).and_then(|id| id.parse().ok());
    config.graceful_shutdown = me
        .metadata
        .annotations
        .get(DRAIN_ANNOTATION)
        .is_some_and(|value| value == "true");
    let pools = Pools::of(cache, node);
    config.peers = peers(cache, me)
        .into_iter()
        .filter_map(|(key, peer)| {
            let built = build(cache, me, config.local_as, key, &peer, &pools, settings);
            match built {
                Ok(peer) => Some((key, peer)),
                Err(reason) => {
                    warn!(peer = peer.name, address = %key, reason, "BGP peer left out");
                    None
                }
            }
        })
        .collect();
    config.dynamic = ranges(cache, me)
        .into_iter()
        .filter_map(|range| dynamic(cache, me, config.local_as, &range, &pools, settings))
        .collect();
    without_invalid_peers(config)
}

/// Peers that connect from a range of addresses.
fn dynamic(
    cache: &Cache,
    me: &Node,
    local_as: u32,
    range: &Range<'_>,
    pools: &Pools,
    settings: &BgpSettings,
) -> Option<DynamicPeers> {
    let prefix = prefix(range.addresses)?;
    let key = PeerKey::from(prefix.addr());
    match build(cache, me, local_as, key, &range.peer, pools, settings) {
        Ok(peer) => Some(DynamicPeers {
            prefix,
            limit: range.limit,
            peer,
        }),
        Err(reason) => {
            warn!(peer = range.peer.name, range = %prefix, reason, "BGP peers left out");
            None
        }
    }
}

/// Twelve bits of seconds (RFC 4724, section 3).
fn restart_secs(time: &GoDuration) -> u16 {
    u16::try_from(time.0.as_secs()).unwrap_or(4095).min(4095)
}

/// One bad peer must not keep the others from being configured.
fn without_invalid_peers(mut config: SpeakerConfig) -> Option<SpeakerConfig> {
    loop {
        match config.validate() {
            Ok(()) => return Some(config),
            Err(ConfigError::Peer { peer, .. }) if config.peers.contains_key(&peer) => {
                if let Err(error) = config.validate() {
                    warn!(%error, "BGP peer left out");
                }
                config.peers.remove(&peer);
            }
            Err(ConfigError::Dynamic { prefix, .. })
                if config.dynamic.iter().any(|range| range.prefix == prefix) =>
            {
                if let Err(error) = config.validate() {
                    warn!(%error, "BGP peers left out");
                }
                config.dynamic.retain(|range| range.prefix != prefix);
            }
            Err(error) => {
                warn!(%error, "no BGP");
                return None;
            }
        }
    }
}

/// The node's IPv4 address, which is unique in the cluster; without one, a hash of the node's name.
fn router_id(me: &Node) -> Ipv4Addr {
    me.spec.ipv4().unwrap_or_else(|| {
        let digest = Sha1::digest(me.metadata.name.as_bytes());
        // The lowest bit keeps it from being 0.0.0.0, which no speaker accepts (RFC 6286).
        Ipv4Addr::new(digest[0], digest[1], digest[2], digest[3] | 1)
    })
}

fn listen_addresses<'a>(
    me: &'a Node,
    settings: &'a BgpSettings,
    node_only: bool,
) -> Box<dyn Iterator<Item = IpAddr> + 'a> {
    if !settings.listen.is_empty() {
        return Box::new(settings.listen.iter().copied());
    }
    if node_only {
        let v4 = me.spec.ipv4().map(IpAddr::V4);
        let v6 = me.spec.ipv6().map(IpAddr::V6);
        return Box::new(v4.into_iter().chain(v6));
    }
    let any = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    Box::new(any.into_iter())
}

/// Which prefixes BGP may speak of.
struct Pools {
    all: Vec<Prefix>,
    /// Not to be advertised.
    unexported: Vec<Prefix>,
    /// Ranges of services that this node announces.
    ranges: Vec<Prefix>,
}

impl Pools {
    fn of(cache: &Cache, node: &str) -> Self {
        let ranges = Announcing::of(cache, node).ranges.into_iter();
        let mut pools = Self {
            all: Vec::new(),
            unexported: Vec::new(),
            ranges: ranges
                .filter_map(|range| Prefix::new(range.ip(), range.prefix()))
                .collect(),
        };
        for resource in cache.of_kind(Kind::IpPool) {
            let AnyResource::IpPool(pool) = resource else {
                continue;
            };
            let Some(prefix) = prefix(pool.spec.cidr) else {
                continue;
            };
            pools.all.push(prefix);
            if pool.spec.disable_bgp_export {
                pools.unexported.push(prefix);
            }
        }
        pools
    }
}

/// A network as BGP writes it.
pub(super) fn prefix(cidr: Cidr) -> Option<Prefix> {
    Prefix::new(cidr.addr(), cidr.prefix_len())
}

fn build(
    cache: &Cache,
    me: &Node,
    local_as: u32,
    key: PeerKey,
    peer: &Peer<'_>,
    pools: &Pools,
    settings: &BgpSettings,
) -> Result<PeerConfig, String> {
    let spec = peer.spec.as_deref();
    let mut config = PeerConfig::new(peer.remote_as);
    config.name = peer.name.clone();
    config.families = peer.families.clone();
    let own_end = spec.filter(|_| !peer.reverse);
    config.local_as = own_end.and_then(|s| s.local_as_number).map(|asn| asn.0);
    let internal = match peer.remote_as {
        RemoteAs::Is(asn) => config.local_as.unwrap_or(local_as) == asn,
        RemoteAs::Internal => true,
        RemoteAs::External => false,
    };
    let numbered = key.unnumbered().is_none();
    if numbered && spec.and_then(|s| s.source_address) != Some(SourceAddress::None) {
        config.source = own_address(me, key.addr);
        config.next_hop_v4 = me.spec.ipv4();
        config.next_hop_v6 = me.spec.ipv6();
    }
    // Otherwise the peer hears the address that it sees us by: the node's may be on another of its links.
    config.ttl = match spec.and_then(|s| s.ttl_security) {
        None | Some(0) if !numbered => Ttl::Direct,
        security => ttl(me, security, key.addr),
    };
    if let Some(keepalive) = spec.and_then(|s| s.keepalive_time.as_ref()) {
        let secs = u16::try_from(keepalive.0.as_secs())
            .unwrap_or(u16::MAX / 3)
            .max(1);
        config.keepalive_secs = Some(secs);
        config.hold_time_secs = secs.saturating_mul(3).max(3);
    }
    config.restart_time_secs = spec
        .and_then(|s| s.max_restart_time.as_ref())
        .map(restart_secs);
    let mesh = Settings::of(cache, &me.metadata.name).first(|s| s.node_mesh_password.as_ref());
    let password = spec.map_or(mesh, |s| s.password.as_ref());
    if let Some(password) = password {
        config.password = Some(password::read(
            &settings.secrets,
            &settings.stored,
            password,
        )?);
    }
    let mode = spec.and_then(|s| s.next_hop_mode);
    let keep = mode == Some(NextHopMode::Keep) || spec.is_some_and(|s| s.keep_original_next_hop);
    config.next_hop_self = mode == Some(NextHopMode::SelfAddress);
    config.next_hop_keep = keep;
    config.allow_own_as = spec
        .and_then(|s| s.num_allowed_local_as_numbers)
        .unwrap_or(0);
    config.extended_next_hop = key.addr.is_ipv6();
    config.bfd = spec.and_then(|s| s.bfd.as_ref()).map(bfd);
    config.add_path = spec
        .and_then(|s| s.add_path.as_ref())
        .map_or_else(AddPathConfig::default, add_path);
    config.long_lived = spec
        .and_then(|s| s.long_lived_restart.as_ref())
        .map(long_lived);
    config.passive = spec.is_some_and(|s| s.passive && !peer.reverse);
    config.max_prefixes = (!internal).then_some(EXTERNAL_MAX_PREFIXES);
    config.route_reflector_client = internal && is_client(me, peer);
    let names = spec.map_or(&[][..], |s| &s.filters);
    let mut problems = Vec::new();
    let named = filters::named(cache, names, &mut problems);
    for problem in problems {
        warn!(peer = peer.name, %problem, "a filter of a BGP peer cannot be followed");
    }
    config.import = import(named.import, pools);
    config.export = export(named.export, pools, internal);
    Ok(config)
}

fn add_path(spec: &AddPathSpec) -> AddPathConfig {
    let most = spec.max_sent.and_then(NonZeroU16::new);
    AddPathConfig {
        receive: spec.receive,
        send: spec
            .send
            .then(|| most.map_or(PathLimit::All, PathLimit::Best)),
    }
}

/// 24 bits of seconds (RFC 9494, section 3.1).
fn long_lived(spec: &LongLivedSpec) -> LongLivedConfig {
    const HOUR: u32 = 3600;
    const MOST: u32 = (1 << 24) - 1;
    let secs = |time: &GoDuration| u32::try_from(time.0.as_secs()).unwrap_or(MOST).min(MOST);
    LongLivedConfig {
        stale_time_secs: spec.stale_time.as_ref().map_or(HOUR, secs).max(1),
        max_stale_time_secs: spec.max_stale_time.as_ref().map(secs),
        partial_deployment: spec.partial_deployment,
    }
}

/// Timers that BFD can keep: no less than 10 ms, no more than a minute.
fn bfd(spec: &BfdSpec) -> BfdConfig {
    let usual = BfdConfig::default();
    let millis = |time: &Option<GoDuration>, usual: u32| {
        time.as_ref().map_or(usual, |time| {
            let millis = u32::try_from(time.0.as_millis()).unwrap_or(u32::MAX);
            millis.clamp(10, 60_000)
        })
    };
    BfdConfig {
        min_tx_ms: millis(&spec.transmit_interval, usual.min_tx_ms),
        min_rx_ms: millis(&spec.receive_interval, usual.min_rx_ms),
        multiplier: spec.detect_multiplier.unwrap_or(usual.multiplier).max(1),
    }
}

/// A node is a reflector's client unless it reflects for the same cluster.
fn is_client(me: &Node, peer: &Peer<'_>) -> bool {
    match (cluster_id(me), peer.node) {
        (Some(own), Some(node)) => cluster_id(node) != Some(own),
        (Some(_), None) => false,
        (None, _) => false,
    }
}

/// Only what a filter or a pool names, and never a default route by accident.
fn import(mut rules: Vec<FilterRule>, pools: &Pools) -> FilterConfig {
    rules.extend(pools.all.iter().copied().map(FilterRule::accept));
    FilterConfig {
        rules,
        default: Action::Reject,
    }
}

/// To external peers only what is ours: a node that passes on what others told it would draw their
/// traffic. Internal peers hear everything that iBGP's own rules let through.
fn export(mut rules: Vec<FilterRule>, pools: &Pools, internal: bool) -> FilterConfig {
    let hidden = pools.unexported.iter().copied();
    rules.extend(hidden.map(|prefix| FilterRule {
        action: Action::Reject,
        ..FilterRule::accept(prefix)
    }));
    if internal {
        return FilterConfig {
            rules,
            default: Action::Accept,
        };
    }
    let ours = pools.all.iter().chain(&pools.ranges);
    let within = ours.copied().map(FilterRule::accept);
    rules.extend(within.map(|rule| FilterRule {
        source: Some(RouteOrigin::Local),
        ..rule
    }));
    FilterConfig {
        rules,
        default: Action::Reject,
    }
}

fn own_address(me: &Node, towards: IpAddr) -> Option<IpAddr> {
    match towards {
        IpAddr::V4(_) => me.spec.ipv4().map(IpAddr::V4),
        IpAddr::V6(_) => me.spec.ipv6().map(IpAddr::V6),
    }
}

/// An external peer in the node's own subnet is one hop away; others may be anywhere, as the
/// established system has it.
fn ttl(me: &Node, security: Option<u8>, peer: IpAddr) -> Ttl {
    if let Some(hops) = security.filter(|hops| *hops > 0) {
        return Ttl::Security(hops);
    }
    let bgp = me.spec.bgp.as_ref();
    let own = if peer.is_ipv4() {
        bgp.and_then(|b| b.ipv4_address)
    } else {
        bgp.and_then(|b| b.ipv6_address)
    };
    match own {
        Some(own) if own.subnet().contains(peer) => Ttl::Direct,
        _ => Ttl::Multihop,
    }
}

#[cfg(test)]
#[path = "speaker_tests.rs"]
mod tests;
