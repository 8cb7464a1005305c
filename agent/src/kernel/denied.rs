//! Ends connections that policy has come to deny: rules are asked about what opens a connection, so that without this
//! it would go on for as long as it likes.
//!
//! Such a connection gets a bit of its mark, which our rules drop, and loses it when policy allows it again. The kernel
//! goes on knowing it: forgotten, it would be known anew with its next packet, which may be one that comes back, and
//! that is judged by other policies; and a translated one would lose its way.
//!
//! A thread of its own reads and marks, since there may be a hundred thousand connections; the kernel thread, which has
//! the desired state, judges. Changes are gathered, and judged is by what holds then: a policy that is taken away and
//! written again costs no connection. What could not be read or marked is looked at again until it is as policy wants.

mod judge;
#[cfg(test)]
mod tests;
mod thread;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use margay_dataplane::conntrack::{Connection, Ends};
use margay_dataplane::filter::{Globals, ended_mark};
use margay_dataplane::netlink::NetlinkError;
use margay_model::kind::ResourceKey;
use margay_policy::program::{EndpointPlan, HostPlan, SetId, SetMember, TierPlan, Update};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Kernel, RulesKey};
use judge::{Judge, Surroundings};
pub(super) use thread::Found;
use thread::{Conntrack, Job, Marked, Table};

/// After the last of a burst of changes.
const GATHER: Duration = Duration::from_millis(200);
/// Even if changes do not end.
const LONGEST: Duration = Duration::from_secs(2);
/// How much longer than a look had a processor the next one is waited for: so much of it at most goes into looking.
const REST: u32 = 9;
/// After a round that failed; after each further one twice as long.
const RETRY: Duration = GATHER;
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// What may have changed the verdict on connections that there are.
#[derive(Debug, Default)]
struct Changes {
    /// Every endpoint, whatever changed.
    all: bool,
    rules: BTreeSet<RulesKey>,
    endpoints: BTreeSet<ResourceKey>,
    /// Endpoints of the host, or what they stand for.
    hosts: bool,
    members: BTreeMap<SetId, BTreeSet<IpNetwork>>,
}

impl Changes {
    fn add(&mut self, others: Self) {
        self.all |= others.all;
        self.rules.extend(others.rules);
        self.endpoints.extend(others.endpoints);
        self.hosts |= others.hosts;
        for (id, members) in others.members {
            self.members.entry(id).or_default().extend(members);
        }
    }
}

/// A look at connections, and the marking of those that are not as they should be.
#[derive(Debug, Default)]
struct Round {
    /// Because of these.
    changes: Changes,
    looks: bool,
    /// Jobs whose end is not heard of yet.
    marks: usize,
    done: Marked,
    error: Option<NetlinkError>,
}

/// Changes that are gathered, and the thread, which ends when this is dropped.
pub(super) struct Denied {
    /// The bit of connections' marks; none where they are left alone.
    bit: Option<u32>,
    /// Ports that stay open, and what hosts wrap for each other.
    globals: Globals,
    changes: Changes,
    first_change: Option<Instant>,
    /// When to look.
    due: Option<Instant>,
    rested: Instant,
    /// What is under way; at most one.
    round: Option<Round>,
    /// Rounds that failed, one after the other, and the last one's error.
    failures: u32,
    problem: Option<String>,
    jobs: Sender<Job>,
}

impl Denied {
    /// Starts the thread; it answers to the receiver.
    pub(super) fn spawn() -> io::Result<(Self, mpsc::UnboundedReceiver<Found>)> {
        Self::over(Conntrack)
    }

    fn over(table: impl Table) -> io::Result<(Self, mpsc::UnboundedReceiver<Found>)> {
        let (jobs, receiver) = thread::spawn(table)?;
        let denied = Self {
            bit: None,
            globals: Globals::default(),
            changes: Changes::default(),
            first_change: None,
            due: None,
            rested: Instant::now(),
            round: None,
            failures: 0,
            problem: None,
            jobs,
        };
        Ok((denied, receiver))
    }

