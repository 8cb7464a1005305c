//! Connections the kernel tracks.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::netlink::{Attributes, Batch, NetlinkError, Socket, family_of, ip_from};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const CT_GET: u16 = 0x0101;
const CT_DELETE: u16 = 0x0102;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
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
    let mut deleted = 0;
    let families: HashSet<u8> = addresses.iter().map(|ip| family_of(*ip)).collect();
    if families.is_empty() {
        return Ok(0);
    }
    let mut socket = Socket::netfilter()?;
    for family in families {
        let header = [family, 0, 0, 0];
        let read = |_, message: &[u8]| name_if_of(message, addresses);
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

fn name_if_of(message: &[u8], addresses: &HashSet<IpAddr>) -> Option<Name> {
    let attributes = Attributes::after(message, NFGENMSG_LEN);
    let concerned = attributes
        .filter(|(kind, _)| matches!(*kind, CTA_TUPLE_ORIG | CTA_TUPLE_REPLY))
        .filter_map(|(_, tuple)| Attributes::nested(tuple).find(CTA_TUPLE_IP))
        // Source and destination, in either family's numbering.
        .flat_map(Attributes::nested)
        .filter_map(|(_, ip)| ip_from(ip))
        .any(|ip| addresses.contains(&ip));
    concerned.then(|| {
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
    })
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
}
