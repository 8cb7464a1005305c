//! Which host has which block: what the block affinities say.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use margay_datastore::SyncEvent;
use margay_model::ipam::{BlockAffinity, BlockCidr, IpamKey, IpamKeys, Owner};
use margay_model::store::KeyValue;
use tracing::warn;

use super::Graph;

impl Graph {
    pub(super) fn affinity_event(&mut self, event: SyncEvent) {
        match event {
            SyncEvent::Init => self.affinity_listing = Some(BTreeSet::new()),
            SyncEvent::InitApply(kv) | SyncEvent::Apply(kv) => {
                if let Some(listing) = &mut self.affinity_listing {
                    listing.insert(kv.key.clone());
                }
                self.affinity(&kv);
            }
            SyncEvent::InitDone { .. } => {
                if let Some(listing) = self.affinity_listing.take() {
                    self.blocks.retain(|key, _| listing.contains(key));
                    self.dirty.blocks = true;
                    let keys = &self.ipam_keys;
                    self.overlay
                        .retain_blocks(|block, node| listing.contains(&key_of(keys, block, node)));
                }
                self.affinities_in_sync = true;
            }
            SyncEvent::Delete { key, .. } => {
                self.dirty.blocks |= self.blocks.remove(&key).is_some();
                if let Some((node, block)) = self.affine(&key) {
                    self.overlay.remove_block(block, &node);
                }
            }
        }
    }

    fn affinity(&mut self, kv: &KeyValue) {
        let Some((node, block)) = self.affine(&kv.key) else {
            return;
        };
        // A pending affinity counts as absent: the block may turn out to be another host's.
        let confirmed = match BlockAffinity::decode(&kv.key, &kv.value) {
            Ok(affinity) => affinity.is_confirmed(),
            Err(error) => {
                warn!(key = kv.key, %error, "block affinity ignored");
                false
            }
        };
        match confirmed {
            true => self.overlay.add_block(block, &node),
            false => self.overlay.remove_block(block, &node),
        }
        if node == self.node {
            let block = confirmed.then_some(block);
            let before = match block {
                Some(block) => self.blocks.insert(kv.key.clone(), block),
                None => self.blocks.remove(&kv.key),
            };
            self.dirty.blocks |= before != block;
        }
    }

    /// The host and the block of an affinity.
    fn affine(&self, key: &str) -> Option<(String, IpNetwork)> {
        match self.ipam_keys.parse(key)? {
            IpamKey::Affinity(Owner::Host(node), cidr) => {
                let block = IpNetwork::new(cidr.network(), cidr.prefix_len()).ok()?;
                Some((node, block))
            }
            _ => None,
        }
    }
}

/// Where the affinity of a node to a block is kept.
fn key_of(keys: &IpamKeys, block: &IpNetwork, node: &str) -> String {
    match BlockCidr::containing(block.network(), block.prefix()) {
        Ok(cidr) => keys.affinity(&Owner::Host(node.to_owned()), cidr),
        Err(_) => String::new(),
    }
}
