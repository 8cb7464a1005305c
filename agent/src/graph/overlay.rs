//! Which prefix leads to which other host by a way that a pool prescribes, kept by what changes.
//!
//! Other hosts' blocks come from their affinities, so that no route changes when a container comes or goes; an address
//! outside of its host's blocks (borrowed, or moved with its identity) has a route of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use margay_dataplane::wireguard::PublicKey;
use margay_model::kind::ResourceKey;
use margay_model::net::Cidr;

use super::Cache;
use super::cache::Kept;
use crate::derive::{Fabric, Through, TunnelKind, Tunnels};
use crate::translate::networks;

/// What changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) ways: Vec<(IpNetwork, Option<Through>)>,
    /// Which device that encrypts has a prefix, whichever way packets go there.
    pub(super) holders: Vec<(IpNetwork, Option<PublicKey>)>,
}

/// The state; of no cost where no pool asks for a tunnel.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    fabric: Fabric,
    /// This host's tunnel addresses, which its Node may not tell of yet.
    assigned: BTreeMap<TunnelKind, IpAddr>,
    /// Tunnels that this host's Node has just begun to tell of.
    unheard: BTreeSet<TunnelKind>,
    /// Every host's blocks.
    blocks: BTreeMap<IpNetwork, String>,
    /// Prefixes of endpoints that are not in a block of their host's.
    borrowed: BTreeMap<IpNetwork, BTreeMap<ResourceKey, String>>,
    told: BTreeMap<IpNetwork, Through>,
    /// The devices that encrypt, by what they have.
    told_holders: BTreeMap<IpNetwork, PublicKey>,
    /// To be decided anew.
    dirty: BTreeSet<IpNetwork>,
    all_dirty: bool,
    /// `borrowed` is to be made anew.
    borrowed_stale: bool,
}

impl Overlay {
    /// Pools, hosts or settings changed.
    pub(super) fn refresh(&mut self, cache: &Cache, node: &str) -> Tunnels {
        self.fabric = Fabric::of(cache, node);
        self.fabric.set_unheard(&self.unheard);
        self.all_dirty = true;
        self.borrowed_stale = true;
        self.fabric.tunnels(cache, node, &self.assigned)
    }

    /// A tunnel of this host has this address, or none any more. Takes effect with the next [`Self::refresh`].
    pub(super) fn assign(&mut self, kind: TunnelKind, address: Option<IpAddr>) {
        match address {
            Some(address) => self.assigned.insert(kind, address),
            None => self.assigned.remove(&kind),
        };
    }

    /// Whether others have heard what this host's Node tells of a tunnel. Takes effect with the next [`Self::refresh`].
    pub(super) fn heard(&mut self, kind: TunnelKind, heard: bool) {
        match heard {
            true => self.unheard.remove(&kind),
            false => self.unheard.insert(kind),
        };
    }

    /// A host has a block.
    pub(super) fn add_block(&mut self, block: IpNetwork, node: &str) {
        let before = self.blocks.insert(block, node.to_owned());
        match before {
            Some(before) if before == node => return,
            Some(_) => self.borrowed_stale = true,
            None => {
                let inside = self.borrowed.range(block..);
                let inside = inside.take_while(|(net, _)| block.contains(net.network()));
                let inside: Vec<_> = inside.map(|(net, _)| *net).collect();
                for net in inside {
                    self.dirty.insert(net);
                    if let Some(owners) = self.borrowed.get_mut(&net) {
                        owners.retain(|_, owner| owner != node);
                    }
                }
            }
        }
        self.dirty.insert(block);
    }

    /// A host has a block no more.
    pub(super) fn remove_block(&mut self, block: IpNetwork, node: &str) {
        if self.blocks.get(&block).is_some_and(|owner| owner == node) {
            self.blocks.remove(&block);
            self.dirty.insert(block);
            self.borrowed_stale = true;
        }
    }

    /// Only these blocks are anybody's.
    pub(super) fn retain_blocks(&mut self, keep: impl Fn(&IpNetwork, &str) -> bool) {
        let gone = self.blocks.iter().filter(|(net, node)| !keep(net, node));
        let gone: Vec<_> = gone.map(|(net, node)| (*net, node.clone())).collect();
        for (net, node) in gone {
            self.remove_block(net, &node);
        }
    }

