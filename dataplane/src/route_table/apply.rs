//! Bringing the kernel to what is wanted: additions before deletions, in batches, and another attempt at what failed.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use ipnetwork::IpNetwork;

use super::prefixes::Waiting;
use super::{
    Action, ApplyReport, Change, Config, Failure, FailureReason, KernelRoute, Route, RouteKernel,
    RouteTable, Target, wanted,
};
use crate::netlink::RequestError;

/// Changes in one `send`: five times faster than one each; more bring nothing.
const BATCH: usize = 256;
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// When a prefix that failed is tried again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    attempts: u32,
    due: Instant,
}

impl<K: RouteKernel> RouteTable<K> {
    pub(super) fn apply_at(&mut self, now: Instant) -> ApplyReport {
        let prefixes = &self.prefixes;
        let retries = self.retries.iter().filter(|(_, retry)| retry.due <= now);
        let retries = retries.filter(|(prefix, _)| !prefixes.waits(**prefix));
        let retries: Vec<IpNetwork> = retries.map(|(prefix, _)| *prefix).collect();
        let mut due = self.prefixes.take_waiting();
        due.direct.extend(retries);
        due.direct.sort_unstable();
        due.via.sort_unstable();
        self.bring(due, now)
    }

    /// Adds before it deletes, so a prefix whose metric changes is never without a route. What is on a link comes
    /// before what is behind routers: IPv6 checks that when a route is added.
    pub(super) fn bring(&mut self, due: Waiting, now: Instant) -> ApplyReport {
        let mut turn = Turn::default();
        let Waiting {
            mut direct,
            mut via,
        } = due;
        let mut puts = Vec::with_capacity(BATCH.min(direct.len() + via.len()));
        // What is tried again, or has come to lead through routers, is among the first.
        direct.retain(|prefix| {
            let done = self.put(*prefix, Target::is_direct, &mut puts, &mut turn);
            via.extend((!done).then_some(*prefix));
            done
        });
        for prefix in &via {
            self.put(*prefix, |_| true, &mut puts, &mut turn);
        }
        self.send(&mut puts, &mut turn);
        self.settle(&mut turn);
        self.delete_surplus(&mut turn);
        self.conclude(&Waiting { direct, via }, turn, now)
    }

    /// Puts the wanted route of a prefix among those to be sent, if its target is one that it is the turn of. False if
    /// it is not.
    fn put(
        &mut self,
        prefix: IpNetwork,
        is_its_turn: impl Fn(&Target) -> bool,
        puts: &mut Vec<Change>,
        turn: &mut Turn,
    ) -> bool {
        let Some(known) = self.prefixes.next(prefix) else {
            return true;
        };
        let target = known.wanted.as_ref().map(|route| &route.target);
        if !target.is_none_or(is_its_turn) {
            return false;
        }
        let keep = known.wanted.as_ref().map(|route| route.metric);
        let others = known.installed.iter().filter(|m| Some(*m) != keep);
        turn.surplus.extend(others.map(|metric| (prefix, metric)));
        let Some(route) = &known.wanted else {
            if known.installed.is_empty() {
                self.prefixes.forget(prefix);
            }
            return true;
        };
        let ours = known.has_wanted();
        match resolve(
            &mut self.kernel,
            &mut turn.links,
            self.config,
            prefix,
            route,
        ) {
            Ok(route) => {
                // Sent again it would be a change to whoever watches the kernel's routes.
                let found = match self.left.is_empty() {
                    true => None,
                    false => self.left.remove(&(prefix, route.metric)),
                };
                if found.is_some_and(|found| wanted::same(&route, &found)) {
                    return true;
                }
                let action = if ours { Action::Replace } else { Action::Add };
                puts.push(Change { action, route });
                if puts.len() == BATCH {
                    self.send(puts, turn);
                }
            }
            Err(reason) => {
                turn.failed.insert(prefix, reason);
            }
        }
        true
    }

    /// Takes away our routes that are not the wanted ones, but where a wanted one failed.
    fn delete_surplus(&mut self, turn: &mut Turn) {
        let surplus = mem::take(&mut turn.surplus);
        let mut deletes = Vec::with_capacity(BATCH.min(surplus.len()));
        // The last first: what is behind routers before what is on a link, and what comes after takes no other's place.
        for (prefix, metric) in surplus.into_iter().rev() {
            if turn.failed.contains_key(&prefix) {
                continue;
            }
            let route = Route::blackhole().with_metric(metric);
            let route = wanted::bare(prefix, self.config.protocol, &route);
            let action = Action::Delete;
            deletes.push(Change { action, route });
            if deletes.len() == BATCH {
                self.send(&mut deletes, turn);
            }
        }
        self.send(&mut deletes, turn);
    }

    /// Sends changes and notes what became of them, and which additions found their place taken.
    fn send(&mut self, changes: &mut Vec<Change>, turn: &mut Turn) {
        if changes.is_empty() {
            return;
        }
        let mut errors = match self.kernel.send(self.config.table, changes) {
            Ok(errors) => errors.into_iter().peekable(),
            Err(error) => {
                let reason = FailureReason::Unknown(Arc::new(error));
                let unknown = changes.drain(..).map(|c| (c.route.prefix, reason.clone()));
                return turn.failed.extend(unknown);
            }
        };
        for (place, change) in changes.drain(..).enumerate() {
            match errors.next_if(|(p, _)| *p == place).map(|(_, error)| error) {
                None => self.note_done(&change, &mut turn.report),
                Some(error) if change.action == Action::Add && error.exists() => {
                    turn.taken.push(change);
                }
                Some(error) if change.action == Action::Delete && error.is_missing() => {
                    let (prefix, metric) = (change.route.prefix, change.route.metric);
                    self.prefixes.uninstall(prefix, metric);
                }
                Some(error) => {
                    let reason = FailureReason::Refused(error);
                    turn.failed.insert(change.route.prefix, reason);
                }
            }
        }
    }

