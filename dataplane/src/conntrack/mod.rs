//! Connections the kernel tracks.

mod connection;

use std::collections::HashSet;
use std::net::IpAddr;

use crate::netlink::{Attributes, Batch, NetlinkError, Socket, family_of, ip_from};

pub use connection::{Connection, Ends, connections, mark};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const CT_GET: u16 = 0x0101;
const CT_DELETE: u16 = 0x0102;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const NESTED: u16 = libc::NLA_F_NESTED as u16;
/// `struct nfgenmsg`.
const NFGENMSG_LEN: usize = 4;
const DELETE_BATCH: usize = 256;

/// What names a connection to the kernel: attributes of a dump, returned as they came.
type Name = Vec<(u16, Vec<u8>)>;

/// Forgets all connections from or to these addresses, before or after translation, so that the next owner of an
/// address does not inherit them. Returns how many there were. Walks the kernel's whole table once (1-2 ms and up):
/// collect addresses rather than call it for each, and keep it off the path of an ADD.
pub fn flush(addresses: &HashSet<IpAddr>) -> Result<usize, NetlinkError> {
    let families = addresses.iter().map(|ip| family_of(*ip)).collect();
    flush_where(families, |attributes| is_of(attributes, addresses))
}

/// Ports that packets of UDP were sent to, before translation, each at one address or at any.
pub type UdpPorts = HashSet<(Option<IpAddr>, u16)>;

/// Forgets what came in for these ports: as long as a flow is known, its packets go where the first one went. What it
/// costs is said at [`flush`].
pub fn flush_udp(ports: &UdpPorts) -> Result<usize, NetlinkError> {
    let both = [libc::AF_INET as u8, libc::AF_INET6 as u8];
    let families = both.into_iter().filter(|family| {
        let is_of = |ip: IpAddr| family_of(ip) == *family;
        ports.iter().any(|(ip, _)| ip.is_none_or(is_of))
    });
    flush_where(families.collect(), |attributes| is_to(attributes, ports))
}

