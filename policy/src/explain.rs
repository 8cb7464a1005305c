//! Why a packet passes or not: a walk over the emitted program, with every decision written down.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use margay_model::kind::ResourceKey;
use margay_model::net::Cidr;

use crate::program::{
    Action, Direction, EndpointPlan, IcmpMatch, IpVersion, PortRange, Rule, SetId, SetMember,
    SideMatch, View,
};

/// A packet that opens a connection, as policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// The sender.
    pub source: IpAddr,
    /// The receiver, after any destination translation.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Port of the sender, 0 for protocols without ports.
    pub source_port: u16,
    /// Port of the receiver, 0 for protocols without ports.
    pub destination_port: u16,
    /// Type and code, for ICMP and ICMPv6.
    pub icmp: Option<(u8, u8)>,
}

/// What becomes of a packet in one direction of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
}

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a policy of a tier.
    Policy {
        /// The tier.
        tier: String,
        /// The policy.
        policy: ResourceKey,
    },
    /// In a profile.
    Profile(String),
}

/// One decision on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A rule matched.
    Rule {
        /// Where it stands.
        place: Place,
        /// Its position in the resource, from 0.
        index: usize,
        /// What it says.
        action: Action,
    },
    /// No rule of the place matched.
    NoMatch(Place),
    /// No rule of a tier decided, so its default action holds.
    TierDefault {
        /// The tier.
        tier: String,
        /// Deny or Pass.
        action: Action,
    },
    /// A policy or profile that the plan names is not in the view; the packet is dropped.
    Missing(Place),
    /// Nothing allowed the packet: behind the last profile it is dropped.
    End,
}

/// The verdict on a packet that an endpoint receives (ingress) or sends (egress), and how it came about.
///
/// Replies of allowed connections and traffic from the endpoint's own host do not get here; see the
/// renderer for those.
pub fn verdict(
    view: &View,
    plan: &EndpointPlan,
    direction: Direction,
    packet: &Packet,
) -> (Verdict, Vec<Step>) {
    let mut walk = Walk {
        view,
        direction,
        packet,
        steps: Vec::new(),
    };
    let verdict = walk.run(plan);
    (verdict, walk.steps)
}

struct Walk<'a> {
    view: &'a View,
    direction: Direction,
    packet: &'a Packet,
    steps: Vec<Step>,
}

impl Walk<'_> {
    fn run(&mut self, plan: &EndpointPlan) -> Verdict {
        for tier in plan.tiers(self.direction) {
            let decided = tier.policies.iter().find_map(|policy| {
                let rules = self.view.policies.get(policy).map(|r| r.of(self.direction));
                self.rules(
                    Place::Policy {
                        tier: tier.name.clone(),
                        policy: policy.clone(),
                    },
                    rules,
                )
            });
            let action = decided.unwrap_or_else(|| {
                self.steps.push(Step::TierDefault {
                    tier: tier.name.clone(),
                    action: tier.default_action,
                });
                tier.default_action
            });
            match action {
                Action::Allow => return Verdict::Allow,
                Action::Deny => return Verdict::Deny,
                Action::Pass | Action::Log => {}
            }
        }
        for name in &plan.profiles {
            let rules = self.view.profiles.get(name).map(|r| r.of(self.direction));
            match self.rules(Place::Profile(name.clone()), rules) {
                Some(Action::Allow) => return Verdict::Allow,
                Some(Action::Deny) => return Verdict::Deny,
                _ => {}
            }
        }
        self.steps.push(Step::End);
        Verdict::Deny
    }

    /// The action of the first matching rule that is not Log.
    fn rules(&mut self, place: Place, rules: Option<&[Rule]>) -> Option<Action> {
        let Some(rules) = rules else {
            self.steps.push(Step::Missing(place));
            return Some(Action::Deny);
        };
        for rule in rules
            .iter()
            .filter(|rule| rule_matches(self.view, rule, self.packet))
        {
            let (index, action) = (rule.index, rule.action);
            self.steps.push(Step::Rule {
                place: place.clone(),
                index,
                action,
            });
            if action != Action::Log {
                return Some(action);
            }
        }
        self.steps.push(Step::NoMatch(place));
        None
    }
}

/// Whether everything that a rule names matches a packet.
pub fn rule_matches(view: &View, rule: &Rule, packet: &Packet) -> bool {
    rule.ip_version
        .is_none_or(|v| v == IpVersion::of(packet.source))
        && rule.protocol.is_none_or(|p| p == packet.protocol)
        && rule.not_protocol.is_none_or(|p| p != packet.protocol)
        && rule.icmp.is_none_or(|m| icmp_matches(m, packet))
        && rule.not_icmp.is_none_or(|m| !icmp_matches(m, packet))
        && side_matches(
            view,
            &rule.source,
            packet,
            packet.source,
            packet.source_port,
        )
        && side_matches(
            view,
            &rule.destination,
            packet,
            packet.destination,
            packet.destination_port,
        )
}

fn icmp_matches(icmp: IcmpMatch, packet: &Packet) -> bool {
    packet
        .icmp
        .is_some_and(|(kind, code)| icmp.kind == kind && icmp.code.is_none_or(|c| c == code))
}

fn side_matches(view: &View, side: &SideMatch, packet: &Packet, addr: IpAddr, port: u16) -> bool {
    let in_nets = |nets: &[Cidr]| nets.iter().any(|net| net.contains(addr));
    let in_ports = |ports: &[PortRange]| ports.iter().any(|r| (r.first..=r.last).contains(&port));
    let member = SetMember::Port {
        addr,
        protocol: packet.protocol,
        port,
    };
    let named = |ids: &[SetId]| {
        ids.iter()
            .any(|id| members(view, id).is_some_and(|m| m.contains(&member)))
    };
    let in_set = |id: &SetId| members(view, id).is_some_and(|m| holds_addr(m, addr));
    let any_port = side.ports.is_empty() && side.named_ports.is_empty();
    (side.nets.is_empty() || in_nets(&side.nets))
        && !in_nets(&side.not_nets)
        && side.sets.iter().all(in_set)
        && !side.not_sets.iter().any(in_set)
        && (any_port || in_ports(&side.ports) || named(&side.named_ports))
        && !in_ports(&side.not_ports)
        && !named(&side.not_named_ports)
}

fn members<'a>(view: &'a View, id: &SetId) -> Option<&'a BTreeSet<SetMember>> {
    view.sets.get(id).map(|(_, members)| members)
}

fn holds_addr(members: &BTreeSet<SetMember>, addr: IpAddr) -> bool {
    members.contains(&SetMember::Net(Cidr::host(addr)))
        || members
            .iter()
            .any(|m| matches!(m, SetMember::Net(net) if net.contains(addr)))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { tier, policy } => write!(f, "tier {tier}, {policy}"),
            Self::Profile(name) => write!(f, "profile {name}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule {
                place,
                index,
                action,
            } => write!(f, "{place}: rule {index} says {action}"),
            Self::NoMatch(place) => write!(f, "{place}: no rule matches"),
            Self::TierDefault { tier, action } => write!(f, "tier {tier}: default action {action}"),
            Self::Missing(place) => write!(f, "{place}: not known, drop"),
            Self::End => f.write_str("nothing allowed it: drop"),
        }
    }
}
