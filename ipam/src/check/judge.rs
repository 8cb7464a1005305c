//! Finds what looks wrong in a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use margay_model::ipam::{AllocationAttribute, Block, BlockCidr, Owner, parse_go_timestamp};

use super::repair::{Repair, repair};
use super::user::{User, tunnel_node};
use super::{Fault, Finding, Snapshot, When};
use crate::address_set::block_bounds;
use crate::block::Allocate;
use crate::known::Slot;
use crate::plan::describe;
use crate::sticky::parked_until;

/// Handles of addresses that no endpoint ever names, by their beginning: those that a host keeps for
/// itself, and service addresses.
const WITHOUT_ENDPOINT: [&str; 2] = ["windows-reserved-ipam-handle", "lb-"];

/// Everything that looks wrong, in the order in which to repair. What it says of endpoints and nodes
/// may only be the moment between the two listings: see [`confirmed`].
pub fn judge(snapshot: &Snapshot, when: When) -> Vec<Finding> {
    let mut found = Vec::new();
    resources(snapshot, &mut found);
    strange(snapshot, &mut found);
    blocks(snapshot, when, &mut found);
    overlaps(snapshot, &mut found);
    addresses(snapshot, when, &mut found);
    users(snapshot, &mut found);
    handles(snapshot, &mut found);
    affinities(snapshot, &mut found);
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    let finding = |(fault, what): (Fault, String)| {
        let repair = match repair(snapshot, &fault, when) {
            Repair::Commit { deed, .. } => format!("repair would {deed}"),
            Repair::Refused(reason) => format!("repair leaves it alone: {reason}"),
            Repair::Healed => "repair has nothing to do".to_owned(),
        };
        Finding {
            fault,
            what,
            repair,
        }
    };
    found.into_iter().map(finding).collect()
}

/// What is still found in the later of two snapshots. A snapshot reads the records first and then the
/// resources, so a fault that both have was there at one moment between the two: an address without
/// an endpoint had none while it was continuously held, and an endpoint without an address was there,
/// unchanged, before and after the records were read.
pub fn confirmed(earlier: &[Finding], later: Vec<Finding>) -> Vec<Finding> {
    let seen: BTreeSet<&Fault> = earlier.iter().map(|finding| &finding.fault).collect();
    let both = later.into_iter();
    both.filter(|finding| seen.contains(&finding.fault))
        .collect()
}

type Found = Vec<(Fault, String)>;

fn resources(snapshot: &Snapshot, found: &mut Found) {
    for (key, reason) in &snapshot.damaged {
        found.push((Fault::DamagedResource { key: key.clone() }, reason.clone()));
    }
    for fault in snapshot.pools.faults() {
        let reason = fault.to_string();
        found.push((
            Fault::UnusedPool {
                reason: reason.clone(),
            },
            reason,
        ));
    }
}

fn strange(snapshot: &Snapshot, found: &mut Found) {
    for (key, (revision, reason)) in &snapshot.strange {
        found.push((
            Fault::StrangeRecord {
                key: key.clone(),
                revision: *revision,
            },
            format!("{key}: {reason}"),
        ));
    }
}

/// What a block is called in a finding.
fn of_whom(block: &Block) -> String {
    match block.owner() {
        Some(owner) => format!("block {} of {owner}", block.cidr),
        None => format!("block {} of nobody", block.cidr),
    }
}

fn blocks(snapshot: &Snapshot, when: When, found: &mut Found) {
    for (cidr, slot) in &snapshot.blocks {
        match slot {
            Slot::Corrupt(revision, reason) => found.push((
                Fault::CorruptBlock {
                    block: *cidr,
                    revision: *revision,
                },
                format!("block {cidr} cannot be read ({reason})"),
            )),
            Slot::Present(_, block) => one_block(snapshot, block, when, found),
            Slot::Absent => {}
        }
    }
}

