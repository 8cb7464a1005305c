//! From the difference to one transaction, and from the kernel's answer to what is to blame.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    TABLE_NAME,
    dispatch::{MapChanges, PLACES, Place},
    driver::{BaseHook, Nftables},
    element::{self, Kind, Shape},
    names,
    render::{self, Rule},
    set::Changes,
    wire::{BigEndian, Message, TABLE_USERDATA, Transaction, chain, elements, rule, set},
};
use crate::{
    filter::{Family, names::Way},
    ipset::Entry,
    netlink::Request,
};

/// What a message is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    Table,
    Chain(String),
    Set(String),
    Map(Family, Place),
}

impl About {
    /// For people.
    pub(super) fn object(&self) -> String {
        match self {
            Self::Table => format!("nftables table inet {TABLE_NAME}"),
            Self::Chain(name) => format!("nftables chain {name}"),
            Self::Set(name) => format!("nftables set {name}"),
            Self::Map(family, (way, prefixes)) => {
                format!("nftables map {}", names::map(*family, *way, *prefixes))
            }
        }
    }
}

/// Something that failed and is tried again.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    attempts: u32,
    pub(super) until: Instant,
    /// Told again by each apply until it is over.
    pub(super) error: String,
}

/// First wait after a failure; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

impl Backoff {
    pub(super) fn after(earlier: Option<&Self>, error: String, now: Instant) -> Self {
        let attempts = earlier.map_or(0, |b| b.attempts).saturating_add(1);
        let wait = FIRST_WAIT
            .saturating_mul(1 << (attempts - 1).min(10))
            .min(LONGEST_WAIT);
        Self {
            attempts,
            until: now + wait,
            error,
        }
    }
}

/// Elements of one message: an attribute holds 64 KiB, and an element of a map takes up to 220 bytes.
const ELEMENTS_PER_MESSAGE: usize = 256;

/// `NLM_F_CREATE | NLM_F_APPEND`.
const APPEND: i32 = libc::NLM_F_CREATE | libc::NLM_F_APPEND;

/// What a transaction does, to be noted when it is done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) make_table: bool,
    /// Begin with nothing, whatever the table holds.
    pub(super) anew: bool,
    pub(super) write: Vec<String>,
    /// Chains that are to drop for now.
    pub(super) stub: Vec<String>,
    pub(super) delete: Vec<String>,
    pub(super) make_sets: Vec<String>,
    pub(super) sets: Vec<(String, Changes)>,
    pub(super) delete_sets: Vec<String>,
    pub(super) make_maps: Vec<(Family, Place)>,
    pub(super) maps: Vec<(Family, Place, MapChanges)>,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        let nothing_to_make = !self.make_table && !self.anew && self.make_sets.is_empty();
        nothing_to_make
            && !self.has_rules()
            && self.delete_sets.is_empty()
            && self.sets.is_empty()
            && self.make_maps.is_empty()
            && self.maps.is_empty()
    }

    /// The parts of a plan in the order in which they are to take effect, each a transaction.
    ///
    /// A transaction is atomic for the rules of a packet that comes after it. But the kernel shows what sets
    /// and maps hold a moment after the rules, and a packet on its way meets the old rules with the new
    /// members: so that none is lost or let through, what rules refer to is there before them.
    pub(super) fn stages(self, is_new_base: impl Fn(&String) -> bool) -> Vec<Self> {
        if self.anew || (self.write.is_empty() && self.stub.is_empty()) {
            return vec![self];
        }
        let (bases, write) = self.write.into_iter().partition(is_new_base);
        let referred_to = Self {
            make_table: self.make_table,
            make_sets: self.make_sets,
            sets: self.sets,
            make_maps: self.make_maps,
            ..Self::default()
        };
        let rules = Self {
            write,
            stub: self.stub,
            ..Self::default()
        };
        let maps = Self {
            maps: self.maps,
            ..Self::default()
        };
        let bases = Self {
            write: bases,
            ..Self::default()
        };
        let removals = Self {
            delete: self.delete,
            delete_sets: self.delete_sets,
            ..Self::default()
        };
        let mut stages = vec![referred_to, rules, maps, bases, removals];
        stages.retain(|stage| !stage.is_empty());
        stages
    }

    pub(super) fn has_rules(&self) -> bool {
        !(self.write.is_empty() && self.stub.is_empty() && self.delete.is_empty())
    }

    pub(super) fn set_changes(&self) -> usize {
        let members = self.sets.iter().map(|(_, changes)| changes.len());
        // Both ways lead to the same workload: counted once.
        let workloads = self
            .maps
            .iter()
            .filter(|(_, (way, _), _)| *way == Way::Ingress);
        let workloads = workloads.map(|(.., changes)| {
            changes.add.len() + changes.remove.len().saturating_sub(changes.add.len())
        });
        members.sum::<usize>()
            + workloads.sum::<usize>()
            + self.make_sets.len()
            + self.delete_sets.len()
    }
}

