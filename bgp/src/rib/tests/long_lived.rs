//! Long-lived graceful restart (RFC 9494).

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::harness::{Receiver, announce, open_peer, p, session};
use crate::{
    prefix::Family,
    rib::{
        DecisionStep, Families, KeepStale, LongLivedPeer, PathState, PeerId, PeerRestart, Rib,
        RibConfig, RouteSource, SessionInfo,
    },
    wire::{
        AsPath, AttrContext, PathAttrs, PeerKind,
        attrs::community::{LLGR_STALE, NO_EXPORT, NO_LLGR},
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
const RESTART: Duration = Duration::from_secs(120);
const LONG: Duration = Duration::from_secs(3600);

struct Bench {
    rib: Rib,
    now: Instant,
    peers: u8,
}

impl Bench {
    fn new() -> Self {
        Self {
            rib: Rib::new(RibConfig::new(65000, Ipv4Addr::new(10, 0, 0, 99))),
            now: Instant::now(),
            peers: 0,
        }
    }

    /// A peer towards which we have the capability.
    fn peer(&mut self, capable: bool) -> PeerId {
        self.peer_of(PeerKind::Ebgp, capable, false)
    }

    fn peer_of(&mut self, kind: PeerKind, capable: bool, partial: bool) -> PeerId {
        let peer = self.rib.add_peer(open_peer(kind)).unwrap();
        let long_lived = Some(LongLivedPeer {
            capable,
            partial,
            forwarding: Families::ALL,
        });
        let info = SessionInfo {
            long_lived,
            ..session(self.peers)
        };
        self.peers += 1;
        self.rib.peer_up(peer, info, self.now);
        peer
    }

    fn announce(&mut self, peer: PeerId, path: &[u32], communities: &[u32], prefix: &str) {
        let attrs = PathAttrs {
            as_path: AsPath::sequence(path),
            communities: communities.to_vec(),
            ..PathAttrs::default()
        };
        announce(
            &mut self.rib,
            peer,
            true,
            &attrs,
            &[p(prefix)],
            50 + peer.0 as u8,
        )
        .unwrap();
        self.rib.settle();
    }

    fn lose(&mut self, peer: PeerId, families: Families, long: Duration) {
        let keep = KeepStale {
            families,
            restart_time: RESTART,
            long_lived: [long; 2],
        };
        self.rib.peer_down(peer, Some(keep), self.now);
        self.rib.settle();
    }

    fn back(&mut self, peer: PeerId, forwarding: Families) {
        let info = SessionInfo {
            restart: Some(PeerRestart {
                restarting: true,
                forwarding,
            }),
            long_lived: Some(LongLivedPeer {
                capable: true,
                partial: false,
                forwarding,
            }),
            ..session(0)
        };
        self.rib.peer_up(peer, info, self.now);
        self.rib.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.rib.handle_timeout(self.now);
        self.rib.settle();
    }

    fn communities(&self, prefix: &str) -> Option<Vec<u32>> {
        let views = self.rib.lookup(p(prefix));
        views.first().map(|view| view.attrs.communities.clone())
    }
}

#[test]
fn rfc9494_4_2_stale_routes_are_marked_after_the_restart_time_and_go_after_theirs() {
    let mut bench = Bench::new();
    let peer = bench.peer(true);
    bench.announce(peer, &[65001], &[7], "10.0.0.0/8");
    bench.announce(peer, &[65001], &[NO_LLGR], "10.1.0.0/16");
    bench.lose(peer, Families::ALL, LONG);
    bench.pass(RESTART - Duration::from_secs(1));
    assert_eq!(bench.communities("10.0.0.0/8"), Some(vec![7]));
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.communities("10.0.0.0/8"), Some(vec![7, LLGR_STALE]));
    assert_eq!(bench.communities("10.1.0.0/16"), None, "NO_LLGR");
    assert_eq!(bench.rib.prefix_count(peer, Family::Ipv4Unicast), 1);
    bench.pass(LONG - Duration::from_secs(1));
    assert!(bench.communities("10.0.0.0/8").is_some());
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.communities("10.0.0.0/8"), None);
    assert_eq!(bench.rib.poll_timeout(), None);
}

#[test]
fn rfc9494_4_2_without_graceful_restart_of_a_family_its_time_begins_at_once() {
    let mut bench = Bench::new();
    let peer = bench.peer(true);
    bench.announce(peer, &[65001], &[], "10.0.0.0/8");
    bench.lose(peer, Families::NONE, LONG);
    assert_eq!(bench.communities("10.0.0.0/8"), Some(vec![LLGR_STALE]));
    assert_eq!(bench.rib.poll_timeout(), Some(bench.now + LONG));
}