    /// An endpoint changed; `cache` has it as it is now.
    pub(super) fn endpoint(&mut self, key: &ResourceKey, old: Option<&Kept>, cache: &Cache) {
        if !self.fabric.is_active() || self.borrowed_stale {
            return;
        }
        if let Some((_, nets)) = old.and_then(Kept::place) {
            for net in networks(nets) {
                if let Some(owners) = self.borrowed.get_mut(&net)
                    && owners.remove(key).is_some()
                {
                    self.dirty.insert(net);
                }
            }
        }
        if let Some(place) = cache.place(key) {
            self.note(key, place);
        }
    }

    fn note(&mut self, key: &ResourceKey, (node, nets): (&str, &[Cidr])) {
        for net in networks(nets) {
            let is_owner = |owner: &String| owner == node;
            if self.fabric.concerns(net) && !self.owner_of(net).is_some_and(is_owner) {
                let owners = self.borrowed.entry(net).or_default();
                owners.insert(key.clone(), node.to_owned());
                self.dirty.insert(net);
            }
        }
    }

    /// Whose block a prefix is in. Blocks do not overlap.
    fn owner_of(&self, net: IpNetwork) -> Option<&String> {
        let (block, owner) = self.blocks.range(..=net).next_back()?;
        block.contains(net.network()).then_some(owner)
    }

    /// Whether [`Overlay::changes`] has something to look at.
    pub(super) fn is_dirty(&self) -> bool {
        self.all_dirty || self.borrowed_stale || !self.dirty.is_empty()
    }

    /// What differs from what was told before.
    pub(super) fn changes(&mut self, cache: &Cache) -> Changes {
        if self.borrowed_stale {
            self.dirty.extend(self.borrowed.keys());
            self.borrowed.clear();
            if self.fabric.is_active() {
                for (key, place) in cache.places() {
                    self.note(key, place);
                }
            }
            self.borrowed_stale = false;
        }
        if std::mem::take(&mut self.all_dirty) {
            self.dirty.extend(self.told.keys());
            self.dirty.extend(self.told_holders.keys());
            if self.fabric.is_active() {
                self.dirty.extend(self.blocks.keys());
                self.dirty.extend(self.borrowed.keys());
                self.dirty.extend(self.fabric.vteps_v6());
            }
        }
        let vteps: BTreeSet<IpNetwork> = self.fabric.vteps_v6().collect();
        let mut changes = Changes::default();
        for net in std::mem::take(&mut self.dirty) {
            let through = self.decide(net, &vteps);
            let before = match through {
                Some(through) => self.told.insert(net, through),
                None => self.told.remove(&net),
            };
            if before != through {
                changes.ways.push((net, through));
            }
            let holder = self.holder(net);
            let before = match holder {
                Some(holder) => self.told_holders.insert(net, holder),
                None => self.told_holders.remove(&net),
            };
            if before != holder {
                changes.holders.push((net, holder));
            }
            if self.borrowed.get(&net).is_some_and(BTreeMap::is_empty) {
                self.borrowed.remove(&net);
            }
        }
        changes
    }

    fn decide(&self, net: IpNetwork, vteps: &BTreeSet<IpNetwork>) -> Option<Through> {
        if !self.fabric.is_active() {
            return None;
        }
        if vteps.contains(&net) {
            return Some(Through::Vtep);
        }
        self.owners(net)
            .find_map(|node| self.fabric.through(net, node))
    }

    /// The device of the host that has a prefix, if it has one that encrypts.
    fn holder(&self, net: IpNetwork) -> Option<PublicKey> {
        let owner = self.owners(net).next()?;
        self.fabric.holder(net, owner)
    }

    /// The hosts that have a prefix, the one that counts first.
    fn owners(&self, net: IpNetwork) -> impl Iterator<Item = &String> {
        let borrowers = self.borrowed.get(&net).into_iter().flatten();
        borrowers.map(|(_, node)| node).chain(self.blocks.get(&net))
    }
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;
