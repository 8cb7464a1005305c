//! Templates of Go, as far as people use them to print resources.
//!
//! Fields are looked up by their name in JSON; names of the Go structs of the established client
//! (`.ObjectMeta.Name`, `.Spec.PeerIP`) find the same fields. The whole value is, like there, also a
//! list of one: `range .` at the top goes over what was asked for, not over its fields.

mod eval;
mod functions;
mod lex;
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
    /// Printed, unless it only sets a variable.
    Print(Pipeline),
    /// `if`, with its `else`.
    If(Pipeline, Vec<Self>, Vec<Self>),
    /// `with`: as `if`, and the dot is what was tested.
    With(Pipeline, Vec<Self>, Vec<Self>),
    /// `range`, with what is printed for an empty list.
    Range(Pipeline, Vec<Self>, Vec<Self>),
    /// `break` or `continue`.
    Leave(Leave),
}

/// How a round of a `range` ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Break,
    Continue,
}

/// Commands, each given the value of the one before as its last argument.
#[derive(Clone, Debug, PartialEq)]
struct Pipeline {
    /// Variables set to the value: one, or index and element of a `range`.
    variables: Vec<String>,
    /// Whether the variables are new.
    declares: bool,
    commands: Vec<Command>,
}

/// A value, or a function and its arguments.
#[derive(Clone, Debug, PartialEq)]
enum Command {
    Value(Term),
    Call(String, Vec<Term>),
}

/// Something with a value.
#[derive(Clone, Debug, PartialEq)]
enum Term {
    Literal(Value),
    /// `.` or `.a.b`.
    Dot(Vec<String>),
    /// `$x` or `$x.a`; `$` is the whole value.
    Variable(String, Vec<String>),
    /// A pipeline in parentheses, and fields of its value.
    Group(Box<Pipeline>, Vec<String>),
    /// A function without arguments, where a value is wanted.
    Function(String),
}

impl Template {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        parse::parse(text).map(Self)
    }

    /// The text for a value. `asn` is the AS number of the cluster.
    pub(crate) fn render(&self, root: &Value, asn: &str) -> Result<String, String> {
        eval::render(&self.0, root, asn)
    }
}
