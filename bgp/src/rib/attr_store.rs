//! Attribute sets, interned by their octets.
//!
//! An UPDATE's attribute octets are hashed once and looked up; only octets never seen before are
//! decoded. A set keeps its canonical encoding and what the decision process needs, not the
//! decoded form. Octets that are not canonical (two-octet AS numbers, odd order, discarded
//! attributes) are found again through aliases.

use std::net::Ipv4Addr;

use bytes::BytesMut;
use hashbrown::HashTable;

use super::index::{Index, NONE};
use crate::{
    policy::Source,
    wire::{
        AttrContext, NextHop, PathAttrs, PeerKind,
        attrs::community::{LLGR_STALE, NO_ADVERTISE, NO_EXPORT, NO_EXPORT_SUBCONFED, NO_LLGR},
    },
};

/// LOCAL_PREF of a route that brings none (RFC 4271, section 9.1.1, leaves it to us).
pub(crate) const DEFAULT_LOCAL_PREF: u32 = 100;

/// Where routes come from, as far as attributes are judged by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Local,
    Ebgp,
    Ibgp,
}

impl From<Kind> for Source {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Local => Self::Local,
            Kind::Ebgp => Self::Ebgp,
            Kind::Ibgp => Self::Ibgp,
        }
    }
}

/// What else the meaning of attribute octets depends on. Sessions with equal classes share sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Class {
    pub(crate) kind: Kind,
    pub(crate) four_octet_as: bool,
    /// Our AS on the session.
    pub(crate) local_as: u32,
    /// How often `local_as` may occur in AS_PATH.
    pub(crate) allow_own_as: u8,
    /// Interface index of a session over link-local addresses, else 0.
    pub(crate) scope: u32,
}

/// Our own identity, against which loops are found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) local_as: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) cluster_id: Ipv4Addr,
}

/// Why a route cannot take part in the decision (RFC 4271 section 9.1.2, RFC 4456 section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// Our AS is in AS_PATH.
    AsPath,
    /// ORIGINATOR_ID is ours.
    OriginatorId,
    /// Our cluster is in CLUSTER_LIST.
    ClusterList,
}

/// An interned set.
#[derive(Debug)]
pub(crate) struct AttrSet {
    /// Canonical octets: four-octet AS numbers, ascending codes.
    octets: Box<[u8]>,
    /// The better, the larger: local origin, not long-lived stale, LOCAL_PREF, AS_PATH length,
    /// ORIGIN.
    pub(crate) rank: u64,
    hash: u32,
    refs: u32,
    generation: u32,
    /// Id of the next hop, [`NONE`] for local routes.
    pub(crate) next_hop: u32,
    /// MULTI_EXIT_DISC, 0 when missing.
    pub(crate) med: u32,
    /// First AS of AS_PATH, 0 when there is none.
    pub(crate) neighbour_as: u32,
    /// ORIGINATOR_ID, 0 when missing.
    pub(crate) originator: u32,
    pub(crate) cluster_len: u16,
    class: u16,
    pub(crate) looped: Option<Loop>,
    pub(crate) no_export: bool,
    pub(crate) no_advertise: bool,
    /// Someone keeps the route although its source is long gone (RFC 9494).
    pub(crate) long_lived_stale: bool,
    /// It must not be kept like that.
    pub(crate) no_long_lived: bool,
    /// The next hop is not among the octets.
    from_mp: bool,
}

#[derive(Debug)]
struct Alias {
    hash: u64,
    class: u16,
    octets: Box<[u8]>,
    mp_next_hop: Option<NextHop>,
    set: u32,
    generation: u32,
    /// Something was discarded while decoding.
    discarded: bool,
}

/// The sets in use.
#[derive(Debug)]
pub(crate) struct AttrStore {
    seed: u64,
    identity: Identity,
    classes: Vec<Class>,
    sets: Vec<AttrSet>,
    free: Vec<u32>,
    /// Sets that lost their last reference since the last sweep. Their ids stay theirs until
    /// then, so that a comparison of ids within a batch is a comparison of sets.
    unreferenced: Vec<u32>,
    index: Index,
    aliases: HashTable<Alias>,
    buf: BytesMut,
}

/// Aliases past twice the number of sets (and this) are mostly leftovers: start over.
const ALIAS_SLACK: usize = 1024;

/// Sets without a reference that are left for the next sweep. A route that goes and comes back finds its attributes
/// as it left them, for half of what it costs to take them in.
const SPARED: usize = 256;

impl AttrStore {
    pub(crate) fn new(identity: Identity, seed: u64) -> Self {
        Self {
            seed,
            identity,
            classes: Vec::new(),
            sets: Vec::new(),
            free: Vec::new(),
            unreferenced: Vec::new(),
            index: Index::default(),
            aliases: HashTable::new(),
            buf: BytesMut::new(),
        }
    }

    /// The id of a class. Classes are few: configurations, not sessions.
    pub(crate) fn class_id(&mut self, class: Class) -> u16 {
        let at = self
            .classes
            .iter()
            .position(|c| *c == class)
            .unwrap_or_else(|| {
                self.classes.push(class);
                self.classes.len() - 1
            });
        at as u16
    }

