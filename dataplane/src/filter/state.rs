//! The desired state and what has to be rendered again after a change.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnetwork::IpNetwork;

use super::{
    chains::{self, ChainText, Verdicts},
    names::{self, Way},
    rules::{self, Rendered},
    sets::Sets,
    types::{
        Direction, Endpoint, EndpointId, Family, Globals, PolicyId, PolicyRules, ProfileId, SetId,
        SetKind, SetMember, SetSpec, TierDefault,
    },
};
use crate::{
    ipset::{Entry, IfName, SetType, storable},
    iptables::{Chain, Rank, Table, Tables},
};

/// A policy or a profile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RulesId {
    Policy(PolicyId),
    Profile(ProfileId),
}

impl RulesId {
    fn chain(&self, way: Way) -> String {
        match self {
            Self::Policy(id) => names::policy_chain(way, id),
            Self::Profile(id) => names::profile_chain(way, id),
        }
    }
}

#[derive(Debug)]
struct RulesState {
    rules: PolicyRules,
    /// Sets made for lists of networks in the last rendering.
    helpers: BTreeMap<(Family, String), Vec<IpNetwork>>,
    sets: BTreeSet<(SetId, SetKind)>,
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

/// The two families' tables.
pub(super) type Families = BTreeMap<Family, Tables>;

/// Desired state; [`State::flush`] hands what changed to sets and tables.
#[derive(Debug)]
pub(super) struct State {
    globals: Globals,
    verdicts: Verdicts,
    families: Vec<Family>,
    sets: BTreeMap<SetId, SetSpec>,
    rules: BTreeMap<RulesId, RulesState>,
    groups: BTreeMap<String, Group>,
    endpoints: BTreeMap<EndpointId, Attached>,
    /// How many endpoints hold each (network, interface).
    workloads: HashMap<Entry, u32>,
    /// Chains programmed or adopted for rules, known or not.
    programmed: BTreeSet<RulesId>,
    helpers: BTreeSet<String>,
    globals_dirty: bool,
    /// Rules to be rendered.
    rules_dirty: BTreeSet<RulesId>,
    /// Groups to be rendered.
    groups_dirty: BTreeSet<String>,
    /// The list of groups or of rules changed.
    structure_dirty: bool,
}

impl State {
    pub(super) fn new(families: Vec<Family>, kernel: &mut Sets) -> Self {
        let globals = Globals::default();
        // Members may be set before anything is rendered.
        for family in &families {
            kernel.want(&names::workload_set(*family), SetType::NetIface, *family);
            kernel.want(&names::masquerade_set(*family), SetType::Net, *family);
            kernel.want(&names::pools_set(*family), SetType::Net, *family);
        }
        Self {
            verdicts: Verdicts::new(&globals),
            globals,
            families,
            sets: BTreeMap::new(),
            rules: BTreeMap::new(),
            groups: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            workloads: HashMap::new(),
            programmed: BTreeSet::new(),
            helpers: BTreeSet::new(),
            globals_dirty: true,
            rules_dirty: BTreeSet::new(),
            groups_dirty: BTreeSet::new(),
            structure_dirty: true,
        }
    }

    pub(super) fn globals(&self) -> &Globals {
        &self.globals
    }

