//! The RIB against a model that recomputes everything from scratch after each step.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::harness::{self, LOCAL_AS, Receiver, hop_for, open_peer, p, session};
use crate::{
    policy::{Action, Community, Facts, Filter, Operation, PrefixMatch, RouteMatch, Rule, Source},
    prefix::{Family, Prefix},
    rib::{
        Families, FibChange, KeepStale, LocalRoute, Multipath, PeerId, PeerRestart, PeerRibConfig,
        RefreshKind, Rib, RibConfig, RouteSource, SessionInfo, egress::Limits, export::operate,
    },
    wire::{
        AsPath, AttrContext, NextHop, Origin, PathAttrs, PeerKind,
        attrs::community::{NO_ADVERTISE, NO_EXPORT},
    },
};

/// Two alike, one with two-octet AS numbers; two clients alike, one non-client.
const PEERS: usize = 6;
const ASNS: [u32; PEERS] = [65001, 4_200_000_001, 65003, LOCAL_AS, LOCAL_AS, LOCAL_AS];
const OWN_HOP: u8 = 100;
const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);

fn kind(peer: usize) -> PeerKind {
    if peer < 3 {
        PeerKind::Ebgp
    } else {
        PeerKind::Ibgp
    }
}

const fn is_client(peer: usize) -> bool {
    matches!(peer, 3 | 4)
}

const fn four_octet(peer: usize) -> bool {
    peer != 2
}

fn prefixes() -> Vec<Prefix> {
    let v4 = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/24",
        "10.9.9.9/32",
        "0.0.0.0/0",
    ];
    let v6 = ["2001:db8::/32", "2001:db8:1::/48", "::/0"];
    v4.into_iter().chain(v6).map(p).collect()
}

fn filters() -> Vec<Arc<Filter>> {
    let accept = |operations| Rule {
        prefix: Some(PrefixMatch::within(p("10.1.0.0/16"))),
        source: None,
        route: RouteMatch::default(),
        action: Action::Accept,
        operations,
    };
    let carrying = |route| Rule {
        route,
        ..Rule::any(Action::Reject)
    };
    let six = carrying(RouteMatch {
        community: Some(Community::Standard(6)),
        ..RouteMatch::default()
    });
    let through = carrying(RouteMatch {
        as_path_prefix: vec![ASNS[0]],
        ..RouteMatch::default()
    });
    let prioritized = carrying(RouteMatch {
        priority: Some(crate::policy::priority_of(Some(150))),
        ..RouteMatch::default()
    });
    let prioritized = Rule {
        action: Action::Accept,
        ..prioritized.with(Operation::SetPriority(5))
    };
    let not_24 = Rule::new(PrefixMatch::within(p("10.1.2.0/24")), Action::Reject);
    let preferred = accept(vec![
        Operation::SetLocalPref(200),
        Operation::AddCommunity(77),
    ]);
    let longer = accept(vec![
        Operation::PrependAsPath(vec![9, 8]),
        Operation::SetMed(5),
    ]);
    let not_internal = Rule::any(Action::Reject).from_source(Source::Ibgp);
    [
        Filter::accept_all(),
        Filter::reject_all(),
        Filter::new(vec![not_24, preferred], Action::Accept),
        Filter::new(vec![longer, not_internal], Action::Accept),
        Filter::new(vec![six, through, prioritized], Action::Accept),
    ]
    .map(Arc::new)
    .to_vec()
}

#[derive(Debug, Clone)]
enum Op {
    Announce {
        peer: usize,
        prefixes: u8,
        attrs: u8,
        hop: u8,
    },
    Withdraw {
        peer: usize,
        prefixes: u8,
    },
    /// Without AS_PATH: to be treated as a withdrawal.
    Broken {
        peer: usize,
        prefixes: u8,
    },
    EndOfRib {
        peer: usize,
    },
    Up {
        peer: usize,
        forwarding: bool,
    },
    Down {
        peer: usize,
        keep: bool,
    },
    Remove {
        peer: usize,
    },
    Import {
        peer: usize,
        filter: usize,
    },
    Export {
        peer: usize,
        filter: usize,
    },
    Refresh {
        peer: usize,
    },
    /// A refresh of its own begins, or ends (RFC 7313).
    Repeat {
        peer: usize,
        begins: bool,
    },
    Originate {
        prefix: usize,
        med: u8,
    },
    Unoriginate {
        prefix: usize,
    },
    Settle,
    /// Some of what is to be done to whole tables.
    Work,
    Read {
        peer: usize,
    },
    Drain {
        peer: usize,
    },
    Wait,
}

