//! Addresses of identities: from one container to the next, and parked in between.

use std::sync::Arc;

use margay_model::ipam::{Block, BlockCidr};

use super::assign::{Assignment, describe};
use super::{Accepted, Fresh, Need, Plan, Stop};
use crate::block::Allocate;
use crate::error::IpamError;
use crate::known::Slot;
use crate::request::{Address, Outcome, ParkRequest};
use crate::sticky::{CONTAINER, LEASE_UNTIL, attr, parked};

impl Plan<'_> {
    /// Makes the request's workload the holder of an address that its handle has.
    pub(super) fn take_over(
        &mut self,
        a: &mut Assignment<'_>,
        base: i64,
        block: &Arc<Block>,
        address: Address,
    ) -> Result<(), Stop> {
        let Some(ordinal) = block.cidr.ordinal(address.ip) else {
            return Ok(());
        };
        let Some(held) = block.attribute(ordinal) else {
            return Ok(());
        };
        if *held == a.attribute {
            self.rely_on(base, block);
            return Ok(());
        }
        let seen = a.request.take_over.as_deref().unwrap_or_default();
        if !seen.contains(held) {
            if base > 0 && !self.known.fresh.contains(&block.cidr) {
                return Err(Stop::Need(Need::Block(block.cidr)));
            }
            return Err(Stop::Fail(IpamError::Moved {
                ip: address.ip,
                to: describe(held),
            }));
        }
        let mut block = Block::clone(block);
        block.replace(ordinal, &a.attribute);
        a.moved.push(Fresh {
            block: block.cidr,
            ordinal,
            sequence: block.sequence_number,
            attribute: Arc::clone(&a.attribute),
        });
        self.change(base, block);
        Ok(())
    }

    /// Parks what a container holds of a handle; what has another holder by now stays as it is.
    pub(super) fn park(&mut self, request: &ParkRequest) -> Result<Accepted, Stop> {
        let id = &request.handle_id;
        let Some(handle) = self.known_handle(id)? else {
            let reason = format!("handle {id} is damaged");
            return Err(Stop::Fail(IpamError::Corrupt(reason)));
        };
        let mut addresses = Vec::new();
        let mut fresh = Vec::new();
        let named = handle.handle.blocks.keys().copied();
        for cidr in self.blocks_of_handle(id, named) {
            match self.known.blocks.get(&cidr) {
                None => return Err(Stop::Need(Need::Block(cidr))),
                Some(Slot::Corrupt(_, reason)) => {
                    return Err(Stop::Fail(IpamError::Corrupt(reason.clone())));
                }
                Some(Slot::Absent | Slot::Present(..)) => {}
            }
            self.park_in(cidr, request, &mut addresses, &mut fresh);
        }
        self.put_handle(id, handle);
        self.fence(id, request.now)?;
        Ok(Accepted {
            index: 0,
            outcome: Outcome {
                addresses,
                ..Outcome::default()
            },
            fresh,
            extra: request.extra.clone(),
        })
    }

    fn park_in(
        &mut self,
        cidr: BlockCidr,
        request: &ParkRequest,
        addresses: &mut Vec<Address>,
        fresh: &mut Vec<Fresh>,
    ) {
        let Some((base, current)) = self.current(cidr) else {
            return;
        };
        let current = Arc::clone(current);
        let mut block = Block::clone(&current);
        let before = addresses.len();
        for ordinal in current.ordinals_of(&request.handle_id) {
            let held = current.attribute(ordinal).filter(|held| {
                attr(held, CONTAINER) == Some(&request.container)
                    && attr(held, LEASE_UNTIL).is_none()
            });
            let Some(held) = held else { continue };
            let attribute = Arc::new(parked(held, request.now));
            block.replace(ordinal, &attribute);
            addresses.extend(self.address(&current, ordinal));
            fresh.push(Fresh {
                block: cidr,
                ordinal,
                sequence: block.sequence_number,
                attribute,
            });
        }
        if addresses.len() == before {
            self.rely_on(base, &current);
        } else {
            self.change(base, block);
        }
    }
}
