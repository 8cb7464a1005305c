//! Why a packet passes or not: a walk over the emitted program, with every decision written down.

mod mismatch;

use std::fmt;
use std::net::IpAddr;

use margay_model::kind::ResourceKey;

use crate::program::{
    Action, Direction, EndpointPlan, HostPath, HostPlan, Rule, Rules, SetId, SetMember, TierPlan,
    View,
};
use crate::staged::is_staged;
pub use mismatch::{Mismatch, Side, mismatch};

/// What a walk asks about: a [`View`], or whoever else holds what a calculation gave out.
pub trait Facts {
    /// The rules of a policy, if it is known.
    fn policy(&self, policy: &ResourceKey) -> Option<&Rules>;
    /// The rules of a profile, if it is known.
    fn profile(&self, name: &str) -> Option<&Rules>;
    /// Whether a set has this very member. A set that is not known has none.
    fn has_member(&self, set: &SetId, member: &SetMember) -> bool;
}

impl Facts for View {
    fn policy(&self, policy: &ResourceKey) -> Option<&Rules> {
        self.policies.get(policy).map(|rules| &**rules)
    }

    fn profile(&self, name: &str) -> Option<&Rules> {
        self.profiles.get(name).map(|rules| &**rules)
    }

    fn has_member(&self, set: &SetId, member: &SetMember) -> bool {
        let set = self.sets.get(set);
        set.is_some_and(|(_, members)| members.contains(member))
    }
}

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
    /// A rule did not match; only [`trace`] tells.
    Skipped {
        /// Where it stands.
        place: Place,
        /// Its position in the resource, from 0.
        index: usize,
        /// What it says.
        action: Action,
        /// The first thing about it that the packet is not.
        why: Mismatch,
    },
    /// What a staged policy would do: its first rule that matches and is not Log, by position and action.
    /// Only [`trace`] tells.
    Staged {
        /// Where it stands.
        place: Place,
        /// None when no rule matches.
        rule: Option<(usize, Action)>,
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
    facts: &dyn Facts,
    plan: &EndpointPlan,
    direction: Direction,
    packet: &Packet,
) -> (Verdict, Vec<Step>) {
    Walk::new(facts, direction, packet, false).run(plan)
}

/// As [`verdict`], with a step also for each rule that was looked at and did not match.
pub fn trace(
    facts: &dyn Facts,
    plan: &EndpointPlan,
    direction: Direction,
    packet: &Packet,
) -> (Verdict, Vec<Step>) {
    Walk::new(facts, direction, packet, true).run(plan)
}

/// What the policies of a host's endpoint say of a packet on one of its ways, and how that came about;
/// no verdict when they leave it to others. With `every_rule` as [`trace`].
///
/// Failsafe ports come before this, and replies of allowed connections do not get here, unless they are
/// not tracked.
pub fn host_verdict(
    facts: &dyn Facts,
    plan: &HostPlan,
    path: HostPath,
    direction: Direction,
    packet: &Packet,
    every_rule: bool,
) -> (Option<Verdict>, Vec<Step>) {
    let mut walk = Walk::new(facts, direction, packet, every_rule);
    let profiles = (path == HostPath::Own).then_some(&*plan.profiles);
    let verdict = walk.decide(plan.tiers(path, direction), profiles);
    (verdict, walk.steps)
}

struct Walk<'a> {
    facts: &'a dyn Facts,
    direction: Direction,
    packet: &'a Packet,
    /// Whether rules that do not match are told too.
    every_rule: bool,
    steps: Vec<Step>,
}

impl<'a> Walk<'a> {
    const fn new(
        facts: &'a dyn Facts,
        direction: Direction,
        packet: &'a Packet,
        every_rule: bool,
    ) -> Self {
        Self {
            facts,
            direction,
            packet,
            every_rule,
            steps: Vec::new(),
        }
    }

    fn run(mut self, plan: &EndpointPlan) -> (Verdict, Vec<Step>) {
        let verdict = self.decide(plan.tiers(self.direction), Some(&plan.profiles));
        (verdict.unwrap_or(Verdict::Deny), self.steps)
    }