fn op() -> impl Strategy<Value = Op> {
    let peer = || 0..PEERS;
    prop_oneof![
        12 => (peer(), any::<u8>(), 0u8..14, 0u8..5).prop_map(|(peer, prefixes, attrs, hop)| {
            Op::Announce { peer, prefixes, attrs, hop: if hop == 4 { OWN_HOP } else { 50 + hop } }
        }),
        4 => (peer(), any::<u8>()).prop_map(|(peer, prefixes)| Op::Withdraw { peer, prefixes }),
        1 => (peer(), any::<u8>()).prop_map(|(peer, prefixes)| Op::Broken { peer, prefixes }),
        2 => peer().prop_map(|peer| Op::EndOfRib { peer }),
        6 => (peer(), any::<bool>()).prop_map(|(peer, forwarding)| Op::Up { peer, forwarding }),
        4 => (peer(), any::<bool>()).prop_map(|(peer, keep)| Op::Down { peer, keep }),
        1 => peer().prop_map(|peer| Op::Remove { peer }),
        1 => (peer(), 0usize..4).prop_map(|(peer, filter)| Op::Import { peer, filter }),
        1 => (peer(), 0usize..4).prop_map(|(peer, filter)| Op::Export { peer, filter }),
        1 => peer().prop_map(|peer| Op::Refresh { peer }),
        3 => (peer(), any::<bool>()).prop_map(|(peer, begins)| Op::Repeat { peer, begins }),
        2 => (0usize..8, 0u8..3).prop_map(|(prefix, med)| Op::Originate { prefix, med }),
        2 => (0usize..8).prop_map(|prefix| Op::Unoriginate { prefix }),
        6 => Just(Op::Settle),
        6 => Just(Op::Work),
        4 => peer().prop_map(|peer| Op::Read { peer }),
        4 => peer().prop_map(|peer| Op::Drain { peer }),
        1 => Just(Op::Wait),
    ]
}

fn attrs(peer: usize, variant: u8) -> PathAttrs {
    let mut path: Vec<u32> = match variant % 7 {
        0 | 1 => vec![1],
        2 => vec![1, 2],
        3 => vec![2],
        4 => vec![1, 4_200_000_009],
        5 => vec![3, 3],
        _ => vec![1, LOCAL_AS],
    };
    let ebgp = kind(peer) == PeerKind::Ebgp;
    if ebgp {
        path.insert(0, if variant == 3 { 65001 } else { ASNS[peer] });
    }
    let originator = (!ebgp && variant >= 7).then(|| match variant % 3 {
        0 => OURS,
        1 => Ipv4Addr::new(10, 0, 0, 2),
        _ => Ipv4Addr::new(10, 0, 0, 50),
    });
    PathAttrs {
        origin: if variant == 8 {
            Origin::Egp
        } else {
            Origin::Igp
        },
        as_path: AsPath::sequence(&path),
        med: variant.is_multiple_of(3).then_some(u32::from(variant)),
        local_pref: (!ebgp).then_some(if variant == 4 { 150 } else { 100 }),
        communities: match variant {
            9 => vec![NO_EXPORT],
            10 => vec![NO_ADVERTISE],
            11 => vec![5, 6],
            _ => vec![],
        },
        originator_id: originator,
        cluster_list: match variant {
            12 if originator.is_some() => vec![OURS],
            11 | 13 if originator.is_some() => vec![Ipv4Addr::new(10, 0, 0, 60)],
            _ => vec![],
        },
        ..PathAttrs::default()
    }
}

#[derive(Debug, Clone, PartialEq)]
struct In {
    attrs: PathAttrs,
    hop: u8,
    stale: bool,
}

#[derive(Debug, Default)]
struct ModelPeer {
    up: bool,
    routes: BTreeMap<Prefix, In>,
    /// Stale routes go when the time is over, by family.
    timer: [bool; 2],
    import: usize,
    export: usize,
}

/// A route the model selected.
#[derive(Debug, Clone)]
struct Best {
    source: Option<usize>,
    attrs: PathAttrs,
    hop: Option<u8>,
}

struct World {
    rib: Rib,
    ids: Vec<PeerId>,
    now: Instant,
    peers: Vec<ModelPeer>,
    local: BTreeMap<Prefix, u8>,
    receivers: Vec<Receiver>,
    fib: BTreeMap<Prefix, Vec<IpAddr>>,
    filters: Vec<Arc<Filter>>,
    multipath: Multipath,
    /// Selected at the last settle.
    best: BTreeMap<Prefix, Best>,
}

