//! What a check looks at: everything of address management, and who names which address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use margay_model::any::AnyResource;
use margay_model::ipam::{
    Block, BlockAffinity, BlockCidr, DecodeError, Family, Handle, IpamConfig, IpamKey, IpamKeys,
    Owner,
};
use margay_model::keys::Keys;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::net::Cidr;
use margay_model::store::{KeyValue, Op, Revision, Txn};
use margay_model::stored::decode_stored;

use super::user::{User, users_of};
use crate::address_set::AddressSet;
use crate::allocator::View;
use crate::known::Slot;
use crate::pool::{Pool, Pools};

/// The resources that a check needs beside the records of address management.
pub const RESOURCE_KINDS: [Kind; 4] = [
    Kind::WorkloadEndpoint,
    Kind::Node,
    Kind::IpPool,
    Kind::IpReservation,
];

/// Two listings: the records of address management at one revision, and resources of
/// [`RESOURCE_KINDS`] that were read *after* them. The order matters: see [`super::confirmed`].
#[derive(Debug)]
pub struct Snapshot {
    pub(super) keys: Keys,
    pub(super) ipam_keys: IpamKeys,
    pub(super) blocks: BTreeMap<BlockCidr, Slot<Arc<Block>>>,
    pub(super) affinities: BTreeMap<(Owner, BlockCidr), Slot<BlockAffinity>>,
    pub(super) handles: BTreeMap<String, Slot<Handle>>,
    pub(super) config: IpamConfig,
    /// Keys below address management that name nothing, and a damaged configuration.
    pub(super) strange: BTreeMap<String, (Revision, String)>,
    pub(super) pools: Pools,
    pub(super) reserved: AddressSet,
    /// Nodes with the revision of their resource.
    pub(super) nodes: BTreeMap<String, Revision>,
    pub(super) users: BTreeMap<IpAddr, Vec<User>>,
    /// Resources that do not decode, with what is wrong.
    pub(super) damaged: BTreeMap<ResourceKey, String>,
}

fn slot<T>(revision: Revision, decoded: Result<T, DecodeError>) -> Slot<T> {
    match decoded {
        Ok(record) => Slot::Present(revision, record),
        Err(error) => Slot::Corrupt(revision, error.problem.to_string()),
    }
}

impl Snapshot {
    /// Reads the listings. `ipam` is everything below [`IpamKeys::all`].
    pub fn new(keys: &Keys, ipam: &[KeyValue], resources: &[KeyValue]) -> Self {
        let mut snapshot = Self {
            ipam_keys: IpamKeys::new(keys.prefix()),
            keys: keys.clone(),
            blocks: BTreeMap::new(),
            affinities: BTreeMap::new(),
            handles: BTreeMap::new(),
            config: IpamConfig::default(),
            strange: BTreeMap::new(),
            pools: Pools::default(),
            reserved: AddressSet::default(),
            nodes: BTreeMap::new(),
            users: BTreeMap::new(),
            damaged: BTreeMap::new(),
        };
        for kv in ipam {
            snapshot.take_in(&kv.key, &kv.value, kv.mod_revision);
        }
        snapshot.take_in_resources(resources);
        snapshot
    }

    fn take_in(&mut self, key: &str, value: &[u8], revision: Revision) {
        match self.ipam_keys.parse(key) {
            Some(IpamKey::Block(cidr)) => {
                let block = Block::decode(key, cidr, value).map(Arc::new);
                self.blocks.insert(cidr, slot(revision, block));
            }
            Some(IpamKey::Affinity(owner, cidr)) => {
                let affinity = slot(revision, BlockAffinity::decode(key, value));
                self.affinities.insert((owner, cidr), affinity);
            }
            Some(IpamKey::Handle(id)) => {
                let handle = slot(revision, Handle::decode(key, value));
                self.handles.insert(id, handle);
            }
            Some(IpamKey::Config) => match IpamConfig::decode(key, value) {
                Ok(config) => self.config = config,
                Err(error) => {
                    let reason = error.problem.to_string();
                    self.strange.insert(key.to_owned(), (revision, reason));
                }
            },
            None => {
                let reason = "the key names no record of address management".to_owned();
                self.strange.insert(key.to_owned(), (revision, reason));
            }
        }
    }

    fn take_in_resources(&mut self, resources: &[KeyValue]) {
        let mut pools = Vec::new();
        let mut reserved: Vec<Cidr> = Vec::new();
        for kv in resources {
            let Some(key) = self.keys.parse(&kv.key) else {
                continue;
            };
            if !RESOURCE_KINDS.contains(&key.kind) {
                continue;
            }
            let resource = match decode_stored(&key, &kv.value) {
                Ok(resource) => resource,
                Err(error) => {
                    self.damaged.insert(key, error.to_string());
                    continue;
                }
            };
            for (ip, user) in users_of(&resource, &kv.key, kv.mod_revision) {
                self.users.entry(ip).or_default().push(user);
            }
            match resource {
                AnyResource::IpPool(pool) => pools.push(Pool::new(&pool, |_| true)),
                AnyResource::IpReservation(reservation) => {
                    reserved.extend(reservation.spec.reserved_cidrs);
                }
                AnyResource::Node(node) => {
                    self.nodes.insert(node.metadata.name, kv.mod_revision);
                }
                _ => {}
            }
        }
        self.pools = Pools::new(pools);
        self.reserved = reserved.into_iter().collect();
    }

