//! What concerns a whole table, in portions.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::harness::{Receiver, announce, open_peer, session};
use crate::{
    policy::Filter,
    prefix::{Family, Ipv4Prefix, Prefix},
    rib::{
        Families, KeepStale, PeerId, PeerRestart, PeerRibConfig, Reachability, RefreshKind, Rib,
        RibConfig, SessionInfo, egress::Limits,
    },
    wire::{AsPath, AttrContext, PathAttrs, PeerKind},
};

const V4: Family = Family::Ipv4Unicast;
const PORTION: usize = 50;
const ROUTES: u32 = 1000;
const EBGP: AttrContext = AttrContext {
    four_octet_as: true,
    peer: PeerKind::Ebgp,
};

/// The `n`th of as many /24 as there are.
fn nth(n: u32) -> Prefix {
    Ipv4Prefix::new(n << 8, 24).unwrap().into()
}

fn tell(rib: &mut Rib, peer: PeerId, asn: u32, prefixes: impl Iterator<Item = u32>) {
    let list: Vec<Prefix> = prefixes.map(nth).collect();
    let attrs = PathAttrs {
        as_path: AsPath::sequence(&[asn]),
        ..PathAttrs::default()
    };
    announce(rib, peer, true, &attrs, &list, 50).unwrap();
}

/// A RIB of small portions, a peer that has sent `ROUTES` routes, and one that reads.
fn rib() -> (Rib, PeerId, PeerId, Instant) {
    let now = Instant::now();
    let mut rib = Rib::new(RibConfig::new(65000, Ipv4Addr::new(10, 0, 0, 99)));
    rib.limits = Limits {
        portion: PORTION,
        ..Limits::default()
    };
    let [feeder, reader] = [0, 1].map(|n| {
        let peer = rib.add_peer(open_peer(PeerKind::Ebgp)).unwrap();
        rib.peer_up(peer, session(n), now);
        peer
    });
    tell(&mut rib, feeder, 65001, 0..ROUTES);
    rib.settle();
    (rib, feeder, reader, now)
}

/// Works until nothing is left; in how many portions, none of which settles more than it may.
fn portions(rib: &mut Rib) -> usize {
    let mut done = 0;
    fib(rib);
    loop {
        let more = rib.work();
        done += 1;
        let told = fib(rib);
        assert!(told <= PORTION, "{told} prefixes at once");
        if !more {
            return done;
        }
    }
}

/// How many routes changed in the FIB.
fn fib(rib: &mut Rib) -> usize {
    let mut changes = Vec::new();
    rib.poll_fib(&mut changes);
    changes.len()
}

fn best(rib: &Rib) -> usize {
    rib.best(V4, 0..u32::MAX).count()
}

fn import(rib: &mut Rib, peer: PeerId, filter: Filter) {
    let import = Arc::new(filter);
    let config = PeerRibConfig {
        import,
        ..open_peer(PeerKind::Ebgp)
    };
    rib.update_peer(peer, config);
}

#[test]
fn a_peer_that_is_lost_goes_in_portions_and_what_another_says_meanwhile_counts() {
    let (mut rib, feeder, reader, now) = rib();
    let mut told = Receiver::default();
    told.drain(&mut rib, reader, &EBGP);
    assert_eq!(told.routes.len(), ROUTES as usize);
    rib.peer_down(feeder, None, now);
    assert!(rib.work());
    assert!(rib.prefix_count(feeder, V4) > 0);
    tell(&mut rib, reader, 65002, [3, 900].into_iter());
    assert!(portions(&mut rib) > 10);
    assert_eq!((rib.prefix_count(feeder, V4), best(&rib)), (0, 2));
    told.drain(&mut rib, reader, &EBGP);
    assert!(told.routes.is_empty(), "its own are not told back");
}

#[test]
fn a_peer_that_is_lost_while_it_is_filtered_anew_goes_in_portions_as_well() {
    let (mut rib, feeder, _, now) = rib();
    import(&mut rib, feeder, Filter::reject_all());
    rib.peer_down(feeder, None, now);
    let left = rib.prefix_count(feeder, V4) as usize;
    assert_eq!(left, ROUTES as usize - PORTION);
    portions(&mut rib);
    assert_eq!((rib.prefix_count(feeder, V4), best(&rib)), (0, 0));
}

