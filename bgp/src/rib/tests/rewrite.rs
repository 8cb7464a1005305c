//! What is changed on the way from one peer to another.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Instant};

use super::harness::{Receiver, announce, hop_for, open_peer, p, session, withdraw};
use crate::{
    prefix::Prefix,
    rib::{
        DecisionStep, LocalRoute, Loop, PathState, PeerId, PeerRibConfig, Rib, RibConfig,
        RouteSource,
    },
    wire::{
        AsPath, AttrContext, NextHop, PathAttrs, PeerKind, attrs::community::GRACEFUL_SHUTDOWN,
    },
};

const IBGP: AttrContext = AttrContext {
    four_octet_as: true,
    peer: PeerKind::Ibgp,
};
const EBGP: AttrContext = AttrContext {
    four_octet_as: true,
    peer: PeerKind::Ebgp,
};

fn rib() -> Rib {
    Rib::new(RibConfig::new(65000, Ipv4Addr::new(10, 0, 0, 99)))
}

fn up(rib: &mut Rib, config: PeerRibConfig, number: u8) -> PeerId {
    let peer = rib.add_peer(config).unwrap();
    rib.peer_up(peer, session(number), Instant::now());
    peer
}

/// The AS_PATH that an external peer with `config` is told of a route with `path`.
fn told(config: PeerRibConfig, path: &[u32]) -> AsPath {
    let mut rib = rib();
    let from = up(&mut rib, open_peer(PeerKind::Ebgp), 0);
    let to = up(&mut rib, config, 1);
    let attrs = PathAttrs {
        as_path: AsPath::sequence(path),
        ..PathAttrs::default()
    };
    announce(&mut rib, from, true, &attrs, &[p("10.0.0.0/8")], 50).unwrap();
    rib.originate(p("10.9.0.0/16"), &LocalRoute::default());
    rib.settle();
    let mut receiver = Receiver::default();
    receiver.drain(&mut rib, to, &EBGP);
    let local = &receiver.routes[&p("10.9.0.0/16")].0.as_path;
    assert_eq!(*local, AsPath::sequence(&[65000]));
    receiver.routes[&p("10.0.0.0/8")].0.as_path.clone()
}

#[test]
fn rfc8326_4_1_a_route_that_goes_away_soon_is_least_preferred() {
    let mut rib = rib();
    let [leaving, longer] = [0, 1].map(|n| up(&mut rib, open_peer(PeerKind::Ebgp), n));
    let inside = up(&mut rib, open_peer(PeerKind::Ibgp), 2);
    let prefix = p("10.0.0.0/8");
    let attrs = |path: &[u32], communities| PathAttrs {
        as_path: AsPath::sequence(path),
        communities,
        ..PathAttrs::default()
    };
    let going = attrs(&[65001], vec![GRACEFUL_SHUTDOWN]);
    announce(&mut rib, leaving, true, &going, &[prefix], 50).unwrap();
    rib.settle();
    let mut told = Receiver::default();
    told.drain(&mut rib, inside, &IBGP);
    // It stays in use where there is no other, and the inside hears the same preference.
    assert_eq!(told.routes[&prefix].0.local_pref, Some(0));
    announce(
        &mut rib,
        longer,
        true,
        &attrs(&[65002, 65003], vec![]),
        &[prefix],
        51,
    )
    .unwrap();
    rib.settle();
    let paths = rib.lookup(prefix);
    assert_eq!(paths[0].source, RouteSource::Peer(longer));
    assert_eq!(paths[1].state, PathState::Lost(DecisionStep::LocalPref));
}

#[test]
fn rfc8326_4_2_draining_tells_every_route_anew_and_undraining_too() {
    let mut rib = rib();
    let prefix = p("10.9.0.0/16");
    rib.originate(prefix, &LocalRoute::default());
    rib.settle();
    for (kind, ctx, pref) in [
        (PeerKind::Ebgp, EBGP, None),
        (PeerKind::Ibgp, IBGP, Some(0)),
    ] {
        let to = up(&mut rib, open_peer(kind), 7);
        let mut told = Receiver::default();
        told.drain(&mut rib, to, &ctx);
        let before = told.routes[&prefix].0.clone();
        let draining = PeerRibConfig {
            graceful_shutdown: true,
            ..open_peer(kind)
        };
        rib.update_peer(to, draining);
        told.drain(&mut rib, to, &ctx);
        let during = told.routes[&prefix].0.clone();
        assert_eq!(during.communities, [GRACEFUL_SHUTDOWN]);
        assert_eq!(during.local_pref, pref);
        rib.update_peer(to, open_peer(kind));
        told.drain(&mut rib, to, &ctx);
        assert_eq!(told.routes[&prefix].0, before);
        assert_eq!(told.empty_withdrawals, 0);
        rib.remove_peer(to);
        rib.settle();
    }
}

