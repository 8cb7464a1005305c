//! Several paths of a prefix (RFC 7911): random sequences against a model that knows every path.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    num::NonZeroU16,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use proptest::prelude::*;

use super::harness::{feed, open_peer, p, session, v4_hop};
use crate::{
    prefix::{Family, Ipv4Prefix, Prefix},
    rib::{
        AddPathUse, DecisionStep, Families, KeepStale, LocalRoute, PathLimit, PathState, PeerId,
        PeerRibConfig, RefreshKind, Rib, RibConfig, SessionInfo, egress::Limits,
    },
    wire::{
        AsPath, AttrContext, MAX_LEN, MessageType, Nlri, NlriIter, PathAttrs, PeerKind,
        UpdateFrame, header,
        update_encode::{announce_v4, withdraw_v4},
    },
};

/// The first three are told everything and share a group, one of them sends several itself; one is
/// told two; one knows nothing of all this, and another sends without being told several.
const PEERS: usize = 6;
const BOTH: usize = 0;
const BEST: usize = 3;
const PLAIN: usize = 4;
const SENDER: usize = 5;
const CTX: AttrContext = AttrContext {
    four_octet_as: true,
    peer: PeerKind::Ebgp,
};

fn use_of(peer: usize) -> AddPathUse {
    let when = |on| if on { Families::ALL } else { Families::NONE };
    AddPathUse {
        send: when(peer <= BEST),
        receive: when(matches!(peer, BOTH | SENDER)),
    }
}

fn config(peer: usize) -> PeerRibConfig {
    PeerRibConfig {
        paths_sent: match peer {
            BEST => PathLimit::Best(NonZeroU16::new(2).unwrap()),
            _ => PathLimit::All,
        },
        ..open_peer(PeerKind::Ebgp)
    }
}

fn info(peer: usize) -> SessionInfo {
    SessionInfo {
        add_path: use_of(peer),
        ..session(peer as u8)
    }
}

fn prefixes() -> [Prefix; 3] {
    ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"].map(p)
}

fn v4(prefix: Prefix) -> Ipv4Prefix {
    match prefix {
        Prefix::V4(prefix) => prefix,
        Prefix::V6(_) => unreachable!("the test has IPv4 prefixes"),
    }
}

/// AS_PATH of the path number `variant` of a peer: all differ, in length as well.
fn path_of(peer: usize, variant: u8) -> Vec<u32> {
    let asn = 65001 + peer as u32;
    let tail = (0..variant).map(u32::from);
    std::iter::once(asn).chain(tail.map(|n| 100 + n)).collect()
}

fn send(rib: &mut Rib, to: PeerId, peer: usize, prefix: Prefix, path_id: u32, variant: Option<u8>) {
    let nlri = Nlri {
        path_id,
        prefix: v4(prefix),
    };
    let identified = use_of(peer).receive.contains(Family::Ipv4Unicast);
    let mut out = BytesMut::new();
    match (variant, identified) {
        (None, true) => drop(withdraw_v4([nlri], MAX_LEN, &mut out)),
        (None, false) => drop(withdraw_v4([nlri.prefix], MAX_LEN, &mut out)),
        (Some(variant), _) => {
            let attrs = PathAttrs {
                as_path: AsPath::sequence(&path_of(peer, variant)),
                next_hop: Some(v4_hop(50 + peer as u8)),
                ..PathAttrs::default()
            };
            let mut encoded = BytesMut::new();
            attrs.encode(true, &mut encoded);
            if identified {
                announce_v4(&encoded, [nlri], MAX_LEN, &mut out).unwrap();
            } else {
                announce_v4(&encoded, [nlri.prefix], MAX_LEN, &mut out).unwrap();
            }
        }
    }
    feed(rib, to, out).unwrap();
}

/// What a peer believes: the AS_PATH of each path of each prefix.
#[derive(Debug, Default)]
struct Receiver {
    paths: BTreeMap<(Prefix, u32), AsPath>,
    empty_withdrawals: usize,
}

