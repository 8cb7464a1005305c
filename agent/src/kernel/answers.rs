//! What is told of the kernel's state, to handlers that wait and to people.

use std::collections::BTreeSet;

use margay_api::policy::{OtherCounter, RuleCounter};
use margay_dataplane::filter;
use margay_model::kind::ResourceKey;
use margay_policy::program::TierPlan;

use super::{Expect, Explained, Kernel, KernelStatus, RulesKey, Unexplained};
use crate::translate;

impl Kernel {
    /// Whether an endpoint is in the kernel, or gone from it, as whoever waits expects.
    pub(super) fn state_of(&self, key: &ResourceKey, expect: Expect) -> Result<(), String> {
        match (self.plans.get(key), expect) {
            (Some(plan), Expect::Present) => {
                for net in translate::routed(plan) {
                    if !self.routes.is_installed(net) {
                        let missing = "its route is not in the kernel";
                        return Err(self.problem_of(&net.to_string(), missing));
                    }
                }
                if self.filter.in_force(&translate::endpoint_id(key)) {
                    return Ok(());
                }
                Err(self.problem_of("", "its policy is not in the kernel"))
            }
            (None, Expect::Present) => {
                let refused = self.refused.get(key).cloned();
                Err(refused.unwrap_or_else(|| "the endpoint is not known".to_owned()))
            }
            (Some(_), Expect::Absent) => Err("the endpoint was written again".to_owned()),
            // Whatever is failing may be what is left of it.
            (None, Expect::Absent) => self.failing.first().map_or(Ok(()), |p| Err(p.clone())),
        }
    }

    /// Looks through everything: whoever asks remembers the answer for a while.
    pub(super) fn explain(&self, asked: &Unexplained) -> Explained {
        let mut explained = Explained {
            log_prefix: self.log_prefix.clone(),
            ..Explained::default()
        };
        let workloads = self.plans.iter();
        let workloads = workloads.filter(|(_, plan)| asked.interfaces.contains(&plan.ifname));
        let workloads = workloads.map(|(key, plan)| (plan.ifname.clone(), key.to_string()));
        explained.endpoints.extend(workloads);
        for interface in &asked.interfaces {
            let is_workload = interface.starts_with(&self.interface_prefix);
            if let Some(plan) = self.hosts.plan_of(interface).filter(|_| !is_workload) {
                explained
                    .endpoints
                    .insert(interface.clone(), plan.key.to_string());
            }
        }
        let name = |id: &str| Some(filter::name_of(id)).filter(|name| asked.names.contains(name));
        for (tier, policy) in self.tiers().flat_map(policies_of).collect::<BTreeSet<_>>() {
            if let Some(name) = name(tier) {
                explained.others.insert(name, tier.to_owned());
            }
            let policy = policy.to_string();
            if let Some(name) = name(&policy) {
                explained.policies.insert(name, (tier.to_owned(), policy));
            }
        }
        for key in self.rules_of.keys() {
            if let RulesKey::Profile(profile) = key
                && let Some(name) = name(profile)
            {
                explained.others.insert(name, profile.clone());
            }
        }
        explained
    }

    /// Of all endpoints.
    fn tiers(&self) -> impl Iterator<Item = &TierPlan> {
        let workloads = self.plans.values();
        let workloads = workloads.flat_map(|plan| plan.ingress.iter().chain(&plan.egress));
        let hosts = self.hosts.plans().flat_map(|plan| {
            let ways = [&plan.untracked, &plan.pre_dnat, &plan.own, &plan.forwarded];
            ways.into_iter()
                .flat_map(|tiers| tiers.ingress.iter().chain(&tiers.egress))
        });
        workloads.chain(hosts)
    }

    pub(super) fn counters(&mut self) -> Result<(Vec<RuleCounter>, Vec<OtherCounter>), String> {
        let filter::Counters {
            rules: hits,
            others,
        } = self.filter.counters().map_err(|error| error.to_string())?;
        let others = others.into_iter().map(|(reason, hits)| OtherCounter {
            reason,
            packets: hits.packets,
            bytes: hits.bytes,
        });
        let known = self.rules_of.iter().map(|(key, rules)| match key {
            RulesKey::Policy(id) => {
                let id = translate::policy_id(id);
                (filter::RulesId::Policy(id.clone()), id.to_string(), rules)
            }
            RulesKey::Profile(name) => {
                let id = filter::RulesId::Profile(translate::profile_id(name));
                (id, format!("Profile/{name}"), rules)
            }
        });
        let mut known: Vec<_> = known.collect();
        known.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        let mut counters = Vec::new();
        for of_rules in &hits {
            let Ok(at) = known.binary_search_by(|(id, ..)| id.cmp(&of_rules.id)) else {
                continue;
            };
            let (_, resource, rules) = &known[at];
            for (ingress, list, hits) in [
                (true, &rules.ingress, &of_rules.ingress),
                (false, &rules.egress, &of_rules.egress),
            ] {
                counters.extend(list.iter().zip(hits).map(|(rule, hits)| RuleCounter {
                    resource: resource.clone(),
                    ingress,
                    rule: rule.index,
                    packets: hits.packets,
                    bytes: hits.bytes,
                }));
            }
        }
        Ok((counters, others.collect()))
    }

    fn problem_of(&self, needle: &str, otherwise: &str) -> String {
        let found = self.failing.iter().find(|problem| problem.contains(needle));
        found.cloned().unwrap_or_else(|| otherwise.to_owned())
    }

    pub(super) fn status(&self) -> KernelStatus {
        KernelStatus {
            backend: self.filter.backend().to_string(),
            endpoints: self.plans.len() as u64,
            routes: self.routes.len() as u64,
            failing: self
                .failing
                .iter()
                .chain(&self.tunnels_failing)
                .cloned()
                .chain(self.hosts.idle())
                .chain(
                    self.denied.problem().map(|problem| {
                        format!("connections that are now denied may go on: {problem}")
                    }),
                )
                .collect(),
        }
    }
}

fn policies_of(tier: &TierPlan) -> impl Iterator<Item = (&str, &ResourceKey)> {
    let policies = tier.policies.iter();
    policies.map(|policy| (tier.name.as_str(), policy))
}