impl World {
    fn new(relax: bool) -> Self {
        let mut config = RibConfig::new(LOCAL_AS, OURS);
        config.multipath = Multipath {
            max_paths: 2,
            as_path_relax: relax,
        };
        let multipath = config.multipath;
        let mut rib = Rib::new(config);
        rib.limits = Limits {
            batch: 3,
            log_bytes: 150,
            sort: 4,
            portion: 1,
        };
        let ids = (0..PEERS)
            .map(|n| rib.add_peer(Self::config(n)).unwrap())
            .collect();
        Self {
            rib,
            ids,
            now: Instant::now(),
            peers: (0..PEERS).map(|_| ModelPeer::default()).collect(),
            local: BTreeMap::new(),
            receivers: (0..PEERS).map(|_| Receiver::default()).collect(),
            fib: BTreeMap::new(),
            filters: filters(),
            multipath,
            best: BTreeMap::new(),
        }
    }

    fn config(peer: usize) -> PeerRibConfig {
        PeerRibConfig {
            rr_client: is_client(peer),
            ..open_peer(kind(peer))
        }
    }

    fn ctx(peer: usize) -> AttrContext {
        AttrContext {
            four_octet_as: four_octet(peer),
            peer: kind(peer),
        }
    }

    fn picked(mask: u8) -> Vec<Prefix> {
        let bit = |(n, _): &(usize, Prefix)| mask & (1 << n) != 0;
        prefixes()
            .into_iter()
            .enumerate()
            .filter(bit)
            .map(|(_, p)| p)
            .collect()
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Announce {
                peer,
                prefixes,
                attrs,
                hop,
            } => {
                self.announce(peer, &Self::picked(prefixes), attrs, hop);
            }
            Op::Withdraw { peer, prefixes } => self.withdraw(peer, &Self::picked(prefixes), false),
            Op::Broken { peer, prefixes } => self.withdraw(peer, &Self::picked(prefixes), true),
            Op::EndOfRib { peer } => {
                if self.peers[peer].up {
                    for family in Family::ALL {
                        self.rib.handle_eor(self.ids[peer], family);
                    }
                    self.peers[peer].routes.retain(|_, r| !r.stale);
                    self.peers[peer].timer = [false; 2];
                }
            }
            Op::Up { peer, forwarding } => self.up(peer, forwarding),
            Op::Down { peer, keep } => self.down(peer, keep),
            Op::Remove { peer } => {
                self.rib.remove_peer(self.ids[peer]);
                self.ids[peer] = self.rib.add_peer(Self::config(peer)).unwrap();
                self.peers[peer] = ModelPeer::default();
                self.receivers[peer] = Receiver::default();
            }
            Op::Import { peer, filter } => {
                self.peers[peer].import = filter;
                self.reconfigure(peer);
            }
            Op::Export { peer, filter } => {
                self.peers[peer].export = filter;
                self.reconfigure(peer);
            }
            Op::Refresh { peer } => {
                for family in Family::ALL {
                    self.rib
                        .handle_refresh(self.ids[peer], family, RefreshKind::Request);
                }
            }
            Op::Repeat { peer, begins } => self.repeat(peer, begins),
            Op::Originate { prefix, med } => {
                let route = LocalRoute {
                    med: (med > 0).then_some(med.into()),
                    ..LocalRoute::default()
                };
                self.rib.originate(prefixes()[prefix], &route);
                self.local.insert(prefixes()[prefix], med);
            }
            Op::Unoriginate { prefix } => {
                let prefix = prefixes()[prefix];
                let was = self.rib.withdraw_local(prefix);
                assert_eq!(was, self.local.remove(&prefix).is_some());
            }
            Op::Settle => self.settle(),
            Op::Work => {
                self.rib.work();
            }
            Op::Read { peer } => {
                self.receivers[peer].read(&mut self.rib, self.ids[peer], 1, &Self::ctx(peer));
            }
            Op::Drain { peer } => {
                self.settle();
                self.drain(peer);
            }
            Op::Wait => self.wait(),
        }
    }

    fn announce(&mut self, peer: usize, list: &[Prefix], variant: u8, hop: u8) {
        if !self.peers[peer].up {
            return;
        }
        let attrs = attrs(peer, variant);
        let four = four_octet(peer);
        harness::announce(&mut self.rib, self.ids[peer], four, &attrs, list, hop).unwrap();
        for &prefix in list {
            let route = In {
                attrs: attrs.clone(),
                hop,
                stale: false,
            };
            self.peers[peer].routes.insert(prefix, route);
        }
    }

    fn withdraw(&mut self, peer: usize, list: &[Prefix], broken: bool) {
        use crate::wire::{MAX_LEN, NextHop, update_encode::*};
        if !self.peers[peer].up {
            return;
        }
        if broken {
            let mut out = bytes::BytesMut::new();
            // ORIGIN and NEXT_HOP only.
            let attrs = [0x40, 1, 1, 0, 0x40, 3, 4, 192, 0, 2, 50];
            announce_v4(&attrs, harness::v4s(list), MAX_LEN, &mut out).unwrap();
            let hop: NextHop = harness::v6_hop(50);
            announce_mp(hop, &attrs, harness::v6s(list), MAX_LEN, &mut out).unwrap();
            harness::feed(&mut self.rib, self.ids[peer], out).unwrap();
        } else {
            harness::withdraw(&mut self.rib, self.ids[peer], list);
        }
        list.iter()
            .for_each(|p| drop(self.peers[peer].routes.remove(p)));
    }

    fn repeat(&mut self, peer: usize, begins: bool) {
        if !self.peers[peer].up {
            return;
        }
        let kind = match begins {
            true => RefreshKind::Begin,
            false => RefreshKind::End,
        };
        for family in Family::ALL {
            self.rib.handle_refresh(self.ids[peer], family, kind);
        }
        let routes = &mut self.peers[peer].routes;
        if begins {
            routes.values_mut().for_each(|r| r.stale = true);
        } else {
            routes.retain(|_, r| !r.stale);
        }
    }

    fn wait(&mut self) {
        self.now += Duration::from_secs(1000);
        self.rib.handle_timeout(self.now);
        assert_eq!(self.rib.poll_timeout(), None);
        for peer in &mut self.peers {
            let timer = std::mem::take(&mut peer.timer);
            let is_over = |prefix: &Prefix| timer[prefix.family().index()];
            peer.routes.retain(|p, r| !(r.stale && is_over(p)));
        }
    }

    fn up(&mut self, peer: usize, forwarding: bool) {
        if self.peers[peer].up {
            return;
        }
        let families = if forwarding {
            Families::ALL
        } else {
            Families::NONE
        };
        let restart = Some(PeerRestart {
            restarting: true,
            forwarding: families,
        });
        let info = SessionInfo {
            four_octet_as: four_octet(peer),
            restart,
            ..session(peer as u8)
        };
        self.rib.peer_up(self.ids[peer], info, self.now);
        self.receivers[peer] = Receiver::default();
        let model = &mut self.peers[peer];
        model.up = true;
        if !forwarding {
            model.routes.retain(|_, r| !r.stale);
            model.timer = [false; 2];
        }
    }

    fn down(&mut self, peer: usize, keep: bool) {
        if !self.peers[peer].up {
            return;
        }
        let restart_time = Duration::from_secs(120);
        let kept = keep.then_some(KeepStale {
            families: Families::ALL,
            restart_time,
            long_lived: [Duration::ZERO; 2],
        });
        self.rib.peer_down(self.ids[peer], kept, self.now);
        self.receivers[peer] = Receiver::default();
        let model = &mut self.peers[peer];
        model.up = false;
        model.routes.retain(|_, r| keep && !r.stale);
        model.routes.values_mut().for_each(|r| r.stale = true);
        let any = |family| model.routes.keys().any(|p| p.family() == family);
        model.timer = Family::ALL.map(any);
    }

    fn reconfigure(&mut self, peer: usize) {
        let model = &self.peers[peer];
        let mut config = Self::config(peer);
        config.import = Arc::clone(&self.filters[model.import]);
        config.export = Arc::clone(&self.filters[model.export]);
        self.rib.update_peer(self.ids[peer], config);
    }

    fn settle(&mut self) {
        while self.rib.work() {}
        self.rib.settle();
        let mut changes = Vec::new();
        self.rib.poll_fib(&mut changes);
        for FibChange { prefix, next_hops } in changes {
            let hops: Vec<IpAddr> = next_hops.iter().map(|h| h.addr).collect();
            if hops.is_empty() {
                self.fib.remove(&prefix);
            } else {
                self.fib.insert(prefix, hops);
            }
        }
        let mut fib = BTreeMap::new();
        self.best.clear();
        for prefix in prefixes() {
            let Some((best, hops)) = self.select(prefix) else {
                continue;
            };
            if !hops.is_empty() {
                fib.insert(
                    prefix,
                    hops.into_iter()
                        .map(|h| hop_for(prefix, h).addr())
                        .collect(),
                );
            }
            self.best.insert(prefix, best);
        }
        let ids = &self.ids;
        let source = |s: RouteSource| match s {
            RouteSource::Local => None,
            RouteSource::Peer(id) => ids.iter().position(|i| *i == id),
        };
        let seen: BTreeMap<_, _> = Family::ALL
            .into_iter()
            .flat_map(|family| self.rib.best(family, 0..u32::MAX))
            .map(|b| {
                (
                    b.prefix,
                    (
                        source(b.source),
                        PathAttrs {
                            next_hop: None,
                            ..b.attrs
                        },
                    ),
                )
            })
            .collect();
        let expected: BTreeMap<_, _> = self
            .best
            .iter()
            .map(|(p, b)| (*p, (b.source, b.attrs.clone())))
            .collect();
        assert_eq!(seen, expected, "selected routes");
        assert_eq!(self.fib, fib, "routes in the FIB");
    }

    fn imported(&self, peer: usize, prefix: Prefix, route: &In) -> Option<PathAttrs> {
        let mut attrs = route.attrs.clone();
        let looped = attrs.as_path.count(LOCAL_AS) > 0
            || attrs.originator_id == Some(OURS)
            || attrs.cluster_list.contains(&OURS);
        if looped || route.hop == OWN_HOP {
            return None;
        }
        let filter = &self.filters[self.peers[peer].import];
        let facts = Facts {
            attrs: Some(&route.attrs),
            interface: "",
        };
        operate(
            &mut attrs,
            filter.verdict(prefix, origin(Some(peer)), &facts)?,
        );
        Some(attrs)
    }

    /// The best route and the next hops beside it, by the book.
    fn select(&self, prefix: Prefix) -> Option<(Best, BTreeSet<u8>)> {
        if let Some(&med) = self.local.get(&prefix) {
            let med = (med > 0).then_some(med.into());
            let attrs = PathAttrs {
                origin: Origin::Igp,
                med,
                ..PathAttrs::default()
            };
            return Some((
                Best {
                    source: None,
                    attrs,
                    hop: None,
                },
                BTreeSet::new(),
            ));
        }
        let mut all: Vec<(usize, PathAttrs, u8)> = Vec::new();
        for (peer, model) in self.peers.iter().enumerate() {
            let Some(route) = model.routes.get(&prefix) else {
                continue;
            };
            if let Some(attrs) = self.imported(peer, prefix, route) {
                all.push((peer, attrs, route.hop));
            }
        }
        let pref = |a: &PathAttrs| a.local_pref.unwrap_or(100);
        let max = all.iter().map(|(_, a, _)| pref(a)).max()?;
        all.retain(|(_, a, _)| pref(a) == max);
        let min = all.iter().map(|(_, a, _)| a.as_path.hops()).min()?;
        all.retain(|(_, a, _)| a.as_path.hops() == min);
        let min = all.iter().map(|(_, a, _)| a.origin).min()?;
        all.retain(|(_, a, _)| a.origin == min);
        let before = all.clone();
        all.retain(|(_, a, _)| {
            let neighbour = a.as_path.neighbour_as();
            let rivals = before
                .iter()
                .filter(|(_, b, _)| b.as_path.neighbour_as() == neighbour);
            rivals.map(|(_, b, _)| b.med.unwrap_or(0)).min() == Some(a.med.unwrap_or(0))
        });
        if all.iter().any(|(peer, ..)| kind(*peer) == PeerKind::Ebgp) {
            all.retain(|(peer, ..)| kind(*peer) == PeerKind::Ebgp);
        }
        let id = |peer: usize, a: &PathAttrs| {
            a.originator_id
                .unwrap_or(Ipv4Addr::new(10, 0, 0, peer as u8 + 1))
        };
        all.sort_by_key(|(peer, a, _)| (id(*peer, a), a.cluster_list.len(), *peer));
        let (peer, attrs, hop) = all.first()?.clone();
        let mut hops = BTreeSet::from([hop]);
        for (_, other, hop) in &all {
            let alike = self.multipath.as_path_relax || other.as_path == attrs.as_path;
            if alike && hops.len() < self.multipath.max_paths {
                hops.insert(*hop);
            }
        }
        Some((
            Best {
                source: Some(peer),
                attrs,
                hop: Some(hop),
            },
            hops,
        ))
    }

    /// What `peer` should be told of `prefix`.
    fn told(&self, peer: usize, prefix: Prefix) -> Option<(PathAttrs, NextHop)> {
        let best = self.best.get(&prefix)?;
        if best.source == Some(peer) || best.attrs.has_community(NO_ADVERTISE) {
            return None;
        }
        let mut attrs = best.attrs.clone();
        let filter = &self.filters[self.peers[peer].export];
        let facts = Facts {
            attrs: Some(&best.attrs),
            interface: "",
        };
        let operations = filter.verdict(prefix, origin(best.source), &facts)?;
        if kind(peer) == PeerKind::Ebgp {
            if attrs.has_community(NO_EXPORT) {
                return None;
            }
            (attrs.originator_id, attrs.cluster_list) = (None, Vec::new());
            if best.source.is_some() {
                attrs.med = None;
            }
            operate(&mut attrs, operations);
            attrs.local_pref = None;
            attrs.as_path.prepend(LOCAL_AS, 1);
            return Some((attrs, hop_for(prefix, OWN_HOP)));
        }
        attrs.local_pref.get_or_insert(100);
        if let Some(source) = best.source.filter(|s| kind(*s) == PeerKind::Ibgp) {
            if !is_client(source) && !is_client(peer) {
                return None;
            }
            attrs
                .originator_id
                .get_or_insert(Ipv4Addr::new(10, 0, 0, source as u8 + 1));
            attrs.cluster_list.insert(0, OURS);
        }
        operate(&mut attrs, operations);
        Some((attrs, hop_for(prefix, best.hop.unwrap_or(OWN_HOP))))
    }

    fn drain(&mut self, peer: usize) {
        self.receivers[peer].drain(&mut self.rib, self.ids[peer], &Self::ctx(peer));
        if !self.peers[peer].up {
            return;
        }
        let expected: BTreeMap<_, _> = prefixes()
            .into_iter()
            .filter_map(|p| Some((p, self.told(peer, p)?)))
            .collect();
        let receiver = &self.receivers[peer];
        assert_eq!(receiver.routes, expected, "what peer {peer} was told");
        assert_eq!(receiver.end_of_rib, [1, 1], "End-of-RIB to peer {peer}");
        let view: BTreeMap<_, _> = Family::ALL
            .into_iter()
            .flat_map(|family| self.rib.adj_out(self.ids[peer], family, 0..u32::MAX))
            .map(|r| (r.prefix, r.next_hop))
            .collect();
        assert_eq!(
            view,
            expected.iter().map(|(p, (_, hop))| (*p, *hop)).collect()
        );
    }

    fn finish(&mut self) {
        self.settle();
        (0..PEERS).for_each(|peer| self.drain(peer));
        let held: usize = self.peers.iter().map(|p| p.routes.len()).sum();
        let counted: u32 = (0..PEERS)
            .flat_map(|peer| Family::ALL.map(|f| self.rib.prefix_count(self.ids[peer], f)))
            .sum();
        assert_eq!(counted as usize, held, "paths counted");
        self.clear();
    }

    /// With all routes gone nothing may be left behind.
    fn clear(&mut self) {
        for peer in 0..PEERS {
            self.down(peer, false);
            self.rib.peer_down(self.ids[peer], None, self.now);
            self.peers[peer].routes.clear();
        }
        for prefix in prefixes() {
            self.rib.withdraw_local(prefix);
            self.local.remove(&prefix);
        }
        self.settle();
        self.settle();
        let size = self.rib.size();
        assert_eq!((size.prefixes, size.attribute_sets, size.groups), (0, 0, 0));
    }
}

fn origin(source: Option<usize>) -> Source {
    match source.map(kind) {
        None => Source::Local,
        Some(PeerKind::Ebgp) => Source::Ebgp,
        Some(PeerKind::Ibgp) => Source::Ibgp,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_model_in_every_step(
        relax in any::<bool>(),
        up in 0u8..64,
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new(relax);
        for peer in (0..PEERS).filter(|p| up & (1 << p) != 0) {
            world.up(peer, true);
        }
        for op in &ops {
            world.apply(op);
        }
        world.finish();
    }
}