    pub(super) fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id).map(|attached| &attached.endpoint)
    }

    pub(super) fn set_globals(&mut self, globals: Globals) {
        if globals == self.globals {
            return;
        }
        let verdicts = Verdicts::new(&globals);
        if verdicts != self.verdicts {
            self.rules_dirty.extend(self.rules.keys().cloned());
            self.groups_dirty.extend(self.groups.keys().cloned());
            self.verdicts = verdicts;
        }
        self.globals = globals;
        self.globals_dirty = true;
    }

    // Sets.

    pub(super) fn set_ipset(&mut self, kernel: &mut Sets, id: SetId, spec: SetSpec) {
        let other_kind = self.sets.get(&id).is_none_or(|old| old.kind != spec.kind);
        if other_kind {
            self.remove_ipset(kernel, &id);
            self.mark_users(&id);
        }
        for family in self.families.clone() {
            let name = names::user_set(family, &id, spec.kind);
            kernel.want(&name, set_type(spec.kind), family);
            kernel.replace(
                &name,
                spec.members
                    .iter()
                    .flat_map(|m| entries(spec.kind, m, family)),
            );
        }
        self.sets.insert(id, spec);
    }

    pub(super) fn update_ipset(
        &mut self,
        kernel: &mut Sets,
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

    pub(super) fn remove_ipset(&mut self, kernel: &mut Sets, id: &SetId) {
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
            Some(state) => state.rules = rules,
            None => {
                let (helpers, sets) = (BTreeMap::new(), BTreeSet::new());
                self.rules.insert(
                    id.clone(),
                    RulesState {
                        rules,
                        helpers,
                        sets,
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

    pub(super) fn set_endpoint(&mut self, kernel: &mut Sets, id: EndpointId, endpoint: Endpoint) {
        if self.endpoint(&id) == Some(&endpoint) {
            return;
        }
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

    pub(super) fn remove_endpoint(&mut self, kernel: &mut Sets, id: &EndpointId) {
        if let Some(old) = self.endpoints.remove(id) {
            self.release(kernel, &old);
        }
    }

    fn join_group(&mut self, kernel: &mut Sets, endpoint: &Endpoint) -> String {
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

    fn hold(&mut self, kernel: &mut Sets, attached: &Attached) {
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

    fn release(&mut self, kernel: &mut Sets, attached: &Attached) {
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

    fn drop_group(&mut self, kernel: &mut Sets, name: &str) {
        self.groups.remove(name);
        self.groups_dirty.insert(name.to_owned());
        self.structure_dirty = true;
        for family in &self.families {
            kernel.unwant(&names::group_set(*family, name));
        }
    }

    /// Drops groups without endpoints.
    pub(super) fn sweep_groups(&mut self, kernel: &mut Sets) {
        let empty = self.groups.iter().filter(|(_, group)| group.endpoints == 0);
        for name in empty.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.drop_group(kernel, &name);
        }
    }

    /// Looks at everything again: what the kernel holds may have changed, or what may be deleted.
    pub(super) fn mark_structure(&mut self) {
        self.structure_dirty = true;
        self.rules_dirty.extend(self.rules.keys().cloned());
    }

    /// Whether the kernel has all that concerns an endpoint.
    pub(super) fn in_force(&self, id: &EndpointId, kernel: &Sets, tables: &Families) -> bool {
        let Some(attached) = self.endpoints.get(id) else {
            return false;
        };
        let Some(group) = self.groups.get(&attached.group) else {
            return false;
        };
        let pending = self.globals_dirty
            || self.structure_dirty
            || self.groups_dirty.contains(&attached.group)
            || group.rules().any(|id| self.rules_dirty.contains(&id));
        let mut chains: Vec<String> = Way::BOTH
            .map(|way| names::group_chain(way, &attached.group))
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
        !pending
            && self.families.iter().all(members)
            && tables.values().all(|tables| tables.in_force(&chains))
    }

    // Rendering.

    /// Hands what changed to sets and tables. Until `may_delete`, what is in the kernel without
    /// being desired stays in force: groups stay dispatched to, and a policy that is not known (yet)
    /// keeps its chain.
    pub(super) fn flush(&mut self, kernel: &mut Sets, tables: &mut Families, may_delete: bool) {
        if !may_delete {
            self.displace_members(kernel);
        }
        if std::mem::take(&mut self.globals_dirty) {
            self.flush_globals(kernel, tables);
        }
        let structure = std::mem::take(&mut self.structure_dirty);
        if structure {
            self.drop_useless_groups(kernel);
        }
        self.flush_rules(kernel, tables, may_delete);
        self.flush_groups(tables);
        if structure {
            self.flush_unknown_rules(tables, may_delete);
            self.flush_dispatch(kernel, tables, may_delete);
        }
    }

    /// An endpoint that an earlier agent put into another group is to leave that one.
    fn displace_members(&self, kernel: &mut Sets) {
        for attached in self.endpoints.values() {
            for entry in &attached.entries {
                let family = Family::of(&entry.net());
                kernel.displace(&names::group_set(family, &attached.group), entry, family);
            }
        }
    }

    fn drop_useless_groups(&mut self, kernel: &mut Sets) {
        let known = |id: &RulesId| self.rules.contains_key(id);
        let useless = |group: &Group| group.endpoints == 0 && !group.rules().all(|id| known(&id));
        let names = self.groups.iter().filter(|(_, group)| useless(group));
        for name in names.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.drop_group(kernel, &name);
        }
        self.structure_dirty = false;
    }

    fn flush_globals(&self, kernel: &mut Sets, tables: &mut Families) {
        for (family, tables) in tables.iter_mut() {
            for chain in chains::fixed(&self.globals, &self.verdicts, *family) {
                program(tables, chain);
            }
            for (table, builtin, target) in chains::HOOKS {
                tables.hook(table, builtin, target);
            }
            for (name, pools) in [
                (
                    names::masquerade_set(*family),
                    &self.globals.masquerade_pools,
                ),
                (names::pools_set(*family), &self.globals.all_pools),
            ] {
                let own = pools.iter().filter(|pool| Family::of(pool) == *family);
                kernel.replace(&name, own.flat_map(|pool| storable(*pool)).map(Entry::Net));
            }
        }
    }

    fn flush_rules(&mut self, kernel: &mut Sets, tables: &mut Families, may_delete: bool) {
        let dirty = std::mem::take(&mut self.rules_dirty);
        if dirty.is_empty() {
            return;
        }
        for id in &dirty {
            let Some(state) = self.rules.get_mut(id) else {
                continue;
            };
            state.helpers.clear();
            state.sets.clear();
            for (family, tables) in tables.iter_mut() {
                for way in Way::BOTH {
                    let rules = match way {
                        Way::Ingress => &state.rules.ingress,
                        Way::Egress => &state.rules.egress,
                    };
                    let rendered = rules::render(rules, *family, &self.verdicts);
                    let complete = complete(&rendered, &self.sets);
                    let helpers = rendered.helpers.into_iter();
                    state
                        .helpers
                        .extend(helpers.map(|(name, nets)| ((*family, name), nets)));
                    state.sets.extend(rendered.sets);
                    let name = id.chain(way);
                    if complete {
                        program_rules(tables, name, rendered.lines);
                    } else if may_delete || !tables.has_chain(Table::Filter, &name) {
                        program_rules(tables, name, vec![SET_UNKNOWN.to_owned()]);
                    }
                }
            }
            self.programmed.insert(id.clone());
        }
        self.flush_helpers(kernel);
    }

    fn flush_helpers(&mut self, kernel: &mut Sets) {
        let mut wanted = BTreeSet::new();
        for state in self.rules.values() {
            for ((family, name), nets) in &state.helpers {
                if wanted.insert(name.clone()) && !self.helpers.contains(name) {
                    kernel.want(name, SetType::Net, *family);
                    kernel.replace(
                        name,
                        nets.iter().flat_map(|net| storable(*net)).map(Entry::Net),
                    );
                }
            }
        }
        for name in self.helpers.difference(&wanted) {
            kernel.unwant(name);
        }
        self.helpers = wanted;
    }

    fn flush_groups(&mut self, tables: &mut Families) {
        for name in std::mem::take(&mut self.groups_dirty) {
            for tables in tables.values_mut() {
                for way in Way::BOTH {
                    match self.groups.get(&name) {
                        Some(group) => {
                            let direction = group.direction(way);
                            let profiles = &group.profiles;
                            let verdicts = &self.verdicts;
                            program(
                                tables,
                                chains::group(way, &name, direction, profiles, verdicts),
                            );
                        }
                        None => tables.remove(Table::Filter, &names::group_chain(way, &name)),
                    }
                }
            }
        }
    }

    /// A policy that is referred to but not known drops; chains nobody refers to go.
    fn flush_unknown_rules(&mut self, tables: &mut Families, may_delete: bool) {
        let referenced: BTreeSet<RulesId> = self.groups.values().flat_map(Group::rules).collect();
        let gone = |id: &&RulesId| !self.rules.contains_key(id) && !referenced.contains(id);
        let gone: Vec<RulesId> = self.programmed.iter().filter(gone).cloned().collect();
        for tables in tables.values_mut() {
            for id in &gone {
                for way in Way::BOTH {
                    tables.remove(Table::Filter, &id.chain(way));
                }
            }
            for id in referenced.iter().filter(|id| !self.rules.contains_key(id)) {
                for name in Way::BOTH.map(|way| id.chain(way)) {
                    if may_delete || !tables.has_chain(Table::Filter, &name) {
                        program_rules(tables, name, vec![RULES_UNKNOWN.to_owned()]);
                    }
                }
            }
        }
        for id in &gone {
            self.programmed.remove(id);
        }
        self.programmed.extend(referenced);
    }

    fn flush_dispatch(&self, kernel: &Sets, tables: &mut Families, may_delete: bool) {
        for (family, tables) in tables.iter_mut() {
            let mut groups: BTreeSet<String> = self.groups.keys().cloned().collect();
            if !may_delete {
                let found = tables.kernel_chains().filter_map(names::group_of_chain);
                let usable = found.filter(|group| {
                    kernel.exists(&names::group_set(*family, group))
                        && Way::BOTH.into_iter().all(|way| {
                            tables.has_chain(Table::Filter, &names::group_chain(way, group))
                        })
                });
                groups.extend(usable.map(str::to_owned));
            }
            for way in Way::BOTH {
                let groups = groups.iter().map(String::as_str);
                program(tables, chains::dispatch(way, *family, groups));
            }
        }
    }
}

const SET_UNKNOWN: &str = "refers to an unknown set\t-j DROP";
const RULES_UNKNOWN: &str = "not known\t-j DROP";

fn program(tables: &mut Tables, chain: ChainText) {
    let content = Chain::new(&chain.name, chain.rank, &chain.lines);
    tables.set(chain.table, &chain.name, content);
}

fn program_rules(tables: &mut Tables, name: String, lines: Vec<String>) {
    program(
        tables,
        ChainText {
            table: Table::Filter,
            name,
            rank: Rank::Policy,
            lines,
        },
    );
}

fn complete(rendered: &Rendered, sets: &BTreeMap<SetId, SetSpec>) -> bool {
    rendered
        .sets
        .iter()
        .all(|(id, kind)| sets.get(id).is_some_and(|spec| spec.kind == *kind))
}

fn hold_one(counts: &mut HashMap<Entry, u32>, entry: &Entry) -> bool {
    let count = counts.entry(*entry).or_default();
    *count += 1;
    *count == 1
}

fn release_one(counts: &mut HashMap<Entry, u32>, entry: &Entry) -> bool {
    let Some(count) = counts.get_mut(entry) else {
        return false;
    };
    *count -= 1;
    let last = *count == 0;
    if last {
        counts.remove(entry);
    }
    last
}

fn set_type(kind: SetKind) -> SetType {
    match kind {
        SetKind::Nets => SetType::Net,
        SetKind::NetPorts => SetType::NetPort,
    }
}

/// What a member becomes in the kernel set of one family.
fn entries(kind: SetKind, member: &SetMember, family: Family) -> Vec<Entry> {
    match (kind, *member) {
        (SetKind::Nets, SetMember::Net(net)) if Family::of(&net) == family => {
            storable(net).map(Entry::Net).collect()
        }
        (SetKind::NetPorts, SetMember::NetPort(net, protocol, port))
            if Family::of(&net) == family =>
        {
            storable(net)
                .map(|net| Entry::NetPort(net, protocol, port))
                .collect()
        }
        (SetKind::Nets, SetMember::NetPort(..)) | (SetKind::NetPorts, SetMember::Net(_)) => {
            tracing::warn!(?member, ?kind, "set member of the wrong shape ignored");
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// An endpoint that is down is in no set: nothing comes from it and nothing goes to it.
fn member_entries(endpoint: &Endpoint, families: &[Family]) -> Vec<Entry> {
    let Some(ifname) = IfName::new(&endpoint.ifname).filter(|_| endpoint.admin_up) else {
        return Vec::new();
    };
    let nets = endpoint
        .addresses
        .iter()
        .chain(&endpoint.allowed_source_prefixes);
    let own = nets.filter(|net| families.contains(&Family::of(net)));
    let mut entries: Vec<Entry> = own
        .flat_map(|net| storable(*net))
        .map(|net| Entry::NetIface(net, ifname))
        .collect();
    entries.sort_unstable();
    entries.dedup();
    entries
}

/// The name of the group that an endpoint belongs to: the hash of all that decides its chains.
fn group_name(endpoint: &Endpoint) -> String {
    let mut text = String::new();
    for (word, direction) in [("ingress", &endpoint.ingress), ("egress", &endpoint.egress)] {
        text.push_str(word);
        text.push('\n');
        for tier in direction
            .tiers
            .iter()
            .filter(|tier| !tier.policies.is_empty())
        {
            let default = match tier.default_action {
                TierDefault::Deny => "deny",
                TierDefault::Pass => "pass",
            };
            text.push_str(&format!("tier {:?} {default}\n", tier.name));
            for policy in &tier.policies {
                text.push_str(&format!("policy {:?}\n", policy.as_str()));
            }
        }
    }
    for profile in &endpoint.profiles {
        text.push_str(&format!("profile {:?}\n", profile.as_str()));
    }
    names::short_hash(&text)
}
