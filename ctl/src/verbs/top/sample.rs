//! What was seen at one look.

use std::collections::BTreeMap;
use std::time::Instant;

use margay_api::bgp::{BgpRequest, Event, Peer, Route};
use margay_api::policy::RuleCounter;
use margay_api::status::NodeStatus;
use margay_model::any::AnyResource;
use margay_model::kind::Kind;
use margay_model::workload_endpoint::WorkloadEndpoint;

use super::View;
use crate::agent::Agent;
use crate::client::Client;
use crate::failure::Fatal;
use crate::verbs::fatal;

/// Most routes of a look: more is for `bgp routes`.
const ROUTES: usize = 1000;

/// What was seen. Beside the state of the node only what the view needs was asked for.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) status: NodeStatus,
    pub(super) peers: Vec<Peer>,
    pub(super) routes: Vec<Route>,
    pub(super) endpoints: Vec<WorkloadEndpoint>,
    pub(super) rules: Vec<Rule>,
    pub(super) events: Vec<Event>,
    /// Why this is old; empty if it is not.
    pub(super) trouble: String,
}

/// A rule, and how many packets a second have matched it since the look before.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) counter: RuleCounter,
    pub(super) rate: Option<f64>,
}

impl Sample {
    /// Looks.
    ///
    /// # Errors
    /// The agent does not answer.
    pub(super) async fn take(
        agent: Agent<'_>,
        view: View,
        before: Option<&Self>,
        client: &Client,
    ) -> Result<Self, Fatal> {
        let status = agent.status().await?;
        // BGP may be off, which the status says.
        let peers = agent.bgp(BgpRequest::Peers {}).await.unwrap_or_default();
        let mut sample = Self {
            at: Instant::now(),
            status,
            peers,
            routes: Vec::new(),
            endpoints: Vec::new(),
            rules: Vec::new(),
            events: Vec::new(),
            trouble: String::new(),
        };
        match view {
            View::Sessions => {}
            View::Routes => {
                let routes = agent.bgp_routes_up_to(BgpRequest::Best {}, ROUTES).await;
                sample.routes = routes.unwrap_or_default();
            }
            View::Endpoints => sample.endpoints = endpoints(&sample.status.node, client).await?,
            View::Rules => {
                let counters = agent.policy_counters().await?;
                sample.rules = rates(counters.rules, sample.at, before);
            }
            View::Events => {
                sample.events = agent.bgp(BgpRequest::Events {}).await.unwrap_or_default();
            }
        }
        Ok(sample)
    }

    /// The same, and why there is nothing newer.
    pub(super) fn stale(mut self, trouble: String) -> Self {
        self.trouble = trouble;
        self
    }
}

async fn endpoints(node: &str, client: &Client) -> Result<Vec<WorkloadEndpoint>, Fatal> {
    let listed = client.list(Kind::WorkloadEndpoint, None).await;
    let listed = listed.map_err(|error| fatal(&error))?;
    let own = listed.resources.into_iter().filter_map(|res| match res {
        AnyResource::WorkloadEndpoint(endpoint) if endpoint.spec.node == node => Some(endpoint),
        _ => None,
    });
    Ok(own.collect())
}

/// The busiest rules first.
fn rates(counters: Vec<RuleCounter>, at: Instant, before: Option<&Sample>) -> Vec<Rule> {
    let place = |rule: &RuleCounter| (rule.resource.clone(), rule.ingress, rule.rule);
    let earlier: BTreeMap<_, u64> = before
        .iter()
        .flat_map(|sample| &sample.rules)
        .map(|rule| (place(&rule.counter), rule.counter.packets))
        .collect();
    let secs = before.map_or(0.0, |sample| at.duration_since(sample.at).as_secs_f64());
    let mut rules: Vec<_> = counters
        .into_iter()
        .map(|counter| {
            let packets = earlier.get(&place(&counter));
            let rate = packets.filter(|_| secs > 0.0).map(|packets| {
                // Counters start over when a policy changes.
                counter.packets.saturating_sub(*packets) as f64 / secs
            });
            Rule { counter, rate }
        })
        .collect();
    rules.sort_by(|a, b| {
        let rate = |rule: &Rule| rule.rate.unwrap_or(0.0);
        let by_rate = rate(b).total_cmp(&rate(a));
        by_rate.then(b.counter.packets.cmp(&a.counter.packets))
    });
    rules
}