fn one_block(snapshot: &Snapshot, block: &Block, when: When, found: &mut Found) {
    let cidr = block.cidr;
    let whose = of_whom(block);
    let in_use = format!("{} of {} addresses in use", block.used(), cidr.size());
    let virtual_owner = matches!(block.owner(), Some(Owner::Virtual(_)));
    let around = snapshot.pools.iter().find(|pool| pool.contains_block(cidr));
    match around {
        None if snapshot.pools_unclear().is_none() => found.push((
            Fault::OutsidePools { block: cidr },
            format!("{whose} lies in no pool ({in_use})"),
        )),
        Some(pool) if pool.block_len != cidr.prefix_len() => found.push((
            Fault::WrongSize { block: cidr },
            format!(
                "{whose} is a /{}, the blocks of pool {} are /{} ({in_use})",
                cidr.prefix_len(),
                pool.name,
                pool.block_len
            ),
        )),
        _ => {}
    }
    if let Some(Owner::Host(node)) = block.owner()
        && !snapshot.nodes.contains_key(&node)
        && claimed(block).is_none_or(|since| when.is_past_grace(since))
    {
        let what = format!("{whose}: there is no Node {node} ({in_use})");
        found.push((Fault::NodeGone { block: cidr, node }, what));
    }
    if block.affinity.is_none() && block.owner().is_none() && block.is_vacant() && !virtual_owner {
        found.push((
            Fault::EmptyOrphan { block: cidr },
            format!("{whose} is empty"),
        ));
    }
    let rested = block
        .clone()
        .end_rest(when.now, snapshot.config.cooldown_secs());
    if rested > 0 {
        let secs = snapshot.config.cooldown_secs();
        found.push((
            Fault::Rested { block: cidr },
            format!("{whose}: {rested} released address(es) rested longer than {secs} s"),
        ));
    }
}

/// When a block was claimed, if that can be read.
pub(super) fn claimed(block: &Block) -> Option<Timestamp> {
    block.affinity_claim_time.as_deref()?.parse().ok()
}

/// Blocks that lie in others: neighbours in order, because blocks are aligned.
fn overlaps(snapshot: &Snapshot, found: &mut Found) {
    let mut around: Option<BlockCidr> = None;
    for &cidr in snapshot.blocks.keys() {
        let inside = around.filter(|outer| {
            outer.family() == cidr.family() && block_bounds(*outer).1 >= block_bounds(cidr).0
        });
        match inside {
            Some(outer) => found.push((
                Fault::OverlappingBlocks {
                    block: cidr,
                    with: outer,
                },
                format!("blocks {cidr} and {outer} overlap"),
            )),
            None => around = Some(cidr),
        }
    }
}

/// When an address was assigned, if that can be read.
pub(super) fn assigned(held: &AllocationAttribute) -> Option<Timestamp> {
    parse_go_timestamp(held.secondary.as_ref()?.get("timestamp")?)
}

/// Whether no endpoint is to be expected for what holds an address.
pub(super) fn needs_no_user(block: &Block, held: &AllocationAttribute) -> bool {
    let handle = held.handle().unwrap_or_default();
    WITHOUT_ENDPOINT.iter().any(|h| handle.starts_with(h))
        || matches!(block.owner(), Some(Owner::Virtual(_)))
}

/// Whether an identity keeps the address for its next workload. Who frees it afterwards gets some time.
pub(super) fn is_parked(held: &AllocationAttribute, when: When) -> bool {
    parked_until(held).is_some_and(|until| !when.is_past_grace(until))
}

fn addresses(snapshot: &Snapshot, when: When, found: &mut Found) {
    for block in snapshot.readable() {
        for ordinal in 0..block.cidr.size() {
            let held = block.attribute(ordinal).filter(|a| !a.is_resting());
            let (Some(held), Some(ip)) = (held, block.cidr.address(ordinal)) else {
                continue;
            };
            if snapshot.reserved.contains(ip) {
                let what = format!("{ip} is reserved and in use by {}", describe(held));
                found.push((Fault::ReservedInUse { ip }, what));
            }
            let sequence = block.allocation_sequence.get(&ordinal).copied();
            let sequence = sequence.unwrap_or_default();
            match snapshot.users(ip) {
                [] if needs_no_user(block, held) || is_parked(held, when) => {}
                [] => found.push(without_user(ip, held, sequence, when)),
                users => found.extend(of_another(ip, held, sequence, users)),
            }
        }
    }
}

