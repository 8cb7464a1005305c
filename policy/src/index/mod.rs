//! Which items match which selectors, kept up to date from both sides.
//!
//! Items carry labels of their own and inherit those of their parents (profiles, which stand for
//! namespaces and service accounts too); an own label hides an inherited one, an earlier parent hides a
//! later one. Nothing here scans. A selector is posted under its pivots (see `compiled.rs`), so a changed
//! item evaluates only what is posted under the labels it has; a new selector is worked out from the sets
//! of items that have its labels and values (see `postings.rs`). For every selector only the items that
//! *deviate* from its default are stored, so `all()` or `a != "b"` cost nothing for the items they match.

mod compiled;
mod intern;
mod item_set;
mod postings;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::selector::Selector;
use compiled::{Node, Pivot, SymLabels, pivots};
use intern::{Interner, Sym};
use item_set::ItemSet;
use postings::Postings;

type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
/// Labels at work: those of most items fit in place.
type Labels = SmallVec<[(Sym, Sym); 16]>;
type Selectors = SmallVec<[SelectorId; 32]>;

/// An item, numbered by the caller. Small numbers, reused, keep tables dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub u32);

/// A selector in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorId(u32);

/// A match that started or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MatchChange {
    /// The item.
    pub item: ItemId,
    /// The selector.
    pub selector: SelectorId,
    /// Whether it matches from here on.
    pub matches: bool,
}

/// The index. See the module.
#[derive(Debug, Default)]
pub struct LabelIndex {
    strings: Interner,
    /// By number.
    items: Vec<Option<Item>>,
    count: usize,
    parents: FastMap<Sym, Parent>,
    postings: Postings,
    selectors: Vec<Option<Posted>>,
    free: Vec<SelectorId>,
    by_canonical: FastMap<Box<str>, SelectorId>,
    /// Selectors that match unless they deviate.
    true_by_default: BTreeSet<SelectorId>,
    changes: Vec<MatchChange>,
}

/// The labels and parents of an item, taken into an index and not yet those of any item there.
#[derive(Debug, Default)]
pub(crate) struct HeldLabels {
    /// Sorted, one value a key.
    own: Box<SymLabels>,
    parents: Box<[Sym]>,
}

#[derive(Debug, Default)]
struct Item {
    held: HeldLabels,
    /// Own and inherited labels, where that is more than the own ones.
    merged: Option<Box<SymLabels>>,
}

impl Item {
    /// Own and inherited labels, sorted.
    fn labels(&self) -> &SymLabels {
        self.merged.as_deref().unwrap_or(&self.held.own)
    }
}

#[derive(Debug, Default)]
struct Parent {
    labels: Box<SymLabels>,
    children: ItemSet,
}

#[derive(Debug)]
struct Posted {
    canonical: Box<str>,
    node: Node,
    default: bool,
    pivots: Vec<Pivot>,
    uses: u32,
    /// Items whose value is not the default.
    deviating: ItemSet,
}

