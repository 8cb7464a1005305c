//! NOTIFICATION (RFC 4271 section 4.5) with the subcodes of RFC 4486, 6608, 8538, 9384 and 9687,
//! and the shutdown text of RFC 9003.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::{
    cursor::Cursor,
    error::WireError,
    header::{self, MessageType},
};

/// Error code and subcode of a NOTIFICATION.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// Error code.
    pub code: u8,
    /// Error subcode; 0 is unspecific.
    pub subcode: u8,
}

macro_rules! kinds {
    ($($name:ident = $code:literal / $subcode:literal, $text:literal;)*) => {
        impl Kind {
            $(#[doc = $text] pub const $name: Self = Self { code: $code, subcode: $subcode };)*

            /// The registered name, if there is one.
            pub const fn name(self) -> Option<&'static str> {
                match (self.code, self.subcode) {
                    $(($code, $subcode) => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    HEADER_NOT_SYNCHRONIZED = 1/1, "header: connection not synchronized";
    HEADER_BAD_LENGTH = 1/2, "header: bad message length";
    HEADER_BAD_TYPE = 1/3, "header: bad message type";
    OPEN_UNSPECIFIC = 2/0, "OPEN: unspecific";
    OPEN_VERSION = 2/1, "OPEN: unsupported version number";
    OPEN_BAD_PEER_AS = 2/2, "OPEN: bad peer AS";
    OPEN_BAD_IDENTIFIER = 2/3, "OPEN: bad BGP identifier";
    OPEN_OPTIONAL_PARAMETER = 2/4, "OPEN: unsupported optional parameter";
    OPEN_HOLD_TIME = 2/6, "OPEN: unacceptable hold time";
    OPEN_CAPABILITY = 2/7, "OPEN: unsupported capability";
    OPEN_ROLE_MISMATCH = 2/11, "OPEN: role mismatch";
    UPDATE_ATTRIBUTE_LIST = 3/1, "UPDATE: malformed attribute list";
    UPDATE_UNKNOWN_WELL_KNOWN = 3/2, "UPDATE: unrecognized well-known attribute";
    UPDATE_MISSING_WELL_KNOWN = 3/3, "UPDATE: missing well-known attribute";
    UPDATE_ATTRIBUTE_FLAGS = 3/4, "UPDATE: attribute flags error";
    UPDATE_ATTRIBUTE_LENGTH = 3/5, "UPDATE: attribute length error";
    UPDATE_ORIGIN = 3/6, "UPDATE: invalid ORIGIN attribute";
    UPDATE_NEXT_HOP = 3/8, "UPDATE: invalid NEXT_HOP attribute";
    UPDATE_OPTIONAL_ATTRIBUTE = 3/9, "UPDATE: optional attribute error";
    UPDATE_NETWORK_FIELD = 3/10, "UPDATE: invalid network field";
    UPDATE_AS_PATH = 3/11, "UPDATE: malformed AS_PATH";
    HOLD_TIMER_EXPIRED = 4/0, "hold timer expired";
    FSM_ERROR = 5/0, "FSM error";
    FSM_OPEN_SENT = 5/1, "FSM: unexpected message in OpenSent";
    FSM_OPEN_CONFIRM = 5/2, "FSM: unexpected message in OpenConfirm";
    FSM_ESTABLISHED = 5/3, "FSM: unexpected message in Established";
    CEASE_MAX_PREFIXES = 6/1, "cease: maximum number of prefixes reached";
    CEASE_ADMIN_SHUTDOWN = 6/2, "cease: administrative shutdown";
    CEASE_PEER_DECONFIGURED = 6/3, "cease: peer de-configured";
    CEASE_ADMIN_RESET = 6/4, "cease: administrative reset";
    CEASE_CONNECTION_REJECTED = 6/5, "cease: connection rejected";
    CEASE_CONFIG_CHANGE = 6/6, "cease: other configuration change";
    CEASE_COLLISION = 6/7, "cease: connection collision resolution";
    CEASE_OUT_OF_RESOURCES = 6/8, "cease: out of resources";
    CEASE_HARD_RESET = 6/9, "cease: hard reset";
    CEASE_BFD_DOWN = 6/10, "cease: BFD down";
    ROUTE_REFRESH_LENGTH = 7/1, "ROUTE-REFRESH: invalid message length";
    SEND_HOLD_TIMER_EXPIRED = 8/0, "send hold timer expired";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name() {
            return write!(f, "{name} ({}/{})", self.code, self.subcode);
        }
        let group = match self.code {
            1 => "header",
            2 => "OPEN",
            3 => "UPDATE",
            4 => "hold timer",
            5 => "FSM",
            6 => "cease",
            7 => "ROUTE-REFRESH",
            8 => "send hold timer",
            _ => "unknown error",
        };
        write!(f, "{group} ({}/{})", self.code, self.subcode)
    }
}

/// A NOTIFICATION message: why a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Error code and subcode.
    pub kind: Kind,
    /// Diagnostic octets, their meaning depends on `kind`.
    pub data: Bytes,
}

/// Longest text that RFC 9003 lets a shutdown communication carry, in octets.
const MAX_SHUTDOWN_TEXT: usize = 255;

impl Notification {
    /// A NOTIFICATION without data.
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            data: Bytes::new(),
        }
    }

    /// A NOTIFICATION with data.
    pub fn with_data(kind: Kind, data: &[u8]) -> Self {
        Self {
            kind,
            data: Bytes::copy_from_slice(data),
        }
    }

    /// A Cease with an RFC 9003 shutdown communication; text beyond 255 octets is cut at a
    /// character boundary. Meant for administrative shutdown and reset.
    pub fn cease_with_text(kind: Kind, text: &str) -> Self {
        if text.is_empty() {
            return Self::new(kind);
        }
        let mut end = text.len().min(MAX_SHUTDOWN_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut data = BytesMut::with_capacity(1 + end);
        data.put_u8(u8::try_from(end).unwrap_or(0));
        data.put_slice(text.get(..end).unwrap_or_default().as_bytes());
        Self {
            kind,
            data: data.freeze(),
        }
    }

    /// This error as an RFC 8538 hard reset, which no graceful restart survives.
    pub fn into_hard_reset(self) -> Self {
        let mut data = BytesMut::with_capacity(2 + self.data.len());
        data.put_slice(&[self.kind.code, self.kind.subcode]);
        data.put_slice(&self.data);
        Self {
            kind: Kind::CEASE_HARD_RESET,
            data: data.freeze(),
        }
    }

    /// The error inside an RFC 8538 hard reset.
    pub fn hard_reset_cause(&self) -> Option<Self> {
        if self.kind != Kind::CEASE_HARD_RESET {
            return None;
        }
        let mut c = Cursor::new(&self.data);
        let [code, subcode] = c.array()?;
        Some(Self::with_data(Kind { code, subcode }, c.rest()))
    }

    /// The RFC 9003 text of an administrative shutdown or reset. Broken UTF-8 is replaced,
    /// control characters are blanked, a wrong length octet yields what is there.
    pub fn shutdown_text(&self) -> Option<String> {
        if !matches!(
            self.kind,
            Kind::CEASE_ADMIN_SHUTDOWN | Kind::CEASE_ADMIN_RESET
        ) {
            return None;
        }
        let (&len, text) = self.data.split_first()?;
        let text = text.get(..usize::from(len)).unwrap_or(text);
        let clean: String = String::from_utf8_lossy(text)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        (!clean.is_empty()).then_some(clean)
    }

    /// Decodes a message body (without the header).
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new(body);
        let Some([code, subcode]) = c.array() else {
            return Err(WireError::new(
                Kind::HEADER_BAD_LENGTH,
                "NOTIFICATION is shorter than 21 octets",
            ));
        };
        Ok(Self::with_data(Kind { code, subcode }, c.rest()))
    }

    /// Appends the whole message. Data that would exceed 4096 octets is cut.
    pub fn encode(&self, out: &mut BytesMut) {
        let room = header::MAX_LEN - header::HEADER_LEN - 2;
        let data = self.data.get(..room).unwrap_or(&self.data);
        header::put(out, MessageType::Notification, 2 + data.len());
        out.put_slice(&[self.kind.code, self.kind.subcode]);
        out.put_slice(data);
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(cause) = self.hard_reset_cause() {
            write!(f, " because of {}", cause.kind)?;
            return cause
                .shutdown_text()
                .map_or(Ok(()), |text| write!(f, ": {text}"));
        }
        if let Some(text) = self.shutdown_text() {
            return write!(f, ": {text}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(n: &Notification) -> BytesMut {
        let mut out = BytesMut::new();
        n.encode(&mut out);
        out.split_off(header::HEADER_LEN)
    }

    #[test]
    fn rfc9003_text_is_cut_at_a_character_and_survives_a_round_trip() {
        let n = Notification::cease_with_text(Kind::CEASE_ADMIN_SHUTDOWN, &"ü".repeat(200));
        let text = Notification::decode(&body(&n))
            .unwrap()
            .shutdown_text()
            .unwrap();
        assert_eq!(text, "ü".repeat(127));
        assert!(
            Notification::cease_with_text(Kind::CEASE_ADMIN_RESET, "")
                .data
                .is_empty()
        );
    }

    #[test]
    fn rfc9003_broken_text_is_still_readable() {
        let bad_length = Notification::with_data(Kind::CEASE_ADMIN_RESET, b"\xffhi");
        assert_eq!(bad_length.shutdown_text().unwrap(), "hi");
        let bad_utf8 = Notification::with_data(Kind::CEASE_ADMIN_SHUTDOWN, b"\x03a\xff\n");
        assert_eq!(bad_utf8.shutdown_text().unwrap(), "a\u{fffd} ");
    }

    #[test]
    fn rfc9003_the_text_inside_a_hard_reset_is_told() {
        let stop = Notification::cease_with_text(Kind::CEASE_ADMIN_SHUTDOWN, "new fans");
        assert_eq!(
            stop.clone().into_hard_reset().to_string(),
            "cease: hard reset (6/9) because of cease: administrative shutdown (6/2): new fans"
        );
        // One in the other has no text.
        let twice = stop.into_hard_reset().into_hard_reset();
        assert_eq!(
            twice.to_string(),
            "cease: hard reset (6/9) because of cease: hard reset (6/9)"
        );
    }

    #[test]
    fn rfc8538_hard_reset_carries_its_cause() {
        let inner = Notification::new(Kind::HOLD_TIMER_EXPIRED);
        let hard = inner.clone().into_hard_reset();
        assert_eq!(hard.kind, Kind::CEASE_HARD_RESET);
        assert_eq!(hard.hard_reset_cause(), Some(inner));
        assert_eq!(
            Notification::new(Kind::CEASE_HARD_RESET).hard_reset_cause(),
            None
        );
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic_and_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(n) = Notification::decode(&bytes) {
                prop_assert!(!n.to_string().is_empty());
                prop_assert_eq!(&body(&n)[..], &bytes[..]);
            }
        }
    }
}
