//! Expressions, of which rules consist: load into a register, compare, look up, decide.

mod connection;
mod outcome;
mod packet;
mod translation;

pub(super) use self::{outcome::Verdict, packet::Device};
use super::wire::{BigEndian, DATA_VALUE, LIST_ELEMENT};
use crate::netlink::Request;

/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;
/// The first of sixteen registers of four bytes; `FIRST + n` is the one `4 * n` bytes behind it.
const FIRST: u32 = 8;
/// Behind the name of an interface.
const BEHIND_IFNAME: u32 = FIRST + 4;

const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;

const NETWORK_HEADER: u32 = 1;

/// `NFT_LIMIT_F_INV` and `NFT_CONNLIMIT_F_INV`.
const INVERTED: u32 = 1;

/// The expressions of one rule, as attributes.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    pub(super) bytes: Vec<u8>,
    family_checked: bool,
    /// Whose name is in the first registers.
    device: Option<Device>,
}

impl Expressions {
    fn push(&mut self, name: &str, fill: impl FnOnce(&mut Request<'_>)) {
        self.device = None;
        Request::apart(&mut self.bytes).nest(LIST_ELEMENT, &[], |e| {
            e.string(1, name);
            e.nest(2, &[], fill);
        });
    }

    /// Loads packet metadata.
    fn meta(&mut self, key: u32, register: u32) {
        self.push("meta", |e| {
            e.be32(2, key);
            e.be32(1, register);
        });
    }

    fn payload(&mut self, register: u32, base: u32, offset: u32, length: u32) {
        self.push("payload", |e| {
            e.be32(1, register);
            e.be32(2, base);
            e.be32(3, offset);
            e.be32(4, length);
        });
    }

    /// One that leaves the registers as they are.
    fn ask(&mut self, name: &str, fill: impl FnOnce(&mut Request<'_>)) {
        let device = self.device;
        self.push(name, fill);
        self.device = device;
    }

    fn compare(&mut self, not: bool, value: &[u8]) {
        self.ask("cmp", |e| {
            e.be32(1, FIRST);
            e.be32(2, if not { CMP_NEQ } else { CMP_EQ });
            e.nest(3, &[], |d| d.bytes(DATA_VALUE, value));
        });
    }

    /// `register & mask ^ flip`.
    fn bitwise(&mut self, mask: &[u8], flip: &[u8]) {
        self.push("bitwise", |e| {
            e.be32(1, FIRST);
            e.be32(2, FIRST);
            e.be32(3, mask.len() as u32);
            e.nest(4, &[], |d| d.bytes(DATA_VALUE, mask));
            e.nest(5, &[], |d| d.bytes(DATA_VALUE, flip));
        });
    }

    fn lookup(&mut self, set: &str, not: bool) {
        self.ask("lookup", |e| {
            e.string(1, set);
            e.be32(2, FIRST);
            if not {
                e.be32(5, 1);
            }
        });
    }

    fn load(&mut self, register: u32, value: &[u8]) {
        self.push("immediate", |e| {
            e.be32(1, register);
            e.nest(2, &[], |d| d.bytes(DATA_VALUE, value));
        });
    }
}
