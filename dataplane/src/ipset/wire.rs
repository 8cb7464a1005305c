//! Encoding of requests and decoding of answers (`linux/netfilter/ipset/ip_set.h`).
//!
//! Layout: `nlmsghdr` (16 bytes, host order), `nfgenmsg` (4 bytes), attributes aligned to 4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::{Entry, IfName, SetType, nfproto};
use crate::filter::Family;

/// `NFNL_SUBSYS_IPSET` in the upper byte of the message type.
const SUBSYS_IPSET: u16 = 6 << 8;
/// Version 6 is understood by every kernel that has version 7.
const PROTOCOL: u8 = 6;

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP: u16 = 0x300;

const NLA_F_NESTED: u16 = 0x8000;
const NLA_F_NET_BYTEORDER: u16 = 0x4000;
const NLA_TYPE_MASK: u16 = 0x3fff;

// Attributes at command level.
const ATTR_PROTOCOL: u16 = 1;
const ATTR_SETNAME: u16 = 2;
const ATTR_TYPENAME: u16 = 3;
const ATTR_SETNAME2: u16 = 3;
const ATTR_REVISION: u16 = 4;
const ATTR_FAMILY: u16 = 5;
const ATTR_FLAGS: u16 = 6;
const ATTR_DATA: u16 = 7;
const ATTR_ADT: u16 = 8;
const ATTR_LINENO: u16 = 9;
// Attributes inside of a data container.
const DATA_IP: u16 = 1;
const DATA_CIDR: u16 = 3;
const DATA_PORT: u16 = 4;
const DATA_PROTO: u16 = 7;
const DATA_MAXELEM: u16 = 19;
const DATA_IFACE: u16 = 23;
// Address containers.
const IPADDR_IPV4: u16 = 1;
const IPADDR_IPV6: u16 = 2;

const FLAG_LIST_SETNAME: u32 = 2;

/// Member data in one request; attribute lengths are 16 bits, so a container ends below 64 KiB.
pub(super) const MAX_ADT_LEN: usize = 60_000;

/// The requests in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Create = 2,
    Destroy = 3,
    Swap = 6,
    List = 7,
    Add = 9,
    Del = 10,
    Type = 13,
}

impl Command {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Destroy => "destroy",
            Self::Swap => "swap",
            Self::List => "list",
            Self::Add => "add",
            Self::Del => "delete",
            Self::Type => "type query",
        }
    }
}

/// A message under construction.
pub(super) struct Message {
    buf: Vec<u8>,
}

impl Message {
    fn new(command: Command, flags: u16, seq: u32, family: u8) -> Self {
        let mut buf = Vec::with_capacity(256);
        buf.extend_from_slice(&0u32.to_ne_bytes());
        buf.extend_from_slice(&(SUBSYS_IPSET | command as u16).to_ne_bytes());
        buf.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        buf.extend_from_slice(&seq.to_ne_bytes());
        buf.extend_from_slice(&0u32.to_ne_bytes());
        buf.extend_from_slice(&[family, 0, 0, 0]);
        let mut message = Self { buf };
        message.attr(ATTR_PROTOCOL, &[PROTOCOL]);
        message
    }

    fn attr(&mut self, kind: u16, value: &[u8]) {
        let len = (value.len() + 4) as u16;
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }

    fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.buf.len();
        self.attr(kind | NLA_F_NESTED, &[]);
        fill(self);
        let len = (self.buf.len() - start) as u16;
        self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    fn entry(&mut self, entry: &Entry) {
        self.nested(ATTR_DATA, |m| {
            let net = entry.net();
            m.nested(DATA_IP, |m| match net.ip() {
                IpAddr::V4(ip) => m.attr(IPADDR_IPV4 | NLA_F_NET_BYTEORDER, &ip.octets()),
                IpAddr::V6(ip) => m.attr(IPADDR_IPV6 | NLA_F_NET_BYTEORDER, &ip.octets()),
            });
            m.attr(DATA_CIDR, &[net.prefix()]);
            match entry {
                Entry::Net(_) => {}
                Entry::NetIface(_, ifname) => m.string(DATA_IFACE, ifname.as_str()),
                Entry::NetPort(_, protocol, port) => {
                    m.attr(DATA_PORT | NLA_F_NET_BYTEORDER, &port.to_be_bytes());
                    m.attr(DATA_PROTO, &[*protocol]);
                }
            }
        });
    }

    fn finish(mut self) -> Vec<u8> {
        let len = self.buf.len() as u32;
        self.buf[..4].copy_from_slice(&len.to_ne_bytes());
        self.buf
    }
}

pub(super) fn create(
    name: &str,
    set_type: SetType,
    revision: u8,
    family: Family,
    max_elements: u32,
    seq: u32,
) -> Vec<u8> {
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let mut m = Message::new(Command::Create, flags, seq, nfproto(family));
    m.string(ATTR_SETNAME, name);
    m.string(ATTR_TYPENAME, set_type.name());
    m.attr(ATTR_REVISION, &[revision]);
    m.attr(ATTR_FAMILY, &[nfproto(family)]);
    m.nested(ATTR_DATA, |m| {
        m.attr(
            DATA_MAXELEM | NLA_F_NET_BYTEORDER,
            &max_elements.to_be_bytes(),
        );
    });
    m.finish()
}

pub(super) fn destroy(name: &str, seq: u32) -> Vec<u8> {
    let mut m = Message::new(Command::Destroy, NLM_F_ACK, seq, 0);
    m.string(ATTR_SETNAME, name);
    m.finish()
}

pub(super) fn swap(name: &str, other: &str, seq: u32) -> Vec<u8> {
    let mut m = Message::new(Command::Swap, NLM_F_ACK, seq, 0);
    m.string(ATTR_SETNAME, name);
    m.string(ATTR_SETNAME2, other);
    m.finish()
}

