//! From the desired state to sets and chains: only what a change touched.

use std::collections::{BTreeMap, BTreeSet};

use super::State;
use super::endpoints::{Attached, Group};
use super::rules::{RulesId, tables};
use crate::{
    filter::{
        chains, hosts,
        kernel::Kernel,
        limits,
        names::{self, Way},
        ports,
        program::{Chain, ChainId, Line, Target},
        rules::{self, Rendered},
        tunnels,
        types::{Family, HostEndpoint, Phase, SetId, SetSpec},
    },
    ipset::{Entry, SetType, storable},
    iptables::{Rank, Table},
};

/// Stands in for rules that cannot be given.
fn drop_all(why: &str) -> Vec<Line> {
    vec![Line::always(Target::Drop).noted(why)]
}

const SET_UNKNOWN: &str = "refers to an unknown set";
const RULES_UNKNOWN: &str = "not known";

impl State {
    /// Hands what changed to the backend. Until `may_delete`, what is in the kernel without
    /// being desired stays in force: groups stay dispatched to, and a policy that is not known (yet)
    /// keeps its chain.
    pub(in crate::filter) fn flush(&mut self, kernel: &mut dyn Kernel, may_delete: bool) {
        if !may_delete {
            self.displace_members(kernel);
        }
        if std::mem::take(&mut self.limits_dirty) {
            self.flush_limits(kernel, may_delete);
        }
        if std::mem::take(&mut self.globals_dirty) {
            self.flush_globals(kernel, may_delete);
        }
        let structure = std::mem::take(&mut self.structure_dirty);
        if structure {
            self.drop_useless_groups(kernel);
        }
        if structure || self.hosts_dirty {
            self.flush_early_verdicts(kernel);
        }
        self.flush_rules(kernel, may_delete);
        self.flush_groups(kernel);
        if std::mem::take(&mut self.hosts_dirty) {
            self.flush_hosts(kernel, may_delete);
        }
        if std::mem::take(&mut self.ports_dirty) {
            self.flush_ports(kernel, may_delete);
        }
        if structure {
            self.flush_unknown_rules(kernel, may_delete);
            self.flush_dispatch(kernel, may_delete);
        }
    }

    /// An endpoint that an earlier agent put into another group is to leave that one.
    fn displace_members(&self, kernel: &mut dyn Kernel) {
        for attached in self.endpoints.values() {
            for entry in &attached.entries {
                let family = Family::of(&entry.net());
                kernel.displace(&names::group_set(family, &attached.group), entry, family);
            }
        }
    }

