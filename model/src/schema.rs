//! Which members the JSON of a kind may have, and of what form: the first half of validation.
//!
//! Typed decoding stops at the first mistake and cannot tell a field of another release from a slip
//! of the pen. The tables here know all names, so that every mistake of a document is found at once.

mod forms;
mod kinds;

use serde_json::{Map, Value};

use crate::field_error::FieldError;
use crate::source::Node;
pub(crate) use forms::is_dns_label;
pub(crate) use forms::is_dns_subdomain;
pub(crate) use forms::is_port_name;
pub(crate) use forms::is_regex;
pub(crate) use kinds::{kubernetes_schema, resource_schema};

/// The form of a value.
pub(crate) enum Shape {
    /// Any text up to so many bytes.
    Text(usize),
    /// `true` or `false`.
    Bool,
    /// A whole number, both ends included.
    Whole(i64, i64),
    /// Any number.
    Number,
    /// One of these words.
    Word(&'static [&'static str]),
    /// One of these words, in upper or lower case.
    AnyCase(&'static [&'static str]),
    /// Something with a notation of its own.
    Form(&'static Form),
    /// A list of at most so many.
    List(&'static Self, usize),
    /// Text by name.
    Texts,
    /// Members with names.
    Object(&'static Schema),
    /// Whatever.
    Any,
}

/// A notation.
pub(crate) struct Form {
    /// What is allowed, for errors.
    pub(crate) allowed: &'static str,
    /// Whether a value is of this form.
    pub(crate) accepts: fn(&Value) -> bool,
    /// A value of this form, as JSON.
    #[cfg(test)]
    pub(crate) example: &'static str,
}

/// The members of an object.
pub(crate) struct Schema {
    /// Those we use, with their form.
    pub(crate) fields: &'static [(&'static str, Shape)],
    /// Those that must be there.
    pub(crate) required: &'static [&'static str],
    /// Those that other releases have; kept as they are.
    pub(crate) foreign: &'static [&'static str],
    /// Those that we have no use for, with their form; kept for others.
    pub(crate) kept: &'static [(&'static str, Shape)],
}

impl Schema {
    /// The form of a member. What we have no use for may be of any form where another release wrote
    /// it.
    fn shape(&self, name: &str, unknown: Unknown) -> Option<&Shape> {
        let of = |table: &'static [(&str, Shape)]| {
            let entry = table.iter().find(|(field, _)| *field == name)?;
            Some(&entry.1)
        };
        of(self.fields)
            .or_else(|| of(self.kept).map(|shape| unknown.or_any(shape)))
            .or_else(|| self.foreign.contains(&name).then_some(&Shape::Any))
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.fields
            .iter()
            .chain(self.kept)
            .map(|(name, _)| *name)
            .chain(self.foreign.iter().copied())
    }
}

/// What to make of names that no table has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// An error: somebody wrote it by hand.
    Refuse,
    /// Nothing: another release wrote it.
    Keep,
}

impl Unknown {
    const fn or_any(self, shape: &'static Shape) -> &'static Shape {
        match self {
            Self::Refuse => shape,
            Self::Keep => &Shape::Any,
        }
    }
}

/// Collects errors while it walks a value, and takes out of it what would not decode.
pub(crate) struct Checker<'a> {
    unknown: Unknown,
    /// How it was written, if that is known.
    source: Option<&'a Node>,
    path: String,
    /// What is wrong, in the order of the document.
    pub(crate) errors: Vec<FieldError>,
    /// Lists that items were taken out of: the others do not have their number any more.
    pub(crate) shortened: Vec<String>,
}

impl<'a> Checker<'a> {
    pub(crate) const fn new(unknown: Unknown, source: Option<&'a Node>) -> Self {
        Self {
            unknown,
            source,
            path: String::new(),
            errors: Vec::new(),
            shortened: Vec::new(),
        }
    }

