//! What becomes of a packet on its way through both hosts.

use margay_model::felix_configuration::EndpointToHostAction;
use margay_model::kind::ResourceKey;
use margay_policy::explain::{Packet, Place, Step, Verdict, trace, verdict};
use margay_policy::program::{Direction, Rule};

use super::cluster::Cluster;
use super::traffic::{Party, Who};

/// What one host makes of the packet, at the sender or at the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// The policies of an endpoint were asked.
    Asked {
        endpoint: ResourceKey,
        node: String,
        verdict: Verdict,
        /// The last one decided.
        steps: Vec<Step>,
    },
    /// No policy is asked.
    NotAsked { verdict: Verdict, why: String },
    /// It does not get here.
    NotReached,
}

/// The verdict and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) packet: Packet,
    pub(crate) egress: Hop,
    pub(crate) ingress: Hop,
}

impl Hop {
    /// What it says, if it is asked at all.
    pub(crate) const fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Asked { verdict, .. } | Self::NotAsked { verdict, .. } => Some(*verdict),
            Self::NotReached => None,
        }
    }

    /// What decided, in words.
    pub(crate) fn decided_by(&self) -> String {
        match self {
            Self::Asked { steps, .. } => steps.last().map_or_else(String::new, decided_by),
            Self::NotAsked { why, .. } => why.clone(),
            Self::NotReached => "it does not get that far".to_owned(),
        }
    }

    /// The policy or profile whose rule decided.
    pub(crate) fn deciding_resource(&self) -> Option<String> {
        let Self::Asked { steps, .. } = self else {
            return None;
        };
        match steps.last()? {
            Step::Rule { place, .. } | Step::Missing(place) => Some(match place {
                Place::Policy { policy, .. } => policy.to_string(),
                Place::Profile(name) => format!("Profile/{name}"),
            }),
            Step::TierDefault { tier, .. } => Some(format!("Tier/{tier}")),
            _ => None,
        }
    }
}

fn decided_by(step: &Step) -> String {
    match step {
        Step::Rule {
            place,
            index,
            action,
        } => format!("rule {index} of {} ({action})", place_name(place)),
        Step::TierDefault { tier, action } => {
            format!("the default action of tier {tier} ({action}): no rule of its policies matches")
        }
        Step::Missing(place) => format!("{}, which does not exist", place_name(place)),
        Step::End => "nothing: no policy and no profile allows it".to_owned(),
        Step::NoMatch(place) | Step::Skipped { place, .. } => place_name(place),
    }
}

/// A policy or profile in words.
pub(crate) fn place_name(place: &Place) -> String {
    match place {
        Place::Policy { tier, policy } => format!("{policy} in tier {tier}"),
        Place::Profile(name) => format!("profile {name}"),
    }
}

impl Decision {
    /// Whether the packet arrives.
    pub(crate) fn verdict(&self) -> Verdict {
        let denied = |hop: &Hop| hop.verdict() == Some(Verdict::Deny);
        match denied(&self.egress) || denied(&self.ingress) {
            true => Verdict::Deny,
            false => Verdict::Allow,
        }
    }

    /// The part of the way that decided, and its name: where it is denied, else the last one that has
    /// policies.
    pub(crate) fn deciding(&self) -> (&'static str, &Hop) {
        let asked = |hop: &Hop| matches!(hop, Hop::Asked { .. });
        if self.egress.verdict() == Some(Verdict::Deny)
            || (self.ingress.verdict() == Some(Verdict::Allow)
                && !asked(&self.ingress)
                && asked(&self.egress))
        {
            ("egress", &self.egress)
        } else {
            ("ingress", &self.ingress)
        }
    }
}

impl Cluster {
    /// What becomes of a packet. With `every_rule` the steps tell of rules that do not match, too.
    pub(crate) fn decide(
        &self,
        from: &Party,
        to: &Party,
        packet: Packet,
        every_rule: bool,
    ) -> Decision {
        if from.who == to.who && matches!(from.who, Who::Endpoint(_)) {
            let hop = allowed("traffic of an endpoint to itself does not leave it");
            return Decision {
                packet,
                egress: hop.clone(),
                ingress: hop,
            };
        }
        let egress = match &from.who {
            Who::Endpoint(key) => self.ask(key, Direction::Egress, &packet, every_rule),
            Who::Host(node) => allowed(&format!("host {node}: policy of hosts is not looked at")),
            Who::Outside => allowed("the sender is not an endpoint of the cluster"),
        };
        let ingress = match (&egress.verdict(), &to.who) {
            (Some(Verdict::Deny), _) => Hop::NotReached,
            (_, Who::Endpoint(key)) => {
                let node = self.node_of(key);
                match &from.who {
                    Who::Host(host) if host == node => {
                        allowed("traffic from the endpoint's own host is always allowed")
                    }
                    _ => self.ask(key, Direction::Ingress, &packet, every_rule),
                }
            }
            (_, Who::Host(host)) => self.to_host(from, host),
            (_, Who::Outside) => allowed("the receiver is not an endpoint of the cluster"),
        };
        Decision {
            packet,
            egress,
            ingress,
        }
    }

    fn node_of(&self, key: &ResourceKey) -> &str {
        self.endpoint(key).map_or("", |e| &e.spec.node)
    }

    fn to_host(&self, from: &Party, host: &str) -> Hop {
        let local = match &from.who {
            Who::Endpoint(key) => self.node_of(key) == host,
            _ => false,
        };
        if !local {
            return allowed(&format!("host {host}: policy of hosts is not looked at"));
        }
        match self.to_host_action(host) {
            EndpointToHostAction::Drop => Hop::NotAsked {
                verdict: Verdict::Deny,
                why: "defaultEndpointToHostAction is Drop, and it is the endpoint's own host"
                    .to_owned(),
            },
            action => allowed(&format!("defaultEndpointToHostAction is {action}")),
        }
    }

    fn ask(
        &self,
        key: &ResourceKey,
        direction: Direction,
        packet: &Packet,
        every_rule: bool,
    ) -> Hop {
        let Some(plan) = self.view.endpoints.get(key) else {
            return Hop::NotAsked {
                verdict: Verdict::Deny,
                why: format!("{key} is not known to the calculation"),
            };
        };
        let walk = if every_rule { trace } else { verdict };
        let (verdict, steps) = walk(&self.view, plan, direction, packet);
        Hop::Asked {
            endpoint: key.clone(),
            node: self.node_of(key).to_owned(),
            verdict,
            steps,
        }
    }

    /// A rule of the program.
    pub(crate) fn rule(&self, place: &Place, direction: Direction, index: usize) -> Option<&Rule> {
        let rules = match place {
            Place::Policy { policy, .. } => self.view.policies.get(policy)?,
            Place::Profile(name) => self.view.profiles.get(name)?,
        };
        rules.of(direction).iter().find(|rule| rule.index == index)
    }
}

fn allowed(why: &str) -> Hop {
    Hop::NotAsked {
        verdict: Verdict::Allow,
        why: why.to_owned(),
    }
}
