//! Adds updates up and panics at the first one that breaks the promised order.

use std::collections::BTreeSet;

use super::*;

#[derive(Default)]
pub(super) struct Checker {
    pub(super) view: View,
}

impl Checker {
    /// Takes the updates of one flush.
    pub(super) fn take(&mut self, updates: Vec<Update>) {
        let mut seen = BTreeSet::new();
        for update in updates {
            assert!(
                seen.insert(key_of(&update)),
                "{update:?} is the second of its key"
            );
            self.check(&update);
            self.view.apply(update);
            self.check_references();
        }
    }

    fn check(&self, update: &Update) {
        let view = &self.view;
        let known = match update {
            Update::SetAdded { id, members, .. } => {
                assert!(members.is_sorted_by(|a, b| a < b), "{update:?}");
                !view.sets.contains_key(id)
            }
            Update::SetChanged {
                id,
                kind,
                added,
                removed,
            } => {
                let (old_kind, members) = &view.sets[id];
                assert!(added.is_sorted_by(|a, b| a < b) && removed.is_sorted_by(|a, b| a < b));
                assert!(
                    !(added.is_empty() && removed.is_empty()),
                    "{update:?} says nothing"
                );
                old_kind == kind
                    && added.iter().all(|m| !members.contains(m))
                    && removed.iter().all(|m| members.contains(m))
            }
            Update::SetRemoved { id } => view.sets.contains_key(id),
            Update::PolicyRules { id, rules } => view.policies.get(id) != Some(rules),
            Update::PolicyRemoved { id } => view.policies.contains_key(id),
            Update::ProfileRules { name, rules } => view.profiles.get(name) != Some(rules),
            Update::ProfileRemoved { name } => view.profiles.contains_key(name),
            Update::Endpoint { id, plan } => view.endpoints.get(id) != Some(plan),
            Update::EndpointRemoved { id } => view.endpoints.contains_key(id),
            Update::HostEndpoint { id, plan } => view.hosts.get(id) != Some(plan),
            Update::HostEndpointRemoved { id } => view.hosts.contains_key(id),
        };
        assert!(known, "{update:?} does not fit what was said before");
    }

    fn check_references(&self) {
        let View {
            sets,
            policies,
            profiles,
            endpoints,
            hosts,
        } = &self.view;
        for rules in policies.values().chain(profiles.values()) {
            for id in rules.set_ids() {
                assert!(
                    sets.contains_key(id),
                    "a rule refers to the unknown set {id}"
                );
            }
        }
        for plan in endpoints.values() {
            for tier in plan.ingress.iter().chain(&plan.egress) {
                assert!(!tier.policies.is_empty());
                assert!(
                    tier.policies.iter().all(|p| policies.contains_key(p)),
                    "{plan:?}"
                );
            }
            assert!(
                plan.profiles.iter().all(|p| profiles.contains_key(p)),
                "{plan:?}"
            );
        }
        for plan in hosts.values() {
            for tier in plan.all_tiers() {
                assert!(!tier.policies.is_empty());
                assert!(
                    tier.policies.iter().all(|p| policies.contains_key(p)),
                    "{plan:?}"
                );
            }
            assert!(
                plan.profiles.iter().all(|p| profiles.contains_key(p)),
                "{plan:?}"
            );
        }
    }
}

fn key_of(update: &Update) -> String {
    match update {
        Update::SetAdded { id, .. } | Update::SetChanged { id, .. } | Update::SetRemoved { id } => {
            id.to_string()
        }
        Update::PolicyRules { id, .. }
        | Update::PolicyRemoved { id }
        | Update::Endpoint { id, .. }
        | Update::EndpointRemoved { id }
        | Update::HostEndpoint { id, .. }
        | Update::HostEndpointRemoved { id } => id.to_string(),
        Update::ProfileRules { name, .. } | Update::ProfileRemoved { name } => {
            format!("profile {name}")
        }
    }
}