    /// Runs `inner` with `segment` appended to the path.
    fn within<T>(&mut self, segment: &str, inner: impl FnOnce(&mut Self) -> T) -> T {
        let len = self.path.len();
        if len > 0 && !segment.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(segment);
        let result = inner(self);
        self.path.truncate(len);
        result
    }

    fn refuse(&mut self, value: &Value, allowed: impl Into<String>) -> bool {
        self.errors
            .push(FieldError::value(self.path.clone(), value, allowed));
        false
    }

    /// Checks a value; `false` if it is of the wrong form and has to go.
    pub(crate) fn check(&mut self, shape: &Shape, value: &mut Value) -> bool {
        self.read_as(shape, value);
        match (shape, &mut *value) {
            (Shape::Any, _) | (Shape::Bool, Value::Bool(_)) | (Shape::Number, Value::Number(_)) => {
                true
            }
            (Shape::Text(max), Value::String(text)) => {
                text.len() <= *max || self.refuse(value, format!("text of at most {max} bytes"))
            }
            (Shape::Text(_), _) => self.refuse(value, "text (put it in quotes)"),
            (Shape::Bool, _) => self.refuse(value, "true or false"),
            (Shape::Number, _) => self.refuse(value, "a number"),
            (Shape::Whole(min, max), _) => {
                let inside = value.as_i64().is_some_and(|n| (*min..=*max).contains(&n));
                inside || self.refuse(value, format!("{min} to {max}"))
            }
            (Shape::Word(words), _) => {
                let known = value.as_str().is_some_and(|text| words.contains(&text));
                known || self.refuse(value, words.join(", "))
            }
            (Shape::AnyCase(words), _) => {
                let same = |text| words.iter().any(|word| word.eq_ignore_ascii_case(text));
                value.as_str().is_some_and(same) || self.refuse(value, words.join(", "))
            }
            (Shape::Form(form), _) => (form.accepts)(value) || self.refuse(value, form.allowed),
            (Shape::List(of, max), Value::Array(items)) => {
                self.check_list(of, items);
                items.len() <= *max || self.too_many(items.len(), *max)
            }
            (Shape::List(..), _) => self.refuse(value, "a list"),
            (Shape::Texts, Value::Object(members)) => {
                self.check_texts(members);
                true
            }
            (Shape::Texts, _) => self.refuse(value, "text by name"),
            (Shape::Object(schema), Value::Object(members)) => self.check_object(schema, members),
            (Shape::Object(schema), _) => {
                let names: Vec<_> = schema.names().collect();
                self.refuse(value, format!("an object with {}", names.join(", ")))
            }
        }
    }

