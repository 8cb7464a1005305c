//! What belongs to a node: taking it in at start, showing it, giving it all back.

use std::collections::BTreeSet;

use margay_model::ipam::{BlockAffinity, BlockCidr, Family, IpamKey, Owner};
use margay_model::store::{KeyValue, Store, StoreError, Txn, TxnOutcome};

use super::Allocator;
use crate::block::Allocate;
use crate::error::IpamError;
use crate::known::Slot;
use crate::own_keys;
use crate::plan::MAX_TXN_OPS;
use crate::request::{GiveUpRequest, ReleaseIpRequest, Request};
use crate::usage::Usage;

/// What [`Allocator::load`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The node's blocks.
    pub blocks: Vec<BlockCidr>,
    /// Affinities that an unfinished claim or release of another agent left behind and that were
    /// confirmed (the block is this node's) or removed (it is not).
    pub repaired: Vec<BlockCidr>,
    /// Damaged records, each with its key.
    pub damaged: Vec<String>,
}

/// A block of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeBlock {
    /// The block.
    pub cidr: BlockCidr,
    /// Addresses in use.
    pub used: u32,
    /// Whether the affinity is confirmed: only then it is routed.
    pub confirmed: bool,
}

impl<S: Store> Allocator<S> {
    /// Reads the node's blocks, so that requests need no reads; repairs affinities that agents
    /// which write them separately left unfinished.
    pub async fn load(&mut self) -> Result<Loaded, StoreError> {
        self.put_up_fence().await?;
        let listing = self
            .store
            .list(&self.known.keys.affinities(&self.known.owner))
            .await?;
        let mut loaded = Loaded::default();
        self.known.confirmed.clear();
        for kv in &listing.kvs {
            let Some(IpamKey::Affinity(_, cidr)) = self.known.keys.parse(&kv.key) else {
                loaded
                    .damaged
                    .push(format!("{}: not an affinity's key", kv.key));
                continue;
            };
            self.read_block(cidr).await?;
            let confirmed =
                BlockAffinity::decode(&kv.key, &kv.value).is_ok_and(|a| a.is_confirmed());
            let own = match self.known.blocks.get(&cidr) {
                Some(Slot::Present(_, block)) => block.is_of_host(self.known.node()),
                Some(Slot::Corrupt(_, reason)) => {
                    loaded.damaged.push(reason.clone());
                    continue;
                }
                Some(Slot::Absent) | None => false,
            };
            if own {
                loaded.blocks.push(cidr);
            }
            if confirmed && own {
                self.known.confirmed.insert(cidr);
            } else if self.repair(cidr, kv, own).await? {
                loaded.repaired.push(cidr);
            }
        }
        self.known.end();
        Ok(loaded)
    }

    /// From here on the transactions of earlier instances fail.
    async fn put_up_fence(&mut self) -> Result<(), StoreError> {
        let Some(fence) = &mut self.known.fence else {
            return Ok(());
        };
        let txn = Txn::default().put(fence.key.as_str(), fence.instance.as_str());
        if let TxnOutcome::Committed(revision) = self.store.txn(txn).await? {
            fence.revision = revision;
        }
        Ok(())
    }

    /// Confirms or removes an affinity. A conflict means that somebody is at it: left to them.
    async fn repair(
        &mut self,
        cidr: BlockCidr,
        affinity: &KeyValue,
        own: bool,
    ) -> Result<bool, StoreError> {
        let base = self.known.blocks.get(&cidr).map_or(0, Slot::revision);
        let txn = Txn::default()
            .when(affinity.key.as_str(), affinity.mod_revision)
            .when(self.known.keys.block(cidr), base);
        let txn = match own {
            true => txn.put(affinity.key.as_str(), BlockAffinity::confirmed().to_json()),
            false => txn.delete(affinity.key.as_str()),
        };
        let done = matches!(self.store.txn(txn).await?, TxnOutcome::Committed(_));
        if done && own {
            self.known.confirmed.insert(cidr);
        }
        Ok(done)
    }

    /// This node's blocks as last seen, without asking the store.
    pub fn own_blocks(&self) -> Vec<NodeBlock> {
        let own = self
            .known
            .blocks
            .iter()
            .filter_map(|(cidr, slot)| match slot {
                Slot::Present(_, block) if block.is_of_host(self.known.node()) => Some(NodeBlock {
                    cidr: *cidr,
                    used: block.used() as u32,
                    confirmed: self.known.confirmed.contains(cidr),
                }),
                _ => None,
            });
        own.collect()
    }