    /// Takes on whether connections are to be ended, and how they are marked.
    pub(super) fn set_globals(&mut self, globals: &Globals) {
        let bit = globals.end_denied.then(|| ended_mark(globals.mark_mask));
        let open = |globals: &Globals| (globals.failsafe_in.clone(), globals.failsafe_out.clone());
        let before = std::mem::replace(&mut self.globals, globals.clone());
        if bit != self.bit {
            self.bit = bit;
            self.all_changed();
        } else if open(&before) != open(globals) {
            self.hosts_changed();
        }
    }

    /// Endpoints of the host changed, or the interfaces that they stand for.
    pub(super) fn hosts_changed(&mut self) {
        self.changes.hosts = true;
        self.touched();
    }

    /// Every connection is to be judged anew.
    pub(super) fn all_changed(&mut self) {
        self.changes.all = true;
        self.touched();
    }

    /// Before the desired state takes the change on. An endpoint that is new has no connections.
    pub(super) fn changed(&mut self, update: &Update, is_known: impl Fn(&ResourceKey) -> bool) {
        let changes = &mut self.changes;
        match update {
            Update::PolicyRules { id, .. } => {
                changes.rules.insert(RulesKey::Policy(id.clone()));
            }
            Update::ProfileRules { name, .. } => {
                changes.rules.insert(RulesKey::Profile(name.clone()));
            }
            Update::Endpoint { id, .. } if is_known(id) => {
                changes.endpoints.insert(id.clone());
            }
            Update::SetChanged {
                id, added, removed, ..
            } => {
                let members = changes.members.entry(id.clone()).or_default();
                let net = |member: &SetMember| match member {
                    SetMember::Net(net) => net.network(),
                    SetMember::Port { addr, .. } => IpNetwork::from(*addr),
                };
                members.extend(added.iter().chain(removed).map(net));
            }
            _ => return,
        }
        self.touched();
    }

    fn touched(&mut self) {
        if self.bit.is_none() {
            self.changes = Changes::default();
            return;
        }
        let now = Instant::now();
        let first = *self.first_change.get_or_insert(now);
        self.due = Some((now + GATHER).min(first + LONGEST).max(self.rested));
    }

    /// When to look, unless that is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.round.is_none())
    }

    /// Why connections may go on that policy denies, or be ended that it allows; it is tried again.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn take_changes(&mut self) -> Changes {
        self.due = None;
        self.first_change = None;
        std::mem::take(&mut self.changes)
    }

    fn look(&mut self, ends: Ends, ways: bool, changes: Changes) {
        self.round = Some(Round {
            changes,
            looks: true,
            ..Round::default()
        });
        self.ask(Job::Look { ends, ways });
    }

    fn mark(&mut self, wrong: Vec<(Connection, bool)>, bit: u32) {
        if let Some(round) = &mut self.round {
            round.marks += 1;
            self.ask(Job::Mark(wrong, bit));
        }
    }

    /// Should the thread be gone, its silence ends the agent.
    fn ask(&self, job: Job) {
        drop(self.jobs.send(job));
    }

    fn looked(&mut self, looked: Result<(), NetlinkError>, worked: Duration) {
        self.rested = Instant::now() + worked * REST;
        if let Some(round) = &mut self.round {
            round.looks = false;
            round.error = looked.err();
        }
    }

    fn marked(&mut self, marked: Result<Marked, NetlinkError>) {
        let Some(round) = &mut self.round else { return };
        round.marks -= 1;
        match marked {
            Ok(some) => {
                round.done.ended += some.ended;
                round.done.freed += some.freed;
            }
            Err(error) => round.error = Some(error),
        }
    }

    /// What the round did and whether all of it could be done, if it is over. If not, what it was for is due again.
    fn end_round(&mut self) -> Option<(Marked, bool)> {
        let round = self
            .round
            .take_if(|round| !round.looks && round.marks == 0)?;
        let Marked { ended, freed } = round.done;
        if ended + freed > 0 {
            info!(
                ended,
                freed, "connections that policy has come to deny, or to allow again"
            );
        }
        let problem = round.error.map(|error| error.to_string());
        match &problem {
            None => self.failures = 0,
            Some(error) => {
                if self.problem != problem {
                    warn!(
                        error,
                        "connections that are now denied may go on, will be tried again"
                    );
                }
                let wait = RETRY * 2_u32.saturating_pow(self.failures.min(10));
                self.rested = self.rested.max(Instant::now() + wait.min(LONGEST_RETRY));
                self.failures += 1;
                self.changes.add(round.changes);
                self.touched();
            }
        }
        self.problem = problem;
        self.due = self.due.map(|due| due.max(self.rested));
        Some((round.done, self.problem.is_none()))
    }
}

