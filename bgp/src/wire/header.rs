//! The message header and framing (RFC 4271 sections 4.1 and 6.1, RFC 8654).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::wire::{cursor::Cursor, error::WireError, notification::Kind};

/// Octets of the header: marker, length, type.
pub const HEADER_LEN: usize = 19;
/// Longest message without the extended message capability.
pub const MAX_LEN: usize = 4096;
/// Longest message with the extended message capability (RFC 8654).
pub const MAX_EXTENDED_LEN: usize = 65535;

const MARKER: [u8; 16] = [0xff; 16];

/// The type octet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// Opens a session.
    Open,
    /// Announces and withdraws routes.
    Update,
    /// Ends a session.
    Notification,
    /// Keeps a session.
    Keepalive,
    /// Asks for routes again (RFC 2918).
    RouteRefresh,
}

impl MessageType {
    /// The octet.
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    pub(crate) const fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            _ => return None,
        })
    }

    /// Bounds of the whole message. ROUTE-REFRESH has error handling of its own (RFC 7313), so
    /// its length is checked by its decoder.
    const fn lengths(self, extended: bool) -> (usize, usize) {
        let max = if extended { MAX_EXTENDED_LEN } else { MAX_LEN };
        match self {
            Self::Open => (29, MAX_LEN),
            Self::Update => (23, max),
            Self::Notification => (21, max),
            Self::Keepalive => (HEADER_LEN, HEADER_LEN),
            Self::RouteRefresh => (HEADER_LEN, max),
        }
    }
}

/// One message cut out of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    /// Its type.
    pub kind: MessageType,
    /// What follows the header.
    pub body: Bytes,
}

/// The next whole message at the front of `buf`, as type and total length, without consuming it.
/// `None` when more octets are needed.
///
/// `extended` is whether RFC 8654 was negotiated.
pub fn peek(buf: &[u8], extended: bool) -> Result<Option<(MessageType, usize)>, WireError> {
    let mut c = Cursor::new(buf);
    let marker = c.rest().get(..16).unwrap_or(c.rest());
    if !MARKER.starts_with(marker) {
        return Err(WireError::new(
            Kind::HEADER_NOT_SYNCHRONIZED,
            "the marker is not all ones",
        ));
    }
    let (Some(_), Some(len), Some(kind)) = (c.take(16), c.u16(), c.u8()) else {
        return Ok(None);
    };
    let bad_length = |what| WireError::with_data(Kind::HEADER_BAD_LENGTH, what, &len.to_be_bytes());
    let total = usize::from(len);
    if total < HEADER_LEN {
        return Err(bad_length("the message is shorter than its header"));
    }
    let Some(kind) = MessageType::from_wire(kind) else {
        return Err(WireError::with_data(
            Kind::HEADER_BAD_TYPE,
            "the message type is unknown",
            &[kind],
        ));
    };
    let (min, max) = kind.lengths(extended);
    if total < min || total > max {
        return Err(bad_length("the message length does not fit its type"));
    }
    Ok((buf.len() >= total).then_some((kind, total)))
}

/// Cuts the next whole message off the front of `buf`; `None` when more octets are needed.
///
/// The body shares the memory of `buf`: nothing is copied.
pub fn frame(buf: &mut BytesMut, extended: bool) -> Result<Option<RawMessage>, WireError> {
    let Some((kind, total)) = peek(buf, extended)? else {
        return Ok(None);
    };
    let mut body = buf.split_to(total).freeze();
    body.advance(HEADER_LEN);
    Ok(Some(RawMessage { kind, body }))
}

/// Appends the header of a message whose body has `body_len` octets.
///
/// Callers keep `body_len` within [`MAX_EXTENDED_LEN`] less the header; more is cut to that.
pub fn put(out: &mut BytesMut, kind: MessageType, body_len: usize) {
    let total = u16::try_from(HEADER_LEN + body_len).unwrap_or(u16::MAX);
    out.put_slice(&MARKER);
    out.put_u16(total);
    out.put_u8(kind.to_wire());
}

/// Appends a KEEPALIVE.
pub fn put_keepalive(out: &mut BytesMut) {
    put(out, MessageType::Keepalive, 0);
}

/// Writes the length of the message that starts at `start` and reaches to the end of `out`.
pub(super) fn patch_len(out: &mut BytesMut, start: usize) {
    let total = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    patch_u16(out, start + 16, total);
}

/// Overwrites two octets at `at`.
pub(super) fn patch_u16(out: &mut BytesMut, at: usize, value: u16) {
    if let Some(slot) = out.get_mut(at..at + 2) {
        slot.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(len: u16, kind: u8) -> BytesMut {
        let mut out = BytesMut::from(&MARKER[..]);
        out.put_u16(len);
        out.put_u8(kind);
        out
    }

    #[test]
    fn rfc4271_6_1_header_errors_carry_the_offending_field() {
        for (len, kind, want, data) in [
            (18, 4, Kind::HEADER_BAD_LENGTH, vec![0, 18]),
            (20, 4, Kind::HEADER_BAD_LENGTH, vec![0, 20]),
            (28, 1, Kind::HEADER_BAD_LENGTH, vec![0, 28]),
            (22, 2, Kind::HEADER_BAD_LENGTH, vec![0, 22]),
            (20, 3, Kind::HEADER_BAD_LENGTH, vec![0, 20]),
            (4097, 2, Kind::HEADER_BAD_LENGTH, vec![16, 1]),
            (19, 6, Kind::HEADER_BAD_TYPE, vec![6]),
        ] {
            let error = frame(&mut header(len, kind), false).unwrap_err();
            assert_eq!(error.notification().kind, want);
            assert_eq!(error.notification().data, data);
        }
    }

    #[test]
    fn a_wrong_marker_is_seen_at_its_first_octet() {
        let error = frame(&mut BytesMut::from(&b"GET / HTTP/1.1"[..]), false).unwrap_err();
        assert_eq!(error.notification().kind, Kind::HEADER_NOT_SYNCHRONIZED);
    }

    #[test]
    fn rfc8654_long_updates_pass_only_when_negotiated_and_never_for_open() {
        let mut long = header(65535, 2);
        assert!(peek(&long, false).is_err());
        assert_eq!(peek(&long, true), Ok(None));
        long.resize(65535, 0);
        assert_eq!(
            frame(&mut long, true).unwrap().unwrap().body.len(),
            65535 - 19
        );
        assert!(peek(&header(4097, 1), true).is_err());
    }

    #[test]
    fn messages_are_cut_one_by_one_and_partial_ones_stay() {
        let mut buf = BytesMut::new();
        put_keepalive(&mut buf);
        put(&mut buf, MessageType::RouteRefresh, 4);
        buf.put_slice(&[0, 1, 0]);
        assert_eq!(
            frame(&mut buf, false).unwrap().unwrap().kind,
            MessageType::Keepalive
        );
        assert_eq!(frame(&mut buf, false), Ok(None));
        buf.put_u8(1);
        assert_eq!(
            &frame(&mut buf, false).unwrap().unwrap().body[..],
            [0, 1, 0, 1]
        );
        assert!(buf.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), extended: bool) {
            let mut buf = header(40, 2);
            buf.put_slice(&bytes);
            while let Ok(Some(_)) = frame(&mut buf, extended) {}
            let mut raw = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = frame(&mut raw, extended) {}
        }
    }
}
