//! What is changed on the way from one peer to another.

use std::{net::Ipv4Addr, time::Instant};

use super::harness::{Receiver, announce, open_peer, p, session};
use crate::{
    rib::{
        DecisionStep, LocalRoute, PathState, PeerId, PeerRibConfig, Rib, RibConfig, RouteSource,
    },
    wire::{AsPath, AttrContext, PathAttrs, PeerKind, attrs::community::GRACEFUL_SHUTDOWN},
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
