//! Sending what differs: in stages, without what was refused, and noting what was done.

use std::{collections::BTreeMap, time::Instant};

use super::{
    base::BaseHook,
    dispatch::PLACES,
    driver::Nftables,
    plan::{About, Backoff, Plan, blame},
    read::{Found, FoundChain},
};
use crate::{filter::kernel::Pass, netlink::NetlinkError};

/// How often a transaction is sent anew within one pass, each time without what was refused.
const ATTEMPTS: usize = 8;

/// Why not all was sent.
enum SendError {
    Edge(NetlinkError),
    Refused {
        objects: BTreeMap<About, String>,
        /// What concerns no single object.
        whole: Option<String>,
    },
}

impl Nftables {
    pub(super) fn fail(&mut self, error: String, now: Instant) {
        self.backoff = Some(Backoff::after(self.backoff.as_ref(), error, now));
        self.stale = true;
    }

    /// Sends what differs; what is refused is left out the next time.
    pub(super) fn send(&mut self, may_delete: bool, now: Instant, pass: &mut Pass) {
        for attempt in 0..ATTEMPTS {
            let plan = self.plan_or_anew(may_delete, now);
            if plan.is_empty() {
                // Also after an answer that was lost although all was done.
                self.backoff = None;
                return;
            }
            match self.send_stages(plan, may_delete, pass) {
                Ok(()) => {
                    // What was left out before stays refused, and all else is done.
                    self.backoff = None;
                    return;
                }
                Err(SendError::Edge(error)) => return self.fail(error.to_string(), now),
                Err(SendError::Refused { objects, whole }) => {
                    // The first time the reason may be that the kernel is not as we think.
                    if !self.read(now, pass) {
                        return;
                    }
                    if attempt == 0 {
                        continue;
                    }
                    if objects.is_empty() {
                        let unnamed = || "refused without a reason".to_owned();
                        return self.fail(whole.unwrap_or_else(unnamed), now);
                    }
                    for (about, error) in objects {
                        let backoff = Backoff::after(self.refused.get(&about), error, now);
                        self.refused.insert(about, backoff);
                    }
                }
            }
        }
        self.fail("refused in whatever part it is sent".to_owned(), now);
    }

    fn send_stages(
        &mut self,
        plan: Plan,
        may_delete: bool,
        pass: &mut Pass,
    ) -> Result<(), SendError> {
        let is_new_base = |name: &String| {
            let hook = self.desired.get(name).and_then(|chain| chain.hook);
            hook.is_some() && !self.kernel.contains_key(name)
        };
        let mut has_rules = false;
        for stage in plan.stages(is_new_base) {
            let mut out = self.messages(&stage);
            let errors = self.edge.commit(&mut out).map_err(SendError::Edge)?;
            if !errors.is_empty() {
                let (objects, whole) = blame(&out, &errors);
                return Err(SendError::Refused { objects, whole });
            }
            has_rules |= stage.has_rules();
            self.note(stage, pass);
        }
        pass.batches += u32::from(has_rules);
        self.settle(may_delete);
        Ok(())
    }

    fn plan_or_anew(&mut self, may_delete: bool, now: Instant) -> Plan {
        if !(self.misshapen && may_delete) {
            return self.plan(may_delete, now);
        }
        self.adopt(Found::default());
        Plan {
            anew: true,
            ..self.plan(may_delete, now)
        }
    }

    /// The kernel took a plan, or a part of one.
    fn note(&mut self, plan: Plan, pass: &mut Pass) {
        pass.chains_changed += plan.write.len() + plan.delete.len();
        pass.set_changes += plan.set_changes();
        self.table = true;
        for name in plan.write {
            if let Some(chain) = self.desired.get(&name) {
                pass.rules_written += chain.rules.len();
                self.kernel.insert(name.clone(), chain.found());
            }
            self.dirty.remove(&name);
            self.refused.remove(&About::Chain(name));
        }
        for name in plan.stub {
            let hook = self.desired.get(&name).and_then(|chain| chain.hook);
            let rules = self.stub(&name).into_iter();
            let stub = FoundChain {
                hook: hook.map(BaseHook::place),
                hashes: rules.map(|rule| rule.hash).collect(),
            };
            self.kernel.insert(name, stub);
        }
        for name in plan.delete {
            self.kernel.remove(&name);
            self.dirty.remove(&name);
        }
        for name in plan.make_sets {
            self.ports.note(&name, true);
            self.edit(name, |set| set.exists = true);
        }
        for (name, changes) in plan.sets {
            self.edit(name, |set| set.done(&changes));
        }
        let sets = &self.sets;
        self.dirty_sets
            .retain(|name| sets.get(name).is_some_and(|set| !set.in_sync()));
        for name in plan.delete_sets {
            self.ports.note(&name, false);
            self.sets.remove(&name);
            self.dirty_sets.remove(&name);
            self.strangers.remove(&name);
            self.found.sets.remove(&name);
        }
        for (family, place) in plan.make_maps {
            if let Some(dispatch) = self.dispatch.get_mut(&family) {
                dispatch.made(place);
            }
        }
        for (family, place, changes) in plan.maps {
            if let Some(dispatch) = self.dispatch.get_mut(&family) {
                dispatch.done(place, changes);
            }
            self.refused.remove(&About::Map(family, place));
        }
    }

    /// All of a plan was done.
    fn settle(&mut self, may_delete: bool) {
        for (family, dispatch) in &mut self.dispatch {
            let refused = |place| self.refused.contains_key(&About::Map(*family, place));
            if !PLACES.into_iter().any(refused) {
                dispatch.settle(may_delete);
            }
        }
    }

    /// Whether something is not as desired.
    fn is_pending(&self, about: &About) -> bool {
        match about {
            About::Table => !self.table,
            About::Chain(name) => self.dirty.contains(name),
            About::Set(name) => {
                let others = &self.strangers;
                self.dirty_sets.contains(name) || others.contains(name) || self.ports.is_dirty(name)
            }
            About::Map(family, _) => {
                let dispatch = self.dispatch.get(family);
                dispatch.is_some_and(|dispatch| !dispatch.in_sync())
            }
        }
    }

    pub(super) fn report(&mut self, pass: &mut Pass) {
        let settled = self.refused.keys().filter(|about| !self.is_pending(about));
        for about in settled.cloned().collect::<Vec<_>>() {
            self.refused.remove(&about);
        }
        for (about, backoff) in &self.refused {
            pass.fail(about.object(), &backoff.error);
            pass.retry(backoff.until);
        }
        if let Some(backoff) = &self.backoff {
            pass.fail(About::Table.object(), &backoff.error);
            pass.retry(backoff.until);
        }
    }
}
