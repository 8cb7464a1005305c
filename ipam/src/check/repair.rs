//! One finding, one transaction that mends it, with all that it relies on compared.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use margay_model::ipam::{
    AllocationAttribute, Block, BlockAffinity, BlockCidr, Handle, Owner, go_timestamp,
};
use margay_model::kind::{Kind, ResourceKey};
use margay_model::store::{Revision, Txn};

use super::judge::{assigned, is_parked, needs_no_user, one_handle};
use super::user::{User, tunnel_node};
use super::{Fault, Snapshot, When};
use crate::block::Allocate;
use crate::known::Slot;
use crate::plan::MAX_TXN_OPS;
use crate::sticky::{IDENTITY, LEASE_UNTIL, attr};

/// What can be done about a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// This transaction mends it. A conflict means that somebody works on it: look again.
    Commit {
        /// The transaction.
        txn: Txn,
        /// What it does, in words that follow "would" or "did".
        deed: String,
    },
    /// It is not wrong any more.
    Healed,
    /// Only a person can tell what is right, or the moment is wrong.
    Refused(String),
}

impl Repair {
    fn commit(txn: Txn, deed: impl Into<String>) -> Self {
        let widest = txn.compares.len().max(txn.ops.len());
        if widest > MAX_TXN_OPS {
            return Self::Refused(format!(
                "it takes {widest} changes at once, the datastore allows {MAX_TXN_OPS}"
            ));
        }
        let deed = deed.into();
        Self::Commit { txn, deed }
    }

    fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }
}

/// Which allocation [`release`] is to free, and how careful it is.
#[derive(Clone, Copy, Debug)]
pub struct Free {
    /// The address.
    pub ip: IpAddr,
    /// Only if it is held since this sequence number.
    pub sequence: Option<u64>,
    /// Even if something uses it or it was assigned a moment ago.
    pub force: bool,
}

/// Mends a fault as the snapshot shows it.
pub fn repair(snapshot: &Snapshot, fault: &Fault, when: When) -> Repair {
    match fault {
        Fault::DamagedResource { key } => {
            Repair::refused(format!("replace or delete {key} with margayctl"))
        }
        Fault::UnusedPool { .. } => Repair::refused("change or delete one of the pools"),
        Fault::StrangeRecord { key, .. } if *key == snapshot.ipam_keys.config() => {
            Repair::refused("write it anew with margayctl ipam configure")
        }
        Fault::StrangeRecord { .. } => Repair::refused("somebody else may need it"),
        Fault::CorruptBlock { block, .. } => rebuild(snapshot, *block, when),
        Fault::OverlappingBlocks { block, with } => separate(snapshot, *block, *with),
        Fault::UsedTwice { .. } => {
            Repair::refused("delete one of the workloads, or its endpoint if it is gone")
        }
        Fault::HeldByAnother { .. } => Repair::refused(
            "make the workload that uses it anew, or, if the holder is gone, release the address \
             with --force and check again",
        ),
        Fault::UsedUnrecorded { ip, .. } => record(snapshot, *ip, when),
        Fault::Leaked { ip, sequence, .. } => leaked(snapshot, *ip, *sequence, when),
        Fault::CorruptHandle { handle, .. }
        | Fault::HandleCount { handle, .. }
        | Fault::HandleUnused { handle, .. } => recount(snapshot, handle),
        Fault::CorruptAffinity { owner, block, .. }
        | Fault::AffinityWithoutBlock { owner, block, .. }
        | Fault::AffinityOfAnother { owner, block, .. }
        | Fault::AffinityUnfinished { owner, block, .. }
        | Fault::AffinityMissing { owner, block } => align(snapshot, owner, *block),
        Fault::OutsidePools { block } => {
            match snapshot
                .pools
                .iter()
                .any(|pool| pool.contains_block(*block))
            {
                true => Repair::Healed,
                false => remove_unused(snapshot, *block),
            }
        }
        Fault::WrongSize { block } => remove_vacant(snapshot, *block),
        Fault::NodeGone { block, node } => give_up(snapshot, *block, node),
        Fault::EmptyOrphan { block } => orphan(snapshot, *block),
        Fault::Rested { block } => end_rest(snapshot, *block, when),
        Fault::Young { .. } => {
            Repair::refused(format!("it is judged when it is {} s old", when.grace_secs))
        }
        Fault::ReservedInUse { .. } => Repair::refused("its workload keeps it as long as it lives"),
    }
}