#[test]
fn rfc9494_4_3_a_marked_route_is_least_preferred_whoever_marked_it() {
    let mut bench = Bench::new();
    let (first, second) = (bench.peer(true), bench.peer(true));
    bench.announce(first, &[65001], &[], "10.0.0.0/8");
    bench.announce(second, &[65002, 1, 2, 3], &[], "10.0.0.0/8");
    bench.lose(first, Families::NONE, LONG);
    let states: Vec<_> = bench
        .rib
        .lookup(p("10.0.0.0/8"))
        .iter()
        .map(|view| (view.source, view.state))
        .collect();
    let lost = PathState::Lost(DecisionStep::LongLivedStale);
    assert_eq!(
        states,
        [
            (RouteSource::Peer(second), PathState::Best),
            (RouteSource::Peer(first), lost)
        ]
    );
    bench.announce(second, &[65002], &[LLGR_STALE], "10.1.0.0/16");
    let third = bench.peer(true);
    bench.announce(third, &[65003, 9, 9], &[], "10.1.0.0/16");
    assert_eq!(
        bench.rib.lookup(p("10.1.0.0/16"))[0].source,
        RouteSource::Peer(third)
    );
}

#[test]
fn rfc9494_4_3_only_peers_with_the_capability_are_told() {
    let mut bench = Bench::new();
    let (peer, capable, other) = (bench.peer(true), bench.peer(true), bench.peer(false));
    let (mut knows, mut does_not) = (Receiver::default(), Receiver::default());
    bench.announce(peer, &[65001], &[], "10.0.0.0/8");
    knows.drain(&mut bench.rib, capable, &EBGP);
    does_not.drain(&mut bench.rib, other, &EBGP);
    assert_eq!((knows.routes.len(), does_not.routes.len()), (1, 1));
    bench.lose(peer, Families::NONE, LONG);
    knows.drain(&mut bench.rib, capable, &EBGP);
    does_not.drain(&mut bench.rib, other, &EBGP);
    assert_eq!(does_not.routes.len(), 0);
    assert_eq!(knows.routes[&p("10.0.0.0/8")].0.communities, [LLGR_STALE]);
}

#[test]
fn rfc9494_4_6_in_an_as_where_some_lack_it_internal_peers_are_told_for_the_last_resort() {
    let mut bench = Bench::new();
    let peer = bench.peer(true);
    let [capable, other] = [true, false].map(|can| bench.peer_of(PeerKind::Ibgp, can, true));
    let outside = bench.peer_of(PeerKind::Ebgp, false, true);
    bench.announce(peer, &[65001], &[], "10.0.0.0/8");
    bench.lose(peer, Families::NONE, LONG);
    let told = |bench: &mut Bench, to: PeerId, ctx: &AttrContext| {
        let mut receiver = Receiver::default();
        receiver.drain(&mut bench.rib, to, ctx);
        let (attrs, _) = receiver.routes.remove(&p("10.0.0.0/8"))?;
        Some((attrs.local_pref, attrs.communities))
    };
    let knows = Some((Some(0), vec![LLGR_STALE]));
    assert_eq!(told(&mut bench, capable, &IBGP), knows);
    let does_not = Some((Some(0), vec![LLGR_STALE, NO_EXPORT]));
    assert_eq!(told(&mut bench, other, &IBGP), does_not);
    assert_eq!(told(&mut bench, outside, &EBGP), None);
}

#[test]
fn rfc9494_4_2_what_is_announced_again_is_fresh_and_end_of_rib_drops_the_rest() {
    let mut bench = Bench::new();
    let peer = bench.peer(true);
    for prefix in ["10.0.0.0/8", "10.1.0.0/16"] {
        bench.announce(peer, &[65001], &[], prefix);
    }
    bench.lose(peer, Families::NONE, LONG);
    bench.back(peer, Families::ALL);
    bench.announce(peer, &[65001], &[], "10.0.0.0/8");
    assert_eq!(bench.communities("10.0.0.0/8"), Some(vec![]));
    assert_eq!(bench.communities("10.1.0.0/16"), Some(vec![LLGR_STALE]));
    bench.rib.handle_eor(peer, Family::Ipv4Unicast);
    bench.rib.settle();
    assert_eq!(bench.communities("10.1.0.0/16"), None);
    bench.pass(2 * LONG);
    assert_eq!(bench.communities("10.0.0.0/8"), Some(vec![]));
}

#[test]
fn rfc9494_4_2_a_peer_that_comes_back_without_the_f_bit_loses_them() {
    let mut bench = Bench::new();
    let peer = bench.peer(true);
    bench.announce(peer, &[65001], &[], "10.0.0.0/8");
    bench.lose(peer, Families::NONE, LONG);
    bench.back(peer, Families::NONE);
    assert_eq!(bench.communities("10.0.0.0/8"), None);
}

#[test]
fn rfc9494_4_2_another_loss_neither_drops_them_nor_starts_their_time_anew() {
    let mut bench = Bench::new();
    let peer = bench.peer(true);
    for prefix in ["10.0.0.0/8", "10.1.0.0/16"] {
        bench.announce(peer, &[65001], &[], prefix);
    }
    bench.lose(peer, Families::NONE, LONG);
    let end = bench.now + LONG;
    bench.pass(Duration::from_secs(60));
    bench.back(peer, Families::ALL);
    bench.announce(peer, &[65001], &[], "10.0.0.0/8");
    bench.lose(peer, Families::ALL, LONG);
    for prefix in ["10.0.0.0/8", "10.1.0.0/16"] {
        assert_eq!(bench.communities(prefix), Some(vec![LLGR_STALE]));
    }
    assert_eq!(bench.rib.poll_timeout(), Some(end));
}
