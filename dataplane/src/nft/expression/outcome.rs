//! What becomes of a packet: verdicts, and what is done to it on its way. Translation has a file of its own.

use super::{BigEndian, Expressions, FIRST, INVERTED, NETWORK_HEADER, VERDICT};
use crate::{
    filter::Family,
    nft::wire::{self, DATA_VERDICT, VERDICT_CHAIN, VERDICT_CODE},
};

const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = wire::NFT_GOTO;
const NFT_RETURN: i32 = -5;
/// `NFT_PAYLOAD_CSUM_INET`.
const CHECKSUM_INET: u32 = 1;
/// `NFT_RT_TCPMSS`.
const RT_TCP_MSS: u32 = 3;
/// `NFT_BYTEORDER_HTON`.
const TO_NETWORK: u32 = 1;
/// `NFT_EXTHDR_OP_TCPOPT`, and the option's number.
const OF_TCP: u32 = 1;
const TCP_OPTION_MSS: u8 = 2;
/// Answer with an ICMP message of the packet's family.
const REJECT_ICMPX: u32 = 2;
const ICMPX_PORT_UNREACHABLE: u8 = 1;

/// Where a packet goes on.
#[derive(Clone, Copy, Debug)]
pub(in crate::nft) enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Jump(&'a str),
    Goto(&'a str),
}

impl Expressions {
    pub(in crate::nft) fn counter(&mut self) {
        self.push("counter", |e| {
            e.be64(1, 0);
            e.be64(2, 0);
        });
    }

    pub(in crate::nft) fn verdict(&mut self, verdict: Verdict<'_>) {
        let (code, chain) = match verdict {
            Verdict::Accept => (NF_ACCEPT, None),
            Verdict::Drop => (NF_DROP, None),
            Verdict::Return => (NFT_RETURN, None),
            Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
            Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
        };
        self.push("immediate", |e| {
            e.be32(1, VERDICT);
            e.nest(2, &[], |d| {
                d.nest(DATA_VERDICT, &[], |v| {
                    v.be32(VERDICT_CODE, code as u32);
                    if let Some(chain) = chain {
                        v.string(VERDICT_CHAIN, chain);
                    }
                });
            });
        });
    }

    pub(in crate::nft) fn reject(&mut self) {
        self.push("reject", |e| {
            e.be32(1, REJECT_ICMPX);
            e.bytes(2, &[ICMPX_PORT_UNREACHABLE]);
        });
    }

    pub(in crate::nft) fn log(&mut self, group: u16, prefix: &str) {
        self.push("log", |e| {
            e.bytes(1, &group.to_be_bytes());
            e.string(2, prefix);
        });
    }

    /// The rule matches at most so many packets a second, after a while without any so many at once; or only those
    /// that are `over` that.
    pub(in crate::nft) fn limit(&mut self, a_second: u64, at_once: u32, over: bool) {
        self.push("limit", |e| {
            e.be64(1, a_second);
            e.be64(2, 1);
            e.be32(3, at_once);
            if over {
                e.be32(5, INVERTED);
            }
        });
    }

    /// Another differentiated services code point: the upper six bits of the byte behind the version and what else is
    /// in the first one.
    pub(in crate::nft) fn set_dscp(&mut self, family: Family, value: u8) {
        let (keep, set) = match family {
            Family::V4 => ([0xff, 0x03], [0, value << 2]),
            Family::V6 => ([0xf0, 0x3f], [value >> 2, value << 6]),
        };
        self.family(family);
        self.payload(FIRST, NETWORK_HEADER, 0, 2);
        self.bitwise(&keep, &set);
        self.push("payload", |e| {
            e.be32(5, FIRST);
            e.be32(2, NETWORK_HEADER);
            e.be32(3, 0);
            e.be32(4, 2);
            if family == Family::V4 {
                e.be32(6, CHECKSUM_INET);
                e.be32(7, 10);
            }
        });
    }

    /// The longest segment that the sender is ready for is at most what the path takes whole, there and back. The
    /// kernel never raises it.
    pub(in crate::nft) fn clamp_segments(&mut self) {
        self.push("rt", |e| {
            e.be32(1, FIRST);
            e.be32(2, RT_TCP_MSS);
        });
        self.push("byteorder", |e| {
            e.be32(1, FIRST);
            e.be32(2, FIRST);
            e.be32(3, TO_NETWORK);
            e.be32(4, 2);
            e.be32(5, 2);
        });
        self.push("exthdr", |e| {
            e.bytes(2, &[TCP_OPTION_MSS]);
            e.be32(3, 2);
            e.be32(4, 2);
            e.be32(6, OF_TCP);
            e.be32(7, FIRST);
        });
    }
}
