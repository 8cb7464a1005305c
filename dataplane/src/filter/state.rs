//! The desired state and what has to be rendered again after a change.

mod flush;
mod hits;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnetwork::IpNetwork;

use super::{
    backend::Backend,
    hosts::Hosts,
    kernel::Kernel,
    limits::Limited,
    members::{entries, group_name, hold_one, member_entries, release_one, set_type},
    names::{self, Way},
    program::ChainId,
    types::{
        Direction, Endpoint, EndpointId, Family, Globals, HostEndpoint, Limits, Phase, PolicyId,
        PolicyRules, ProfileId, Rule, SetId, SetKind, SetMember, SetSpec,
    },
    verdicts::Verdicts,
};
use crate::{
    ipset::{Entry, SetType},
    iptables::Table,
};

pub use self::hits::{Counters, RulesHits};

/// A policy or a profile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RulesId {
    /// A policy.
    Policy(PolicyId),
    /// A profile.
    Profile(ProfileId),
}

impl RulesId {
    fn chain(&self, way: Way) -> ChainId {
        match self {
            Self::Policy(id) => ChainId::Policy(way, id.clone()),
            Self::Profile(id) => ChainId::Profile(way, id.clone()),
        }
    }
}

impl Phase {
    /// Every phase.
    const ALL: [Self; 3] = [Self::Untracked, Self::PreDnat, Self::Filter];

    fn table(self) -> Table {
        match self {
            Self::Untracked => Table::Raw,
            Self::PreDnat => Table::Mangle,
            Self::Filter => Table::Filter,
        }
    }
}

/// The tables that rules stand in. Those of late ones are asked again where a host's own packet leaves to
/// another place than it was sent to.
fn tables(phase: Phase, way: Way, is_late: bool) -> Vec<Table> {
    let late = is_late && phase == Phase::Filter && way == Way::Egress;
    let late = late.then_some(Table::Mangle);
    std::iter::once(phase.table()).chain(late).collect()
}

impl HostEndpoint {
    /// The policies and profiles that it refers to, with the table it asks them in.
    fn rules(&self) -> impl Iterator<Item = (Table, RulesId)> + '_ {
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
    fn late_rules(&self) -> impl Iterator<Item = RulesId> + '_ {
        let policies = self.own.egress.tiers.iter().flat_map(|tier| &tier.policies);
        let profiles = self.profiles.iter().cloned().map(RulesId::Profile);
        policies.cloned().map(RulesId::Policy).chain(profiles)
    }
}

#[derive(Debug)]
struct RulesState {
    rules: PolicyRules,
    /// Sets made for lists of networks in the last rendering.
    helpers: BTreeMap<(Family, String), Vec<IpNetwork>>,
    sets: BTreeSet<(SetId, SetKind)>,
    /// For each line of a chain in the last rendering, the place of the rule that it counts for.
    origins: BTreeMap<(Family, Way), Vec<Option<usize>>>,
}

impl RulesState {
    fn of(&self, way: Way) -> &[Rule] {
        match way {
            Way::Ingress => &self.rules.ingress,
            Way::Egress => &self.rules.egress,
        }
    }
}

/// Endpoints that go through the same tiers and profiles.
#[derive(Debug)]
struct Group {
    ingress: Direction,
    egress: Direction,
    profiles: Vec<ProfileId>,
    /// How many endpoints hold each member.
    members: HashMap<Entry, u32>,
    endpoints: usize,
}

impl Group {
    fn direction(&self, way: Way) -> &Direction {
        match way {
            Way::Ingress => &self.ingress,
            Way::Egress => &self.egress,
        }
    }

    fn rules(&self) -> impl Iterator<Item = RulesId> + '_ {
        let tiers = self.ingress.tiers.iter().chain(&self.egress.tiers);
        let policies = tiers
            .flat_map(|tier| &tier.policies)
            .cloned()
            .map(RulesId::Policy);
        policies.chain(self.profiles.iter().cloned().map(RulesId::Profile))
    }
}

