//! The selector parser: a cursor over the text, one function a grammar rule.
//!
//! Written by hand because its errors are read by people: each names the column and what could have
//! stood there. Depth and length are bounded, so no text can exhaust the stack here or later in the
//! recursive walks over the tree.

use super::{Expr, sorted};

/// Longest label accepted, in characters.
pub const MAX_LABEL_CHARS: usize = 512;

/// Deepest nesting of parentheses accepted. People write two or three levels.
pub const MAX_DEPTH: usize = 100;

/// Longest selector accepted: an `in` set with thousands of values still fits.
pub const MAX_SELECTOR_BYTES: usize = 1 << 20;

/// Why a text is not a selector. Nobody retries: the text has to be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("selector, column {column}: expected {expected}, found {found}")]
pub struct ParseError {
    /// Where, in characters, counted from 1.
    pub column: usize,
    /// What could have stood there.
    pub expected: &'static str,
    /// What stands there, shortened.
    pub found: String,
}

const OPERAND: &str = "a label, has(..), all(), global(), \"!\" or \"(\"";
const RELATION: &str = "==, !=, in, not in, contains, starts with or ends with behind the label";

pub(super) fn parse(text: &str) -> Result<Expr, ParseError> {
    if text.len() > MAX_SELECTOR_BYTES {
        return Err(ParseError {
            column: 1,
            expected: "a selector of at most 1048576 bytes",
            found: format!("{} bytes", text.len()),
        });
    }
    let mut cursor = Cursor { text, rest: text };
    cursor.skip_space();
    if cursor.rest.is_empty() {
        return Ok(Expr::All);
    }
    let expr = cursor.or(0)?;
    cursor.skip_space();
    match cursor.rest.is_empty() {
        true => Ok(expr),
        false => Err(cursor.error("&&, || or the end of the selector")),
    }
}

struct Cursor<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn error(&self, expected: &'static str) -> ParseError {
        let consumed = &self.text[..self.text.len() - self.rest.len()];
        let found = match self.rest.chars().next() {
            None => "the end".to_owned(),
            Some(_) => {
                let shown: String = self.rest.chars().take(16).collect();
                format!("{shown:?}")
            }
        };
        ParseError {
            column: consumed.chars().count() + 1,
            expected,
            found,
        }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// Takes `token` if it stands next, behind any space.
    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Takes two words with any space, or none, between them; takes nothing when one is missing.
    fn take_words(&mut self, first: &str, second: &str) -> bool {
        let before = self.rest;
        if self.take(first) && self.take(second) {
            return true;
        }
        self.rest = before;
        false
    }

    fn expect(&mut self, token: &str, expected: &'static str) -> Result<(), ParseError> {
        match self.take(token) {
            true => Ok(()),
            false => Err(self.error(expected)),
        }
    }

    fn or(&mut self, depth: usize) -> Result<Expr, ParseError> {
        let mut operands = vec![self.and(depth)?];
        while self.take("||") {
            operands.push(self.and(depth)?);
        }
        Ok(Expr::or(operands))
    }

    fn and(&mut self, depth: usize) -> Result<Expr, ParseError> {
        let mut operands = vec![self.operation(depth)?];
        while self.take("&&") {
            operands.push(self.operation(depth)?);
        }
        Ok(Expr::and(operands))
    }

    fn operation(&mut self, depth: usize) -> Result<Expr, ParseError> {
        let mut negated = false;
        while self.take("!") {
            negated = !negated;
        }
        let operand = self.operand(depth)?;
        Ok(if negated { operand.negated() } else { operand })
    }

    fn operand(&mut self, depth: usize) -> Result<Expr, ParseError> {
        self.skip_space();
        if self.rest.starts_with('(') {
            if depth == MAX_DEPTH {
                return Err(self.error("at most 100 nested parentheses"));
            }
            self.rest = &self.rest[1..];
            let inner = self.or(depth + 1)?;
            self.expect(")", "&&, || or \")\"")?;
            return Ok(inner);
        }
        if self.take("has(") {
            self.skip_space();
            let label = self.label("a label inside has(..)")?;
            self.expect(")", "\")\" behind the label of has(..)")?;
            return Ok(Expr::Has(label));
        }
        if self.take("all(") {
            self.expect(")", "\")\" behind \"all(\"")?;
            return Ok(Expr::All);
        }
        if self.take("global(") {
            self.expect(")", "\")\" behind \"global(\"")?;
            return Ok(Expr::Global);
        }
        let label = self.label(OPERAND)?;
        self.relation(label)
    }

    fn relation(&mut self, label: Box<str>) -> Result<Expr, ParseError> {
        if self.take("==") {
            Ok(Expr::Equals(label, self.string()?))
        } else if self.take("!=") {
            Ok(Expr::NotEquals(label, self.string()?))
        } else if self.take("contains") {
            Ok(Expr::Contains(label, self.string()?))
        } else if self.take_words("starts", "with") {
            Ok(Expr::StartsWith(label, self.string()?))
        } else if self.take_words("ends", "with") {
            Ok(Expr::EndsWith(label, self.string()?))
        } else if self.take_words("not", "in") {
            Ok(Expr::NotIn(label, self.set()?))
        } else if self.take("in") {
            Ok(Expr::In(label, self.set()?))
        } else {
            Err(self.error(RELATION))
        }
    }

    fn label(&mut self, expected: &'static str) -> Result<Box<str>, ParseError> {
        let is_label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let len = self.rest.find(|c| !is_label(c)).unwrap_or(self.rest.len());
        match len {
            0 => Err(self.error(expected)),
            len if len > MAX_LABEL_CHARS => Err(self.error("a label of at most 512 characters")),
            len => {
                let (label, rest) = self.rest.split_at(len);
                self.rest = rest;
                Ok(label.into())
            }
        }
    }

    fn string(&mut self) -> Result<Box<str>, ParseError> {
        const EXPECTED: &str = "a string in '..' or \"..\"";
        self.skip_space();
        let Some(quote @ ('\'' | '"')) = self.rest.chars().next() else {
            return Err(self.error(EXPECTED));
        };
        let body: &'a str = &self.rest[1..];
        let Some(end) = body.find(quote) else {
            return Err(self.error("a string that ends with the quote it starts with"));
        };
        self.rest = &body[end + 1..];
        Ok(body[..end].into())
    }

    fn set(&mut self) -> Result<Vec<Box<str>>, ParseError> {
        self.expect("{", "\"{\" and a list of strings")?;
        let mut values = Vec::new();
        while !self.take("}") {
            values.push(self.string()?);
            if !self.take(",") {
                self.expect("}", "\",\" or \"}\"")?;
                break;
            }
        }
        Ok(sorted(values))
    }
}