    fn note_done(&mut self, change: &Change, report: &mut ApplyReport) {
        let (prefix, metric) = (change.route.prefix, change.route.metric);
        match change.action {
            Action::Add => {
                report.added += 1;
                self.prefixes.install(prefix, metric);
            }
            Action::Replace => report.replaced += 1,
            Action::Delete => {
                report.deleted += 1;
                self.prefixes.uninstall(prefix, metric);
                if !self.left.is_empty() {
                    self.left.remove(&(prefix, metric));
                }
            }
        }
    }

    /// Finds out whose the routes are that additions met: ours are replaced, others' are conflicts.
    fn settle(&mut self, turn: &mut Turn) {
        let taken = mem::take(&mut turn.taken);
        if taken.is_empty() {
            return;
        }
        let present = match self.kernel.dump(self.config.table, None) {
            Ok(present) => present,
            Err(error) => {
                let reason = FailureReason::Unknown(Arc::new(error));
                let unknown = taken.iter().map(|c| (c.route.prefix, reason.clone()));
                return turn.failed.extend(unknown);
            }
        };
        let owner: HashMap<_, _> = present
            .iter()
            .map(|r| ((r.prefix, r.metric), r.protocol))
            .collect();
        let mut puts = Vec::new();
        for Change { route, .. } in taken {
            let (prefix, metric) = (route.prefix, route.metric);
            let action = match owner.get(&(prefix, metric)) {
                Some(protocol) if *protocol != self.config.protocol => {
                    let protocol = *protocol;
                    let reason = FailureReason::Conflict { protocol, metric };
                    turn.failed.insert(prefix, reason);
                    continue;
                }
                Some(_) => {
                    self.prefixes.install(prefix, metric);
                    Action::Replace
                }
                // Gone meanwhile. Should it come back again, the retry sees to it.
                None => Action::Add,
            };
            puts.push(Change { action, route });
            if puts.len() == BATCH {
                self.send(&mut puts, turn);
            }
        }
        self.send(&mut puts, turn);
        for change in mem::take(&mut turn.taken) {
            let error = RequestError {
                errno: libc::EEXIST,
                text: None,
            };
            let reason = FailureReason::Refused(error);
            turn.failed.insert(change.route.prefix, reason);
        }
    }

    fn conclude(&mut self, due: &Waiting, turn: Turn, now: Instant) -> ApplyReport {
        let Turn {
            mut report,
            mut failed,
            ..
        } = turn;
        if failed.is_empty() && self.retries.is_empty() {
            return report;
        }
        for prefix in due.direct.iter().chain(&due.via) {
            let Some(reason) = failed.remove(prefix) else {
                self.retries.remove(prefix);
                continue;
            };
            let attempts = self.retries.get(prefix).map_or(0, |retry| retry.attempts);
            let pause = FIRST_RETRY
                .saturating_mul(1 << attempts.min(16))
                .min(LAST_RETRY);
            self.retries.insert(
                *prefix,
                Retry {
                    attempts: attempts + 1,
                    due: now + pause,
                },
            );
            let conflict = matches!(reason, FailureReason::Conflict { .. });
            let list = if conflict {
                &mut report.conflicts
            } else {
                &mut report.failed
            };
            list.push(Failure {
                prefix: *prefix,
                reason,
            });
        }
        let next = self.retries.values().map(|retry| retry.due).min();
        report.retry_after = next.map(|due| due.saturating_duration_since(now));
        report
    }
}

/// What one apply is about to do, and what has become of it so far.
#[derive(Debug, Default)]
struct Turn {
    report: ApplyReport,
    links: Links,
    failed: HashMap<IpNetwork, FailureReason>,
    /// Additions whose place was taken.
    taken: Vec<Change>,
    /// Routes of ours that are not the wanted ones, by prefix and metric.
    surplus: Vec<(IpNetwork, u32)>,
}

/// Interface indexes looked up during one `apply`: they change when an interface is made anew.
#[derive(Debug, Default)]
pub(super) struct Links(HashMap<Arc<str>, Option<u32>>);

pub(super) fn resolve<K: RouteKernel>(
    kernel: &mut K,
    links: &mut Links,
    config: Config,
    prefix: IpNetwork,
    route: &Route,
) -> Result<KernelRoute, FailureReason> {
    let mut index_of = |ifname: &Arc<str>| -> Result<u32, FailureReason> {
        let index = match links.0.get(ifname) {
            Some(index) => *index,
            None => {
                let unknown = |error| FailureReason::Unknown(Arc::new(error));
                let index = kernel.link_index(ifname).map_err(unknown)?;
                links.0.insert(Arc::clone(ifname), index);
                index
            }
        };
        index.ok_or_else(|| FailureReason::NoInterface(Arc::clone(ifname)))
    };
    wanted::resolve(prefix, config.protocol, route, &mut index_of)
}
