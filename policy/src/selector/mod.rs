//! Label selectors: the complete grammar, a canonical form, an identity and evaluation.
//!
//! ```text
//! expr := and ("||" and)*        and := op ("&&" op)*
//! op   := "!"* ( "(" expr ")" | has(label) | all() | global()
//!              | label ("==" | "!=" | "contains" | "starts with" | "ends with") string
//!              | label ("in" | "not in") "{" [string ("," string)* [","]] "}" )
//! ```
//!
//! An empty text is `all()`. Only space and tab separate tokens. Strings stand in `'..'` or `".."` and
//! know no escapes. Words such as `in` or `all` are labels wherever a label may stand.

mod parse;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha224};

pub use parse::{MAX_DEPTH, MAX_LABEL_CHARS, MAX_SELECTOR_BYTES, ParseError};

/// A parsed selector. Cheap to clone; equal when the canonical forms are equal.
#[derive(Clone)]
pub struct Selector(Arc<Parsed>);

struct Parsed {
    expr: Expr,
    canonical: Box<str>,
}

/// A node of the expression tree.
///
/// Built by [`Selector::from_str`], which bounds its depth. `And` and `Or` hold two or more operands,
/// value sets are sorted and hold no value twice, and `Not` never holds a `Not`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// `all()`: true.
    All,
    /// `global()`: true, except in a namespaceSelector, where it means "has no namespace".
    Global,
    /// `has(label)`.
    Has(Box<str>),
    /// `label == "value"`; false without the label.
    Equals(Box<str>, Box<str>),
    /// `label != "value"`; true without the label.
    NotEquals(Box<str>, Box<str>),
    /// `label contains "part"`; false without the label.
    Contains(Box<str>, Box<str>),
    /// `label starts with "prefix"`; false without the label.
    StartsWith(Box<str>, Box<str>),
    /// `label ends with "suffix"`; false without the label.
    EndsWith(Box<str>, Box<str>),
    /// `label in {..}`; false without the label.
    In(Box<str>, Vec<Box<str>>),
    /// `label not in {..}`; true without the label.
    NotIn(Box<str>, Vec<Box<str>>),
    /// `!operand`.
    Not(Box<Self>),
    /// All operands.
    And(Vec<Self>),
    /// Any operand.
    Or(Vec<Self>),
}

/// Something with labels that a selector can be asked about.
pub trait Labels {
    /// The value of a label, `None` when the label is absent.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl<S: std::hash::BuildHasher> Labels for HashMap<String, String, S> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Selector {
    /// A selector from an expression that was put together from parsed ones.
    pub fn from_expr(expr: Expr) -> Self {
        let canonical = expr.to_string().into();
        Self(Arc::new(Parsed { expr, canonical }))
    }

    /// The selector that matches everything.
    pub fn all() -> Self {
        Self::from_expr(Expr::All)
    }

    /// The expression tree.
    pub fn expr(&self) -> &Expr {
        &self.0.expr
    }

    /// The canonical text: parenthesised, sets sorted, double quotes unless the value holds one.
    pub fn canonical(&self) -> &str {
        &self.0.canonical
    }

    /// The identity of the canonical text: `s:` and the base64url SHA-224 of `s:` + text.
    pub fn uid(&self) -> String {
        uid_of("s:", self.canonical())
    }

    /// Whether the selector holds for these labels.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        self.0.expr.matches(labels)
    }
}

/// `prefix` and the base64url SHA-224 of `prefix` + `text`: 38 characters behind the prefix.
pub(crate) fn uid_of(prefix: &str, text: &str) -> String {
    let digest = Sha224::new()
        .chain_update(prefix)
        .chain_update(text)
        .finalize();
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(digest))
}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse::parse(text).map(Self::from_expr)
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.canonical == other.0.canonical
    }
}

impl Eq for Selector {}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.canonical())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({})", self.canonical())
    }
}

impl Expr {
    /// The conjunction of `operands`: `all()` for none, the operand itself for one.
    pub fn and(mut operands: Vec<Self>) -> Self {
        match operands.len() {
            0 => Self::All,
            1 => operands.remove(0),
            _ => Self::And(operands),
        }
    }

    /// The disjunction of one or more `operands`; for none, the expression that is never true.
    pub fn or(mut operands: Vec<Self>) -> Self {
        match operands.len() {
            0 => Self::All.negated(),
            1 => operands.remove(0),
            _ => Self::Or(operands),
        }
    }

