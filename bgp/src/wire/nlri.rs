//! Prefix lists as UPDATE carries them (RFC 4271 section 4.3, RFC 7911 section 3).

use std::marker::PhantomData;

use bytes::{BufMut, BytesMut};

use crate::{
    prefix::{Family, Ipv4Prefix, Ipv6Prefix},
    wire::{cursor::Cursor, error::WireError, notification::Kind},
};

/// A prefix type that NLRI can carry.
pub trait NlriPrefix: Copy + Eq + Ord + std::hash::Hash + std::fmt::Display {
    /// The family it belongs to.
    const FAMILY: Family;

    /// Reads a prefix; `None` when the length is too long or octets are missing.
    fn read(cursor: &mut Cursor<'_>) -> Option<Self>;

    /// Appends the length octet and as many address octets as the length needs.
    fn put(self, out: &mut BytesMut);
}

macro_rules! nlri_prefix {
    ($name:ident, $bits:ty, $octets:literal, $family:expr) => {
        impl NlriPrefix for $name {
            const FAMILY: Family = $family;

            fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
                let len = cursor.u8()?;
                if len > Self::MAX_LEN {
                    return None;
                }
                let octets = cursor.take(usize::from(len.div_ceil(8)))?;
                let mut padded = [0u8; $octets];
                padded.get_mut(..octets.len())?.copy_from_slice(octets);
                Self::new(<$bits>::from_be_bytes(padded), len)
            }

            fn put(self, out: &mut BytesMut) {
                out.put_u8(self.len());
                let octets = self.bits().to_be_bytes();
                let used = usize::from(self.len().div_ceil(8));
                out.put_slice(octets.get(..used).unwrap_or(&octets));
            }
        }
    };
}

nlri_prefix!(Ipv4Prefix, u32, 4, Family::Ipv4Unicast);
nlri_prefix!(Ipv6Prefix, u128, 16, Family::Ipv6Unicast);

/// A prefix with its ADD-PATH identifier, 0 on sessions without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri<P> {
    /// Identifier that the sender gave the path (RFC 7911).
    pub path_id: u32,
    /// The prefix.
    pub prefix: P,
}

/// The network field is not a list of prefixes (RFC 7606 section 5.3): nothing behind the error can
/// be trusted, so the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a prefix is too long or cut off")]
pub struct NlriError;

impl From<NlriError> for WireError {
    fn from(NlriError: NlriError) -> Self {
        Self::new(
            Kind::UPDATE_NETWORK_FIELD,
            "a prefix is too long or cut off",
        )
    }
}

/// Walks encoded prefixes without allocating; ends after the first error.
#[derive(Debug, Clone)]
pub struct NlriIter<'a, P> {
    cursor: Cursor<'a>,
    add_path: bool,
    family: PhantomData<P>,
}

impl<'a, P: NlriPrefix> NlriIter<'a, P> {
    /// Over `bytes`, each prefix behind a path identifier if `add_path`.
    pub const fn new(bytes: &'a [u8], add_path: bool) -> Self {
        Self {
            cursor: Cursor::new(bytes),
            add_path,
            family: PhantomData,
        }
    }

    fn read(&mut self) -> Option<Nlri<P>> {
        let path_id = if self.add_path { self.cursor.u32()? } else { 0 };
        P::read(&mut self.cursor).map(|prefix| Nlri { path_id, prefix })
    }
}

impl<P: NlriPrefix> Iterator for NlriIter<'_, P> {
    type Item = Result<Nlri<P>, NlriError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.is_empty() {
            return None;
        }
        let item = self.read();
        if item.is_none() {
            self.cursor = Cursor::new(&[]);
        }
        Some(item.ok_or(NlriError))
    }
}

/// What an UPDATE encoder can write: a bare prefix, or one with a path identifier.
pub trait PutNlri: Copy {
    /// The family it belongs to.
    const FAMILY: Family;
    /// Most octets that one item takes.
    const MAX_OCTETS: usize;

    /// Appends the item.
    fn put_nlri(self, out: &mut BytesMut);
}

impl PutNlri for Ipv4Prefix {
    const FAMILY: Family = Family::Ipv4Unicast;
    const MAX_OCTETS: usize = 5;

    fn put_nlri(self, out: &mut BytesMut) {
        self.put(out);
    }
}

impl PutNlri for Ipv6Prefix {
    const FAMILY: Family = Family::Ipv6Unicast;
    const MAX_OCTETS: usize = 17;

    fn put_nlri(self, out: &mut BytesMut) {
        self.put(out);
    }
}

impl<P: PutNlri> PutNlri for Nlri<P> {
    const FAMILY: Family = P::FAMILY;
    const MAX_OCTETS: usize = 4 + P::MAX_OCTETS;

    fn put_nlri(self, out: &mut BytesMut) {
        out.put_u32(self.path_id);
        self.prefix.put_nlri(out);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn trailing_bits_are_ignored_and_errors_end_the_walk() {
        let mut it = NlriIter::<Ipv4Prefix>::new(&[9, 10, 0xff, 33, 1, 2], false);
        assert_eq!(
            it.next().unwrap().unwrap().prefix.to_string(),
            "10.128.0.0/9"
        );
        assert_eq!(it.next(), Some(Err(NlriError)));
        assert_eq!(it.next(), None);
        let cut = [24, 10, 0];
        assert_eq!(
            NlriIter::<Ipv4Prefix>::new(&cut, false).next(),
            Some(Err(NlriError))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), add_path: bool) {
            NlriIter::<Ipv4Prefix>::new(&bytes, add_path).for_each(drop);
            NlriIter::<Ipv6Prefix>::new(&bytes, add_path).for_each(drop);
        }

        #[test]
        fn prefixes_round_trip(items in proptest::collection::vec((any::<u128>(), 0u8..=128, any::<u32>()), 0..20)) {
            let items: Vec<_> = items
                .into_iter()
                .map(|(bits, len, path_id)| Nlri { path_id, prefix: Ipv6Prefix::new(bits, len).unwrap() })
                .collect();
            let mut out = BytesMut::new();
            items.iter().for_each(|n| n.put_nlri(&mut out));
            let back: Vec<_> = NlriIter::<Ipv6Prefix>::new(&out, true).map(Result::unwrap).collect();
            prop_assert_eq!(back, items);
        }
    }
}
