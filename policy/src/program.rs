//! What the calculation gives out: sets, rules and endpoint plans as plain data for any renderer.
//!
//! A [`Rule`] matches a packet when everything that it names matches. Family decisions are made here,
//! not by the renderer: see [`Rule::ip_version`]. The one thing left to a renderer that works per family
//! is to leave networks and set members of the other family out; they can never match.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use margay_model::kind::ResourceKey;
use margay_model::net::Cidr;
pub use margay_model::policy::PolicyType as Direction;
use margay_model::qos::QosControls;
pub use margay_model::rule::Action;

/// Identity of a set: its meaning, hashed. Sets that mean the same are one set. About 40 characters of
/// `[A-Za-z0-9_:-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(Arc<str>);

impl SetId {
    pub(crate) fn new(uid: String) -> Self {
        Self(uid.into())
    }

    /// The text of the identity.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the members of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// [`SetMember::Net`]; networks may overlap and may be `/0`.
    Nets,
    /// [`SetMember::Port`].
    Ports,
}

/// A member of a set. A set holds members of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetMember {
    /// Addresses.
    Net(Cidr),
    /// One port of one address.
    Port {
        /// The address.
        addr: IpAddr,
        /// IP protocol number.
        protocol: u8,
        /// The port.
        port: u16,
    },
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// An ICMP type, or a type and a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IcmpMatch {
    /// The type.
    pub kind: u8,
    /// The code; any when absent.
    pub code: Option<u8>,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

/// One side of a rule: all that is not empty must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideMatch {
    /// The address is in one of these; any when empty.
    pub nets: Vec<Cidr>,
    /// The address is in none of these. Never holds a `/0` of a family that the rule is for.
    pub not_nets: Vec<Cidr>,
    /// The address is in each of these sets of [`SetKind::Nets`].
    pub sets: Vec<SetId>,
    /// The address is in none of these sets of [`SetKind::Nets`].
    pub not_sets: Vec<SetId>,
    /// The port is in one of these, *or* in one of `named_ports`; any when both are empty.
    pub ports: Vec<PortRange>,
    /// Sets of [`SetKind::Ports`]; see `ports`.
    pub named_ports: Vec<SetId>,
    /// The port is in none of these.
    pub not_ports: Vec<PortRange>,
    /// Address, protocol and port are in none of these sets of [`SetKind::Ports`].
    pub not_named_ports: Vec<SetId>,
}

impl SideMatch {
    /// Every set that this side refers to.
    pub fn set_ids(&self) -> impl Iterator<Item = &SetId> {
        self.sets
            .iter()
            .chain(&self.not_sets)
            .chain(&self.named_ports)
            .chain(&self.not_named_ports)
    }
}

/// One rule. Ports and ICMP matches come only with a `protocol` that has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Position in the resource, from 0. Rules that can never match are left out of the program.
    pub index: usize,
    /// What becomes of the packet.
    pub action: Action,
    /// The only family the rule can match; `None` for both. Follows from the resource's `ipVersion`,
    /// from ICMP being IPv4 and ICMPv6 being IPv6, and from networks (also negated ones) of one family.
    pub ip_version: Option<IpVersion>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Any protocol but this.
    pub not_protocol: Option<u8>,
    /// The ICMP type and code.
    pub icmp: Option<IcmpMatch>,
    /// Any ICMP type and code but this.
    pub not_icmp: Option<IcmpMatch>,
    /// The sender.
    pub source: SideMatch,
    /// The receiver.
    pub destination: SideMatch,
    /// Notes for comments in the dataplane.
    pub annotations: BTreeMap<String, String>,
    /// The rules of the resource that were joined into this one, in order; empty where it is one alone.
    /// It matches what any of them matches, and `index` is that of the first.
    pub parts: Vec<Self>,
}

impl Rule {
    /// The rule at `index` that matches every packet.
    pub fn any(index: usize, action: Action) -> Self {
        Self {
            index,
            action,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: SideMatch::default(),
            destination: SideMatch::default(),
            annotations: BTreeMap::new(),
            parts: Vec::new(),
        }
    }

    /// The rules of the resource that this one stands for, in order.
    pub fn sources(&self) -> &[Self] {
        match self.parts.is_empty() {
            true => std::slice::from_ref(self),
            false => &self.parts,
        }
    }
}

/// When rules are asked, as seen from a packet that comes in: the earliest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Before connections are tracked (`doNotTrack`); what is allowed is not tracked at all.
    Untracked,
    /// Before destinations are translated (`preDNAT`); only what comes in.
    PreDnat,
    /// When it is known where the packet goes. The only phase that workloads have.
    #[default]
    Filter,
}

/// Rules of a policy or a profile, in order, for each direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// When they are asked.
    pub phase: Phase,
    /// They decide nothing: what they would match is counted.
    pub staged: bool,
    /// For what the endpoint receives.
    pub ingress: Vec<Rule>,
    /// For what the endpoint sends.
    pub egress: Vec<Rule>,
}

