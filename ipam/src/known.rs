//! What the allocator last saw of the store. Hints only: each transaction compares what it uses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use margay_model::ipam::{
    Block, BlockAffinity, BlockCidr, Family, Handle, IpamKey, IpamKeys, Owner,
};
use margay_model::store::{KeyValue, Revision};

/// A record as last seen.
#[derive(Clone, Debug)]
pub(crate) enum Slot<T> {
    /// Looked for and not there.
    Absent,
    /// There, at this revision.
    Present(Revision, T),
    /// There, but damaged.
    Corrupt(Revision, String),
}

impl<T> Slot<T> {
    pub(crate) fn revision(&self) -> Revision {
        match self {
            Self::Absent => 0,
            Self::Present(revision, _) | Self::Corrupt(revision, _) => *revision,
        }
    }
}

/// What makes the transactions of an agent's earlier instances void, see
/// [`Allocator::fenced`](crate::Allocator::fenced).
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    pub(crate) key: String,
    /// Its value while this instance is the newest.
    pub(crate) instance: String,
    /// When it was last written; 0 when somebody removed it.
    pub(crate) revision: Revision,
}

/// Everything known: the node's own blocks and those it borrows from, its affinities, the handles
/// it made, and for the length of one run what had to be read.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) keys: IpamKeys,
    pub(crate) owner: Owner,
    pub(crate) fence: Option<Fence>,
    pub(crate) blocks: BTreeMap<BlockCidr, Slot<Arc<Block>>>,
    /// Own blocks whose affinity is confirmed.
    pub(crate) confirmed: BTreeSet<BlockCidr>,
    pub(crate) handles: BTreeMap<String, Slot<Handle>>,
    /// Pools by name that had no block to claim at that time.
    pub(crate) full: BTreeMap<String, Timestamp>,
    /// Assignments by handle whose answers were lost, with the blocks that they change and at which
    /// revision: they may still take effect while a block is there.
    pub(crate) unsettled: BTreeMap<String, BTreeMap<BlockCidr, Revision>>,
    /// Blocks seen since the run began.
    pub(crate) fresh: BTreeSet<BlockCidr>,
    listed: [bool; 2],
}

impl Known {
    pub(crate) fn new(keys: IpamKeys, node: &str) -> Self {
        Self {
            keys,
            owner: Owner::Host(node.to_owned()),
            fence: None,
            blocks: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            handles: BTreeMap::new(),
            full: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            fresh: BTreeSet::new(),
            listed: [false; 2],
        }
    }

    pub(crate) fn node(&self) -> &str {
        self.owner.name()
    }

    /// Whether all blocks of the family were read in this run.
    pub(crate) fn is_listed(&self, family: Family) -> bool {
        self.listed[family as usize]
    }

    /// Takes in a complete listing of a family's blocks.
    pub(crate) fn set_listing(&mut self, family: Family, kvs: &[KeyValue]) {
        self.blocks.retain(|cidr, _| cidr.family() != family);
        for kv in kvs {
            if let Some(IpamKey::Block(cidr)) = self.keys.parse(&kv.key) {
                self.set_block(cidr, Some(kv));
            }
        }
        self.listed[family as usize] = true;
    }

    /// Takes in what the store says of a block.
    pub(crate) fn set_block(&mut self, cidr: BlockCidr, kv: Option<&KeyValue>) {
        let slot = kv.map_or(Slot::Absent, |kv| {
            match Block::decode(&kv.key, cidr, &kv.value) {
                Ok(block) => Slot::Present(kv.mod_revision, Arc::new(block)),
                Err(error) => Slot::Corrupt(kv.mod_revision, error.to_string()),
            }
        });
        self.blocks.insert(cidr, slot);
        self.fresh.insert(cidr);
    }

