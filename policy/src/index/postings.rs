//! Items and selectors by label and value.

use std::borrow::Cow;

use roaring::RoaringBitmap;

use super::compiled::{Node, Pivot, SymLabels, TextTest};
use super::intern::{Interner, Sym};
use super::item_set::ItemSet;
use super::{FastMap, ItemId, SelectorId};

/// What a pivot that any value fits counts for: a label may come to be on every item.
const ANY_VALUE: usize = 100;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Postings {
    keys: FastMap<Sym, Key>,
}

/// A label.
#[derive(Debug, Default)]
struct Key {
    items: ItemSet,
    values: FastMap<Sym, Value>,
    /// Selectors posted at the label whatever its value, sorted.
    any: Vec<SelectorId>,
    texts: Vec<Text>,
}

/// A value of a label.
#[derive(Debug, Default)]
struct Value {
    items: ItemSet,
    /// Selectors posted here, sorted.
    exact: Vec<SelectorId>,
    /// Selectors posted at tests of the text that this value passes, once for each test.
    by_text: Vec<SelectorId>,
}

/// A selector posted at all values that pass a test.
#[derive(Debug)]
struct Text {
    test: TextTest,
    selector: SelectorId,
}

impl Key {
    /// The value's entry; a new one is held against the tests of texts.
    fn value(&mut self, value: Sym, strings: &Interner) -> &mut Value {
        let texts = &self.texts;
        self.values.entry(value).or_insert_with(|| {
            let text = strings.text(value);
            let passed = texts.iter().filter(|t| t.test.holds(text));
            Value {
                by_text: passed.map(|t| t.selector).collect(),
                ..Value::default()
            }
        })
    }

    fn drop_if_unused(&mut self, value: Sym) {
        let unused = |v: &Value| v.items.is_empty() && v.exact.is_empty();
        if self.values.get(&value).is_some_and(unused) {
            self.values.remove(&value);
        }
    }

    fn is_unused(&self) -> bool {
        self.items.is_empty()
            && self.values.is_empty()
            && self.any.is_empty()
            && self.texts.is_empty()
    }
}

impl Postings {
    /// An item has a label with a value from here on.
    pub(super) fn add_item(&mut self, id: ItemId, (key, value): (Sym, Sym), strings: &Interner) {
        let key = self.keys.entry(key).or_default();
        key.items.insert(id);
        key.value(value, strings).items.insert(id);
    }

    /// An item ceases to have a label with a value. `keeps_key` when it has the label with another.
    pub(super) fn remove_item(&mut self, id: ItemId, (key, value): (Sym, Sym), keeps_key: bool) {
        let Some(entry) = self.keys.get_mut(&key) else {
            return;
        };
        if let Some(value) = entry.values.get_mut(&value) {
            value.items.remove(id);
        }
        entry.drop_if_unused(value);
        if !keeps_key {
            entry.items.remove(id);
        }
        self.drop_if_unused(key);
    }

    /// A selector is to be asked about items that have this.
    pub(super) fn add_selector(&mut self, id: SelectorId, pivot: &Pivot, strings: &Interner) {
        let entry = self.keys.entry(pivot.key()).or_default();
        match pivot {
            Pivot::Value(_, value) => insert_sorted(&mut entry.value(*value, strings).exact, id),
            Pivot::Key(_) => insert_sorted(&mut entry.any, id),
            Pivot::Text(_, test) => {
                for (value, posted) in &mut entry.values {
                    if test.holds(strings.text(*value)) {
                        posted.by_text.push(id);
                    }
                }
                entry.texts.push(Text {
                    test: test.clone(),
                    selector: id,
                });
            }
        }
    }

    /// The opposite of [`add_selector`](Self::add_selector), for all of a selector's pivots at that key.
    pub(super) fn remove_selector(&mut self, id: SelectorId, pivot: &Pivot) {
        let Some(entry) = self.keys.get_mut(&pivot.key()) else {
            return;
        };
        let other = |s: &SelectorId| *s != id;
        match pivot {
            Pivot::Value(_, value) => {
                if let Some(posted) = entry.values.get_mut(value) {
                    posted.exact.retain(other);
                }
                entry.drop_if_unused(*value);
            }
            Pivot::Key(_) => entry.any.retain(other),
            Pivot::Text(..) => {
                entry.texts.retain(|text| text.selector != id);
                for posted in entry.values.values_mut() {
                    posted.by_text.retain(other);
                }
            }
        }
        self.drop_if_unused(pivot.key());
    }

