//! One attribute after the other.

use super::flags;
use crate::wire::{cursor::Cursor, error::AttrError, notification::Kind};

/// One attribute as found on the wire.
#[derive(Debug, Clone, Copy)]
pub(in crate::wire) struct Tlv<'a> {
    pub(in crate::wire) flags: u8,
    pub(in crate::wire) code: u8,
    pub(in crate::wire) value: &'a [u8],
    /// Header and value.
    pub(in crate::wire) whole: &'a [u8],
}

/// Reads the next attribute; `None` when it runs past the end.
pub(in crate::wire) fn read_tlv<'a>(c: &mut Cursor<'a>) -> Option<Tlv<'a>> {
    let start = c.rest();
    let mut ahead = *c;
    let flags = ahead.u8()?;
    let code = ahead.u8()?;
    let value = if flags & flags::EXTENDED != 0 {
        ahead.prefixed_u16()?
    } else {
        ahead.prefixed_u8()?
    };
    *c = ahead;
    let whole = start.get(..start.len() - ahead.len())?;
    Some(Tlv {
        flags,
        code,
        value,
        whole,
    })
}

/// The error of an attribute list that does not add up (RFC 7606 section 4).
pub(in crate::wire) const OVERRUN: AttrError = AttrError {
    code: 0,
    what: "the attribute list is cut off inside an attribute",
    kind: Kind::UPDATE_ATTRIBUTE_LIST,
};