    /// Takes in what the store says of a handle.
    pub(crate) fn set_handle(&mut self, id: &str, kv: Option<&KeyValue>) {
        let slot = kv.map_or(Slot::Absent, |kv| {
            match Handle::decode(&kv.key, &kv.value) {
                Ok(handle) => Slot::Present(kv.mod_revision, handle),
                Err(error) => Slot::Corrupt(kv.mod_revision, error.to_string()),
            }
        });
        self.handles.insert(id.to_owned(), slot);
    }

    /// Takes in a change that a watch reported. What is newer already, or of no interest, stays out.
    pub(crate) fn observe(&mut self, key: &str, value: Option<&[u8]>, revision: Revision) {
        let kv = value.map(|value| KeyValue {
            key: key.to_owned(),
            value: value.to_vec(),
            mod_revision: revision,
        });
        match self.keys.parse(key) {
            Some(IpamKey::Block(cidr)) => self.observe_block(cidr, kv.as_ref(), revision),
            Some(IpamKey::Affinity(owner, cidr)) if owner == self.owner => {
                let affinity = value.and_then(|v| BlockAffinity::decode(key, v).ok());
                if affinity.is_some_and(|a| a.is_confirmed()) {
                    self.confirmed.insert(cidr);
                } else {
                    self.confirmed.remove(&cidr);
                }
            }
            Some(IpamKey::Handle(id))
                if self
                    .handles
                    .get(&id)
                    .is_some_and(|known| known.revision() < revision) =>
            {
                self.set_handle(&id, kv.as_ref());
                self.forget_absent();
            }
            _ => {}
        }
    }

    fn observe_block(&mut self, cidr: BlockCidr, kv: Option<&KeyValue>, revision: Revision) {
        let seen = self.blocks.get(&cidr).map(Slot::revision);
        if seen.is_some_and(|seen| seen >= revision) {
            return;
        }
        self.set_block(cidr, kv);
        let ours = |slot: &Slot<Arc<Block>>| match slot {
            Slot::Present(_, block) => block.is_of_host(self.owner.name()),
            _ => false,
        };
        if seen.is_none() && !self.blocks.get(&cidr).is_some_and(ours) {
            self.blocks.remove(&cidr);
        }
        self.forget_absent();
    }

    fn forget_absent(&mut self) {
        self.blocks.retain(|_, slot| !matches!(slot, Slot::Absent));
        self.handles
            .retain(|_, slot| matches!(slot, Slot::Present(..)));
    }

    /// Begins a run: nothing counts as fresh.
    pub(crate) fn begin(&mut self) {
        self.fresh.clear();
        self.listed = [false; 2];
    }

    /// Notes that an assignment may take effect later, as far as these blocks do not change.
    pub(crate) fn unsettle(&mut self, handle: &str, cidr: BlockCidr, base: Revision) {
        let blocks = self.unsettled.entry(handle.to_owned()).or_default();
        blocks.insert(cidr, base);
    }

    /// Ends a run: keeps the node's own blocks and those in which it holds addresses.
    pub(crate) fn end(&mut self) {
        let blocks = &self.blocks;
        self.unsettled.retain(|_, unsettled| {
            // One that moved on is enough: a transaction takes effect whole.
            let moved = |(cidr, base): (&BlockCidr, &Revision)| {
                blocks
                    .get(cidr)
                    .is_some_and(|slot| slot.revision() != *base)
            };
            !unsettled.iter().any(moved)
        });
        self.forget_absent();
        if self.listed == [false; 2] {
            return;
        }
        let node = self.owner.name();
        self.blocks.retain(|_, slot| match slot {
            Slot::Present(_, block) => block.is_of_host(node) || holds_some(block, node),
            Slot::Absent | Slot::Corrupt(..) => false,
        });
    }
}

fn holds_some(block: &Block, node: &str) -> bool {
    let mut nodes = block
        .attributes
        .iter()
        .filter_map(|a| a.secondary.as_ref()?.get("node"));
    nodes.any(|n| n == node)
}