fn without_user(
    ip: IpAddr,
    held: &AllocationAttribute,
    sequence: u64,
    when: When,
) -> (Fault, String) {
    let by = describe(held);
    let since = assigned(held);
    match since.filter(|since| !when.is_past_grace(*since)) {
        Some(since) => (
            Fault::Young { ip, sequence },
            format!("{ip} is held by {by} since {since}, nothing uses it yet"),
        ),
        None => {
            let since = since.map_or_else(String::new, |since| format!(" since {since}"));
            let what = match held.handle().and_then(tunnel_node) {
                Some(node) => {
                    format!("{ip} is held by {by}{since}, but Node {node} does not name it")
                }
                None => format!("{ip} is held by {by}{since}, but no endpoint names it"),
            };
            let handle = held.handle().map(str::to_owned);
            (
                Fault::Leaked {
                    ip,
                    handle,
                    sequence,
                },
                what,
            )
        }
    }
}

/// An address whose only user is not the one on record. Where several use it, that is the finding.
fn of_another(
    ip: IpAddr,
    held: &AllocationAttribute,
    sequence: u64,
    users: &[User],
) -> Option<(Fault, String)> {
    let [user] = users else {
        return None;
    };
    let node = held.secondary.as_ref().and_then(|s| s.get("node"));
    let other = match &user.handle {
        Some(handle) => held.handle() != Some(handle),
        None => node.is_some_and(|node| *node != user.node) && held.alternate_owner.is_none(),
    };
    other.then(|| {
        let what = format!(
            "{ip} is used by {} on node {}, but held by {}",
            user.name,
            user.node,
            describe(held)
        );
        let user = user.name.clone();
        (Fault::HeldByAnother { ip, sequence, user }, what)
    })
}

fn users(snapshot: &Snapshot, found: &mut Found) {
    for (ip, users) in &snapshot.users {
        let names: BTreeSet<String> = users.iter().map(|user| user.name.clone()).collect();
        let block = snapshot.block_of(*ip);
        let held = block.and_then(|cidr| {
            let (_, block) = snapshot.block(cidr)?;
            block.attribute(cidr.ordinal(*ip)?)
        });
        let migrating = held.is_some_and(|held| held.alternate_owner.is_some());
        if names.len() > 1 && !migrating {
            let names: Vec<String> = names.into_iter().collect();
            found.push((
                Fault::UsedTwice {
                    ip: *ip,
                    users: names.clone(),
                },
                format!("{ip} is used by {}", names.join(" and by ")),
            ));
        }
        // Addresses outside of the pools come from elsewhere.
        let ours = block.is_some() || snapshot.pools.of_address(*ip).is_some();
        let unreadable = block.is_some_and(|cidr| snapshot.is_corrupt(cidr));
        let recorded = held.is_some_and(|held| !held.is_resting());
        let user = users.iter().find(|user| user.needs_record);
        if let Some(user) = user.filter(|_| ours && !unreadable && !recorded) {
            let state = match held {
                Some(_) => "released and rests",
                None => "free",
            };
            found.push((
                Fault::UsedUnrecorded {
                    ip: *ip,
                    user: user.name.clone(),
                    revision: user.revision,
                },
                format!("{ip} is used by {}, but on record it is {state}", user.name),
            ));
        }
    }
}

fn counts(tally: &BTreeMap<BlockCidr, u32>) -> String {
    let texts = tally.iter().map(|(cidr, n)| format!("{n} of {cidr}"));
    let texts: Vec<_> = texts.collect();
    match texts.is_empty() {
        true => "none".to_owned(),
        false => texts.join(", "),
    }
}

fn handles(snapshot: &Snapshot, found: &mut Found) {
    let mut held: BTreeMap<&str, BTreeMap<BlockCidr, u32>> = BTreeMap::new();
    for block in snapshot.readable() {
        for ordinal in 0..block.cidr.size() {
            let holder = block.attribute(ordinal).filter(|a| !a.is_resting());
            if let Some(id) = holder.and_then(|a| a.handle()) {
                let of_handle = held.entry(id).or_default();
                *of_handle.entry(block.cidr).or_default() += 1;
            }
        }
    }
    let ids: BTreeSet<&str> = held.keys().copied().collect();
    let ids: BTreeSet<&str> = ids
        .into_iter()
        .chain(snapshot.handles.keys().map(String::as_str))
        .collect();
    for id in ids {
        let by_blocks = held.remove(id).unwrap_or_default();
        found.extend(one_handle(snapshot, id, by_blocks));
    }
}

