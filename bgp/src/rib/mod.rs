//! The routing information base: what every peer said, what is best, what every peer is told.
//!
//! [`Rib`] owns all of it and runs on one thread. Updates are taken in with
//! [`Rib::handle_update`], any number of them; [`Rib::settle`] then decides once for each prefix
//! that changed; [`Rib::poll_fib`] and [`Rib::poll_transmit`] hand out what follows. What concerns a
//! whole table, as a changed filter or a lost peer do, is a chore that [`Rib::work`] does in portions.
//!
//! What keeps it fast:
//! - attributes are interned by their octets and decoded once ([`attr_store`]);
//! - prefixes have dense ids, a destination with one path has no allocation ([`table`]);
//! - peers that are told the same share one encoding ([`group`]); late and slow ones get a
//!   group of their own until they are in step, packed by attribute set ([`egress`]).
//!
//! It never blocks, reads no clock and does no I/O.

mod apply;
mod attr_store;
mod bits;
mod chores;
mod config;
mod decision;
mod dump;
mod egress;
mod export;
mod group;
mod handover;
mod held;
mod index;
mod long_lived;
mod next_hops;
mod ordering;
mod peers;
mod restart;
mod settle;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use crate::{
    prefix::{Family, Prefix},
    wire::{AsPath, Origin, PathAttrs},
};

pub use apply::{RefreshKind, UpdateOutcome};
pub use attr_store::Loop;
pub use config::{
    AddPathUse, Families, KeepStale, LocalRoute, LongLivedPeer, Multipath, NextHopMode, PathLimit,
    PeerId, PeerRestart, PeerRibConfig, RibConfig, SessionInfo,
};
pub use decision::DecisionStep;
pub use dump::DumpedPath;
pub use handover::{Outstanding, Told, ToldRoute};
pub use next_hops::{FibNextHop, Reachability};
pub use peers::{PeerStats, RibError};
pub use settle::FibChange;
pub use view::{
    AdvertisedRoute, BestRoute, Compared, PathState, PathView, ReceivedRoute, RibSize, RouteSource,
};

use attr_store::{AttrStore, Class, Identity, Kind};
use bits::Bits;
use chores::{Chore, Chores};
use group::Group;
use index::NONE;
use next_hops::NextHops;
use peers::Peer;
use restart::Deferral;
use settle::Dying;
use table::{LOCAL, Path, Table};

/// Ids that there is always room for: a set that holds a few at a time allocates nothing.
const RECYCLED: usize = 1024;

/// Ids that something has to be done about, each once.
#[derive(Debug, Default)]
struct IdSet {
    list: Vec<u32>,
    bits: Bits,
}

impl IdSet {
    fn insert(&mut self, id: u32) {
        if self.bits.insert(id) {
            self.list.push(id);
        }
    }

    /// Gives back the memory of what was taken, if it is little and none is in use.
    fn recycle(&mut self, mut taken: Vec<u32>) {
        if self.list.capacity() == 0 && taken.capacity() <= RECYCLED {
            taken.clear();
            self.list = taken;
        }
    }

    fn take(&mut self) -> Vec<u32> {
        self.take_some(usize::MAX)
    }

    /// Up to `most` of them.
    fn take_some(&mut self, most: usize) -> Vec<u32> {
        let kept = self.list.len().saturating_sub(most);
        let taken = match kept {
            0 => std::mem::take(&mut self.list),
            _ => self.list.split_off(kept),
        };
        for &id in &taken {
            self.bits.remove(id);
        }
        taken
    }
}

/// One family: its table and what is to be done.
#[derive(Debug)]
struct FamilyRib {
    table: Table,
    /// Prefixes whose paths changed since the last decision.
    changed: IdSet,
    /// Prefixes whose next hops changed since the FIB was told.
    fib_changed: IdSet,
    /// Prefixes without paths, until nobody refers to them by id.
    dying: VecDeque<Dying>,
    /// Those in `dying`.
    is_dying: Bits,
}

impl FamilyRib {
    fn new(family: Family, seed: u64) -> Self {
        Self {
            table: Table::new(family, seed),
            changed: IdSet::default(),
            fib_changed: IdSet::default(),
            dying: VecDeque::new(),
            is_dying: Bits::default(),
        }
    }
}

