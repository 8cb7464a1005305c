//! `policy show`.

use std::path::PathBuf;

use clap::Args;
use margay_model::any::AnyResource;
use margay_model::kind::ResourceKey;
use margay_policy::program::{Direction, EndpointPlan, Rules};
use serde_json::{Value, json};

use crate::cli::StatusOutput;
use crate::context::Streams;
use crate::failure::Fatal;
use crate::verbs::policy::cluster::Cluster;
use crate::verbs::policy::traffic::Who;
use crate::verbs::selector::print_json;

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
pub(crate) fn show(
    args: &Show,
    resources: Vec<AnyResource>,
    streams: &mut Streams<'_>,
) -> Result<(), Fatal> {
    let cluster = Cluster::new(resources);
    let party = cluster
        .party(&args.endpoint)
        .map_err(|error| Fatal::Usage(format!("ENDPOINT: {error}")))?;
    let plan = match &party.who {
        Who::Endpoint(key) => cluster.view.endpoints.get(key),
        Who::Host(_) | Who::Outside => None,
    };
    let Some(plan) = plan else {
        let found = &args.endpoint;
        let line = format!("ENDPOINT: found \"{found}\", which is no endpoint of a workload");
        return Err(Fatal::Usage(line));
    };
    match args.output {
        StatusOutput::Text => streams.print(&text(&cluster, plan)),
        StatusOutput::Json => print_json(&value(&cluster, plan), streams),
    }
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

fn rules_text(cluster: &Cluster, rules: Option<&Rules>, direction: Direction) -> String {
    let rules = rules.map(|rules| rules.of(direction)).unwrap_or_default();
    let line = |rule: &_| cluster.rule_text(rule);
    rules
        .iter()
        .map(|rule| format!("      rule {}: {}\n", rule.index, line(rule)))
        .collect()
}

fn text(cluster: &Cluster, plan: &EndpointPlan) -> String {
    let node = cluster.endpoint(&plan.key).map_or("", |e| &e.spec.node);
    let addresses: Vec<_> = plan.addresses.iter().map(ToString::to_string).collect();
    let mut text = format!("{} on {node}: {}\n", plan.key, addresses.join(", "));
    for direction in DIRECTIONS {
        let tiers = plan.tiers(direction);
        text += &format!("{direction}:\n");
        for tier in tiers {
            text += &format!("  tier {}\n", tier.name);
            for key in &tier.policies {
                let order = order(cluster, key)
                    .map_or_else(|| "no order".to_owned(), |order| format!("order {order}"));
                text += &format!("    {key} ({order})\n");
                if let Some(problem) = cluster.problem(key) {
                    text += &format!("      problem: {problem}\n");
                }
                let rules = cluster.view.policies.get(key).map(|rules| &**rules);
                text += &rules_text(cluster, rules, direction);
            }
            text += &format!("    else {}\n", tier.default_action);
        }
        text += "  profiles\n";
        for name in &plan.profiles {
            let rules = cluster.view.profiles.get(name).map(|rules| &**rules);
            text += &format!("    Profile/{name}\n");
            text += &rules_text(cluster, rules, direction);
        }
        text += "    else Deny\n";
    }
    text
}

fn rules_json(cluster: &Cluster, rules: Option<&Rules>, direction: Direction) -> Vec<Value> {
    let rules = rules.map(|rules| rules.of(direction)).unwrap_or_default();
    let rule = |rule: &margay_policy::program::Rule| {
        json!({
            "rule": rule.index, "action": rule.action.as_str(), "text": cluster.rule_text(rule),
        })
    };
    rules.iter().map(rule).collect()
}

fn value(cluster: &Cluster, plan: &EndpointPlan) -> Value {
    let direction_value = |direction: Direction| {
        let policy = |key: &ResourceKey| {
            let rules = cluster.view.policies.get(key).map(|rules| &**rules);
            json!({
                "policy": key.to_string(), "order": order(cluster, key),
                "problem": cluster.problem(key),
                "rules": rules_json(cluster, rules, direction),
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
            json!({"profile": name, "rules": rules_json(cluster, rules, direction)})
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
    })
}
