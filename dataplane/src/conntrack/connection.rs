//! Connections read one by one, and marked.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{
    CT_GET, CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT, CTA_PROTO_NUM, CTA_TUPLE_IP,
    CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_TUPLE_REPLY, NFGENMSG_LEN, Name, name,
};
use crate::netlink::{Attributes, Batch, NetlinkError, Request, Socket, family_of, ip_from};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_NEW`, which also changes what is there.
const CT_NEW: u16 = 0x0100;
const CTA_MARK: u16 = 8;
const CTA_TUPLE_MASTER: u16 = 14;
const CTA_MARK_MASK: u16 = 21;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_FLAG(CTA_IP_SRC)`.
const BY_SOURCE: u32 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;

/// The kernel looks through its whole table for each address and each end that it is asked for. Handing all of it over
/// costs as much as some ten looks.
const FEW: usize = 4;
const MARK_BATCH: usize = 256;

/// A connection as policy sees the packet that opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    name: Name,
    /// Who began it, before its source was translated.
    pub source: IpAddr,
    /// Who answers, after the destination was translated.
    pub destination: IpAddr,
    /// Whom it was addressed to, and at which port, before the destination was translated.
    pub asked: (IpAddr, u16),
    /// IP protocol number.
    pub protocol: u8,
    /// Ports of source and destination; 0 for protocols without.
    pub ports: (u16, u16),
    /// Type and code of ICMP or ICMPv6.
    pub icmp: Option<(u8, u8)>,
    /// Whether it belongs to another one, such as the data of FTP, and passes because that does.
    pub is_expected: bool,
    /// Its mark.
    pub mark: u32,
}

/// Addresses at either end of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Single ones.
    pub addresses: HashSet<IpAddr>,
    /// All in these networks.
    pub nets: Vec<IpNetwork>,
}

impl Ends {
    fn has(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip) || self.nets.iter().any(|net| net.contains(ip))
    }

    fn families(&self) -> HashSet<u8> {
        let nets = self.nets.iter().map(|net| family_of(net.ip()));
        let addresses = self.addresses.iter().map(|ip| family_of(*ip));
        addresses.chain(nets).collect()
    }
}

/// Connections that have one of these at either end; one that has two may come twice. A few addresses are looked for by
/// the kernel; for more, everything that it knows is read: 100 ms for 100,000 connections.
pub fn connections(ends: &Ends) -> Result<Vec<Connection>, NetlinkError> {
    let mut socket = Socket::netfilter()?;
    let mut found = Vec::new();
    let read = |_, message: &[u8]| {
        let connection = Connection::read(Attributes::after(message, NFGENMSG_LEN))?;
        let is_of = ends.has(connection.source) || ends.has(connection.destination);
        is_of.then_some(connection)
    };
    if ends.nets.is_empty() && ends.addresses.len() <= FEW {
        for ip in &ends.addresses {
            // Whoever answers is the source of the answers.
            for tuple in [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY] {
                let filter = |m: &mut Request<'_>| by_source(m, tuple, *ip);
                let header = [family_of(*ip), 0, 0, 0];
                found.extend(socket.dump(CT_GET, &header, filter, read)?);
            }
        }
        return Ok(found);
    }
    for family in ends.families() {
        found.extend(socket.dump(CT_GET, &[family, 0, 0, 0], |_| {}, read)?);
    }
    Ok(found)
}

/// Sets this bit of the marks of connections, or clears it. One that is gone is none to speak of. Where the kernel refuses
/// one, the others are marked all the same, and the first refusal is told.
pub fn mark(connections: &[(Connection, bool)], bit: u32) -> Result<(), NetlinkError> {
    let mut socket = Socket::netfilter()?;
    let mut refused = None;
    for some in connections.chunks(MARK_BATCH) {
        let mut batch = Batch::new();
        for (connection, set) in some {
            let header = [family_of(connection.source), 0, 0, 0];
            batch.push(CT_NEW, 0, &header, |m| {
                for (kind, value) in &connection.name {
                    m.bytes(*kind, value);
                }
                let mark = if *set { bit } else { 0 };
                m.bytes(CTA_MARK, &mark.to_be_bytes());
                m.bytes(CTA_MARK_MASK, &bit.to_be_bytes());
            });
        }
        let mut errors = socket.transact(&mut batch)?.errors.into_iter();
        let first = errors.find(|(_, error)| !error.is_missing());
        refused = refused.or(first);
    }
    refused.map_or(Ok(()), |(_, error)| Err(error.into()))
}