    pub(crate) fn class(&self, id: u16) -> &Class {
        &self.classes[usize::from(id)]
    }

    /// How the attribute octets of a class are read.
    pub(crate) fn context(&self, class: u16) -> AttrContext {
        let class = self.class(class);
        AttrContext {
            four_octet_as: class.four_octet_as,
            peer: match class.kind {
                Kind::Ebgp => PeerKind::Ebgp,
                Kind::Ibgp | Kind::Local => PeerKind::Ibgp,
            },
        }
    }

    pub(crate) fn set(&self, id: u32) -> &AttrSet {
        &self.sets[id as usize]
    }

    pub(crate) fn kind(&self, id: u32) -> Kind {
        self.class(self.set(id).class).kind
    }

    pub(crate) fn class_of(&self, id: u32) -> u16 {
        self.set(id).class
    }

    /// Another one once the id is that of another set.
    pub(crate) fn generation(&self, id: u32) -> u32 {
        self.set(id).generation
    }

    /// Sets in use.
    pub(crate) fn in_use(&self) -> usize {
        self.sets.iter().filter(|set| set.refs > 0).count()
    }

    /// Sets in use, and those that wait for a sweep.
    fn len(&self) -> usize {
        self.sets.len() - self.free.len()
    }

    /// The decoded form.
    pub(crate) fn decode(&self, id: u32) -> PathAttrs {
        // The canonical form may hold what only an internal peer may send.
        let ctx = AttrContext {
            four_octet_as: true,
            peer: PeerKind::Ibgp,
        };
        PathAttrs::decode(&self.set(id).octets, &ctx).attrs
    }

    /// The octets of a set, and its next hop if that is not among them.
    pub(crate) fn as_received(&self, id: u32) -> (&[u8], Option<u32>) {
        let set = self.set(id);
        let next_hop = (set.from_mp && set.next_hop != NONE).then_some(set.next_hop);
        (&set.octets, next_hop)
    }

    /// Whether two sets have the same AS_PATH.
    pub(crate) fn same_as_path(&self, a: u32, b: u32) -> bool {
        a == b || self.decode(a).as_path == self.decode(b).as_path
    }

    /// Looks received octets up. `mp_next_hop` is that of MP_REACH_NLRI, `None` for IPv4 prefixes
    /// outside it. The flag tells that something had been discarded when they were decoded.
    pub(crate) fn find(
        &self,
        class: u16,
        octets: &[u8],
        mp_next_hop: Option<(NextHop, u32)>,
    ) -> Option<(u32, bool)> {
        let hash = self.hash(class, octets, mp_next_hop.map(|(_, id)| id));
        let direct = self.index.find(hash as u32, |id| {
            let set = self.set(id);
            set.class == class
                && match mp_next_hop {
                    Some((_, next_hop)) => set.from_mp && set.next_hop == next_hop,
                    None => !set.from_mp,
                }
                && *set.octets == *octets
        });
        if let Some(id) = direct {
            return Some((id, false));
        }
        let wire = mp_next_hop.map(|(wire, _)| wire);
        let alias = self
            .aliases
            .find(hash, |alias| alias.is(hash, class, octets, wire))?;
        let set = self.set(alias.set);
        (set.generation == alias.generation).then_some((alias.set, alias.discarded))
    }

    /// Remembers that received octets mean `set`, unless they are its own.
    pub(crate) fn remember(
        &mut self,
        class: u16,
        octets: &[u8],
        mp_next_hop: Option<(NextHop, u32)>,
        set: u32,
        discarded: bool,
    ) {
        if *self.set(set).octets == *octets && !discarded {
            return;
        }
        if self.aliases.len() > 2 * self.len() + ALIAS_SLACK {
            self.aliases.clear();
        }
        let hash = self.hash(class, octets, mp_next_hop.map(|(_, id)| id));
        let wire = mp_next_hop.map(|(wire, _)| wire);
        if let Ok(old) = self
            .aliases
            .find_entry(hash, |a| a.is(hash, class, octets, wire))
        {
            old.remove();
        }
        let generation = self.set(set).generation;
        let octets = octets.into();
        let alias = Alias {
            hash,
            class,
            octets,
            mp_next_hop: wire,
            set,
            generation,
            discarded,
        };
        self.aliases.insert_unique(hash, alias, |alias| alias.hash);
    }

    /// Interns decoded attributes. `next_hop` is the id of the next hop; attributes that still
    /// hold a NEXT_HOP are of IPv4 prefixes outside MP_REACH_NLRI.
    pub(crate) fn intern(&mut self, class: u16, attrs: &PathAttrs, next_hop: u32) -> u32 {
        let mut buf = std::mem::take(&mut self.buf);
        buf.clear();
        attrs.encode(true, &mut buf);
        let by_next_hop = attrs.next_hop.is_none().then_some(next_hop);
        let hash = self.hash(class, &buf, by_next_hop) as u32;
        let found = self.index.find(hash, |id| {
            let set = self.set(id);
            set.class == class && set.next_hop == next_hop && *set.octets == *buf
        });
        let id = found.unwrap_or_else(|| self.add(class, attrs, next_hop, &buf, hash));
        self.buf = buf;
        id
    }

