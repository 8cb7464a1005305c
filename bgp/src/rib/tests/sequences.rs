//! Sequences that the random model does not reach or does not look at closely.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use proptest::prelude::*;

use super::harness::{Receiver, announce, feed, open_peer, p, session, v4s, withdraw};
use crate::{
    policy::Filter,
    prefix::{Family, Ipv4Prefix, Prefix},
    rib::{
        DecisionStep, Families, KeepStale, LocalRoute, Loop, PathState, PeerId, PeerRestart,
        PeerRibConfig, Reachability, RefreshKind, Rib, RibConfig, RouteSource, SessionInfo,
        UpdateOutcome, egress::Limits,
    },
    wire::{
        AsPath, AttrContext, MAX_LEN, NextHop, PathAttrs, PeerKind, RawAttr, UpdateFrame,
        attrs::community::NO_EXPORT, update_encode::announce_v4,
    },
};

const EBGP: AttrContext = AttrContext {
    four_octet_as: true,
    peer: PeerKind::Ebgp,
};
const IBGP: AttrContext = AttrContext {
    four_octet_as: true,
    peer: PeerKind::Ibgp,
};

struct Bench {
    rib: Rib,
    now: Instant,
    next: u8,
}

impl Bench {
    fn new() -> Self {
        let rib = Rib::new(RibConfig::new(65000, Ipv4Addr::new(10, 0, 0, 99)));
        Self {
            rib,
            now: Instant::now(),
            next: 0,
        }
    }

    fn peer(&mut self, kind: PeerKind) -> PeerId {
        self.peer_with(open_peer(kind), |_| {})
    }

    fn peer_with(&mut self, config: PeerRibConfig, change: impl Fn(&mut SessionInfo)) -> PeerId {
        let peer = self.rib.add_peer(config).unwrap();
        let mut info = session(self.next);
        self.next += 1;
        change(&mut info);
        self.rib.peer_up(peer, info, self.now);
        peer
    }

    /// Announces with an AS_PATH and settles.
    fn announce(&mut self, peer: PeerId, path: &[u32], prefixes: &[&str]) {
        self.announce_with(peer, &plain(path), prefixes);
    }

    fn announce_with(&mut self, peer: PeerId, attrs: &PathAttrs, prefixes: &[&str]) {
        let list: Vec<Prefix> = prefixes.iter().map(|text| p(text)).collect();
        announce(&mut self.rib, peer, true, attrs, &list, 50 + peer.0 as u8).unwrap();
        self.rib.settle();
    }

    fn keep(&mut self, peer: PeerId) {
        let restart_time = Duration::from_secs(120);
        let keep = KeepStale {
            families: Families::ALL,
            restart_time,
            long_lived: [Duration::ZERO; 2],
        };
        self.rib.peer_down(peer, Some(keep), self.now);
        self.rib.settle();
    }

    fn back(&mut self, peer: PeerId, forwarding: Families) {
        let restart = Some(PeerRestart {
            restarting: true,
            forwarding,
        });
        self.rib.peer_up(
            peer,
            SessionInfo {
                restart,
                ..session(0)
            },
            self.now,
        );
        self.rib.settle();
    }

    fn has(&self, prefix: &str) -> bool {
        let prefix = p(prefix);
        self.rib
            .best(prefix.family(), 0..u32::MAX)
            .any(|b| b.prefix == prefix)
    }

    fn states(&self, prefix: &str) -> Vec<PathState> {
        self.rib
            .lookup(p(prefix))
            .into_iter()
            .map(|v| v.state)
            .collect()
    }
}

fn plain(path: &[u32]) -> PathAttrs {
    PathAttrs {
        as_path: AsPath::sequence(path),
        ..PathAttrs::default()
    }
}

