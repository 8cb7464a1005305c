//! Neighbour entries (ARP, NDP).

use std::collections::HashSet;
use std::net::IpAddr;

use crate::netlink::{
    Attributes, Batch, NetlinkError, Socket, family_of, ip_from, ndmsg, u32_from,
};

const NDMSG_LEN: usize = 12;

/// Forgets what the host learned about these addresses, on every interface: they moved, or have a new owner. Returns
/// how many entries there were. Permanent entries stay.
pub fn flush(socket: &mut Socket, addresses: &HashSet<IpAddr>) -> Result<usize, NetlinkError> {
    let mut batch = Batch::new();
    let families: HashSet<u8> = addresses.iter().map(|ip| family_of(*ip)).collect();
    for family in families {
        let read = |_, message: &[u8]| learned(message).filter(|(_, ip)| addresses.contains(ip));
        let header = ndmsg(family, 0, 0);
        // A dump takes no kind.
        let header = [&header[..11], &[0]].concat();
        for (index, ip) in socket.dump(libc::RTM_GETNEIGH, &header, |_| {}, read)? {
            batch.push(libc::RTM_DELNEIGH, 0, &ndmsg(family, index, 0), |m| {
                m.ip(libc::NDA_DST, ip);
            });
        }
    }
    let outcome = socket.transact(&mut batch)?;
    match outcome.errors.into_iter().find(|(_, e)| !e.is_missing()) {
        Some((_, error)) => Err(error.into()),
        None => Ok(batch.len()),
    }
}

fn learned(message: &[u8]) -> Option<(u32, IpAddr)> {
    let state = u16::from_ne_bytes(message.get(8..10)?.try_into().ok()?);
    if state & (libc::NUD_PERMANENT | libc::NUD_NOARP) != 0 {
        return None;
    }
    let ip = Attributes::after(message, NDMSG_LEN)
        .find(libc::NDA_DST)
        .and_then(ip_from)?;
    Some((u32_from(message.get(4..)?)?, ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::NetNs;

    #[test]
    fn learned_entries_of_the_address_go_and_others_stay() {
        let ns = NetNs::new();
        ns.ip("link add mgy0 type veth peer name up0");
        ns.ip("link set up0 up");
        ns.ip("link set mgy0 up");
        for (ip, state) in [
            ("192.0.2.2", "reachable"),
            ("192.0.2.3", "reachable"),
            ("192.0.2.4", "permanent"),
            ("2001:db8::2", "stale"),
        ] {
            ns.ip(&format!(
                "neigh add {ip} lladdr 02:00:00:00:00:01 dev mgy0 nud {state}"
            ));
        }
        let wanted = ["192.0.2.2", "192.0.2.4", "2001:db8::2", "192.0.2.9"];
        let wanted: HashSet<IpAddr> = wanted.iter().map(|ip| ip.parse().unwrap()).collect();
        ns.run(|| {
            let mut socket = Socket::route().unwrap();
            assert_eq!(flush(&mut socket, &wanted).unwrap(), 2);
            assert_eq!(flush(&mut socket, &HashSet::new()).unwrap(), 0);
        });
        let left = ns.ip("neigh show dev mgy0") + &ns.ip("-6 neigh show dev mgy0");
        assert!(
            left.contains("192.0.2.3 ") && left.contains("192.0.2.4 "),
            "{left}"
        );
        assert!(
            !left.contains("192.0.2.2 lladdr") && !left.contains("2001:db8::2 lladdr"),
            "{left}"
        );
    }
}
