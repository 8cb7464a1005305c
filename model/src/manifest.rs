//! Resources as people write them: YAML or JSON, several documents in a text, lists.
//!
//! Reading is strict: an unknown field is a mistake. Every mistake of a document is reported. Policies
//! of Kubernetes are read as the resources of ours that mean the same.

use serde_json::Value;

use crate::any::AnyResource;
use crate::field_error::FieldError;
use crate::kind::Kind;
use crate::kubernetes;
use crate::meta::API_VERSION;
use crate::schema::{
    Checker, Schema, Shape, Unknown, closest, is_within, kubernetes_schema, resource_schema,
};
use crate::source::{Node, read_json, read_yaml};
use crate::stored::{drop_nulls, join};
use crate::validate::{SelectorCheck, validate};

/// One resource of a text, or why it is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Which document of the text, from 1.
    pub index: usize,
    /// Which item of the document, from 1, if it is a list.
    pub item: Option<usize>,
    /// The line that the document begins on, from 1.
    pub line: usize,
    /// What it calls itself, as far as it can be read.
    pub subject: Subject,
    /// The resource.
    pub result: Result<AnyResource, DocumentError>,
}

/// What a document calls itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Its `kind`.
    pub kind: Option<String>,
    /// Its `metadata.namespace`.
    pub namespace: Option<String>,
    /// Its `metadata.name`.
    pub name: Option<String>,
}

/// Why a document is no resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is neither YAML nor JSON.
    #[error("line {line}: {reason}")]
    Syntax {
        /// The line of the text, from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// Fields are missing, unknown or of a wrong form.
    #[error("{}", join(.0))]
    Invalid(Vec<FieldError>),
}

/// Reads all documents of a text.
///
/// `selector` checks the grammar of selectors.
pub fn decode_manifest(text: &str, selector: SelectorCheck<'_>) -> Vec<Document> {
    let mut documents = Vec::new();
    for (i, chunk) in split(text).into_iter().enumerate() {
        let index = i + 1;
        match chunk.parse() {
            Ok(nodes) => {
                for node in &nodes {
                    documents.extend(decode_document(index, &chunk, node, selector));
                }
            }
            Err(error) => documents.push(Document {
                index,
                item: None,
                line: chunk.line,
                subject: Subject::default(),
                result: Err(error),
            }),
        }
    }
    documents
}

/// The text of one document.
struct Chunk<'a> {
    text: &'a str,
    /// Line of the first character, from 1.
    first_line: usize,
    /// Line of the first content, from 1.
    line: usize,
}

/// Splits a text at the lines that separate YAML documents, and leaves out documents without content.
///
/// A line that begins with three dashes separates even within quotes (YAML 1.2 section 9.1.2).
fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut start, mut first_line) = (0, 1);
    let mut offset = 0;
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let marker = |mark| {
            line.strip_prefix(mark).is_some_and(|rest: &str| {
                rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])
            })
        };
        if marker("---") || marker("...") {
            chunks.extend(Chunk::new(&text[start..offset], first_line));
            start = offset + 3;
            first_line = i + 1;
        }
        offset += line.len();
    }
    chunks.extend(Chunk::new(&text[start..], first_line));
    chunks
}

impl<'a> Chunk<'a> {
    fn new(text: &'a str, first_line: usize) -> Option<Self> {
        let content = |line: &str| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with(['#', '%'])
        };
        let before = text.lines().position(content)?;
        Some(Self {
            text,
            first_line,
            line: first_line + before,
        })
    }

    /// The values of the document: one, or several where JSON texts follow each other.
    fn parse(&self) -> Result<Vec<Node>, DocumentError> {
        if self.text.trim_start().starts_with(['{', '['])
            && let Some(nodes) = read_json(self.text)
        {
            return Ok(nodes);
        }
        match read_yaml(self.text) {
            Ok(node) => Ok(vec![node]),
            Err(error) => Err(DocumentError::Syntax {
                line: self.lines_before() + error.line,
                reason: error.reason,
            }),
        }
    }

    const fn lines_before(&self) -> usize {
        self.first_line - 1
    }
}

/// The resources of a document: one, or the items of a list.
fn decode_document(
    index: usize,
    chunk: &Chunk<'_>,
    node: &Node,
    selector: SelectorCheck<'_>,
) -> Vec<Document> {
    let document = |item, node: &Node| {
        let mut value = node.value();
        drop_nulls(&mut value);
        Document {
            index,
            item,
            line: chunk.lines_before() + node.line(),
            subject: Subject::of(&value),
            result: decode_node(node, value, chunk.lines_before(), selector),
        }
    };
    let items = match node.value() {
        Value::Array(_) => Some(node.items()),
        Value::Object(members) if is_list(&members) => {
            Some(node.member("items").map_or(&[][..], Node::items))
        }
        _ => None,
    };
    match items {
        None => vec![document(None, node)],
        Some(items) => {
            let numbered = items.iter().enumerate();
            numbered
                .map(|(i, node)| document(Some(i + 1), node))
                .collect()
        }
    }
}

/// Reads a value that knows its lines; `before` is how many lines the text has before it.
fn decode_node(
    node: &Node,
    value: Value,
    before: usize,
    selector: SelectorCheck<'_>,
) -> Result<AnyResource, DocumentError> {
    let mut errors = node.duplicates();
    let result = decode(value, Some(node), selector);
    if errors.is_empty() && result.is_ok() {
        return result.map_err(DocumentError::Invalid);
    }
    errors.extend(result.err().unwrap_or_default());
    for error in &mut errors {
        let line = error.line.unwrap_or_else(|| node.line_of(&error.path));
        error.line = Some(before + line);
    }
    errors.sort_by_key(|error| error.line);
    Err(DocumentError::Invalid(errors))
}