#[derive(Debug)]
struct Attached {
    endpoint: Endpoint,
    group: String,
    entries: Vec<Entry>,
}

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

    pub(super) fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id).map(|attached| &attached.endpoint)
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

    // Sets.

    pub(super) fn set_ipset(&mut self, kernel: &mut dyn Kernel, id: SetId, spec: SetSpec) {
        let other_kind = self.sets.get(&id).is_none_or(|old| old.kind != spec.kind);
        if other_kind {
            self.remove_ipset(kernel, &id);
            self.mark_users(&id);
        }
        self.want_ipset(kernel, &id, &spec);
        self.sets.insert(id, spec);
    }

    fn want_ipset(&self, kernel: &mut dyn Kernel, id: &SetId, spec: &SetSpec) {
        for family in &self.families {
            let name = names::user_set(*family, id, spec.kind);
            kernel.want(&name, set_type(spec.kind), *family);
            let members = spec.members.iter();
            let entries = members.flat_map(|m| entries(spec.kind, m, *family));
            kernel.replace(&name, entries.collect());
        }
    }

    pub(super) fn empty_ipset(&mut self, kernel: &mut dyn Kernel, id: &SetId) {
        let Some(spec) = self.sets.get_mut(id) else {
            return;
        };
        spec.members.clear();
        for family in &self.families {
            let name = names::user_set(*family, id, spec.kind);
            kernel.replace(&name, Vec::new());
        }
    }

    pub(super) fn update_ipset(
        &mut self,
        kernel: &mut dyn Kernel,
        id: &SetId,
        add: impl IntoIterator<Item = SetMember>,
        remove: impl IntoIterator<Item = SetMember>,
    ) -> bool {
        let Some(spec) = self.sets.get_mut(id) else {
            return false;
        };
        for member in remove {
            if spec.members.remove(&member) {
                for family in &self.families {
                    let name = names::user_set(*family, id, spec.kind);
                    for entry in entries(spec.kind, &member, *family) {
                        kernel.remove(&name, &entry);
                    }
                }
            }
        }
        for member in add {
            if spec.members.insert(member) {
                for family in &self.families {
                    let name = names::user_set(*family, id, spec.kind);
                    for entry in entries(spec.kind, &member, *family) {
                        kernel.insert(&name, entry);
                    }
                }
            }
        }
        true
    }

    pub(super) fn has_member(&self, id: &SetId, member: &SetMember) -> bool {
        let set = self.sets.get(id);
        set.is_some_and(|spec| spec.members.contains(member))
    }

    pub(super) fn remove_ipset(&mut self, kernel: &mut dyn Kernel, id: &SetId) {
        let Some(spec) = self.sets.remove(id) else {
            return;
        };
        for family in &self.families {
            kernel.unwant(&names::user_set(*family, id, spec.kind));
        }
        self.mark_users(id);
    }

    /// Rules that refer to a set have to be looked at again when it appears or goes.
    fn mark_users(&mut self, id: &SetId) {
        let uses = |state: &RulesState| state.sets.iter().any(|(set, _)| set == id);
        let users = self
            .rules
            .iter()
            .filter(|(_, state)| uses(state))
            .map(|(id, _)| id.clone());
        self.rules_dirty.extend(users);
    }

    // Rules.

    pub(super) fn set_rules(&mut self, id: RulesId, rules: PolicyRules) {
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

    pub(super) fn remove_rules(&mut self, id: &RulesId) {
        if self.rules.remove(id).is_some() {
            self.rules_dirty.remove(id);
            self.structure_dirty = true;
        }
    }

    // Endpoints.

    pub(super) fn set_endpoint(
        &mut self,
        kernel: &mut dyn Kernel,
        id: EndpointId,
        endpoint: Endpoint,
    ) {
        if self.endpoint(&id) == Some(&endpoint) {
            return;
        }
        self.limit(&endpoint.ifname, endpoint.limits.clone());
        let before = self.endpoint(&id).map_or(&[][..], |old| &old.host_ports);
        self.ports_dirty |= !(before.is_empty() && endpoint.host_ports.is_empty());
        let group = self.join_group(kernel, &endpoint);
        let entries = member_entries(&endpoint, &self.families);
        let attached = Attached {
            endpoint,
            group,
            entries,
        };
        // In before out: an entry held by both never leaves the kernel.
        self.hold(kernel, &attached);
        if let Some(old) = self.endpoints.insert(id, attached) {
            self.release(kernel, &old);
        }
    }

    fn limit(&mut self, ifname: &str, limits: Limits) {
        let before = match limits == Limits::default() {
            true => self.limited.remove(ifname),
            false => self.limited.insert(ifname.to_owned(), limits),
        };
        if before.as_ref() != self.limited.get(ifname) {
            self.limits_dirty = true;
            self.globals_dirty = true;
        }
    }

    pub(super) fn remove_endpoint(&mut self, kernel: &mut dyn Kernel, id: &EndpointId) {
        if let Some(old) = self.endpoints.remove(id) {
            self.limit(&old.endpoint.ifname, Limits::default());
            self.ports_dirty |= !old.endpoint.host_ports.is_empty();
            self.release(kernel, &old);
        }
    }

    fn join_group(&mut self, kernel: &mut dyn Kernel, endpoint: &Endpoint) -> String {
        let name = group_name(endpoint);
        if !self.groups.contains_key(&name) {
            let group = Group {
                ingress: endpoint.ingress.clone(),
                egress: endpoint.egress.clone(),
                profiles: endpoint.profiles.clone(),
                members: HashMap::new(),
                endpoints: 0,
            };
            for family in &self.families {
                kernel.want(
                    &names::group_set(*family, &name),
                    SetType::NetIface,
                    *family,
                );
            }
            self.groups.insert(name.clone(), group);
            self.groups_dirty.insert(name.clone());
            self.structure_dirty = true;
        }
        name
    }

    fn hold(&mut self, kernel: &mut dyn Kernel, attached: &Attached) {
        let Some(group) = self.groups.get_mut(&attached.group) else {
            return;
        };
        group.endpoints += 1;
        for entry in &attached.entries {
            let family = Family::of(&entry.net());
            if hold_one(&mut group.members, entry) {
                kernel.insert(&names::group_set(family, &attached.group), *entry);
            }
            if hold_one(&mut self.workloads, entry) {
                kernel.insert(&names::workload_set(family), *entry);
            }
        }
    }

    fn release(&mut self, kernel: &mut dyn Kernel, attached: &Attached) {
        let Some(group) = self.groups.get_mut(&attached.group) else {
            return;
        };
        group.endpoints -= 1;
        for entry in &attached.entries {
            let family = Family::of(&entry.net());
            if release_one(&mut group.members, entry) {
                kernel.remove(&names::group_set(family, &attached.group), entry);
            }
            if release_one(&mut self.workloads, entry) {
                kernel.remove(&names::workload_set(family), entry);
            }
        }
        // An empty group stays until the next sweep: its next endpoint needs no rules then.
        if group.endpoints == 0 && group.rules().any(|id| !self.rules.contains_key(&id)) {
            self.drop_group(kernel, &attached.group.clone());
        }
    }

    fn drop_group(&mut self, kernel: &mut dyn Kernel, name: &str) {
        self.groups.remove(name);
        self.groups_dirty.insert(name.to_owned());
        self.structure_dirty = true;
        for family in &self.families {
            kernel.unwant(&names::group_set(*family, name));
        }
    }

    /// Drops groups without endpoints.
    pub(super) fn sweep_groups(&mut self, kernel: &mut dyn Kernel) {
        let empty = self.groups.iter().filter(|(_, group)| group.endpoints == 0);
        for name in empty.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.drop_group(kernel, &name);
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
