//! What conntrack is asked about the connection of a packet.

use super::{BigEndian, Expressions, FIRST, INVERTED, LIST_ELEMENT, Request};

const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_MARK: u32 = 3;
/// Bits of `ct status`.
const STATUS_SEEN_REPLY: u32 = 2;
const STATUS_ASSURED: u32 = 4;
const STATUS_DST_NAT: u32 = 0x20;

impl Expressions {
    /// The connection is in one of these states.
    pub(in crate::nft) fn tracked(&mut self, states: u32) {
        self.load_connection(CT_STATE, states);
        self.compare(true, &[0; 4]);
    }

    /// Packets went both ways, and conntrack would not give up the connection for the sake of a new one. The first of
    /// these makes conntrack call whatever belongs to it established or related.
    pub(in crate::nft) fn settled(&mut self) {
        let bits = STATUS_SEEN_REPLY | STATUS_ASSURED;
        self.load_connection(CT_STATUS, bits);
        self.compare(false, &bits.to_ne_bytes());
    }

    /// The destination of the connection was translated.
    pub(in crate::nft) fn translated(&mut self) {
        self.load_connection(CT_STATUS, STATUS_DST_NAT);
        self.compare(true, &[0; 4]);
    }

    /// The connection has this mark bit, or has it not.
    pub(in crate::nft) fn connection_mark(&mut self, bit: u32, set: bool) {
        self.load_connection(CT_MARK, bit);
        self.compare(set, &[0; 4]);
    }

    fn load_connection(&mut self, key: u32, bits: u32) {
        self.push("ct", |e| {
            e.be32(2, key);
            e.be32(1, FIRST);
        });
        self.bitwise(&bits.to_ne_bytes(), &[0; 4]);
    }

    /// More than so many of the connections that came here are not over.
    pub(in crate::nft) fn connections_over(&mut self, most: u32) {
        self.push("connlimit", |e| {
            e.be32(1, most);
            e.be32(2, INVERTED);
        });
    }

    pub(in crate::nft) fn no_track(&mut self) {
        Request::apart(&mut self.bytes).nest(LIST_ELEMENT, &[], |e| e.string(1, "notrack"));
    }
}
