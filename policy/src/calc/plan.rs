//! Plans of endpoints: which tiers and policies apply, in which order.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_model::kind::ResourceKey;

use super::Calc;
use super::policies::{MISSING_TIER, Policy};
use crate::program::{Direction, EndpointPlan, TierPlan, Update};

impl Calc {
    /// Makes the plans of dirty endpoints anew; gives removals and changes.
    pub(super) fn settle_endpoints(&mut self) -> (Vec<Update>, Vec<Update>) {
        let (mut gone, mut set) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.dirty.endpoints) {
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

    fn endpoint_plan(&self, key: &ResourceKey) -> Option<EndpointPlan> {
        let id = self.items.id(key)?;
        let local = self.items.get(id)?.local.as_ref()?;
        let applying: Vec<(&ResourceKey, &Policy)> = self
            .locals
            .selectors_of(id)
            .filter_map(|selector| self.policies_by_selector.get(&selector))
            .flatten()
            .filter_map(|key| Some((key, &self.policies.get(key)?.policy)))
            .collect();
        Some(EndpointPlan {
            key: key.clone(),
            ifname: local.ifname.clone(),
            addresses: local.addresses.clone(),
            ingress: self.tier_plans(&applying, Direction::Ingress),
            egress: self.tier_plans(&applying, Direction::Egress),
            profiles: local.profiles.clone(),
            admin_up: !local.ifname.is_empty(),
            allowed_source_prefixes: local.allowed_source_prefixes.clone(),
        })
    }

    fn tier_plans(
        &self,
        applying: &[(&ResourceKey, &Policy)],
        direction: Direction,
    ) -> Vec<TierPlan> {
        let mut tiers: BTreeMap<_, Vec<(&ResourceKey, &Policy)>> = BTreeMap::new();
        for &(key, policy) in applying
            .iter()
            .filter(|(_, policy)| policy.covers(direction))
        {
            let tier = self.tier(&policy.tier).unwrap_or(MISSING_TIER);
            tiers
                .entry((tier.order, &policy.tier))
                .or_default()
                .push((key, policy));
        }
        let plan = |((_, name), mut policies): ((_, &String), Vec<(&ResourceKey, &Policy)>)| {
            policies.sort_by(|(a, pa), (b, pb)| pa.sort_key(a).cmp(&pb.sort_key(b)));
            TierPlan {
                name: name.clone(),
                default_action: self.tier(name).unwrap_or(MISSING_TIER).default_action,
                policies: policies.into_iter().map(|(key, _)| key.clone()).collect(),
            }
        };
        tiers.into_iter().map(plan).collect()
    }
}
