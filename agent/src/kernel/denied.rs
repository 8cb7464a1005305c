//! Ends connections that policy has come to deny: rules are asked about what opens a connection, so that without this
//! it would go on for as long as it likes.
//!
//! Such a connection gets a bit of its mark, which our rules drop, and loses it when policy allows it again. The kernel
//! goes on knowing it: forgotten, it would be known anew with its next packet, which may be one that comes back, and
//! that is judged by other policies; and a translated one would lose its way.
//!
//! A thread of its own reads and marks, since there may be a hundred thousand connections; the kernel thread, which has
//! the desired state, judges. Changes are gathered, and judged is by what holds then: a policy that is taken away and
//! written again costs no connection.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use margay_dataplane::conntrack::{self, Connection, Ends};
use margay_dataplane::filter::{Globals, ended_mark};
use margay_dataplane::netlink::NetlinkError;
use margay_model::kind::ResourceKey;
use margay_policy::program::{EndpointPlan, HostPlan, SetId, SetMember, TierPlan, Update};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Kernel, RulesKey};
use judge::{Judge, Surroundings};

/// After the last of a burst of changes.
const GATHER: Duration = Duration::from_millis(200);
/// Even if changes do not end.
const LONGEST: Duration = Duration::from_secs(2);
/// How much longer than a look took the next one is waited for: so much of a processor at most goes into looking.
const REST: u32 = 9;
/// Connections that are judged before inputs are looked at again.
const AT_ONCE: usize = 64;

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

/// What the thread is to do.
enum Job {
    Look {
        ends: Ends,
        /// Find out through which interfaces the connections go.
        ways: bool,
    },
    Mark(Vec<(Connection, bool)>, u32),
}

/// What the thread has to say.
pub(super) enum Found {
    /// Connections, and what the host had around it.
    Some(Vec<Connection>, Arc<Surroundings>),
    /// These were all; how long it took to find them.
    All(Duration),
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
    looks: bool,
    rested: Instant,
    ended: usize,
    freed: usize,
    jobs: Sender<Job>,
}

impl Denied {
    /// Starts the thread; it answers to the receiver.
    pub(super) fn spawn() -> io::Result<(Self, mpsc::UnboundedReceiver<Found>)> {
        let (jobs, queue) = channel();
        // Bounded by the kernel's own table of connections.
        let (found, receiver) = mpsc::unbounded_channel();
        thread::Builder::new()
            .name("denied".into())
            .spawn(move || run(&queue, &found))?;
        let denied = Self {
            bit: None,
            globals: Globals::default(),
            changes: Changes::default(),
            first_change: None,
            due: None,
            looks: false,
            rested: Instant::now(),
            ended: 0,
            freed: 0,
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

    /// When to look, unless a look is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| !self.looks)
    }
}

impl Kernel {
    /// Has the connections read that changes may concern.
    pub(super) fn look_at_connections(&mut self) {
        let changes = std::mem::take(&mut self.denied.changes);
        self.denied.due = None;
        self.denied.first_change = None;
        let ends = self.concerned(&changes);
        if ends == Ends::default() {
            return;
        }
        let ways = !self.hosts.is_empty();
        let job = Job::Look { ends, ways };
        self.denied.looks = self.denied.jobs.send(job).is_ok();
        if !self.denied.looks {
            warn!("the thread that ends denied connections is gone");
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
        let (connections, around) = match found {
            Found::Some(connections, around) => (connections, around),
            Found::All(took) => return self.denied.rest(took),
        };
        let Some(bit) = self.denied.bit else { return };
        let judge = Judge::over(self, &around);
        let wrong: Vec<(Connection, bool)> = connections
            .into_iter()
            .filter_map(|connection| {
                let denied = judge.denies(&connection);
                (denied != (connection.mark & bit != 0)).then_some((connection, denied))
            })
            .collect();
        if !wrong.is_empty() {
            let ended = wrong.iter().filter(|(_, denied)| *denied).count();
            self.denied.ended += ended;
            self.meters.connections_ended.add(ended as u64);
            self.denied.freed += wrong.len() - ended;
            // If the thread is gone that was told when it was asked to look.
            drop(self.denied.jobs.send(Job::Mark(wrong, bit)));
        }
    }
}

impl Denied {
    fn rest(&mut self, took: Duration) {
        self.looks = false;
        self.rested = Instant::now() + took * REST;
        self.due = self.due.map(|due| due.max(self.rested));
        let ended = std::mem::take(&mut self.ended);
        let freed = std::mem::take(&mut self.freed);
        if ended + freed > 0 {
            info!(
                ended,
                freed, "connections that policy has come to deny, or to allow again"
            );
        }
    }
}

fn nets_of(plan: &EndpointPlan) -> impl Iterator<Item = IpNetwork> {
    let nets = plan.addresses.iter().chain(&plan.allowed_source_prefixes);
    nets.map(|net| net.network())
}

fn run(queue: &Receiver<Job>, found: &mpsc::UnboundedSender<Found>) {
    while let Ok(job) = queue.recv() {
        match job {
            Job::Look { ends, ways } => {
                let begun = Instant::now();
                match look(&ends, ways) {
                    Ok((connections, around)) => {
                        let around = Arc::new(around);
                        for some in connections.chunks(AT_ONCE) {
                            // An error means that the kernel thread ends, and with it the queue.
                            drop(found.send(Found::Some(some.to_vec(), Arc::clone(&around))));
                        }
                    }
                    Err(error) => warn!(%error, "cannot look for connections that are now denied"),
                }
                drop(found.send(Found::All(begun.elapsed())));
            }
            Job::Mark(connections, bit) => {
                if let Err(error) = conntrack::mark(&connections, bit) {
                    warn!(%error, "connections that are now denied may go on");
                }
            }
        }
    }
}

fn look(ends: &Ends, ways: bool) -> Result<(Vec<Connection>, Surroundings), NetlinkError> {
    let connections = conntrack::connections(ends)?;
    let around = Surroundings::of(&connections, ways)?;
    Ok((connections, around))
}

fn everybody() -> Ends {
    let v4 = IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let v6 = IpNetwork::new(Ipv6Addr::UNSPECIFIED.into(), 0);
    Ends {
        nets: v4.into_iter().chain(v6).collect(),
        ..Ends::default()
    }
}
