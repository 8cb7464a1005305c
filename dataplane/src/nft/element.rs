//! Members of sets as the kernel has them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::wire::{
    BigEndian, DATA_VALUE, DATA_VERDICT, LIST_ELEMENT, NFT_GOTO, VERDICT_CHAIN, VERDICT_CODE,
    elements, set,
};
use crate::{
    filter::Family,
    ipset::{Entry, IfName},
    netlink::{Attributes, Request, ip_bytes, ip_from, string_from},
};

/// Numbers that `nft` knows the types of keys by.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
pub(super) const TYPE_SERVICE: u32 = 13;
const TYPE_IFNAME: u32 = 41;
const TYPE_BITS: u32 = 6;

const IFNAME_LEN: usize = 16;

/// What a set is keyed by and how it is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Addresses, by hash.
    Hosts,
    /// Networks, as intervals in a tree.
    Nets,
    /// Network, protocol and port, as ranges of each field.
    Services,
    /// Interface and address, by hash.
    Workloads,
    /// Interface and network, as ranges.
    WorkloadNets,
}

/// A set as it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) shape: Shape,
    pub(super) family: Family,
    /// From the key to a verdict.
    pub(super) map: bool,
}

impl Kind {
    fn fields(self) -> Vec<(u32, u32)> {
        let address = match self.family {
            Family::V4 => (TYPE_IPV4, 4),
            Family::V6 => (TYPE_IPV6, 16),
        };
        match self.shape {
            Shape::Hosts | Shape::Nets => vec![address],
            Shape::Services => vec![address, (TYPE_PROTOCOL, 1), (TYPE_SERVICE, 2)],
            Shape::Workloads | Shape::WorkloadNets => {
                vec![(TYPE_IFNAME, IFNAME_LEN as u32), address]
            }
        }
    }

    pub(super) fn flags(self) -> u32 {
        let shape = match self.shape {
            Shape::Nets => set::INTERVAL,
            Shape::Services | Shape::WorkloadNets => set::INTERVAL | set::CONCAT,
            Shape::Hosts | Shape::Workloads => 0,
        };
        shape | if self.map { set::MAP } else { 0 }
    }

    pub(super) fn key_len(self) -> u32 {
        let lengths = self.fields().into_iter().map(|(_, length)| length);
        lengths.map(|length| length.next_multiple_of(4)).sum()
    }

    /// The attributes of the set behind its name and number.
    pub(super) fn describe(self, m: &mut Request<'_>) {
        let fields = self.fields();
        let key_type = fields
            .iter()
            .fold(0, |all, (kind, _)| all << TYPE_BITS | kind);
        m.be32(set::FLAGS, self.flags());
        m.be32(set::KEY_TYPE, key_type);
        m.be32(set::KEY_LEN, self.key_len());
        if self.map {
            m.be32(set::DATA_TYPE, set::VERDICT);
            m.be32(set::DATA_LEN, 0);
        }
        if self.flags() & set::CONCAT != 0 {
            m.nest(set::DESC, &[], |d| {
                d.nest(set::DESC_CONCAT, &[], |c| {
                    for (_, length) in fields {
                        c.nest(LIST_ELEMENT, &[], |f| f.be32(set::FIELD_LEN, length));
                    }
                });
            });
        }
        m.bytes(set::USERDATA, &KEY_IN_NETWORK_ORDER);
    }
}

/// Userdata by which `nft` knows the byte order of keys: tag, length, `BYTEORDER_BIG_ENDIAN`.
pub(super) const KEY_IN_NETWORK_ORDER: [u8; 6] = [0, 4, 2, 0, 0, 0];

