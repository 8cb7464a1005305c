//! What rules matched: those of policies and profiles, and whatever else decides.

use std::collections::BTreeMap;

use super::State;
use super::rules::{RulesId, RulesState, tables};
use crate::{
    filter::{
        chains, hosts, limits,
        names::{self, Way},
        program::{Body, Chain, Line, Target},
        types::Family,
    },
    iptables::{ChainHits, Hits, Table},
};

/// What the rules of a policy or profile matched, for all endpoints of this host together, since they
/// were last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesHits {
    /// Whose rules.
    pub id: RulesId,
    /// For each rule in order. All zero where the kernel does not have the rules as given.
    pub ingress: Vec<Hits>,
    /// For each rule in order.
    pub egress: Vec<Hits>,
}

/// What everything matched since it was last written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of policies and profiles.
    pub rules: Vec<RulesHits>,
    /// What else decided: drops by their reasons, such as `end of tier default`, and ports that no policy of the host
    /// closes.
    pub others: BTreeMap<String, Hits>,
}

impl State {
    /// What the kernel counted, by rule.
    pub(in crate::filter) fn hits(&self, kernel: &BTreeMap<Family, ChainHits>) -> Vec<RulesHits> {
        let hits = |id: &RulesId, state: &RulesState, way: Way| {
            let mut hits = vec![Hits::default(); state.of(way).len()];
            let tables = tables(state.rules.phase, way, self.late.contains(id));
            let name = id.chain(way).name();
            let all = kernel
                .iter()
                .flat_map(|f| tables.iter().map(move |t| (f, *t)));
            for ((family, chains), table) in all {
                let origins = state
                    .origins
                    .get(&(*family, way))
                    .map_or(&[][..], Vec::as_slice);
                let lines = chains.get(&(table, name.clone()));
                let lines = lines.map_or(&[][..], Vec::as_slice);
                if origins.len() != lines.len() {
                    continue;
                }
                for (place, line) in origins.iter().zip(lines) {
                    if let Some(sum) = place.and_then(|place| hits.get_mut(place)) {
                        *sum += *line;
                    }
                }
            }
            hits
        };
        let all = self.rules.iter().map(|(id, state)| RulesHits {
            id: id.clone(),
            ingress: hits(id, state, Way::Ingress),
            egress: hits(id, state, Way::Egress),
        });
        all.collect()
    }

    /// What no rule of a policy or profile decided, by the notes of the lines that did.
    pub(in crate::filter) fn others(
        &self,
        kernel: &BTreeMap<Family, ChainHits>,
    ) -> BTreeMap<String, Hits> {
        let mut sums = BTreeMap::new();
        for (family, hits) in kernel {
            for chain in self.chains_beside_rules(*family) {
                let found = hits.get(&(chain.table, chain.id.name()));
                let (Some(found), Body::Lines(lines)) = (found, &chain.body) else {
                    continue;
                };
                // Others changed it, or it is about to be written.
                if found.len() != lines.len() {
                    continue;
                }
                let told = |line: &&Line| {
                    !line.note.is_empty()
                        && matches!(line.target, Target::Drop | Target::Reject | Target::Accept)
                };
                for (line, hits) in lines.iter().zip(found).filter(|(line, _)| told(line)) {
                    *sums.entry(line.note.clone()).or_default() += *hits;
                }
            }
            // Whoever is in no group comes to the end of the dispatch.
            let is_dispatch = |name: &str| {
                Way::BOTH.into_iter().any(|way| {
                    name == chains::dispatch_chain(way) || names::is_dispatch_part(way, name)
                })
            };
            for ((table, name), hits) in hits {
                if *table == Table::Filter
                    && is_dispatch(name)
                    && let Some(last) = hits.last()
                {
                    *sums.entry(chains::NO_SUCH_WORKLOAD.to_owned()).or_default() += *last;
                }
            }
        }
        sums
    }

    /// Every chain of a family but those of policies, profiles and translation, as they are to be.
    fn chains_beside_rules(&self, family: Family) -> Vec<Chain> {
        let verdicts = &self.verdicts;
        let mut all = chains::fixed(&self.globals, &self.limited, verdicts, family);
        all.extend(hosts::render(&self.hosts, &self.globals, verdicts, family));
        all.extend(limits::render(&self.limited, verdicts, family));
        for (name, group) in &self.groups {
            all.extend(Way::BOTH.map(|way| {
                chains::group(way, name, group.direction(way), &group.profiles, verdicts)
            }));
        }
        all
    }
}
