//! A peer that says all of its routes once more, on the wire. Routers withdraw what they leave out, so that none of
//! them shows what becomes of a route that is neither repeated nor withdrawn.

use anyhow::Result;
use bytes::BytesMut;
use margay_bgp::prefix::Prefix;

use crate::{limits::speaker, raw::prefix};

/// More than are marked, or dropped, at a time.
const ROUTES: u32 = 10_000;
/// Octets of an End-of-RIB.
const END: usize = 23;

/// ROUTE-REFRESH for IPv4 unicast with this subtype (RFC 7313, section 3.2).
fn refresh(subtype: u8) -> [u8; 23] {
    let mut message = [0xff; 23];
    message[16..].copy_from_slice(&[0, 23, 5, 0, 1, subtype, 1]);
    message
}

#[test]
fn rfc7313_4_what_a_peer_neither_repeats_nor_withdraws_is_gone_for_everyone() -> Result<()> {
    let ours = speaker(&[2, 3, 4])?;
    let (mut feeder, mut other, mut reader) = (ours.peer(2)?, ours.peer(3)?, ours.peer(4)?);
    let others = ROUTES..ROUTES + 100;
    feeder.send(&feeder.announcement(0..ROUTES, 1)?)?;
    other.send(&other.announcement(others.clone(), 1)?)?;
    let all: Vec<Prefix> = (0..others.end).filter_map(prefix).map(Prefix::V4).collect();
    reader.hears("all of it", |told| told.keys().eq(&all))?;

    // Some as before, some otherwise, one that is new; the rest not at all.
    let mut again = BytesMut::from(&refresh(1)[..]);
    for (which, med) in [(0..500, 1), (7000..7200, 2), (20_000..20_001, 1)] {
        let said = feeder.announcement(which, med)?;
        // The end of the table comes but once.
        again.extend_from_slice(&said[..said.len() - END]);
    }
    again.extend_from_slice(&refresh(2));
    feeder.send(&again)?;
    let left = (0..500)
        .chain(7000..7200)
        .chain(others)
        .chain(20_000..20_001);
    let left: Vec<Prefix> = left.filter_map(prefix).map(Prefix::V4).collect();
    reader.hears("what was repeated, and nothing else", |told| {
        told.keys().eq(&left)
    })?;
    Ok(())
}