impl Nftables {
    /// The difference, but for what was refused a moment ago.
    pub(super) fn plan(&self, may_delete: bool, now: Instant) -> Plan {
        let due = |about: &About| self.refused.get(about).is_none_or(|b| b.until <= now);
        let chain_due = |name: &&String| due(&About::Chain((*name).clone()));
        let (write, gone): (Vec<String>, Vec<String>) = self
            .dirty
            .iter()
            .filter(chain_due)
            .cloned()
            .partition(|name| self.desired.contains_key(name));
        // What others refer to has to be there.
        let missing = |name: &&String| !chain_due(name) && !self.kernel.contains_key(*name);
        let stub = self.dirty.iter().filter(missing);
        let stub = stub
            .filter(|name| self.desired.contains_key(*name))
            .cloned();
        let mut plan = Plan {
            make_table: !self.table,
            stub: stub.collect(),
            write,
            delete: if may_delete { gone } else { Vec::new() },
            ..Plan::default()
        };
        self.plan_sets(&mut plan, may_delete, &due);
        for (family, dispatch) in &self.dispatch {
            for place in PLACES {
                if !due(&About::Map(*family, place)) || dispatch.in_sync() {
                    continue;
                }
                if !dispatch.exists(place) {
                    plan.make_maps.push((*family, place));
                }
                let changes = dispatch.changes(place, may_delete);
                if !changes.is_empty() {
                    plan.maps.push((*family, place, changes));
                }
            }
        }
        plan
    }

    fn plan_sets(&self, plan: &mut Plan, may_delete: bool, due: &impl Fn(&About) -> bool) {
        for name in &self.dirty_sets {
            let Some(set) = self
                .sets
                .get(name)
                .filter(|_| due(&About::Set(name.clone())))
            else {
                continue;
            };
            if !set.wanted {
                if may_delete && set.exists {
                    plan.delete_sets.push(name.clone());
                }
                continue;
            }
            if !set.exists {
                plan.make_sets.push(name.clone());
            }
            let changes = set.changes(may_delete);
            if changes.flush || changes.len() > 0 {
                plan.sets.push((name.clone(), changes));
            }
        }
        if may_delete {
            let strangers = self.strangers.iter();
            let strangers = strangers.filter(|name| due(&About::Set((*name).clone())));
            plan.delete_sets.extend(strangers.cloned());
        }
    }

