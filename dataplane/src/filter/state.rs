//! The desired state and what has to be rendered again after a change.

mod endpoints;
mod flush;
mod hits;
mod rules;
mod sets;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    backend::Backend,
    hosts::Hosts,
    kernel::Kernel,
    limits::Limited,
    names::{self, Way},
    program::ChainId,
    types::{EndpointId, Family, Globals, HostEndpoint, SetId, SetSpec},
    verdicts::Verdicts,
};
use crate::{
    ipset::{Entry, SetType},
    iptables::Table,
};

use self::endpoints::{Attached, Group};
use self::rules::RulesState;
pub use self::{
    hits::{Counters, RulesHits},
    rules::RulesId,
};

/// Desired state; [`State::flush`] hands what changed to the backend.
#[derive(Debug)]
pub(super) struct State {
    globals: Globals,
    verdicts: Verdicts,
    families: Vec<Family>,
    sets: BTreeMap<SetId, SetSpec>,
    rules: BTreeMap<RulesId, RulesState>,
    groups: BTreeMap<String, Group>,
    endpoints: BTreeMap<EndpointId, Attached>,
    hosts: Hosts,
    /// What `hosts` asks about its own packets that were translated.
    late: BTreeSet<RulesId>,
    /// What endpoints may have, by interface.
    limited: Limited,
    limit_chains: BTreeSet<(Table, ChainId)>,
    limits_dirty: bool,
    /// Chains of `hosts` as last rendered.
    host_chains: BTreeSet<(Table, ChainId)>,
    /// How many endpoints hold each (network, interface).
    workloads: HashMap<Entry, u32>,
    /// Chains programmed or adopted for rules, known or not.
    programmed: BTreeSet<RulesId>,
    helpers: BTreeSet<String>,
    globals_dirty: bool,
    hosts_dirty: bool,
    /// Ports of the host that lead to workloads changed.
    ports_dirty: bool,
    /// Rules to be rendered.
    rules_dirty: BTreeSet<RulesId>,
    /// Groups to be rendered.
    groups_dirty: BTreeSet<String>,
    /// The list of groups or of rules changed.
    structure_dirty: bool,
}

impl State {
    pub(super) fn new(families: Vec<Family>, kernel: &mut dyn Kernel) -> Self {
        let globals = Globals::default();
        let state = Self {
            verdicts: Verdicts::new(&globals, kernel.backend()),
            globals,
            families,
            sets: BTreeMap::new(),
            rules: BTreeMap::new(),
            groups: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            hosts: Hosts::new(),
            late: BTreeSet::new(),
            limited: Limited::new(),
            limit_chains: BTreeSet::new(),
            limits_dirty: true,
            host_chains: BTreeSet::new(),
            workloads: HashMap::new(),
            programmed: BTreeSet::new(),
            helpers: BTreeSet::new(),
            globals_dirty: true,
            hosts_dirty: true,
            ports_dirty: true,
            rules_dirty: BTreeSet::new(),
            groups_dirty: BTreeSet::new(),
            structure_dirty: true,
        };
        state.want_fixed_sets(kernel);
        state
    }

    /// Members may be set before anything is rendered.
    fn want_fixed_sets(&self, kernel: &mut dyn Kernel) {
        for family in &self.families {
            kernel.want(&names::workload_set(*family), SetType::NetIface, *family);
            kernel.want(&names::masquerade_set(*family), SetType::Net, *family);
            kernel.want(&names::pools_set(*family), SetType::Net, *family);
            kernel.want(&names::hosts_set(*family), SetType::Net, *family);
            kernel.want(&names::services_set(*family), SetType::Net, *family);
        }
    }

    /// Hands everything to a backend that knows nothing yet.
    pub(super) fn move_to(&mut self, kernel: &mut dyn Kernel) {
        self.want_fixed_sets(kernel);
        for (id, spec) in &self.sets {
            self.want_ipset(kernel, id, spec);
        }
        for family in &self.families {
            let own = |entries: &HashMap<Entry, u32>| -> Vec<Entry> {
                let entries = entries.keys().copied();
                entries
                    .filter(|e| Family::of(&e.net()) == *family)
                    .collect()
            };
            for (name, group) in &self.groups {
                let set = names::group_set(*family, name);
                kernel.want(&set, SetType::NetIface, *family);
                kernel.replace(&set, own(&group.members));
            }
            kernel.replace(&names::workload_set(*family), own(&self.workloads));
        }
        self.verdicts = Verdicts::new(&self.globals, kernel.backend());
        self.host_chains.clear();
        self.limit_chains.clear();
        self.limits_dirty = true;
        self.programmed.clear();
        self.helpers.clear();
        self.globals_dirty = true;
        self.groups_dirty = self.groups.keys().cloned().collect();
        self.mark_structure();
    }

    pub(super) fn globals(&self) -> &Globals {
        &self.globals
    }

    pub(super) fn set_globals(&mut self, globals: Globals, backend: Backend) {
        if globals == self.globals {
            return;
        }
        let verdicts = Verdicts::new(&globals, backend);
        if verdicts != self.verdicts {
            self.rules_dirty.extend(self.rules.keys().cloned());
            self.groups_dirty.extend(self.groups.keys().cloned());
            self.verdicts = verdicts;
        }
        self.globals = globals;
        self.limits_dirty = true;
        self.globals_dirty = true;
        self.hosts_dirty = true;
        self.ports_dirty = true;
    }

    pub(super) fn set_hosts(&mut self, hosts: Hosts) {
        if hosts != self.hosts {
            let late = hosts.values().flat_map(HostEndpoint::late_rules);
            let before = std::mem::replace(&mut self.late, late.collect());
            let moved = before.symmetric_difference(&self.late).cloned();
            self.rules_dirty.extend(moved);
            self.hosts = hosts;
            self.hosts_dirty = true;
            self.structure_dirty = true;
        }
    }

    /// Looks at everything again: what the kernel holds may have changed, or what may be deleted.
    pub(super) fn mark_structure(&mut self) {
        self.structure_dirty = true;
        self.globals_dirty = true;
        self.limits_dirty = true;
        self.hosts_dirty = true;
        self.ports_dirty = true;
        self.rules_dirty.extend(self.rules.keys().cloned());
    }

    /// Whether the kernel has all that concerns an endpoint.
    pub(super) fn in_force(&self, id: &EndpointId, kernel: &dyn Kernel) -> bool {
        let Some(attached) = self.endpoints.get(id) else {
            return false;
        };
        let Some(group) = self.groups.get(&attached.group) else {
            return false;
        };
        let pending = self.globals_dirty
            || self.hosts_dirty
            || self.ports_dirty
            || self.structure_dirty
            || self.groups_dirty.contains(&attached.group)
            || group.rules().any(|id| self.rules_dirty.contains(&id));
        let mut chains: Vec<ChainId> = Way::BOTH
            .map(|way| ChainId::Group(way, attached.group.clone()))
            .into();
        chains.extend(
            group
                .rules()
                .flat_map(|id| Way::BOTH.map(|way| id.chain(way))),
        );
        let members = |family: &Family| {
            let own = attached
                .entries
                .iter()
                .filter(|e| Family::of(&e.net()) == *family);
            let own: Vec<Entry> = own.copied().collect();
            kernel.holds(&names::group_set(*family, &attached.group), &own)
                && kernel.holds(&names::workload_set(*family), &own)
        };
        !pending && self.families.iter().all(members) && kernel.in_force(&chains)
    }
}
