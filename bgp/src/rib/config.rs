//! What the RIB is told about itself, its peers and their sessions.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use crate::{
    policy::Filter,
    prefix::Family,
    wire::{MAX_LEN, NextHop, PeerKind},
};

/// A configured peer. Ids are reused after [`Rib::remove_peer`](super::Rib::remove_peer).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub(crate) u16);

/// Multipath (ECMP): which routes beside the best one go into the FIB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Multipath {
    /// Most next hops of a route; 1 turns multipath off.
    pub max_paths: usize,
    /// Routes of equal AS_PATH length may differ in the path itself.
    pub as_path_relax: bool,
}

/// The speaker as a whole.
#[derive(Debug, Clone)]
pub struct RibConfig {
    /// Our AS.
    pub local_as: u32,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// Our cluster as a route reflector; usually `router_id` (RFC 4456, section 7).
    pub cluster_id: Ipv4Addr,
    /// Multipath.
    pub multipath: Multipath,
    /// Addresses of this host: routes through them are unusable. Those in
    /// [`PeerRibConfig::next_hop_v4`] and [`PeerRibConfig::next_hop_v6`] count without saying.
    pub own_addresses: Vec<IpAddr>,
    /// Whether [`Rib::poll_fib`](super::Rib::poll_fib) is used; a route server has no need.
    pub fib: bool,
    /// How long stale routes may wait for End-of-RIB after the peer is back (RFC 4724, 4.2).
    pub stale_time: Duration,
    /// Seeds the hash functions; random in production, so that peers cannot aim at collisions.
    pub hash_seed: u64,
}

impl RibConfig {
    /// ECMP over up to 64 next hops of equal AS_PATH length, stale routes for 360 s at most.
    pub fn new(local_as: u32, router_id: Ipv4Addr) -> Self {
        Self {
            local_as,
            router_id,
            cluster_id: router_id,
            multipath: Multipath {
                max_paths: 64,
                as_path_relax: true,
            },
            own_addresses: Vec::new(),
            fib: true,
            stale_time: Duration::from_secs(360),
            hash_seed: 0,
        }
    }
}

/// Which next hop a peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NextHopMode {
    /// Ourselves towards external peers and for what we originate, else unchanged.
    #[default]
    Auto,
    /// Always ourselves.
    SelfAlways,
    /// The one received; ourselves only for what we originate.
    Keep,
}

/// A configured peer, as far as routes are concerned.
#[derive(Debug, Clone)]
pub struct PeerRibConfig {
    /// External or internal.
    pub kind: PeerKind,
    /// Our AS towards the peer.
    pub local_as: u32,
    /// The peer is our client in route reflection (RFC 4456); internal peers only.
    pub rr_client: bool,
    /// The peer is asked to prefer other paths: GRACEFUL_SHUTDOWN on everything, and LOCAL_PREF 0
    /// inside our AS (RFC 8326, section 4.2).
    pub graceful_shutdown: bool,
    /// What to tell as next hop.
    pub next_hop_mode: NextHopMode,
    /// Our next hop for IPv4: an IPv4 address, or an IPv6 one where the session has extended next
    /// hops (RFC 8950). Without it no IPv4 route that needs it is sent.
    pub next_hop_v4: Option<NextHop>,
    /// Our next hop for IPv6, with the link-local address if the peer is on the link.
    pub next_hop_v6: Option<NextHop>,
    /// How often our own AS may occur in a received AS_PATH.
    pub allow_own_as: u8,
    /// Put our AS for this one in what the peer is told: its own, which it would take for a loop.
    pub as_override: Option<u32>,
    /// Leave private AS numbers out of what an external peer is told (RFC 6996).
    pub remove_private_as: bool,
    /// How many paths of a prefix the peer is told where the session lets us (RFC 7911).
    pub paths_sent: PathLimit,
    /// What we take from the peer.
    pub import: Arc<Filter>,
    /// What we tell the peer.
    pub export: Arc<Filter>,
}

/// How many paths of a prefix a peer is told, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum PathLimit {
    /// So many; those that came from the peer itself count, but are not sent back to it.
    Best(NonZeroU16),
    /// Every one that could be used.
    #[default]
    All,
}

impl PeerRibConfig {
    /// A peer with filters that take and tell nothing: whoever configures it has to say what
    /// (RFC 8212).
    pub fn new(kind: PeerKind, local_as: u32) -> Self {
        let nothing = Arc::new(Filter::reject_all());
        Self {
            kind,
            local_as,
            rr_client: false,
            graceful_shutdown: false,
            next_hop_mode: NextHopMode::Auto,
            next_hop_v4: None,
            next_hop_v6: None,
            allow_own_as: 0,
            as_override: None,
            remove_private_as: false,
            paths_sent: PathLimit::All,
            import: Arc::clone(&nothing),
            export: nothing,
        }
    }