#[test]
fn local_as_is_what_the_peer_sees_and_a_loop_here() {
    let mut rib = rib();
    let other = PeerRibConfig {
        local_as: 64999,
        ..open_peer(PeerKind::Ebgp)
    };
    let peer = up(&mut rib, other.clone(), 0);
    let looped = PathAttrs {
        as_path: AsPath::sequence(&[65001, 64999]),
        ..PathAttrs::default()
    };
    announce(&mut rib, peer, true, &looped, &[p("10.0.0.0/8")], 50).unwrap();
    rib.originate(p("10.9.0.0/16"), &LocalRoute::default());
    rib.settle();
    let state = rib.lookup(p("10.0.0.0/8"))[0].state;
    assert_eq!(state, PathState::Looped(Loop::AsPath));
    let mut receiver = Receiver::default();
    receiver.drain(&mut rib, peer, &EBGP);
    let told = &receiver.routes[&p("10.9.0.0/16")].0.as_path;
    assert_eq!(*told, AsPath::sequence(&[64999]));
}

#[test]
fn allow_own_as_says_how_often_our_as_may_occur() {
    for (allowed, ours, usable) in [(0, 0, true), (0, 1, false), (1, 1, true), (1, 2, false)] {
        let mut rib = rib();
        let config = PeerRibConfig {
            allow_own_as: allowed,
            ..open_peer(PeerKind::Ebgp)
        };
        let peer = up(&mut rib, config, 0);
        let path = [&[65001][..], &vec![65000; ours]].concat();
        let attrs = PathAttrs {
            as_path: AsPath::sequence(&path),
            ..PathAttrs::default()
        };
        announce(&mut rib, peer, true, &attrs, &[p("10.0.0.0/8")], 50).unwrap();
        rib.settle();
        let best = rib.lookup(p("10.0.0.0/8"))[0].state == PathState::Best;
        assert_eq!(best, usable, "{allowed} {ours}");
    }
}

