//! One transaction in the making: requests are added while they fit, then it is committed whole.
//!
//! A plan is drawn up against what is known ([`Known`]); each record it relies on becomes a compare.

mod assign;
mod park;
mod release;

pub(crate) use assign::describe;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use margay_model::ipam::{
    AllocationAttribute, Block, BlockAffinity, BlockCidr, Family, Handle, Owner,
};
use margay_model::store::{Op, Revision, Txn};

use crate::allocator::View;
use crate::block::Allocate;
use crate::error::IpamError;
use crate::known::{Known, Slot};
use crate::request::{Address, Extra, Outcome, Request};

/// etcd's default limit for the compares and for the operations of a transaction.
pub(crate) const MAX_TXN_OPS: usize = 128;

/// Something that must be read before a request can be planned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// All blocks of a family.
    Blocks(Family),
    /// One block.
    Block(BlockCidr),
    /// One handle.
    Handle(String),
}

/// Why a request is not in the plan.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It does not fit in this transaction.
    Defer,
    /// Something must be read first.
    Need(Need),
    /// It cannot be done.
    Fail(IpamError),
}

impl<E: Into<IpamError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Fail(error.into())
    }
}

/// A block as the plan leaves it.
#[derive(Clone, Debug)]
struct Draft {
    base: Revision,
    block: Arc<Block>,
    changed: bool,
    remove: bool,
    /// Affinities to write (true) or remove (false).
    affinities: Vec<(Owner, bool)>,
}

/// A handle as the plan leaves it.
#[derive(Clone, Debug)]
struct HandleDraft {
    base: Revision,
    handle: Handle,
    changed: bool,
}

/// An address taken by this plan: enough to recognise it in the store afterwards.
#[derive(Clone, Debug)]
pub(crate) struct Fresh {
    pub(crate) block: BlockCidr,
    pub(crate) ordinal: u32,
    pub(crate) sequence: u64,
    pub(crate) attribute: Arc<AllocationAttribute>,
}

/// A request that is in the plan.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) index: usize,
    pub(crate) outcome: Outcome,
    pub(crate) fresh: Vec<Fresh>,
    pub(crate) extra: Extra,
}

/// What a compare of the transaction stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Block(BlockCidr),
    Handle(String),
    /// The caller's, of the request with this index.
    Extra(usize),
    /// A key to be created if absent.
    CreateIfAbsent,
    /// This instance is still the node's newest.
    Fence,
}

/// A finished plan.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) txn: Txn,
    /// For each compare of `txn`.
    pub(crate) origins: Vec<Origin>,
    pub(crate) accepted: Vec<Accepted>,
    drafts: BTreeMap<BlockCidr, Draft>,
    handles: BTreeMap<String, HandleDraft>,
}

impl Built {
    /// The assignments in it, each with a block that it changes and the revision it expects there.
    pub(crate) fn assigned(&self) -> impl Iterator<Item = (&str, BlockCidr, Revision)> {
        let fresh = self.accepted.iter().flat_map(|request| &request.fresh);
        fresh.filter_map(|fresh| {
            let base = self.drafts.get(&fresh.block)?.base;
            Some((fresh.attribute.handle()?, fresh.block, base))
        })
    }

    /// Takes over what was committed.
    pub(crate) fn apply(self, revision: Revision, known: &mut Known) -> Vec<Accepted> {
        for (cidr, draft) in self.drafts {
            for (owner, confirmed) in draft.affinities {
                match confirmed {
                    _ if owner != known.owner => {}
                    true => {
                        known.confirmed.insert(cidr);
                    }
                    false => {
                        known.confirmed.remove(&cidr);
                    }
                }
            }
            match (draft.changed, draft.remove) {
                (false, _) => {}
                (true, true) => {
                    known.blocks.insert(cidr, Slot::Absent);
                }
                (true, false) => {
                    known
                        .blocks
                        .insert(cidr, Slot::Present(revision, draft.block));
                }
            }
        }
        if self.origins.contains(&Origin::Fence)
            && let Some(fence) = known.fence.as_mut().filter(|fence| fence.revision == 0)
        {
            fence.revision = revision;
        }
        for (id, draft) in self.handles {
            // What is still under way compares what this transaction changed.
            known.unsettled.remove(&id);
            match (draft.changed, draft.handle.blocks.is_empty()) {
                (false, _) => {}
                (true, true) => {
                    known.handles.insert(id, Slot::Absent);
                }
                (true, false) => {
                    known
                        .handles
                        .insert(id, Slot::Present(revision, draft.handle));
                }
            }
        }
        let mut accepted = self.accepted;
        for request in &mut accepted {
            request.outcome.revision = revision;
        }
        accepted
    }
}

