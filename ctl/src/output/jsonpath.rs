//! JSONPath templates in the dialect of kubectl: text with `{expressions}`, `{range}` and `{end}`.

mod eval;
mod parse;
#[cfg(test)]
mod tests;

use serde_json::Value;

/// A template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Template(Vec<Node>);

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// Printed as it is.
    Text(String),
    /// Its values are printed, with a space between.
    Path(Path),
    /// Printed for each value of the path.
    Range(Path, Vec<Self>),
}

/// Steps from the current value, or from the whole one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Path {
    from_root: bool,
    steps: Vec<Step>,
}

/// A step from values to values below them.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// `.name` or `['name']`; nothing where it is missing.
    Field(String),
    /// `['a','b']`.
    Fields(Vec<String>),
    /// `.*` or `[*]`.
    Wildcard,
    /// `..`: the value and all below it.
    Descend,
    /// `[1,-1]`: each must exist.
    Indices(Vec<i64>),
    /// `[start:end:step]`.
    Slice(Option<i64>, Option<i64>, usize),
    /// `[?(condition)]`.
    Filter(Condition),
}

/// What a filter asks of an element.
#[derive(Clone, Debug, PartialEq)]
enum Condition {
    /// The path has a value.
    Exists(Path),
    /// Two sides are compared.
    Compare(Operand, Comparison, Operand),
    /// Both hold.
    And(Box<Self>, Box<Self>),
    /// One holds.
    Or(Box<Self>, Box<Self>),
}

/// A side of a comparison.
#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(Path),
    Value(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Template {
    /// Reads a template. A path without braces is taken as if it had them.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bare = !text.contains('{') && text.starts_with(['.', '$']);
        let braced = if bare {
            format!("{{{text}}}")
        } else {
            text.to_owned()
        };
        parse::template(&braced).map(Self)
    }

    /// The text for a value.
    pub(crate) fn render(&self, root: &Value) -> Result<String, String> {
        let mut text = String::new();
        eval::render(&self.0, root, root, &mut text)?;
        Ok(text)
    }
}

impl Path {
    /// Reads a path; braces around it and the dot at its beginning may be missing.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let inner = text
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'));
        let inner = inner.unwrap_or(text).trim();
        let begins = inner.starts_with(['.', '$', '@', '[']);
        let dotted = if begins {
            inner.to_owned()
        } else {
            format!(".{inner}")
        };
        parse::path(&dotted)
    }

    /// The values it leads to.
    pub(crate) fn values<'a>(&self, value: &'a Value) -> Result<Vec<&'a Value>, String> {
        eval::values(self, value, value)
    }
}

/// A value as it is printed: text plainly, all else as JSON.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
