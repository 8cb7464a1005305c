//! The desired state in plain data: sets, rules, endpoints, globals.
//!
//! Nothing here knows a resource kind or a backend. Identifiers are opaque strings chosen by the
//! caller; kernel names are derived from them by hash.

mod globals;

use std::{collections::BTreeSet, fmt, net::IpAddr, ops::RangeInclusive, sync::Arc};

use ipnetwork::IpNetwork;

use super::{label::Verdict, names::Way};

pub use globals::{DenyAction, Failsafe, Globals, HostAction, Nflog, Tunnels};

/// One address family; every kernel object of the filter belongs to exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of a network.
    #[must_use]
    pub fn of(net: &IpNetwork) -> Self {
        if net.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps an identifier; any text is valid and the same text is the same object.
            pub fn new(id: impl Into<Arc<str>>) -> Self {
                Self(id.into())
            }

            /// The identifier as given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id_type! {
    /// Identity of an address set (a selector, a named port, a service).
    SetId
}
id_type! {
    /// Identity of a policy.
    PolicyId
}
id_type! {
    /// Identity of a profile.
    ProfileId
}
id_type! {
    /// Identity of a local endpoint.
    EndpointId
}

/// What the members of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Networks and addresses.
    Nets,
    /// Network, protocol and port together: a named port or a service.
    NetPorts,
}

/// One member of a set. A member of the wrong shape for the set's kind is ignored and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetMember {
    /// A network; an address is a full-length one.
    Net(IpNetwork),
    /// A network with an IP protocol number (TCP 6, UDP 17, SCTP 132) and a port.
    NetPort(IpNetwork, u8, u16),
}

impl From<IpAddr> for SetMember {
    fn from(addr: IpAddr) -> Self {
        Self::Net(addr.into())
    }
}

impl From<IpNetwork> for SetMember {
    fn from(net: IpNetwork) -> Self {
        Self::Net(net)
    }
}

/// A whole set. Members of both families may be mixed; each family gets its own kernel set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetSpec {
    /// Shape of the members.
    pub kind: SetKind,
    /// All members.
    pub members: BTreeSet<SetMember>,
}

/// What a matching rule does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Accept the packet for this endpoint and direction.
    Allow,
    /// Drop (or reject, see [`Globals::deny_action`]).
    Deny,
    /// Hand the packet up to whoever listens (see [`Nflog`]), and go on with the next rule.
    Log,
    /// Leave the tier; in a profile: go on with the next rule set.
    Pass,
    /// Decide nothing, count what matches, hand it up with the verdict that the rule would have if it were
    /// enforced (where it would have one, and such verdicts are handed up), and skip the rest of these rules.
    /// See [`TierDefault::WouldDeny`] for what matches nowhere.
    CountAndStop(Option<Verdict>),
    /// Decide nothing, count what matches, and go on with the next rule.
    CountAndGoOn,
}

/// An ICMP (IPv4) or ICMPv6 (IPv6) type with an optional code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// The type.
    pub icmp_type: u8,
    /// The code; any when absent.
    pub code: Option<u8>,
}

/// One side of a rule. Everything present must hold; lists are "any of", `not_` lists "none of".
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EntityMatch {
    /// The address is in one of these.
    pub nets: Vec<IpNetwork>,
    /// The address is in none of these.
    pub not_nets: Vec<IpNetwork>,
    /// The address is in **every** one of these sets ([`SetKind::Nets`]).
    pub sets: Vec<SetId>,
    /// The address is in none of these sets.
    pub not_sets: Vec<SetId>,
    /// The address, protocol and port are in **every** one of these sets ([`SetKind::NetPorts`]),
    /// independent of `ports`: a service.
    pub port_sets: Vec<SetId>,
    /// The port is in one of these ranges, or the packet matches one of `named_ports`.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Alternatives to `ports`: sets of kind [`SetKind::NetPorts`].
    pub named_ports: Vec<SetId>,
    /// The port is in none of these ranges.
    pub not_ports: Vec<RangeInclusive<u16>>,
    /// The packet matches none of these sets of kind [`SetKind::NetPorts`].
    pub not_named_ports: Vec<SetId>,
}

/// One rule. The default action is [`Action::Deny`] so that a half-built rule never opens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What to do.
    pub action: Action,
    /// Only this family.
    pub ip_version: Option<Family>,
    /// IP protocol number (1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6, 132 SCTP, 136 UDPLite).
    pub protocol: Option<u8>,
    /// Any protocol but this.
    pub not_protocol: Option<u8>,
    /// ICMP type and code; implies the family's ICMP protocol.
    pub icmp: Option<IcmpMatch>,
    /// ICMP of any other type or code; implies the family's ICMP protocol.
    pub not_icmp: Option<IcmpMatch>,
    /// Where the packet comes from.
    pub src: EntityMatch,
    /// Where the packet goes to.
    pub dst: EntityMatch,
    /// Shown beside the rule in the kernel; reduced to printable ASCII and cut.
    pub comment: Option<String>,
    /// The number that the rule is logged with; its place in the list when absent.
    pub place: Option<usize>,
}