    /// Takes over a transaction that was committed at `revision`, so that the next repair of the same
    /// records builds on it.
    pub fn apply(&mut self, txn: &Txn, revision: Revision) {
        for op in &txn.ops {
            match (op, self.ipam_keys.parse(op.key())) {
                (Op::Put { key, value }, Some(_)) => {
                    self.strange.remove(key);
                    self.take_in(key, value, revision);
                }
                (Op::Delete { .. }, Some(IpamKey::Block(cidr))) => {
                    self.blocks.remove(&cidr);
                }
                (Op::Delete { .. }, Some(IpamKey::Affinity(owner, cidr))) => {
                    self.affinities.remove(&(owner, cidr));
                }
                (Op::Delete { .. }, Some(IpamKey::Handle(id))) => {
                    self.handles.remove(&id);
                }
                _ => {}
            }
        }
    }

    /// The block that an address lies in, whatever its size. Where blocks overlap, the one that has
    /// the address assigned, or else the smallest.
    pub(super) fn block_of(&self, ip: IpAddr) -> Option<BlockCidr> {
        let lengths = (0..=Family::of(ip).bits()).rev();
        let around = lengths.map_while(|len| BlockCidr::containing(ip, len).ok());
        let mut smallest = None;
        for cidr in around.filter(|cidr| self.blocks.contains_key(cidr)) {
            let (block, ordinal) = (self.block(cidr), cidr.ordinal(ip));
            let held = block
                .zip(ordinal)
                .and_then(|((_, block), ordinal)| block.attribute(ordinal));
            if held.is_some_and(|held| !held.is_resting()) {
                return Some(cidr);
            }
            smallest = smallest.or(Some(cidr));
        }
        smallest
    }

    /// A readable block with its revision.
    pub(super) fn block(&self, cidr: BlockCidr) -> Option<(Revision, &Arc<Block>)> {
        match self.blocks.get(&cidr)? {
            Slot::Present(revision, block) => Some((*revision, block)),
            Slot::Absent | Slot::Corrupt(..) => None,
        }
    }

    /// All readable blocks.
    pub(super) fn readable(&self) -> impl Iterator<Item = &Arc<Block>> {
        self.blocks.values().filter_map(|slot| match slot {
            Slot::Present(_, block) => Some(block),
            Slot::Absent | Slot::Corrupt(..) => None,
        })
    }

    pub(super) fn is_corrupt(&self, cidr: BlockCidr) -> bool {
        matches!(self.blocks.get(&cidr), Some(Slot::Corrupt(..)))
    }

    pub(super) fn revision_of_block(&self, cidr: BlockCidr) -> Revision {
        self.blocks.get(&cidr).map_or(0, Slot::revision)
    }

    pub(super) fn revision_of_affinity(&self, owner: &Owner, cidr: BlockCidr) -> Revision {
        let slot = self.affinities.get(&(owner.clone(), cidr));
        slot.map_or(0, Slot::revision)
    }

    pub(super) fn revision_of_handle(&self, id: &str) -> Revision {
        self.handles.get(id).map_or(0, Slot::revision)
    }

    pub(super) fn users(&self, ip: IpAddr) -> &[User] {
        self.users.get(&ip).map_or(&[], Vec::as_slice)
    }

    /// Why nobody can say which addresses are used: an endpoint or a node that cannot be read.
    pub(super) fn blind_spot(&self) -> Option<&ResourceKey> {
        let mut damaged = self.damaged.keys();
        damaged.find(|key| matches!(key.kind, Kind::WorkloadEndpoint | Kind::Node))
    }

    /// Whether a pool cannot be read.
    pub(super) fn pools_unclear(&self) -> Option<&ResourceKey> {
        self.damaged.keys().find(|key| key.kind == Kind::IpPool)
    }

    /// How many addresses of which blocks a handle holds, according to the blocks.
    pub(super) fn tally(&self, id: &str) -> BTreeMap<BlockCidr, u32> {
        use crate::block::Allocate;
        let mut tally = BTreeMap::new();
        for block in self.readable() {
            let held = block.ordinals_of(id).len() as u32;
            if held > 0 {
                tally.insert(block.cidr, held);
            }
        }
        tally
    }

    /// The names of the endpoints and nodes that name an address.
    pub fn names_of(&self, ip: IpAddr) -> Vec<&str> {
        let users = self.users(ip).iter();
        users.map(|user| user.name.as_str()).collect()
    }

    /// The readable blocks of a node, and those it has an affinity to that cannot be read.
    pub fn blocks_of(&self, node: &str) -> BTreeSet<BlockCidr> {
        let owned = self.readable().filter(|block| block.is_of_host(node));
        let claimed = self.affinities.keys().filter(|(owner, cidr)| {
            *owner == Owner::Host(node.to_owned()) && self.is_corrupt(*cidr)
        });
        let owned = owned.map(|block| block.cidr);
        owned.chain(claimed.map(|(_, cidr)| *cidr)).collect()
    }

    /// The configuration, for an allocator that acts for no particular node.
    pub fn view(&self) -> View {
        View {
            pools: self.pools.clone(),
            reserved: self.reserved.clone(),
            config: self.config.clone(),
        }
    }

    /// Who names which address.
    pub fn users_by_address(&self) -> impl Iterator<Item = (IpAddr, &[User])> {
        self.users.iter().map(|(ip, users)| (*ip, users.as_slice()))
    }
}
