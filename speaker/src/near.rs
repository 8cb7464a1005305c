//! What listeners take of peers that may only be so far away (RFC 5082).
//!
//! An accepted connection has its own lowest TTL once we have seen whose it is. What came before that, up to a whole
//! session from OPEN to routes, is kept out by a filter on the listener, which knows the peers by address.

use std::{collections::BTreeMap, net::IpAddr};

use libc::sock_filter;
use margay_bgp::prefix::Prefix;

/// The lowest TTL of packets from peers; zero for those of which any will do.
pub(crate) type LowestTtls = BTreeMap<Prefix, u8>;

/// Where the kernel has the network header of a packet (`SKF_NET_OFF` of linux/filter.h).
const NETWORK_HEADER: u32 = -0x10_0000_i32 as u32;
/// The most instructions of a filter (`BPF_MAXINSNS`).
const MOST: usize = 4096;

const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const TAKE: u32 = u32::MAX;
const DROP: u32 = 0;

/// The instructions for a listener of one family, none if it takes everything. The longest prefix counts. `None` if
/// there are too many peers for a filter.
pub(crate) fn filter(lowest: &LowestTtls, v4: bool) -> Option<Vec<sock_filter>> {
    let of_family = lowest.iter().filter(|(at, _)| at.addr().is_ipv4() == v4);
    let mut rules: Vec<(Prefix, u8)> = of_family.map(|(at, ttl)| (*at, *ttl)).collect();
    let bounded: Vec<Prefix> = rules.iter().filter(|r| r.1 > 0).map(|r| r.0).collect();
    // What is in none of the bounded ones passes in the end.
    rules.retain(|(at, ttl)| *ttl > 0 || bounded.iter().any(|b| b.contains_addr(at.addr())));
    rules.sort_by_key(|(at, _)| std::cmp::Reverse(at.len()));
    if bounded.is_empty() {
        return Some(Vec::new());
    }
    let mut program = Vec::new();
    for (at, ttl) in rules {
        program.extend(rule(at, ttl));
    }
    program.push(step(RETURN, TAKE));
    (program.len() <= MOST).then_some(program)
}

/// Decides about packets from these addresses, and leaves others to what follows.
fn rule(at: Prefix, lowest: u8) -> Vec<sock_filter> {
    let (source, ttl, words) = match at.addr() {
        IpAddr::V4(addr) => (12, 8, vec![addr.to_bits()]),
        IpAddr::V6(addr) => {
            let bits = addr.to_bits();
            let words = [96, 64, 32, 0].map(|shift| (bits >> shift) as u32);
            (8, 7, words.to_vec())
        }
    };
    let verdict = [
        step(LOAD_BYTE, NETWORK_HEADER.wrapping_add(ttl)),
        sock_filter {
            jf: 1,
            ..step(IF_AT_LEAST, lowest.into())
        },
        step(RETURN, TAKE),
        step(RETURN, DROP),
    ];
    let mut steps: Vec<sock_filter> = verdict.to_vec();
    // From the last word to the first, so that the way past all of them is known.
    for (place, word) in words.iter().enumerate().rev() {
        let bits = u32::from(at.len())
            .saturating_sub(32 * place as u32)
            .min(32);
        let Some(mask) = u32::MAX.checked_shl(32 - bits).filter(|mask| *mask > 0) else {
            continue;
        };
        let offset = source + 4 * place as u32;
        let matches = [
            step(LOAD_WORD, NETWORK_HEADER.wrapping_add(offset)),
            step(AND, mask),
            sock_filter {
                jf: steps.len() as u8,
                ..step(IF_EQUAL, word & mask)
            },
        ];
        steps.splice(0..0, matches);
    }
    steps
}

const fn step(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, TcpStream},
        time::Duration,
    };

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::socket;

    fn lowest(rules: &[(&str, u8)]) -> LowestTtls {
        let rules = rules.iter().map(|(at, ttl)| (at.parse().unwrap(), *ttl));
        rules.collect()
    }

    #[test]
    fn without_bounds_there_is_no_filter_and_with_too_many_peers_there_is_none_either() {
        assert!(
            filter(&lowest(&[("192.0.2.1/32", 0)]), true)
                .unwrap()
                .is_empty()
        );
        assert!(
            filter(&lowest(&[("2001:db8::/64", 255)]), true)
                .unwrap()
                .is_empty()
        );
        let many = |count: u32| -> LowestTtls {
            let hosts = (0..count).map(|n| (Prefix::host(std::net::Ipv4Addr::from(n).into()), 255));
            hosts.collect()
        };
        assert!(filter(&many(585), true).is_some());
        assert!(filter(&many(586), true).is_none());
    }

    #[test]
    fn rfc5082_who_is_too_far_away_is_not_even_connected() {
        let rules = [
            ("127.0.1.0/24", 254),
            ("127.0.1.2/32", 0),
            ("127.0.1.3/32", 255),
            ("0.0.0.0/0", 1),
            ("::1/128", 255),
        ];
        for (from, ttl, passes) in [
            ("127.0.1.1", 255, true),
            ("127.0.1.1", 254, true),
            ("127.0.1.1", 253, false),
            ("127.0.1.2", 3, true),
            ("127.0.1.3", 254, false),
            ("127.0.2.1", 3, true),
            ("::1", 255, true),
            ("::1", 254, false),
        ] {
            let from: IpAddr = from.parse().unwrap();
            let listener = socket::listener(SocketAddr::new(from, 0)).unwrap();
            socket::take_only(&listener, &filter(&lowest(&rules), from.is_ipv4()).unwrap())
                .unwrap();
            let to = listener.local_addr().unwrap();
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            match from {
                IpAddr::V4(_) => socket.set_ttl_v4(ttl).unwrap(),
                IpAddr::V6(_) => socket.set_unicast_hops_v6(ttl).unwrap(),
            }
            socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
            let wait = Duration::from_millis(if passes { 5000 } else { 200 });
            let connected = socket.connect_timeout(&to.into(), wait);
            assert_eq!(
                connected.is_ok(),
                passes,
                "{from} with {ttl}: {connected:?}"
            );
            socket::take_only(&listener, &[]).unwrap();
            assert!(TcpStream::connect(to).is_ok(), "the filter is gone");
        }
    }
}
