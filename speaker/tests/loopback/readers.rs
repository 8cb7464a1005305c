//! A peer that does not read: what waits for it has a bound, and nobody else waits.

use anyhow::{Result, ensure};
use margay_bgp::prefix::Prefix;
use margay_lab::eventually;

use crate::{
    limits::speaker,
    raw::{PATIENCE, RawPeer, prefix, withdrawal},
};

const ROUTES: u32 = 20_000;
/// What one group of peers may have waiting (the RIB's limit of 8 MiB and the last batch), and what is
/// in the queue of a link.
const BOUND: usize = 10 << 20;

#[test]
fn a_peer_that_does_not_read_delays_nobody_and_what_waits_for_it_has_a_bound() -> Result<()> {
    let ours = speaker(&[2, 3, 4])?;
    let mut feeder = ours.peer(2)?;
    let mut stuck =
        RawPeer::establish(crate::limits::host(3), ours.at, crate::limits::asn(3), true)?;
    let mut reader = ours.peer(4)?;
    let totals = || ours.runtime.block_on(ours.speaker.queries().totals());
    let count = usize::try_from(ROUTES)?;
    // Each round is 6 MB of messages: more in all than may wait.
    let mut waited = 0;
    for med in 0..4 {
        feeder.send(&feeder.bulky(0..ROUTES, med)?)?;
        reader.hears("every route of the round", |told| told.len() == count)?;
        waited = waited.max(totals()?.rib.egress_bytes);
        feeder.send(&withdrawal(0..ROUTES))?;
        reader.hears("every withdrawal of the round", |told| told.is_empty())?;
        waited = waited.max(totals()?.rib.egress_bytes);
    }
    ensure!(waited <= BOUND, "{waited} octets waited");
    ensure!(waited > 0, "nothing waited: the stuck peer was none");
    // It reads at last, and comes to hold what it would have held all along.
    let last = ROUTES..ROUTES + 100;
    feeder.send(&feeder.announcement(last.clone(), 1)?)?;
    let want: Vec<Prefix> = last.filter_map(prefix).map(Prefix::V4).collect();
    stuck.hears("the last state and nothing else", |told| {
        told.keys().eq(&want)
    })?;
    eventually(PATIENCE, "nothing waits any more", || {
        let waiting = totals()?.rib.egress_bytes;
        ensure!(waiting == 0, "{waiting} octets wait");
        Ok(())
    })
}

#[test]
fn peers_that_are_told_the_same_come_to_share_what_is_encoded_whenever_they_joined() -> Result<()> {
    let ours = speaker(&[2, 3, 4])?;
    let mut feeder = ours.peer(2)?;
    let mut reader = ours.peer(3)?;
    feeder.send(&feeder.announcement(0..100, 1)?)?;
    reader.hears("the table", |told| told.len() == 100)?;
    let mut late = ours.peer(4)?;
    late.hears("the table", |told| told.len() == 100)?;
    eventually(PATIENCE, "one group serves all", || {
        let totals = ours.runtime.block_on(ours.speaker.queries().totals())?;
        ensure!(totals.rib.groups == 1, "{} groups", totals.rib.groups);
        Ok(())
    })?;
    feeder.send(&withdrawal(0..50))?;
    late.hears("what is gone", |told| told.len() == 50)?;
    reader.hears("what is gone", |told| told.len() == 50)
}
