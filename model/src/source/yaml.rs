//! One YAML document.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::Value;

use super::scalar::resolve;
use super::{Content, MAX_DEPTH, Member, Node, SyntaxError};

/// Most values that the aliases of a document expand to.
const MAX_ALIASED: usize = 100_000;

/// The name of a member whose value is merged into the map around it.
const MERGE: &str = "<<";

/// Reads the first document of a text.
pub(crate) fn read_yaml(text: &str) -> Result<Node, SyntaxError> {
    let mut composer = Composer::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| scan_error(&error))?;
        if let Some(root) = composer.take(event, span)? {
            return Ok(root);
        }
    }
    Ok(null(1))
}

fn scan_error(error: &ScanError) -> SyntaxError {
    SyntaxError {
        line: error.marker().line(),
        reason: error.info().to_owned(),
    }
}

const fn null(line: usize) -> Node {
    Node {
        line,
        content: Content::Scalar {
            value: Value::Null,
            text: None,
        },
    }
}

/// Puts a tree together out of events.
#[derive(Default)]
struct Composer {
    /// The collections that are open, the innermost last.
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    aliased: usize,
}

/// A collection that has not ended.
struct Open {
    line: usize,
    anchor: usize,
    content: OpenContent,
}

enum OpenContent {
    List(Vec<Node>),
    Map {
        members: Vec<Member>,
        /// What members are merged from, to be put in at the end.
        merged: Vec<Node>,
        /// The name that waits for its value: text, line, and whether it stands for a merge.
        key: Option<(String, usize, bool)>,
    },
}

impl Composer {
    /// Takes an event; the document if that ends it.
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<Option<Node>, SyntaxError> {
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if self.is_key_next() {
                    let merge = text == MERGE && style == ScalarStyle::Plain;
                    self.key(text.into_owned(), line, merge);
                    return Ok(None);
                }
                let node = scalar(&text, style, tag.as_deref(), line);
                self.value(node, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                self.start(line, anchor, OpenContent::List(Vec::new()))
            }
            Event::MappingStart(anchor, _) => {
                let content = OpenContent::Map {
                    members: Vec::new(),
                    merged: Vec::new(),
                    key: None,
                };
                self.start(line, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let node = self.aliased(anchor, line)?;
                self.value(node, 0)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(None),
        }
    }

    fn is_key_next(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Open {
                content: OpenContent::Map { key: None, .. },
                ..
            })
        )
    }

    fn key(&mut self, name: String, line: usize, merge: bool) {
        if let Some(Open {
            content: OpenContent::Map { key, .. },
            ..
        }) = self.open.last_mut()
        {
            *key = Some((name, line, merge));
        }
    }

    fn start(
        &mut self,
        line: usize,
        anchor: usize,
        content: OpenContent,
    ) -> Result<Option<Node>, SyntaxError> {
        if self.is_key_next() {
            return Err(not_text(line));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(line));
        }
        self.open.push(Open {
            line,
            anchor,
            content,
        });
        Ok(None)
    }

    fn end(&mut self) -> Result<Option<Node>, SyntaxError> {
        let Some(open) = self.open.pop() else {
            return Ok(None);
        };
        let content = match open.content {
            OpenContent::List(items) => Content::List(items),
            OpenContent::Map {
                mut members,
                merged,
                ..
            } => {
                for node in merged {
                    merge(&mut members, node)?;
                }
                Content::Map(members)
            }
        };
        let node = Node {
            line: open.line,
            content,
        };
        self.value(node, open.anchor)
    }

    fn aliased(&mut self, anchor: usize, line: usize) -> Result<Node, SyntaxError> {
        let Some(node) = self.anchors.get(&anchor) else {
            let reason = "an alias stands within the value that it names".to_owned();
            return Err(SyntaxError { line, reason });
        };
        let (size, depth) = node.extent();
        self.aliased += size;
        if self.aliased > MAX_ALIASED {
            let reason = format!("aliases expand to more than {MAX_ALIASED} values");
            return Err(SyntaxError { line, reason });
        }
        if self.open.len() + depth > MAX_DEPTH {
            return Err(too_deep(line));
        }
        Ok(node.clone())
    }

    /// A value is complete: it goes into what is open, or is the document.
    fn value(&mut self, node: Node, anchor: usize) -> Result<Option<Node>, SyntaxError> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            return Ok(Some(node));
        };
        match &mut open.content {
            OpenContent::List(items) => items.push(node),
            OpenContent::Map {
                members,
                merged,
                key,
            } => match key.take() {
                None => return Err(not_text(node.line)),
                Some((_, _, true)) => merged.push(node),
                Some((name, line, false)) => members.push(Member { name, line, node }),
            },
        }
        Ok(None)
    }
}

/// Adds the members of a map, or of each map of a list, that are not there yet.
fn merge(members: &mut Vec<Member>, from: Node) -> Result<(), SyntaxError> {
    match from.content {
        Content::Map(inner) => {
            for member in inner {
                if !members.iter().any(|own| own.name == member.name) {
                    members.push(member);
                }
            }
            Ok(())
        }
        Content::List(items)
            if items
                .iter()
                .all(|item| matches!(item.content, Content::Map(_))) =>
        {
            items.into_iter().try_for_each(|item| merge(members, item))
        }
        _ => Err(SyntaxError {
            line: from.line,
            reason: format!("\"{MERGE}\" takes a map or a list of maps"),
        }),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Node {
    let plain = match tag {
        None => style == ScalarStyle::Plain,
        Some(tag) => {
            tag.is_yaml_core_schema()
                && matches!(tag.suffix.as_str(), "int" | "float" | "bool" | "null")
        }
    };
    let value = if plain {
        resolve(text)
    } else {
        Value::from(text)
    };
    Node {
        line,
        content: Content::scalar(value, text),
    }
}

fn not_text(line: usize) -> SyntaxError {
    SyntaxError {
        line,
        reason: "the name of a member must be text".to_owned(),
    }
}

fn too_deep(line: usize) -> SyntaxError {
    SyntaxError {
        line,
        reason: format!("values are nested deeper than {MAX_DEPTH}"),
    }
}