/// The transaction being put together.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    known: &'a Known,
    view: &'a View,
    /// Keys to be created if absent that are known to exist.
    present: &'a BTreeSet<String>,
    drafts: BTreeMap<BlockCidr, Draft>,
    handles: BTreeMap<String, HandleDraft>,
    /// The handle of the request being added: no request touches more than one.
    added_handle: Option<String>,
    accepted: Vec<Accepted>,
    /// Keys that callers' operations touch.
    extra_keys: BTreeSet<String>,
    /// Keys that callers want created if absent.
    created_keys: BTreeSet<String>,
    /// Pools found to have no block to claim.
    pub(crate) full: Vec<(String, Timestamp)>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(known: &'a Known, view: &'a View, present: &'a BTreeSet<String>) -> Self {
        Self {
            known,
            view,
            present,
            drafts: BTreeMap::new(),
            handles: BTreeMap::new(),
            added_handle: None,
            accepted: Vec::new(),
            extra_keys: BTreeSet::new(),
            created_keys: BTreeSet::new(),
            full: Vec::new(),
        }
    }

    /// Adds a request, or leaves the plan as it was.
    pub(crate) fn add(&mut self, index: usize, request: &Request) -> Result<(), Stop> {
        let drafts = self.drafts.clone();
        let before = self.accepted.len();
        self.added_handle = None;
        let result = self.add_unguarded(index, request);
        if result.is_err() {
            self.drafts = drafts;
            if let Some(id) = self.added_handle.take() {
                self.handles.remove(&id);
            }
            self.accepted.truncate(before);
        } else if let Some(last) = self.accepted.last() {
            self.extra_keys
                .extend(op_keys(&last.extra).map(str::to_owned));
            self.created_keys
                .extend(created_keys(&last.extra).map(str::to_owned));
        }
        result
    }

    fn add_unguarded(&mut self, index: usize, request: &Request) -> Result<(), Stop> {
        let accepted = match request {
            Request::Assign(request) => self.assign(request)?,
            Request::Release(request) => self.release(request)?,
            Request::ReleaseIp(request) => self.release_ip(request)?,
            Request::Park(request) => self.park(request)?,
            Request::GiveUp(request) => self.give_up(request)?,
        };
        let alone = self.accepted.is_empty();
        self.check_keys(&accepted.extra, alone)?;
        self.accepted.push(Accepted { index, ..accepted });
        let size = self.size();
        match (size > MAX_TXN_OPS, alone) {
            (false, _) => Ok(()),
            (true, false) => Err(Stop::Defer),
            (true, true) => Err(Stop::Fail(IpamError::TooLarge {
                found: size,
                allowed: MAX_TXN_OPS,
            })),
        }
    }

    /// No key may be written twice in one transaction.
    fn check_keys(&self, extra: &Extra, alone: bool) -> Result<(), Stop> {
        let mut own = BTreeSet::new();
        for key in op_keys(extra).chain(created_keys(extra)) {
            if !own.insert(key) || key.starts_with(self.known.keys.all()) {
                let key = key.to_owned();
                return Err(Stop::Fail(IpamError::DuplicateKey { key }));
            }
        }
        let clash = op_keys(extra)
            .any(|key| self.extra_keys.contains(key) || self.created_keys.contains(key))
            || created_keys(extra).any(|key| self.extra_keys.contains(key));
        if clash && !alone {
            Err(Stop::Defer)
        } else {
            Ok(())
        }
    }

    /// The larger of the numbers of compares and operations.
    fn size(&self) -> usize {
        let mut compares = self.drafts.len() + self.handles.len();
        let mut ops = self.handles.values().filter(|h| h.changed).count();
        for draft in self.drafts.values() {
            ops += usize::from(draft.changed) + draft.affinities.len();
        }
        for request in &self.accepted {
            compares += request.extra.txn.compares.len();
            ops += request.extra.txn.ops.len();
        }
        let newest = self
            .accepted
            .last()
            .into_iter()
            .flat_map(|last| created_keys(&last.extra));
        let created = newest
            .filter(|key| !self.created_keys.contains(*key))
            .count();
        let fence = usize::from(self.known.fence.is_some());
        compares += self.created_keys.len() + created + fence;
        ops += self.created_keys.len() + created + fence;
        compares.max(ops)
    }

    /// Renders the transaction.
    pub(crate) fn build(mut self) -> Built {
        let keys = &self.known.keys;
        let mut txn = Txn::default();
        let mut origins = Vec::new();
        for (cidr, draft) in &mut self.drafts {
            let key = keys.block(*cidr);
            txn = txn.when(key.as_str(), draft.base);
            origins.push(Origin::Block(*cidr));
            if draft.changed && draft.remove {
                txn = txn.delete(key);
            } else if draft.changed {
                let block = Arc::make_mut(&mut draft.block);
                block.sequence_number = block.sequence_number.wrapping_add(1);
                txn = txn.put(key, block.to_json());
            }
            for (owner, confirmed) in &draft.affinities {
                let key = keys.affinity(owner, *cidr);
                txn = match confirmed {
                    true => txn.put(key, BlockAffinity::confirmed().to_json()),
                    false => txn.delete(key),
                };
            }
        }
        for (id, draft) in &self.handles {
            let key = keys.handle(id);
            txn = txn.when(key.as_str(), draft.base);
            origins.push(Origin::Handle(id.clone()));
            if draft.changed {
                txn = match draft.handle.blocks.is_empty() {
                    true => txn.delete(key),
                    false => txn.put(key, draft.handle.to_json()),
                };
            }
        }
        let mut creating = BTreeSet::new();
        for request in &self.accepted {
            for compare in &request.extra.txn.compares {
                txn.compares.push(compare.clone());
                origins.push(Origin::Extra(request.index));
            }
            txn.ops.extend(request.extra.txn.ops.iter().cloned());
            for (key, value) in &request.extra.create_if_absent {
                if !self.present.contains(key) && creating.insert(key.clone()) {
                    txn = txn.when(key.as_str(), 0).put(key.as_str(), value.clone());
                    origins.push(Origin::CreateIfAbsent);
                }
            }
        }
        if let Some(fence) = self.known.fence.as_ref().filter(|_| !txn.ops.is_empty()) {
            txn = txn.when(fence.key.as_str(), fence.revision);
            origins.push(Origin::Fence);
            if fence.revision == 0 {
                txn = txn.put(fence.key.as_str(), fence.instance.as_str());
            }
        }
        Built {
            txn,
            origins,
            accepted: self.accepted,
            drafts: self.drafts,
            handles: self.handles,
        }
    }

    /// The block as it is at this point of the plan: its base revision and content.
    fn current(&self, cidr: BlockCidr) -> Option<(Revision, &Arc<Block>)> {
        if let Some(draft) = self.drafts.get(&cidr) {
            return (!draft.remove).then_some((draft.base, &draft.block));
        }
        match self.known.blocks.get(&cidr)? {
            Slot::Present(revision, block) => Some((*revision, block)),
            Slot::Absent | Slot::Corrupt(..) => None,
        }
    }

    /// All readable blocks known, in ascending order.
    fn blocks(&self) -> BTreeSet<BlockCidr> {
        let cidrs = self.known.blocks.keys().chain(self.drafts.keys());
        cidrs
            .copied()
            .filter(|cidr| self.current(*cidr).is_some())
            .collect()
    }

    fn is_own(&self, cidr: BlockCidr) -> bool {
        self.current(cidr)
            .is_some_and(|(_, block)| block.is_of_host(self.known.node()))
    }

    /// Puts a changed block into the plan. Own blocks get their affinity repaired along with it.
    fn change(&mut self, base: Revision, block: Block) {
        let cidr = block.cidr;
        let own = block.is_of_host(self.known.node());
        let repair = own && !self.known.confirmed.contains(&cidr);
        let draft = self.draft(base, Arc::new(block));
        draft.changed = true;
        if repair && draft.affinities.is_empty() {
            let owner = self.known.owner.clone();
            self.affinity(cidr, owner, true);
        }
    }

    /// Makes the plan rely on a block as it is.
    fn rely_on(&mut self, base: Revision, block: &Arc<Block>) {
        if !self.drafts.contains_key(&block.cidr) {
            self.draft(base, Arc::clone(block));
        }
    }

    fn draft(&mut self, base: Revision, block: Arc<Block>) -> &mut Draft {
        let draft = self.drafts.entry(block.cidr).or_insert_with(|| Draft {
            base,
            block: Arc::clone(&block),
            changed: false,
            remove: false,
            affinities: Vec::new(),
        });
        draft.block = block;
        draft
    }

    fn affinity(&mut self, cidr: BlockCidr, owner: Owner, confirmed: bool) {
        if let Some(draft) = self.drafts.get_mut(&cidr) {
            draft.affinities.retain(|(o, _)| *o != owner);
            draft.affinities.push((owner, confirmed));
        }
    }

    /// The handle as known; one that was never looked for counts as absent, the compare decides.
    fn handle(&self, id: &str) -> Result<HandleDraft, Stop> {
        if self.handles.contains_key(id) {
            return Err(Stop::Defer);
        }
        let (base, handle) = match self.known.handles.get(id) {
            Some(Slot::Present(base, handle)) => (*base, handle.clone()),
            Some(Slot::Corrupt(_, reason)) => {
                return Err(Stop::Fail(IpamError::Corrupt(reason.clone())));
            }
            Some(Slot::Absent) | None => (0, Handle::default()),
        };
        Ok(HandleDraft {
            base,
            handle,
            changed: false,
        })
    }

    fn put_handle(&mut self, id: &str, draft: HandleDraft) {
        self.added_handle = Some(id.to_owned());
        self.handles.insert(id.to_owned(), draft);
    }

    fn address(&self, block: &Block, ordinal: u32) -> Option<Address> {
        Some(Address {
            ip: block.cidr.address(ordinal)?,
            block: block.cidr,
            borrowed: !block.is_of_host(self.known.node()),
        })
    }

    /// A copy of the block in which addresses that have rested long enough are free.
    fn rested(&self, block: &Block, now: Timestamp) -> Block {
        let mut block = block.clone();
        block.end_rest(now, self.view.config.cooldown_secs());
        block
    }
}

fn op_keys(extra: &Extra) -> impl Iterator<Item = &str> {
    extra.txn.ops.iter().map(Op::key)
}

fn created_keys(extra: &Extra) -> impl Iterator<Item = &str> {
    extra.create_if_absent.iter().map(|(key, _)| key.as_str())
}
