//! UPDATE encoding: prefixes packed under attributes that are encoded already.
//!
//! Every function appends as many messages as the prefixes need, none longer than `max_len`
//! ([`MAX_LEN`](crate::wire::MAX_LEN), or [`MAX_EXTENDED_LEN`](crate::wire::MAX_EXTENDED_LEN) after
//! RFC 8654). `attrs` comes from [`PathAttrs::encode`](crate::wire::PathAttrs::encode).

use bytes::{BufMut, BytesMut};

use crate::{
    prefix::Family,
    wire::{
        attrs::{code, flags},
        header::{self, MessageType, patch_len, patch_u16},
        next_hop::NextHop,
        nlri::PutNlri,
    },
};

/// The attributes leave no room for a single prefix; such a route cannot be announced
/// (RFC 4271 section 9.2, RFC 8654 section 5) and should be withdrawn from the peer instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("attributes of {attrs_len} octets do not fit a message of {max_len}")]
pub struct AttrsTooLong {
    /// Octets of the attributes.
    pub attrs_len: usize,
    /// Octets of the longest message.
    pub max_len: usize,
}

/// MP attribute header with extended length (4), AFI, SAFI.
const MP_FIXED: usize = 4 + 3;
/// Next hop length and two IPv6 addresses, reserved octet.
const MP_NEXT_HOP_MAX: usize = 1 + 32 + 1;
/// Message header, withdrawn length, attribute length.
const UPDATE_FIXED: usize = header::HEADER_LEN + 4;

/// Announces IPv4 prefixes in the NLRI field; `attrs` has the NEXT_HOP. Returns the number of
/// messages.
pub fn announce_v4<N: PutNlri>(
    attrs: &[u8],
    prefixes: impl IntoIterator<Item = N>,
    max_len: usize,
    out: &mut BytesMut,
) -> Result<usize, AttrsTooLong> {
    fits(UPDATE_FIXED + attrs.len() + N::MAX_OCTETS, attrs, max_len)?;
    Ok(pack(prefixes, max_len, out, |out| {
        out.put_u16(0);
        out.put_u16(u16::try_from(attrs.len()).unwrap_or(u16::MAX));
        out.put_slice(attrs);
        |_: &mut BytesMut| {}
    }))
}

/// Withdraws IPv4 prefixes in the withdrawn routes field. Returns the number of messages.
pub fn withdraw_v4<N: PutNlri>(
    prefixes: impl IntoIterator<Item = N>,
    max_len: usize,
    out: &mut BytesMut,
) -> usize {
    // The attribute length, two octets of zero, follows the prefixes.
    pack(prefixes, max_len - 2, out, |out| {
        let start = out.len();
        out.put_u16(0);
        move |out: &mut BytesMut| {
            let len = out.len() - start - 2;
            patch_u16(out, start, u16::try_from(len).unwrap_or(u16::MAX));
            out.put_u16(0);
        }
    })
}

/// Announces prefixes by MP_REACH_NLRI, the first attribute as RFC 7606 section 5.1 asks; `attrs`
/// has no NEXT_HOP. Returns the number of messages.
pub fn announce_mp<N: PutNlri>(
    next_hop: NextHop,
    attrs: &[u8],
    prefixes: impl IntoIterator<Item = N>,
    max_len: usize,
    out: &mut BytesMut,
) -> Result<usize, AttrsTooLong> {
    let overhead = UPDATE_FIXED + MP_FIXED + MP_NEXT_HOP_MAX;
    fits(overhead + attrs.len() + N::MAX_OCTETS, attrs, max_len)?;
    // The other attributes follow the prefixes.
    Ok(pack(prefixes, max_len - attrs.len(), out, |out| {
        let mp = MpBlock::open(code::MP_REACH, N::FAMILY, out);
        next_hop.encode(out);
        out.put_u8(0);
        move |out: &mut BytesMut| mp.close(attrs, out)
    }))
}

/// Withdraws prefixes by MP_UNREACH_NLRI. Returns the number of messages.
pub fn withdraw_mp<N: PutNlri>(
    prefixes: impl IntoIterator<Item = N>,
    max_len: usize,
    out: &mut BytesMut,
) -> usize {
    pack(prefixes, max_len, out, |out| {
        let mp = MpBlock::open(code::MP_UNREACH, N::FAMILY, out);
        move |out: &mut BytesMut| mp.close(&[], out)
    })
}

/// Appends the End-of-RIB marker of `family` (RFC 4724 section 2).
pub fn end_of_rib(family: Family, out: &mut BytesMut) {
    let start = out.len();
    header::put(out, MessageType::Update, 0);
    match family {
        Family::Ipv4Unicast => out.put_u32(0),
        Family::Ipv6Unicast => {
            MpBlock::open(code::MP_UNREACH, family, out).close(&[], out);
        }
    }
    patch_len(out, start);
}

const fn fits(needed: usize, attrs: &[u8], max_len: usize) -> Result<(), AttrsTooLong> {
    if needed > max_len {
        return Err(AttrsTooLong {
            attrs_len: attrs.len(),
            max_len,
        });
    }
    Ok(())
}

/// An attribute block that starts with an MP attribute whose lengths are filled in at the end.
#[derive(Clone, Copy)]
struct MpBlock {
    /// Offset of the withdrawn routes length.
    start: usize,
}

impl MpBlock {
    fn open(code: u8, family: Family, out: &mut BytesMut) -> Self {
        let start = out.len();
        out.put_u32(0); // withdrawn routes length, attribute length
        out.put_slice(&[flags::OPTIONAL | flags::EXTENDED, code, 0, 0]);
        out.put_u16(family.afi());
        out.put_u8(family.safi());
        Self { start }
    }

    fn close(self, attrs: &[u8], out: &mut BytesMut) {
        let value_start = self.start + 8;
        let value_len = out.len() - value_start;
        patch_u16(
            out,
            value_start - 2,
            u16::try_from(value_len).unwrap_or(u16::MAX),
        );
        out.put_slice(attrs);
        let attrs_len = out.len() - self.start - 4;
        patch_u16(
            out,
            self.start + 2,
            u16::try_from(attrs_len).unwrap_or(u16::MAX),
        );
    }
}

/// Fills messages with prefixes. `open` writes what precedes them and returns what completes the
/// message; each message's prefixes end within `max_len`.
fn pack<N: PutNlri, Close: FnOnce(&mut BytesMut)>(
    prefixes: impl IntoIterator<Item = N>,
    max_len: usize,
    out: &mut BytesMut,
    open: impl Fn(&mut BytesMut) -> Close,
) -> usize {
    let mut prefixes = prefixes.into_iter().peekable();
    let mut messages = 0;
    while prefixes.peek().is_some() {
        let start = out.len();
        header::put(out, MessageType::Update, 0);
        let close = open(out);
        while out.len() - start + N::MAX_OCTETS <= max_len {
            let Some(prefix) = prefixes.next() else { break };
            prefix.put_nlri(out);
        }
        close(out);
        patch_len(out, start);
        messages += 1;
    }
    messages
}
