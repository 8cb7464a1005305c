//! Routes as a peer sends them: distinct attribute sets with eight prefixes each on average.

use std::net::Ipv4Addr;

use bytes::{Bytes, BytesMut};
use margay_bgp::{
    prefix::Ipv4Prefix,
    wire::{
        AsPath, MAX_LEN, Origin, PathAttrs, header,
        update_encode::{announce_v4, withdraw_v4},
    },
};

/// A cheap deterministic stream of numbers.
fn mix(n: u32) -> u32 {
    let n = u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (n >> 29) as u32
}

/// The attributes of set `set` from a peer in AS `asn`.
pub(crate) fn attrs(asn: u32, set: u32) -> PathAttrs {
    let mut path = vec![asn];
    path.extend((0..2 + mix(set) % 4).map(|hop| 1 + mix(set * 8 + hop) % 70_000));
    PathAttrs {
        origin: Origin::Igp,
        as_path: AsPath::sequence(&path),
        next_hop: Some(Ipv4Addr::from(0xc000_0200 + asn % 250)),
        med: set.is_multiple_of(5).then_some(mix(set) % 100),
        communities: (0..mix(set) % 5)
            .map(|c| (asn << 16) | (mix(set + c) % 999))
            .collect(),
        ..PathAttrs::default()
    }
}

/// The same as octets.
pub(crate) fn octets(attrs: &PathAttrs) -> BytesMut {
    let mut encoded = BytesMut::new();
    attrs.encode(true, &mut encoded);
    encoded
}

/// Up to 2^24 prefixes, spread over the address space, each once: an odd factor permutes 24 bits.
pub(crate) fn prefix(n: u32) -> Option<Ipv4Prefix> {
    Ipv4Prefix::new((n.wrapping_mul(7_919) & 0x00ff_ffff) << 8, 24)
}

/// UPDATE bodies that announce `routes` prefixes from a peer in AS `asn`, up to 15 in a message.
pub(crate) fn announcements(asn: u32, routes: u32) -> Vec<Bytes> {
    packed(asn, routes, |set| 1 + mix(set) % 15)
}

/// The same with `size_of` prefixes for each attribute set.
pub(crate) fn packed(asn: u32, routes: u32, size_of: impl Fn(u32) -> u32) -> Vec<Bytes> {
    let mut out = BytesMut::new();
    let mut next = 0;
    let mut set = 0;
    while next < routes {
        set += 1;
        let size = size_of(set).min(routes - next);
        let list: Vec<_> = (next..next + size).filter_map(prefix).collect();
        announce_v4(&octets(&attrs(asn, set)), list, MAX_LEN, &mut out).expect("short attributes");
        next += size;
    }
    bodies(out)
}

/// UPDATE bodies that withdraw as many.
pub(crate) fn withdrawals(routes: u32) -> Vec<Bytes> {
    let mut out = BytesMut::new();
    withdraw_v4((0..routes).filter_map(prefix), MAX_LEN, &mut out);
    bodies(out)
}

fn bodies(mut out: BytesMut) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    while let Ok(Some(message)) = header::frame(&mut out, false) {
        bodies.push(message.body);
    }
    bodies
}