impl Receiver {
    fn read(&mut self, rib: &mut Rib, peer: PeerId, limit: usize, identified: bool) -> bool {
        let mut buf = BytesMut::new();
        let any = rib.poll_transmit(peer, &mut buf, limit);
        while let Some(message) = header::frame(&mut buf, false).unwrap() {
            if message.kind == MessageType::Update {
                let frame = UpdateFrame::split(&message.body).unwrap();
                for item in NlriIter::<Ipv4Prefix>::new(frame.withdrawn, identified) {
                    let nlri = item.unwrap();
                    let gone = self.paths.remove(&(nlri.prefix.into(), nlri.path_id));
                    self.empty_withdrawals += usize::from(gone.is_none());
                }
                let attrs = PathAttrs::decode(&frame.attrs, &CTX).attrs;
                for item in NlriIter::<Ipv4Prefix>::new(frame.nlri, identified) {
                    let nlri = item.unwrap();
                    let key = (nlri.prefix.into(), nlri.path_id);
                    self.paths.insert(key, attrs.as_path.clone());
                }
            }
        }
        any
    }

    /// The paths of a prefix, in a fixed order.
    fn of(&self, prefix: Prefix) -> Vec<String> {
        let paths = self.paths.iter().filter(|((p, _), _)| *p == prefix);
        let mut texts: Vec<_> = paths.map(|(_, path)| path.to_string()).collect();
        texts.sort();
        texts
    }
}

#[derive(Debug, Clone)]
enum Op {
    Announce {
        peer: usize,
        prefix: usize,
        path_id: u32,
        variant: u8,
    },
    Withdraw {
        peer: usize,
        prefix: usize,
        path_id: u32,
    },
    Flap {
        peer: usize,
    },
    Refresh {
        peer: usize,
    },
    Originate {
        prefix: usize,
        on: bool,
    },
    Limit {
        most: u16,
    },
    Settle,
    Read {
        peer: usize,
    },
    Drain {
        peer: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let peer = || 0..PEERS;
    let prefix = || 0usize..3;
    prop_oneof![
        12 => (peer(), prefix(), 0u32..3, 0u8..4).prop_map(|(peer, prefix, path_id, variant)| {
            Op::Announce { peer, prefix, path_id, variant }
        }),
        6 => (peer(), prefix(), 0u32..3)
            .prop_map(|(peer, prefix, path_id)| Op::Withdraw { peer, prefix, path_id }),
        1 => peer().prop_map(|peer| Op::Flap { peer }),
        1 => peer().prop_map(|peer| Op::Refresh { peer }),
        1 => (prefix(), any::<bool>()).prop_map(|(prefix, on)| Op::Originate { prefix, on }),
        1 => (1u16..4).prop_map(|most| Op::Limit { most }),
        5 => Just(Op::Settle),
        5 => peer().prop_map(|peer| Op::Read { peer }),
        4 => peer().prop_map(|peer| Op::Drain { peer }),
    ]
}

struct World {
    rib: Rib,
    ids: Vec<PeerId>,
    now: Instant,
    /// By prefix: the variant of each path, by peer and identifier.
    paths: BTreeMap<Prefix, BTreeMap<(usize, u32), u8>>,
    local: [bool; 3],
    most: u16,
    receivers: Vec<Receiver>,
}

impl World {
    fn new() -> Self {
        let mut rib = Rib::new(RibConfig::new(65000, Ipv4Addr::new(10, 0, 0, 99)));
        rib.limits = Limits {
            sort: 4,
            batch: 2,
            log_bytes: 150,
            portion: 2,
        };
        let now = Instant::now();
        let ids: Vec<PeerId> = (0..PEERS)
            .map(|n| rib.add_peer(config(n)).unwrap())
            .collect();
        for (n, id) in ids.iter().enumerate() {
            rib.peer_up(*id, info(n), now);
        }
        Self {
            rib,
            ids,
            now,
            paths: BTreeMap::new(),
            local: [false; 3],
            most: 2,
            receivers: (0..PEERS).map(|_| Receiver::default()).collect(),
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Announce {
                peer,
                prefix,
                path_id,
                variant,
            } => {
                let prefix = prefixes()[prefix];
                send(
                    &mut self.rib,
                    self.ids[peer],
                    peer,
                    prefix,
                    path_id,
                    Some(variant),
                );
                let key = (peer, Self::id_of(peer, path_id));
                self.paths.entry(prefix).or_default().insert(key, variant);
            }
            Op::Withdraw {
                peer,
                prefix,
                path_id,
            } => {
                let prefix = prefixes()[prefix];
                send(&mut self.rib, self.ids[peer], peer, prefix, path_id, None);
                let key = (peer, Self::id_of(peer, path_id));
                self.paths.entry(prefix).or_default().remove(&key);
            }
            Op::Flap { peer } => {
                self.rib.peer_down(self.ids[peer], None, self.now);
                self.rib.peer_up(self.ids[peer], info(peer), self.now);
                self.receivers[peer] = Receiver::default();
                let of_peer = |paths: &mut BTreeMap<(usize, u32), u8>| {
                    paths.retain(|(n, _), _| *n != peer);
                };
                self.paths.values_mut().for_each(of_peer);
            }
            Op::Refresh { peer } => {
                let family = Family::Ipv4Unicast;
                self.rib
                    .handle_refresh(self.ids[peer], family, RefreshKind::Request);
            }
            Op::Originate { prefix, on } => {
                self.local[prefix] = on;
                if on {
                    self.rib
                        .originate(prefixes()[prefix], &LocalRoute::default());
                } else {
                    self.rib.withdraw_local(prefixes()[prefix]);
                }
            }
            Op::Limit { most } => {
                self.most = most;
                let config = PeerRibConfig {
                    paths_sent: PathLimit::Best(NonZeroU16::new(most).unwrap()),
                    ..config(BEST)
                };
                self.rib.update_peer(self.ids[BEST], config);
            }
            Op::Settle => self.rib.settle(),
            Op::Read { peer } => {
                let identified = peer <= BEST;
                let id = self.ids[peer];
                self.receivers[peer].read(&mut self.rib, id, 1, identified);
            }
            Op::Drain { peer } => self.drain(peer),
        }
    }