    /// The messages of a plan, in an order in which each finds what it refers to: chains and sets are
    /// made, members change, rules change, and what nothing refers to any more goes.
    pub(super) fn messages(&mut self, plan: &Plan) -> Transaction<About> {
        let mut out = Transaction::new();
        if plan.anew {
            out.push(About::Table, Message::DelTable, 0, |_| {});
        }
        if plan.make_table || plan.anew {
            out.push(About::Table, Message::NewTable, libc::NLM_F_CREATE, |m| {
                m.bytes(
                    TABLE_USERDATA,
                    &comment("Margay writes this table anew as needed"),
                );
            });
        }
        for name in plan.write.iter().chain(&plan.stub) {
            self.make_chain(&mut out, name);
        }
        for name in &plan.make_sets {
            if let Some(kind) = self.sets.get(name).map(|set| set.kind) {
                self.make_set(&mut out, About::Set(name.clone()), name, kind);
            }
        }
        for (family, place) in &plan.make_maps {
            if let Some(dispatch) = self.dispatch.get(family) {
                let (name, kind) = (dispatch.name(*place), dispatch.kind(*place));
                self.make_set(&mut out, About::Map(*family, *place), &name, kind);
            }
        }
        self.change_members(&mut out, plan);
        let mut rewritten: Vec<(&String, Vec<Rule>)> = Vec::new();
        for name in &plan.write {
            let rules = self.desired.get(name).map(|chain| chain.rules.clone());
            rewritten.push((name, rules.unwrap_or_default()));
        }
        for name in &plan.stub {
            rewritten.push((name, vec![render::stub(name)]));
        }
        rewritten.extend(plan.delete.iter().map(|name| (name, Vec::new())));
        for (name, rules) in rewritten {
            self.write_rules(&mut out, name, &rules);
        }
        for name in &plan.delete {
            let about = About::Chain(name.clone());
            out.push(about, Message::DelChain, 0, |m| m.string(chain::NAME, name));
        }
        for name in &plan.delete_sets {
            let about = About::Set(name.clone());
            out.push(about, Message::DelSet, 0, |m| m.string(set::NAME, name));
        }
        out
    }

    fn make_chain(&self, out: &mut Transaction<About>, name: &str) {
        let about = || About::Chain(name.to_owned());
        let hook = self.desired.get(name).and_then(|chain| chain.hook);
        if let Some(found) = self.kernel.get(name) {
            if found.hook == hook.map(BaseHook::place) {
                return;
            }
            // Somebody made a chain by our name that packets come into elsewhere.
            for message in [Message::DelRule, Message::DelChain] {
                let attribute = match message {
                    Message::DelRule => rule::CHAIN,
                    _ => chain::NAME,
                };
                out.push(about(), message, 0, |m| m.string(attribute, name));
            }
        }
        out.push(about(), Message::NewChain, libc::NLM_F_CREATE, |m| {
            m.string(chain::NAME, name);
            if let Some(hook) = hook {
                m.nest(chain::HOOK, &[], |h| {
                    h.be32(chain::HOOK_NUMBER, hook.number);
                    h.be32(chain::HOOK_PRIORITY, hook.priority as u32);
                });
                m.string(chain::TYPE, hook.kind);
                // NF_ACCEPT: what has nothing to do with us passes.
                m.be32(chain::POLICY, 1);
            }
        });
    }

    fn make_set(&mut self, out: &mut Transaction<About>, about: About, name: &str, kind: Kind) {
        let id = self.new_id();
        out.push(about, Message::NewSet, libc::NLM_F_CREATE, |m| {
            m.string(set::NAME, name);
            m.be32(set::ID, id);
            kind.describe(m);
        });
    }

    fn change_members(&self, out: &mut Transaction<About>, plan: &Plan) {
        for (name, changes) in &plan.sets {
            let Some(shape) = self.sets.get(name).map(|set| set.kind.shape) else {
                continue;
            };
            let about = About::Set(name.clone());
            let add: Vec<(Entry, Option<&str>)> = changes.add.iter().map(|e| (*e, None)).collect();
            if changes.flush {
                empty(out, about.clone(), name);
            }
            change(
                out,
                &about,
                name,
                shape,
                &without_chain(&changes.remove),
                false,
            );
            change(out, &about, name, shape, &add, true);
        }
        for (family, place, changes) in &plan.maps {
            let Some(dispatch) = self.dispatch.get(family) else {
                continue;
            };
            let (name, shape) = (dispatch.name(*place), dispatch.kind(*place).shape);
            let about = About::Map(*family, *place);
            let add = changes
                .add
                .iter()
                .map(|(e, chain)| (*e, Some(chain.as_str())));
            let add: Vec<(Entry, Option<&str>)> = add.collect();
            if changes.flush && dispatch.exists(*place) {
                empty(out, about.clone(), &name);
            }
            change(
                out,
                &about,
                &name,
                shape,
                &without_chain(&changes.remove),
                false,
            );
            change(out, &about, &name, shape, &add, true);
        }
    }