    /// The blocks of any node, from the store.
    pub async fn blocks_of(&self, node: &str) -> Result<Vec<NodeBlock>, StoreError> {
        let owner = Owner::Host(node.to_owned());
        let listing = self.store.list(&self.known.keys.affinities(&owner)).await?;
        let mut blocks = Vec::new();
        for kv in &listing.kvs {
            let Some(IpamKey::Affinity(_, cidr)) = self.known.keys.parse(&kv.key) else {
                continue;
            };
            let key = self.known.keys.block(cidr);
            let stored = self.store.get(&key).await?;
            let block = stored
                .and_then(|kv| margay_model::ipam::Block::decode(&kv.key, cidr, &kv.value).ok());
            if let Some(block) = block.filter(|block| block.is_of_host(node)) {
                let affinity = BlockAffinity::decode(&kv.key, &kv.value);
                blocks.push(NodeBlock {
                    cidr,
                    used: block.used() as u32,
                    confirmed: affinity.is_ok_and(|a| a.is_confirmed()),
                });
            }
        }
        Ok(blocks)
    }

    /// How the pools are used, from the store.
    pub async fn usage(&self) -> Result<Usage, StoreError> {
        let mut kvs = Vec::new();
        for family in Family::ALL {
            kvs.extend(self.store.list(&self.known.keys.blocks(family)).await?.kvs);
        }
        Ok(Usage::new(&self.view.pools, &self.known.keys, &kvs))
    }

    /// Gives back every address and every block of a node that is gone for good. Returns how many
    /// addresses and blocks; the failures are those of single records.
    pub async fn release_node(
        &mut self,
        node: &str,
        now: jiff::Timestamp,
    ) -> Result<(usize, usize, Vec<IpamError>), StoreError> {
        // What its last agent had sent fails from here on.
        let ours = Txn::default()
            .delete(own_keys::instance(&self.root, node))
            .delete(own_keys::borrowed(&self.root) + node);
        self.store.txn(ours).await?;
        self.known.begin();
        for family in Family::ALL {
            let listing = self.store.list(&self.known.keys.blocks(family)).await?;
            self.known.set_listing(family, &listing.kvs);
        }
        let releases = self.addresses_of_node(node, now);
        let mut failures = Vec::new();
        let mut addresses = 0;
        // Each address with its handle is two compares beside its block's.
        for some in releases.chunks(MAX_TXN_OPS / 2) {
            let requests = some.iter().cloned().map(Request::ReleaseIp).collect();
            for result in self.run(requests).await {
                match result {
                    Ok(outcome) => addresses += outcome.addresses.len(),
                    Err(error) => failures.push(error),
                }
            }
        }
        let blocks: BTreeSet<BlockCidr> = self
            .blocks_of(node)
            .await?
            .into_iter()
            .map(|b| b.cidr)
            .collect();
        let give_up = |block| {
            Request::GiveUp(GiveUpRequest {
                block,
                node: node.to_owned(),
            })
        };
        let given_up = self.run(blocks.into_iter().map(give_up).collect()).await;
        let count = given_up.iter().filter(|r| r.is_ok()).count();
        failures.extend(given_up.into_iter().filter_map(Result::err));
        Ok((addresses, count, failures))
    }

    fn addresses_of_node(&self, node: &str, now: jiff::Timestamp) -> Vec<ReleaseIpRequest> {
        let mut releases = Vec::new();
        for slot in self.known.blocks.values() {
            let Slot::Present(_, block) = slot else {
                continue;
            };
            for ordinal in 0..block.cidr.size() {
                let held = block.attribute(ordinal).filter(|a| !a.is_resting());
                let on_node = held.filter(|a| {
                    a.secondary
                        .as_ref()
                        .and_then(|s| s.get("node"))
                        .is_some_and(|n| n == node)
                });
                if let (Some(held), Some(ip)) = (on_node, block.cidr.address(ordinal)) {
                    releases.push(ReleaseIpRequest {
                        ip,
                        sequence: block.allocation_sequence.get(&ordinal).copied(),
                        handle_id: held.handle().map(str::to_owned),
                        now,
                        extra: crate::request::Extra::default(),
                    });
                }
            }
        }
        releases
    }
}
