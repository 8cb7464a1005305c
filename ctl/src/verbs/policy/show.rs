//! `policy show`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use margay_api::policy::{Counters, OtherCounter, RuleCounter};
use margay_model::any::AnyResource;
use margay_model::kind::ResourceKey;
use margay_policy::program::{Direction, EndpointPlan, Rule, Rules};
use margay_policy::staged::is_staged;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::cli::StatusOutput;
use crate::context::{Context, Streams};
use crate::failure::Fatal;
use crate::verbs::policy::cluster::Cluster;
use crate::verbs::policy::traffic::Who;
use crate::verbs::selector::print_json;

pub(crate) const HELP: &str = "\
Example:
  margayctl policy show prod/web

Where the agent of the endpoint's host answers (from elsewhere it is asked through etcd), each rule comes
with what it matched: the packets that open connections, of all endpoints of the host together, since the
policy last changed there. Rules that no packet can come to are left out. Neighbours that differ in their
ports or nets alone are one rule there and counted as one; a rule with annotations always counts alone.
Below that comes what else decided on that host, for all its endpoints together: ends of tiers, packets from
addresses that are not the sender's, ports of the host that no policy closes.";

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Address of an endpoint, or name of an endpoint, pod or container, also as NAMESPACE/NAME
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
    /// Files or folders with the resources, instead of the datastore; may be repeated
    #[arg(short, long = "filename", value_name = "PATH")]
    pub(crate) file: Vec<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    output: StatusOutput,
}

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Lists what applies to an endpoint, in the order in which it is asked.
pub(crate) fn offline(
    args: &Show,
    resources: Vec<AnyResource>,
    streams: &mut Streams<'_>,
) -> Result<(), Fatal> {
    let cluster = Cluster::new(resources);
    print(args, plan(args, &cluster)?, &cluster, None, streams)
}

/// The same, with what the rules matched if the agent of the endpoint's host can be asked.
pub(crate) async fn online(
    args: &Show,
    resources: Vec<AnyResource>,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    let cluster = Cluster::new(resources);
    let plan = plan(args, &cluster)?;
    let node = cluster.endpoint(&plan.key).map(|e| e.spec.node.as_str());
    let counters = async {
        let agent = Agent::of(node, &context.socket, &context.client).await?;
        Ok::<_, Fatal>(agent.policy_counters().await?)
    };
    let counters = match counters.await {
        Ok(counters) => Some(counters).filter(|counters| node == Some(&*counters.node)),
        Err(why) => {
            let line = format!("what rules matched is not shown: {why}");
            context.streams.note(&line)?;
            None
        }
    };
    print(args, plan, &cluster, counters, &mut context.streams)
}

fn plan<'a>(args: &Show, cluster: &'a Cluster) -> Result<&'a EndpointPlan, Fatal> {
    let party = cluster
        .party(&args.endpoint)
        .map_err(|error| Fatal::Usage(format!("ENDPOINT: {error}")))?;
    let plan = match &party.who {
        Who::Endpoint(key) => cluster.view.endpoints.get(key),
        Who::Host(_) | Who::Outside => None,
    };
    plan.map(|plan| &**plan).ok_or_else(|| {
        let found = &args.endpoint;
        let line = format!("ENDPOINT: found \"{found}\", which is no endpoint of a workload");
        Fatal::Usage(line)
    })
}

fn print(
    args: &Show,
    plan: &EndpointPlan,
    cluster: &Cluster,
    counters: Option<Counters>,
    streams: &mut Streams<'_>,
) -> Result<(), Fatal> {
    let shown = Shown {
        cluster,
        hits: counters.as_ref().map(by_rule),
        others: counters.as_ref().map_or(&[][..], |found| &found.others),
    };
    match args.output {
        StatusOutput::Text => streams.print(&shown.text(plan)),
        StatusOutput::Json => print_json(&shown.value(plan), streams),
    }
}

/// The rules of the endpoint's host that are counted: resource, ingress, place.
type Hits<'a> = BTreeMap<(&'a str, bool, usize), &'a RuleCounter>;

fn by_rule(counters: &Counters) -> Hits<'_> {
    let rules = counters.rules.iter();
    rules
        .map(|hits| ((&*hits.resource, hits.ingress, hits.rule), hits))
        .collect()
}

struct Shown<'a> {
    cluster: &'a Cluster,
    hits: Option<Hits<'a>>,
    /// What else decided on the endpoint's host.
    others: &'a [OtherCounter],
}

fn order(cluster: &Cluster, key: &ResourceKey) -> Option<f64> {
    match cluster.resources.get(key)? {
        AnyResource::NetworkPolicy(policy) => policy.spec.order,
        AnyResource::GlobalNetworkPolicy(policy) => policy.spec.order,
        AnyResource::StagedNetworkPolicy(staged) => staged.spec.policy.order,
        AnyResource::StagedGlobalNetworkPolicy(staged) => staged.spec.policy.order,
        _ => None,
    }
}

/// The places in the resource of the rules that this one stands for.
fn indices(rule: &Rule) -> impl Iterator<Item = usize> {
    rule.sources().iter().map(|source| source.index)
}