fn put_block(snapshot: &Snapshot, txn: Txn, base: Revision, mut block: Block) -> Txn {
    block.sequence_number = block.sequence_number.wrapping_add(1);
    let key = snapshot.ipam_keys.block(block.cidr);
    txn.when(key.as_str(), base).put(key, block.to_json())
}

fn leaked(snapshot: &Snapshot, ip: IpAddr, sequence: u64, when: When) -> Repair {
    let Some((block, held)) = holder(snapshot, ip) else {
        return Repair::Healed;
    };
    let since = block.cidr.ordinal(ip);
    let since = since.and_then(|ordinal| block.allocation_sequence.get(&ordinal));
    if since.copied().unwrap_or_default() != sequence {
        return Repair::Healed;
    }
    // What a handle holds goes together, with its workload.
    if let Some((other, user)) = held.handle().and_then(|id| in_use(snapshot, id)) {
        return Repair::refused(format!(
            "its handle also holds {other} for {user}, whose release frees both"
        ));
    }
    let free = Free {
        ip,
        sequence: None,
        force: false,
    };
    release(snapshot, free, when)
}

/// An address of a handle that something uses.
fn in_use<'a>(snapshot: &'a Snapshot, id: &str) -> Option<(IpAddr, &'a str)> {
    let mut held = snapshot.readable().flat_map(|block| {
        let ordinals = block.ordinals_of(id).into_iter();
        ordinals.filter_map(|ordinal| block.cidr.address(ordinal))
    });
    held.find_map(|ip| Some((ip, snapshot.users(ip).first()?.name.as_str())))
}

fn holder(snapshot: &Snapshot, ip: IpAddr) -> Option<(&Arc<Block>, &Arc<AllocationAttribute>)> {
    let (_, block) = snapshot.block(snapshot.block_of(ip)?)?;
    let held = block.attribute(block.cidr.ordinal(ip)?)?;
    (!held.is_resting()).then_some((block, held))
}

/// Frees an address; it rests as after any release.
pub fn release(snapshot: &Snapshot, free: Free, when: When) -> Repair {
    let ip = free.ip;
    if snapshot
        .block_of(ip)
        .is_some_and(|cidr| snapshot.is_corrupt(cidr))
    {
        return Repair::refused("its block cannot be read");
    }
    let Some((block, held)) = holder(snapshot, ip) else {
        return Repair::Healed;
    };
    let Some(ordinal) = block.cidr.ordinal(ip) else {
        return Repair::Healed;
    };
    let since = block.allocation_sequence.get(&ordinal).copied();
    if free
        .sequence
        .is_some_and(|s| s != since.unwrap_or_default())
    {
        return Repair::refused("it was assigned anew meanwhile");
    }
    if let Some(reason) = objection(snapshot, block, ip, held, when).filter(|_| !free.force) {
        return Repair::Refused(reason);
    }
    let mut txn = Txn::default();
    if let Some(id) = held.handle() {
        txn = uncount(snapshot, txn, id, block.cidr);
        if let Some(node) = tunnel_node(id) {
            // The node may be about to name it.
            let key = ResourceKey::global(Kind::Node, node);
            let revision = snapshot.nodes.get(node).copied().unwrap_or_default();
            txn = txn.when(snapshot.keys.resource(&key), revision);
        }
    }
    let mut changed = Block::clone(block);
    let cooldown = snapshot.config.cooldown_secs();
    let in_pool = snapshot
        .pools
        .iter()
        .any(|pool| pool.contains_block(block.cidr));
    let rests = cooldown > 0 && in_pool;
    changed.end_rest(when.now, cooldown);
    changed.release(&[ordinal], rests.then_some(when.now));
    let base = snapshot.revision_of_block(block.cidr);
    let deed = match rests {
        true => format!("free {ip}, which then rests for {cooldown} s"),
        false => format!("free {ip}"),
    };
    Repair::commit(put_block(snapshot, txn, base, changed), deed)
}

/// What speaks against freeing an address.
fn objection(
    snapshot: &Snapshot,
    block: &Block,
    ip: IpAddr,
    held: &AllocationAttribute,
    when: When,
) -> Option<String> {
    if let Some(user) = snapshot.users(ip).first() {
        return Some(format!("{} uses it", user.name));
    }
    if let Some(key) = snapshot.blind_spot() {
        return Some(format!("{key} cannot be read and may use it"));
    }
    if needs_no_user(block, held) {
        return Some("it is kept for something that has no endpoint".to_owned());
    }
    if is_parked(held, when) {
        let [identity, until] = [IDENTITY, LEASE_UNTIL].map(|name| attr(held, name).unwrap_or("?"));
        return Some(format!("identity {identity} keeps it until {until}"));
    }
    let since = assigned(held)?;
    (!when.is_past_grace(since)).then(|| {
        format!(
            "it was assigned at {since}, less than {} s ago",
            when.grace_secs
        )
    })
}

