//! Expressions, of which rules consist: load into a register, compare, look up, decide.

use std::{net::IpAddr, ops::RangeInclusive};

use super::wire::{BigEndian, DATA_VALUE, DATA_VERDICT, LIST_ELEMENT, VERDICT_CHAIN, VERDICT_CODE};
use crate::{
    filter::{Family, program::Side},
    netlink::{Request, ip_bytes},
};

/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;
/// The first of sixteen registers of four bytes; `FIRST + n` is the one `4 * n` bytes behind it.
const FIRST: u32 = 8;
/// Behind the name of an interface.
const BEHIND_IFNAME: u32 = FIRST + 4;

const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_MARK: u32 = 3;
/// Bit of `ct status`.
const STATUS_DST_NAT: u32 = 0x20;
const FIB_ADDRTYPE: u32 = 3;
const FIB_SADDR: u32 = 1;
const FIB_DADDR: u32 = 2;

const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = super::wire::NFT_GOTO;
const NFT_RETURN: i32 = -5;

/// `NFT_LIMIT_F_INV` and `NFT_CONNLIMIT_F_INV`.
const INVERTED: u32 = 1;
/// `NFT_PAYLOAD_CSUM_INET`.
const CHECKSUM_INET: u32 = 1;
/// Where TCP has its flags, and two of them.
const TCP_FLAGS_AT: u32 = 13;
const SYN: u8 = 2;
const RST: u8 = 4;
/// `NFT_RT_TCPMSS`.
const RT_TCP_MSS: u32 = 3;
/// `NFT_BYTEORDER_HTON`.
const TO_NETWORK: u32 = 1;
/// `NFT_EXTHDR_OP_TCPOPT`, and the option's number.
const OF_TCP: u32 = 1;
const TCP_OPTION_MSS: u8 = 2;
/// Kinds of `nat`.
const SOURCE_NAT: u32 = 0;
const DESTINATION_NAT: u32 = 1;

/// Answer with an ICMP message of the packet's family.
const REJECT_ICMPX: u32 = 2;
const ICMPX_PORT_UNREACHABLE: u8 = 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const RANDOM_FULLY: u32 = 16;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
const PORTS_GIVEN: u32 = 2;

/// Where a packet goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Jump(&'a str),
    Goto(&'a str),
}

/// The interface that a packet came in through or is to go out through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    In,
    Out,
}

/// The expressions of one rule, as attributes.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    pub(super) bytes: Vec<u8>,
    family_checked: bool,
}