/// Reads a value as a document of a manifest: a resource, or a list of resources.
///
/// Nothing is known of lines: the value was not written that way. `selector` checks the grammar of
/// selectors.
pub fn decode_value(value: &Value, selector: SelectorCheck<'_>) -> Vec<Document> {
    let document = |item, value: &Value| {
        let mut value = value.clone();
        drop_nulls(&mut value);
        Document {
            index: 1,
            item,
            line: 1,
            subject: Subject::of(&value),
            result: decode(value, None, selector).map_err(DocumentError::Invalid),
        }
    };
    let items = match value {
        Value::Array(items) => items,
        Value::Object(members) if is_list(members) => match members.get("items") {
            Some(Value::Array(items)) => items,
            _ => return Vec::new(),
        },
        single => return vec![document(None, single)],
    };
    let numbered = items.iter().enumerate();
    numbered
        .map(|(i, value)| document(Some(i + 1), value))
        .collect()
}

fn is_list(members: &serde_json::Map<String, Value>) -> bool {
    let kind = members
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    kind.strip_suffix("List")
        .is_some_and(|of| of.is_empty() || Kind::from_exact(of).is_some())
}

impl Subject {
    fn of(value: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            kind: text(&value["kind"]),
            namespace: text(&value["metadata"]["namespace"]),
            name: text(&value["metadata"]["name"]),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.as_deref().unwrap_or("(no kind)"))?;
        if let Some(namespace) = &self.namespace {
            write!(f, "/{namespace}")?;
        }
        write!(f, "/{}", self.name.as_deref().unwrap_or("(no name)"))
    }
}

/// The kind of a document, if its header names one that we know.
fn header(value: &Value) -> Result<Kind, Vec<FieldError>> {
    let Value::Object(members) = value else {
        return Err(vec![FieldError::value(
            "",
            value,
            "an object with kind, metadata and spec",
        )]);
    };
    let mut errors = Vec::new();
    match members.get("apiVersion") {
        None => errors.push(FieldError::missing("apiVersion", API_VERSION)),
        Some(Value::String(version)) if version == API_VERSION => {}
        Some(other) => errors.push(FieldError::value("apiVersion", other, API_VERSION)),
    }
    let words = || Kind::WORDS.join(", ");
    let kind = match members.get("kind") {
        None => {
            errors.push(FieldError::missing("kind", words()));
            None
        }
        Some(found) => {
            let name = found.as_str().unwrap_or_default();
            let kind = Kind::from_exact(name);
            if kind.is_none() {
                let mut error = FieldError::value("kind", found, words());
                error.suggestion = closest(name, Kind::WORDS.iter().copied()).map(str::to_owned);
                errors.push(error);
            }
            kind
        }
    };
    match kind {
        Some(kind) if errors.is_empty() => Ok(kind),
        _ => Err(errors),
    }
}

/// What a document is to be read as.
enum Form {
    Ours(Kind),
    Kubernetes(&'static Schema),
}

fn decode(
    mut value: Value,
    source: Option<&Node>,
    selector: SelectorCheck<'_>,
) -> Result<AnyResource, Vec<FieldError>> {
    let form = match kubernetes_schema(&value) {
        Some(schema) => Form::Kubernetes(schema),
        None => Form::Ours(header(&value)?),
    };
    if let Value::Object(members) = &mut value {
        members
            .entry("spec")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    let mut checker = Checker::new(Unknown::Refuse, source);
    let schema = match form {
        Form::Ours(kind) => resource_schema(kind),
        Form::Kubernetes(schema) => schema,
    };
    let complete = checker.check(&Shape::Object(schema), &mut value);
    let mut errors = std::mem::take(&mut checker.errors);
    if !complete {
        return Err(errors);
    }
    let found = match form {
        Form::Ours(kind) => typed(kind, value, selector),
        Form::Kubernetes(_) => converted(&value, selector),
    };
    let found = match found {
        Ok(resource) if errors.is_empty() => return Ok(resource),
        Ok(_) => Vec::new(),
        Err(found) => found,
    };
    // What was taken out for its form must not be missed a second time.
    let known: Vec<_> = errors.iter().map(|error| error.path.clone()).collect();
    let renumbered = |path: &str| {
        let inside = |list: &String| path.strip_prefix(list).is_some_and(|r| r.starts_with('['));
        checker.shortened.iter().any(inside)
    };
    errors.extend(found.into_iter().filter(|error| {
        let said = known.iter().any(|path| is_within(path, &error.path));
        known.is_empty() || !(error.path.is_empty() || said || renumbered(&error.path))
    }));
    Err(errors)
}

/// A resource of ours whose form is checked.
fn typed(
    kind: Kind,
    value: Value,
    selector: SelectorCheck<'_>,
) -> Result<AnyResource, Vec<FieldError>> {
    let resource = AnyResource::from_value(kind, value).map_err(|error| {
        let allowed = "the fields of its kind";
        vec![FieldError::new("", error.to_string(), allowed)]
    })?;
    let errors = validate(&resource, selector);
    match errors.is_empty() {
        true => Ok(resource),
        false => Err(errors),
    }
}

/// A policy of Kubernetes whose form is checked, as a resource of ours.
fn converted(value: &Value, selector: SelectorCheck<'_>) -> Result<AnyResource, Vec<FieldError>> {
    let resource = kubernetes::convert(value).unwrap_or_else(|| {
        let found = FieldError::value("kind", &value["kind"], "a policy of Kubernetes");
        Err(vec![found])
    })?;
    let errors = validate(&resource, selector);
    match errors.is_empty() {
        true => Ok(resource),
        false => Err(errors),
    }
}

#[cfg(test)]
mod edges;
#[cfg(test)]
mod tests;
