//! Every address on record, and the sums.

use std::net::IpAddr;

use jiff::Timestamp;
use margay_model::ipam::BlockCidr;

use super::Snapshot;
use super::judge::assigned;
use crate::block::Allocate;

/// An address that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressUse {
    /// The address.
    pub ip: IpAddr,
    /// Its block.
    pub block: BlockCidr,
    /// Who holds it.
    pub handle: Option<String>,
    /// The node that took it.
    pub node: Option<String>,
    /// Since when, if that can be read.
    pub since: Option<Timestamp>,
    /// When it was released, if it rests (RFC 3339).
    pub released_at: Option<String>,
    /// The node took it out of another one's block.
    pub borrowed: bool,
    /// The endpoints and nodes that name it.
    pub users: Vec<String>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Nodes.
    pub nodes: usize,
    /// Pools.
    pub pools: usize,
    /// Blocks, also damaged ones.
    pub blocks: usize,
    /// Handles.
    pub handles: usize,
    /// Addresses held.
    pub in_use: usize,
    /// Addresses that rest.
    pub resting: usize,
    /// Addresses held in a block of another node: no error.
    pub borrowed: usize,
    /// Addresses that endpoints and nodes name.
    pub named: usize,
}

impl Snapshot {
    /// Every address that is held or rests, in ascending order within its block.
    pub fn addresses(&self) -> impl Iterator<Item = AddressUse> {
        self.readable().flat_map(|block| {
            (0..block.cidr.size()).filter_map(|ordinal| {
                let held = block.attribute(ordinal)?;
                let ip = block.cidr.address(ordinal)?;
                let node = held.secondary.as_ref().and_then(|s| s.get("node"));
                Some(AddressUse {
                    ip,
                    block: block.cidr,
                    handle: held.handle().map(str::to_owned),
                    node: node.cloned(),
                    since: assigned(held),
                    released_at: held.released_at.clone(),
                    borrowed: !held.is_resting() && node.is_some_and(|n| !block.is_of_host(n)),
                    users: self.users(ip).iter().map(|u| u.name.clone()).collect(),
                })
            })
        })
    }

    /// The sums.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary {
            nodes: self.nodes.len(),
            pools: self.pools.iter().count(),
            blocks: self.blocks.len(),
            handles: self.handles.len(),
            named: self.users.len(),
            ..Summary::default()
        };
        for block in self.readable() {
            summary.in_use += block.used();
            summary.resting += block.resting();
        }
        summary.borrowed = self.addresses().filter(|address| address.borrowed).count();
        summary
    }
}
