//! Block arithmetic: which addresses are free, taken or resting. No store, no clock.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use margay_model::ipam::{AllocationAttribute, Block};

use crate::address_set::AddressSet;

/// The address asked for is held.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken(pub Arc<AllocationAttribute>);

/// Allocation in a block. Changes none of the other fields; the writer advances the sequence number.
pub trait Allocate {
    /// Takes up to `n` addresses from the front of the free queue, leaving out reserved ones.
    fn allocate_next(
        &mut self,
        n: usize,
        attribute: &Arc<AllocationAttribute>,
        reserved: &AddressSet,
    ) -> Vec<IpAddr>;

    /// Takes the address at `ordinal`. An address that rests is taken as well: the caller decides
    /// whether it may be (see [`AllocationAttribute::is_resting`]).
    fn allocate_at(
        &mut self,
        ordinal: u32,
        attribute: &Arc<AllocationAttribute>,
    ) -> Result<(), Taken>;

    /// Makes `attribute` the one of an address that is held; a free or resting one stays as it is.
    fn replace(&mut self, ordinal: u32, attribute: &Arc<AllocationAttribute>);

    /// Gives back those of `ordinals` that are held; free and resting ones stay as they are. With
    /// `rest_from` they rest first, without they join the end of the free queue at once.
    /// Returns how many were given back.
    fn release(&mut self, ordinals: &[u32], rest_from: Option<Timestamp>) -> usize;

    /// Frees the addresses that have rested for `cooldown_secs`; the longest rested come first.
    /// Returns how many.
    fn end_rest(&mut self, now: Timestamp, cooldown_secs: u32) -> usize;

    /// The ordinals that `handle` holds, resting ones excluded.
    fn ordinals_of(&self, handle: &str) -> Vec<u32>;

    /// Addresses held by somebody, resting ones excluded.
    fn used(&self) -> usize;

    /// Addresses that rest.
    fn resting(&self) -> usize;

    /// Whether nothing is held and nothing rests.
    fn is_vacant(&self) -> bool;
}

impl Allocate for Block {
    fn allocate_next(
        &mut self,
        n: usize,
        attribute: &Arc<AllocationAttribute>,
        reserved: &AddressSet,
    ) -> Vec<IpAddr> {
        if n == 0 || self.unallocated.is_empty() || reserved.covers(self.cidr) {
            return Vec::new();
        }
        let mut taken = Vec::new();
        let mut passed_over = Vec::new();
        while taken.len() < n {
            let Some(ordinal) = self.unallocated.pop_front() else {
                break;
            };
            match self.cidr.address(ordinal) {
                Some(ip) if !reserved.contains(ip) => taken.push((ordinal, ip)),
                _ => passed_over.push(ordinal),
            }
        }
        for ordinal in passed_over.into_iter().rev() {
            self.unallocated.push_front(ordinal);
        }
        if !taken.is_empty() {
            let index = index_of(self, attribute);
            for (ordinal, _) in &taken {
                hold(self, *ordinal, index);
            }
        }
        taken.into_iter().map(|(_, ip)| ip).collect()
    }

    fn allocate_at(
        &mut self,
        ordinal: u32,
        attribute: &Arc<AllocationAttribute>,
    ) -> Result<(), Taken> {
        match self.attribute(ordinal) {
            Some(held) if !held.is_resting() => return Err(Taken(Arc::clone(held))),
            Some(_) => {}
            None => self.unallocated.retain(|o| *o != ordinal),
        }
        let index = index_of(self, attribute);
        hold(self, ordinal, index);
        drop_unused_attributes(self);
        Ok(())
    }

    fn replace(&mut self, ordinal: u32, attribute: &Arc<AllocationAttribute>) {
        if self.attribute(ordinal).is_some_and(|a| !a.is_resting()) {
            let index = index_of(self, attribute);
            hold(self, ordinal, index);
            drop_unused_attributes(self);
        }
    }