    pub(crate) const fn next_hop(&self, family: Family) -> Option<NextHop> {
        match family {
            Family::Ipv4Unicast => self.next_hop_v4,
            Family::Ipv6Unicast => self.next_hop_v6,
        }
    }
}

/// A set of families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Families([bool; 2]);

impl Families {
    /// None at all.
    pub const NONE: Self = Self([false; 2]);
    /// Both.
    pub const ALL: Self = Self([true; 2]);

    /// Whether `family` is in the set.
    pub const fn contains(self, family: Family) -> bool {
        self.0[family.index()]
    }

    /// Adds `family`.
    pub const fn insert(&mut self, family: Family) {
        self.0[family.index()] = true;
    }

    /// The families in the set.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |f| self.contains(*f))
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        let mut set = Self::NONE;
        families.into_iter().for_each(|f| set.insert(f));
        set
    }
}

/// The peer's graceful restart capability (RFC 4724).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerRestart {
    /// R: it has restarted, do not wait for its End-of-RIB.
    pub restarting: bool,
    /// F by family: it kept forwarding.
    pub forwarding: Families,
}

/// What the peer told of long-lived graceful restart (RFC 9494) where we have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LongLivedPeer {
    /// It sent the capability: it may be told long-lived stale routes.
    pub capable: bool,
    /// Our AS has routers without it: internal peers are told long-lived stale routes with
    /// LOCAL_PREF 0, those without the capability with NO_EXPORT as well (section 4.6). Otherwise
    /// they are not told at all.
    pub partial: bool,
    /// F by family: it kept forwarding.
    pub forwarding: Families,
}

/// Families whose prefixes have path identifiers on a session (RFC 7911).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddPathUse {
    /// In what we send.
    pub send: Families,
    /// In what the peer sends.
    pub receive: Families,
}

/// An established session.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// Both sides have four-octet AS numbers (RFC 6793).
    pub four_octet_as: bool,
    /// Families negotiated.
    pub families: Families,
    /// Longest message we may send, in octets.
    pub max_message_len: usize,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Both sides have enhanced route refresh (RFC 7313).
    pub enhanced_refresh: bool,
    /// The peer's BGP identifier.
    pub router_id: Ipv4Addr,
    /// The peer's address.
    pub peer_addr: IpAddr,
    /// Interface index if the session runs over link-local addresses, else 0.
    pub scope: u32,
    /// The peer's graceful restart capability, if it sent one.
    pub restart: Option<PeerRestart>,
    /// Long-lived graceful restart (RFC 9494), if we offered it.
    pub long_lived: Option<LongLivedPeer>,
    /// Families whose prefixes have path identifiers (RFC 7911).
    pub add_path: AddPathUse,
    /// Name of the interface that the session runs over, empty if unknown.
    pub interface: String,
}

impl SessionInfo {
    /// A session with four-octet AS numbers and both families, without further extensions.
    pub const fn new(router_id: Ipv4Addr, peer_addr: IpAddr) -> Self {
        Self {
            four_octet_as: true,
            families: Families::ALL,
            max_message_len: MAX_LEN,
            extended_next_hop: false,
            enhanced_refresh: false,
            router_id,
            peer_addr,
            scope: 0,
            restart: None,
            long_lived: None,
            add_path: AddPathUse {
                send: Families::NONE,
                receive: Families::NONE,
            },
            interface: String::new(),
        }
    }
}

/// What of a lost session is kept (RFC 4724, section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepStale {
    /// Families whose routes stay, as stale.
    pub families: Families,
    /// How long the peer has to come back.
    pub restart_time: Duration,
    /// How long routes stay beyond that as long-lived stale ones, by [`Family::index`]; zero for
    /// not at all (RFC 9494). A family may be here without being in `families`.
    pub long_lived: [Duration; 2],
}

/// A route originated here. The next hop is the speaker itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalRoute {
    /// COMMUNITIES.
    pub communities: Vec<u32>,
    /// LARGE COMMUNITIES.
    pub large_communities: Vec<[u32; 3]>,
    /// EXTENDED COMMUNITIES.
    pub ext_communities: Vec<[u8; 8]>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF towards internal peers; 100 when not set.
    pub local_pref: Option<u32>,
    /// The interface that the destination is behind, for filters; empty if there is none.
    pub interface: String,
}
