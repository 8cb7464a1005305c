//! Sets that rules refer to, and their members.

use super::State;
use super::rules::RulesState;
use crate::filter::{
    kernel::Kernel,
    members::{entries, set_type},
    names,
    types::{SetId, SetMember, SetSpec},
};

impl State {
    pub(in crate::filter) fn set_ipset(
        &mut self,
        kernel: &mut dyn Kernel,
        id: SetId,
        spec: SetSpec,
    ) {
        let other_kind = self.sets.get(&id).is_none_or(|old| old.kind != spec.kind);
        if other_kind {
            self.remove_ipset(kernel, &id);
            self.mark_users(&id);
        }
        self.want_ipset(kernel, &id, &spec);
        self.sets.insert(id, spec);
    }

    pub(super) fn want_ipset(&self, kernel: &mut dyn Kernel, id: &SetId, spec: &SetSpec) {
        for family in &self.families {
            let name = names::user_set(*family, id, spec.kind);
            kernel.want(&name, set_type(spec.kind), *family);
            let members = spec.members.iter();
            let entries = members.flat_map(|m| entries(spec.kind, m, *family));
            kernel.replace(&name, entries.collect());
        }
    }

    pub(in crate::filter) fn empty_ipset(&mut self, kernel: &mut dyn Kernel, id: &SetId) {
        let Some(spec) = self.sets.get_mut(id) else {
            return;
        };
        spec.members.clear();
        for family in &self.families {
            let name = names::user_set(*family, id, spec.kind);
            kernel.replace(&name, Vec::new());
        }
    }

    pub(in crate::filter) fn update_ipset(
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

    pub(in crate::filter) fn has_member(&self, id: &SetId, member: &SetMember) -> bool {
        let set = self.sets.get(id);
        set.is_some_and(|spec| spec.members.contains(member))
    }

    pub(in crate::filter) fn remove_ipset(&mut self, kernel: &mut dyn Kernel, id: &SetId) {
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
}
