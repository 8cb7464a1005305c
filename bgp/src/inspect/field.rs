//! Fields, and a reader that notes where each was.

use std::borrow::Cow;

use serde::Serialize;

use crate::wire::cursor::Cursor;

/// A field of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// What it is called in the RFC.
    pub name: Cow<'static, str>,
    /// First octet, counted from the start of what was given.
    pub offset: usize,
    /// Octets.
    pub length: usize,
    /// Its meaning.
    pub value: String,
    /// What it is made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Self>,
}

/// Octets as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16);
    let digits = |byte: &u8| [byte >> 4, byte & 15];
    bytes.iter().flat_map(digits).filter_map(digit).collect()
}

/// A cursor that knows its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) cursor: Cursor<'a>,
    end: usize,
}

impl<'a> Walk<'a> {
    /// Over `bytes`, the first of which is at `at`.
    pub(super) const fn new(bytes: &'a [u8], at: usize) -> Self {
        Self {
            cursor: Cursor::new(bytes),
            end: at + bytes.len(),
        }
    }

    pub(super) const fn offset(&self) -> usize {
        self.end - self.cursor.len()
    }

    /// A field of the octets since `from`.
    pub(super) fn since(
        &self,
        from: usize,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Field {
        Field {
            name: name.into(),
            offset: from,
            length: self.offset() - from,
            value: value.into(),
            fields: Vec::new(),
        }
    }

    /// Reads a number of one octet.
    pub(super) fn u8(&mut self, name: &'static str, fields: &mut Vec<Field>) -> Option<u8> {
        let from = self.offset();
        let value = self.cursor.u8()?;
        fields.push(self.since(from, name, value.to_string()));
        Some(value)
    }

    /// Reads a number of two octets.
    pub(super) fn u16(&mut self, name: &'static str, fields: &mut Vec<Field>) -> Option<u16> {
        let from = self.offset();
        let value = self.cursor.u16()?;
        fields.push(self.since(from, name, value.to_string()));
        Some(value)
    }

    /// Reads one octet and says what it means.
    pub(super) fn named(
        &mut self,
        name: &'static str,
        fields: &mut Vec<Field>,
        text: impl Fn(&[u8]) -> String,
    ) -> Option<u8> {
        let from = self.offset();
        let value = self.cursor.u8()?;
        fields.push(self.since(from, name, text(&[value])));
        Some(value)
    }

    /// Takes `n` octets as a walk of their own.
    pub(super) fn part(&mut self, n: usize) -> Option<Self> {
        let from = self.offset();
        self.cursor.take(n).map(|bytes| Walk::new(bytes, from))
    }

    /// What is left, as hexadecimal digits.
    pub(super) fn rest(&mut self, name: &'static str, fields: &mut Vec<Field>) {
        let from = self.offset();
        let left = self.cursor.len();
        let Some(bytes) = self.cursor.take(left).filter(|b| !b.is_empty()) else {
            return;
        };
        fields.push(self.since(from, name, hex(bytes)));
    }
}