    /// The negation; a double one cancels out.
    #[must_use]
    pub fn negated(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// `label in {values}`, with the values sorted and each once.
    pub fn is_in<'a>(label: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        Self::In(label.into(), sorted(values.into_iter().map(Box::from)))
    }

    /// Whether the expression holds for these labels.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let holds = |key: &str, test: &dyn Fn(&str) -> bool| labels.label(key).is_some_and(test);
        match self {
            Self::All | Self::Global => true,
            Self::Has(key) => labels.label(key).is_some(),
            Self::Equals(key, value) => holds(key, &|v| v == &**value),
            Self::NotEquals(key, value) => !holds(key, &|v| v == &**value),
            Self::Contains(key, part) => holds(key, &|v| v.contains(&**part)),
            Self::StartsWith(key, prefix) => holds(key, &|v| v.starts_with(&**prefix)),
            Self::EndsWith(key, suffix) => holds(key, &|v| v.ends_with(&**suffix)),
            Self::In(key, values) => holds(key, &|v| contains(values, v)),
            Self::NotIn(key, values) => !holds(key, &|v| contains(values, v)),
            Self::Not(operand) => !operand.matches(labels),
            Self::And(operands) => operands.iter().all(|o| o.matches(labels)),
            Self::Or(operands) => operands.iter().any(|o| o.matches(labels)),
        }
    }

    /// The same expression about the labels of a parent: every label gets `prefix`, and `all()` and
    /// `global()` become what they mean there.
    #[must_use]
    pub fn prefixed(&self, prefix: &str, all: &Self, global: &Self) -> Self {
        let key = |k: &str| format!("{prefix}{k}").into_boxed_str();
        let each = |operands: &[Self]| -> Vec<Self> {
            operands
                .iter()
                .map(|o| o.prefixed(prefix, all, global))
                .collect()
        };
        match self {
            Self::All => all.clone(),
            Self::Global => global.clone(),
            Self::Has(k) => Self::Has(key(k)),
            Self::Equals(k, v) => Self::Equals(key(k), v.clone()),
            Self::NotEquals(k, v) => Self::NotEquals(key(k), v.clone()),
            Self::Contains(k, v) => Self::Contains(key(k), v.clone()),
            Self::StartsWith(k, v) => Self::StartsWith(key(k), v.clone()),
            Self::EndsWith(k, v) => Self::EndsWith(key(k), v.clone()),
            Self::In(k, v) => Self::In(key(k), v.clone()),
            Self::NotIn(k, v) => Self::NotIn(key(k), v.clone()),
            Self::Not(operand) => operand.prefixed(prefix, all, global).negated(),
            Self::And(operands) => Self::And(each(operands)),
            Self::Or(operands) => Self::Or(each(operands)),
        }
    }
}

fn contains(sorted: &[Box<str>], value: &str) -> bool {
    sorted.binary_search_by(|v| (**v).cmp(value)).is_ok()
}

fn sorted(values: impl IntoIterator<Item = Box<str>>) -> Vec<Box<str>> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable();
    values.dedup();
    values
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(k) => write!(f, "has({k})"),
            Self::Equals(k, v) => write!(f, "{k} == {}", Quoted(v)),
            Self::NotEquals(k, v) => write!(f, "{k} != {}", Quoted(v)),
            Self::Contains(k, v) => write!(f, "{k} contains {}", Quoted(v)),
            Self::StartsWith(k, v) => write!(f, "{k} starts with {}", Quoted(v)),
            Self::EndsWith(k, v) => write!(f, "{k} ends with {}", Quoted(v)),
            Self::In(k, values) => write!(f, "{k} in {}", ValueSet(values)),
            Self::NotIn(k, values) => write!(f, "{k} not in {}", ValueSet(values)),
            Self::Not(operand) => write!(f, "!{operand}"),
            Self::And(operands) => write_joined(f, operands, " && "),
            Self::Or(operands) => write_joined(f, operands, " || "),
        }
    }
}

fn write_joined(f: &mut fmt::Formatter<'_>, operands: &[Expr], joint: &str) -> fmt::Result {
    f.write_str("(")?;
    for (i, operand) in operands.iter().enumerate() {
        f.write_str(if i == 0 { "" } else { joint })?;
        write!(f, "{operand}")?;
    }
    f.write_str(")")
}

/// A string literal. A parsed value never holds both kinds of quotes, since there are no escapes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct ValueSet<'a>(&'a [Box<str>]);

impl fmt::Display for ValueSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, value) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            write!(f, "{}", Quoted(value))?;
        }
        f.write_str("}")
    }
}
