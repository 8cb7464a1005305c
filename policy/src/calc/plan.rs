//! Plans of endpoints: which tiers and policies apply, in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use margay_model::kind::ResourceKey;

use super::Calc;
use super::items::{Local, LocalHost};
use super::policies::{MISSING_TIER, Policy};
use crate::program::{
    Action, Direction, EndpointPlan, HostInterface, HostPath, HostPlan, HostPort, Phase, TierPlan,
    Tiers, Update, WHOLE_ADDRESS,
};

/// A policy that applies to an endpoint.
type Applying<'a> = (&'a ResourceKey, &'a Policy);

impl Calc {
    /// Makes the plans of dirty endpoints anew; gives removals and changes.
    pub(super) fn settle_endpoints(
        &mut self,
        dirty: &BTreeSet<ResourceKey>,
    ) -> (Vec<Update>, Vec<Update>) {
        let (mut gone, mut set) = (Vec::new(), Vec::new());
        for id in dirty.iter().cloned() {
            match self.endpoint_plan(&id) {
                Some(plan) if self.emitted.endpoints.get(&id).map(|p| &**p) != Some(&plan) => {
                    let plan = Arc::new(plan);
                    self.emitted.endpoints.insert(id.clone(), Arc::clone(&plan));
                    set.push(Update::Endpoint { id, plan });
                }
                None if self.emitted.endpoints.remove(&id).is_some() => {
                    gone.push(Update::EndpointRemoved { id });
                }
                _ => {}
            }
        }
        (gone, set)
    }

    /// As [`settle_endpoints`](Self::settle_endpoints), for endpoints of hosts.
    pub(super) fn settle_hosts(
        &mut self,
        dirty: &BTreeSet<ResourceKey>,
    ) -> (Vec<Update>, Vec<Update>) {
        let (mut gone, mut set) = (Vec::new(), Vec::new());
        for id in dirty.iter().cloned() {
            match self.host_plan(&id) {
                Some(plan) if self.emitted.hosts.get(&id).map(|p| &**p) != Some(&plan) => {
                    let plan = Arc::new(plan);
                    self.emitted.hosts.insert(id.clone(), Arc::clone(&plan));
                    set.push(Update::HostEndpoint { id, plan });
                }
                None if self.emitted.hosts.remove(&id).is_some() => {
                    gone.push(Update::HostEndpointRemoved { id });
                }
                _ => {}
            }
        }
        (gone, set)
    }

    fn endpoint_plan(&self, key: &ResourceKey) -> Option<EndpointPlan> {
        let (local, applying) = self.local(key)?;
        let Local::Workload(local) = local else {
            return None;
        };
        let all = |_: &Policy| true;
        let tiers = self.both_directions(&applying, all, TierEnd::Default);
        Some(EndpointPlan {
            key: key.clone(),
            ifname: local.ifname.clone(),
            addresses: local.addresses.clone(),
            ingress: tiers.ingress,
            egress: tiers.egress,
            profiles: local.profiles.clone(),
            admin_up: !local.ifname.is_empty(),
            allowed_source_prefixes: local.allowed_source_prefixes.clone(),
            qos: local.qos.clone(),
            host_ports: self.host_ports(key, &local.host_ports),
        })
    }

    /// Without floating IPs that another endpoint has.
    fn host_ports(&self, key: &ResourceKey, asked: &[HostPort]) -> Vec<HostPort> {
        let leads_here = |port: &&HostPort| match port.host_ip {
            Some(address) if port.protocol == WHOLE_ADDRESS => {
                self.floating_ips.leads_to(key, address)
            }
            _ => true,
        };
        asked.iter().filter(leads_here).cloned().collect()
    }

    fn host_plan(&self, key: &ResourceKey) -> Option<HostPlan> {
        let (local, applying) = self.local(key)?;
        let Local::Host(LocalHost {
            interface,
            profiles,
        }) = local
        else {
            return None;
        };
        let tiers = |path: HostPath| {
            let (phase, end) = match path {
                HostPath::Untracked => (Phase::Untracked, TierEnd::GoOn),
                HostPath::PreDnat => (Phase::PreDnat, TierEnd::GoOn),
                HostPath::Own | HostPath::Forwarded => (Phase::Filter, TierEnd::Default),
            };
            let takes_part = |policy: &Policy| {
                policy.phase == phase
                    && (path != HostPath::Forwarded || policy.on_forward)
                    && (path != HostPath::Untracked || *interface != HostInterface::All)
            };
            self.both_directions(&applying, takes_part, end)
        };
        Some(HostPlan {
            key: key.clone(),
            interface: interface.clone(),
            untracked: tiers(HostPath::Untracked),
            pre_dnat: tiers(HostPath::PreDnat),
            own: tiers(HostPath::Own),
            forwarded: tiers(HostPath::Forwarded),
            profiles: profiles.clone(),
        })
    }

    /// A local endpoint and the policies that select it, in no order.
    fn local(&self, key: &ResourceKey) -> Option<(&Local, Vec<Applying<'_>>)> {
        let id = self.items.id(key)?;
        let local = self.items.get(id)?.local.as_deref()?;
        let applying = self
            .locals
            .selectors_of(id)
            .filter_map(|selector| self.policies_by_selector.get(&selector))
            .flatten()
            .filter_map(|key| Some((key, &self.policies.get(key)?.policy)))
            .collect();
        Some((local, applying))
    }

    fn both_directions(
        &self,
        applying: &[Applying<'_>],
        takes_part: impl Fn(&Policy) -> bool,
        end: TierEnd,
    ) -> Tiers {
        let of = |direction| {
            let policies = applying.iter().copied();
            let policies = policies.filter(|(_, p)| takes_part(p) && p.covers(direction));
            self.tier_plans(policies, end)
        };
        Tiers {
            ingress: of(Direction::Ingress),
            egress: of(Direction::Egress),
        }
    }

    fn tier_plans<'a>(
        &self,
        applying: impl Iterator<Item = Applying<'a>>,
        end: TierEnd,
    ) -> Vec<TierPlan> {
        let mut tiers: BTreeMap<_, Vec<Applying<'a>>> = BTreeMap::new();
        for (key, policy) in applying {
            let tier = self.tier(&policy.tier).unwrap_or(MISSING_TIER);
            tiers
                .entry((tier.order, &policy.tier))
                .or_default()
                .push((key, policy));
        }
        let plan = |((_, name), mut policies): ((_, &String), Vec<Applying<'a>>)| {
            policies.sort_by(|(a, pa), (b, pb)| pa.sort_key(a).cmp(&pb.sort_key(b)));
            let decides = policies.iter().any(|(_, policy)| !policy.staged);
            let default_action = match end {
                TierEnd::Default => self.tier(name).unwrap_or(MISSING_TIER).default_action,
                TierEnd::GoOn => Action::Pass,
            };
            TierPlan {
                name: name.clone(),
                default_action: match decides {
                    true => default_action,
                    false => Action::Pass,
                },
                if_enforced: (!decides).then_some(default_action),
                policies: policies.into_iter().map(|(key, _)| key.clone()).collect(),
            }
        };
        tiers.into_iter().map(plan).collect()
    }
}

/// What happens at the end of a tier.
#[derive(Clone, Copy)]
enum TierEnd {
    /// The tier's default action.
    Default,
    /// Later phases decide.
    GoOn,
}
