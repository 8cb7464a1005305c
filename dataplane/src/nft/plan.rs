//! The difference between the table as it should be and as it is, and what is done about refusals.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    TABLE_NAME,
    dispatch::{MapChanges, PLACES, Place},
    driver::Nftables,
    names,
    set::Changes,
    wire::Transaction,
};
use crate::{
    filter::{Family, names::Way},
    netlink::RequestError,
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
    /// members: so that none is lost or let through, what rules refer to comes before them and goes after
    /// them.
    pub(super) fn stages(self, is_new_base: impl Fn(&String) -> bool) -> Vec<Self> {
        if self.anew || (self.write.is_empty() && self.stub.is_empty()) {
            return vec![self];
        }
        let (mut grown, mut shrunk) = (Vec::new(), Vec::new());
        for (name, changes) in self.sets {
            let (before, after) = changes.around_rules();
            grown.push((name.clone(), before));
            shrunk.push((name, after));
        }
        grown.retain(|(_, changes)| !changes.is_empty());
        shrunk.retain(|(_, changes)| !changes.is_empty());
        let (bases, write) = self.write.into_iter().partition(is_new_base);
        let referred_to = Self {
            make_table: self.make_table,
            make_sets: self.make_sets,
            sets: grown,
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
            sets: shrunk,
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
            if !changes.is_empty() {
                plan.sets.push((name.clone(), changes));
            }
        }
        for (name, wanted) in self.ports.dirty() {
            if !due(&About::Set(name.clone())) {
                continue;
            }
            match wanted {
                true => plan.make_sets.push(name.clone()),
                false if may_delete => plan.delete_sets.push(name.clone()),
                false => {}
            }
        }
        if may_delete {
            let strangers = self.strangers.iter();
            let strangers = strangers.filter(|name| due(&About::Set((*name).clone())));
            plan.delete_sets.extend(strangers.cloned());
        }
    }
}

/// What was refused, with the kernel's words, the first for each object.
pub(super) fn blame(
    out: &Transaction<About>,
    errors: &[(usize, RequestError)],
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
