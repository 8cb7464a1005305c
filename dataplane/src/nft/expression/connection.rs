//! What conntrack is asked about the connection of a packet.

use super::{BigEndian, Expressions, FIRST, INVERTED, LIST_ELEMENT, Request};

const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_MARK: u32 = 3;
/// Bit of `ct status`.
const STATUS_DST_NAT: u32 = 0x20;

impl Expressions {
    /// The connection is in one of these states.
    pub(in crate::nft) fn tracked(&mut self, states: u32) {
        self.connection(CT_STATE, states);
    }

    /// The destination of the connection was translated.
    pub(in crate::nft) fn translated(&mut self) {
        self.connection(CT_STATUS, STATUS_DST_NAT);
    }

    /// The connection has this mark bit.
    pub(in crate::nft) fn connection_mark(&mut self, bit: u32) {
        self.connection(CT_MARK, bit);
    }

    fn connection(&mut self, key: u32, any_of: u32) {
        self.push("ct", |e| {
            e.be32(2, key);
            e.be32(1, FIRST);
        });
        self.bitwise(&any_of.to_ne_bytes(), &[0; 4]);
        self.compare(true, &[0; 4]);
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
