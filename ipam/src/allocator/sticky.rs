//! Looking up who has an identity's addresses, and whose time is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use margay_model::ipam::{Block, BlockCidr, Family, IpamKey, Owner};
use margay_model::store::{Store, StoreError};

use super::Allocator;
use crate::block::Allocate;
use crate::error::IpamError;
use crate::known::Slot;
use crate::own_keys;
use crate::request::{Address, Extra, Outcome, ParkRequest, ReleaseIpRequest, Request};
use crate::sticky::{Held, parked_until};

impl<S: Store> Allocator<S> {
    /// Parks the addresses of an identity whose container goes.
    pub async fn park(&mut self, request: ParkRequest) -> Result<Outcome, IpamError> {
        self.run_one(Request::Park(request)).await
    }

    /// The addresses that a handle holds according to the store, with what is recorded beside them.
    pub async fn held_by(&mut self, id: &str) -> Result<Vec<Held>, IpamError> {
        let kv = self.store.get(&self.known.keys.handle(id)).await?;
        self.known.set_handle(id, kv.as_ref());
        let handle = match self.known.handles.get(id) {
            Some(Slot::Present(_, handle)) => handle.clone(),
            Some(Slot::Corrupt(_, reason)) => return Err(IpamError::Corrupt(reason.clone())),
            Some(Slot::Absent) | None => return Ok(Vec::new()),
        };
        let mut held = Vec::new();
        for cidr in handle.blocks.into_keys() {
            self.read_block(cidr).await?;
            match self.known.blocks.get(&cidr) {
                Some(Slot::Present(_, block)) => {
                    let node = self.known.node();
                    let ordinals = Allocate::ordinals_of(block.as_ref(), id);
                    held.extend(ordinals.into_iter().filter_map(|o| held_at(block, o, node)));
                }
                Some(Slot::Corrupt(_, reason)) => return Err(IpamError::Corrupt(reason.clone())),
                Some(Slot::Absent) | None => {}
            }
        }
        Ok(held)
    }

    /// Everything that is held in this node's own blocks and in those that [`own_keys::borrowed`] names,
    /// from the store. Damaged records are left out: [`Allocator::load`] and the consistency check report
    /// them.
    pub async fn held_nearby(&self) -> Result<Vec<Held>, StoreError> {
        let node = self.known.node();
        let owner = Owner::Host(node.to_owned());
        let listing = self.store.list(&self.known.keys.affinities(&owner)).await?;
        let own = listing.kvs.iter().filter_map(|kv| {
            let parsed = self.known.keys.parse(&kv.key);
            parsed.and_then(|key| match key {
                IpamKey::Affinity(_, cidr) => Some(cidr),
                _ => None,
            })
        });
        let mut blocks: BTreeSet<BlockCidr> = own.collect();
        let borrowed = own_keys::borrowed(&self.root) + node;
        if let Some(kv) = self.store.get(&borrowed).await? {
            blocks.extend(own_keys::borrowed_blocks(&kv.value));
        }
        let mut held = Vec::new();
        for cidr in blocks {
            let kv = self.store.get(&self.known.keys.block(cidr)).await?;
            let block = kv.and_then(|kv| Block::decode(&kv.key, cidr, &kv.value).ok());
            held.extend(block.iter().flat_map(|block| all_held(block, node)));
        }
        Ok(held)
    }

    /// The hosts that own blocks by their affinities: without reading the blocks.
    pub async fn owners(&self) -> Result<BTreeSet<String>, StoreError> {
        let listing = self
            .store
            .list(&format!("{}host/", self.known.keys.all()))
            .await?;
        let keys = listing.kvs.iter();
        let owners = keys.filter_map(|kv| match self.known.keys.parse(&kv.key) {
            Some(IpamKey::Affinity(Owner::Host(node), _)) => Some(node),
            _ => None,
        });
        Ok(owners.collect())
    }

    /// Everything that is held in any block, and the blocks with their owners, from the store.
    pub async fn held_everywhere(
        &self,
    ) -> Result<(Vec<Held>, BTreeMap<BlockCidr, Option<Owner>>), StoreError> {
        let mut held = Vec::new();
        let mut owners = BTreeMap::new();
        for family in Family::ALL {
            for kv in self.store.list(&self.known.keys.blocks(family)).await?.kvs {
                let Some(IpamKey::Block(cidr)) = self.known.keys.parse(&kv.key) else {
                    continue;
                };
                if let Ok(block) = Block::decode(&kv.key, cidr, &kv.value) {
                    owners.insert(cidr, block.owner());
                    held.extend(all_held(&block, self.known.node()));
                }
            }
        }
        Ok((held, owners))
    }
}

impl Held {
    /// Whether the address is parked and its time is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        parked_until(&self.attribute).is_some_and(|until| until <= now)
    }

    /// Gives the address back, unless it was handed over since it was looked at.
    pub fn release(&self, now: Timestamp) -> ReleaseIpRequest {
        ReleaseIpRequest {
            ip: self.address.ip,
            sequence: self.sequence,
            handle_id: self.attribute.handle().map(str::to_owned),
            now,
            extra: Extra::default(),
        }
    }
}

fn all_held(block: &Block, node: &str) -> Vec<Held> {
    (0..block.cidr.size())
        .filter_map(|ordinal| held_at(block, ordinal, node))
        .collect()
}

fn held_at(block: &Block, ordinal: u32, node: &str) -> Option<Held> {
    let attribute = block.attribute(ordinal).filter(|a| !a.is_resting())?;
    Some(Held {
        address: Address {
            ip: block.cidr.address(ordinal)?,
            block: block.cidr,
            borrowed: !block.is_of_host(node),
        },
        attribute: Arc::clone(attribute),
        sequence: block.allocation_sequence.get(&ordinal).copied(),
    })
}
