//! What is changed on the way from one peer to another.

use std::{net::Ipv4Addr, time::Instant};

use super::harness::{Receiver, announce, open_peer, p, session};
use crate::{
    rib::{LocalRoute, PeerId, PeerRibConfig, Rib, RibConfig},
    wire::{AsPath, AttrContext, PathAttrs, PeerKind},
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