impl Kernel {
    /// Has the connections read that changes may concern.
    pub(super) fn look_at_connections(&mut self) {
        let changes = self.denied.take_changes();
        let ends = self.concerned(&changes);
        if ends != Ends::default() {
            let ways = !self.hosts.is_empty();
            self.denied.look(ends, ways, changes);
        }
    }

    /// The endpoints that changes concern, or, where members came and went, whom they let in and keep out. What goes
    /// through an endpoint of the host may be from anybody to anybody.
    fn concerned(&self, changes: &Changes) -> Ends {
        let mut members: BTreeSet<IpNetwork> = BTreeSet::new();
        if !changes.members.is_empty() {
            let rules = self.rules_of.values();
            let used: BTreeSet<&SetId> = rules.flat_map(|rules| rules.set_ids()).collect();
            let changed = changes.members.iter().filter(|(id, _)| used.contains(id));
            members.extend(changed.flat_map(|(_, members)| members));
        }
        let uses = |tiers: &[TierPlan]| {
            let mut policies = tiers.iter().flat_map(|tier| &tier.policies);
            policies.any(|id| changes.rules.contains(&RulesKey::Policy(id.clone())))
        };
        let uses_profile = |profiles: &[String]| {
            let mut profiles = profiles.iter();
            profiles.any(|name| changes.rules.contains(&RulesKey::Profile(name.clone())))
        };
        let mut hosts = self.hosts.plans();
        let is_host = |plan: &Arc<HostPlan>| {
            uses_profile(&plan.profiles)
                || plan
                    .all_tiers()
                    .any(|tier| uses(std::slice::from_ref(tier)))
        };
        if changes.hosts || (changes.all && !self.hosts.is_empty()) || hosts.any(is_host) {
            return everybody();
        }
        let plans = self.plans.iter().filter(|(key, plan)| {
            changes.all
                || changes.endpoints.contains(*key)
                || uses(&plan.ingress)
                || uses(&plan.egress)
                || uses_profile(&plan.profiles)
        });
        let own = plans.flat_map(|(_, plan)| nets_of(plan));
        let mut ends = Ends::default();
        for net in own.chain(members) {
            match super::is_host(net) {
                true => drop(ends.addresses.insert(net.ip())),
                false => ends.nets.push(net),
            }
        }
        ends
    }

    /// Judges connections, and has those marked that are not as they should be.
    pub(super) fn judge(&mut self, found: Found) {
        match found {
            Found::Some(connections, around) => self.judge_all(connections, &around),
            Found::Looked(looked, worked) => self.denied.looked(looked, worked),
            Found::Marked(marked) => self.denied.marked(marked),
        }
        if let Some((done, is_whole)) = self.denied.end_round() {
            self.meters.connections_ended.add(done.ended as u64);
            self.meters.connection_failures.add(u64::from(!is_whole));
        }
    }

    fn judge_all(&mut self, connections: Vec<Connection>, around: &Surroundings) {
        let Some(bit) = self.denied.bit else { return };
        let judge = Judge::over(self, around);
        let wrong: Vec<(Connection, bool)> = connections
            .into_iter()
            .filter_map(|connection| {
                let denied = judge.denies(&connection);
                (denied != (connection.mark & bit != 0)).then_some((connection, denied))
            })
            .collect();
        if !wrong.is_empty() {
            self.denied.mark(wrong, bit);
        }
    }
}

fn nets_of(plan: &EndpointPlan) -> impl Iterator<Item = IpNetwork> {
    let nets = plan.addresses.iter().chain(&plan.allowed_source_prefixes);
    nets.map(|net| net.network())
}

fn everybody() -> Ends {
    let v4 = IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let v6 = IpNetwork::new(Ipv6Addr::UNSPECIFIED.into(), 0);
    Ends {
        nets: v4.into_iter().chain(v6).collect(),
        ..Ends::default()
    }
}