pub(super) fn type_query(set_type: SetType, family: Family, seq: u32) -> Vec<u8> {
    let mut m = Message::new(Command::Type, NLM_F_ACK, seq, nfproto(family));
    m.string(ATTR_TYPENAME, set_type.name());
    m.attr(ATTR_FAMILY, &[nfproto(family)]);
    m.finish()
}

/// Asks for the names of all sets.
pub(super) fn list_names(seq: u32) -> Vec<u8> {
    let mut m = Message::new(Command::List, NLM_F_DUMP, seq, 0);
    m.attr(
        ATTR_FLAGS | NLA_F_NET_BYTEORDER,
        &FLAG_LIST_SETNAME.to_be_bytes(),
    );
    m.finish()
}

/// Asks for header and members of one set.
pub(super) fn list_set(name: &str, seq: u32) -> Vec<u8> {
    let mut m = Message::new(Command::List, NLM_F_DUMP, seq, 0);
    m.string(ATTR_SETNAME, name);
    m.finish()
}

/// Adds or deletes as many of `entries` as fit one message; returns the message and how many.
/// Without `NLM_F_EXCL` the kernel takes what is already so for done.
pub(super) fn members(
    command: Command,
    name: &str,
    entries: &[Entry],
    seq: u32,
) -> (Vec<u8>, usize) {
    let mut m = Message::new(command, NLM_F_ACK, seq, 0);
    m.string(ATTR_SETNAME, name);
    let mut taken = 0;
    if let [entry] = entries {
        m.entry(entry);
        taken = 1;
    } else {
        m.attr(ATTR_LINENO, &0u32.to_ne_bytes());
        m.nested(ATTR_ADT, |m| {
            let start = m.buf.len();
            for entry in entries {
                if m.buf.len() - start > MAX_ADT_LEN {
                    break;
                }
                m.entry(entry);
                taken += 1;
            }
        });
    }
    (m.finish(), taken)
}

/// One netlink message of an answer.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) kind: u16,
    pub(super) seq: u32,
    /// What follows the `nlmsghdr`.
    payload: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Splits the first message off a datagram.
    pub(super) fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let len = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let seq = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
        let payload = bytes.get(16..len)?;
        let rest = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((Self { kind, seq, payload }, rest))
    }

    /// The positive error code of an `NLMSG_ERROR` (0 is an acknowledgement) or `NLMSG_DONE`.
    pub(super) fn error_code(&self) -> Option<i32> {
        let bytes = self.payload.get(..4)?.try_into().ok()?;
        i32::from_ne_bytes(bytes).checked_neg()
    }

    fn attrs(&self) -> Attrs<'a> {
        Attrs(self.payload.get(4..).unwrap_or_default())
    }

    pub(super) fn set_name(&self) -> Option<&'a str> {
        self.attrs().find(ATTR_SETNAME).and_then(text)
    }

    pub(super) fn revision(&self) -> Option<u8> {
        self.attrs().find(ATTR_REVISION)?.first().copied()
    }

    pub(super) fn set_type(&self) -> Option<SetType> {
        SetType::from_name(text(self.attrs().find(ATTR_TYPENAME)?)?)
    }

    pub(super) fn has_header(&self) -> bool {
        self.attrs().find(ATTR_TYPENAME).is_some()
    }

    pub(super) fn family(&self) -> Option<Family> {
        let nfproto_of_set = self.attrs().find(ATTR_FAMILY)?.first().copied()?;
        Family::ALL
            .into_iter()
            .find(|family| nfproto(*family) == nfproto_of_set)
    }

    /// The members in this message; a member that is not understood is `None`.
    pub(super) fn entries(&self, set_type: SetType) -> impl Iterator<Item = Option<Entry>> + 'a {
        let adt = self.attrs().find(ATTR_ADT).unwrap_or_default();
        Attrs(adt)
            .filter(|(kind, _)| *kind == ATTR_DATA)
            .map(move |(_, data)| decode_entry(set_type, Attrs(data)))
    }
}

fn decode_entry(set_type: SetType, data: Attrs<'_>) -> Option<Entry> {
    let (kind, addr) = Attrs(data.find(DATA_IP)?).next()?;
    let addr: IpAddr = match kind {
        IPADDR_IPV4 => Ipv4Addr::from(<[u8; 4]>::try_from(addr).ok()?).into(),
        IPADDR_IPV6 => Ipv6Addr::from(<[u8; 16]>::try_from(addr).ok()?).into(),
        _ => return None,
    };
    let full = if addr.is_ipv4() { 32 } else { 128 };
    let prefix = data
        .find(DATA_CIDR)
        .and_then(|b| b.first().copied())
        .unwrap_or(full);
    let net = IpNetwork::new(addr, prefix).ok()?;
    match set_type {
        SetType::Net => Some(Entry::Net(net)),
        SetType::NetIface => Some(Entry::NetIface(
            net,
            IfName::new(text(data.find(DATA_IFACE)?)?)?,
        )),
        SetType::NetPort => {
            let port = u16::from_be_bytes(data.find(DATA_PORT)?.try_into().ok()?);
            Some(Entry::NetPort(
                net,
                data.find(DATA_PROTO)?.first().copied()?,
                port,
            ))
        }
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|b| *b == 0).next()?).ok()
}

/// A run of attributes; stops at the first that does not fit.
#[derive(Clone, Copy)]
struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    fn find(mut self, wanted: u16) -> Option<&'a [u8]> {
        Iterator::find(&mut self, |(kind, _)| *kind == wanted).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?);
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & NLA_TYPE_MASK, value))
    }
}
