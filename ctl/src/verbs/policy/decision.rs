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
    /// At the sender.
    pub(crate) egress: Hop,
    /// Forwarding at the sender's host, where that has policy for it.
    pub(crate) egress_host: Option<Hop>,
    /// Forwarding at the receiver's host, where that has policy for it.
    pub(crate) ingress_host: Option<Hop>,
    /// At the receiver.
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

    fn is_denied(&self) -> bool {
        self.verdict() == Some(Verdict::Deny)
    }

    /// What decided, in words.
    pub(crate) fn decided_by(&self) -> String {
        match self {
            // What a staged policy would do comes last where no policy decides.
            Self::Asked { steps, .. } => match steps.iter().rfind(|s| !is_staged_step(s)) {
                Some(step) => decided_by(step),
                None => "no policy that is enforced".to_owned(),
            },
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

const fn is_staged_step(step: &Step) -> bool {
    matches!(step, Step::Staged { .. })
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
        Step::NoMatch(place) | Step::Skipped { place, .. } | Step::Staged { place, .. } => {
            place_name(place)
        }
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
        match self.hops().any(|(_, hop)| hop.is_denied()) {
            true => Verdict::Deny,
            false => Verdict::Allow,
        }
    }

    /// Every part of the way, in order.
    fn hops(&self) -> impl Iterator<Item = (&'static str, &Hop)> {
        let egress = [Some(&self.egress), self.egress_host.as_ref()];
        let ingress = [self.ingress_host.as_ref(), Some(&self.ingress)];
        let egress = egress.into_iter().flatten().map(|hop| ("egress", hop));
        egress.chain(ingress.into_iter().flatten().map(|hop| ("ingress", hop)))
    }

    /// The part of the way that decided, and its name: where it is denied, else the last one that has
    /// policies.
    pub(crate) fn deciding(&self) -> (&'static str, &Hop) {
        let asked = |(_, hop): &(_, &Hop)| matches!(hop, Hop::Asked { .. });
        let denied = self.hops().find(|(_, hop)| hop.is_denied());
        denied
            .or_else(|| self.hops().filter(asked).last())
            .unwrap_or(("ingress", &self.ingress))
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
                egress_host: None,
                ingress_host: None,
                ingress: hop,
            };
        }
        let egress = match &from.who {
            Who::Endpoint(key) => self.ask(key, Direction::Egress, &packet, every_rule),
            Who::Host(node) if self.is_on(&to.who, node) => {
                allowed("traffic of a host to itself and its endpoints does not leave it")
            }
            Who::Host(node) => self.ask_host(node, Direction::Egress, &packet, every_rule),
            Who::Outside => allowed("the sender is not an endpoint of the cluster"),
        };
        let forwarding = |who: &Who, other: &Who, direction| match who {
            Who::Endpoint(key) if !self.is_on(other, self.node_of(key)) => {
                self.ask_forwarding(self.node_of(key), direction, &packet, every_rule)
            }
            _ => None,
        };
        let egress_host = (!egress.is_denied())
            .then(|| forwarding(&from.who, &to.who, Direction::Egress))
            .flatten();
        let mut denied = egress.is_denied() || egress_host.as_ref().is_some_and(Hop::is_denied);
        let ingress_host = (!denied)
            .then(|| forwarding(&to.who, &from.who, Direction::Ingress))
            .flatten();
        denied |= ingress_host.as_ref().is_some_and(Hop::is_denied);
        let ingress = match (denied, &to.who) {
            (true, _) => Hop::NotReached,
            (_, Who::Endpoint(key)) => {
                let node = self.node_of(key);
                match &from.who {
                    Who::Host(host) if host == node => {
                        allowed("traffic from the endpoint's own host is always allowed")
                    }
                    _ => self.ask(key, Direction::Ingress, &packet, every_rule),
                }
            }
            (_, Who::Host(host)) => self.to_host(from, host, &packet, every_rule),
            (_, Who::Outside) => allowed("the receiver is not an endpoint of the cluster"),
        };
        Decision {
            packet,
            egress,
            egress_host,
            ingress_host,
            ingress,
        }
    }

    /// Whether somebody is on a host, or is it.
    fn is_on(&self, who: &Who, node: &str) -> bool {
        match who {
            Who::Endpoint(key) => self.node_of(key) == node,
            Who::Host(host) => host == node,
            Who::Outside => false,
        }
    }

    fn node_of(&self, key: &ResourceKey) -> &str {
        self.endpoint(key).map_or("", |e| &e.spec.node)
    }

    fn to_host(&self, from: &Party, host: &str, packet: &Packet, every_rule: bool) -> Hop {
        match &from.who {
            Who::Endpoint(key) if self.node_of(key) == host => {}
            Who::Host(sender) if sender == host => {
                return allowed("traffic of a host to itself does not leave it");
            }
            _ => return self.ask_host(host, Direction::Ingress, packet, every_rule),
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

    /// A rule of the resource.
    pub(crate) fn rule(&self, place: &Place, direction: Direction, index: usize) -> Option<&Rule> {
        let rules = match place {
            Place::Policy { policy, .. } => self.view.policies.get(policy)?,
            Place::Profile(name) => self.view.profiles.get(name)?,
        };
        let mut sources = rules.of(direction).iter().flat_map(Rule::sources);
        sources.find(|rule| rule.index == index)
    }
}

pub(crate) fn allowed(why: &str) -> Hop {
    Hop::NotAsked {
        verdict: Verdict::Allow,
        why: why.to_owned(),
    }
}