#[test]
fn stale_routes_stay_until_end_of_rib_and_what_was_repeated_stays_for_good() {
    let mut bench = Bench::new();
    let peer = bench.peer(PeerKind::Ebgp);
    bench.announce(peer, &[65001], &["10.0.0.0/8", "10.1.0.0/16"]);
    bench.keep(peer);
    assert!(bench.has("10.0.0.0/8"));
    assert!(bench.rib.lookup(p("10.0.0.0/8"))[0].stale);
    assert_eq!(
        bench.rib.poll_timeout(),
        Some(bench.now + Duration::from_secs(120))
    );
    bench.back(peer, Families::ALL);
    bench.announce(peer, &[65001], &["10.0.0.0/8"]);
    assert!(bench.has("10.1.0.0/16"));
    bench.rib.handle_eor(peer, Family::Ipv4Unicast);
    bench.rib.settle();
    assert!(bench.has("10.0.0.0/8") && !bench.has("10.1.0.0/16"));
}

#[test]
fn stale_routes_go_when_the_restart_time_is_over() {
    let mut bench = Bench::new();
    let peer = bench.peer(PeerKind::Ebgp);
    bench.announce(peer, &[65001], &["10.0.0.0/8"]);
    bench.keep(peer);
    bench
        .rib
        .handle_timeout(bench.now + Duration::from_secs(119));
    bench.rib.settle();
    assert!(bench.has("10.0.0.0/8"));
    bench
        .rib
        .handle_timeout(bench.now + Duration::from_secs(120));
    bench.rib.settle();
    assert!(!bench.has("10.0.0.0/8"));
    assert_eq!(bench.rib.poll_timeout(), None);
}

#[test]
fn stale_routes_of_a_family_without_the_f_bit_go_at_once() {
    let mut bench = Bench::new();
    let peer = bench.peer(PeerKind::Ebgp);
    bench.announce(peer, &[65001], &["10.0.0.0/8", "2001:db8::/32"]);
    bench.keep(peer);
    bench.back(peer, [Family::Ipv6Unicast].into_iter().collect());
    assert!(!bench.has("10.0.0.0/8") && bench.has("2001:db8::/32"));
}

#[test]
fn a_second_loss_deletes_what_was_stale() {
    let mut bench = Bench::new();
    let peer = bench.peer(PeerKind::Ebgp);
    bench.announce(peer, &[65001], &["10.0.0.0/8", "10.1.0.0/16"]);
    bench.keep(peer);
    bench.back(peer, Families::ALL);
    bench.announce(peer, &[65001], &["10.0.0.0/8"]);
    bench.keep(peer);
    assert!(bench.has("10.0.0.0/8") && !bench.has("10.1.0.0/16"));
}

#[test]
fn a_stale_flag_alone_tells_nobody_anything() {
    let mut bench = Bench::new();
    let peer = bench.peer(PeerKind::Ebgp);
    let other = bench.peer(PeerKind::Ebgp);
    let mut receiver = Receiver::default();
    bench.announce(peer, &[65001], &["10.0.0.0/8"]);
    receiver.drain(&mut bench.rib, other, &EBGP);
    let updates = receiver.updates;
    bench.keep(peer);
    bench.back(peer, Families::ALL);
    bench.announce(peer, &[65001], &["10.0.0.0/8"]);
    bench.rib.handle_eor(peer, Family::Ipv4Unicast);
    bench.rib.settle();
    receiver.drain(&mut bench.rib, other, &EBGP);
    assert_eq!(receiver.updates, updates);
}