fn key(entry: &Entry, address: IpAddr) -> Vec<u8> {
    let (bytes, length) = ip_bytes(address);
    let address = &bytes[..length];
    match entry {
        Entry::Net(_) => address.to_vec(),
        Entry::NetIface(_, ifname) => {
            let mut key = ifname.as_str().as_bytes().to_vec();
            key.resize(IFNAME_LEN, 0);
            key.extend_from_slice(address);
            key
        }
        Entry::NetPort(_, protocol, port) => {
            let [high, low] = port.to_be_bytes();
            [address, &[*protocol, 0, 0, 0, high, low, 0, 0]].concat()
        }
    }
}

/// The last address of a network.
fn last(net: &IpNetwork) -> IpAddr {
    match net {
        IpNetwork::V4(v4) => IpAddr::V4(v4.broadcast()),
        IpNetwork::V6(v6) => IpAddr::V6(v6.broadcast()),
    }
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => Some(IpAddr::V4(u32::from(v4).checked_add(1)?.into())),
        IpAddr::V6(v6) => Some(IpAddr::V6(u128::from(v6).checked_add(1)?.into())),
    }
}

pub(super) fn nested_key(m: &mut Request<'_>, kind: u16, key: &[u8]) {
    m.nest(kind, &[], |d| d.bytes(DATA_VALUE, key));
}

/// Writes an entry; `goto` is where a map leads to.
pub(super) fn write(m: &mut Request<'_>, shape: Shape, entry: &Entry, goto: Option<&str>) {
    let net = entry.net();
    let first = key(entry, net.network());
    m.nest(LIST_ELEMENT, &[], |e| {
        nested_key(e, elements::KEY, &first);
        if matches!(shape, Shape::Services | Shape::WorkloadNets) {
            nested_key(e, elements::KEY_END, &key(entry, last(&net)));
        }
        if let Some(chain) = goto {
            e.nest(elements::DATA, &[], |d| {
                d.nest(DATA_VERDICT, &[], |v| {
                    v.be32(VERDICT_CODE, NFT_GOTO as u32);
                    v.string(VERDICT_CHAIN, chain);
                });
            });
        }
    });
    // A tree holds where intervals end as elements of their own, but for the end of the whole space.
    if shape == Shape::Nets
        && let Some(end) = successor(last(&net))
    {
        write_end(m, &key(entry, end));
    }
}

pub(super) fn write_end(m: &mut Request<'_>, key: &[u8]) {
    m.nest(LIST_ELEMENT, &[], |e| {
        nested_key(e, elements::KEY, key);
        e.be32(elements::FLAGS, elements::INTERVAL_END);
    });
}

/// An element as read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Raw {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    is_end: bool,
    /// The chain that a map leads to.
    goto: Option<String>,
}

impl Raw {
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Not in the set any more, but the first behind an interval.
    pub(super) const fn is_end(&self) -> bool {
        self.is_end
    }

    pub(super) fn parse(element: &[u8]) -> Option<Self> {
        let attributes = Attributes::nested(element);
        let value = |kind: u16| {
            let data = attributes.find(kind)?;
            Attributes::nested(data).find(DATA_VALUE)
        };
        let flags = attributes.find(elements::FLAGS).and_then(be32_from);
        let verdict = attributes
            .find(elements::DATA)
            .and_then(|data| Attributes::nested(data).find(DATA_VERDICT));
        let goto = verdict.and_then(|verdict| {
            let verdict = Attributes::nested(verdict);
            let code = verdict.find(VERDICT_CODE).and_then(be32_from)?;
            let chain = verdict.find(VERDICT_CHAIN).map(string_from)?;
            (code as i32 == NFT_GOTO).then_some(chain)
        });
        Some(Self {
            key: value(elements::KEY)?.to_vec(),
            key_end: value(elements::KEY_END).map(<[u8]>::to_vec),
            is_end: flags.unwrap_or(0) & elements::INTERVAL_END != 0,
            goto,
        })
    }
}

