//! The incremental calculation for one host.
//!
//! [`Calc::update`] and [`Calc::remove`] only take note; [`Calc::flush`] works out what changed. What has
//! been emitted depends on the resources there are, never on the order in which they came. Members of
//! sets come from the whole cluster; rules, profiles and plans only as far as endpoints of this host need
//! them. What cannot be compiled drops everything for what it selects, and an [`Event`] names it.
//!
//! Inside, a flush goes one way: profiles, items and tiers -> policies -> which policies and profiles are
//! *active* (apply to an endpoint here) -> the sets that those need -> plans of endpoints.

mod compile;
mod floating;
mod items;
mod merge;
mod plan;
mod policies;
mod reduce;
mod scope;
mod sets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::StringMap;
use margay_model::profile::Profile as ProfileResource;

use crate::index::{HeldLabels, ItemId, LabelIndex, SelectorId};
use crate::program::{Action, EndpointPlan, HostPlan, Rule, Rules, SetId, Update};
use crate::selector::Selector;
use crate::staged::is_staged;
use compile::{Program, deny_all};
use floating::FloatingIps;
use items::{Contribution, ItemInput, ItemTable, Local, NAMESPACE_PROFILE};
use policies::{Policy, Tier};
use scope::{NAME, NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX};
use sets::SetTable;

/// The profile that exists without a resource and allows everything.
pub const DEFAULT_ALLOW_PROFILE: &str = "projectcalico-default-allow";

/// Which endpoints plans are made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The endpoints of this node: of its workloads and of itself.
    Node(String),
    /// Those of every node, to answer questions about the whole cluster.
    Cluster,
}

/// Something wrong with a resource that does not stop the calculation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The resource.
    pub key: ResourceKey,
    /// What is wrong, for people; `None` when nothing is any more.
    pub message: Option<String>,
}

/// The calculation. See the module.
#[derive(Debug)]
pub struct Calc {
    scope: Scope,
    pending: BTreeMap<ResourceKey, Option<Input>>,
    items: ItemTable,
    /// All items against the selectors of sets.
    members: LabelIndex,
    /// Local endpoints against the selectors of policies.
    locals: LabelIndex,
    sets: SetTable,
    tiers: BTreeMap<String, Tier>,
    policies: BTreeMap<ResourceKey, PolicyState>,
    policies_by_selector: BTreeMap<SelectorId, BTreeSet<ResourceKey>>,
    policies_by_tier: BTreeMap<String, BTreeSet<ResourceKey>>,
    profiles: BTreeMap<String, Arc<Program>>,
    /// How many local endpoints name a profile.
    profile_uses: BTreeMap<String, usize>,
    floating_ips: FloatingIps,
    dirty: Dirty,
    emitted: Emitted,
    problems: BTreeMap<ResourceKey, String>,
    events: BTreeMap<ResourceKey, Option<String>>,
}

#[derive(Debug)]
enum Input {
    Item(Box<PendingItem>),
    Policy(Box<Policy>),
    Profile(Box<ProfileInput>),
    /// With what is wrong with it.
    Tier(Tier, Option<String>),
}

/// An endpoint or network set, its labels already in the index of members: as long as a whole cluster waits
/// for its first flush, they are what takes the room.
#[derive(Debug)]
struct PendingItem {
    labels: HeldLabels,
    contribution: Contribution,
    local: Option<Box<Local>>,
}

#[derive(Debug)]
struct ProfileInput {
    labels: StringMap,
    program: Program,
    problem: Option<String>,
}

#[derive(Debug)]
struct PolicyState {
    policy: Policy,
    /// Its selector among the local endpoints.
    selector: SelectorId,
}

/// What a flush has to look at again.
#[derive(Debug, Default)]
struct Dirty {
    endpoints: BTreeSet<ResourceKey>,
    policies: BTreeSet<ResourceKey>,
    profiles: BTreeSet<String>,
}

/// What the receiver has.
#[derive(Debug, Default)]
struct Emitted {
    endpoints: BTreeMap<ResourceKey, Arc<EndpointPlan>>,
    hosts: BTreeMap<ResourceKey, Arc<HostPlan>>,
    policies: BTreeMap<ResourceKey, Arc<Program>>,
    profiles: BTreeMap<String, Arc<Program>>,
}