    fn add(
        &mut self,
        class: u16,
        attrs: &PathAttrs,
        next_hop: u32,
        octets: &[u8],
        hash: u32,
    ) -> u32 {
        let local = self.class(class).kind == Kind::Local;
        let set = AttrSet {
            octets: octets.into(),
            rank: rank(attrs, local),
            hash,
            refs: 0,
            generation: 0,
            next_hop,
            med: attrs.med.unwrap_or(0),
            neighbour_as: attrs.as_path.neighbour_as().unwrap_or(0),
            originator: attrs.originator_id.map_or(0, u32::from),
            cluster_len: attrs.cluster_list.len().try_into().unwrap_or(u16::MAX),
            class,
            looped: self.find_loop(class, attrs),
            no_export: attrs.has_community(NO_EXPORT) || attrs.has_community(NO_EXPORT_SUBCONFED),
            no_advertise: attrs.has_community(NO_ADVERTISE),
            long_lived_stale: attrs.has_community(LLGR_STALE),
            no_long_lived: attrs.has_community(NO_LLGR),
            from_mp: attrs.next_hop.is_none(),
        };
        let id = match self.free.pop() {
            Some(id) => {
                let generation = self.set(id).generation.wrapping_add(1);
                self.sets[id as usize] = AttrSet { generation, ..set };
                id
            }
            None => {
                self.sets.push(set);
                self.sets.len() as u32 - 1
            }
        };
        self.index.insert(hash, id);
        // Without a reference yet: the next sweep decides.
        self.unreferenced.push(id);
        id
    }

    fn find_loop(&self, class: u16, attrs: &PathAttrs) -> Option<Loop> {
        let class = self.class(class);
        let allowed = usize::from(class.allow_own_as);
        let too_often = |asn| attrs.as_path.count(asn) > allowed;
        if class.kind == Kind::Local {
            None
        } else if too_often(class.local_as) || too_often(self.identity.local_as) {
            Some(Loop::AsPath)
        } else if attrs.originator_id == Some(self.identity.router_id) {
            Some(Loop::OriginatorId)
        } else if attrs.cluster_list.contains(&self.identity.cluster_id) {
            Some(Loop::ClusterList)
        } else {
            None
        }
    }

    /// One more path uses the set.
    pub(crate) fn retain(&mut self, id: u32) {
        self.sets[id as usize].refs += 1;
    }

    /// One path less uses the set; [`NONE`] is no set.
    pub(crate) fn release(&mut self, id: u32) {
        if id == NONE {
            return;
        }
        let set = &mut self.sets[id as usize];
        set.refs -= 1;
        if set.refs == 0 {
            self.unreferenced.push(id);
        }
    }

    /// Frees what nothing uses. Ids compared before and after are not comparable.
    pub(crate) fn sweep(&mut self) {
        if self.unreferenced.len() <= SPARED {
            return;
        }
        for id in std::mem::take(&mut self.unreferenced) {
            let set = &mut self.sets[id as usize];
            // A set may be listed twice; without octets it is free already.
            if set.refs > 0 || set.octets.is_empty() {
                continue;
            }
            set.octets = Box::default();
            set.generation = set.generation.wrapping_add(1);
            self.index.remove(set.hash, id);
            self.free.push(id);
        }
    }

    fn hash(&self, class: u16, octets: &[u8], next_hop: Option<u32>) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        let mut hasher = foldhash::fast::FixedState::with_seed(self.seed).build_hasher();
        hasher.write_u64(u64::from(class) << 32 | u64::from(next_hop.unwrap_or(NONE)));
        hasher.write(octets);
        hasher.finish()
    }

    /// Bytes of heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let octets: usize = self.sets.iter().map(|s| s.octets.len()).sum();
        let aliases: usize = self
            .aliases
            .iter()
            .map(|a| a.octets.len() + size_of::<Alias>())
            .sum();
        self.sets.capacity() * size_of::<AttrSet>() + octets + aliases + self.index.heap_bytes()
    }
}

impl Alias {
    fn is(&self, hash: u64, class: u16, octets: &[u8], next_hop: Option<NextHop>) -> bool {
        self.hash == hash
            && self.class == class
            && self.mp_next_hop == next_hop
            && *self.octets == *octets
    }
}

/// Steps 1 to 5 of the decision process in one number, that of RFC 9494 section 4.3 among them.
fn rank(attrs: &PathAttrs, local: bool) -> u64 {
    let local_pref = u64::from(attrs.local_pref.unwrap_or(DEFAULT_LOCAL_PREF));
    let hops = u16::try_from(attrs.as_path.hops()).unwrap_or(u16::MAX);
    let origin = u8::MAX - attrs.origin as u8;
    let current = u64::from(!attrs.has_community(LLGR_STALE));
    u64::from(local) << 63
        | current << 62
        | local_pref << 24
        | u64::from(u16::MAX - hops) << 8
        | u64::from(origin)
}