/// `rule 2`, or `rules 0, 1`.
fn numbers(rule: &Rule) -> String {
    let all: Vec<String> = indices(rule).map(|index| index.to_string()).collect();
    let plural = if all.len() == 1 { "" } else { "s" };
    format!("rule{plural} {}", all.join(", "))
}

impl Shown<'_> {
    /// What a rule matched, where that is known.
    fn hits(&self, resource: &str, direction: Direction, rule: &Rule) -> Option<&RuleCounter> {
        let key = (resource, direction == Direction::Ingress, rule.index);
        self.hits.as_ref()?.get(&key).copied()
    }

    fn rules_text(&self, resource: &str, rules: Option<&Rules>, direction: Direction) -> String {
        let rules = rules.map(|rules| rules.of(direction)).unwrap_or_default();
        let line = |rule: &Rule| {
            let hits = self.hits(resource, direction, rule).map(|hits| {
                let RuleCounter { packets, bytes, .. } = hits;
                format!(": {packets} packets, {bytes} bytes")
            });
            let text = self.cluster.rule_text(rule);
            let hits = hits.unwrap_or_default();
            format!("      {}: {text}{hits}\n", numbers(rule))
        };
        rules.iter().map(line).collect()
    }

    fn text(&self, plan: &EndpointPlan) -> String {
        let cluster = self.cluster;
        let node = cluster.endpoint(&plan.key).map_or("", |e| &e.spec.node);
        let addresses: Vec<_> = plan.addresses.iter().map(ToString::to_string).collect();
        let mut text = format!("{} on {node}: {}\n", plan.key, addresses.join(", "));
        for direction in DIRECTIONS {
            text += &format!("{direction}:\n");
            for tier in plan.tiers(direction) {
                text += &format!("  tier {}\n", tier.name);
                for key in &tier.policies {
                    text += &self.policy_text(key, direction);
                }
                text += &format!("    else {}\n", tier.default_action);
            }
            text += "  profiles\n";
            for name in &plan.profiles {
                let rules = cluster.view.profiles.get(name).map(|rules| &**rules);
                let resource = format!("Profile/{name}");
                text += &format!("    {resource}\n");
                text += &self.rules_text(&resource, rules, direction);
            }
            text += "    else Deny\n";
        }
        let mut others = self.others.iter().filter(|o| o.packets > 0).peekable();
        if others.peek().is_some() {
            text += &format!("besides, on {node}:\n");
        }
        for OtherCounter {
            reason,
            packets,
            bytes,
        } in others
        {
            text += &format!("  {reason}: {packets} packets, {bytes} bytes\n");
        }
        text
    }

    fn policy_text(&self, key: &ResourceKey, direction: Direction) -> String {
        let cluster = self.cluster;
        let order = order(cluster, key)
            .map_or_else(|| "no order".to_owned(), |order| format!("order {order}"));
        let staged = match is_staged(key.kind) {
            true => ", staged",
            false => "",
        };
        let mut text = format!("    {key} ({order}{staged})\n");
        if let Some(problem) = cluster.problem(key) {
            text += &format!("      problem: {problem}\n");
        }
        let rules = cluster.view.policies.get(key).map(|rules| &**rules);
        text + &self.rules_text(&key.to_string(), rules, direction)
    }

    fn rules_json(
        &self,
        resource: &str,
        rules: Option<&Rules>,
        direction: Direction,
    ) -> Vec<Value> {
        let rules = rules.map(|rules| rules.of(direction)).unwrap_or_default();
        let rule = |rule: &Rule| {
            let hits = self.hits(resource, direction, rule);
            json!({
                "rule": rule.index, "rules": indices(rule).collect::<Vec<_>>(),
                "action": rule.action.as_str(),
                "text": self.cluster.rule_text(rule),
                "packets": hits.map(|hits| hits.packets), "bytes": hits.map(|hits| hits.bytes),
            })
        };
        rules.iter().map(rule).collect()
    }

    fn value(&self, plan: &EndpointPlan) -> Value {
        let cluster = self.cluster;
        let direction_value = |direction: Direction| {
            let policy = |key: &ResourceKey| {
                let rules = cluster.view.policies.get(key).map(|rules| &**rules);
                json!({
                    "policy": key.to_string(), "order": order(cluster, key),
                    "staged": is_staged(key.kind), "problem": cluster.problem(key),
                    "rules": self.rules_json(&key.to_string(), rules, direction),
                })
            };
            let tiers = plan.tiers(direction).iter().map(|tier| {
                json!({
                    "tier": tier.name, "defaultAction": tier.default_action.as_str(),
                    "policies": tier.policies.iter().map(policy).collect::<Vec<_>>(),
                })
            });
            let profiles = plan.profiles.iter().map(|name| {
                let rules = cluster.view.profiles.get(name).map(|rules| &**rules);
                let rules = self.rules_json(&format!("Profile/{name}"), rules, direction);
                json!({"profile": name, "rules": rules})
            });
            json!({
                "tiers": tiers.collect::<Vec<_>>(), "profiles": profiles.collect::<Vec<_>>(),
            })
        };
        json!({
            "endpoint": plan.key.to_string(),
            "node": cluster.endpoint(&plan.key).map(|e| &e.spec.node),
            "addresses": plan.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "ingress": direction_value(Direction::Ingress),
            "egress": direction_value(Direction::Egress),
            "others": self.others,
        })
    }
}
