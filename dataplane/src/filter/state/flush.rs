//! From the desired state to sets and chains: only what a change touched.

use std::collections::{BTreeMap, BTreeSet};

use super::{Families, Group, RulesId, State};
use crate::{
    filter::{
        chains::{self, ChainText},
        hosts,
        names::{self, Way},
        rules::{self, Rendered},
        sets::Sets,
        types::{Family, HostEndpoint, Phase, SetId, SetSpec},
    },
    ipset::{Entry, SetType, storable},
    iptables::{Chain, Rank, Table, Tables},
};

const SET_UNKNOWN: &str = "refers to an unknown set\t-j DROP";
const RULES_UNKNOWN: &str = "not known\t-j DROP";

impl State {
    /// Hands what changed to sets and tables. Until `may_delete`, what is in the kernel without
    /// being desired stays in force: groups stay dispatched to, and a policy that is not known (yet)
    /// keeps its chain.
    pub(in crate::filter) fn flush(
        &mut self,
        kernel: &mut Sets,
        tables: &mut Families,
        may_delete: bool,
    ) {
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
        if structure || self.hosts_dirty {
            self.flush_early_verdicts(tables);
        }
        self.flush_rules(kernel, tables, may_delete);
        self.flush_groups(tables);
        if std::mem::take(&mut self.hosts_dirty) {
            self.flush_hosts(tables, may_delete);
        }
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
            let table = state.rules.phase.table();
            let verdicts = match state.rules.phase {
                Phase::Filter => self.verdicts.clone(),
                Phase::Untracked | Phase::PreDnat => self.verdicts.early(),
            };
            for (family, tables) in tables.iter_mut() {
                for way in Way::BOTH {
                    for other in Phase::ALL.map(Phase::table) {
                        if other != table {
                            tables.remove(other, &id.chain(way));
                        }
                    }
                    let rendered = rules::render(state.of(way), *family, &verdicts);
                    let complete = complete(&rendered, &self.sets);
                    let helpers = rendered.helpers.into_iter();
                    state
                        .helpers
                        .extend(helpers.map(|(name, nets)| ((*family, name), nets)));
                    state.sets.extend(rendered.sets);
                    state.origins.insert((*family, way), rendered.origins);
                    let name = id.chain(way);
                    if complete {
                        program_rules(tables, table, name, rendered.lines);
                    } else if may_delete || !tables.has_chain(table, &name) {
                        program_rules(tables, table, name, vec![SET_UNKNOWN.to_owned()]);
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

    /// The chains that early policies end in, as long as there are such policies.
    fn flush_early_verdicts(&self, tables: &mut Families) {
        let hosts = self.hosts.values().flat_map(HostEndpoint::rules);
        let mut used: BTreeSet<Phase> = hosts.map(|(phase, _)| phase).collect();
        used.extend(self.rules.values().map(|state| state.rules.phase));
        for tables in tables.values_mut() {
            for phase in [Phase::Untracked, Phase::PreDnat] {
                for chain in self.verdicts.chains(phase.table()) {
                    match used.contains(&phase) {
                        true => program(tables, chain),
                        false => tables.remove(chain.table, &chain.name),
                    }
                }
            }
        }
    }

    /// Policy of the host itself, once it is known whole. Until then what an earlier agent left stays.
    fn flush_hosts(&mut self, tables: &mut Families, may_delete: bool) {
        let mut now = BTreeSet::new();
        for (family, tables) in tables.iter_mut() {
            if !may_delete {
                for chain in hosts::none() {
                    if !tables.has_chain(chain.table, &chain.name) {
                        program(tables, chain);
                    }
                }
                for (table, builtin, target) in hosts::EARLY_HOOKS {
                    if tables.has_chain(table, target) {
                        tables.hook(table, builtin, target);
                    }
                }
                continue;
            }
            for chain in hosts::render(&self.hosts, &self.globals, &self.verdicts, *family) {
                now.insert((chain.table, chain.name.clone()));
                program(tables, chain);
            }
            for (table, builtin, target) in hosts::EARLY_HOOKS {
                match now.contains(&(table, target.to_owned())) {
                    true => tables.hook(table, builtin, target),
                    false => tables.unhook(table, builtin),
                }
            }
            for (table, name) in self.host_chains.difference(&now) {
                tables.remove(*table, name);
            }
        }
        self.host_chains = now;
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
        let groups = self.groups.values().flat_map(Group::rules);
        let groups = groups.map(|id| (Phase::Filter, id));
        let hosts = self.hosts.values().flat_map(HostEndpoint::rules);
        let references: BTreeSet<(Phase, RulesId)> = groups.chain(hosts).collect();
        let referenced: BTreeSet<RulesId> = references.iter().map(|(_, id)| id.clone()).collect();
        let known = |phase: Phase, id: &RulesId| {
            self.rules
                .get(id)
                .is_some_and(|state| state.rules.phase == phase)
        };
        let gone = |id: &&RulesId| !self.rules.contains_key(id) && !referenced.contains(id);
        let gone: Vec<RulesId> = self.programmed.iter().filter(gone).cloned().collect();
        for tables in tables.values_mut() {
            for id in &gone {
                for way in Way::BOTH {
                    for phase in Phase::ALL {
                        tables.remove(phase.table(), &id.chain(way));
                    }
                }
            }
            for (phase, id) in references.iter().filter(|(p, id)| !known(*p, id)) {
                let table = phase.table();
                for name in Way::BOTH.map(|way| id.chain(way)) {
                    if may_delete || !tables.has_chain(table, &name) {
                        program_rules(tables, table, name, vec![RULES_UNKNOWN.to_owned()]);
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

fn program(tables: &mut Tables, chain: ChainText) {
    let content = Chain::new(&chain.name, chain.rank, &chain.lines);
    tables.set(chain.table, &chain.name, content);
}

fn program_rules(tables: &mut Tables, table: Table, name: String, lines: Vec<String>) {
    program(
        tables,
        ChainText {
            table,
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