#[test]
fn a_deferred_start_says_nothing_until_every_expected_peer_sent_end_of_rib() {
    let mut bench = Bench::new();
    let configs = [
        open_peer(PeerKind::Ebgp),
        open_peer(PeerKind::Ebgp),
        open_peer(PeerKind::Ebgp),
    ];
    let peers = configs.map(|c| bench.rib.add_peer(c).unwrap());
    bench
        .rib
        .begin_restart(&peers, bench.now + Duration::from_secs(360));
    let restart = |restarting| {
        Some(PeerRestart {
            restarting,
            forwarding: Families::ALL,
        })
    };
    for (n, restart) in [(0, restart(false)), (1, restart(false)), (2, None)] {
        let info = SessionInfo {
            restart,
            ..session(n)
        };
        bench.rib.peer_up(peers[usize::from(n)], info, bench.now);
    }
    bench.announce(peers[0], &[65001], &["10.0.0.0/8"]);
    let mut receiver = Receiver::default();
    receiver.drain_nothing(&mut bench.rib, peers[1]);
    for family in Family::ALL {
        bench.rib.handle_eor(peers[0], family);
    }
    bench.rib.handle_eor(peers[1], Family::Ipv4Unicast);
    assert!(!bench.rib.initial_sync_done() && !bench.has("10.0.0.0/8"));
    bench.rib.handle_eor(peers[1], Family::Ipv6Unicast);
    assert!(bench.rib.initial_sync_done() && bench.has("10.0.0.0/8"));
    let mut fib = Vec::new();
    bench.rib.poll_fib(&mut fib);
    assert_eq!(fib.len(), 1);
    receiver.drain(&mut bench.rib, peers[1], &EBGP);
    assert_eq!((receiver.routes.len(), receiver.end_of_rib), (1, [1, 1]));
}

#[test]
fn a_deferred_start_ends_at_its_deadline() {
    let mut bench = Bench::new();
    let absent = bench.rib.add_peer(open_peer(PeerKind::Ebgp)).unwrap();
    let deadline = bench.now + Duration::from_secs(360);
    bench.rib.begin_restart(&[absent], deadline);
    bench.rib.originate(p("10.0.0.0/8"), &LocalRoute::default());
    bench.rib.settle();
    assert!(!bench.has("10.0.0.0/8"));
    assert_eq!(bench.rib.poll_timeout(), Some(deadline));
    bench.rib.handle_timeout(deadline);
    assert!(bench.rib.initial_sync_done() && bench.has("10.0.0.0/8"));
}

impl Receiver {
    fn drain_nothing(&mut self, rib: &mut Rib, peer: PeerId) {
        assert!(!rib.pending(peer));
        assert!(!self.read(rib, peer, usize::MAX, &EBGP));
    }
}

#[test]
fn rfc7313_4_enhanced_refresh_is_framed_and_drops_what_was_not_repeated() {
    let mut bench = Bench::new();
    let peer = bench.peer_with(open_peer(PeerKind::Ebgp), |info| {
        info.enhanced_refresh = true
    });
    bench
        .rib
        .originate(p("10.9.0.0/16"), &LocalRoute::default());
    bench.announce(peer, &[65001], &["10.0.0.0/8", "10.1.0.0/16"]);
    let mut receiver = Receiver::default();
    receiver.drain(&mut bench.rib, peer, &EBGP);
    bench
        .rib
        .handle_refresh(peer, Family::Ipv4Unicast, RefreshKind::Request);
    receiver.drain(&mut bench.rib, peer, &EBGP);
    assert_eq!(
        (receiver.refreshes.as_slice(), receiver.announced),
        (&[1, 2][..], 2)
    );

    bench
        .rib
        .handle_refresh(peer, Family::Ipv4Unicast, RefreshKind::Begin);
    bench.announce(peer, &[65001], &["10.0.0.0/8"]);
    bench
        .rib
        .handle_refresh(peer, Family::Ipv4Unicast, RefreshKind::End);
    bench.rib.settle();
    assert!(bench.has("10.0.0.0/8") && !bench.has("10.1.0.0/16"));
}

