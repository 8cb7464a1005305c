//! Which items match which selectors, kept up to date from both sides.
//!
//! Items carry labels of their own and inherit those of their parents (profiles, which stand for
//! namespaces and service accounts too); an own label hides an inherited one, an earlier parent hides a
//! later one. Nothing here scans: a selector is posted under its pivots (see `compiled.rs`) and a changed
//! item evaluates only what is posted under the labels it has. For every item only the selectors that
//! *deviate* from their default are stored, and for every selector only the items that do, so `all()`
//! or `a != "b"` cost nothing for the items they match.

mod compiled;
mod intern;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;

use hashbrown::HashMap;

use crate::selector::Selector;
use compiled::{Node, Pivot, pivots};
use intern::{Interner, Sym};

type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

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
    items: BTreeMap<ItemId, Item>,
    parents: BTreeMap<Arc<str>, Parent>,
    /// Items by label and value.
    by_value: FastMap<(Sym, Sym), BTreeSet<ItemId>>,
    /// Items by label.
    by_key: FastMap<Sym, BTreeSet<ItemId>>,
    selectors: Vec<Option<Posted>>,
    free: Vec<SelectorId>,
    by_canonical: FastMap<Box<str>, SelectorId>,
    /// Selectors by pivot, each sorted.
    posted: FastMap<Pivot, Vec<SelectorId>>,
    /// Selectors that match unless they deviate.
    true_by_default: BTreeSet<SelectorId>,
    changes: Vec<MatchChange>,
}

#[derive(Debug)]
struct Item {
    own: Vec<(Sym, Sym)>,
    parents: Vec<Arc<str>>,
    /// Own and inherited labels, sorted.
    effective: Vec<(Sym, Sym)>,
    /// Selectors whose value here is not their default, sorted.
    deviating: Vec<SelectorId>,
}

#[derive(Debug, Default)]
struct Parent {
    labels: Vec<(Sym, Sym)>,
    children: BTreeSet<ItemId>,
}

#[derive(Debug)]
struct Posted {
    canonical: Box<str>,
    node: Node,
    default: bool,
    pivots: Vec<Pivot>,
    uses: u32,
    /// Items whose value is not the default.
    deviating: BTreeSet<ItemId>,
}

