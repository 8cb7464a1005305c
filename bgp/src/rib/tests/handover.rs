//! A RIB goes on where another one was.

use std::{net::Ipv4Addr, time::Instant};

use bytes::BytesMut;
use proptest::prelude::*;

use super::harness::{Receiver, announce, feed, open_peer, p, session, withdraw};
use crate::{
    prefix::{Family, Prefix},
    rib::{
        LocalRoute, Outstanding, PeerId, RefreshKind, Rib, RibConfig, SessionInfo, Told, ToldRoute,
        egress::Limits,
    },
    wire::{AsPath, AttrContext, PathAttrs, PeerKind},
};

const KINDS: [PeerKind; 3] = [PeerKind::Ebgp, PeerKind::Ebgp, PeerKind::Ibgp];

fn ctx(at: usize) -> AttrContext {
    AttrContext {
        four_octet_as: true,
        peer: KINDS[at],
    }
}

fn prefix(n: u8) -> Prefix {
    match n % 2 {
        0 => p(&format!("10.{n}.0.0/16")),
        _ => p(&format!("2001:db8:{n}::/48")),
    }
}

/// Three peers and what each has heard.
struct World {
    rib: Rib,
    peers: Vec<PeerId>,
    heard: Vec<Receiver>,
    local: Vec<(u8, u8)>,
}

/// One that gives every peer its own group, in small batches.
fn rib() -> Rib {
    let mut rib = Rib::new(RibConfig::new(65000, Ipv4Addr::new(10, 0, 0, 99)));
    rib.limits = Limits {
        sort: 4,
        batch: 2,
        log_bytes: 200,
        portion: 2,
    };
    rib
}

fn info(at: usize) -> SessionInfo {
    SessionInfo {
        enhanced_refresh: true,
        ..session(u8::try_from(at).unwrap())
    }
}

impl World {
    fn new() -> Self {
        let mut rib = rib();
        let now = Instant::now();
        let peers: Vec<PeerId> = KINDS
            .iter()
            .map(|kind| rib.add_peer(open_peer(*kind)).unwrap())
            .collect();
        for (at, peer) in peers.iter().enumerate() {
            rib.peer_up(*peer, info(at), now);
        }
        Self {
            rib,
            peers,
            heard: KINDS.iter().map(|_| Receiver::default()).collect(),
            local: Vec::new(),
        }
    }

    fn announce(&mut self, at: usize, number: u8, hops: u8) {
        let path: Vec<u32> = (0..=u32::from(hops)).map(|n| 65100 + n).collect();
        let attrs = PathAttrs {
            as_path: AsPath::sequence(&path),
            local_pref: (KINDS[at] == PeerKind::Ibgp).then_some(100),
            ..PathAttrs::default()
        };
        let hop = 1 + u8::try_from(at).unwrap();
        announce(
            &mut self.rib,
            self.peers[at],
            true,
            &attrs,
            &[prefix(number)],
            hop,
        )
        .unwrap();
    }

    fn originate(&mut self, number: u8, med: Option<u8>) {
        self.local.retain(|(n, _)| *n != number);
        match med {
            Some(med) => {
                self.local.push((number, med));
                self.rib.originate(prefix(number), &local(med));
            }
            None => {
                self.rib.withdraw_local(prefix(number));
            }
        }
    }

    fn drain(&mut self) {
        while self.rib.work() {}
        for (at, peer) in self.peers.iter().enumerate() {
            self.heard[at].drain(&mut self.rib, *peer, &ctx(at));
        }
    }

    /// The same with another RIB, which has nothing but what was handed over and `local`.
    fn hand_over(mut self, local_now: &[(u8, u8)]) -> Self {
        while self.rib.work() {}
        let seed = 7;
        let mut next = rib();
        for (number, med) in local_now {
            next.originate(prefix(*number), &local(*med));
        }
        let mut peers = Vec::new();
        for (at, peer) in self.peers.iter().enumerate() {
            assert!(self.rib.is_settled(*peer));
            let received = Family::ALL.map(|family| {
                let mut out = BytesMut::new();
                let all = 0..self.rib.places(family);
                self.rib.adj_in_updates(*peer, family, all, &mut out);
                out
            });
            let told = Family::ALL.map(|f| self.rib.take_told(*peer, f, seed).unwrap());
            let new = next.add_peer(open_peer(KINDS[at])).unwrap();
            next.resume_peer(new, info(at), (told, seed), Instant::now());
            for messages in received {
                feed(&mut next, new, messages).unwrap();
            }
            peers.push(new);
        }
        Self {
            rib: next,
            peers,
            local: local_now.to_vec(),
            ..self
        }
    }

    /// What each peer would hear of a RIB that it has never talked to.
    fn fresh(&mut self) -> Vec<Receiver> {
        let mut fresh = Vec::new();
        for (at, peer) in self.peers.clone().into_iter().enumerate() {
            self.rib
                .handle_refresh(peer, Family::Ipv4Unicast, RefreshKind::Request);
            self.rib
                .handle_refresh(peer, Family::Ipv6Unicast, RefreshKind::Request);
            let mut receiver = Receiver::default();
            receiver.drain(&mut self.rib, peer, &ctx(at));
            fresh.push(receiver);
        }
        fresh
    }
}

fn local(med: u8) -> LocalRoute {
    LocalRoute {
        med: Some(med.into()),
        ..LocalRoute::default()
    }
}

fn small() -> World {
    let mut world = World::new();
    for number in 0..8 {
        world.announce(usize::from(number) % 3, number, number);
    }
    world.originate(20, Some(1));
    world.originate(21, Some(1));
    world.drain();
    world
}