#[test]
fn a_look_up_names_the_step_that_decided() {
    let mut bench = Bench::new();
    let (a, b) = (bench.peer(PeerKind::Ebgp), bench.peer(PeerKind::Ebgp));
    bench.announce(a, &[65001, 1], &["10.0.0.0/8"]);
    bench.announce(b, &[65002], &["10.0.0.0/8"]);
    let lost = PathState::Lost(DecisionStep::AsPathLength);
    assert_eq!(bench.states("10.0.0.0/8"), [PathState::Best, lost]);
    bench.rib.originate(p("10.0.0.0/8"), &LocalRoute::default());
    bench.rib.settle();
    let local = PathState::Lost(DecisionStep::LocalOrigin);
    assert_eq!(bench.states("10.0.0.0/8"), [PathState::Best, local, local]);
    assert_eq!(
        bench.rib.lookup(p("10.0.0.0/8"))[0].source,
        RouteSource::Local
    );
}

#[test]
fn routes_that_cannot_be_used_say_why() {
    let mut bench = Bench::new();
    let peer = bench.peer(PeerKind::Ebgp);
    bench.announce(peer, &[65001, 65000], &["10.0.0.0/8"]);
    assert_eq!(
        bench.states("10.0.0.0/8"),
        [PathState::Looped(Loop::AsPath)]
    );
    bench.announce(peer, &[65001], &["10.0.0.0/8"]);
    let next_hop = "192.0.2.51".parse().unwrap();
    bench
        .rib
        .set_reachability(next_hop, Reachability::Unreachable);
    bench.rib.settle();
    assert_eq!(bench.states("10.0.0.0/8"), [PathState::BadNextHop]);
    assert!(!bench.has("10.0.0.0/8"));
    bench.rib.set_reachability(next_hop, Reachability::Cost(0));
    let import = Arc::new(Filter::reject_all());
    bench.rib.update_peer(
        peer,
        PeerRibConfig {
            import,
            ..open_peer(PeerKind::Ebgp)
        },
    );
    bench.rib.settle();
    assert_eq!(bench.states("10.0.0.0/8"), [PathState::Filtered]);
    assert_eq!(
        bench
            .rib
            .adj_in(peer, Family::Ipv4Unicast, 0..u32::MAX)
            .count(),
        1
    );
}

#[test]
fn the_interior_cost_decides_between_internal_routes() {
    let mut bench = Bench::new();
    let (a, b) = (bench.peer(PeerKind::Ibgp), bench.peer(PeerKind::Ibgp));
    bench.announce(a, &[1], &["10.0.0.0/8"]);
    bench.announce(b, &[1], &["10.0.0.0/8"]);
    bench
        .rib
        .set_reachability("192.0.2.51".parse().unwrap(), Reachability::Cost(20));
    bench
        .rib
        .set_reachability("192.0.2.52".parse().unwrap(), Reachability::Cost(10));
    bench.rib.settle();
    let views = bench.rib.lookup(p("10.0.0.0/8"));
    assert_eq!(views[0].source, RouteSource::Peer(b));
    assert_eq!(views[1].state, PathState::Lost(DecisionStep::IgpCost));
}

#[test]
fn flapping_between_reads_is_told_once_and_a_blip_not_at_all() {
    let mut bench = Bench::new();
    let (a, b) = (bench.peer(PeerKind::Ebgp), bench.peer(PeerKind::Ebgp));
    let mut receiver = Receiver::default();
    receiver.drain(&mut bench.rib, b, &EBGP);
    for hops in 1..9 {
        bench.announce(a, &vec![65001; hops], &["10.0.0.0/8"]);
    }
    bench.announce(a, &[65001], &["10.7.0.0/16"]);
    withdraw(&mut bench.rib, a, &[p("10.7.0.0/16")]);
    bench.rib.settle();
    receiver.drain(&mut bench.rib, b, &EBGP);
    assert_eq!((receiver.announced, receiver.empty_withdrawals), (1, 0));
    assert_eq!(receiver.routes[&p("10.0.0.0/8")].0.as_path.hops(), 9);
}