    /// Takes the rules of a chain away and writes these.
    fn write_rules(&mut self, out: &mut Transaction<About>, name: &str, rules: &[Rule]) {
        let about = || About::Chain(name.to_owned());
        let has_rules = |chain: &super::read::FoundChain| !chain.hashes.is_empty();
        if self.kernel.get(name).is_some_and(has_rules) {
            out.push(about(), Message::DelRule, 0, |m| {
                m.string(rule::CHAIN, name)
            });
        }
        for one in rules {
            let mut expressions = one.expressions.clone();
            for (at, ports) in one.set_ids.iter().zip(&one.ports) {
                let id = self.new_id();
                expressions[*at..*at + 4].copy_from_slice(&id.to_be_bytes());
                out.push(about(), Message::NewSet, libc::NLM_F_CREATE, |m| {
                    m.string(set::NAME, render::ANONYMOUS);
                    m.be32(set::ID, id);
                    element::describe_ports(m);
                });
                out.push(about(), Message::NewElements, libc::NLM_F_CREATE, |m| {
                    m.string(elements::SET, render::ANONYMOUS);
                    m.be32(elements::SET_ID, id);
                    m.nest(elements::LIST, &[], |l| element::write_ports(l, ports));
                });
            }
            out.push(about(), Message::NewRule, APPEND, |m: &mut Request<'_>| {
                m.string(rule::CHAIN, name);
                m.nest(rule::EXPRESSIONS, &[], |e| e.attributes(&expressions));
                m.bytes(rule::USERDATA, &one.userdata);
            });
        }
    }

    fn new_id(&mut self) -> u32 {
        self.last_id = self.last_id.wrapping_add(1);
        self.last_id
    }
}

fn without_chain(entries: &[Entry]) -> Vec<(Entry, Option<&'static str>)> {
    entries.iter().map(|entry| (*entry, None)).collect()
}

/// Takes every element of a set away.
fn empty(out: &mut Transaction<About>, about: About, name: &str) {
    out.push(about, Message::DelElements, 0, |m| {
        m.string(elements::SET, name)
    });
}

fn change(
    out: &mut Transaction<About>,
    about: &About,
    name: &str,
    shape: Shape,
    entries: &[(Entry, Option<&str>)],
    add: bool,
) {
    let (message, flags) = match add {
        true => (Message::NewElements, libc::NLM_F_CREATE),
        false => (Message::DelElements, 0),
    };
    for part in entries.chunks(ELEMENTS_PER_MESSAGE) {
        out.push(about.clone(), message, flags, |m| {
            m.string(elements::SET, name);
            m.nest(elements::LIST, &[], |l| {
                for (entry, chain) in part {
                    element::write(l, shape, entry, *chain);
                }
            });
        });
    }
}

/// Userdata that `nft` shows as a comment.
fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![render::COMMENT_TAG, text.len() as u8 + 1];
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

/// What was refused, with the kernel's words, the first for each object.
pub(super) fn blame(
    out: &Transaction<About>,
    errors: &[(usize, crate::netlink::RequestError)],
) -> (BTreeMap<About, String>, Option<String>) {
    let mut refused = BTreeMap::new();
    let mut whole = None;
    for (place, error) in errors {
        match out.about(*place) {
            Some(About::Table) | None => {
                whole.get_or_insert_with(|| error.to_string());
            }
            Some(about) => {
                refused
                    .entry(about.clone())
                    .or_insert_with(|| error.to_string());
            }
        }
    }
    (refused, whole)
}