    /// A peer without identifiers has one path a prefix.
    fn id_of(peer: usize, path_id: u32) -> u32 {
        if matches!(peer, BOTH | SENDER) {
            path_id
        } else {
            0
        }
    }

    fn drain(&mut self, peer: usize) {
        while self.rib.work() {}
        let id = self.ids[peer];
        while self.receivers[peer].read(&mut self.rib, id, usize::MAX, peer <= BEST) {}
        assert!(!self.rib.pending(id));
        for (at, prefix) in prefixes().into_iter().enumerate() {
            let mut expected = self.told(peer, at, prefix);
            expected.sort();
            assert_eq!(self.receivers[peer].of(prefix), expected, "{prefix} {peer}");
        }
        let views = self
            .rib
            .adj_out(id, Family::Ipv4Unicast, 0..u32::MAX)
            .map(|route| {
                (
                    (route.prefix, route.path_id.unwrap_or(0)),
                    route.attrs.as_path,
                )
            })
            .collect::<BTreeMap<_, _>>();
        assert_eq!(views, self.receivers[peer].paths, "what the view shows");
        let count = self.rib.advertised_count(id, Family::Ipv4Unicast);
        assert_eq!(count, views.len());
    }

    /// What a peer should know of a prefix.
    fn told(&self, peer: usize, at: usize, prefix: Prefix) -> Vec<String> {
        // In order of the decision process: local, short, low router id, low identifier.
        let mut ranked: Vec<(usize, usize, u32, Option<u8>)> = Vec::new();
        if self.local[at] {
            ranked.push((0, 0, 0, None));
        }
        let known = self.paths.get(&prefix).into_iter().flatten();
        ranked
            .extend(known.map(|(&(from, id), &variant)| {
                (1 + usize::from(variant), from, id, Some(variant))
            }));
        ranked.sort_unstable();
        let most = match peer {
            BEST => self.most.into(),
            PLAIN | SENDER => 1,
            _ => usize::MAX,
        };
        let text = |(_, from, _, variant): (usize, usize, u32, Option<u8>)| {
            let mut path = vec![65000];
            path.extend(variant.into_iter().flat_map(|v| path_of(from, v)));
            AsPath::sequence(&path).to_string()
        };
        ranked
            .into_iter()
            .take(most)
            .filter(|(_, from, _, variant)| variant.is_none() || *from != peer)
            .map(text)
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn rfc7911_every_peer_knows_the_paths_that_it_should(
        ops in proptest::collection::vec(op(), 1..80)
    ) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        for peer in 0..PEERS {
            world.drain(peer);
        }
        for n in 0..PEERS {
            world.rib.peer_down(world.ids[n], None, world.now);
        }
        for prefix in prefixes() {
            world.rib.withdraw_local(prefix);
        }
        while world.rib.work() {}
        world.rib.poll_fib(&mut Vec::new());
        while world.rib.work() {}
        prop_assert_eq!(world.rib.size().prefixes, 0);
        prop_assert_eq!(world.rib.size().attribute_sets, 0);
    }
}

#[test]
fn rfc7911_a_peer_that_catches_up_while_a_path_goes_is_told_that_it_is_gone() {
    let announce = |peer, prefix, variant| Op::Announce {
        peer,
        prefix,
        path_id: 0,
        variant,
    };
    let mut world = World::new();
    for op in [
        announce(1, 0, 0),
        announce(0, 0, 0),
        announce(0, 0, 0),
        announce(0, 1, 1),
        announce(0, 2, 1),
        Op::Drain { peer: 1 },
        announce(4, 0, 0),
        Op::Drain { peer: 0 },
        Op::Withdraw {
            peer: 4,
            prefix: 0,
            path_id: 0,
        },
        // Both before the decision.
        Op::Read { peer: 1 },
        Op::Read { peer: 0 },
    ] {
        world.apply(&op);
    }
    for peer in 0..PEERS {
        world.drain(peer);
    }
}

#[test]
fn rfc7911_3_paths_of_one_peer_are_told_apart_by_their_identifier() {
    let mut world = World::new();
    let prefix = prefixes()[0];
    let id = world.ids[SENDER];
    for (path_id, variant) in [(7, 2), (3, 1), (9, 1)] {
        send(&mut world.rib, id, SENDER, prefix, path_id, Some(variant));
    }
    world.rib.settle();
    let views = world.rib.lookup(prefix);
    let shown: Vec<_> = views.iter().map(|v| (v.path_id, v.state)).collect();
    assert_eq!(
        shown,
        [
            (Some(3), PathState::Best),
            (Some(7), PathState::Lost(DecisionStep::AsPathLength)),
            (Some(9), PathState::Lost(DecisionStep::PathId)),
        ]
    );
    assert_eq!(world.rib.prefix_count(id, Family::Ipv4Unicast), 3);
    send(&mut world.rib, id, SENDER, prefix, 3, None);
    world.rib.settle();
    let left: Vec<_> = world
        .rib
        .adj_in(id, Family::Ipv4Unicast, 0..u32::MAX)
        .map(|route| route.path_id)
        .collect();
    assert_eq!(left, [Some(7), Some(9)]);
    assert_eq!(world.rib.lookup(prefix)[0].path_id, Some(9));
}

#[test]
fn rfc4724_every_path_of_a_lost_peer_is_kept_and_dropped() {
    let mut world = World::new();
    let prefix = prefixes()[0];
    let id = world.ids[SENDER];
    for path_id in 1..4 {
        send(&mut world.rib, id, SENDER, prefix, path_id, Some(1));
    }
    let keep = KeepStale {
        families: Families::ALL,
        restart_time: Duration::from_secs(10),
        long_lived: [Duration::ZERO; 2],
    };
    world.rib.peer_down(id, Some(keep), world.now);
    world.rib.settle();
    assert_eq!(
        world.rib.lookup(prefix).iter().filter(|v| v.stale).count(),
        3
    );
    world
        .rib
        .handle_timeout(world.now + Duration::from_secs(10));
    world.rib.settle();
    assert!(world.rib.lookup(prefix).is_empty());
    assert_eq!(world.rib.prefix_count(id, Family::Ipv4Unicast), 0);
}
