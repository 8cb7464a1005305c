//! Giving addresses and blocks back.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use margay_model::ipam::{Block, BlockCidr, Family, Owner};

use super::assign::describe;
use super::{Accepted, Need, Plan, Stop};
use crate::block::Allocate;
use crate::error::IpamError;
use crate::known::Slot;
use crate::request::{
    Address, Extra, GiveUpRequest, Outcome, ReleaseIpRequest, ReleaseRequest, Skipped,
};

impl Plan<'_> {
    pub(super) fn release(&mut self, request: &ReleaseRequest) -> Result<Accepted, Stop> {
        let id = &request.handle_id;
        let Some(mut handle) = self.known_handle(id)? else {
            return self.release_everywhere(request);
        };
        let mut outcome = Outcome::default();
        for cidr in self.blocks_of_handle(id, handle.handle.blocks.keys().copied()) {
            match self.known.blocks.get(&cidr) {
                None => return Err(Stop::Need(Need::Block(cidr))),
                // It may have been repaired since.
                Some(Slot::Corrupt(..)) if !self.known.fresh.contains(&cidr) => {
                    return Err(Stop::Need(Need::Block(cidr)));
                }
                Some(Slot::Corrupt(_, reason)) => {
                    // The rest goes; what this block holds stays on record for the repair.
                    let reason = reason.clone();
                    outcome.skipped.push(Skipped {
                        block: cidr,
                        reason,
                    });
                    continue;
                }
                Some(Slot::Absent | Slot::Present(..)) => {}
            }
            outcome
                .addresses
                .extend(self.release_in(cidr, id, request.now));
            handle.changed |= handle.handle.blocks.remove(&cidr).is_some();
        }
        // A handle without any block is a leftover of an unfinished assignment.
        handle.changed |= handle.base > 0 && handle.handle.blocks.is_empty();
        self.put_handle(id, handle);
        self.fence(id, request.now)?;
        Ok(Accepted {
            index: 0,
            outcome,
            fresh: Vec::new(),
            extra: request.extra.clone(),
        })
    }

    /// The handle after a look into the store; `None` when its record is damaged.
    pub(super) fn known_handle(&self, id: &str) -> Result<Option<super::HandleDraft>, Stop> {
        match self.known.handles.get(id) {
            None => Err(Stop::Need(Need::Handle(id.to_owned()))),
            Some(Slot::Corrupt(..)) => Ok(None),
            Some(_) => self.handle(id).map(Some),
        }
    }

    /// The blocks that the handle names, and those known to hold addresses of it all the same.
    pub(super) fn blocks_of_handle(
        &self,
        id: &str,
        named: impl Iterator<Item = BlockCidr>,
    ) -> BTreeSet<BlockCidr> {
        let holds = |cidr: &BlockCidr| {
            self.current(*cidr)
                .is_some_and(|(_, block)| !block.ordinals_of(id).is_empty())
        };
        named
            .chain(self.blocks().into_iter().filter(holds))
            .collect()
    }

    /// For a handle whose record is damaged: looks through all blocks, then removes the record.
    fn release_everywhere(&mut self, request: &ReleaseRequest) -> Result<Accepted, Stop> {
        let id = &request.handle_id;
        if self.handles.contains_key(id) {
            return Err(Stop::Defer);
        }
        if let Some(family) = Family::ALL.into_iter().find(|f| !self.known.is_listed(*f)) {
            return Err(Stop::Need(Need::Blocks(family)));
        }
        let mut outcome = Outcome::default();
        for cidr in self.blocks_of_handle(id, std::iter::empty()) {
            outcome
                .addresses
                .extend(self.release_in(cidr, id, request.now));
        }
        let base = self.known.handles.get(id).map_or(0, Slot::revision);
        let draft = super::HandleDraft {
            base,
            handle: margay_model::ipam::Handle::default(),
            changed: true,
        };
        self.put_handle(id, draft);
        self.fence(id, request.now)?;
        Ok(Accepted {
            index: 0,
            outcome,
            fresh: Vec::new(),
            extra: request.extra.clone(),
        })
    }

    /// Sees to it that an assignment of this handle whose answer was lost, and which may be under
    /// way still, does not take effect once its release has: the block must have moved on.
    pub(super) fn fence(&mut self, id: &str, now: Timestamp) -> Result<(), Stop> {
        let known = self.known;
        for (cidr, base) in known.unsettled.get(id).into_iter().flatten() {
            let slot = known.blocks.get(cidr);
            let slot = slot.ok_or(Stop::Need(Need::Block(*cidr)))?;
            if slot.revision() != *base || self.drafts.get(cidr).is_some_and(|d| d.changed) {
                continue;
            }
            match slot {
                Slot::Present(_, block) => self.change(*base, Block::clone(block)),
                // It would make the block as well.
                Slot::Absent => self.create(*cidr, true, now),
                // It cannot have been planned.
                Slot::Corrupt(..) => {}
            }
        }
        Ok(())
    }

    /// Gives back what `handle` holds in one block.
    fn release_in(&mut self, cidr: BlockCidr, handle: &str, now: Timestamp) -> Vec<Address> {
        let Some((base, current)) = self.current(cidr) else {
            return Vec::new();
        };
        let current = Arc::clone(current);
        let ordinals = current.ordinals_of(handle);
        if ordinals.is_empty() {
            self.rely_on(base, &current);
            return Vec::new();
        }
        self.give_back(base, &current, &ordinals, now)
    }

    fn give_back(
        &mut self,
        base: i64,
        current: &Arc<Block>,
        ordinals: &[u32],
        now: Timestamp,
    ) -> Vec<Address> {
        let cidr = current.cidr;
        let addresses = ordinals
            .iter()
            .filter_map(|o| self.address(current, *o))
            .collect();
        let mut block = self.rested(current, now);
        let rests = self.view.config.cooldown_secs() > 0 && self.pool_of(cidr).is_some();
        block.release(ordinals, rests.then_some(now));
        let vacant = block.is_vacant();
        let owner = block.owner();
        self.change(base, block);
        if vacant && !self.is_wanted(cidr, owner.as_ref()) {
            self.remove(cidr, owner);
        }
        addresses
    }

    fn pool_of(&self, cidr: BlockCidr) -> Option<&crate::pool::Pool> {
        self.view
            .pools
            .iter()
            .find(|pool| pool.contains_block(cidr))
    }

    /// Whether an empty block stays: with another owner always, while its pool is there; with this
    /// node while the pool still serves it; with nobody never.
    fn is_wanted(&self, cidr: BlockCidr, owner: Option<&Owner>) -> bool {
        let pool = self.pool_of(cidr);
        match owner {
            None => self
                .current(cidr)
                .is_some_and(|(_, block)| block.affinity.is_some()),
            Some(Owner::Virtual(_)) => true,
            Some(Owner::Host(node)) if node == self.known.node() => {
                pool.is_some_and(|pool| !pool.disabled && pool.selects_node)
            }
            Some(Owner::Host(_)) => pool.is_some(),
        }
    }

    fn remove(&mut self, cidr: BlockCidr, owner: Option<Owner>) {
        if let Some(draft) = self.drafts.get_mut(&cidr) {
            draft.changed = true;
            draft.remove = true;
        }
        if let Some(owner) = owner {
            self.affinity(cidr, owner, false);
        }
    }

    pub(super) fn release_ip(&mut self, request: &ReleaseIpRequest) -> Result<Accepted, Stop> {
        let nothing = |extra: &Extra| Accepted {
            index: 0,
            outcome: Outcome::default(),
            fresh: Vec::new(),
            extra: extra.clone(),
        };
        let Some((base, block, ordinal)) = self.find(request.ip)? else {
            return Ok(nothing(&request.extra));
        };
        let Some(held) = block
            .attribute(ordinal)
            .filter(|a| !a.is_resting())
            .cloned()
        else {
            self.rely_on(base, &block);
            return Ok(nothing(&request.extra));
        };
        let sequence = block.allocation_sequence.get(&ordinal).copied();
        let other_handle = request
            .handle_id
            .as_deref()
            .filter(|id| held.handle() != Some(id));
        let other_time = request
            .sequence
            .filter(|expected| sequence != Some(*expected));
        if other_handle.is_some() || other_time.is_some() {
            let text = |handle: Option<&str>, sequence: Option<u64>| {
                let handle = handle.unwrap_or("any handle");
                sequence.map_or(handle.to_owned(), |s| format!("{handle} since {s}"))
            };
            return Err(Stop::Fail(IpamError::Mismatch {
                ip: request.ip,
                found: text(Some(&describe(&held)), sequence),
                expected: text(request.handle_id.as_deref(), request.sequence),
            }));
        }
        if let Some(id) = held.handle()
            && let Some(mut handle) = self.known_handle(id)?
        {
            handle.changed = handle.base > 0;
            handle.handle.remove(block.cidr, 1);
            self.put_handle(id, handle);
        }
        let addresses = self.give_back(base, &block, &[ordinal], request.now);
        Ok(Accepted {
            index: 0,
            outcome: Outcome {
                addresses,
                ..Outcome::default()
            },
            fresh: Vec::new(),
            extra: request.extra.clone(),
        })
    }

    /// The block that holds `ip`, seen in this run; `None` when there is none.
    fn find(&self, ip: IpAddr) -> Result<Option<(i64, Arc<Block>, u32)>, Stop> {
        let family = Family::of(ip);
        let Some(cidr) = self.blocks().into_iter().find(|cidr| cidr.contains(ip)) else {
            return match self.known.is_listed(family) {
                true => Ok(None),
                false => Err(Stop::Need(Need::Blocks(family))),
            };
        };
        if !self.known.fresh.contains(&cidr) && !self.drafts.contains_key(&cidr) {
            return Err(Stop::Need(Need::Block(cidr)));
        }
        let found = self.current(cidr).zip(cidr.ordinal(ip));
        Ok(found.map(|((base, block), ordinal)| (base, Arc::clone(block), ordinal)))
    }

    pub(super) fn give_up(&mut self, request: &GiveUpRequest) -> Result<Accepted, Stop> {
        let cidr = request.block;
        if !self.known.fresh.contains(&cidr) && !self.drafts.contains_key(&cidr) {
            return Err(Stop::Need(Need::Block(cidr)));
        }
        if let Some(Slot::Corrupt(_, reason)) = self.known.blocks.get(&cidr) {
            return Err(Stop::Fail(IpamError::Corrupt(reason.clone())));
        }
        let owner = Owner::Host(request.node.clone());
        let current = self
            .current(cidr)
            .map(|(base, block)| (base, Block::clone(block)));
        if let Some((base, mut block)) = current.filter(|(_, b)| b.is_of_host(&request.node)) {
            let vacant = block.used() == 0;
            block.affinity = None;
            block.affinity_claim_time = None;
            block.other.remove("hostAffinity");
            self.change(base, block);
            self.affinity(cidr, owner.clone(), false);
            if vacant {
                self.remove(cidr, Some(owner));
            }
        }
        Ok(Accepted {
            index: 0,
            outcome: Outcome::default(),
            fresh: Vec::new(),
            extra: Extra::default(),
        })
    }
}