impl Calc {
    /// A calculation that knows no resource yet.
    pub fn new(scope: Scope) -> Self {
        let mut calc = Self {
            scope,
            pending: BTreeMap::new(),
            items: ItemTable::default(),
            members: LabelIndex::default(),
            locals: LabelIndex::default(),
            sets: SetTable::default(),
            tiers: BTreeMap::new(),
            policies: BTreeMap::new(),
            policies_by_selector: BTreeMap::new(),
            policies_by_tier: BTreeMap::new(),
            profiles: BTreeMap::new(),
            profile_uses: BTreeMap::new(),
            floating_ips: FloatingIps::default(),
            dirty: Dirty::default(),
            emitted: Emitted::default(),
            problems: BTreeMap::new(),
            events: BTreeMap::new(),
        };
        let allow = || vec![Rule::any(0, Action::Allow)];
        let rules = Arc::new(Rules {
            ingress: allow(),
            egress: allow(),
            ..Rules::default()
        });
        let program = Program {
            rules,
            sets: BTreeMap::new(),
        };
        calc.profiles
            .insert(DEFAULT_ALLOW_PROFILE.to_owned(), Arc::new(program));
        calc
    }

    /// Takes a resource that is new or has changed. Kinds that policy has nothing to do with are ignored.
    pub fn update(&mut self, resource: &AnyResource) {
        let is_local = |node: &str| match &self.scope {
            Scope::Node(name) => name == node,
            Scope::Cluster => true,
        };
        if let AnyResource::WorkloadEndpoint(endpoint) = resource {
            self.floating_ips.set(endpoint);
        }
        let input = if let Some(item) = ItemInput::from_resource(resource, is_local) {
            let parents = item.parents.iter().map(|name| &**name);
            Input::Item(Box::new(PendingItem {
                labels: self.members.hold(item.labels, parents),
                contribution: item.contribution,
                local: item.local,
            }))
        } else if let Some(policy) = Policy::from_resource(resource) {
            Input::Policy(Box::new(policy))
        } else if is_staged(resource.kind()) {
            match Policy::from_staged(resource) {
                Some(policy) => Input::Policy(Box::new(policy)),
                None => return self.remove(&resource.key()),
            }
        } else {
            match resource {
                AnyResource::Profile(profile) => {
                    Input::Profile(Box::new(ProfileInput::new(profile)))
                }
                AnyResource::Tier(tier) => {
                    let (tier, problem) = Tier::from_spec(&tier.spec);
                    Input::Tier(tier, problem)
                }
                _ => return,
            }
        };
        self.note(resource.key(), Some(input));
    }

    /// Takes note that a resource is gone. One that never was is no error.
    pub fn remove(&mut self, key: &ResourceKey) {
        self.floating_ips.remove(key);
        self.note(key.clone(), None);
    }

    fn note(&mut self, key: ResourceKey, input: Option<Input>) {
        if let Some(Some(Input::Item(replaced))) = self.pending.insert(key, input) {
            self.members.let_go(&replaced.labels);
        }
    }

    /// Whether floating IPs lead to endpoints; they do unless told otherwise.
    pub fn enable_floating_ips(&mut self, enabled: bool) {
        self.floating_ips.enable(enabled);
    }

    /// Every floating IP that is asked for, with the endpoint that has it: of several, on whatever host, the oldest.
    pub fn floating_ips(&self) -> impl Iterator<Item = (IpAddr, &ResourceKey)> {
        self.floating_ips.owners()
    }

