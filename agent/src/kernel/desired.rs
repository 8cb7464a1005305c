//! What the graph says, taken into the desired state of rules, sets and routes. Nothing here touches the kernel.

use std::net::IpAddr;
use std::sync::Arc;

use margay_dataplane::conntrack::UdpPorts;
use margay_dataplane::filter::{Globals, SetSpec, Wish};
use margay_model::kind::ResourceKey;
use margay_policy::program::{EndpointPlan, Update};
use tracing::warn;

use super::{Kernel, Moves, RulesKey, Unused, announced};
use crate::translate;

const UDP: u8 = 17;

impl Kernel {
    /// Takes the calculation's updates into the desired state.
    pub(super) fn accept(&mut self, updates: Vec<Update>, moves: &mut Moves) {
        for update in updates {
            let plans = &self.plans;
            self.denied.changed(&update, |id| plans.contains_key(id));
            match update {
                Update::SetAdded { id, kind, members } => {
                    let members = members.into_iter().map(translate::set_member).collect();
                    let spec = SetSpec {
                        kind: translate::set_kind(kind),
                        members,
                    };
                    let id = translate::set_id(&id);
                    self.unused.remove(&Unused::Set(id.clone()));
                    self.filter.set_ipset(id, spec);
                    self.sets += 1;
                }
                Update::SetChanged {
                    id,
                    kind,
                    added,
                    removed,
                } => {
                    let id = translate::set_id(&id);
                    let added = added.into_iter().map(translate::set_member);
                    let removed = removed.into_iter().map(translate::set_member);
                    if !self.filter.update_ipset(&id, added, removed) {
                        warn!(%id, ?kind, "members for a set that does not exist");
                    }
                }
                Update::PolicyRules { id, rules } => self.need_rules(RulesKey::Policy(id), rules),
                Update::ProfileRules { name, rules } => {
                    self.need_rules(RulesKey::Profile(name), rules);
                }
                Update::EndpointRemoved { id } => self.remove_endpoint(&id, moves),
                Update::Endpoint { id, plan } => self.set_endpoint(id, plan, moves),
                Update::HostEndpoint { id, plan } => self.hosts.set(id, plan),
                Update::HostEndpointRemoved { id } => self.hosts.remove(&id),
                Update::PolicyRemoved { id } => {
                    self.unused.insert(Unused::Rules(RulesKey::Policy(id)));
                }
                Update::ProfileRemoved { name } => {
                    self.unused.insert(Unused::Rules(RulesKey::Profile(name)));
                }
                Update::SetRemoved { id } => {
                    // Kept, but not as it was: nobody tells of its members any more.
                    self.sets = self.sets.saturating_sub(1);
                    let id = translate::set_id(&id);
                    self.filter.empty_ipset(&id);
                    self.unused.insert(Unused::Set(id));
                }
            }
        }
    }

    fn need_rules(&mut self, key: RulesKey, rules: Arc<margay_policy::program::Rules>) {
        self.set_rules(&key, rules);
        self.unused.remove(&Unused::Rules(key));
    }

    fn set_rules(&mut self, key: &RulesKey, rules: Arc<margay_policy::program::Rules>) {
        let rendered = translate::rules(&rules);
        match key {
            RulesKey::Policy(id) => self.filter.set_policy(translate::policy_id(id), rendered),
            RulesKey::Profile(name) => {
                self.filter
                    .set_profile(translate::profile_id(name), rendered);
            }
        }
        self.rules_of.insert(key.clone(), rules);
    }

    pub(super) fn drop_unused(&mut self) {
        for unused in std::mem::take(&mut self.unused) {
            match unused {
                Unused::Rules(key) => {
                    self.rules_of.remove(&key);
                    match key {
                        RulesKey::Policy(id) => {
                            self.filter.remove_policy(&translate::policy_id(&id));
                        }
                        RulesKey::Profile(name) => {
                            self.filter.remove_profile(&translate::profile_id(&name));
                        }
                    }
                }
                Unused::Set(id) => self.filter.remove_ipset(&id),
            }
        }
        self.filter.sweep();
    }

    pub(super) fn set_globals(&mut self, mut globals: Globals) {
        globals.nflog = self.nflog;
        let prefix = globals.interface_prefix.clone();
        self.denied.set_globals(&globals);
        match self.filter.set_globals(globals) {
            Ok(()) => self.interface_prefix = prefix,
            Err(error) => warn!(%error, "dataplane settings refused, the old ones stay"),
        }
    }

    pub(super) fn set_backend(&mut self, wish: Wish) {
        if let Err(error) = self.filter.set_backend(wish) {
            warn!(%error, "policy stays where it is");
        }
    }

    fn set_endpoint(&mut self, id: ResourceKey, plan: Arc<EndpointPlan>, moves: &mut Moves) {
        let endpoint = translate::endpoint(&plan);
        if let Err(error) = self
            .filter
            .set_endpoint(translate::endpoint_id(&id), endpoint)
        {
            // Not in the filter, so every packet from and to it is dropped; not routed either.
            warn!(endpoint = %id, %error, "endpoint refused");
            self.routes.set_endpoint(&id, &plan.ifname, &[]);
            if let Some(before) = self.plans.remove(&id) {
                self.local.remove(announced(&before));
            }
            self.refused.insert(id, error.to_string());
            return;
        }
        self.refused.remove(&id);
        self.routes
            .set_endpoint(&id, &plan.ifname, &translate::routed(&plan));
        self.local.add(announced(&plan), &plan.ifname);
        let new: Vec<IpAddr> = plan.addresses.iter().map(|net| net.addr()).collect();
        let udp = udp_ports(&plan);
        let before = self.plans.insert(id, plan);
        let led_here = |before: &Arc<EndpointPlan>| {
            let same = before
                .addresses
                .iter()
                .map(|net| net.addr())
                .eq(new.iter().copied());
            same && udp_ports(before) == udp
        };
        if !before.as_ref().is_some_and(led_here) {
            moves.udp.extend(udp);
        }
        let had = |ip: &IpAddr| {
            let before = before.as_ref();
            before.is_some_and(|plan| plan.addresses.iter().any(|net| net.addr() == *ip))
        };
        moves.assigned.extend(new.into_iter().filter(|ip| !had(ip)));
        if let Some(before) = before {
            self.local.remove(announced(&before));
        }
    }

    fn remove_endpoint(&mut self, id: &ResourceKey, moves: &mut Moves) {
        self.refused.remove(id);
        self.filter.remove_endpoint(&translate::endpoint_id(id));
        if let Some(plan) = self.plans.remove(id) {
            self.local.remove(announced(&plan));
            self.routes.set_endpoint(id, &plan.ifname, &[]);
            moves
                .freed
                .extend(plan.addresses.iter().map(|net| net.addr()));
        }
    }
}

fn udp_ports(plan: &EndpointPlan) -> UdpPorts {
    let udp = plan.host_ports.iter().filter(|port| port.protocol == UDP);
    let at = |ip: Option<IpAddr>| ip.filter(|ip| !ip.is_unspecified());
    udp.map(|port| (at(port.host_ip), port.host_port)).collect()
}