pub(super) fn be32_from(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

/// What a set was found to hold. `None` when something in it is no entry of ours, such as an interval
/// that is no network.
pub(super) fn read(kind: Kind, found: &[Raw]) -> Option<Vec<(Entry, Option<String>)>> {
    match kind.shape {
        Shape::Nets => return intervals(kind.family, found),
        Shape::Hosts => {
            let hosts = found.iter().map(|raw| ip_from(&raw.key));
            return hosts
                .map(|ip| Some((Entry::Net(ip?.into()), None)))
                .collect();
        }
        Shape::Services | Shape::Workloads | Shape::WorkloadNets => {}
    }
    let entry = |raw: &Raw| {
        let end = raw.key_end.as_ref().unwrap_or(&raw.key);
        let (first, rest) = parse_key(kind, &raw.key)?;
        let (last, rest_end) = parse_key(kind, end)?;
        let net = network(first, last).filter(|_| rest == rest_end)?;
        let entry = match rest {
            Rest::Service(protocol, port) => Entry::NetPort(net, protocol, port),
            Rest::Interface(ifname) => Entry::NetIface(net, ifname),
        };
        Some((entry, raw.goto.clone()))
    };
    found.iter().map(entry).collect()
}

#[derive(PartialEq, Eq)]
enum Rest {
    Service(u8, u16),
    Interface(IfName),
}

fn parse_key(kind: Kind, key: &[u8]) -> Option<(IpAddr, Rest)> {
    let length = if kind.family == Family::V4 { 4 } else { 16 };
    match kind.shape {
        Shape::Hosts | Shape::Nets => None,
        Shape::Services => {
            let rest = key.get(length..)?;
            let port = u16::from_be_bytes([*rest.get(4)?, *rest.get(5)?]);
            let rest = Rest::Service(*rest.first()?, port);
            Some((ip_from(key.get(..length)?)?, rest))
        }
        Shape::Workloads | Shape::WorkloadNets => {
            let name = IfName::new(&string_from(key.get(..IFNAME_LEN)?))?;
            let address = ip_from(key.get(IFNAME_LEN..IFNAME_LEN + length)?)?;
            Some((address, Rest::Interface(name)))
        }
    }
}

/// A tree is read as starts and ends in no particular order.
fn intervals(family: Family, found: &[Raw]) -> Option<Vec<(Entry, Option<String>)>> {
    // What ends at an address comes before what starts there.
    let mut points: Vec<(IpAddr, bool)> = Vec::with_capacity(found.len());
    for raw in found {
        points.push((ip_from(&raw.key)?, !raw.is_end));
    }
    points.sort_unstable();
    let mut entries = Vec::new();
    let mut open: Option<IpAddr> = None;
    for (address, is_start) in points {
        if let Some(first) = open.take() {
            entries.push(Entry::Net(network(first, predecessor(address)?)?));
        }
        if is_start {
            open = Some(address);
        }
    }
    if let Some(first) = open {
        let end = match family {
            Family::V4 => IpAddr::from([0xffu8; 4]),
            Family::V6 => IpAddr::from([0xffu8; 16]),
        };
        entries.push(Entry::Net(network(first, end)?));
    }
    Some(entries.into_iter().map(|entry| (entry, None)).collect())
}

fn predecessor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => Some(IpAddr::V4(u32::from(v4).checked_sub(1)?.into())),
        IpAddr::V6(v6) => Some(IpAddr::V6(u128::from(v6).checked_sub(1)?.into())),
    }
}

/// The network that has just these ends.
fn network(first: IpAddr, end: IpAddr) -> Option<IpNetwork> {
    let differing = match (first, end) {
        (IpAddr::V4(a), IpAddr::V4(b)) => 32 - (u32::from(a) ^ u32::from(b)).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => 128 - (u128::from(a) ^ u128::from(b)).leading_zeros(),
        _ => return None,
    };
    let width = if first.is_ipv4() { 32 } else { 128 };
    let net = IpNetwork::new(first, (width - differing) as u8).ok()?;
    (net.network() == first && last(&net) == end).then_some(net)
}
