//! The numbers of the nf_tables protocol, and messages in one batch.
//!
//! Numbers in attributes are in network byte order. Names are those of `linux/netfilter/nf_tables.h`.

use crate::netlink::{Batch, Request};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// `NFPROTO_INET`.
pub(super) const INET: u8 = 1;

/// The multicast group that tells of changes.
pub(super) const GROUP: u32 = 7;

/// Requests, and the kernel's answers and events of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Message {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    DelChain = 5,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    NewSet = 9,
    GetSet = 10,
    DelSet = 11,
    NewElements = 12,
    GetElements = 13,
    DelElements = 14,
}

impl Message {
    pub(super) const fn kind(self) -> u16 {
        SUBSYSTEM << 8 | self as u16
    }
}

/// The subsystem and kind of a message.
pub(super) const fn is_nf_tables(kind: u16) -> bool {
    kind >> 8 == SUBSYSTEM
}

/// `NFTA_*_TABLE`, the same in all messages.
pub(super) const TABLE: u16 = 1;
pub(super) const TABLE_USERDATA: u16 = 6;

pub(super) mod chain {
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
}

pub(super) mod rule {
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const USERDATA: u16 = 7;
}

pub(super) mod set {
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LEN: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const DATA_LEN: u16 = 7;
    pub(crate) const DESC: u16 = 9;
    pub(crate) const ID: u16 = 10;
    pub(crate) const USERDATA: u16 = 13;
    pub(crate) const DESC_CONCAT: u16 = 2;
    pub(crate) const FIELD_LEN: u16 = 1;

    pub(crate) const ANONYMOUS: u32 = 1;
    pub(crate) const CONSTANT: u32 = 2;
    pub(crate) const INTERVAL: u32 = 4;
    pub(crate) const MAP: u32 = 8;
    pub(crate) const CONCAT: u32 = 0x80;
    /// `NFT_DATA_VERDICT` as a type.
    pub(crate) const VERDICT: u32 = 0xffff_ff00;
}

pub(super) mod elements {
    pub(crate) const SET: u16 = 2;
    pub(crate) const LIST: u16 = 3;

    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_END: u16 = 10;
    pub(crate) const INTERVAL_END: u32 = 1;
}

/// `NFTA_LIST_ELEM`.
pub(super) const LIST_ELEMENT: u16 = 1;
/// `NFTA_DATA_VALUE`.
pub(super) const DATA_VALUE: u16 = 1;
/// `NFTA_DATA_VERDICT`.
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;
pub(super) const NFT_GOTO: i32 = -4;

/// Writing numbers as the protocol wants them.
pub(super) trait BigEndian {
    fn be32(&mut self, kind: u16, value: u32);
    fn be64(&mut self, kind: u16, value: u64);
}

impl BigEndian for Request<'_> {
    fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }
}

/// `struct nfgenmsg`.
pub(super) const fn header(family: u8, resource: u16) -> [u8; 4] {
    let resource = resource.to_be_bytes();
    [family, 0, resource[0], resource[1]]
}

/// Messages that take effect together or not at all.
#[derive(Debug)]
pub(super) struct Transaction<T> {
    batch: Batch,
    /// What each message is about, from the second on; the first begins the batch.
    about: Vec<T>,
}

impl<T: Clone> Transaction<T> {
    pub(super) fn new() -> Self {
        let mut batch = Batch::new();
        batch.push(BATCH_BEGIN, 0, &header(0, SUBSYSTEM), |_| {});
        Self {
            batch,
            about: Vec::new(),
        }
    }

    /// Adds a message.
    pub(super) fn push(
        &mut self,
        about: T,
        message: Message,
        flags: i32,
        fill: impl FnOnce(&mut Request<'_>),
    ) {
        self.batch
            .push(message.kind(), flags, &header(INET, 0), |m| {
                m.string(TABLE, super::TABLE_NAME);
                fill(m);
            });
        self.about.push(about);
    }

    /// What the message at this place of the batch is about; nothing for the frame around them.
    pub(super) fn about(&self, place: usize) -> Option<&T> {
        self.about.get(place.checked_sub(1)?)
    }

    /// The whole batch, and the place of the last message that is answered.
    pub(super) fn finish(&mut self) -> (&mut Batch, usize) {
        let last = self.batch.len() - 1;
        self.batch.push(BATCH_END, 0, &header(0, SUBSYSTEM), |_| {});
        (&mut self.batch, last)
    }
}