/// Takes one address of a block off a handle's count. The handle is compared in any case.
fn uncount(snapshot: &Snapshot, txn: Txn, id: &str, block: BlockCidr) -> Txn {
    let key = snapshot.ipam_keys.handle(id);
    let txn = txn.when(key.as_str(), snapshot.revision_of_handle(id));
    match snapshot.handles.get(id) {
        Some(Slot::Present(_, handle)) => {
            let mut handle = handle.clone();
            handle.remove(block, 1);
            match handle.blocks.is_empty() {
                true => txn.delete(key),
                false => txn.put(key, handle.to_json()),
            }
        }
        // A damaged one is a finding of its own.
        Some(Slot::Corrupt(..) | Slot::Absent) | None => txn,
    }
}

/// Writes a used address on record.
fn record(snapshot: &Snapshot, ip: IpAddr, when: When) -> Repair {
    let Some(user) = snapshot.users(ip).iter().find(|user| user.needs_record) else {
        return Repair::Healed;
    };
    if holder(snapshot, ip).is_some() {
        return Repair::Healed;
    }
    let (base, mut block) = match snapshot.block_of(ip) {
        Some(cidr) => match snapshot.block(cidr) {
            Some((base, block)) => (base, Block::clone(block)),
            None => return Repair::refused("its block cannot be read"),
        },
        None => match snapshot.pools.of_address(ip) {
            // Of nobody: whose it should be is for the hosts to decide.
            Some(pool) => match BlockCidr::containing(ip, pool.block_len) {
                Ok(cidr) => {
                    let inside = |other: &&BlockCidr| cidr.contains(other.network());
                    if let Some(other) = snapshot.blocks.keys().find(inside) {
                        return Repair::refused(format!("block {other} is in the way"));
                    }
                    (0, Block::new(cidr, when.now))
                }
                Err(error) => return Repair::refused(error.to_string()),
            },
            None => return Repair::Healed,
        },
    };
    let cidr = block.cidr;
    let id = user.fallback_handle.as_str();
    let mut handle = match snapshot.handles.get(id) {
        Some(Slot::Present(_, handle)) => handle.clone(),
        Some(Slot::Corrupt(..)) => return Repair::refused(format!("handle {id} cannot be read")),
        Some(Slot::Absent) | None => Handle::default(),
    };
    let Some(ordinal) = cidr.ordinal(ip) else {
        return Repair::Healed;
    };
    if block.allocate_at(ordinal, &attribute(user, when)).is_err() {
        return Repair::Healed;
    }
    handle.add(cidr, 1);
    let handle_key = snapshot.ipam_keys.handle(id);
    let txn = Txn::default()
        .when(user.key.as_str(), user.revision)
        .when(handle_key.as_str(), snapshot.revision_of_handle(id))
        .put(handle_key, handle.to_json());
    let deed = format!("record {ip} as held by {id} on node {}", user.node);
    Repair::commit(put_block(snapshot, txn, base, block), deed)
}

fn attribute(user: &User, when: When) -> Arc<AllocationAttribute> {
    let mut secondary = user.attrs.clone();
    secondary.insert("timestamp".to_owned(), go_timestamp(when.now));
    Arc::new(AllocationAttribute {
        handle_id: Some(user.fallback_handle.clone()),
        secondary: Some(secondary),
        ..AllocationAttribute::default()
    })
}