impl Rules {
    /// The rules of one direction.
    pub fn of(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Every set that a rule refers to.
    pub fn set_ids(&self) -> BTreeSet<&SetId> {
        let rules = self.ingress.iter().chain(&self.egress);
        rules
            .flat_map(|rule| rule.source.set_ids().chain(rule.destination.set_ids()))
            .collect()
    }
}

/// The policies of one tier that apply to an endpoint in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierPlan {
    /// The tier's name.
    pub name: String,
    /// What happens when no rule of `policies` decides: [`Action::Deny`] or [`Action::Pass`].
    pub default_action: Action,
    /// In order; never empty. Staged ones decide nothing; where there are no others, the default action
    /// is [`Action::Pass`].
    pub policies: Vec<ResourceKey>,
    /// Where all of `policies` are staged: the default action if they were enforced.
    pub if_enforced: Option<Action>,
}

/// What applies to one endpoint of this host.
///
/// A packet walks the tiers in order. In a tier, Allow and Deny are final, Log goes on with the next
/// rule, Pass leaves the tier; after its last rule the tier's `default_action` holds. Behind the last
/// tier come the profiles, where the first Allow or Deny is final, and behind them the packet is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPlan {
    /// The endpoint.
    pub key: ResourceKey,
    /// Its interface on the host.
    pub ifname: String,
    /// Its addresses, as host networks.
    pub addresses: Vec<Cidr>,
    /// Tiers for what it receives.
    pub ingress: Vec<TierPlan>,
    /// Tiers for what it sends.
    pub egress: Vec<TierPlan>,
    /// Profiles, in order.
    pub profiles: Vec<String>,
    /// Whether the endpoint is to have traffic at all; false as long as it names no interface.
    pub admin_up: bool,
    /// Further sources it may send from.
    pub allowed_source_prefixes: Vec<Cidr>,
    /// How many packets and connections it may have.
    pub qos: QosControls,
    /// Ports of its host that lead to it.
    pub host_ports: Vec<HostPort>,
}

/// A port of the host that leads to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// IP protocol number; [`WHOLE_ADDRESS`] for whatever comes to `host_ip`, which then is no address of the host's own.
    pub protocol: u8,
    /// The port of the host.
    pub host_port: u16,
    /// The host's address that it is for; any when absent.
    pub host_ip: Option<IpAddr>,
    /// The endpoint's port.
    pub port: u16,
}

/// The protocol of a [`HostPort`] that stands for all of an address: in IP it is none that is sent to anybody.
pub const WHOLE_ADDRESS: u8 = 0;

impl EndpointPlan {
    /// Addresses that are not the endpoint's own and lead to it.
    pub fn floating_ips(&self) -> impl Iterator<Item = IpAddr> {
        let whole = self.host_ports.iter();
        let whole = whole.filter(|port| port.protocol == WHOLE_ADDRESS);
        whole.filter_map(|port| port.host_ip)
    }

    /// The tiers of one direction.
    pub fn tiers(&self, direction: Direction) -> &[TierPlan] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Tiers for both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tiers {
    /// For what comes in.
    pub ingress: Vec<TierPlan>,
    /// For what goes out.
    pub egress: Vec<TierPlan>,
}

impl Tiers {
    /// The tiers of one direction.
    pub fn of(&self, direction: Direction) -> &[TierPlan] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Which interfaces of a host an endpoint stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostInterface {
    /// The one of this name.
    Named(String),
    /// Whichever has one of these addresses.
    WithAddress(Vec<IpAddr>),
    /// Every one that is no workload's, not the loopback, and that no other endpoint stands for.
    All,
}

/// A way through an interface of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPath {
    /// Any traffic, before connections are tracked.
    Untracked,
    /// Any traffic that comes in, before destinations are translated.
    PreDnat,
    /// Traffic that the host itself receives or sends.
    Own,
    /// Traffic that the host forwards.
    Forwarded,
}

/// What applies to the interfaces of this host that an endpoint stands for.
///
/// [`HostPath::Own`] is as with an [`EndpointPlan`]. The other paths know no profiles and no drop at the
/// end: what no rule decides goes on. In [`HostPath::Untracked`] and [`HostPath::PreDnat`] no tier drops
/// at its end either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPlan {
    /// The endpoint.
    pub key: ResourceKey,
    /// Its interfaces.
    pub interface: HostInterface,
    /// See [`HostPath::Untracked`]. None for [`HostInterface::All`], which knows no such policies.
    pub untracked: Tiers,
    /// See [`HostPath::PreDnat`]; nothing in egress.
    pub pre_dnat: Tiers,
    /// See [`HostPath::Own`].
    pub own: Tiers,
    /// See [`HostPath::Forwarded`].
    pub forwarded: Tiers,
    /// Profiles, in order.
    pub profiles: Vec<String>,
}