#[test]
fn what_was_told_is_not_told_again() {
    let mut world = small();
    let local = world.local.clone();
    let mut updates: Vec<usize> = world.heard.iter().map(|h| h.updates).collect();
    let told: Vec<usize> = world.heard.iter().map(|h| h.routes.len()).collect();
    assert!(told.iter().all(|n| *n > 5), "{told:?}");
    for _ in 0..3 {
        world = world.hand_over(&local);
        world.drain();
        let now: Vec<usize> = world.heard.iter().map(|h| h.updates).collect();
        assert_eq!(now, updates);
        updates = now;
        let counts = world.peers.iter().map(|peer| {
            let count = |f: Family| world.rib.advertised_count(*peer, f);
            Family::ALL.into_iter().map(count).sum::<usize>()
        });
        assert_eq!(counts.collect::<Vec<_>>(), told);
    }
}

#[test]
fn what_changed_meanwhile_is_told_and_nothing_else() {
    let world = small();
    let account = |h: &Receiver| (h.announced, h.empty_withdrawals);
    let before: Vec<_> = world.heard.iter().map(account).collect();
    // One is gone, one is changed, one is new.
    let mut world = world.hand_over(&[(21, 2), (22, 1)]);
    world.drain();
    for (at, heard) in world.heard.iter().enumerate() {
        assert_eq!(account(heard), (before[at].0 + 2, before[at].1));
        assert!(!heard.routes.contains_key(&prefix(20)));
        assert!(heard.routes.contains_key(&prefix(22)));
        assert_eq!(heard.routes[&prefix(21)].0.med, Some(2));
        assert_eq!(heard.end_of_rib, [1, 1]);
    }
    // What left the table is forgotten like anything else.
    world.originate(22, None);
    world.drain();
    while world.rib.work() {}
    world.rib.settle();
    assert_eq!(world.rib.size().prefixes, 9);
}

#[test]
fn end_of_rib_that_was_not_sent_comes_from_the_next() {
    let mut world = World::new();
    world.announce(0, 2, 1);
    let mut world = world.hand_over(&[]);
    world.drain();
    let told: Vec<_> = world
        .heard
        .iter()
        .map(|h| (h.routes.len(), h.end_of_rib))
        .collect();
    assert_eq!(told, [(0, [1, 1]), (1, [1, 1]), (1, [1, 1])]);
}

#[test]
fn what_makes_no_sense_is_told_right() {
    let mut world = small();
    let mut next = rib();
    let peer = next.add_peer(open_peer(PeerKind::Ebgp)).unwrap();
    let nonsense = |text: &str| ToldRoute {
        prefix: p(text),
        number: 200,
        print: Some(1),
    };
    // Of the wrong family, twice, and with a print that nothing has.
    let routes = vec![
        nonsense("2001:db8::/32"),
        nonsense("10.0.0.0/16"),
        nonsense("10.0.0.0/16"),
    ];
    let told = Told {
        routes,
        outstanding: Outstanding::Nothing,
    };
    next.resume_peer(peer, info(0), ([told, Told::default()], 7), Instant::now());
    next.originate(p("10.9.0.0/16"), &local(3));
    while next.work() {}
    let mut heard = Receiver::default();
    heard.drain(&mut next, peer, &ctx(0));
    assert_eq!(heard.routes.keys().collect::<Vec<_>>(), [&p("10.9.0.0/16")]);
    assert_eq!(
        heard.empty_withdrawals, 1,
        "10.0.0.0/16, which it claims to have"
    );
    world.drain();
}

#[derive(Debug, Clone)]
enum Step {
    Announce(usize, u8, u8),
    Withdraw(usize, u8),
    Originate(u8, Option<u8>),
    Settle,
    Read(usize),
    Refresh(usize),
    HandOver(Vec<(u8, u8)>),
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0u8..10;
    prop_oneof![
        4 => (0usize..3, number(), 0u8..3).prop_map(|(at, n, hops)| Step::Announce(at, n, hops)),
        2 => (0usize..3, number()).prop_map(|(at, n)| Step::Withdraw(at, n)),
        2 => (number(), proptest::option::of(0u8..2)).prop_map(|(n, med)| Step::Originate(n, med)),
        2 => Just(Step::Settle),
        4 => (0usize..3).prop_map(Step::Read),
        1 => (0usize..3).prop_map(Step::Refresh),
        2 => proptest::collection::vec((number(), 0u8..2), 0..4).prop_map(Step::HandOver),
    ]
}

proptest! {
    #[test]
    fn whenever_it_is_handed_over_each_peer_ends_up_with_what_it_should(
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Announce(at, number, hops) => world.announce(at, number, hops),
                Step::Withdraw(at, number) => {
                    withdraw(&mut world.rib, world.peers[at], &[prefix(number)]);
                }
                Step::Originate(number, med) => world.originate(number, med),
                Step::Settle => {
                    world.rib.work();
                }
                Step::Read(at) => {
                    let peer = world.peers[at];
                    world.heard[at].read(&mut world.rib, peer, 1, &ctx(at));
                }
                Step::Refresh(at) => {
                    let peer = world.peers[at];
                    world.rib.handle_refresh(peer, Family::Ipv4Unicast, RefreshKind::Request);
                }
                Step::HandOver(mut local) => {
                    local.sort_unstable();
                    local.dedup_by_key(|(number, _)| *number);
                    world = world.hand_over(&local);
                }
            }
        }
        world.drain();
        let fresh = world.fresh();
        for (heard, fresh) in world.heard.iter().zip(fresh) {
            prop_assert_eq!(&heard.routes, &fresh.routes);
            prop_assert_eq!(heard.end_of_rib, [1, 1]);
        }
    }
}