fn flush_where(
    families: HashSet<u8>,
    concerned: impl Fn(Attributes<'_>) -> bool,
) -> Result<usize, NetlinkError> {
    let mut deleted = 0;
    if families.is_empty() {
        return Ok(0);
    }
    let mut socket = Socket::netfilter()?;
    for family in families {
        let header = [family, 0, 0, 0];
        let read = |_, message: &[u8]| {
            let attributes = Attributes::after(message, NFGENMSG_LEN);
            concerned(attributes).then(|| name(attributes))
        };
        let names = socket.dump(CT_GET, &header, |_| {}, read)?;
        for names in names.chunks(DELETE_BATCH) {
            let mut batch = Batch::new();
            for name in names {
                batch.push(CT_DELETE, 0, &header, |m| {
                    for (kind, value) in name {
                        m.bytes(*kind, value);
                    }
                });
            }
            let outcome = socket.transact(&mut batch)?;
            deleted += names.len() - outcome.errors.len();
            if let Some((_, error)) = outcome.errors.into_iter().find(|(_, e)| !e.is_missing()) {
                return Err(error.into());
            }
        }
    }
    Ok(deleted)
}

fn is_of(attributes: Attributes<'_>, addresses: &HashSet<IpAddr>) -> bool {
    attributes
        .filter(|(kind, _)| matches!(*kind, CTA_TUPLE_ORIG | CTA_TUPLE_REPLY))
        .filter_map(|(_, tuple)| Attributes::nested(tuple).find(CTA_TUPLE_IP))
        // Source and destination, in either family's numbering.
        .flat_map(Attributes::nested)
        .filter_map(|(_, ip)| ip_from(ip))
        .any(|ip| addresses.contains(&ip))
}

fn is_to(attributes: Attributes<'_>, ports: &UdpPorts) -> bool {
    let destination = || {
        let tuple = Attributes::nested(attributes.find(CTA_TUPLE_ORIG)?);
        let protocol = Attributes::nested(tuple.find(CTA_TUPLE_PROTO)?);
        if protocol.find(CTA_PROTO_NUM)? != [libc::IPPROTO_UDP as u8] {
            return None;
        }
        let port = protocol.find(CTA_PROTO_DST_PORT)?.try_into().ok()?;
        let ips = Attributes::nested(tuple.find(CTA_TUPLE_IP)?);
        let ip = ips.find(CTA_IP_V4_DST).or(ips.find(CTA_IP_V6_DST))?;
        Some((ip_from(ip), u16::from_be_bytes(port)))
    };
    destination()
        .is_some_and(|(ip, port)| ports.contains(&(ip, port)) || ports.contains(&(None, port)))
}

fn name(attributes: Attributes<'_>) -> Name {
    // The id keeps a new connection of the same addresses and ports out of it.
    let naming = attributes.filter(|(k, _)| matches!(*k, CTA_TUPLE_ORIG | CTA_ZONE | CTA_ID));
    naming
        .map(|(kind, value)| {
            let kind = if kind == CTA_TUPLE_ORIG {
                kind | NESTED
            } else {
                kind
            };
            (kind, value.to_vec())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::NetNs;

    #[test]
    fn connections_of_the_address_go_and_others_stay() {
        let ns = NetNs::new();
        for line in [
            "-p tcp -s 10.65.0.1 -d 10.65.0.2 --sport 1000 --dport 80 --state ESTABLISHED",
            "-p udp -s 10.65.0.3 -d 10.65.0.1 --sport 53 --dport 53",
            // Reached by translation: the address shows in the reply only.
            "-p tcp -s 10.65.0.4 -d 192.0.2.9 --sport 1 --dport 2 --state ESTABLISHED --dst-nat 10.65.0.1",
            "-p tcp -s 10.65.0.5 -d 10.65.0.6 --sport 1000 --dport 80 --state ESTABLISHED",
            "-p tcp -s fd00:65::1 -d fd00:65::2 --sport 1 --dport 2 --state ESTABLISHED",
            "-p tcp -s fd00:65::3 -d fd00:65::2 --sport 1 --dport 2 --state ESTABLISHED",
        ] {
            let (made, output) = ns.command(&format!("conntrack -I --timeout 100 {line}"));
            assert!(made, "{output}");
        }
        let addresses = ["10.65.0.1", "fd00:65::1", "10.65.0.99"];
        let addresses: HashSet<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        ns.run(|| {
            assert_eq!(flush(&addresses).unwrap(), 4);
            assert_eq!(flush(&addresses).unwrap(), 0);
            assert_eq!(flush(&HashSet::new()).unwrap(), 0);
        });
        let (_, v4) = ns.command("conntrack -L");
        assert!(
            v4.contains("src=10.65.0.5") && !v4.contains("10.65.0.1 "),
            "{v4}"
        );
        let (_, v6) = ns.command("conntrack -L -f ipv6");
        assert!(
            v6.contains("src=fd00:65::3") && !v6.contains("src=fd00:65::1"),
            "{v6}"
        );
    }
    #[test]
    fn flows_to_a_udp_port_go_and_its_neighbours_stay() {
        let ns = NetNs::new();
        for line in [
            "-p udp -s 10.65.0.3 -d 192.0.2.1 --sport 1 --dport 5353",
            "-p udp -s 10.65.0.3 -d 192.0.2.1 --sport 5353 --dport 1",
            "-p udp -s 10.65.0.3 -d 192.0.2.1 --sport 1 --dport 99",
            "-p udp -s 10.65.0.3 -d 192.0.2.2 --sport 1 --dport 99",
            "-p tcp -s 10.65.0.3 -d 192.0.2.1 --sport 1 --dport 5353 --state ESTABLISHED",
            "-p udp -s fd00::1 -d fd00::2 --sport 1 --dport 5353",
        ] {
            let (made, output) = ns.command(&format!("conntrack -I --timeout 100 {line}"));
            assert!(made, "{output}");
        }
        let one: UdpPorts = [(Some("192.0.2.2".parse().unwrap()), 99)].into();
        let any: UdpPorts = [(None, 5353)].into();
        ns.run(|| {
            assert_eq!(flush_udp(&one).unwrap(), 1);
            assert_eq!(flush_udp(&any).unwrap(), 2);
            assert_eq!(flush_udp(&UdpPorts::new()).unwrap(), 0);
        });
        let (_, left) = ns.command("conntrack -L");
        assert!(left.contains("dst=192.0.2.1 sport=1 dport=99"), "{left}");
        assert!(!left.contains("dst=192.0.2.2"), "{left}");
    }
}
