//! Tests of the calculation: named examples, sequences of states, and an oracle.

mod agreement;
mod arbitrary;
mod checker;
mod examples;
mod fixtures;
mod floating;
mod garbage;
mod hosts;
mod kubernetes;
mod oracle;
mod reduction;
mod sequences;
mod staged;

use serde_json::json;

use super::*;
use crate::explain::{Packet, Step, Verdict, verdict};
use crate::program::{Direction, View};
use fixtures::*;

/// What a fresh calculation over these resources emits, added up; the checker watches.
fn view_of<'a>(scope: Scope, resources: impl IntoIterator<Item = &'a AnyResource>) -> View {
    let mut calc = Calc::new(scope);
    for resource in resources {
        calc.update(resource);
    }
    let mut checker = checker::Checker::default();
    checker.take(calc.flush());
    checker.view
}

/// A cluster at rest, to ask questions of.
struct Cluster {
    view: View,
    events: Vec<Event>,
}

impl Cluster {
    fn new(resources: &[AnyResource]) -> Self {
        let mut calc = Calc::new(Scope::Cluster);
        resources.iter().for_each(|resource| calc.update(resource));
        let mut checker = checker::Checker::default();
        checker.take(calc.flush());
        Self {
            view: checker.view,
            events: calc.take_events(),
        }
    }

    fn plan(&self, name: &str) -> &EndpointPlan {
        let found = self.view.endpoints.iter().find(|(key, _)| {
            format!("{}/{}", key.namespace.as_deref().unwrap_or(""), key.name) == name
        });
        found.unwrap_or_else(|| panic!("no endpoint {name}")).1
    }

    fn ask(&self, name: &str, direction: Direction, packet: &Packet) -> (bool, Vec<Step>) {
        let (verdict, steps) = verdict(&self.view, self.plan(name), direction, packet);
        (verdict == Verdict::Allow, steps)
    }

    /// Whether the endpoint takes in a packet written as in [`packet`].
    fn takes(&self, name: &str, text: &str) -> bool {
        self.ask(name, Direction::Ingress, &packet(text)).0
    }

    /// Whether the endpoint may send a packet written as in [`packet`].
    fn sends(&self, name: &str, text: &str) -> bool {
        self.ask(name, Direction::Egress, &packet(text)).0
    }

    fn policies(&self, name: &str, direction: Direction) -> Vec<String> {
        let tiers = self.plan(name).tiers(direction);
        let names = |tier: &crate::program::TierPlan| {
            let tier_name = tier.name.clone();
            let policies = tier.policies.clone();
            policies
                .into_iter()
                .map(move |p| format!("{tier_name}:{}", p.name))
        };
        tiers.iter().flat_map(names).collect()
    }
}