/// Older kernels know no filter, and give everything.
fn by_source(m: &mut Request<'_>, tuple: u16, ip: IpAddr) {
    let source = match ip {
        IpAddr::V4(_) => CTA_IP_V4_SRC,
        IpAddr::V6(_) => CTA_IP_V6_SRC,
    };
    m.nest(tuple, &[], |m| {
        m.nest(CTA_TUPLE_IP, &[], |m| m.ip(source, ip))
    });
    let (orig, reply) = match tuple {
        CTA_TUPLE_ORIG => (BY_SOURCE, 0),
        _ => (0, BY_SOURCE),
    };
    m.nest(CTA_FILTER, &[], |m| {
        m.u32(CTA_FILTER_ORIG_FLAGS, orig);
        m.u32(CTA_FILTER_REPLY_FLAGS, reply);
    });
}

impl Connection {
    fn read(attributes: Attributes<'_>) -> Option<Self> {
        let tuple = |kind| Some(Attributes::nested(attributes.find(kind)?));
        let (there, back) = (tuple(CTA_TUPLE_ORIG)?, tuple(CTA_TUPLE_REPLY)?);
        let source = |tuple: Attributes<'_>| {
            let ip = Attributes::nested(tuple.find(CTA_TUPLE_IP)?);
            ip_from(ip.find(CTA_IP_V4_SRC).or_else(|| ip.find(CTA_IP_V6_SRC))?)
        };
        let first = Attributes::nested(there.find(CTA_TUPLE_PROTO)?);
        let answer = Attributes::nested(back.find(CTA_TUPLE_PROTO)?);
        let byte = |kind| Some(*first.find(kind)?.first()?);
        let port = |of: Attributes<'_>, kind| {
            let port = of.find(kind).and_then(|port| port.try_into().ok());
            port.map_or(0, u16::from_be_bytes)
        };
        let source_port = |of: Attributes<'_>| port(of, CTA_PROTO_SRC_PORT);
        let ips = Attributes::nested(there.find(CTA_TUPLE_IP)?);
        let asked = ips.find(CTA_IP_V4_DST).or_else(|| ips.find(CTA_IP_V6_DST));
        let kind = byte(CTA_PROTO_ICMP_TYPE).or_else(|| byte(CTA_PROTO_ICMPV6_TYPE));
        let code = byte(CTA_PROTO_ICMP_CODE).or_else(|| byte(CTA_PROTO_ICMPV6_CODE));
        let mark = attributes
            .find(CTA_MARK)
            .and_then(|mark| mark.try_into().ok());
        Some(Self {
            source: source(there)?,
            destination: source(back)?,
            asked: (ip_from(asked?)?, port(first, CTA_PROTO_DST_PORT)),
            protocol: *first.find(CTA_PROTO_NUM)?.first()?,
            ports: (source_port(first), source_port(answer)),
            icmp: kind.zip(code),
            is_expected: attributes.find(CTA_TUPLE_MASTER).is_some(),
            mark: mark.map_or(0, u32::from_be_bytes),
            name: name(attributes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{self, FAULTS, Fault};
    use crate::lab::NetNs;

    const BIT: u32 = 0x8000_0000;

    fn lab() -> NetNs {
        let ns = NetNs::new();
        for line in [
            "-p tcp -s 10.65.0.1 -d 10.65.0.2 --sport 1000 --dport 80 --state ESTABLISHED --mark 5",
            "-p udp -s 10.65.0.3 -d 10.65.0.1 --sport 53 --dport 54",
            "-p tcp -s 10.65.0.4 -d 192.0.2.9 --sport 1 --dport 2 --state ESTABLISHED --dst-nat 10.65.0.1:99",
            "-p icmp -s 10.65.0.1 -d 10.65.0.9 --icmp-type 8 --icmp-code 0 --icmp-id 7",
            "-p tcp -s 10.65.0.5 -d 10.65.0.6 --sport 1000 --dport 80 --state ESTABLISHED",
            "-p tcp -s fd00:65::1 -d fd00:65::2 --sport 1 --dport 2 --state ESTABLISHED",
        ] {
            let (made, output) = ns.command(&format!("conntrack -I --timeout 100 {line}"));
            assert!(made, "{output}");
        }
        ns
    }

    fn ends(addresses: &[&str], nets: &[&str]) -> Ends {
        Ends {
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            nets: nets.iter().map(|net| net.parse().unwrap()).collect(),
        }
    }

    /// As text, each once and in order.
    fn told(found: &[Connection]) -> Vec<String> {
        let one = |c: &Connection| {
            let Connection {
                source,
                destination,
                protocol,
                asked,
                ports,
                icmp,
                mark,
                ..
            } = c;
            let asked = match asked {
                (ip, port) if (ip, port) == (destination, &ports.1) => String::new(),
                (ip, port) => format!(" asked {ip} {port}"),
            };
            format!("{source} {destination} {protocol} {ports:?} {icmp:?} {mark:x}{asked}")
        };
        let all: std::collections::BTreeSet<String> = found.iter().map(one).collect();
        all.into_iter().collect()
    }

    #[test]
    fn connections_are_found_by_either_end_as_policy_sees_them() {
        lab().run(|| {
            let expected = [
                "10.65.0.1 10.65.0.2 6 (1000, 80) None 5",
                "10.65.0.1 10.65.0.9 1 (0, 0) Some((8, 0)) 0",
                "10.65.0.3 10.65.0.1 17 (53, 54) None 0",
                "10.65.0.4 10.65.0.1 6 (1, 99) None 0 asked 192.0.2.9 2",
            ];
            let few = connections(&ends(&["10.65.0.1"], &[])).unwrap();
            assert_eq!(told(&few), expected);
            let in_net = connections(&ends(&[], &["10.65.0.0/31"])).unwrap();
            assert_eq!(told(&in_net), expected);
            let many: Vec<String> = (10..100).map(|n| format!("10.65.0.{n}")).collect();
            let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
            assert_eq!(told(&connections(&ends(&many, &[])).unwrap()), [""; 0]);
            many.extend(["10.65.0.1", "fd00:65::2"]);
            let many = connections(&ends(&many, &[])).unwrap();
            assert_eq!(told(&many).len(), 5);
            let v6 = connections(&ends(&["fd00:65::2"], &[])).unwrap();
            assert_eq!(told(&v6), ["fd00:65::1 fd00:65::2 6 (1, 2) None 0"]);
        });
    }

    #[test]
    fn one_bit_of_the_mark_changes_and_what_is_gone_does_not_matter() {
        let ns = lab();
        let all = ends(&[], &["10.65.0.0/24", "fd00::/16"]);
        let marks = || {
            let found = ns.run(|| connections(&all).unwrap());
            found.into_iter().map(|c| (c.source.to_string(), c.mark))
        };
        let found = ns.run(|| connections(&all).unwrap());
        let is_first = |c: &Connection| c.ports == (1000, 80) && c.mark == 5;
        let is_v6 = |c: &Connection| c.source.is_ipv6();
        let chosen = found.into_iter().filter(|c| is_first(c) || is_v6(c));
        let chosen: Vec<_> = chosen.map(|c| (c, true)).collect();
        ns.run(|| mark(&chosen, BIT).unwrap());
        let marked: Vec<_> = marks().filter(|(_, mark)| mark & BIT != 0).collect();
        assert_eq!(marked.len(), 2, "{marked:?}");
        assert!(marked.contains(&("10.65.0.1".to_owned(), BIT | 5)));
        let (gone, output) = ns.command("conntrack -D -s 10.65.0.1 -p tcp");
        assert!(gone, "{output}");
        let back: Vec<_> = chosen.into_iter().map(|(c, _)| (c, false)).collect();
        ns.run(|| mark(&back, BIT).unwrap());
        assert!(marks().all(|(_, mark)| mark & BIT == 0));
    }

    #[test]
    fn a_refused_mark_is_told_and_keeps_no_other_from_being_set() {
        lab().run(|| {
            let found = || connections(&ends(&[], &["10.65.0.0/29"])).unwrap();
            let marked = || found().iter().filter(|c| c.mark & BIT != 0).count();
            let set = |to: bool| -> Vec<_> { found().into_iter().map(|c| (c, to)).collect() };
            let all = found().len();
            for fault in FAULTS {
                for place in 0..all {
                    let wrong = set(true);
                    faults::plan(place, fault);
                    let told = mark(&wrong, BIT).unwrap_err();
                    assert!(faults::struck(), "{fault:?} at {place}");
                    let expected = match fault {
                        Fault::Refused(_) => all - 1,
                        Fault::LostUndone => 0,
                        Fault::LostDone => all,
                    };
                    assert_eq!(marked(), expected, "{fault:?} at {place}: {told}");
                    mark(&set(true), BIT).unwrap();
                    assert_eq!(marked(), all);
                    mark(&set(false), BIT).unwrap();
                    assert_eq!(marked(), 0);
                }
            }
        });
    }
}