impl Rule {
    /// A rule that matches everything.
    #[must_use]
    pub fn any(action: Action) -> Self {
        Self {
            action,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            src: EntityMatch::default(),
            dst: EntityMatch::default(),
            comment: None,
            place: None,
        }
    }
}

/// When rules are asked; each has a table of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Before connections are tracked: `raw`. Only for the host's own interfaces.
    Untracked,
    /// Before destinations are translated: `mangle`. Only for the host's own interfaces, and ingress.
    PreDnat,
    /// `filter`.
    #[default]
    Filter,
}

/// The rules of a policy or of a profile, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRules {
    /// When they are asked.
    pub phase: Phase,
    /// Applied to traffic towards the endpoint.
    pub ingress: Vec<Rule>,
    /// Applied to traffic from the endpoint.
    pub egress: Vec<Rule>,
}

/// What happens at the end of a tier when no rule matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TierDefault {
    /// Deny.
    Deny,
    /// Go on with the next tier, finally with the profiles.
    Pass,
    /// The same; what no [`Action::CountAndStop`] of the tier matched is handed up, if such verdicts are, as what the
    /// tier would deny. Only for a tier in which no policy is enforced. Needs a fifth bit of
    /// [`Globals::mark_mask`].
    WouldDeny,
}

/// The policies of one tier that apply to an endpoint in one direction, in order.
/// A tier without policies is skipped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tier {
    /// Name, shown in comments.
    pub name: Arc<str>,
    /// Policies in order.
    pub policies: Vec<PolicyId>,
    /// Verdict when none of their rules matched.
    pub default_action: TierDefault,
}

/// The tiers of one direction, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Direction {
    /// Tiers in order.
    pub tiers: Vec<Tier>,
}

/// A local workload endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host side interface; must start with [`Globals::interface_prefix`] and have 1 to 15 bytes.
    pub ifname: String,
    /// Addresses of the workload, of both families.
    pub addresses: Vec<IpNetwork>,
    /// Policy for traffic to the workload.
    pub ingress: Direction,
    /// Policy for traffic from the workload.
    pub egress: Direction,
    /// Profiles, tried in order after the last tier.
    pub profiles: Vec<ProfileId>,
    /// Not up: nothing that the workload sends is taken, and nothing is forwarded to it.
    pub admin_up: bool,
    /// Further prefixes that the workload may send from; it gets traffic to them too.
    pub allowed_source_prefixes: Vec<IpNetwork>,
    /// Ports of the host that lead to the workload. Where two endpoints want the same, the first id has it.
    pub host_ports: Vec<HostPort>,
    /// How much it may have.
    pub limits: Limits,
}

/// Limits of one workload, each family for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of what it receives, but for what comes from its own host.
    pub ingress: WayLimits,
    /// Of what it sends.
    pub egress: WayLimits,
    /// Differentiated services code point, 0 to 63, of what it sends to addresses in no pool.
    pub dscp: Option<u8>,
}

/// Limits of one way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WayLimits {
    /// Packets a second, 1 to 1,000,000; further ones are dropped.
    pub packets_a_second: Option<u64>,
    /// Packets at once after a while with few; 5 when absent.
    pub packets_at_once: Option<u32>,
    /// Connections at a time; further ones are denied.
    pub connections: Option<u32>,
}

impl Limits {
    pub(crate) fn of(&self, way: Way) -> &WayLimits {
        match way {
            Way::Ingress => &self.ingress,
            Way::Egress => &self.egress,
        }
    }
}

impl WayLimits {
    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        self.packets_a_second.is_some() || self.connections.is_some()
    }
}

/// A port of the host that leads to a workload's first address of each family, whoever connects: others,
/// the host itself, its workloads, the workload itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// IP protocol number: TCP 6, UDP 17 or SCTP 132. With 0 all that comes to `host_ip` is led, whatever it is, and the
    /// ports are not looked at: a floating IP, which is no address of the host's own. Others are left out.
    pub protocol: u8,
    /// The host's port.
    pub host_port: u16,
    /// The address that it is for; any address of the host when absent, any of the family when unspecified.
    pub host_ip: Option<IpAddr>,
    /// The workload's port.
    pub port: u16,
}

/// Policy for both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// For what comes in.
    pub ingress: Direction,
    /// For what goes out.
    pub egress: Direction,
}

/// Interfaces of the host that are no workload's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostInterface {
    /// One, by name; 1 to 15 bytes.
    Named(String),
    /// All that have no endpoint of their own, the loopback apart.
    All,
}

/// What applies to interfaces of the host. Where a tier is to drop at its end depends on its default;
/// only `own` drops what nothing decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostEndpoint {
    /// Policies of [`Phase::Untracked`].
    pub untracked: Ways,
    /// Policies of [`Phase::PreDnat`].
    pub pre_dnat: Direction,
    /// Policies for what the host itself receives and sends.
    pub own: Ways,
    /// Policies for what the host forwards through the interface.
    pub forwarded: Ways,
    /// Profiles, for `own` alone, tried in order after the last tier.
    pub profiles: Vec<ProfileId>,
}