#[test]
fn a_peer_whose_own_route_takes_over_hears_a_withdrawal_and_never_an_echo() {
    let mut bench = Bench::new();
    let (a, b) = (bench.peer(PeerKind::Ebgp), bench.peer(PeerKind::Ebgp));
    let mut told = [Receiver::default(), Receiver::default()];
    let mut read = |bench: &mut Bench| {
        told[0].drain(&mut bench.rib, a, &EBGP);
        told[1].drain(&mut bench.rib, b, &EBGP);
        [told[0].routes.len(), told[1].routes.len()]
    };
    bench.announce(a, &[65001, 1], &["10.0.0.0/8"]);
    assert_eq!(read(&mut bench), [0, 1]);
    bench.announce(b, &[65002], &["10.0.0.0/8"]);
    assert_eq!(read(&mut bench), [1, 0]);
    withdraw(&mut bench.rib, b, &[p("10.0.0.0/8")]);
    bench.rib.settle();
    assert_eq!(read(&mut bench), [0, 1]);
    assert_eq!(told.map(|r| r.empty_withdrawals), [0, 0]);
    assert_eq!(bench.rib.size().groups, 2, "one group a family serves both");
}

#[test]
fn an_id_is_not_reused_while_a_slow_peer_has_yet_to_read_its_withdrawal() {
    let mut bench = Bench::new();
    bench.rib.limits = Limits {
        batch: 3,
        log_bytes: 1,
        ..Limits::default()
    };
    let [a, fast, slow] = [(); 3].map(|()| bench.peer(PeerKind::Ebgp));
    let mut told = [Receiver::default(), Receiver::default()];
    bench.announce(a, &[65001], &["10.0.0.0/8"]);
    told[0].drain(&mut bench.rib, fast, &EBGP);
    told[1].drain(&mut bench.rib, slow, &EBGP);
    Receiver::default().drain(&mut bench.rib, a, &EBGP);
    withdraw(&mut bench.rib, a, &[p("10.0.0.0/8")]);
    bench.rib.settle();
    told[0].drain(&mut bench.rib, fast, &EBGP);
    Receiver::default().drain(&mut bench.rib, a, &EBGP);
    bench.rib.poll_fib(&mut Vec::new());
    bench.rib.settle();
    bench.announce(a, &[65001], &["10.1.0.0/16"]);
    // The log is over its limit: the slow peer falls out.
    told[0].drain(&mut bench.rib, fast, &EBGP);
    told[1].drain(&mut bench.rib, slow, &EBGP);
    for receiver in told {
        assert_eq!(
            receiver.routes.into_keys().collect::<Vec<_>>(),
            [p("10.1.0.0/16")]
        );
    }
}

/// `n` distinct /24.
fn many(n: u32) -> Vec<Prefix> {
    (0..n)
        .map(|i| Ipv4Prefix::new(i << 8, 24).unwrap().into())
        .collect()
}

#[test]
fn a_late_joiner_gets_the_table_packed_by_attributes() {
    let mut bench = Bench::new();
    let peer = bench.peer(PeerKind::Ebgp);
    // 50 sets, their prefixes dealt out in turn: neighbours in the table never share a set.
    let all = many(20_000);
    for set in 0..50 {
        let dealt: Vec<Prefix> = all.iter().skip(set).step_by(50).copied().collect();
        for piece in dealt.chunks(40) {
            announce(
                &mut bench.rib,
                peer,
                true,
                &plain(&[65001, set as u32 + 1]),
                piece,
                51,
            )
            .unwrap();
        }
    }
    bench.rib.settle();
    let mut receiver = Receiver::default();
    let late = bench.peer(PeerKind::Ebgp);
    receiver.drain(&mut bench.rib, late, &EBGP);
    assert_eq!(receiver.routes.len(), all.len());
    assert_eq!(receiver.announced, all.len());
    // One message each, a few more at the ends of batches, two End-of-RIB.
    assert!(
        receiver.updates <= 50 + 4 + 2,
        "{} messages",
        receiver.updates
    );
}

