//! What the speaker tells about itself: plain data for status commands and metrics.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime},
};

use margay_bgp::{
    prefix::{Family, Prefix},
    rib::RibSize,
    wire::{NextHop, PathAttrs},
};

use crate::peer_key::PeerKey;

pub use margay_bgp::session::State;

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which peer.
    pub key: PeerKey,
    /// Its configured name; may be empty.
    pub name: String,
    /// It is one of those that connect from a range, by which it has its name.
    pub dynamic: bool,
    /// Its AS; 0 for a peer of any external AS until it has said which.
    pub remote_as: u32,
    /// Our AS towards it.
    pub local_as: u32,
    /// State of the session.
    pub state: State,
    /// When the session entered or left Established last.
    pub since: SystemTime,
    /// How long it has been Established.
    pub uptime: Option<Duration>,
    /// How often it has been Established.
    pub established_count: u64,
    /// Why the last connection ended, if any did.
    pub last_error: Option<String>,
    /// What was agreed on, while Established.
    pub session: Option<SessionStatus>,
    /// Routes by family; those of a lost session stay while they are stale.
    pub routes: Vec<FamilyStatus>,
    /// Whether BFD finds the path to work; `None` where it does not watch it.
    pub bfd_up: Option<bool>,
    /// UPDATEs received in this process's lifetime.
    pub updates_received: u64,
    /// UPDATE octets sent in this process's lifetime.
    pub octets_sent: u64,
    /// Octets of all messages received in this process's lifetime.
    pub octets_received: u64,
    /// UPDATEs whose routes were treated as withdrawn (RFC 7606).
    pub treated_as_withdraw: u64,
    /// UPDATEs of which an attribute was discarded (RFC 7606).
    pub attribute_discards: u64,
}

/// The speaker as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// What the tables hold.
    pub rib: RibSize,
    /// The longest time in the last minute or two for which no session could be served.
    pub longest_turn: Duration,
    /// Connections closed because their address had opened too many, since start.
    pub connections_refused: u64,
}

/// An Established session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStatus {
    /// The peer's BGP identifier.
    pub peer_id: Ipv4Addr,
    /// Our address.
    pub local_addr: IpAddr,
    /// Negotiated hold time; zero for none.
    pub hold_time: Duration,
    /// Interval of KEEPALIVEs before jitter; zero for none.
    pub keepalive: Duration,
    /// Families that both carry.
    pub families: Vec<Family>,
    /// Names of the capabilities in use, for people.
    pub capabilities: Vec<&'static str>,
}

/// Routes of a peer in a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FamilyStatus {
    /// The family.
    pub family: Family,
    /// Received, those that import refused included.
    pub received: u32,
    /// Told to the peer, as far as that is encoded.
    pub advertised: usize,
    /// The peer has sent End-of-RIB in this session.
    pub end_of_rib: bool,
}

/// What a session or the path to its peer is before and after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventState {
    /// State of the session.
    Session(State),
    /// What BFD finds.
    Path(PathState),
}

impl From<State> for EventState {
    fn from(state: State) -> Self {
        Self::Session(state)
    }
}

impl From<PathState> for EventState {
    fn from(state: PathState) -> Self {
        Self::Path(state)
    }
}

impl fmt::Display for EventState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(state) => state.fmt(f),
            Self::Path(PathState::Down) => f.write_str("BFD Down"),
            Self::Path(PathState::Up) => f.write_str("BFD Up"),
            Self::Path(PathState::AdminDown) => f.write_str("BFD AdminDown"),
        }
    }
}

/// What BFD finds of a path (RFC 5880, section 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathState {
    /// It does not work, or that is not known yet.
    Down,
    /// Both directions work.
    Up,
    /// The other side's operator took BFD down.
    AdminDown,
}

/// A change of a session's state, or of the path to its peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerEvent {
    /// Whose.
    pub key: PeerKey,
    /// When it happened last.
    pub at: SystemTime,
    /// When it happened first, if it was repeated.
    pub first: SystemTime,
    /// How often it has happened.
    pub count: u64,
    /// State before.
    pub from: EventState,
    /// State after.
    pub to: EventState,
    /// Why.
    pub reason: String,
}

/// Which routes to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteQuery {
    /// The selected routes of all families.
    Best,
    /// What a peer sent, before import.
    Received(PeerKey),
    /// What a peer is told.
    Advertised(PeerKey),
    /// Every path of a prefix, the best first, with what became of each.
    Lookup(Prefix),
    /// Who is told of a prefix, and what: a route for each peer with a session, its source.
    Told(Prefix),
    /// As [`Lookup`](Self::Lookup), of the most specific prefix that the address is in.
    LookupAddress(IpAddr),
}

/// Where a listing of routes goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteCursor {
    pub(crate) family: Family,
    pub(crate) place: u32,
}

impl RouteCursor {
    /// The beginning.
    pub const START: Self = Self {
        family: Family::Ipv4Unicast,
        place: 0,
    };
}

/// Some routes, and where the others are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePage {
    /// In the order of their prefixes, within the page.
    pub routes: Vec<RouteView>,
    /// `None` when there are no more.
    pub next: Option<RouteCursor>,
}

/// Where a route came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteSource {
    /// Originated here.
    Local,
    /// Learnt from a peer.
    Peer(PeerKey),
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteView {
    /// Destination.
    pub prefix: Prefix,
    /// Where it came from, or goes for [`RouteQuery::Told`]; not told for [`RouteQuery::Advertised`].
    pub source: Option<RouteSource>,
    /// The identifier that tells it from other paths of the prefix, where the session that it came
    /// from, or is told on, has them (RFC 7911).
    pub path_id: Option<u32>,
    /// Its next hops: as in the FIB for [`RouteQuery::Best`], else as on the wire; none for what
    /// is originated here.
    pub next_hops: Vec<IpAddr>,
    /// Its attributes: after import for the best and for look-ups, else as on the wire.
    pub attrs: PathAttrs,
    /// What became of it: `best`, or why not. For [`RouteQuery::Lookup`] and
    /// [`RouteQuery::Best`].
    pub outcome: Option<String>,
    /// The step of the decision process at which a path lost, as
    /// [`DecisionStep::name`](margay_bgp::rib::DecisionStep::name) has it.
    pub lost_at: Option<&'static str>,
    /// The values that decided: of this path, and of the one preferred.
    pub compared: Option<(String, String)>,
    /// Not the best, but traffic goes its way as well.
    pub multipath: bool,
    /// Kept from a session that was lost.
    pub stale: bool,
}

impl RouteView {
    /// A route of which nothing is known but what it says.
    pub(crate) const fn new(prefix: Prefix, attrs: PathAttrs) -> Self {
        Self {
            prefix,
            source: None,
            path_id: None,
            next_hops: Vec::new(),
            attrs,
            outcome: None,
            lost_at: None,
            compared: None,
            multipath: false,
            stale: false,
        }
    }
}

/// The addresses behind a wire next hop.
pub(crate) fn next_hop_addrs(next_hop: Option<NextHop>) -> Vec<IpAddr> {
    next_hop.into_iter().map(NextHop::addr).collect()
}