/// The routing information base. See the module documentation for the order of calls.
#[derive(Debug)]
pub struct Rib {
    config: RibConfig,
    families: [FamilyRib; 2],
    attrs: AttrStore,
    next_hops: NextHops,
    /// By [`table::Source`]; the first place stands for ourselves and stays empty.
    peers: Vec<Option<Peer>>,
    /// Places of removed peers, free after the next decision.
    removed_peers: Vec<u16>,
    free_peers: Vec<u16>,
    groups: Vec<Option<Box<Group>>>,
    /// Places of groups whose queues are to be put in order.
    to_order: VecDeque<usize>,
    /// Counts encoded batches over all groups.
    emissions: u64,
    deferral: Option<Deferral>,
    chores: Chores,
    local_class: u16,
    /// Interfaces of the originated prefixes that have one.
    local_interfaces: hashbrown::HashMap<Prefix, Box<str>, foldhash::fast::RandomState>,
    limits: egress::Limits,
    /// Some groups have yet to be compared with what their peers were told before.
    resumed: bool,
}

impl Rib {
    /// An empty RIB.
    pub fn new(config: RibConfig) -> Self {
        let seed = config.hash_seed;
        let identity = Identity {
            local_as: config.local_as,
            router_id: config.router_id,
            cluster_id: config.cluster_id,
        };
        let mut attrs = AttrStore::new(identity, seed);
        let local_class = attrs.class_id(Class {
            kind: Kind::Local,
            four_octet_as: true,
            local_as: config.local_as,
            allow_own_as: 0,
            scope: 0,
        });
        let mut next_hops = NextHops::default();
        for &addr in &config.own_addresses {
            next_hops.add_own(addr);
        }
        Self {
            config,
            families: Family::ALL.map(|family| FamilyRib::new(family, seed)),
            attrs,
            next_hops,
            peers: vec![None],
            removed_peers: Vec::new(),
            free_peers: Vec::new(),
            groups: Vec::new(),
            to_order: VecDeque::new(),
            emissions: 0,
            deferral: None,
            chores: Chores::default(),
            local_class,
            local_interfaces: hashbrown::HashMap::default(),
            limits: egress::Limits::default(),
            resumed: false,
        }
    }

    /// Originates `prefix`, or changes what it carries. Beats every route that is learnt.
    pub fn originate(&mut self, prefix: Prefix, route: &LocalRoute) {
        let attrs = PathAttrs {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            med: route.med,
            local_pref: route.local_pref,
            communities: route.communities.clone(),
            large_communities: route.large_communities.clone(),
            ext_communities: route.ext_communities.clone(),
            ..PathAttrs::default()
        };
        if route.interface.is_empty() {
            self.local_interfaces.remove(&prefix);
        } else {
            let interface = route.interface.as_str().into();
            self.local_interfaces.insert(prefix, interface);
        }
        let set = self.attrs.intern(self.local_class, &attrs, NONE);
        let path = Path::fresh(LOCAL, 0, set, set);
        let family = &mut self.families[prefix.family().index()];
        let id = match prefix {
            Prefix::V4(p) => family.table.find_or_insert(p),
            Prefix::V6(p) => family.table.find_or_insert(p),
        };
        apply::put(family, &mut self.attrs, id, path);
    }

    /// Stops originating `prefix`; `false` if it was not originated.
    pub fn withdraw_local(&mut self, prefix: Prefix) -> bool {
        self.local_interfaces.remove(&prefix);
        let family = &mut self.families[prefix.family().index()];
        family
            .table
            .find_prefix(prefix)
            .is_some_and(|id| apply::take(family, &mut self.attrs, id, (LOCAL, 0)))
    }

    /// Tells what the kernel knows of a next hop; takes effect with the next [`Rib::settle`].
    pub fn set_reachability(&mut self, next_hop: IpAddr, reachability: Reachability) {
        if self.next_hops.set_reachability(next_hop, reachability) {
            self.reconsider_all();
        }
    }

    /// Every prefix has to be decided again.
    fn reconsider_all(&mut self) {
        for family in Family::ALL {
            self.begin(None, family, Chore::Decide);
        }
    }

    /// The earliest time at which [`Rib::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let peers = self.peers.iter().flatten();
        let stale = peers.flat_map(|p| p.grace.iter().flatten().map(|g| g.until));
        stale
            .chain(self.deferral.as_ref().and_then(Deferral::deadline))
            .min()
    }

    /// Our BGP identifier.
    pub const fn router_id(&self) -> Ipv4Addr {
        self.config.router_id
    }
}