    fn drop_useless_groups(&mut self, kernel: &mut dyn Kernel) {
        let known = |id: &RulesId| self.rules.contains_key(id);
        let useless = |group: &Group| group.endpoints == 0 && !group.rules().all(|id| known(&id));
        let names = self.groups.iter().filter(|(_, group)| useless(group));
        for name in names.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.drop_group(kernel, &name);
        }
        self.structure_dirty = false;
    }

    fn flush_globals(&self, kernel: &mut dyn Kernel, may_delete: bool) {
        for family in &self.families {
            for chain in chains::fixed(&self.globals, &self.limited, &self.verdicts, *family) {
                kernel.set_chain(*family, chain);
            }
            if !self.globals.clamp_segments {
                let id = ChainId::Fixed(chains::SEGMENTS);
                kernel.remove_chain(*family, Table::Filter, &id);
            }
            for (table, builtin, target) in chains::HOOKS {
                kernel.hook(*family, table, builtin, target);
            }
            self.flush_nat(kernel, *family, may_delete);
            for (name, pools) in [
                (
                    names::masquerade_set(*family),
                    &self.globals.masquerade_pools,
                ),
                (names::pools_set(*family), &self.globals.all_pools),
                (names::hosts_set(*family), &self.globals.hosts),
                (names::services_set(*family), &self.globals.services),
            ] {
                let own = pools.iter().filter(|pool| Family::of(pool) == *family);
                let entries = own.flat_map(|pool| storable(*pool)).map(Entry::Net);
                kernel.replace(&name, entries.collect());
            }
        }
    }

    fn flush_limits(&mut self, kernel: &mut dyn Kernel, may_delete: bool) {
        let mut now = BTreeSet::new();
        for family in self.families.iter().copied() {
            for chain in limits::render(&self.limited, &self.verdicts, family) {
                now.insert((chain.table, chain.id.clone()));
                kernel.set_chain(family, chain);
            }
            let (table, builtin, target) = limits::MARK_HOOK;
            let id = ChainId::Fixed(target);
            let left = !may_delete && kernel.has_chain(family, table, &id);
            match left || now.contains(&(table, id)) {
                true => kernel.hook(family, table, builtin, target),
                false => kernel.unhook(family, table, builtin),
            }
            for (table, id) in self.limit_chains.difference(&now) {
                kernel.remove_chain(family, *table, id);
            }
        }
        self.limit_chains = now;
    }

    /// Translation costs every packet of the host something, also where there is nothing to translate.
    fn flush_nat(&self, kernel: &mut dyn Kernel, family: Family, may_delete: bool) {
        let (table, builtin, target) = chains::NAT_HOOK;
        let pools = &self.globals.masquerade_pools;
        let left = !may_delete && kernel.has_chain(family, table, &ChainId::Fixed(target));
        let has_ports = |attached: &Attached| !attached.endpoint.host_ports.is_empty();
        let wanted = pools.iter().any(|pool| Family::of(pool) == family)
            || !tunnels::own_sources(&self.globals, family).is_empty()
            || self.endpoints.values().any(has_ports);
        match left || wanted {
            true => kernel.hook(family, table, builtin, target),
            false => kernel.unhook(family, table, builtin),
        }
    }

    fn flush_rules(&mut self, kernel: &mut dyn Kernel, may_delete: bool) {
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
            let ways = self
                .families
                .iter()
                .flat_map(|f| Way::BOTH.map(|w| (*f, w)));
            for (family, way) in ways {
                let chain = id.chain(way);
                let tables = tables(state.rules.phase, way, self.late.contains(id));
                for other in Phase::ALL.map(Phase::table) {
                    if !tables.contains(&other) {
                        kernel.remove_chain(family, other, &chain);
                    }
                }
                for table in tables {
                    let early = self.verdicts.early();
                    let verdicts = match table {
                        Table::Filter => &self.verdicts,
                        _ => &early,
                    };
                    let rendered = rules::render(state.of(way), (id, way), family, verdicts);
                    let complete = complete(&rendered, &self.sets);
                    let helpers = rendered.helpers.into_iter();
                    state
                        .helpers
                        .extend(helpers.map(|(name, nets)| ((family, name), nets)));
                    state.sets.extend(rendered.sets);
                    state.origins.insert((family, way), rendered.origins);
                    let lines = match complete {
                        true => rendered.lines,
                        false if may_delete || !kernel.has_chain(family, table, &chain) => {
                            drop_all(SET_UNKNOWN)
                        }
                        false => continue,
                    };
                    let chain = Chain::new(table, chain.clone(), Rank::Policy, lines);
                    kernel.set_chain(family, chain);
                }
            }
            self.programmed.insert(id.clone());
        }
        self.flush_helpers(kernel);
    }

    fn flush_helpers(&mut self, kernel: &mut dyn Kernel) {
        let mut wanted = BTreeSet::new();
        for state in self.rules.values() {
            for ((family, name), nets) in &state.helpers {
                if wanted.insert(name.clone()) && !self.helpers.contains(name) {
                    kernel.want(name, SetType::Net, *family);
                    let entries = nets.iter().flat_map(|net| storable(*net)).map(Entry::Net);
                    kernel.replace(name, entries.collect());
                }
            }
        }
        for name in self.helpers.difference(&wanted) {
            kernel.unwant(name);
        }
        self.helpers = wanted;
    }

    /// The chains that early policies end in, as long as there are such policies.
    fn flush_early_verdicts(&self, kernel: &mut dyn Kernel) {
        let hosts = self.hosts.values().flat_map(HostEndpoint::rules);
        let mut used: BTreeSet<Table> = hosts.map(|(table, _)| table).collect();
        used.extend(self.rules.values().map(|state| state.rules.phase.table()));
        for family in &self.families {
            for phase in [Phase::Untracked, Phase::PreDnat] {
                for chain in self.verdicts.chains(phase.table()) {
                    match used.contains(&phase.table()) {
                        true => kernel.set_chain(*family, chain),
                        false => kernel.remove_chain(*family, chain.table, &chain.id),
                    }
                }
            }
        }
    }

    /// Policy of the host itself, once it is known whole. Until then what an earlier agent left stays.
    fn flush_hosts(&mut self, kernel: &mut dyn Kernel, may_delete: bool) {
        let mut now = BTreeSet::new();
        for family in self.families.iter().copied() {
            if !may_delete {
                for chain in hosts::none() {
                    if !kernel.has_chain(family, chain.table, &chain.id) {
                        kernel.set_chain(family, chain);
                    }
                }
                for (table, builtin, target) in hosts::EARLY_HOOKS {
                    if kernel.has_chain(family, table, &ChainId::Fixed(target)) {
                        kernel.hook(family, table, builtin, target);
                    }
                }
                continue;
            }
            for chain in hosts::render(&self.hosts, &self.globals, &self.verdicts, family) {
                now.insert((chain.table, chain.id.clone()));
                kernel.set_chain(family, chain);
            }
            for (table, builtin, target) in hosts::EARLY_HOOKS {
                match now.contains(&(table, ChainId::Fixed(target))) {
                    true => kernel.hook(family, table, builtin, target),
                    false => kernel.unhook(family, table, builtin),
                }
            }
            for (table, id) in self.host_chains.difference(&now) {
                kernel.remove_chain(family, *table, id);
            }
        }
        self.host_chains = now;
    }

    /// Until all endpoints are known, the ports that an earlier agent left lead where they did.
    fn flush_ports(&self, kernel: &mut dyn Kernel, may_delete: bool) {
        for family in self.families.iter().copied() {
            let endpoints = self.endpoints.values().map(|attached| &attached.endpoint);
            let (to_workloads, hairpin) = match may_delete {
                true => ports::render(endpoints, &self.globals, family),
                false => (None, ports::no_hairpin()),
            };
            let is_left = !may_delete && kernel.has_chain(family, Table::Nat, &ports::PORTS);
            if may_delete || !kernel.has_chain(family, Table::Nat, &ports::HAIRPIN) {
                kernel.set_chain(family, hairpin);
            }
            for (table, builtin, target) in ports::HOOKS {
                match is_left || to_workloads.is_some() {
                    true => kernel.hook(family, table, builtin, target),
                    false => kernel.unhook(family, table, builtin),
                }
            }
            match to_workloads {
                Some(chain) => kernel.set_chain(family, chain),
                None if may_delete => kernel.remove_chain(family, Table::Nat, &ports::PORTS),
                None => {}
            }
            self.flush_nat(kernel, family, may_delete);
        }
    }

    fn flush_groups(&mut self, kernel: &mut dyn Kernel) {
        for name in std::mem::take(&mut self.groups_dirty) {
            for family in self.families.iter().copied() {
                for way in Way::BOTH {
                    let Some(group) = self.groups.get(&name) else {
                        let id = ChainId::Group(way, name.clone());
                        kernel.remove_chain(family, Table::Filter, &id);
                        continue;
                    };
                    let (direction, profiles) = (group.direction(way), &group.profiles);
                    let chain = chains::group(way, &name, direction, profiles, &self.verdicts);
                    kernel.set_chain(family, chain);
                }
            }
        }
    }

    /// A policy that is referred to but not known drops; chains nobody refers to go.
    fn flush_unknown_rules(&mut self, kernel: &mut dyn Kernel, may_delete: bool) {
        let groups = self.groups.values().flat_map(Group::rules);
        let groups = groups.map(|id| (Table::Filter, id));
        let hosts = self.hosts.values().flat_map(HostEndpoint::rules);
        let references: BTreeSet<(Table, RulesId)> = groups.chain(hosts).collect();
        let referenced: BTreeSet<RulesId> = references.iter().map(|(_, id)| id.clone()).collect();
        let known = |table: Table, id: &RulesId| {
            self.rules.get(id).is_some_and(|state| {
                let is_late = self.late.contains(id);
                tables(state.rules.phase, Way::Egress, is_late).contains(&table)
            })
        };
        let gone = |id: &&RulesId| !self.rules.contains_key(id) && !referenced.contains(id);
        let gone: Vec<RulesId> = self.programmed.iter().filter(gone).cloned().collect();
        for family in self.families.iter().copied() {
            for id in &gone {
                for way in Way::BOTH {
                    for phase in Phase::ALL {
                        kernel.remove_chain(family, phase.table(), &id.chain(way));
                    }
                }
            }
            for (table, id) in references.iter().filter(|(t, id)| !known(*t, id)) {
                let table = *table;
                for chain in Way::BOTH.map(|way| id.chain(way)) {
                    if may_delete || !kernel.has_chain(family, table, &chain) {
                        let lines = drop_all(RULES_UNKNOWN);
                        kernel.set_chain(family, Chain::new(table, chain, Rank::Policy, lines));
                    }
                }
            }
        }
        for id in &gone {
            self.programmed.remove(id);
        }
        self.programmed.extend(referenced);
    }

    fn flush_dispatch(&self, kernel: &mut dyn Kernel, may_delete: bool) {
        for family in self.families.iter().copied() {
            let mut groups: BTreeSet<String> = self.groups.keys().cloned().collect();
            if !may_delete {
                groups.extend(kernel.adopted_groups(family));
            }
            for way in Way::BOTH {
                let groups = groups.iter().cloned().collect();
                kernel.set_chain(family, chains::dispatch(way, groups));
            }
        }
    }
}

fn complete(rendered: &Rendered, sets: &BTreeMap<SetId, SetSpec>) -> bool {
    rendered
        .sets
        .iter()
        .all(|(id, kind)| sets.get(id).is_some_and(|spec| spec.kind == *kind))
}