#[test]
fn a_peer_that_is_back_before_its_routes_are_gone_has_what_it_says_now_and_no_more() {
    let (mut rib, feeder, _, now) = rib();
    rib.peer_down(feeder, None, now);
    assert!(rib.work());
    rib.peer_up(feeder, session(0), now);
    tell(&mut rib, feeder, 65001, 100..110);
    portions(&mut rib);
    assert_eq!((rib.prefix_count(feeder, V4), best(&rib)), (10, 10));
}

#[test]
fn a_peer_that_is_removed_goes_in_portions_and_its_id_with_the_last() {
    let (mut rib, feeder, reader, now) = rib();
    rib.remove_peer(feeder);
    assert!(rib.prefix_count(feeder, V4) > 0);
    let next = rib.add_peer(open_peer(PeerKind::Ebgp)).unwrap();
    assert_ne!(next, feeder);
    rib.peer_up(next, session(2), now);
    tell(&mut rib, next, 65003, [3, 900].into_iter());
    assert!(portions(&mut rib) > 10);
    assert_eq!((rib.prefix_count(feeder, V4), best(&rib)), (0, 2));
    rib.remove_peer(reader);
    portions(&mut rib);
    let free = [(); 2].map(|()| rib.add_peer(open_peer(PeerKind::Ebgp)).unwrap());
    assert!(free.contains(&feeder) && free.contains(&reader));
}

const KEEP: KeepStale = KeepStale {
    families: Families::ALL,
    restart_time: Duration::from_secs(120),
    long_lived: [Duration::ZERO; 2],
};

/// The feeder's session when it is back, having forwarded all the while.
fn restarted() -> SessionInfo {
    SessionInfo {
        restart: Some(PeerRestart {
            restarting: true,
            forwarding: Families::ALL,
        }),
        ..session(0)
    }
}

fn stale(rib: &Rib, peer: PeerId) -> usize {
    let all = rib.adj_in(peer, V4, 0..u32::MAX);
    all.filter(|r| r.stale).count()
}

#[test]
fn routes_of_a_lost_peer_are_stale_at_once_and_go_in_portions_once_it_is_back_without_them() {
    let (mut rib, feeder, _, now) = rib();
    rib.peer_down(feeder, Some(KEEP), now);
    assert_eq!(stale(&rib, feeder), ROUTES as usize);
    rib.peer_up(feeder, restarted(), now);
    assert_eq!(stale(&rib, feeder), ROUTES as usize);
    tell(&mut rib, feeder, 65001, 0..100);
    rib.handle_eor(feeder, V4);
    assert!(stale(&rib, feeder) > 0);
    assert!(portions(&mut rib) > 10);
    assert_eq!((stale(&rib, feeder), best(&rib)), (0, 100));
}

#[test]
fn rfc7313_4_what_is_repeated_after_the_last_begin_stays_and_the_rest_goes_in_portions() {
    let (mut rib, feeder, reader, _) = rib();
    for turn in 1..=3 {
        rib.handle_refresh(feeder, V4, RefreshKind::Begin);
        assert_eq!(stale(&rib, feeder), ROUTES as usize, "turn {turn}");
        tell(&mut rib, reader, 65002, [5000].into_iter());
        tell(&mut rib, feeder, 65001, (0..10).chain(900..910));
        if turn == 2 {
            // Once more from the start: what was repeated so far does not count.
            rib.handle_refresh(feeder, V4, RefreshKind::Begin);
            tell(&mut rib, feeder, 65001, 500..505);
        }
        rib.handle_refresh(feeder, V4, RefreshKind::End);
        assert!(portions(&mut rib) > 10);
        let repeated = if turn == 2 { 5 } else { 20 };
        assert_eq!(
            (stale(&rib, feeder), rib.prefix_count(feeder, V4)),
            (0, repeated)
        );
        tell(&mut rib, feeder, 65001, 0..ROUTES);
        portions(&mut rib);
    }
}