#[test]
fn rfc4456_8_a_reflector_adds_originator_and_cluster_and_tells_clients() {
    let mut rib = rib();
    let client = PeerRibConfig {
        rr_client: true,
        ..open_peer(PeerKind::Ibgp)
    };
    let from = up(&mut rib, client.clone(), 0);
    let to_client = up(&mut rib, client, 1);
    let other = up(&mut rib, open_peer(PeerKind::Ibgp), 2);
    let third = up(&mut rib, open_peer(PeerKind::Ibgp), 3);
    let attrs = PathAttrs {
        local_pref: Some(100),
        ..PathAttrs::default()
    };
    announce(&mut rib, from, true, &attrs, &[p("10.0.0.0/8")], 50).unwrap();
    announce(&mut rib, other, true, &attrs, &[p("10.1.0.0/16")], 51).unwrap();
    let looped = PathAttrs {
        cluster_list: vec![Ipv4Addr::new(10, 0, 0, 99)],
        originator_id: Some(Ipv4Addr::new(10, 0, 0, 7)),
        ..attrs
    };
    announce(&mut rib, from, true, &looped, &[p("10.2.0.0/16")], 50).unwrap();
    rib.settle();
    let mut told = [to_client, third, from].map(|peer| {
        let mut receiver = Receiver::default();
        receiver.drain(&mut rib, peer, &IBGP);
        receiver.routes
    });
    let (route, next_hop) = told[0].remove(&p("10.0.0.0/8")).unwrap();
    assert_eq!(route.originator_id, Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(route.cluster_list, [Ipv4Addr::new(10, 0, 0, 99)]);
    assert_eq!(next_hop, hop_for(p("10.0.0.0/8"), 50));
    let names = |routes: &BTreeMap<Prefix, (PathAttrs, NextHop)>| -> Vec<String> {
        routes.keys().map(ToString::to_string).collect()
    };
    assert_eq!(
        names(&told[0]),
        ["10.1.0.0/16"],
        "a client hears the others"
    );
    assert_eq!(names(&told[1]), ["10.0.0.0/8"], "the others hear clients");
    assert_eq!(names(&told[2]), ["10.1.0.0/16"], "nobody hears itself");
    let state = rib.lookup(p("10.2.0.0/16"))[0].state;
    assert_eq!(state, PathState::Looped(Loop::ClusterList));
}

#[test]
fn rfc4456_8_a_reflected_route_that_comes_back_from_another_router_names_that_one() {
    let mut rib = rib();
    let client = PeerRibConfig {
        rr_client: true,
        ..open_peer(PeerKind::Ibgp)
    };
    let from = up(&mut rib, client, 0);
    let other = up(&mut rib, open_peer(PeerKind::Ibgp), 1);
    let attrs = PathAttrs {
        local_pref: Some(100),
        ..PathAttrs::default()
    };
    let mut told = Receiver::default();
    for router in [0, 0, 7] {
        rib.peer_down(from, None, Instant::now());
        rib.peer_up(from, session(router), Instant::now());
        rib.settle();
        told.drain(&mut rib, other, &IBGP);
        assert!(told.routes.is_empty());
        announce(&mut rib, from, true, &attrs, &[p("10.0.0.0/8")], 50).unwrap();
        rib.settle();
        told.drain(&mut rib, other, &IBGP);
        let (route, _) = &told.routes[&p("10.0.0.0/8")];
        assert_eq!(
            route.originator_id,
            Some(Ipv4Addr::new(10, 0, 0, router + 1))
        );
    }
}

#[test]
fn a_route_that_comes_back_with_other_attributes_is_told_with_those() {
    let mut rib = rib();
    let from = up(&mut rib, open_peer(PeerKind::Ebgp), 0);
    let to = up(&mut rib, open_peer(PeerKind::Ebgp), 1);
    let mut told = Receiver::default();
    let prefix = [p("10.0.0.0/8")];
    // More than are left for a sweep, so that ids have a second life, and each one twice.
    for n in 0..2000 {
        let path = [65001, 1000 + n / 2];
        let attrs = PathAttrs {
            as_path: AsPath::sequence(&path),
            ..PathAttrs::default()
        };
        announce(&mut rib, from, true, &attrs, &prefix, 50).unwrap();
        rib.settle();
        assert_eq!(rib.size().attribute_sets, 1);
        told.drain(&mut rib, to, &EBGP);
        let (route, _) = &told.routes[&prefix[0]];
        let expected = AsPath::sequence(&[65000, path[0], path[1]]);
        assert_eq!(route.as_path, expected);
        withdraw(&mut rib, from, &prefix);
        rib.settle();
        told.drain(&mut rib, to, &EBGP);
        assert!(told.routes.is_empty());
    }
    assert_eq!(rib.size().attribute_sets, 0);
}

#[test]
fn rfc4360_6_non_transitive_communities_stay_in_their_as() {
    let (target, bandwidth) = ([0, 2, 0, 1, 0, 0, 0, 2], [0x40, 4, 0, 1, 0, 0, 0, 2]);
    let mut rib = rib();
    let from = up(&mut rib, open_peer(PeerKind::Ebgp), 0);
    let out = up(&mut rib, open_peer(PeerKind::Ebgp), 1);
    let inside = up(&mut rib, open_peer(PeerKind::Ibgp), 2);
    let attrs = PathAttrs {
        as_path: AsPath::sequence(&[65001]),
        ext_communities: vec![target, bandwidth],
        ..PathAttrs::default()
    };
    announce(&mut rib, from, true, &attrs, &[p("10.0.0.0/8")], 50).unwrap();
    rib.settle();
    for (peer, ctx, want) in [
        (out, EBGP, vec![target]),
        (inside, IBGP, vec![target, bandwidth]),
    ] {
        let mut receiver = Receiver::default();
        receiver.drain(&mut rib, peer, &ctx);
        assert_eq!(receiver.routes[&p("10.0.0.0/8")].0.ext_communities, want);
    }
}

#[test]
fn as_override_puts_our_as_for_the_peers() {
    let config = PeerRibConfig {
        as_override: Some(65002),
        ..open_peer(PeerKind::Ebgp)
    };
    assert_eq!(
        told(config, &[65001, 65002, 65002]),
        AsPath::sequence(&[65000, 65001, 65000, 65000])
    );
}

#[test]
fn rfc6996_private_as_numbers_are_removed() {
    let config = PeerRibConfig {
        remove_private_as: true,
        ..open_peer(PeerKind::Ebgp)
    };
    let path = [
        64511,
        64512,
        65534,
        65535,
        4_200_000_000,
        4_294_967_294,
        70000,
    ];
    assert_eq!(
        told(config, &path),
        AsPath::sequence(&[65000, 64511, 65535, 70000])
    );
}