    fn release(&mut self, ordinals: &[u32], rest_from: Option<Timestamp>) -> usize {
        let mut released = 0;
        for &ordinal in ordinals {
            let Some(held) = self.attribute(ordinal).filter(|a| !a.is_resting()) else {
                continue;
            };
            let resting = rest_from.map(|now| {
                Arc::new(AllocationAttribute {
                    released_at: Some(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
                    ..AllocationAttribute::clone(held)
                })
            });
            self.allocation_sequence.remove(&ordinal);
            let index = resting.map(|attribute| index_of(self, &attribute));
            if index.is_none() {
                self.unallocated.push_back(ordinal);
            }
            self.allocations[ordinal as usize] = index;
            released += 1;
        }
        if released > 0 {
            drop_unused_attributes(self);
        }
        released
    }

    fn end_rest(&mut self, now: Timestamp, cooldown_secs: u32) -> usize {
        if !self.attributes.iter().any(|a| a.is_resting()) {
            return 0;
        }
        let mut rested: Vec<(Timestamp, u32)> = (0..self.cidr.size())
            .filter_map(|ordinal| {
                let since = rest_start(self.attribute(ordinal)?)?;
                let secs = now.as_second().saturating_sub(since.as_second());
                // A clock that was far ahead when the address was released must not hold it for
                // ever: a rest that begins in the future is over once it is longer than any rest.
                let over = secs >= i64::from(cooldown_secs) || secs < -FUTURE_SECS;
                over.then_some((since, ordinal))
            })
            .collect();
        rested.sort_unstable();
        for (_, ordinal) in &rested {
            self.allocations[*ordinal as usize] = None;
            self.unallocated.push_back(*ordinal);
        }
        if !rested.is_empty() {
            drop_unused_attributes(self);
        }
        rested.len()
    }

    fn ordinals_of(&self, handle: &str) -> Vec<u32> {
        // One look at each attribute, then numbers only: blocks have few attributes a handle.
        let ours: Vec<bool> = self
            .attributes
            .iter()
            .map(|a| !a.is_resting() && a.handle() == Some(handle))
            .collect();
        if !ours.contains(&true) {
            return Vec::new();
        }
        let held = self.allocations.iter().zip(0u32..);
        held.filter(|(index, _)| {
            index.is_some_and(|i| ours.get(i as usize).copied().unwrap_or_default())
        })
        .map(|(_, ordinal)| ordinal)
        .collect()
    }

    fn used(&self) -> usize {
        self.allocations.len() - self.unallocated.len() - self.resting()
    }

    fn resting(&self) -> usize {
        let resting: Vec<bool> = self.attributes.iter().map(|a| a.is_resting()).collect();
        let indexes = self.allocations.iter().flatten();
        indexes
            .filter(|i| resting.get(**i as usize).copied().unwrap_or_default())
            .count()
    }

    fn is_vacant(&self) -> bool {
        self.allocations.iter().all(Option::is_none)
    }
}

/// How far in the future a rest may begin: clocks of hosts differ by less.
const FUTURE_SECS: i64 = 3600;

/// When a resting address was released; unreadable times count as long ago.
fn rest_start(attribute: &AllocationAttribute) -> Option<Timestamp> {
    let text = attribute.released_at.as_deref()?;
    Some(text.parse().unwrap_or(Timestamp::UNIX_EPOCH))
}

fn hold(block: &mut Block, ordinal: u32, index: u32) {
    block.allocations[ordinal as usize] = Some(index);
    block
        .allocation_sequence
        .insert(ordinal, block.sequence_number);
}

/// The index of an equal attribute, added when there is none.
fn index_of(block: &mut Block, attribute: &Arc<AllocationAttribute>) -> u32 {
    let found = block.attributes.iter().position(|a| a == attribute);
    let index = found.unwrap_or_else(|| {
        block.attributes.push(Arc::clone(attribute));
        block.attributes.len() - 1
    });
    u32::try_from(index).expect("a block has at most 4096 attributes")
}

/// Removes attributes that no allocation points to, and closes the gaps.
fn drop_unused_attributes(block: &mut Block) {
    let mut moved_to: Vec<Option<u32>> = vec![None; block.attributes.len()];
    for index in block.allocations.iter().flatten() {
        moved_to[*index as usize] = Some(0);
    }
    let mut next = 0;
    for slot in moved_to.iter_mut().flatten() {
        *slot = next;
        next += 1;
    }
    if next as usize == block.attributes.len() {
        return;
    }
    let mut used = moved_to.iter().map(Option::is_some);
    block.attributes.retain(|_| used.next().unwrap_or_default());
    for index in block.allocations.iter_mut().flatten() {
        *index = moved_to[*index as usize].unwrap_or_default();
    }
}

#[cfg(test)]
mod tests;
