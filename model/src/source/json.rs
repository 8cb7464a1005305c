//! JSON texts that follow each other.

use serde_json::Value;

use super::{Content, Member, Node};

/// Reads a text that is nothing but JSON texts; `None` if it is anything else, or nested deeper
/// than the parser goes.
pub(crate) fn read_json(text: &str) -> Option<Vec<Node>> {
    // The parser judges; what follows can rely on the form.
    let texts = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    if texts.into_iter().any(|text| text.is_err()) {
        return None;
    }
    let mut scanner = Scanner {
        text,
        offset: 0,
        line: 1,
    };
    let mut nodes = Vec::new();
    while scanner.peek().is_some() {
        nodes.push(scanner.node(super::MAX_DEPTH)?);
    }
    Some(nodes)
}

/// Walks over a text that is known to be JSON.
struct Scanner<'a> {
    text: &'a str,
    offset: usize,
    line: usize,
}

impl Scanner<'_> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.offset)?;
            match byte {
                b'\n' => self.line += 1,
                b' ' | b'\t' | b'\r' => {}
                _ => return Some(byte),
            }
            self.offset += 1;
        }
    }

    /// Takes the next byte if it is this one.
    fn takes(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.offset += usize::from(next);
        next
    }

    fn node(&mut self, depth: usize) -> Option<Node> {
        let first = self.peek()?;
        let line = self.line;
        let content = match first {
            b'{' => self.map(depth.checked_sub(1)?)?,
            b'[' => self.list(depth.checked_sub(1)?)?,
            _ => {
                let text = self.scalar(first == b'"');
                let value: Value = serde_json::from_str(text).ok()?;
                Content::scalar(value, text)
            }
        };
        Some(Node { line, content })
    }

    fn list(&mut self, depth: usize) -> Option<Content> {
        self.offset += 1;
        let mut items = Vec::new();
        while !self.takes(b']') {
            items.push(self.node(depth)?);
            self.takes(b',');
        }
        Some(Content::List(items))
    }

    fn map(&mut self, depth: usize) -> Option<Content> {
        self.offset += 1;
        let mut members = Vec::new();
        while !self.takes(b'}') {
            self.peek()?;
            let line = self.line;
            let name = serde_json::from_str(self.scalar(true)).ok()?;
            self.takes(b':');
            let node = self.node(depth)?;
            members.push(Member { name, line, node });
            self.takes(b',');
        }
        Some(Content::Map(members))
    }

    /// The text of a scalar that begins here.
    fn scalar(&mut self, quoted: bool) -> &str {
        let start = self.offset;
        let bytes = self.text.as_bytes();
        if quoted {
            self.offset += 1;
            while bytes.get(self.offset).is_some_and(|byte| *byte != b'"') {
                self.offset += 1 + usize::from(bytes[self.offset] == b'\\');
            }
            self.offset += 1;
        } else {
            let goes_on = |byte: &u8| !b",]} \t\r\n".contains(byte);
            while bytes.get(self.offset).is_some_and(goes_on) {
                self.offset += 1;
            }
        }
        self.text.get(start..self.offset).unwrap_or_default()
    }
}