/// Makes a block that cannot be read anew, out of what endpoints and nodes say. Nobody can change a
/// block that cannot be read, so nothing is missed.
fn rebuild(snapshot: &Snapshot, cidr: BlockCidr, when: When) -> Repair {
    let Some(Slot::Corrupt(base, _)) = snapshot.blocks.get(&cidr) else {
        return Repair::Healed;
    };
    if let Some(key) = snapshot.blind_spot() {
        return Repair::refused(format!("{key} cannot be read and may use its addresses"));
    }
    let mut owners = snapshot
        .affinities
        .iter()
        .filter_map(|((owner, of), slot)| {
            let confirmed = matches!(slot, Slot::Present(_, affinity) if affinity.is_confirmed());
            (*of == cidr && confirmed).then_some(owner)
        });
    let owner = owners.next().filter(|_| owners.next().is_none());
    let without_endpoint = snapshot.handles.iter().find(|(id, slot)| {
        let kept = id.starts_with("lb-") || id.starts_with("windows-reserved");
        kept && matches!(slot, Slot::Present(_, handle) if handle.blocks.contains_key(&cidr))
    });
    if let Some((id, _)) = without_endpoint {
        return Repair::refused(format!("which of its addresses handle {id} holds is lost"));
    }
    let mut block = Block::new(cidr, when.now);
    if let Some(owner) = owner {
        block.claim(owner, when.now);
    }
    let mut kept = 0;
    for (ip, users) in &snapshot.users {
        let (Some(ordinal), Some(user)) = (
            cidr.ordinal(*ip),
            users.iter().find(|user| user.needs_record),
        ) else {
            continue;
        };
        let taken = block.allocate_at(ordinal, &attribute(user, when));
        kept += usize::from(taken.is_ok());
    }
    let mut txn = Txn::default();
    if let Some(owner) = owner {
        let key = snapshot.ipam_keys.affinity(owner, cidr);
        txn = txn.when(key, snapshot.revision_of_affinity(owner, cidr));
    }
    let deed = format!(
        "write {cidr} anew for {} with the {kept} addresses that endpoints and nodes name",
        owner.map_or_else(|| "nobody".to_owned(), Owner::to_string)
    );
    Repair::commit(put_block(snapshot, txn, *base, block), deed)
}

/// Of two blocks that overlap, removes one that is vacant.
fn separate(snapshot: &Snapshot, inner: BlockCidr, outer: BlockCidr) -> Repair {
    if snapshot.revision_of_block(inner) == 0 || snapshot.revision_of_block(outer) == 0 {
        return Repair::Healed;
    }
    let vacant = [inner, outer].into_iter().find(|cidr| {
        let block = snapshot.block(*cidr);
        block.is_some_and(|(_, block)| block.is_vacant())
    });
    match vacant {
        Some(cidr) => remove_vacant(snapshot, cidr),
        None => Repair::refused("both hold addresses: delete the workloads of one of them"),
    }
}

fn remove_vacant(snapshot: &Snapshot, cidr: BlockCidr) -> Repair {
    let Some((_, block)) = snapshot.block(cidr) else {
        return Repair::Healed;
    };
    match (block.used(), block.resting()) {
        (0, 0) => Repair::commit(removal(snapshot, block), format!("delete block {cidr}")),
        (0, n) => Repair::refused(format!("{n} of its addresses rest, it can go afterwards")),
        (n, _) => Repair::refused(format!("{n} of its addresses are in use")),
    }
}

/// As [`remove_vacant`], where rest no longer matters because nobody is given these addresses.
fn remove_unused(snapshot: &Snapshot, cidr: BlockCidr) -> Repair {
    match snapshot.block(cidr) {
        Some((_, block)) if block.used() == 0 => {
            Repair::commit(removal(snapshot, block), format!("delete block {cidr}"))
        }
        _ => remove_vacant(snapshot, cidr),
    }
}

/// Deletes a block and its owner's affinity.
fn removal(snapshot: &Snapshot, block: &Block) -> Txn {
    let key = snapshot.ipam_keys.block(block.cidr);
    let base = snapshot.revision_of_block(block.cidr);
    let txn = Txn::default().when(key.as_str(), base).delete(key);
    without_affinity(snapshot, txn, block)
}

fn without_affinity(snapshot: &Snapshot, txn: Txn, block: &Block) -> Txn {
    let Some(owner) = block.owner() else {
        return txn;
    };
    match snapshot.revision_of_affinity(&owner, block.cidr) {
        0 => txn,
        revision => {
            let key = snapshot.ipam_keys.affinity(&owner, block.cidr);
            txn.when(key.as_str(), revision).delete(key)
        }
    }
}

