//! A document as it was written: values that know their line.
//!
//! What is wrong with a document is told with the line that it stands on, and values are read as
//! the established tools read them (YAML 1.1 for words and numbers, merge keys, aliases). Nesting
//! and what aliases expand to are bounded, so that a small text cannot become a large value.

mod json;
mod scalar;
#[cfg(test)]
mod tests;
mod yaml;

use serde_json::Value;

use crate::field_error::FieldError;
pub(crate) use json::read_json;
pub(crate) use yaml::read_yaml;

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 100;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// The line that it begins on, from 1.
    line: usize,
    content: Content,
}

#[derive(Clone, Debug, PartialEq)]
enum Content {
    /// `text` is how it stands there, where that could be meant as text as well.
    Scalar {
        value: Value,
        text: Option<Box<str>>,
    },
    List(Vec<Node>),
    Map(Vec<Member>),
}

#[derive(Clone, Debug, PartialEq)]
struct Member {
    name: String,
    /// The line of the name.
    line: usize,
    node: Node,
}

/// Why a text is no document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// The line, from 1.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) reason: String,
}

impl Content {
    /// A number that would be printed another way (`1.10`, `010`) could not be text: it is not
    /// clear which of the two is meant.
    fn scalar(value: Value, text: &str) -> Self {
        let alike = match &value {
            Value::Bool(_) => true,
            Value::Number(number) => number.to_string() == text,
            _ => false,
        };
        let text = alike.then(|| text.into());
        Self::Scalar { value, text }
    }
}

impl Node {
    /// The value itself. Of members with the same name, the first counts.
    pub(crate) fn value(&self) -> Value {
        match &self.content {
            Content::Scalar { value, .. } => value.clone(),
            Content::List(items) => items.iter().map(Self::value).collect(),
            Content::Map(members) => {
                let mut map = serde_json::Map::new();
                for member in members {
                    let entry = map.entry(member.name.as_str());
                    entry.or_insert_with(|| member.node.value());
                }
                Value::Object(map)
            }
        }
    }

    /// The line that it begins on.
    pub(crate) const fn line(&self) -> usize {
        self.line
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.content {
            Content::List(items) => items,
            _ => &[],
        }
    }

    /// The member of this name.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        let Content::Map(members) = &self.content else {
            return None;
        };
        let member = members.iter().find(|member| member.name == name)?;
        Some(&member.node)
    }

    /// The line of what stands at `path`, or of the innermost value around it.
    pub(crate) fn line_of(&self, path: &str) -> usize {
        self.walk(path).0
    }

    /// The number or word that stands at `path`, as it is written, if it could be meant as text.
    pub(crate) fn text_of(&self, path: &str) -> Option<&str> {
        match &self.walk(path).1?.content {
            Content::Scalar { text, .. } => text.as_deref(),
            _ => None,
        }
    }

    /// The line of what stands at `path`, and the value if there is one.
    fn walk(&self, path: &str) -> (usize, Option<&Self>) {
        let (mut node, mut line, mut rest) = (self, self.line, path);
        while !rest.is_empty() {
            let Some((at, inner, after)) = node.step(rest) else {
                return (line, None);
            };
            (line, node, rest) = (at, inner, after);
        }
        (line, Some(node))
    }

    /// One step along a path: the line, the value, and what is left of the path.
    fn step<'p>(&self, path: &'p str) -> Option<(usize, &Self, &'p str)> {
        match &self.content {
            Content::Scalar { .. } => None,
            Content::List(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let item = items.get(index.parse::<usize>().ok()?)?;
                Some((item.line, item, rest.strip_prefix('.').unwrap_or(rest)))
            }
            Content::Map(members) => {
                // Names may have dots: the longest that fits is meant.
                let fits = |member: &&Member| crate::schema::is_within(path, &member.name);
                let candidates = members.iter().filter(fits);
                let member = candidates.reduce(|best, other| {
                    if other.name.len() > best.name.len() {
                        other
                    } else {
                        best
                    }
                })?;
                let rest = &path[member.name.len()..];
                let rest = rest.strip_prefix('.').unwrap_or(rest);
                Some((member.line, &member.node, rest))
            }
        }
    }

    /// Members that stand in a map more than once.
    pub(crate) fn duplicates(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.collect_duplicates("", &mut errors);
        errors
    }

    fn collect_duplicates(&self, path: &str, errors: &mut Vec<FieldError>) {
        match &self.content {
            Content::Scalar { .. } => {}
            Content::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    item.collect_duplicates(&format!("{path}[{i}]"), errors);
                }
            }
            Content::Map(members) => {
                let mut seen = std::collections::BTreeMap::new();
                for member in members {
                    let dot = if path.is_empty() { "" } else { "." };
                    let path = format!("{path}{dot}{}", member.name);
                    if let Some(first) = seen.get(member.name.as_str()) {
                        let found = format!("a second time (first on line {first})");
                        let mut error = FieldError::new(path, found, "each name once");
                        error.line = Some(member.line);
                        errors.push(error);
                    } else {
                        seen.insert(member.name.as_str(), member.line);
                        member.node.collect_duplicates(&path, errors);
                    }
                }
            }
        }
    }

    /// How many values it is made of, and how deep they are nested.
    fn extent(&self) -> (usize, usize) {
        let around = |inner: &mut dyn Iterator<Item = (usize, usize)>| {
            let (size, depth) =
                inner.fold((0, 0), |(size, depth), (s, d)| (size + s, depth.max(d)));
            (size + 1, depth + 1)
        };
        match &self.content {
            Content::Scalar { .. } => (1, 0),
            Content::List(items) => around(&mut items.iter().map(Self::extent)),
            Content::Map(members) => around(&mut members.iter().map(|m| m.node.extent())),
        }
    }
}