pub(super) fn one_handle(
    snapshot: &Snapshot,
    id: &str,
    mut by_blocks: BTreeMap<BlockCidr, u32>,
) -> Option<(Fault, String)> {
    let handle = id.to_owned();
    let (revision, record) = match snapshot.handles.get(id) {
        Some(Slot::Corrupt(revision, reason)) => {
            let revision = *revision;
            let what = format!("handle {id} cannot be read ({reason})");
            return Some((Fault::CorruptHandle { handle, revision }, what));
        }
        Some(Slot::Present(revision, record)) => (*revision, Some(record)),
        Some(Slot::Absent) | None => (0, None),
    };
    let Some(record) = record else {
        let what = format!(
            "handle {id} is missing, blocks hold {} for it",
            counts(&by_blocks)
        );
        return Some((Fault::HandleCount { handle, revision }, what));
    };
    // What a block holds that cannot be read is not known: taken as it stands.
    let unknown = record
        .blocks
        .iter()
        .filter(|(c, _)| snapshot.is_corrupt(**c));
    by_blocks.extend(unknown.map(|(cidr, n)| (*cidr, *n)));
    if by_blocks == record.blocks && !by_blocks.is_empty() {
        return None;
    }
    if by_blocks.is_empty() {
        let what = match record.blocks.is_empty() {
            true => format!("handle {id} counts no address"),
            false => format!(
                "handle {id} counts {}, but no block holds any for it",
                counts(&record.blocks)
            ),
        };
        return Some((Fault::HandleUnused { handle, revision }, what));
    }
    let what = format!(
        "handle {id} counts {}, but blocks hold {}",
        counts(&record.blocks),
        counts(&by_blocks)
    );
    Some((Fault::HandleCount { handle, revision }, what))
}

fn affinities(snapshot: &Snapshot, found: &mut Found) {
    for ((owner, cidr), slot) in &snapshot.affinities {
        let (owner, block) = (owner.clone(), *cidr);
        let revision = slot.revision();
        if let Slot::Corrupt(_, reason) = slot {
            let what = format!("the affinity of {owner} to {block} cannot be read ({reason})");
            found.push((
                Fault::CorruptAffinity {
                    owner,
                    block,
                    revision,
                },
                what,
            ));
            continue;
        }
        let Some((_, stored)) = snapshot.block(block) else {
            if !snapshot.is_corrupt(block) {
                let what = format!("{owner} has an affinity to {block}, which does not exist");
                found.push((
                    Fault::AffinityWithoutBlock {
                        owner,
                        block,
                        revision,
                    },
                    what,
                ));
            }
            continue;
        };
        if stored.owner().as_ref() != Some(&owner) {
            let what = format!("{owner} has an affinity to {}", of_whom(stored));
            found.push((
                Fault::AffinityOfAnother {
                    owner,
                    block,
                    revision,
                },
                what,
            ));
        } else if let Slot::Present(_, affinity) = slot
            && !affinity.is_confirmed()
            && !is_gone(snapshot, &owner)
        {
            let what = format!(
                "the affinity of {owner} to its block {block} is not confirmed ({:?})",
                affinity.state
            );
            found.push((
                Fault::AffinityUnfinished {
                    owner,
                    block,
                    revision,
                },
                what,
            ));
        }
    }
    for block in snapshot.readable() {
        let Some(owner) = block.owner() else {
            continue;
        };
        let cidr = block.cidr;
        let known = snapshot.affinities.contains_key(&(owner.clone(), cidr));
        if !known && !is_gone(snapshot, &owner) {
            let what = format!("{} has no affinity record", of_whom(block));
            found.push((Fault::AffinityMissing { owner, block: cidr }, what));
        }
    }
}

/// Whether the owner is a host without a node: then its blocks are a finding of their own.
fn is_gone(snapshot: &Snapshot, owner: &Owner) -> bool {
    matches!(owner, Owner::Host(node) if !snapshot.nodes.contains_key(node))
}