/// Takes a block from a node that does not exist.
fn give_up(snapshot: &Snapshot, cidr: BlockCidr, node: &str) -> Repair {
    let Some((base, block)) = snapshot.block(cidr).filter(|(_, b)| b.is_of_host(node)) else {
        return Repair::Healed;
    };
    if snapshot.nodes.contains_key(node) {
        return Repair::Healed;
    }
    let node_key = ResourceKey::global(Kind::Node, node);
    if snapshot.damaged.contains_key(&node_key) {
        return Repair::refused(format!("{node_key} is there, but cannot be read"));
    }
    let node_key = snapshot.keys.resource(&node_key);
    if block.is_vacant() {
        let txn = removal(snapshot, block).when(node_key, 0);
        return Repair::commit(txn, format!("delete block {cidr}"));
    }
    let mut free = Block::clone(block);
    free.affinity = None;
    free.affinity_claim_time = None;
    free.other.remove("hostAffinity");
    let txn = without_affinity(snapshot, Txn::default().when(node_key, 0), block);
    let deed = format!("take block {cidr} from {node}; another node may have it once it is empty");
    Repair::commit(put_block(snapshot, txn, base, free), deed)
}

fn orphan(snapshot: &Snapshot, cidr: BlockCidr) -> Repair {
    match snapshot.block(cidr) {
        Some((_, block)) if block.affinity.is_none() && block.owner().is_none() => {
            remove_vacant(snapshot, cidr)
        }
        _ => Repair::Healed,
    }
}

fn end_rest(snapshot: &Snapshot, cidr: BlockCidr, when: When) -> Repair {
    let Some((base, block)) = snapshot.block(cidr) else {
        return Repair::Healed;
    };
    let mut rested = Block::clone(block);
    match rested.end_rest(when.now, snapshot.config.cooldown_secs()) {
        0 => Repair::Healed,
        n => {
            let deed = format!("make {n} address(es) of {cidr} free");
            Repair::commit(put_block(snapshot, Txn::default(), base, rested), deed)
        }
    }
}

/// Makes a handle say what the blocks say.
fn recount(snapshot: &Snapshot, id: &str) -> Repair {
    let by_blocks = snapshot.tally(id);
    if one_handle(snapshot, id, by_blocks.clone()).is_none() {
        return Repair::Healed;
    }
    let key = snapshot.ipam_keys.handle(id);
    let mut txn = Txn::default().when(key.as_str(), snapshot.revision_of_handle(id));
    let mut right = Handle::default();
    let mut named: BTreeMap<BlockCidr, u32> = by_blocks.clone();
    match snapshot.handles.get(id) {
        Some(Slot::Present(_, old)) => {
            right = old.clone();
            right.blocks.retain(|cidr, _| snapshot.is_corrupt(*cidr));
            named.extend(old.blocks.keys().map(|cidr| (*cidr, 0)));
        }
        Some(Slot::Corrupt(..)) => {
            if let Some(cidr) = snapshot.blocks.keys().find(|c| snapshot.is_corrupt(**c)) {
                return Repair::refused(format!("block {cidr} cannot be read either"));
            }
        }
        Some(Slot::Absent) | None => {}
    }
    right.blocks.extend(by_blocks);
    for cidr in named.into_keys() {
        let revision = snapshot.revision_of_block(cidr);
        txn = txn.when(snapshot.ipam_keys.block(cidr), revision);
    }
    match right.blocks.is_empty() {
        true => Repair::commit(txn.delete(key), format!("delete handle {id}")),
        false => Repair::commit(
            txn.put(key, right.to_json()),
            format!("make handle {id} count what the blocks hold"),
        ),
    }
}

/// Makes an affinity say what its block says.
fn align(snapshot: &Snapshot, owner: &Owner, cidr: BlockCidr) -> Repair {
    if snapshot.is_corrupt(cidr) {
        return Repair::refused("its block cannot be read either");
    }
    let key = snapshot.ipam_keys.affinity(owner, cidr);
    let slot = snapshot.affinities.get(&(owner.clone(), cidr));
    let block = snapshot.block(cidr);
    let own = block.is_some_and(|(_, block)| block.owner().as_ref() == Some(owner));
    let txn = Txn::default()
        .when(key.as_str(), slot.map_or(0, Slot::revision))
        .when(
            snapshot.ipam_keys.block(cidr),
            snapshot.revision_of_block(cidr),
        );
    match (own, slot) {
        (false, None) => Repair::Healed,
        (true, Some(Slot::Present(_, affinity))) if affinity.is_confirmed() => Repair::Healed,
        (false, Some(_)) => {
            let deed = format!("delete the affinity of {owner} to {cidr}");
            Repair::commit(txn.delete(key), deed)
        }
        (true, _) => {
            let deed = format!("confirm the affinity of {owner} to {cidr}");
            let affinity = BlockAffinity::confirmed();
            Repair::commit(txn.put(key, affinity.to_json()), deed)
        }
    }
}