    /// Reads a number or word without quotes as text where text is asked for, and 5.0 as 5 where a
    /// whole number is, as the established reader does. A number that it would print another way
    /// (`1.10`) has to be put in quotes; words (`yes`) stay what they are.
    fn read_as(&self, shape: &Shape, value: &mut Value) {
        match (shape, &*value) {
            (Shape::Whole(..), Value::Number(number)) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "whole, and bounded by the comparison"
                )]
                if let Some(float) = number.as_f64().filter(|_| number.is_f64())
                    && float.fract() == 0.0
                    && float.abs() < EXACT
                {
                    *value = Value::from(float as i64);
                }
            }
            (
                Shape::Text(_) | Shape::Form(_) | Shape::Word(_) | Shape::AnyCase(_),
                Value::Number(_) | Value::Bool(_),
            ) => {
                let wanted = match shape {
                    Shape::Form(form) => !(form.accepts)(value),
                    _ => true,
                };
                let text = self.source.and_then(|node| node.text_of(&self.path));
                if let Some(text) = text.filter(|_| wanted) {
                    *value = Value::from(text);
                }
            }
            _ => {}
        }
    }

    fn too_many(&mut self, count: usize, max: usize) -> bool {
        let found = format!("a list of {count}");
        self.errors.push(FieldError::new(
            self.path.clone(),
            found,
            format!("at most {max}"),
        ));
        false
    }

    fn check_list(&mut self, of: &Shape, items: &mut Vec<Value>) {
        let count = items.len();
        let mut index = 0;
        items.retain_mut(|item| {
            let keep = self.within(&format!("[{index}]"), |inner| inner.check(of, item));
            index += 1;
            keep
        });
        if items.len() < count {
            self.shortened.push(self.path.clone());
        }
    }

    fn check_texts(&mut self, members: &mut Map<String, Value>) {
        members.retain(|name, value| {
            self.within(name, |inner| inner.check(&Shape::Text(usize::MAX), value))
        });
    }

    /// Checks the members; `false` if one that must be there is not.
    fn check_object(&mut self, schema: &Schema, members: &mut Map<String, Value>) -> bool {
        members.retain(|name, value| match schema.shape(name, self.unknown) {
            // Writers of Go leave an empty text where nothing is set.
            Some(shape) if !matches!(shape, Shape::Text(_) | Shape::Any) && is_empty(value) => {
                false
            }
            Some(shape) => self.within(name, |inner| inner.check(shape, value)),
            None => {
                self.unknown_field(schema, name);
                self.unknown == Unknown::Keep
            }
        });
        self.check_required(schema, members)
    }

    fn unknown_field(&mut self, schema: &Schema, name: &str) {
        if self.unknown == Unknown::Keep {
            return;
        }
        let names: Vec<_> = schema.fields.iter().map(|(name, _)| *name).collect();
        let path = self.within(name, |inner| inner.path.clone());
        let mut error = FieldError::new(path, "an unknown field", names.join(", "));
        error.suggestion = closest(name, schema.names()).map(str::to_owned);
        self.errors.push(error);
    }

    fn check_required(&mut self, schema: &Schema, members: &Map<String, Value>) -> bool {
        let mut complete = true;
        for name in schema
            .required
            .iter()
            .filter(|name| !members.contains_key(**name))
        {
            complete = false;
            let path = self.within(name, |inner| inner.path.clone());
            // Of the wrong form is said already.
            if self
                .errors
                .iter()
                .any(|error| is_within(&error.path, &path))
            {
                continue;
            }
            let allowed = schema
                .shape(name, self.unknown)
                .map_or_else(String::new, Shape::allowed);
            self.errors.push(FieldError::missing(path, allowed));
        }
        complete
    }
}

/// Below this, every whole `f64` is one whole number.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Whether `path` is `outer` or leads into it.
pub(crate) fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn is_empty(value: &Value) -> bool {
    value.as_str().is_some_and(str::is_empty)
}

impl Shape {
    /// What is allowed, in words.
    fn allowed(&self) -> String {
        match self {
            Self::Text(_) => "text".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Whole(min, max) => format!("{min} to {max}"),
            Self::Number => "a number".to_owned(),
            Self::Word(words) | Self::AnyCase(words) => words.join(", "),
            Self::Form(form) => form.allowed.to_owned(),
            Self::List(..) => "a list".to_owned(),
            Self::Texts => "text by name".to_owned(),
            Self::Object(schema) => {
                let names: Vec<_> = schema.fields.iter().map(|(name, _)| *name).collect();
                format!("an object with {}", names.join(", "))
            }
            Self::Any => "a value".to_owned(),
        }
    }
}

/// The candidate that `name` was probably meant to be.
pub(crate) fn closest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    // Long names may hold a second slip.
    let limit = if name.len() < 4 {
        1
    } else {
        2 + name.len() / 12
    };
    let lower = name.to_ascii_lowercase();
    candidates
        .map(|candidate| (distance(&lower, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Longest name that is compared; nothing longer is close to a name of ours.
const LONGEST: usize = 64;

/// Insertions, deletions, replacements and swaps of neighbours that make one text of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > LONGEST || b.len() > LONGEST {
        return usize::MAX;
    }
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests;