impl LabelIndex {
    /// Adds an item or changes its labels and parents.
    pub fn set_item<'a>(
        &mut self,
        id: ItemId,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        parents: impl IntoIterator<Item = &'a str>,
    ) {
        let own = self.acquire_labels(labels);
        let parents: Vec<Arc<str>> = parents.into_iter().map(Arc::from).collect();
        let told_before = self.changes.len();
        let item = match self.items.entry(id) {
            Entry::Vacant(vacant) => {
                let item = Item {
                    own,
                    parents: Vec::new(),
                    effective: Vec::new(),
                    deviating: Vec::new(),
                };
                vacant.insert(item);
                self.adopt(id, parents);
                self.refresh(id);
                // Every match of a new item has started, also those by default.
                self.changes.truncate(told_before);
                let started: Vec<_> = self.selectors_of(id).collect();
                let change = |selector| MatchChange {
                    item: id,
                    selector,
                    matches: true,
                };
                self.changes.extend(started.into_iter().map(change));
                return;
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        let old = std::mem::replace(&mut item.own, own);
        if item.parents != parents {
            self.abandon(id);
            self.adopt(id, parents);
        }
        self.refresh(id);
        self.release_labels(&old);
    }

    /// Removes an item; all of its matches stop.
    pub fn remove_item(&mut self, id: ItemId) {
        if !self.items.contains_key(&id) {
            return;
        }
        for selector in self.selectors_of(id).collect::<Vec<_>>() {
            self.changes.push(MatchChange {
                item: id,
                selector,
                matches: false,
            });
        }
        self.abandon(id);
        if let Some(item) = self.items.remove(&id) {
            for &(key, value) in &item.effective {
                self.unpost_item(id, key, value);
            }
            for &selector in &item.deviating {
                self.posted_mut(selector).deviating.remove(&id);
            }
            self.release_labels(&item.own);
        }
    }

    /// Sets the labels that the children of a parent inherit; none is the same as no parent.
    pub fn set_parent<'a>(
        &mut self,
        name: &str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) {
        let labels = self.acquire_labels(labels);
        let parent = self.parents.entry(name.into()).or_default();
        let old = std::mem::replace(&mut parent.labels, labels);
        let children: Vec<ItemId> = match parent.labels == old {
            true => Vec::new(),
            false => parent.children.iter().copied().collect(),
        };
        self.drop_parent_if_unused(name);
        for child in children {
            self.refresh(child);
        }
        self.release_labels(&old);
    }

    /// Adds one use of a selector. What it matches at once is told by [`items_of`](Self::items_of),
    /// not by changes.
    pub fn add_selector(&mut self, selector: &Selector) -> SelectorId {
        if let Some(&id) = self.by_canonical.get(selector.canonical()) {
            self.posted_mut(id).uses += 1;
            return id;
        }
        let node = Node::compile(selector.expr(), &mut self.strings);
        let default = node.holds(&[], &self.strings);
        let load = |pivot| self.posted.get(&pivot).map_or(0, Vec::len);
        let pivots = pivots(&node, !default, &load)
            .expect("a value that is not the default needs an atom to be true");
        let deviating = self
            .items_at(&pivots)
            .filter(|id| node.holds(&self.items[id].effective, &self.strings) != default)
            .collect();
        let posted = Posted {
            canonical: selector.canonical().into(),
            node,
            default,
            pivots,
            uses: 1,
            deviating,
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
            if let Some(list) = self.posted.get_mut(pivot) {
                list.retain(|s| *s != id);
                if list.is_empty() {
                    self.posted.remove(pivot);
                }
            }
        }
        for item in &posted.deviating {
            if let Some(item) = self.items.get_mut(item) {
                item.deviating.retain(|s| *s != id);
            }
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
            false => (Some(posted.deviating.iter().copied()), None),
            true => (
                None,
                Some(
                    self.items
                        .keys()
                        .filter(|i| !posted.deviating.contains(*i))
                        .copied(),
                ),
            ),
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
            true => self.items.len() - posted.deviating.len(),
        }
    }

    /// The selectors that match an item, those that match by default last.
    pub fn selectors_of(&self, id: ItemId) -> impl Iterator<Item = SelectorId> {
        let item = self.items.get(&id);
        let deviating = item.map_or(&[][..], |item| &item.deviating);
        let by_default = item.map(|_| &self.true_by_default).into_iter().flatten();
        deviating
            .iter()
            .filter(|s| !self.posted(**s).default)
            .chain(by_default.filter(|s| deviating.binary_search(s).is_err()))
            .copied()
    }

    /// Takes what changed through items and parents since the last call, in the order it happened.
    pub fn take_changes(&mut self) -> Vec<MatchChange> {
        std::mem::take(&mut self.changes)
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
            insert_sorted(self.posted.entry(*pivot).or_default(), id);
        }
        for item in &posted.deviating {
            if let Some(item) = self.items.get_mut(item) {
                insert_sorted(&mut item.deviating, id);
            }
        }
        if posted.default {
            self.true_by_default.insert(id);
        }
        self.by_canonical.insert(posted.canonical.clone(), id);
        self.selectors[id.0 as usize] = Some(posted);
        id
    }

    /// Items that have one of these, some perhaps more than once.
    fn items_at(&self, pivots: &[Pivot]) -> impl Iterator<Item = ItemId> {
        pivots.iter().flat_map(|pivot| {
            let items = match pivot {
                Pivot::Value(key, value) => self.by_value.get(&(*key, *value)),
                Pivot::Key(key) => self.by_key.get(key),
            };
            items.into_iter().flatten().copied()
        })
    }

    /// Brings an item's effective labels, postings and matches up to date.
    fn refresh(&mut self, id: ItemId) {
        let Some(item) = self.items.get(&id) else {
            return;
        };
        let effective = self.effective_labels(item);
        if effective == item.effective {
            return;
        }
        let deviating = self.deviating_selectors(&effective);
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        let old_labels = std::mem::replace(&mut item.effective, effective.clone());
        let old_deviating = std::mem::replace(&mut item.deviating, deviating.clone());
        for (key, value) in only_in(&old_labels, &effective) {
            self.unpost_item(id, key, value);
        }
        for (key, value) in only_in(&effective, &old_labels) {
            self.by_value.entry((key, value)).or_default().insert(id);
            self.by_key.entry(key).or_default().insert(id);
        }
        for selector in only_in(&old_deviating, &deviating) {
            self.posted_mut(selector).deviating.remove(&id);
            let matches = self.posted(selector).default;
            self.changes.push(MatchChange {
                item: id,
                selector,
                matches,
            });
        }
        for selector in only_in(&deviating, &old_deviating) {
            self.posted_mut(selector).deviating.insert(id);
            let matches = !self.posted(selector).default;
            self.changes.push(MatchChange {
                item: id,
                selector,
                matches,
            });
        }
    }

    fn effective_labels(&self, item: &Item) -> Vec<(Sym, Sym)> {
        let mut labels = item.own.clone();
        for parent in item
            .parents
            .iter()
            .filter_map(|name| self.parents.get(name))
        {
            labels.extend(&parent.labels);
        }
        // Stable: of several values of a key the one that came first stays.
        labels.sort_by_key(|(key, _)| *key);
        labels.dedup_by_key(|(key, _)| *key);
        labels
    }

    fn deviating_selectors(&self, labels: &[(Sym, Sym)]) -> Vec<SelectorId> {
        let mut found = Vec::new();
        for &(key, value) in labels {
            for pivot in [Pivot::Value(key, value), Pivot::Key(key)] {
                found.extend(
                    self.posted
                        .get(&pivot)
                        .into_iter()
                        .flatten()
                        .copied()
                        .filter(|id| {
                            let posted = self.posted(*id);
                            posted.node.holds(labels, &self.strings) != posted.default
                        }),
                );
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn unpost_item(&mut self, id: ItemId, key: Sym, value: Sym) {
        if let Some(items) = self.by_value.get_mut(&(key, value)) {
            items.remove(&id);
            if items.is_empty() {
                self.by_value.remove(&(key, value));
            }
        }
        let still_has_key = self
            .items
            .get(&id)
            .is_some_and(|i| i.effective.binary_search_by_key(&key, |(k, _)| *k).is_ok());
        if !still_has_key && let Some(items) = self.by_key.get_mut(&key) {
            items.remove(&id);
            if items.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }

    fn adopt(&mut self, id: ItemId, parents: Vec<Arc<str>>) {
        for name in &parents {
            self.parents
                .entry(Arc::clone(name))
                .or_default()
                .children
                .insert(id);
        }
        if let Some(item) = self.items.get_mut(&id) {
            item.parents = parents;
        }
    }

    fn abandon(&mut self, id: ItemId) {
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        for name in std::mem::take(&mut item.parents) {
            if let Some(parent) = self.parents.get_mut(&name) {
                parent.children.remove(&id);
            }
            self.drop_parent_if_unused(&name);
        }
    }

    fn drop_parent_if_unused(&mut self, name: &str) {
        if self
            .parents
            .get(name)
            .is_some_and(|p| p.labels.is_empty() && p.children.is_empty())
        {
            self.parents.remove(name);
        }
    }

    fn acquire_labels<'a>(
        &mut self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Vec<(Sym, Sym)> {
        labels
            .into_iter()
            .map(|(key, value)| (self.strings.acquire(key), self.strings.acquire(value)))
            .collect()
    }

    fn release_labels(&mut self, labels: &[(Sym, Sym)]) {
        for &(key, value) in labels {
            self.strings.release(key);
            self.strings.release(value);
        }
    }
}

fn insert_sorted<T: Ord>(list: &mut Vec<T>, value: T) {
    if let Err(at) = list.binary_search(&value) {
        list.insert(at, value);
    }
}

/// What the sorted `list` holds and the sorted `other` does not.
fn only_in<T: Ord + Copy>(list: &[T], other: &[T]) -> Vec<T> {
    list.iter()
        .filter(|x| other.binary_search(x).is_err())
        .copied()
        .collect()
}
