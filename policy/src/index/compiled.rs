//! A selector over interned labels, with the atoms that can make it deviate from its default.
//!
//! An *atom* is a positive test of one label: it is false when the label is absent. Every selector is a
//! Boolean function of atoms, so an item for which no atom is true gets the selector's *default*: its
//! value on no labels at all. [`pivots`] finds a small set of atoms such that an item for which none of
//! *these* is true is certain to get the default. That covers the negative operators as well: `a != "b"`
//! is true by default and only items with `a == "b"` need a look.

use super::intern::{Interner, Sym};
use crate::selector::Expr;

/// Labels of an item: sorted by key, one value a key.
pub(super) type SymLabels = [(Sym, Sym)];

/// An expression whose labels and values are interned.
#[derive(Debug)]
pub(super) enum Node {
    Const(bool),
    Has(Sym),
    /// The value is one of these, sorted.
    OneOf(Sym, Vec<Sym>),
    /// A test of the value's text.
    Text(Sym, TextTest),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TextTest {
    Contains(Box<str>),
    StartsWith(Box<str>),
    EndsWith(Box<str>),
}

/// Where a selector is posted: items that have this are looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pivot {
    /// The label with exactly this value.
    Value(Sym, Sym),
    /// The label with any value that passes.
    Text(Sym, TextTest),
    /// The label with any value.
    Key(Sym),
}

impl Pivot {
    /// The label.
    pub(super) const fn key(&self) -> Sym {
        match self {
            Self::Value(key, _) | Self::Text(key, _) | Self::Key(key) => *key,
        }
    }
}

impl Node {
    /// Interns an expression. Release it with [`Node::release`].
    pub(super) fn compile(expr: &Expr, strings: &mut Interner) -> Self {
        let mut one_of = |key: &str, values: &[Box<str>]| {
            let key = strings.acquire(key);
            let mut values: Vec<_> = values.iter().map(|v| strings.acquire(v)).collect();
            values.sort_unstable();
            Self::OneOf(key, values)
        };
        let not = |node| Self::Not(Box::new(node));
        match expr {
            Expr::All | Expr::Global => Self::Const(true),
            Expr::Equals(k, v) => one_of(k, std::slice::from_ref(v)),
            Expr::NotEquals(k, v) => not(one_of(k, std::slice::from_ref(v))),
            Expr::In(k, values) => one_of(k, values),
            Expr::NotIn(k, values) => not(one_of(k, values)),
            Expr::Has(k) => Self::Has(strings.acquire(k)),
            Expr::Contains(k, v) => Self::Text(strings.acquire(k), TextTest::Contains(v.clone())),
            Expr::StartsWith(k, v) => {
                Self::Text(strings.acquire(k), TextTest::StartsWith(v.clone()))
            }
            Expr::EndsWith(k, v) => Self::Text(strings.acquire(k), TextTest::EndsWith(v.clone())),
            Expr::Not(operand) => not(Self::compile(operand, strings)),
            Expr::And(list) => Self::And(list.iter().map(|o| Self::compile(o, strings)).collect()),
            Expr::Or(list) => Self::Or(list.iter().map(|o| Self::compile(o, strings)).collect()),
        }
    }

    /// Gives back every symbol taken by [`Node::compile`].
    pub(super) fn release(&self, strings: &mut Interner) {
        match self {
            Self::Const(_) => {}
            Self::Has(key) | Self::Text(key, ..) => strings.release(*key),
            Self::OneOf(key, values) => {
                strings.release(*key);
                values.iter().for_each(|v| strings.release(*v));
            }
            Self::Not(operand) => operand.release(strings),
            Self::And(list) | Self::Or(list) => list.iter().for_each(|o| o.release(strings)),
        }
    }

    /// Whether the expression holds for an item without labels.
    pub(super) fn default(&self) -> bool {
        match self {
            Self::Const(truth) => *truth,
            Self::Has(_) | Self::OneOf(..) | Self::Text(..) => false,
            Self::Not(operand) => !operand.default(),
            Self::And(list) => list.iter().all(Self::default),
            Self::Or(list) => list.iter().any(Self::default),
        }
    }

    /// Whether the expression holds for these labels.
    pub(super) fn holds(&self, labels: &SymLabels, strings: &Interner) -> bool {
        let value = |key: &Sym| {
            let at = labels.binary_search_by_key(key, |(k, _)| *k).ok()?;
            Some(labels[at].1)
        };
        match self {
            Self::Const(truth) => *truth,
            Self::Has(key) => value(key).is_some(),
            Self::OneOf(key, values) => {
                value(key).is_some_and(|v| values.binary_search(&v).is_ok())
            }
            Self::Text(key, test) => value(key).is_some_and(|v| test.holds(strings.text(v))),
            Self::Not(operand) => !operand.holds(labels, strings),
            Self::And(list) => list.iter().all(|o| o.holds(labels, strings)),
            Self::Or(list) => list.iter().any(|o| o.holds(labels, strings)),
        }
    }
}

impl TextTest {
    /// Whether a value passes.
    pub(super) fn holds(&self, value: &str) -> bool {
        match self {
            Self::Contains(part) => value.contains(&**part),
            Self::StartsWith(part) => value.starts_with(&**part),
            Self::EndsWith(part) => value.ends_with(&**part),
        }
    }
}

/// Atoms of which one must be true for `node` to be `truth`; `None` if it can be so without any.
///
/// For every node exactly one of the two truths has an answer: the one that is not its default.
/// Of the operands of a conjunction, the one whose atoms have the least `load` is taken.
pub(super) fn pivots(
    node: &Node,
    truth: bool,
    load: &impl Fn(&Pivot) -> usize,
) -> Option<Vec<Pivot>> {
    match (node, truth) {
        (Node::Const(value), truth) => (*value != truth).then(Vec::new),
        (Node::Has(_) | Node::OneOf(..) | Node::Text(..), false) => None,
        (Node::Has(key), true) => Some(vec![Pivot::Key(*key)]),
        (Node::Text(key, test), true) => Some(vec![Pivot::Text(*key, test.clone())]),
        (Node::OneOf(key, values), true) => {
            Some(values.iter().map(|v| Pivot::Value(*key, *v)).collect())
        }
        (Node::Not(operand), truth) => pivots(operand, !truth, load),
        (Node::And(list), true) | (Node::Or(list), false) => list
            .iter()
            .filter_map(|operand| pivots(operand, truth, load))
            .min_by_key(|found| found.iter().map(load).sum::<usize>()),
        (Node::And(list), false) | (Node::Or(list), true) => {
            let mut all = Vec::new();
            for operand in list {
                all.extend(pivots(operand, truth, load)?);
            }
            all.sort_unstable();
            all.dedup();
            Some(all)
        }
    }
}