impl Expressions {
    fn push(&mut self, name: &str, fill: impl FnOnce(&mut Request<'_>)) {
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

    fn compare(&mut self, not: bool, value: &[u8]) {
        self.push("cmp", |e| {
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

    /// Packets of this family only: base chains see both.
    pub(super) fn family(&mut self, family: Family) {
        if std::mem::replace(&mut self.family_checked, true) {
            return;
        }
        let number = match family {
            Family::V4 => libc::NFPROTO_IPV4,
            Family::V6 => libc::NFPROTO_IPV6,
        };
        self.meta(META_NFPROTO, FIRST);
        self.compare(false, &[number as u8]);
    }

    pub(super) fn ifname(&mut self, device: Device) {
        let key = match device {
            Device::In => META_IIFNAME,
            Device::Out => META_OIFNAME,
        };
        self.meta(key, FIRST);
    }

    /// The loaded name is this, or starts with it.
    pub(super) fn is_named(&mut self, name: &str, whole: bool) {
        let mut value = name.as_bytes().to_vec();
        if whole {
            value.resize(16, 0);
        }
        self.compare(false, &value);
    }

    fn address(&mut self, family: Family, side: Side, register: u32) {
        self.family(family);
        let (offset, length) = match (family, side) {
            (Family::V4, Side::Src) => (12, 4),
            (Family::V4, Side::Dst) => (16, 4),
            (Family::V6, Side::Src) => (8, 16),
            (Family::V6, Side::Dst) => (24, 16),
        };
        self.payload(register, NETWORK_HEADER, offset, length);
    }

    pub(super) fn net(&mut self, side: Side, not: bool, net: ipnetwork::IpNetwork) {
        self.address(Family::of(&net), side, FIRST);
        let (bytes, length) = ip_bytes(net.network());
        let (mask, _) = ip_bytes(net.mask());
        if mask[..length].iter().any(|byte| *byte != 0xff) {
            self.bitwise(&mask[..length], &[0; 16][..length]);
        }
        self.compare(not, &bytes[..length]);
    }

    pub(super) fn protocol(&mut self, not: bool, number: u8) {
        self.meta(META_L4PROTO, FIRST);
        self.compare(not, &[number]);
    }

    pub(super) fn icmp(&mut self, not: bool, icmp_type: u8, code: Option<u8>) {
        let value = [icmp_type, code.unwrap_or(0)];
        let length = if code.is_some() { 2 } else { 1 };
        if not || code.is_none() {
            self.payload(FIRST, TRANSPORT_HEADER, 0, length as u32);
            return self.compare(not, &value[..length]);
        }
        // Two steps read better in a listing.
        for (offset, byte) in value.into_iter().enumerate() {
            self.payload(FIRST, TRANSPORT_HEADER, offset as u32, 1);
            self.compare(false, &[byte]);
        }
    }

    fn load_port(&mut self, side: Side, register: u32) {
        let offset = match side {
            Side::Src => 0,
            Side::Dst => 2,
        };
        self.payload(register, TRANSPORT_HEADER, offset, 2);
    }

    pub(super) fn port(&mut self, side: Side, not: bool, first: u16, last: u16) {
        self.load_port(side, FIRST);
        if first == last {
            return self.compare(not, &first.to_be_bytes());
        }
        self.push("range", |e| {
            e.be32(1, FIRST);
            e.be32(2, u32::from(not));
            e.nest(3, &[], |d| d.bytes(DATA_VALUE, &first.to_be_bytes()));
            e.nest(4, &[], |d| d.bytes(DATA_VALUE, &last.to_be_bytes()));
        });
    }

    pub(super) fn port_in(&mut self, side: Side, set: &str, not: bool) {
        self.load_port(side, FIRST);
        self.lookup(set, not);
    }

    pub(super) fn address_in(&mut self, family: Family, side: Side, set: &str, not: bool) {
        self.address(family, side, FIRST);
        self.lookup(set, not);
    }

    /// Address, protocol and port together.
    pub(super) fn service_in(&mut self, family: Family, side: Side, set: &str, not: bool) {
        self.address(family, side, FIRST);
        let behind = match family {
            Family::V4 => FIRST + 1,
            Family::V6 => FIRST + 4,
        };
        self.meta(META_L4PROTO, behind);
        self.load_port(side, behind + 1);
        self.lookup(set, not);
    }

    fn workload(&mut self, family: Family, side: Side) {
        self.family(family);
        self.ifname(match side {
            Side::Src => Device::In,
            Side::Dst => Device::Out,
        });
        self.address(family, side, BEHIND_IFNAME);
    }

    /// Interface and address together, of the sender or of the receiver.
    pub(super) fn workload_in(&mut self, family: Family, side: Side, set: &str, not: bool) {
        self.workload(family, side);
        self.lookup(set, not);
    }

    /// Goes where a verdict map says for interface and address.
    pub(super) fn dispatch(&mut self, family: Family, side: Side, map: &str) {
        self.workload(family, side);
        self.push("lookup", |e| {
            e.string(1, map);
            e.be32(2, FIRST);
            e.be32(3, VERDICT);
        });
    }

    fn lookup(&mut self, set: &str, not: bool) {
        self.push("lookup", |e| {
            e.string(1, set);
            e.be32(2, FIRST);
            if not {
                e.be32(5, 1);
            }
        });
    }

    /// All of the bits are set in the mark, or none.
    pub(super) fn mark(&mut self, bits: u32, set: bool) {
        self.meta(META_MARK, FIRST);
        self.bitwise(&bits.to_ne_bytes(), &[0; 4]);
        let expected = if set { bits } else { 0 };
        self.compare(false, &expected.to_ne_bytes());
    }

    pub(super) fn change_mark(&mut self, bits: u32, set: bool) {
        self.meta(META_MARK, FIRST);
        let flip = if set { bits } else { 0 };
        self.bitwise(&(!bits).to_ne_bytes(), &flip.to_ne_bytes());
        self.push("meta", |e| {
            e.be32(2, META_MARK);
            e.be32(3, FIRST);
        });
    }

    /// The connection is in one of these states.
    pub(super) fn tracked(&mut self, states: u32) {
        self.connection(CT_STATE, states);
    }

    /// The destination of the connection was translated.
    pub(super) fn translated(&mut self) {
        self.connection(CT_STATUS, STATUS_DST_NAT);
    }

    /// The connection has this mark bit.
    pub(super) fn connection_mark(&mut self, bit: u32) {
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

    /// The source or the destination is an address of this host.
    pub(super) fn is_local(&mut self, side: Side) {
        self.push("fib", |e| {
            e.be32(1, FIRST);
            e.be32(2, FIB_ADDRTYPE);
            e.be32(
                3,
                match side {
                    Side::Src => FIB_SADDR,
                    Side::Dst => FIB_DADDR,
                },
            );
        });
        self.compare(false, &u32::from(libc::RTN_LOCAL).to_ne_bytes());
    }

    pub(super) fn counter(&mut self) {
        self.push("counter", |e| {
            e.be64(1, 0);
            e.be64(2, 0);
        });
    }

    pub(super) fn verdict(&mut self, verdict: Verdict<'_>) {
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

    pub(super) fn reject(&mut self) {
        self.push("reject", |e| {
            e.be32(1, REJECT_ICMPX);
            e.bytes(2, &[ICMPX_PORT_UNREACHABLE]);
        });
    }

    pub(super) fn no_track(&mut self) {
        Request::apart(&mut self.bytes).nest(LIST_ELEMENT, &[], |e| e.string(1, "notrack"));
    }

    pub(super) fn log(&mut self, group: u16, prefix: &str) {
        self.push("log", |e| {
            e.bytes(1, &group.to_be_bytes());
            e.string(2, prefix);
        });
    }

    /// The rule matches at most so many packets a second, after a while without any so many at once; or only those
    /// that are `over` that.
    pub(super) fn limit(&mut self, a_second: u64, at_once: u32, over: bool) {
        self.push("limit", |e| {
            e.be64(1, a_second);
            e.be64(2, 1);
            e.be32(3, at_once);
            if over {
                e.be32(5, INVERTED);
            }
        });
    }

    /// More than so many of the connections that came here are not over.
    pub(super) fn connections_over(&mut self, most: u32) {
        self.push("connlimit", |e| {
            e.be32(1, most);
            e.be32(2, INVERTED);
        });
    }

    /// Another differentiated services code point: the upper six bits of the byte behind the version and what else is
    /// in the first one.
    pub(super) fn set_dscp(&mut self, family: Family, value: u8) {
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

    /// Of the flags of TCP, SYN is set and RST is not.
    pub(super) fn opens(&mut self) {
        self.payload(FIRST, TRANSPORT_HEADER, TCP_FLAGS_AT, 1);
        self.bitwise(&[SYN | RST], &[0]);
        self.compare(false, &[SYN]);
    }

    /// The longest segment that the sender is ready for is at most what the path takes whole, there and back. The
    /// kernel never raises it.
    pub(super) fn clamp_segments(&mut self) {
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

    fn load(&mut self, register: u32, value: &[u8]) {
        self.push("immediate", |e| {
            e.be32(1, register);
            e.nest(2, &[], |d| d.bytes(DATA_VALUE, value));
        });
    }

    /// Another destination, and perhaps port.
    pub(super) fn destination_nat(&mut self, address: IpAddr, port: Option<u16>) {
        let port_register = FIRST + 4;
        self.load_address(address);
        if let Some(port) = port {
            self.load(port_register, &port.to_be_bytes());
        }
        self.push("nat", |e| {
            e.be32(1, DESTINATION_NAT);
            e.be32(2, protocol_family(address));
            e.be32(3, FIRST);
            if port.is_some() {
                e.be32(5, port_register);
                e.be32(7, PORTS_GIVEN);
            }
        });
    }

    fn load_address(&mut self, address: IpAddr) {
        let (bytes, length) = ip_bytes(address);
        self.load(FIRST, &bytes[..length]);
    }

    /// Another source address, the outgoing interface's if none is given, and perhaps ports of a range.
    pub(super) fn source_nat(
        &mut self,
        address: Option<IpAddr>,
        ports: Option<&RangeInclusive<u16>>,
    ) {
        let (first, last) = (FIRST + 4, FIRST + 5);
        if let Some(ports) = ports {
            self.load(first, &ports.start().to_be_bytes());
            self.load(last, &ports.end().to_be_bytes());
        }
        let flags = RANDOM_FULLY | if ports.is_some() { PORTS_GIVEN } else { 0 };
        let Some(address) = address else {
            return self.push("masq", |e| {
                e.be32(1, flags);
                if ports.is_some() {
                    e.be32(2, first);
                    e.be32(3, last);
                }
            });
        };
        self.load_address(address);
        self.push("nat", |e| {
            e.be32(1, SOURCE_NAT);
            e.be32(2, protocol_family(address));
            e.be32(3, FIRST);
            if ports.is_some() {
                e.be32(5, first);
                e.be32(6, last);
            }
            e.be32(7, flags);
        });
    }
}

const fn protocol_family(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => libc::NFPROTO_IPV4 as u32,
        IpAddr::V6(_) => libc::NFPROTO_IPV6 as u32,
    }
}
