//! Endpoints of workloads, gathered in groups that go through the same rules.

use std::collections::HashMap;

use super::State;
use super::rules::RulesId;
use crate::filter::{
    kernel::Kernel,
    members::{group_name, hold_one, member_entries, release_one},
    names::{self, Way},
    types::{Direction, Endpoint, EndpointId, Family, Limits, ProfileId},
};
use crate::ipset::{Entry, SetType};

/// Endpoints that go through the same tiers and profiles.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) ingress: Direction,
    pub(super) egress: Direction,
    pub(super) profiles: Vec<ProfileId>,
    /// How many endpoints hold each member.
    pub(super) members: HashMap<Entry, u32>,
    pub(super) endpoints: usize,
}

impl Group {
    pub(super) fn direction(&self, way: Way) -> &Direction {
        match way {
            Way::Ingress => &self.ingress,
            Way::Egress => &self.egress,
        }
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = RulesId> + '_ {
        let tiers = self.ingress.tiers.iter().chain(&self.egress.tiers);
        let policies = tiers
            .flat_map(|tier| &tier.policies)
            .cloned()
            .map(RulesId::Policy);
        policies.chain(self.profiles.iter().cloned().map(RulesId::Profile))
    }
}

#[derive(Debug)]
pub(super) struct Attached {
    pub(super) endpoint: Endpoint,
    pub(super) group: String,
    pub(super) entries: Vec<Entry>,
}

impl State {
    pub(in crate::filter) fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id).map(|attached| &attached.endpoint)
    }

    pub(in crate::filter) fn set_endpoint(
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

    pub(in crate::filter) fn remove_endpoint(&mut self, kernel: &mut dyn Kernel, id: &EndpointId) {
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

    pub(super) fn drop_group(&mut self, kernel: &mut dyn Kernel, name: &str) {
        self.groups.remove(name);
        self.groups_dirty.insert(name.to_owned());
        self.structure_dirty = true;
        for family in &self.families {
            kernel.unwant(&names::group_set(*family, name));
        }
    }

    /// Drops groups without endpoints.
    pub(in crate::filter) fn sweep_groups(&mut self, kernel: &mut dyn Kernel) {
        let empty = self.groups.iter().filter(|(_, group)| group.endpoints == 0);
        for name in empty.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.drop_group(kernel, &name);
        }
    }
}