#[test]
fn messages_keep_to_4096_octets_and_longer_attributes_are_withdrawn() {
    let mut bench = Bench::new();
    let (a, b) = (bench.peer(PeerKind::Ebgp), bench.peer(PeerKind::Ebgp));
    let mut receiver = Receiver::default();
    announce(&mut bench.rib, a, true, &plain(&[65001]), &many(5000), 51).unwrap();
    bench.rib.settle();
    // The framing of the harness refuses anything longer.
    receiver.drain(&mut bench.rib, b, &EBGP);
    assert_eq!(receiver.routes.len(), 5000);

    // Fits the message in which it comes, not the one with our AS in front.
    let others = 4 + 9 + 7;
    let communities = (MAX_LEN - 23 - 5 - others - 4) / 4;
    let longest = PathAttrs {
        communities: (0..communities as u32).collect(),
        ..plain(&[65001])
    };
    let list = [many(1)[0]];
    assert!(announce(&mut bench.rib, a, true, &longest, &list, 51).is_ok());
    bench.rib.settle();
    receiver.drain(&mut bench.rib, b, &EBGP);
    assert_eq!(receiver.routes.len(), 4999);
    assert!(!receiver.routes.contains_key(&list[0]));
}

#[test]
fn unknown_transitive_attributes_go_on_with_the_partial_bit() {
    let mut bench = Bench::new();
    let (a, b) = (bench.peer(PeerKind::Ebgp), bench.peer(PeerKind::Ebgp));
    let unknown = RawAttr {
        flags: 0xc0,
        code: 200,
        value: vec![1, 2, 3],
    };
    let attrs = PathAttrs {
        unknown: vec![unknown],
        ..plain(&[65001])
    };
    bench.announce_with(a, &attrs, &["10.0.0.0/8"]);
    let mut receiver = Receiver::default();
    receiver.drain(&mut bench.rib, b, &EBGP);
    let told = &receiver.routes[&p("10.0.0.0/8")].0.unknown;
    assert_eq!(
        (told[0].flags, told[0].value.as_slice()),
        (0xe0, &[1, 2, 3][..])
    );
}

#[test]
fn rfc1997_no_export_stays_inside() {
    let mut bench = Bench::new();
    let a = bench.peer(PeerKind::Ebgp);
    let (out, inside) = (bench.peer(PeerKind::Ebgp), bench.peer(PeerKind::Ibgp));
    let attrs = PathAttrs {
        communities: vec![NO_EXPORT],
        ..plain(&[65001])
    };
    bench.announce_with(a, &attrs, &["10.0.0.0/8"]);
    let mut told = [Receiver::default(), Receiver::default()];
    told[0].drain(&mut bench.rib, out, &EBGP);
    told[1].drain(&mut bench.rib, inside, &IBGP);
    assert_eq!(told.map(|r| r.routes.len()), [0, 1]);
}

#[test]
fn rfc8950_ipv4_routes_go_over_ipv6_next_hops_where_both_sides_can() {
    let mut bench = Bench::new();
    bench.rib.originate(p("10.0.0.0/8"), &LocalRoute::default());
    bench.rib.settle();
    let ours = NextHop::from("2001:db8::100".parse::<std::net::IpAddr>().unwrap());
    let config = PeerRibConfig {
        next_hop_v4: Some(ours),
        ..open_peer(PeerKind::Ebgp)
    };
    let able = bench.peer_with(config.clone(), |info| info.extended_next_hop = true);
    let unable = bench.peer_with(config, |_| {});
    assert_eq!(
        bench
            .rib
            .adj_out(unable, Family::Ipv4Unicast, 0..u32::MAX)
            .count(),
        0
    );
    let told: Vec<_> = bench
        .rib
        .adj_out(able, Family::Ipv4Unicast, 0..u32::MAX)
        .collect();
    assert_eq!((told.len(), told[0].next_hop), (1, ours));
    let mut out = BytesMut::new();
    assert!(bench.rib.poll_transmit(able, &mut out, usize::MAX));
}

