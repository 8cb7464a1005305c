//! Reading attributes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Marks "has attributes inside" and "in network byte order"; not part of the type.
const TYPE_MASK: u16 = 0x3fff;

/// Iterates over `(type, value)` of a run of attributes; stops at the first malformed one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Attributes that start at `offset` in a message; none if the message is shorter.
    pub(crate) fn after(message: &'a [u8], offset: usize) -> Self {
        Self(message.get(offset..).unwrap_or_default())
    }

    /// Attributes nested in the value of another.
    pub(crate) const fn nested(value: &'a [u8]) -> Self {
        Self(value)
    }

    /// The value of the first attribute of this type.
    pub(crate) fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        Iterator::find(&mut self, |(k, _)| *k == kind).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A native-endian `u32` value.
pub(crate) fn u32_from(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// A string value without its terminating zero.
pub(crate) fn string_from(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// An address value of 4 or 16 bytes.
pub(crate) fn ip_from(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::V4(Ipv4Addr::from(v4)));
    }
    <[u8; 16]>::try_from(value)
        .ok()
        .map(|v6| IpAddr::V6(Ipv6Addr::from(v6)))
}

/// The bytes of an address as attributes carry them: network order, 4 or 16 of them.
pub(crate) fn ip_bytes(ip: IpAddr) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(v4) => {
            bytes[..4].copy_from_slice(&v4.octets());
            (bytes, 4)
        }
        IpAddr::V6(v6) => (v6.octets(), 16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_attributes_end_the_iteration() {
        // Length 8 but only 6 bytes; length below the header's own; nothing at all.
        for bytes in [&[8, 0, 1, 0, 9, 9][..], &[3, 0, 1, 0][..], &[1][..], &[]] {
            assert_eq!(Attributes::after(bytes, 0).count(), 0, "{bytes:?}");
        }
        assert_eq!(Attributes::after(&[1, 2], 16).count(), 0);
    }

    #[test]
    fn padding_and_type_flags_are_skipped() {
        // A 1-byte value with padding, then a nested (0x8000) attribute.
        let bytes = [5, 0, 1, 0, 7, 0, 0, 0, 8, 0, 2, 0x80, 1, 0, 0, 0];
        let all: Vec<_> = Attributes::after(&bytes, 0).collect();
        assert_eq!(all, [(1, &[7][..]), (2, &[1, 0, 0, 0][..])]);
        assert_eq!(
            Attributes::after(&bytes, 0).find(2).and_then(u32_from),
            Some(1)
        );
    }
}
