//! Taking addresses: own blocks, then new ones, then empty ones of others, then single addresses
//! of others.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use margay_model::ipam::{AllocationAttribute, Block, BlockCidr, Family, Owner, go_timestamp};

use super::{Accepted, Fresh, HandleDraft, Need, Plan, Stop};
use crate::address_set::AddressSet;
use crate::block::{Allocate, Taken};
use crate::error::IpamError;
use crate::known::Slot;
use crate::pool::Pool;
use crate::request::{Address, AssignRequest, Outcome};

/// For how long it is not looked again whether a full pool has a block to claim, in seconds.
const FULL_RECHECK_SECS: i64 = 5;
/// An empty block is not taken from its host before it is this old, in seconds.
const MIN_RECLAIM_AGE_SECS: i64 = 60;

/// One assignment on its way into the plan.
pub(super) struct Assignment<'r> {
    pub(super) request: &'r AssignRequest,
    pub(super) attribute: Arc<AllocationAttribute>,
    handle: HandleDraft,
    /// Addresses of the handle that do not serve the request yet.
    held: Vec<Address>,
    got: Vec<Address>,
    fresh: Vec<Fresh>,
    /// Addresses that the handle had and that have a new holder.
    pub(super) moved: Vec<Fresh>,
}

impl Plan<'_> {
    pub(super) fn assign(&mut self, request: &AssignRequest) -> Result<Accepted, Stop> {
        let handle = self.handle(&request.handle_id)?;
        let held = match request.adopt {
            true => self.held(&request.handle_id, &handle)?,
            false => Vec::new(),
        };
        let mut assignment = Assignment {
            attribute: self.attribute(request),
            request,
            handle,
            held,
            got: Vec::new(),
            fresh: Vec::new(),
            moved: Vec::new(),
        };
        for ip in &request.ips {
            self.specific(&mut assignment, *ip)?;
        }
        for (family, n) in [(Family::V4, request.v4), (Family::V6, request.v6)] {
            self.automatic(&mut assignment, family, n as usize)?;
        }
        Ok(self.accept(assignment))
    }

    fn accept(&mut self, assignment: Assignment<'_>) -> Accepted {
        let Assignment {
            request,
            mut handle,
            got,
            mut fresh,
            moved,
            ..
        } = assignment;
        for taken in &fresh {
            handle.handle.add(taken.block, 1);
            handle.changed = true;
        }
        fresh.extend(moved);
        self.put_handle(&request.handle_id, handle);
        let extra = (request.extra)(&got);
        Accepted {
            index: 0,
            outcome: Outcome {
                addresses: got,
                ..Outcome::default()
            },
            fresh,
            extra,
        }
    }

    fn attribute(&self, request: &AssignRequest) -> Arc<AllocationAttribute> {
        let mut secondary = request.attrs.clone();
        secondary
            .entry("node".to_owned())
            .or_insert_with(|| self.known.node().to_owned());
        secondary
            .entry("timestamp".to_owned())
            .or_insert_with(|| go_timestamp(request.now));
        Arc::new(AllocationAttribute {
            handle_id: Some(request.handle_id.clone()),
            secondary: Some(secondary),
            ..AllocationAttribute::default()
        })
    }

    /// The addresses that the handle holds already. The plan relies on all blocks that the handle names,
    /// also on those that seem to hold nothing of it: what is known of them may be older than the handle.
    fn held(&mut self, id: &str, handle: &HandleDraft) -> Result<Vec<Address>, Stop> {
        let mut held = Vec::new();
        for cidr in handle.handle.blocks.keys() {
            if !self.known.blocks.contains_key(cidr) {
                return Err(Stop::Need(Need::Block(*cidr)));
            }
            let Some((base, block)) = self.current(*cidr) else {
                if !self.known.fresh.contains(cidr) {
                    return Err(Stop::Need(Need::Block(*cidr)));
                }
                continue;
            };
            let block = Arc::clone(block);
            self.rely_on(base, &block);
            let ordinals = block.ordinals_of(id);
            held.extend(ordinals.into_iter().filter_map(|o| self.address(&block, o)));
        }
        Ok(held)
    }

    /// Counts an address that the handle holds as taken by this request.
    fn adopt(&mut self, assignment: &mut Assignment<'_>, at: usize) -> Result<(), Stop> {
        let address = assignment.held.remove(at);
        if let Some((base, block)) = self.current(address.block) {
            let block = Arc::clone(block);
            match assignment.request.take_over {
                Some(_) => self.take_over(assignment, base, &block, address)?,
                None => self.rely_on(base, &block),
            }
        }
        // Written although it stays as it is: whoever is about to free the address because nothing
        // used it compares the handle, and so learns that something does.
        assignment.handle.changed = true;
        assignment.got.push(address);
        Ok(())
    }

    fn automatic(
        &mut self,
        assignment: &mut Assignment<'_>,
        family: Family,
        n: usize,
    ) -> Result<(), Stop> {
        let target = assignment.got.len() + n;
        while assignment.got.len() < target {
            match assignment
                .held
                .iter()
                .position(|a| Family::of(a.ip) == family)
            {
                Some(at) => self.adopt(assignment, at)?,
                None => break,
            }
        }
        if assignment.got.len() == target {
            return Ok(());
        }
        let request = assignment.request;
        let requested = match family {
            Family::V4 => &request.v4_pools,
            Family::V6 => &request.v6_pools,
        };
        let view = self.view;
        let namespace = request.namespace.as_ref();
        let pools = view
            .pools
            .select(requested, family, request.wanted, |selector| {
                namespace.is_some_and(|matches| matches(selector))
            })?;
        self.take_from_own_blocks(assignment, &pools, target);
        if assignment.got.len() < target && view.config.auto_allocate_blocks {
            self.take_from_new_blocks(assignment, &pools, family, target)?;
        }
        if assignment.got.len() < target && !view.config.strict_affinity {
            self.take_from_others(assignment, &pools, target);
        }
        if assignment.got.len() == target {
            return Ok(());
        }
        if !self.known.is_listed(family) {
            return Err(Stop::Need(Need::Blocks(family)));
        }
        Err(Stop::Fail(self.exhausted(request, &pools, family)))
    }

    fn take_from_own_blocks(&mut self, a: &mut Assignment<'_>, pools: &[&Pool], target: usize) {
        for pool in pools {
            for cidr in self.blocks() {
                if a.got.len() >= target {
                    return;
                }
                if pool.contains_block(cidr) && self.is_own(cidr) {
                    self.take(a, cidr, target);
                }
            }
        }
    }

    /// Takes addresses of one block up to the target.
    fn take(&mut self, assignment: &mut Assignment<'_>, cidr: BlockCidr, target: usize) {
        let Some((base, current)) = self.current(cidr) else {
            return;
        };
        let mut block = self.rested(current, assignment.request.now);
        let wanted = target - assignment.got.len();
        let ips = block.allocate_next(wanted, &assignment.attribute, &self.view.reserved);
        if !ips.is_empty() {
            self.record(assignment, base, block, &ips);
        }
    }

    fn record(&mut self, a: &mut Assignment<'_>, base: i64, block: Block, ips: &[IpAddr]) {
        for ordinal in ips.iter().filter_map(|ip| block.cidr.ordinal(*ip)) {
            a.got.extend(self.address(&block, ordinal));
            a.fresh.push(Fresh {
                block: block.cidr,
                ordinal,
                sequence: block.sequence_number,
                attribute: Arc::clone(&a.attribute),
            });
        }
        self.change(base, block);
    }

    /// Claims free blocks, then empty ones of other hosts, while the node may have more.
    fn take_from_new_blocks(
        &mut self,
        assignment: &mut Assignment<'_>,
        pools: &[&Pool],
        family: Family,
        target: usize,
    ) -> Result<(), Stop> {
        if self.own_blocks(family) >= self.view.config.max_blocks() as usize {
            return Ok(());
        }
        let now = assignment.request.now;
        if !self.known.is_listed(family) {
            let recently_full = |pool: &&Pool| {
                let at = self.known.full.get(&pool.name);
                at.is_some_and(|at| now.as_second() - at.as_second() < FULL_RECHECK_SECS)
            };
            return match pools.iter().all(recently_full) {
                true => Ok(()),
                false => Err(Stop::Need(Need::Blocks(family))),
            };
        }
        while assignment.got.len() < target
            && self.own_blocks(family) < self.view.config.max_blocks() as usize
        {
            let claimed = pools.iter().find_map(|pool| self.claim_free(pool, now));
            let claimed = claimed.or_else(|| pools.iter().find_map(|pool| self.reclaim(pool, now)));
            let Some(cidr) = claimed else {
                self.full
                    .extend(pools.iter().map(|pool| (pool.name.clone(), now)));
                break;
            };
            let before = assignment.got.len();
            self.take(assignment, cidr, target);
            if assignment.got.len() == before {
                // Nothing usable in it after all: claiming on would not end.
                break;
            }
        }
        Ok(())
    }

    fn own_blocks(&self, family: Family) -> usize {
        let blocks = self.blocks();
        blocks
            .into_iter()
            .filter(|c| c.family() == family && self.is_own(*c))
            .count()
    }

    fn claim_free(&mut self, pool: &Pool, now: Timestamp) -> Option<BlockCidr> {
        let known = self.known.blocks.iter();
        let stored = known
            .filter(|(_, slot)| !matches!(slot, Slot::Absent))
            .map(|(cidr, _)| *cidr);
        let occupied: AddressSet = stored.chain(self.drafts.keys().copied()).collect();
        let seed = seed(self.known.node(), &pool.name);
        let cidr = pool.free_block(seed, &occupied, &self.view.reserved)?;
        self.create(cidr, true, now);
        Some(cidr)
    }

    pub(super) fn create(&mut self, cidr: BlockCidr, own: bool, now: Timestamp) {
        let mut block = Block::new(cidr, now);
        if own {
            block.claim(&self.known.owner, now);
        }
        self.change(0, block);
        if own {
            // Even if the affinity was known to be confirmed: it comes with its block.
            self.affinity(cidr, self.known.owner.clone(), true);
        }
    }

    /// Takes over an empty block of another host, or of nobody.
    fn reclaim(&mut self, pool: &Pool, now: Timestamp) -> Option<BlockCidr> {
        let mut candidates: Vec<BlockCidr> = self
            .blocks()
            .into_iter()
            .filter(|c| pool.contains_block(*c))
            .collect();
        rotate(&mut candidates, seed(self.known.node(), &pool.name));
        candidates.into_iter().find(|cidr| {
            let Some((base, current)) = self.current(*cidr) else {
                return false;
            };
            let mut block = self.rested(current, now);
            let previous = block.owner();
            let free = match &previous {
                None => block.affinity.is_none(),
                Some(Owner::Host(host)) => host != self.known.node() && is_old(&block, now),
                Some(Owner::Virtual(_)) => false,
            };
            let usable = !self.view.reserved.covers(*cidr);
            if !free || !usable || !block.is_vacant() {
                return false;
            }
            block.claim(&self.known.owner, now);
            self.change(base, block);
            self.affinity(*cidr, self.known.owner.clone(), true);
            if let Some(previous) = previous {
                self.affinity(*cidr, previous, false);
            }
            true
        })
    }

    fn take_from_others(&mut self, a: &mut Assignment<'_>, pools: &[&Pool], target: usize) {
        for pool in pools {
            let mut candidates: Vec<BlockCidr> = self
                .blocks()
                .into_iter()
                .filter(|c| pool.contains_block(*c) && !self.is_own(*c))
                .collect();
            rotate(&mut candidates, seed(self.known.node(), &pool.name));
            for cidr in candidates {
                if a.got.len() >= target {
                    return;
                }
                if self.may_borrow(cidr) {
                    self.take(a, cidr, target);
                }
            }
        }
    }

    fn may_borrow(&self, cidr: BlockCidr) -> bool {
        self.current(cidr)
            .is_some_and(|(_, block)| match block.owner() {
                Some(Owner::Host(_)) => true,
                Some(Owner::Virtual(_)) => false,
                None => block.affinity.is_none(),
            })
    }

    fn exhausted(&self, request: &AssignRequest, pools: &[&Pool], family: Family) -> IpamError {
        let mut hint = String::new();
        let own = self.own_blocks(family);
        let max = self.view.config.max_blocks();
        let in_pools = self.blocks();
        let in_pools = in_pools
            .iter()
            .filter(|c| pools.iter().any(|p| p.contains_block(**c)));
        let resting: usize = in_pools
            .filter_map(|cidr| self.current(*cidr))
            .map(|(_, block)| self.rested(block, request.now).resting())
            .sum();
        if resting > 0 {
            hint += &format!(
                "; {resting} were released less than {} s ago and rest",
                self.view.config.cooldown_secs()
            );
        }
        if own >= max as usize {
            hint += &format!("; the node has {own} blocks, maxBlocksPerHost allows {max}");
        }
        if !self.view.config.auto_allocate_blocks {
            hint += "; autoAllocateBlocks is off";
        }
        if self.view.config.strict_affinity {
            hint += "; strictAffinity forbids addresses of other hosts' blocks";
        }
        let names: Vec<_> = pools
            .iter()
            .map(|p| format!("{} ({})", p.name, p.cidr))
            .collect();
        IpamError::Exhausted {
            family,
            node: self.known.node().to_owned(),
            pools: names.join(", "),
            hint,
        }
    }

    fn specific(&mut self, assignment: &mut Assignment<'_>, ip: IpAddr) -> Result<(), Stop> {
        if let Some(at) = assignment.held.iter().position(|a| a.ip == ip) {
            return self.adopt(assignment, at);
        }
        let request = assignment.request;
        let pool = self.view.pools.for_address(ip, request.wanted)?;
        let Some(cidr) = self.block_of(ip, pool)? else {
            if self.view.reserved.contains(ip) {
                return Err(Stop::Fail(IpamError::Reserved { ip }));
            }
            let cidr = BlockCidr::containing(ip, pool.block_len)
                .expect("the pool's block size was checked against its family");
            let own = pool.selects_node
                && self.own_blocks(cidr.family()) < self.view.config.max_blocks() as usize;
            if !own && self.view.config.strict_affinity {
                let owner = "nobody".to_owned();
                return Err(Stop::Fail(IpamError::StrictAffinity { ip, owner }));
            }
            self.create(cidr, own, request.now);
            return self.take_at(assignment, cidr, ip);
        };
        self.take_at(assignment, cidr, ip)
    }

    /// The block that holds `ip`, whatever its size; `None` when there is none for certain.
    fn block_of(&self, ip: IpAddr, pool: &Pool) -> Result<Option<BlockCidr>, Stop> {
        if let Some(cidr) = self.blocks().into_iter().find(|c| c.contains(ip)) {
            return Ok(Some(cidr));
        }
        let cidr = BlockCidr::containing(ip, pool.block_len)
            .expect("the pool's block size was checked against its family");
        if self.drafts.contains_key(&cidr) {
            // An earlier request of this plan removes it.
            return Err(Stop::Defer);
        }
        match self.known.blocks.get(&cidr) {
            Some(Slot::Corrupt(_, reason)) => Err(Stop::Fail(IpamError::Corrupt(reason.clone()))),
            None => Err(Stop::Need(Need::Block(cidr))),
            // Blocks of another size may lie there, from before the pool was made anew.
            _ if !self.known.is_listed(cidr.family()) => {
                Err(Stop::Need(Need::Blocks(cidr.family())))
            }
            _ => Ok(None),
        }
    }

    fn take_at(&mut self, a: &mut Assignment<'_>, cidr: BlockCidr, ip: IpAddr) -> Result<(), Stop> {
        let Some(ordinal) = cidr.ordinal(ip) else {
            return Ok(());
        };
        let Some((base, current)) = self.current(cidr) else {
            return Err(Stop::Defer);
        };
        let current = Arc::clone(current);
        let held = current.attribute(ordinal).filter(|held| !held.is_resting());
        let same = held.is_some_and(|held| held.handle() == Some(&a.request.handle_id));
        if same && a.request.adopt {
            return self.take_back(a, base, &current, ordinal);
        }
        let mut block = self.rested(&current, a.request.now);
        let refusal = self.refusal(a.request, &block, ordinal, ip);
        let refusal = refusal.or_else(|| match block.allocate_at(ordinal, &a.attribute) {
            Ok(()) => None,
            Err(Taken(by)) => Some(IpamError::Taken {
                ip,
                by: describe(&by),
            }),
        });
        match refusal {
            None => {
                self.record(a, base, block, &[ip]);
                Ok(())
            }
            // What was seen some time ago is no reason to refuse.
            Some(_) if base > 0 && !self.known.fresh.contains(&cidr) => {
                Err(Stop::Need(Need::Block(cidr)))
            }
            Some(refusal) => Err(Stop::Fail(refusal)),
        }
    }

    /// Adopts an address that the block says is the handle's, although the handle, as far as it
    /// is known, does not: looks at the handle, and completes it if that is so.
    fn take_back(
        &mut self,
        a: &mut Assignment<'_>,
        base: i64,
        block: &Arc<Block>,
        ordinal: u32,
    ) -> Result<(), Stop> {
        let id = &a.request.handle_id;
        if !self.known.handles.contains_key(id) {
            return Err(Stop::Need(Need::Handle(id.clone())));
        }
        a.got.extend(self.address(block, ordinal));
        a.handle.handle.add(block.cidr, 1);
        a.handle.changed = true;
        self.rely_on(base, block);
        Ok(())
    }

    fn refusal(
        &self,
        request: &AssignRequest,
        block: &Block,
        ordinal: u32,
        ip: IpAddr,
    ) -> Option<IpamError> {
        let held = block.attribute(ordinal);
        if let Some(held) = held.filter(|held| !held.is_resting()) {
            return Some(IpamError::Taken {
                ip,
                by: describe(held),
            });
        }
        if self.view.reserved.contains(ip) {
            return Some(IpamError::Reserved { ip });
        }
        let own = block.is_of_host(self.known.node());
        if self.view.config.strict_affinity && !own {
            let owner = block
                .affinity
                .clone()
                .unwrap_or_else(|| "nobody".to_owned());
            return Some(IpamError::StrictAffinity { ip, owner });
        }
        let resting = held.filter(|held| held.handle() != Some(&request.handle_id))?;
        Some(IpamError::Resting {
            ip,
            since: resting.released_at.clone().unwrap_or_default(),
            cooldown_secs: self.view.config.cooldown_secs(),
        })
    }
}

/// Who holds an address, in words.
pub(crate) fn describe(attribute: &AllocationAttribute) -> String {
    let handle = attribute.handle().unwrap_or("no handle");
    let node = attribute.secondary.as_ref().and_then(|s| s.get("node"));
    match node {
        Some(node) => format!("{handle} on node {node}"),
        None => handle.to_owned(),
    }
}

fn is_old(block: &Block, now: Timestamp) -> bool {
    let claimed = block
        .affinity_claim_time
        .as_deref()
        .and_then(|t| t.parse::<Timestamp>().ok());
    claimed.is_none_or(|t| now.as_second() - t.as_second() >= MIN_RECLAIM_AGE_SECS)
}

/// Where a node begins to look in a pool: FNV-1a, so that it is the same in every release. Nodes
/// begin in different places and so rarely want the same block.
fn seed(node: &str, pool: &str) -> u64 {
    let bytes = node.bytes().chain([0]).chain(pool.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // The low bits of FNV are weak for short, similar names.
    hash ^ (hash >> 32)
}

fn rotate(candidates: &mut [BlockCidr], seed: u64) {
    if let Some(by) = seed.checked_rem(candidates.len() as u64) {
        candidates.rotate_left(by as usize);
    }
}