    /// Without profiles, what no tier decides is left open.
    fn decide(&mut self, tiers: &[TierPlan], profiles: Option<&[String]>) -> Option<Verdict> {
        for tier in tiers {
            let decided = tier.policies.iter().find_map(|policy| {
                let place = Place::Policy {
                    tier: tier.name.clone(),
                    policy: policy.clone(),
                };
                let rules = self.facts.policy(policy);
                if is_staged(policy.kind) {
                    self.staged(place, rules.map(|r| r.of(self.direction)));
                    return None;
                }
                self.rules(place, rules.map(|r| r.of(self.direction)))
            });
            // Where nothing is enforced there is no end to come to.
            if tier.policies.iter().all(|policy| is_staged(policy.kind)) {
                continue;
            }
            let action = decided.unwrap_or_else(|| {
                self.steps.push(Step::TierDefault {
                    tier: tier.name.clone(),
                    action: tier.default_action,
                });
                tier.default_action
            });
            match action {
                Action::Allow => return Some(Verdict::Allow),
                Action::Deny => return Some(Verdict::Deny),
                Action::Pass | Action::Log => {}
            }
        }
        for name in profiles? {
            let rules = self.facts.profile(name).map(|r| r.of(self.direction));
            match self.rules(Place::Profile(name.clone()), rules) {
                Some(Action::Allow) => return Some(Verdict::Allow),
                Some(Action::Deny) => return Some(Verdict::Deny),
                _ => {}
            }
        }
        self.steps.push(Step::End);
        Some(Verdict::Deny)
    }

    /// Tells what a staged policy would do.
    fn staged(&mut self, place: Place, rules: Option<&[Rule]>) {
        if !self.every_rule {
            return;
        }
        let decides = |rule: &&Rule| {
            rule.action != Action::Log && rule_matches(self.facts, rule, self.packet)
        };
        let rule = rules.unwrap_or_default().iter().find(decides);
        let rule = rule.map(|rule| (rule.index, rule.action));
        self.steps.push(Step::Staged { place, rule });
    }

    /// The action of the first matching rule that is not Log.
    fn rules(&mut self, place: Place, rules: Option<&[Rule]>) -> Option<Action> {
        let Some(rules) = rules else {
            self.steps.push(Step::Missing(place));
            return Some(Action::Deny);
        };
        for rule in rules {
            let hit = self.source_of_match(rule);
            if self.every_rule {
                self.skipped(&place, rule, hit);
            }
            let Some(hit) = hit else { continue };
            self.steps.push(Step::Rule {
                place: place.clone(),
                index: hit.index,
                action: hit.action,
            });
            if hit.action != Action::Log {
                return Some(hit.action);
            }
        }
        self.steps.push(Step::NoMatch(place));
        None
    }

    /// If a rule matches, the one of the resource that it does so by.
    fn source_of_match<'r>(&self, rule: &'r Rule) -> Option<&'r Rule> {
        let matches = |rule: &&Rule| rule_matches(self.facts, rule, self.packet);
        let found = || rule.parts.iter().find(matches).unwrap_or(rule);
        matches(&rule).then(found)
    }

    /// Tells of the rules of the resource before the one that matches.
    fn skipped(&mut self, place: &Place, rule: &Rule, hit: Option<&Rule>) {
        let is_before = |source: &&Rule| hit.is_none_or(|hit| source.index < hit.index);
        for source in rule.sources().iter().take_while(is_before) {
            if let Some(why) = mismatch(self.facts, source, self.packet) {
                self.steps.push(Step::Skipped {
                    place: place.clone(),
                    index: source.index,
                    action: source.action,
                    why,
                });
            }
        }
    }
}

/// Whether everything that a rule names matches a packet.
pub fn rule_matches(facts: &dyn Facts, rule: &Rule, packet: &Packet) -> bool {
    mismatch(facts, rule, packet).is_none()
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
            Self::Skipped {
                place, index, why, ..
            } => write!(f, "{place}: rule {index} does not match: {why}"),
            Self::Staged { place, rule } => match rule {
                Some((index, action)) => {
                    write!(f, "{place}: staged, rule {index} would say {action}")
                }
                None => write!(f, "{place}: staged, no rule would match"),
            },
            Self::NoMatch(place) => write!(f, "{place}: no rule matches"),
            Self::TierDefault { tier, action } => write!(f, "tier {tier}: default action {action}"),
            Self::Missing(place) => write!(f, "{place}: not known, drop"),
            Self::End => f.write_str("nothing allowed it: drop"),
        }
    }
}