    /// Works everything out and gives the changes since the last flush, in the order of
    /// [`Update`]'s variants and with each key at most once among those that set and remove it.
    pub fn flush(&mut self) -> Vec<Update> {
        self.take_inputs();
        self.take_floating_ips();
        self.take_local_changes();
        let (policies, policies_gone) = self.settle_policies();
        let (profiles, profiles_gone) = self.settle_profiles();
        let dirty = std::mem::take(&mut self.dirty.endpoints);
        let (endpoints_gone, endpoints) = self.settle_endpoints(&dirty);
        let (hosts_gone, hosts) = self.settle_hosts(&dirty);
        let (sets, sets_gone) = self.sets.emit(&mut self.members);
        [
            sets,
            policies,
            profiles,
            endpoints_gone,
            endpoints,
            hosts_gone,
            hosts,
            policies_gone,
            profiles_gone,
            sets_gone,
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What has come to be wrong, or right again, in the flushes since the last call, by key.
    pub fn take_events(&mut self) -> Vec<Event> {
        let events = std::mem::take(&mut self.events);
        events
            .into_iter()
            .map(|(key, message)| Event { key, message })
            .collect()
    }

    /// Everything that is wrong as of the last flush, by key.
    pub fn problems(&self) -> impl Iterator<Item = (&ResourceKey, &str)> {
        self.problems
            .iter()
            .map(|(key, message)| (key, message.as_str()))
    }

    /// Every endpoint and network set whose labels, own and inherited, a selector matches as of the
    /// last flush, by key. For questions; rules ask through sets.
    pub fn matching(&mut self, selector: &Selector) -> BTreeSet<ResourceKey> {
        let id = self.members.add_selector(selector);
        let items = self.members.items_of(id);
        let found = items.filter_map(|item| Some((*self.items.get(item)?.key).clone()));
        let found = found.collect();
        self.members.release_selector(id);
        found
    }

    /// What a set that rules refer to is made of: whose addresses, and which named port of them.
    pub fn set_source(&self, id: &SetId) -> Option<(&Selector, Option<&str>)> {
        let def = self.sets.def(id)?;
        Some((&def.selector, def.port.as_ref().map(|port| &*port.name)))
    }

    fn take_inputs(&mut self) {
        // Parents before children and tiers before policies: fewer things are looked at twice.
        let rank = |kind: Kind| match kind {
            Kind::Profile => 0,
            Kind::Tier => 1,
            kind if is_policy(kind) => 3,
            _ => 2,
        };
        let mut inputs: Vec<_> = std::mem::take(&mut self.pending).into_iter().collect();
        inputs.sort_by_key(|(key, _)| rank(key.kind));
        for (key, input) in inputs {
            match input {
                Some(Input::Item(item)) => self.set_item(&key, *item),
                Some(Input::Policy(policy)) => self.set_policy(&key, Some(*policy)),
                Some(Input::Profile(profile)) => self.set_profile(&key, Some(*profile)),
                Some(Input::Tier(tier, problem)) => self.set_tier(&key, Some(tier), problem),
                None => match key.kind {
                    Kind::Profile => self.set_profile(&key, None),
                    Kind::Tier => self.set_tier(&key, None, None),
                    kind if is_policy(kind) => self.set_policy(&key, None),
                    _ => self.remove_item(&key),
                },
            }
        }
    }

    fn set_item(&mut self, key: &ResourceKey, input: PendingItem) {
        let PendingItem {
            labels,
            contribution,
            local,
        } = input;
        let id = self.items.ensure(key);
        let Some(item) = self.items.get_mut(id) else {
            return;
        };
        let moved = item.contribution != contribution;
        let old = std::mem::replace(&mut item.contribution, contribution.clone());
        let was_local = std::mem::replace(&mut item.local, local.clone());
        match &local {
            Some(_) => self.members.copy_to(&mut self.locals, id, &labels),
            None => self.locals.remove_item(id),
        }
        if moved {
            for selector in self.members.selectors_of(id) {
                self.sets.remove(selector, &old);
            }
        }
        self.members.set_held(id, labels);
        if moved {
            self.members.take_changes();
            for selector in self.members.selectors_of(id) {
                self.sets.add(selector, &contribution);
            }
        } else {
            self.take_member_changes();
        }
        self.local_endpoint_changed(key, was_local.as_deref(), local.as_deref());
    }

    fn remove_item(&mut self, key: &ResourceKey) {
        let Some(id) = self.items.id(key) else { return };
        self.members.remove_item(id);
        self.take_member_changes();
        self.locals.remove_item(id);
        let local = self.items.get_mut(id).and_then(|item| item.local.take());
        self.items.remove(id);
        self.local_endpoint_changed(key, local.as_deref(), None);
    }

    fn local_endpoint_changed(
        &mut self,
        key: &ResourceKey,
        old: Option<&Local>,
        new: Option<&Local>,
    ) {
        if old == new {
            return;
        }
        self.dirty.endpoints.insert(key.clone());
        for name in new.into_iter().flat_map(Local::profiles) {
            *self.profile_uses.entry(name.clone()).or_insert(0) += 1;
            self.dirty.profiles.insert(name.clone());
        }
        for name in old.into_iter().flat_map(Local::profiles) {
            if let Some(uses) = self.profile_uses.get_mut(name) {
                *uses -= 1;
                if *uses == 0 {
                    self.profile_uses.remove(name);
                }
            }
            self.dirty.profiles.insert(name.clone());
        }
    }

    /// Notes which local endpoints get or lose an address, and says which of them go without.
    fn take_floating_ips(&mut self) {
        for key in self.floating_ips.take_changed() {
            let id = self.items.id(&key);
            let local = id.and_then(|id| self.items.get(id)?.local.as_ref());
            let problem = local.and_then(|_| self.floating_ips.problem(&key));
            self.set_problem(&key, problem);
            self.dirty.endpoints.insert(key);
        }
    }

    /// Carries matches that started or stopped over to the sets.
    fn take_member_changes(&mut self) {
        for change in self.members.take_changes() {
            let Some(item) = self.items.get(change.item) else {
                continue;
            };
            match change.matches {
                true => self.sets.add(change.selector, &item.contribution),
                false => self.sets.remove(change.selector, &item.contribution),
            }
        }
    }

    /// Notes which local endpoints and policies are affected by matches that started or stopped.
    fn take_local_changes(&mut self) {
        for change in self.locals.take_changes() {
            if let Some(item) = self.items.get(change.item) {
                self.dirty.endpoints.insert((*item.key).clone());
            }
            let policies = self.policies_by_selector.get(&change.selector);
            self.dirty
                .policies
                .extend(policies.into_iter().flatten().cloned());
        }
    }

    fn set_profile(&mut self, key: &ResourceKey, input: Option<ProfileInput>) {
        if key.name == DEFAULT_ALLOW_PROFILE {
            return;
        }
        let labels = input.as_ref().map(|p| p.labels.clone()).unwrap_or_default();
        let labels = || labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        self.members.set_parent(&key.name, labels());
        self.take_member_changes();
        self.locals.set_parent(&key.name, labels());
        self.set_problem(key, input.as_ref().and_then(|p| p.problem.clone()));
        match input {
            Some(input) => self
                .profiles
                .insert(key.name.clone(), Arc::new(input.program)),
            None => self.profiles.remove(&key.name),
        };
        self.dirty.profiles.insert(key.name.clone());
    }

    fn set_tier(&mut self, key: &ResourceKey, tier: Option<Tier>, problem: Option<String>) {
        self.set_problem(key, problem);
        let old = match tier {
            Some(tier) => self.tiers.insert(key.name.clone(), tier),
            None => self.tiers.remove(&key.name),
        };
        if old == tier || Tier::built_in(&key.name).is_some() {
            return;
        }
        for policy in self
            .policies_by_tier
            .get(&key.name)
            .cloned()
            .unwrap_or_default()
        {
            self.check_policy(&policy);
            self.touch_selected(&policy);
        }
    }

    fn set_policy(&mut self, key: &ResourceKey, policy: Option<Policy>) {
        if self.policies.get(key).map(|state| &state.policy) == policy.as_ref() {
            return;
        }
        self.touch_selected(key);
        if let Some(old) = self.policies.remove(key) {
            forget(&mut self.policies_by_tier, &old.policy.tier, key);
            forget(&mut self.policies_by_selector, &old.selector, key);
            self.locals.release_selector(old.selector);
        }
        if let Some(policy) = policy {
            let selector = self.locals.add_selector(&policy.selector);
            self.policies_by_selector
                .entry(selector)
                .or_default()
                .insert(key.clone());
            self.policies_by_tier
                .entry(policy.tier.clone())
                .or_default()
                .insert(key.clone());
            self.policies
                .insert(key.clone(), PolicyState { policy, selector });
        }
        self.touch_selected(key);
        self.dirty.policies.insert(key.clone());
        self.check_policy(key);
    }

    /// Marks the endpoints that a policy selects.
    fn touch_selected(&mut self, key: &ResourceKey) {
        let Some(state) = self.policies.get(key) else {
            return;
        };
        for id in self.locals.items_of(state.selector) {
            self.dirty
                .endpoints
                .extend(self.items.get(id).map(|item| (*item.key).clone()));
        }
    }

    fn check_policy(&mut self, key: &ResourceKey) {
        let problem = self.policies.get(key).and_then(|PolicyState { policy, .. }| {
            let missing = self.tier(&policy.tier).is_none().then(|| {
                let tier = &policy.tier;
                format!("tier: \"{tier}\" does not exist; the policy comes last, and what it does not allow is dropped")
            });
            let all: Vec<String> = policy.problem.iter().cloned().chain(missing).collect();
            (!all.is_empty()).then(|| all.join("; "))
        });
        self.set_problem(key, problem);
    }

    fn tier(&self, name: &str) -> Option<Tier> {
        Tier::built_in(name).or_else(|| self.tiers.get(name).copied())
    }

    fn set_problem(&mut self, key: &ResourceKey, problem: Option<String>) {
        if self.problems.get(key) == problem.as_ref() {
            return;
        }
        match &problem {
            Some(text) => self.problems.insert(key.clone(), text.clone()),
            None => self.problems.remove(key),
        };
        self.events.insert(key.clone(), problem);
    }

    fn settle_policies(&mut self) -> (Vec<Update>, Vec<Update>) {
        let (mut set, mut gone) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.dirty.policies) {
            let state = self.policies.get(&id);
            let active = state.filter(|s| self.locals.match_count(s.selector) > 0);
            let new = active.map(|s| Arc::clone(&s.policy.program));
            let old = self.emitted.policies.get(&id).cloned();
            self.switch_sets(old.as_deref(), new.as_deref());
            match new {
                Some(program) if old.as_ref() != Some(&program) => {
                    set.push(Update::PolicyRules {
                        id: id.clone(),
                        rules: Arc::clone(&program.rules),
                    });
                    self.emitted.policies.insert(id, program);
                }
                None if old.is_some() => {
                    self.emitted.policies.remove(&id);
                    gone.push(Update::PolicyRemoved { id });
                }
                _ => {}
            }
        }
        (set, gone)
    }

    fn settle_profiles(&mut self) -> (Vec<Update>, Vec<Update>) {
        let (mut set, mut gone) = (Vec::new(), Vec::new());
        for name in std::mem::take(&mut self.dirty.profiles) {
            let new =
                self.profile_uses
                    .contains_key(&name)
                    .then(|| match self.profiles.get(&name) {
                        Some(program) => Arc::clone(program),
                        None => Arc::new(deny_all()),
                    });
            let old = self.emitted.profiles.get(&name).cloned();
            self.switch_sets(old.as_deref(), new.as_deref());
            match new {
                Some(program) if old.as_ref() != Some(&program) => {
                    let rules = Arc::clone(&program.rules);
                    set.push(Update::ProfileRules {
                        name: name.clone(),
                        rules,
                    });
                    self.emitted.profiles.insert(name, program);
                }
                None if old.is_some() => {
                    self.emitted.profiles.remove(&name);
                    gone.push(Update::ProfileRemoved { name });
                }
                _ => {}
            }
        }
        (set, gone)
    }

    /// Takes the sets of one program into use in place of those of another.
    fn switch_sets(&mut self, old: Option<&Program>, new: Option<&Program>) {
        if old == new {
            return;
        }
        for (id, def) in new.into_iter().flat_map(|program| &program.sets) {
            let items = &self.items;
            let contribution = |item: ItemId| items.get(item).map(|i| i.contribution.clone());
            self.sets.acquire(id, def, &mut self.members, contribution);
        }
        let old_ids: Vec<&SetId> = old.into_iter().flat_map(|p| p.sets.keys()).collect();
        for id in old_ids {
            self.sets.release(id);
        }
    }
}

impl ProfileInput {
    fn new(profile: &ProfileResource) -> Self {
        let name = &profile.metadata.name;
        let mut labels = profile.spec.labels_to_apply.clone();
        let account = || {
            name.strip_prefix("ksa.")
                .and_then(|rest| rest.split_once('.'))
        };
        let own_name = match (name.strip_prefix(NAMESPACE_PROFILE), account()) {
            (Some(namespace), _) => Some((NAMESPACE_PREFIX, namespace)),
            (None, Some((_, account))) => Some((SERVICE_ACCOUNT_PREFIX, account)),
            (None, None) => None,
        };
        if let Some((prefix, own_name)) = own_name {
            labels
                .entry(format!("{prefix}{NAME}"))
                .or_insert_with(|| own_name.to_owned());
        }
        match compile::program(&profile.spec.ingress, &profile.spec.egress, None) {
            Ok(program) => Self {
                labels,
                program,
                problem: None,
            },
            Err(error) => Self {
                labels,
                program: deny_all(),
                problem: Some(format!(
                    "{error}; it drops everything for endpoints that name it"
                )),
            },
        }
    }
}

const fn is_policy(kind: Kind) -> bool {
    matches!(kind, Kind::GlobalNetworkPolicy | Kind::NetworkPolicy) || is_staged(kind)
}

fn forget<K: Ord + Clone>(
    index: &mut BTreeMap<K, BTreeSet<ResourceKey>>,
    at: &K,
    key: &ResourceKey,
) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}