impl HostPlan {
    /// The tiers of a path in one direction.
    pub fn tiers(&self, path: HostPath, direction: Direction) -> &[TierPlan] {
        match path {
            HostPath::Untracked => &self.untracked,
            HostPath::PreDnat => &self.pre_dnat,
            HostPath::Own => &self.own,
            HostPath::Forwarded => &self.forwarded,
        }
        .of(direction)
    }

    /// Every list of tiers.
    pub fn all_tiers(&self) -> impl Iterator<Item = &TierPlan> {
        [&self.untracked, &self.pre_dnat, &self.own, &self.forwarded]
            .into_iter()
            .flat_map(|tiers| tiers.ingress.iter().chain(&tiers.egress))
    }
}

/// One change. Within a flush the variants come in the order they are declared here, so that nothing
/// is referred to before it exists, and nothing is removed while it is referred to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A set with all its members, ascending.
    SetAdded {
        /// Its identity.
        id: SetId,
        /// What the members are.
        kind: SetKind,
        /// The members.
        members: Vec<SetMember>,
    },
    /// Members of a known set that came and went; each list ascending, not both empty.
    SetChanged {
        /// Its identity.
        id: SetId,
        /// What the members are.
        kind: SetKind,
        /// Members that came.
        added: Vec<SetMember>,
        /// Members that went.
        removed: Vec<SetMember>,
    },
    /// Rules of a policy, new or replaced.
    PolicyRules {
        /// The policy.
        id: ResourceKey,
        /// Its rules.
        rules: Arc<Rules>,
    },
    /// Rules of a profile, new or replaced.
    ProfileRules {
        /// The profile's name.
        name: String,
        /// Its rules.
        rules: Arc<Rules>,
    },
    /// An endpoint that is gone. Comes before [`Update::Endpoint`], so that a successor may use the
    /// same interface.
    EndpointRemoved {
        /// The endpoint.
        id: ResourceKey,
    },
    /// An endpoint, new or replaced.
    Endpoint {
        /// The endpoint.
        id: ResourceKey,
        /// What applies to it.
        plan: Arc<EndpointPlan>,
    },
    /// An endpoint of this host itself that is gone.
    HostEndpointRemoved {
        /// The endpoint.
        id: ResourceKey,
    },
    /// An endpoint of this host itself, new or replaced.
    HostEndpoint {
        /// The endpoint.
        id: ResourceKey,
        /// What applies to it.
        plan: Arc<HostPlan>,
    },
    /// A policy that no endpoint refers to any more.
    PolicyRemoved {
        /// The policy.
        id: ResourceKey,
    },
    /// A profile that no endpoint refers to any more.
    ProfileRemoved {
        /// The profile's name.
        name: String,
    },
    /// A set that no rule refers to any more.
    SetRemoved {
        /// Its identity.
        id: SetId,
    },
}

/// All updates so far, added up: what a renderer holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Sets with their members.
    pub sets: BTreeMap<SetId, (SetKind, BTreeSet<SetMember>)>,
    /// Rules of policies.
    pub policies: BTreeMap<ResourceKey, Arc<Rules>>,
    /// Rules of profiles by name.
    pub profiles: BTreeMap<String, Arc<Rules>>,
    /// Plans of endpoints.
    pub endpoints: BTreeMap<ResourceKey, Arc<EndpointPlan>>,
    /// Plans of endpoints of hosts.
    pub hosts: BTreeMap<ResourceKey, Arc<HostPlan>>,
}

impl View {
    /// Adds one update.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::SetAdded { id, kind, members } => {
                self.sets.insert(id, (kind, members.into_iter().collect()));
            }
            Update::SetChanged {
                id,
                kind,
                added,
                removed,
            } => {
                let (_, members) = self
                    .sets
                    .entry(id)
                    .or_insert_with(|| (kind, BTreeSet::new()));
                members.extend(added);
                members.retain(|member| removed.binary_search(member).is_err());
            }
            Update::PolicyRules { id, rules } => {
                self.policies.insert(id, rules);
            }
            Update::ProfileRules { name, rules } => {
                self.profiles.insert(name, rules);
            }
            Update::Endpoint { id, plan } => {
                self.endpoints.insert(id, plan);
            }
            Update::EndpointRemoved { id } => {
                self.endpoints.remove(&id);
            }
            Update::HostEndpoint { id, plan } => {
                self.hosts.insert(id, plan);
            }
            Update::HostEndpointRemoved { id } => {
                self.hosts.remove(&id);
            }
            Update::PolicyRemoved { id } => {
                self.policies.remove(&id);
            }
            Update::ProfileRemoved { name } => {
                self.profiles.remove(&name);
            }
            Update::SetRemoved { id } => {
                self.sets.remove(&id);
            }
        }
    }
}