impl LabelIndex {
    /// Adds an item or changes its labels and parents. Of several values of a label the first counts.
    pub fn set_item<'a>(
        &mut self,
        id: ItemId,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        parents: impl IntoIterator<Item = &'a str>,
    ) {
        let held = self.hold(labels, parents);
        self.set_held(id, held);
    }

    /// Takes labels and parents in, for [`set_held`](Self::set_held) or
    /// [`let_go`](Self::let_go).
    pub(crate) fn hold<'a>(
        &mut self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        parents: impl IntoIterator<Item = &'a str>,
    ) -> HeldLabels {
        let own = self.acquire_labels(labels);
        let parents = parents.into_iter().map(|name| self.strings.acquire(name));
        HeldLabels {
            own,
            parents: parents.collect(),
        }
    }

    /// Gives back what no item was given.
    pub(crate) fn let_go(&mut self, held: &HeldLabels) {
        self.release_labels(&held.own);
        held.parents.iter().for_each(|p| self.strings.release(*p));
    }

    /// Makes labels and parents that are held here those of an item of another index.
    pub(crate) fn copy_to(&self, other: &mut Self, id: ItemId, held: &HeldLabels) {
        let text = |sym: &Sym| self.strings.text(*sym);
        let labels = held.own.iter().map(|(key, value)| (text(key), text(value)));
        other.set_item(id, labels, held.parents.iter().map(text));
    }

    /// As [`set_item`](Self::set_item), with labels that are held.
    pub(crate) fn set_held(&mut self, id: ItemId, held: HeldLabels) {
        let at = id.0 as usize;
        if self.items.len() <= at {
            self.items.resize_with(at + 1, || None);
        }
        let is_new = self.items[at].is_none();
        self.count += usize::from(is_new);
        let item = self.items[at].get_or_insert_default();
        let parents = std::mem::replace(&mut item.held.parents, held.parents);
        if parents != item.held.parents {
            self.abandon(id, &parents);
            self.adopt(id);
        }
        let told_before = self.changes.len();
        let own = self.refresh(id, Some(held.own));
        self.let_go(&HeldLabels { own, parents });
        if is_new {
            // Every match of a new item has started, also those by default.
            self.changes.truncate(told_before);
            let started = self.selectors_of(id).map(|selector| MatchChange {
                item: id,
                selector,
                matches: true,
            });
            let started: Vec<_> = started.collect();
            self.changes.extend(started);
        }
    }

    /// Removes an item; all of its matches stop.
    pub fn remove_item(&mut self, id: ItemId) {
        if self.item(id).is_none() {
            return;
        }
        let stopped = self.selectors_of(id).map(|selector| MatchChange {
            item: id,
            selector,
            matches: false,
        });
        let stopped: Vec<_> = stopped.collect();
        self.changes.extend(stopped);
        let candidates = self.candidates(id);
        let Some(item) = self.items[id.0 as usize].take() else {
            return;
        };
        self.count -= 1;
        self.abandon(id, &item.held.parents);
        for selector in candidates {
            self.posted_mut(selector).deviating.remove(id);
        }
        for &label in item.labels() {
            self.postings.remove_item(id, label, false);
        }
        self.let_go(&item.held);
    }

    /// Sets the labels that the children of a parent inherit; none is the same as no parent.
    pub fn set_parent<'a>(
        &mut self,
        name: &str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) {
        let labels = self.acquire_labels(labels);
        let name = self.strings.acquire(name);
        let parent = self.parents.entry(name).or_default();
        let old = std::mem::replace(&mut parent.labels, labels);
        let children: Vec<ItemId> = match parent.labels == old {
            true => Vec::new(),
            false => parent.children.iter().collect(),
        };
        self.drop_parent_if_unused(name);
        for child in children {
            self.refresh(child, None);
        }
        self.release_labels(&old);
        // A parent with labels keeps its name: one use for all of them.
        let (had, has) = (!old.is_empty(), self.parents.get(&name));
        let has = has.is_some_and(|parent| !parent.labels.is_empty());
        let releases = 1 + usize::from(had) - usize::from(has);
        (0..releases).for_each(|_| self.strings.release(name));
    }

    /// Adds one use of a selector. What it matches at once is told by [`items_of`](Self::items_of),
    /// not by changes.
    pub fn add_selector(&mut self, selector: &Selector) -> SelectorId {
        if let Some(&id) = self.by_canonical.get(selector.canonical()) {
            self.posted_mut(id).uses += 1;
            return id;
        }
        let node = Node::compile(selector.expr(), &mut self.strings);
        let default = node.default();
        let load = |pivot: &Pivot| self.postings.load(pivot, &self.strings);
        let pivots = pivots(&node, !default, &load)
            .expect("a value that is not the default needs an atom to be true");
        let deviating = self.postings.deviating(&node, &self.strings);
        let posted = Posted {
            canonical: selector.canonical().into(),
            default,
            pivots,
            uses: 1,
            deviating: deviating.into_owned().into(),
            node,
        };
        self.post_selector(posted)
    }

    /// Gives back one use of a selector; with the last one it is forgotten, without changes told.
    pub fn release_selector(&mut self, id: SelectorId) {
        let posted = self.posted_mut(id);
        posted.uses -= 1;
        if posted.uses > 0 {
            return;
        }
        let Some(posted) = self.selectors[id.0 as usize].take() else {
            return;
        };
        for pivot in &posted.pivots {
            self.postings.remove_selector(id, pivot);
        }
        self.true_by_default.remove(&id);
        self.by_canonical.remove(&posted.canonical);
        posted.node.release(&mut self.strings);
        self.free.push(id);
    }

    /// The items a selector matches, ascending.
    pub fn items_of(&self, id: SelectorId) -> impl Iterator<Item = ItemId> {
        let posted = self.posted(id);
        let (plain, inverted) = match posted.default {
            false => (Some(posted.deviating.iter()), None),
            true => {
                let all = self.items.iter().zip(0..);
                let present = all.filter_map(|(item, n)| item.as_ref().map(|_| ItemId(n)));
                let matching = present.filter(|id| !posted.deviating.contains(*id));
                (None, Some(matching))
            }
        };
        plain
            .into_iter()
            .flatten()
            .chain(inverted.into_iter().flatten())
    }

    /// How many items a selector matches.
    pub fn match_count(&self, id: SelectorId) -> usize {
        let posted = self.posted(id);
        match posted.default {
            false => posted.deviating.len(),
            true => self.count - posted.deviating.len(),
        }
    }

    /// The selectors that match an item, those that match by default last.
    pub fn selectors_of(&self, id: ItemId) -> impl Iterator<Item = SelectorId> {
        let deviates = move |selector: &SelectorId| self.posted(*selector).deviating.contains(id);
        let deviating = self.candidates(id).into_iter().filter(deviates);
        let by_default = self.item(id).map(|_| &self.true_by_default);
        let by_default = by_default.into_iter().flatten().copied();
        deviating
            .filter(|selector| !self.posted(*selector).default)
            .chain(by_default.filter(move |selector| !deviates(selector)))
    }

    /// Takes what changed through items and parents since the last call, in the order it happened.
    pub fn take_changes(&mut self) -> Vec<MatchChange> {
        std::mem::take(&mut self.changes)
    }

    fn item(&self, id: ItemId) -> Option<&Item> {
        self.items.get(id.0 as usize)?.as_ref()
    }

    fn posted(&self, id: SelectorId) -> &Posted {
        self.selectors[id.0 as usize]
            .as_ref()
            .expect("ids are used only until they are released")
    }

    fn posted_mut(&mut self, id: SelectorId) -> &mut Posted {
        self.selectors[id.0 as usize]
            .as_mut()
            .expect("ids are used only until they are released")
    }

    fn post_selector(&mut self, posted: Posted) -> SelectorId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.selectors.push(None);
            SelectorId(u32::try_from(self.selectors.len() - 1).expect("fewer than 2^32 selectors"))
        });
        for pivot in &posted.pivots {
            self.postings.add_selector(id, pivot, &self.strings);
        }
        if posted.default {
            self.true_by_default.insert(id);
        }
        self.by_canonical.insert(posted.canonical.clone(), id);
        self.selectors[id.0 as usize] = Some(posted);
        id
    }

    /// The selectors that may deviate for an item, ascending.
    fn candidates(&self, id: ItemId) -> Selectors {
        let labels = self.item(id).map_or(&[][..], Item::labels);
        ascending(self.postings.candidates(labels))
    }

    /// Brings an item's labels, postings and matches up to date, with other labels of its own if any are
    /// given; returns those that it had then.
    fn refresh(&mut self, id: ItemId, own: Option<Box<SymLabels>>) -> Box<SymLabels> {
        let Some(item) = self.item(id) else {
            return Box::default();
        };
        let labels = self.merged_labels(own.as_deref().unwrap_or(&item.held.own), item);
        let old: Labels = item.labels().into();
        if labels != old {
            self.move_item(id, &old, &labels);
        }
        let Some(item) = self.items[id.0 as usize].as_mut() else {
            return Box::default();
        };
        let replaced = match own {
            Some(own) => std::mem::replace(&mut item.held.own, own),
            None => Box::default(),
        };
        let more = *item.held.own != *labels;
        item.merged = more.then(|| labels.into_boxed_slice());
        replaced
    }

    /// Moves an item from some labels to others: in the postings, and in the selectors that tell them apart.
    fn move_item(&mut self, id: ItemId, old: &SymLabels, new: &SymLabels) {
        // Before anybody asks who is posted at a value: it may be new.
        for label in new.iter().filter(|label| !old.contains(label)) {
            self.postings.add_item(id, *label, &self.strings);
        }
        let concerned = self.postings.candidates(old);
        let concerned = ascending(concerned.chain(self.postings.candidates(new)));
        for selector in concerned {
            let posted = self.posted(selector);
            let deviates = posted.node.holds(new, &self.strings) != posted.default;
            if deviates == posted.deviating.contains(id) {
                continue;
            }
            let posted = self.posted_mut(selector);
            match deviates {
                true => posted.deviating.insert(id),
                false => posted.deviating.remove(id),
            }
            let matches = deviates != posted.default;
            self.changes.push(MatchChange {
                item: id,
                selector,
                matches,
            });
        }
        for label in old.iter().filter(|label| !new.contains(label)) {
            let keeps_key = new.iter().any(|(key, _)| *key == label.0);
            self.postings.remove_item(id, *label, keeps_key);
        }
    }

    fn merged_labels(&self, own: &SymLabels, item: &Item) -> Labels {
        let mut labels: Labels = own.into();
        let parents = item.held.parents.iter();
        for parent in parents.filter_map(|name| self.parents.get(name)) {
            labels.extend_from_slice(&parent.labels);
        }
        if labels.len() > own.len() {
            first_of_each_key(&mut labels);
        }
        labels
    }

    fn adopt(&mut self, id: ItemId) {
        let Some(item) = self.items[id.0 as usize].as_ref() else {
            return;
        };
        for name in &item.held.parents {
            self.parents.entry(*name).or_default().children.insert(id);
        }
    }

    fn abandon(&mut self, id: ItemId, parents: &[Sym]) {
        for name in parents {
            if let Some(parent) = self.parents.get_mut(name) {
                parent.children.remove(id);
            }
            self.drop_parent_if_unused(*name);
        }
    }

    fn drop_parent_if_unused(&mut self, name: Sym) {
        let unused = |p: &Parent| p.labels.is_empty() && p.children.is_empty();
        if self.parents.get(&name).is_some_and(unused) {
            self.parents.remove(&name);
        }
    }

    fn acquire_labels<'a>(
        &mut self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Box<SymLabels> {
        let labels = labels.into_iter();
        let symbols =
            labels.map(|(key, value)| (self.strings.acquire(key), self.strings.acquire(value)));
        let mut symbols: Labels = symbols.collect();
        for extra in first_of_each_key(&mut symbols) {
            self.release_labels(&[extra]);
        }
        symbols.into_boxed_slice()
    }

    fn release_labels(&mut self, labels: &SymLabels) {
        for &(key, value) in labels {
            self.strings.release(key);
            self.strings.release(value);
        }
    }
}

/// Sorts labels and leaves the first value of each; gives the others.
fn first_of_each_key(labels: &mut Labels) -> SmallVec<[(Sym, Sym); 4]> {
    // Stable, so that the first stays first.
    labels.sort_by_key(|(key, _)| *key);
    let (mut others, mut last) = (SmallVec::new(), None);
    labels.retain(|label| {
        let is_first = last.replace(label.0) != Some(label.0);
        if !is_first {
            others.push(*label);
        }
        is_first
    });
    others
}

fn ascending(selectors: impl Iterator<Item = SelectorId>) -> Selectors {
    let mut all: Selectors = selectors.collect();
    all.sort_unstable();
    all.dedup();
    all
}
