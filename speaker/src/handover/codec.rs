//! Octets of the state, written and read back. Nothing that is read is believed.

use bytes::{BufMut, BytesMut};
use margay_bgp::{
    prefix::{Ipv4Prefix, Ipv6Prefix, Prefix},
    wire::{NlriPrefix, cursor::Cursor},
};

/// What is written.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) BytesMut);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.put_u8(value);
    }

    pub(super) fn flag(&mut self, value: bool) {
        self.u8(value.into());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.put_u32(value);
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.put_u64(value);
    }

    pub(super) fn octets(&mut self, octets: &[u8]) {
        self.u64(octets.len() as u64);
        self.0.put_slice(octets);
    }

    /// As people would write it.
    pub(super) fn text(&mut self, value: impl ToString) {
        self.octets(value.to_string().as_bytes());
    }

    pub(super) fn prefix(&mut self, prefix: Prefix) {
        match prefix {
            Prefix::V4(p) => {
                self.u8(4);
                p.put(&mut self.0);
            }
            Prefix::V6(p) => {
                self.u8(6);
                p.put(&mut self.0);
            }
        }
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.u64(items.len() as u64);
        items.iter().for_each(|item| write(self, item));
    }
}

/// What is read. `None`: the octets are not what was written.
#[derive(Debug)]
pub(super) struct Reader<'a>(Cursor<'a>);

impl<'a> Reader<'a> {
    pub(super) const fn new(octets: &'a [u8]) -> Self {
        Self(Cursor::new(octets))
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.0.u8()
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.0.u32()
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.0.array().map(u64::from_be_bytes)
    }

    pub(super) fn octets(&mut self) -> Option<&'a [u8]> {
        let len = self.u64()?;
        self.0.take(usize::try_from(len).ok()?)
    }

    pub(super) fn text<T: std::str::FromStr>(&mut self) -> Option<T> {
        std::str::from_utf8(self.octets()?).ok()?.parse().ok()
    }

    pub(super) fn prefix(&mut self) -> Option<Prefix> {
        match self.u8()? {
            4 => Ipv4Prefix::read(&mut self.0).map(Prefix::V4),
            6 => Ipv6Prefix::read(&mut self.0).map(Prefix::V6),
            _ => None,
        }
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.flag()? {
            true => read(self).map(Some),
            false => Some(None),
        }
    }

    /// No more than there is room for: an item takes an octet at least.
    pub(super) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = usize::try_from(self.u64()?).ok()?;
        if count > self.0.len() {
            return None;
        }
        (0..count).map(|_| read(self)).collect()
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

/// Fowler, Noll and Vo's hash, going on from `state`: the same in every version of the program.
pub(crate) fn fnv1a(state: u64, octets: &[u8]) -> u64 {
    let step = |state: u64, octet: &u8| (state ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
    octets.iter().fold(state, step)
}
