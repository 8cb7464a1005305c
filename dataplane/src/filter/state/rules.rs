//! Rules of policies and profiles, and who refers to them.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use super::State;
use crate::filter::{
    names::Way,
    program::ChainId,
    types::{Family, HostEndpoint, Phase, PolicyId, PolicyRules, ProfileId, Rule, SetId, SetKind},
};
use crate::iptables::Table;

/// A policy or a profile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RulesId {
    /// A policy.
    Policy(PolicyId),
    /// A profile.
    Profile(ProfileId),
}

impl RulesId {
    pub(super) fn chain(&self, way: Way) -> ChainId {
        match self {
            Self::Policy(id) => ChainId::Policy(way, id.clone()),
            Self::Profile(id) => ChainId::Profile(way, id.clone()),
        }
    }
}

impl Phase {
    /// Every phase.
    pub(super) const ALL: [Self; 3] = [Self::Untracked, Self::PreDnat, Self::Filter];

    pub(super) fn table(self) -> Table {
        match self {
            Self::Untracked => Table::Raw,
            Self::PreDnat => Table::Mangle,
            Self::Filter => Table::Filter,
        }
    }
}

/// The tables that rules stand in. Those of late ones are asked again where a host's own packet leaves to
/// another place than it was sent to.
pub(super) fn tables(phase: Phase, way: Way, is_late: bool) -> Vec<Table> {
    let late = is_late && phase == Phase::Filter && way == Way::Egress;
    let late = late.then_some(Table::Mangle);
    std::iter::once(phase.table()).chain(late).collect()
}

impl HostEndpoint {
    /// The policies and profiles that it refers to, with the table it asks them in.
    pub(super) fn rules(&self) -> impl Iterator<Item = (Table, RulesId)> + '_ {
        let directions = [
            (Phase::Untracked, &self.untracked.ingress),
            (Phase::Untracked, &self.untracked.egress),
            (Phase::PreDnat, &self.pre_dnat),
            (Phase::Filter, &self.own.ingress),
            (Phase::Filter, &self.own.egress),
            (Phase::Filter, &self.forwarded.ingress),
            (Phase::Filter, &self.forwarded.egress),
        ];
        let policies = directions.into_iter().flat_map(|(phase, direction)| {
            let policies = direction.tiers.iter().flat_map(|tier| &tier.policies);
            policies.map(move |id| (phase.table(), RulesId::Policy(id.clone())))
        });
        let profiles = self.profiles.iter().cloned().map(RulesId::Profile);
        let late = self.late_rules().map(|id| (Table::Mangle, id));
        policies
            .chain(profiles.map(|id| (Table::Filter, id)))
            .chain(late)
    }

    /// Those that packets of the host's own are asked whose destination was translated.
    pub(super) fn late_rules(&self) -> impl Iterator<Item = RulesId> + '_ {
        let policies = self.own.egress.tiers.iter().flat_map(|tier| &tier.policies);
        let profiles = self.profiles.iter().cloned().map(RulesId::Profile);
        policies.cloned().map(RulesId::Policy).chain(profiles)
    }
}

#[derive(Debug)]
pub(super) struct RulesState {
    pub(super) rules: PolicyRules,
    /// Sets made for lists of networks in the last rendering.
    pub(super) helpers: BTreeMap<(Family, String), Vec<IpNetwork>>,
    pub(super) sets: BTreeSet<(SetId, SetKind)>,
    /// For each line of a chain in the last rendering, the place of the rule that it counts for.
    pub(super) origins: BTreeMap<(Family, Way), Vec<Option<usize>>>,
}

impl RulesState {
    pub(super) fn of(&self, way: Way) -> &[Rule] {
        match way {
            Way::Ingress => &self.rules.ingress,
            Way::Egress => &self.rules.egress,
        }
    }
}

impl State {
    pub(in crate::filter) fn set_rules(&mut self, id: RulesId, rules: PolicyRules) {
        match self.rules.get_mut(&id) {
            Some(state) if state.rules == rules => return,
            Some(state) => {
                self.structure_dirty |= state.rules.phase != rules.phase;
                state.rules = rules;
            }
            None => {
                self.rules.insert(
                    id.clone(),
                    RulesState {
                        rules,
                        helpers: BTreeMap::new(),
                        sets: BTreeSet::new(),
                        origins: BTreeMap::new(),
                    },
                );
                self.structure_dirty = true;
            }
        }
        self.rules_dirty.insert(id);
    }

    pub(in crate::filter) fn remove_rules(&mut self, id: &RulesId) {
        if self.rules.remove(id).is_some() {
            self.rules_dirty.remove(id);
            self.structure_dirty = true;
        }
    }
}