#[test]
fn discarded_attributes_are_counted_each_time() {
    let mut bench = Bench::new();
    let peer = bench.peer(PeerKind::Ebgp);
    let mut attrs = BytesMut::new();
    PathAttrs {
        next_hop: Some(Ipv4Addr::new(192, 0, 2, 9)),
        ..plain(&[65001])
    }
    .encode(true, &mut attrs);
    // AGGREGATOR of AS 0.
    attrs.extend_from_slice(&[0xc0, 7, 8, 0, 0, 0, 0, 10, 0, 0, 1]);
    for _ in 0..2 {
        let mut out = BytesMut::new();
        announce_v4(&attrs, v4s(&many(1)), MAX_LEN, &mut out).unwrap();
        assert_eq!(
            feed(&mut bench.rib, peer, out),
            Ok(vec![UpdateOutcome::AttributeDiscarded])
        );
    }
    assert_eq!(bench.rib.peer_stats(peer).attribute_discards, 2);
    bench.rib.settle();
    assert_eq!(bench.states("0.0.0.0/24"), [PathState::Best]);
}

#[test]
fn a_broken_prefix_ends_the_session_and_nothing_of_its_list_counts() {
    let mut bench = Bench::new();
    let peer = bench.peer(PeerKind::Ebgp);
    bench.announce(peer, &[65001], &["10.0.0.0/8"]);
    let body = [0, 4, 8, 10, 33, 0, 0, 0];
    let frame = UpdateFrame::split(&body).unwrap();
    assert!(bench.rib.handle_update(peer, &frame).is_err());
    assert_eq!(bench.rib.prefix_count(peer, Family::Ipv4Unicast), 1);
    bench.rib.peer_down(peer, None, bench.now);
    assert_eq!(bench.rib.prefix_count(peer, Family::Ipv4Unicast), 0);
}

proptest! {
    #[test]
    fn any_octets_never_panic(
        bodies in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                attribute_soup(),
            ],
            1..8,
        ),
    ) {
        let mut bench = Bench::new();
        let peers = [bench.peer(PeerKind::Ebgp), bench.peer(PeerKind::Ibgp)];
        for (n, body) in bodies.iter().enumerate() {
            let Ok(frame) = UpdateFrame::split(body) else { continue };
            drop(bench.rib.handle_update(peers[n % 2], &frame));
        }
        bench.rib.settle();
        for (peer, ctx) in peers.into_iter().zip([EBGP, IBGP]) {
            Receiver::default().drain(&mut bench.rib, peer, &ctx);
        }
    }
}

/// Bodies whose framing is right and whose attributes are nearly so.
fn attribute_soup() -> impl Strategy<Value = Vec<u8>> {
    let attribute = (
        prop_oneof![Just(0x40u8), Just(0x80), Just(0xc0), any::<u8>()],
        prop_oneof![4 => 1u8..19, 1 => any::<u8>()],
        proptest::collection::vec(0u8..4, 0..24),
    )
        .prop_map(|(flags, code, value)| {
            let mut octets = vec![flags & !0x10, code, value.len() as u8];
            octets.extend(value);
            octets
        });
    let good = vec![
        0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0, 9, 0x40, 3, 4, 192, 0, 2, 1,
    ];
    (proptest::collection::vec(attribute, 0..6), any::<bool>()).prop_map(move |(list, complete)| {
        let mut attrs = if complete { good.clone() } else { Vec::new() };
        attrs.extend(list.concat());
        let mut body = vec![0, 0];
        body.extend((attrs.len() as u16).to_be_bytes());
        body.extend(attrs);
        body.extend([8, 10, 16, 10, 1]);
        body
    })
}