#[test]
fn rfc7313_4_a_begin_while_the_routes_of_the_last_refresh_go_finishes_nothing_at_once() {
    let (mut rib, feeder, ..) = rib();
    rib.handle_refresh(feeder, V4, RefreshKind::Begin);
    tell(&mut rib, feeder, 65001, 0..500);
    rib.handle_refresh(feeder, V4, RefreshKind::End);
    assert!(rib.work());
    let before = rib.prefix_count(feeder, V4);
    assert!(before > 500);
    rib.handle_refresh(feeder, V4, RefreshKind::Begin);
    assert_eq!(rib.prefix_count(feeder, V4), before);
    tell(&mut rib, feeder, 65001, 0..10);
    // Its own end is yet to come: only what the last refresh left out goes.
    portions(&mut rib);
    assert_eq!((stale(&rib, feeder), best(&rib)), (490, 500));
    rib.handle_refresh(feeder, V4, RefreshKind::End);
    rib.handle_refresh(feeder, V4, RefreshKind::Begin);
    portions(&mut rib);
    assert_eq!((stale(&rib, feeder), best(&rib)), (10, 10));
}

#[test]
fn a_peer_that_begins_a_refresh_again_and_again_keeps_what_it_repeats_after_the_last() {
    let (mut rib, feeder, ..) = rib();
    for turn in 0..1000 {
        rib.handle_refresh(feeder, V4, RefreshKind::Begin);
        assert_eq!(stale(&rib, feeder), ROUTES as usize, "turn {turn}");
        tell(&mut rib, feeder, 65001, turn..turn + 1);
        if turn == 700 {
            // Some are on their way out.
            rib.handle_refresh(feeder, V4, RefreshKind::End);
            portions(&mut rib);
            tell(&mut rib, feeder, 65001, 0..ROUTES);
        }
    }
    rib.handle_refresh(feeder, V4, RefreshKind::End);
    portions(&mut rib);
    assert_eq!((stale(&rib, feeder), best(&rib)), (0, 1));
}

#[test]
fn what_a_late_peer_is_told_is_put_in_order_in_portions_between_which_others_are_told() {
    let (mut rib, feeder, reader, now) = rib();
    (rib.limits.sort, rib.limits.batch) = (2 * PORTION, ROUTES as usize / 10);
    // Every tenth route has the same attributes.
    for asn in 0..10 {
        tell(
            &mut rib,
            feeder,
            65010 + asn,
            (0..ROUTES / 10).map(|n| n * 10 + asn),
        );
    }
    portions(&mut rib);
    let mut told = Receiver::default();
    told.drain(&mut rib, reader, &EBGP);
    let late = rib.add_peer(open_peer(PeerKind::Ebgp)).unwrap();
    rib.peer_up(late, session(2), now);
    assert!(rib.pending(late) && !rib.is_ordering());
    // The other family has nothing but its End-of-RIB.
    let mut messages = bytes::BytesMut::new();
    messages.extend_from_slice(&rib.poll_transmit_shared(late).unwrap());
    assert_eq!(rib.poll_transmit_shared(late), None);
    let mut portions = 0;
    while rib.is_ordering() {
        let before = told.announced;
        tell(&mut rib, feeder, 65001, [5000 + portions].into_iter());
        assert!(rib.work());
        assert!(told.read(&mut rib, reader, 1, &EBGP));
        assert_eq!(told.announced, before + 1);
        portions += 1;
        if rib.is_ordering() {
            assert_eq!(rib.poll_transmit_shared(late), None);
            assert!(rib.pending(late));
        }
    }
    assert_eq!(portions, 2 * ROUTES / PORTION as u32);
    while let Some(more) = rib.poll_transmit_shared(late) {
        messages.extend_from_slice(&more);
    }
    let mut heard = Receiver::default();
    heard.take(messages, &EBGP);
    assert_eq!(heard.routes, told.routes);
    // A message for each set, one for what came meanwhile, and an End-of-RIB for each family.
    assert_eq!(heard.updates, 10 + 1 + 2);
}

#[test]
fn a_changed_filter_is_applied_in_portions_and_the_last_one_counts_everywhere() {
    let (mut rib, feeder, ..) = rib();
    import(&mut rib, feeder, Filter::reject_all());
    assert!(rib.work());
    let left = best(&rib);
    assert!(0 < left && left < ROUTES as usize, "{left} left");
    // What comes in between is filtered as it comes.
    tell(&mut rib, feeder, 65001, ROUTES..ROUTES + 10);
    import(&mut rib, feeder, Filter::accept_all());
    portions(&mut rib);
    assert_eq!(best(&rib), ROUTES as usize + 10);
    import(&mut rib, feeder, Filter::reject_all());
    portions(&mut rib);
    assert_eq!(best(&rib), 0);
}