    fn drop_if_unused(&mut self, key: Sym) {
        if self.keys.get(&key).is_some_and(Key::is_unused) {
            self.keys.remove(&key);
        }
    }

    /// Selectors that may deviate from their default for an item with these labels, some more than once.
    pub(super) fn candidates(&self, labels: &SymLabels) -> impl Iterator<Item = SelectorId> {
        labels.iter().flat_map(|(key, value)| {
            let key = self.keys.get(key);
            let value = key.and_then(|key| key.values.get(value));
            let of_key = key.into_iter().flat_map(|key| &key.any);
            let of_value = value
                .into_iter()
                .flat_map(|v| v.exact.iter().chain(&v.by_text));
            of_key.chain(of_value).copied()
        })
    }

    /// How much there is at a pivot: items, of which each change is a look at every selector posted there,
    /// and selectors, which make that one change slow.
    pub(super) fn load(&self, pivot: &Pivot, strings: &Interner) -> usize {
        let at = |value: &Value| value.items.len() + value.exact.len() + value.by_text.len();
        let key = self.keys.get(&pivot.key());
        match pivot {
            Pivot::Value(_, value) => key.and_then(|key| key.values.get(value)).map_or(0, at),
            Pivot::Key(_) => ANY_VALUE + key.map_or(0, |key| key.items.len() + key.any.len()),
            Pivot::Text(_, test) => {
                let values = key.into_iter().flat_map(|key| &key.values);
                let passed = values.filter(|(value, _)| test.holds(strings.text(**value)));
                passed.map(|(_, value)| at(value)).sum()
            }
        }
    }

    /// The items for which an expression is not what it is for an item without labels.
    ///
    /// Nothing here is as large as the set of all items unless a label is on all of them: negation only
    /// turns the default over.
    pub(super) fn deviating(&self, node: &Node, strings: &Interner) -> Cow<'_, RoaringBitmap> {
        match node {
            Node::Const(_) => Cow::default(),
            Node::Has(key) => match self.keys.get(key) {
                Some(key) => key.items.bitmap(),
                None => Cow::default(),
            },
            Node::OneOf(key, values) => {
                let Some(key) = self.keys.get(key) else {
                    return Cow::default();
                };
                let found = values.iter().filter_map(|value| key.values.get(value));
                union(found.map(|value| &value.items))
            }
            Node::Text(key, test) => {
                let Some(key) = self.keys.get(key) else {
                    return Cow::default();
                };
                let passed = key
                    .values
                    .iter()
                    .filter(|(v, _)| test.holds(strings.text(**v)));
                union(passed.map(|(_, value)| &value.items))
            }
            Node::Not(operand) => self.deviating(operand, strings),
            Node::And(list) => self.combined(list, true, strings),
            Node::Or(list) => self.combined(list, false, strings),
        }
    }

    /// Of a conjunction (`neutral` is true) or disjunction (false). As long as every operand is neutral by
    /// default, one that deviates is enough; otherwise all that are not neutral must deviate, and none that
    /// is may.
    fn combined(&self, list: &[Node], neutral: bool, strings: &Interner) -> Cow<'_, RoaringBitmap> {
        let (neutrals, others): (Vec<&Node>, Vec<&Node>) =
            list.iter().partition(|node| node.default() == neutral);
        let mut others = others.into_iter().map(|node| self.deviating(node, strings));
        let mut neutrals = neutrals
            .into_iter()
            .map(|node| self.deviating(node, strings));
        let Some(mut found) = others.next() else {
            let mut all = neutrals.next().unwrap_or_default();
            neutrals.for_each(|more| *all.to_mut() |= &*more);
            return all;
        };
        for more in others {
            found = Cow::Owned(&*found & &*more);
        }
        for less in neutrals {
            if !found.is_empty() {
                *found.to_mut() -= &*less;
            }
        }
        found
    }

    /// How many entries there are for labels, values and posted selectors.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

fn union<'a>(sets: impl Iterator<Item = &'a ItemSet>) -> Cow<'a, RoaringBitmap> {
    let mut sets = sets;
    let (Some(first), second) = (sets.next(), sets.next()) else {
        return Cow::default();
    };
    let mut all = first.bitmap();
    for more in second.into_iter().chain(sets) {
        more.add_to(all.to_mut());
    }
    all
}

fn insert_sorted(list: &mut Vec<SelectorId>, id: SelectorId) {
    if let Err(at) = list.binary_search(&id) {
        list.insert(at, id);
    }
}
