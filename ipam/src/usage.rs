//! How full pools and blocks are, and who sits in whose block: what `ipam show` prints.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_model::ipam::{Block, BlockCidr, IpamKey, IpamKeys};
use margay_model::store::KeyValue;

use crate::block::Allocate;
use crate::pool::Pools;

/// How a pool is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// The pool's name.
    pub name: String,
    /// Its range.
    pub cidr: String,
    /// Addresses in the range.
    pub size: u128,
    /// Addresses held.
    pub used: u64,
    /// Addresses released a moment ago.
    pub resting: u64,
    /// Blocks made.
    pub blocks: usize,
}

impl PoolUsage {
    /// Addresses that are neither held nor rest.
    pub fn free(&self) -> u128 {
        self.size
            .saturating_sub(u128::from(self.used + self.resting))
    }
}

/// How a block is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockUsage {
    /// The block.
    pub cidr: BlockCidr,
    /// The pool that it lies in; `None` when that was deleted.
    pub pool: Option<String>,
    /// Whom it is affine to, `host:n1`.
    pub affinity: Option<String>,
    /// Addresses held.
    pub used: usize,
    /// Addresses released a moment ago.
    pub resting: usize,
}

impl BlockUsage {
    /// Addresses that are neither held nor rest.
    pub fn free(&self) -> usize {
        self.cidr.size() as usize - self.used - self.resting
    }
}

/// An address that a node holds in a block which is not its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Borrowed {
    /// The address.
    pub ip: IpAddr,
    /// Its block.
    pub block: BlockCidr,
    /// Whom the block is affine to.
    pub affinity: Option<String>,
    /// The node that holds the address.
    pub node: String,
    /// The handle that holds it.
    pub handle_id: Option<String>,
}

/// The use of all pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Pools by name.
    pub pools: Vec<PoolUsage>,
    /// Blocks by address.
    pub blocks: Vec<BlockUsage>,
    /// Borrowed addresses.
    pub borrowed: Vec<Borrowed>,
    /// Damaged records, each with its key.
    pub damaged: Vec<String>,
}

impl Usage {
    /// Counts what is in `kvs`, the stored blocks of both families.
    pub fn new(pools: &Pools, keys: &IpamKeys, kvs: &[KeyValue]) -> Self {
        let mut usage = Self::default();
        let mut blocks = BTreeMap::new();
        for kv in kvs {
            match keys.parse(&kv.key) {
                Some(IpamKey::Block(cidr)) => match Block::decode(&kv.key, cidr, &kv.value) {
                    Ok(block) => {
                        blocks.insert(cidr, block);
                    }
                    Err(error) => usage.damaged.push(error.to_string()),
                },
                _ => usage.damaged.push(format!("{}: not a block's key", kv.key)),
            }
        }
        for (cidr, block) in &blocks {
            usage.borrowed.extend(borrowed(block));
            usage.blocks.push(BlockUsage {
                cidr: *cidr,
                pool: pools
                    .iter()
                    .find(|p| p.contains_block(*cidr))
                    .map(|p| p.name.clone()),
                affinity: block.affinity.clone(),
                used: block.used(),
                resting: block.resting(),
            });
        }
        for pool in pools.iter() {
            let inside = |b: &&BlockUsage| b.pool.as_ref() == Some(&pool.name);
            let blocks: Vec<_> = usage.blocks.iter().filter(inside).collect();
            usage.pools.push(PoolUsage {
                name: pool.name.clone(),
                cidr: pool.cidr.to_string(),
                size: pool.size(),
                used: blocks.iter().map(|b| b.used as u64).sum(),
                resting: blocks.iter().map(|b| b.resting as u64).sum(),
                blocks: blocks.len(),
            });
        }
        usage
    }
}

fn borrowed(block: &Block) -> impl Iterator<Item = Borrowed> {
    (0..block.cidr.size()).filter_map(|ordinal| {
        let held = block.attribute(ordinal).filter(|a| !a.is_resting())?;
        let node = held.secondary.as_ref()?.get("node")?;
        if block.is_of_host(node) {
            return None;
        }
        Some(Borrowed {
            ip: block.cidr.address(ordinal)?,
            block: block.cidr,
            affinity: block.affinity.clone(),
            node: node.clone(),
            handle_id: held.handle_id.clone(),
        })
    })
}