#[test]
fn filters_that_change_faster_than_they_are_applied_reach_every_route() {
    let (mut rib, feeder, ..) = rib();
    // Each time there is time for a tenth of the table.
    for turn in 0..21 {
        let filter = if turn % 2 == 0 {
            Filter::reject_all()
        } else {
            Filter::accept_all()
        };
        import(&mut rib, feeder, filter);
        for _ in 0..2 {
            rib.work();
        }
    }
    let before = best(&rib);
    assert!(before < ROUTES as usize, "some have been filtered anew");
    portions(&mut rib);
    assert_eq!(best(&rib), 0);
}

#[test]
fn stale_routes_that_are_to_go_in_portions_never_outlive_another_loss() {
    let (mut rib, feeder, _, now) = rib();
    let keep = Some(KEEP);
    rib.peer_down(feeder, keep, now);
    rib.peer_up(feeder, restarted(), now);
    tell(&mut rib, feeder, 65001, 0..100);
    rib.handle_eor(feeder, V4);
    // Most of what was not repeated is still there when the session is lost once more.
    assert!(rib.prefix_count(feeder, V4) > 100);
    rib.peer_down(feeder, keep, now);
    portions(&mut rib);
    assert_eq!((stale(&rib, feeder), best(&rib)), (100, 100));
}

#[test]
fn rfc9494_routes_are_marked_in_portions() {
    let (mut rib, feeder, _, now) = rib();
    let keep = Some(KeepStale {
        families: Families::NONE,
        restart_time: Duration::ZERO,
        long_lived: [Duration::from_secs(3600); 2],
    });
    rib.peer_down(feeder, keep, now);
    let marked = |rib: &Rib| {
        let stale = crate::wire::attrs::community::LLGR_STALE;
        let all = rib.best(V4, 0..u32::MAX);
        all.filter(|b| b.attrs.has_community(stale)).count()
    };
    while marked(&rib) == 0 {
        assert!(rib.work());
    }
    let first = marked(&rib);
    assert!(first < ROUTES as usize, "{first} marked");
    portions(&mut rib);
    assert_eq!(marked(&rib), ROUTES as usize);
}

#[test]
fn a_next_hop_that_is_lost_is_seen_in_portions() {
    let (mut rib, ..) = rib();
    fib(&mut rib);
    let hop = "192.0.2.50".parse().unwrap();
    rib.set_reachability(hop, Reachability::Unreachable);
    assert!(portions(&mut rib) > 10);
    assert_eq!(best(&rib), 0);
}

#[test]
fn after_a_restart_nobody_is_told_anything_until_all_of_it_is_decided() {
    let now = Instant::now();
    let mut rib = Rib::new(RibConfig::new(65000, Ipv4Addr::new(10, 0, 0, 99)));
    rib.limits.portion = PORTION;
    let [feeder, reader] = [(); 2].map(|()| rib.add_peer(open_peer(PeerKind::Ebgp)).unwrap());
    rib.begin_restart(&[feeder, reader], now + Duration::from_secs(60));
    for (n, peer) in [(0, feeder), (1, reader)] {
        let restart = Some(PeerRestart {
            restarting: false,
            forwarding: Families::ALL,
        });
        let info = SessionInfo {
            restart,
            ..session(n)
        };
        rib.peer_up(peer, info, now);
    }
    tell(&mut rib, feeder, 65001, 0..ROUTES);
    for family in Family::ALL {
        for peer in [feeder, reader] {
            rib.handle_eor(peer, family);
        }
    }
    assert!(!rib.initial_sync_done() && !rib.pending(reader));
    while rib.work() {
        assert!(!rib.initial_sync_done() && !rib.pending(reader));
    }
    assert!(rib.initial_sync_done());
    let mut told = Receiver::default();
    told.drain(&mut rib, reader, &EBGP);
    assert_eq!(
        (told.routes.len(), told.end_of_rib),
        (ROUTES as usize, [1, 1])
    );
}
