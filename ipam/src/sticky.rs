//! Addresses that stay with a named identity: what is recorded beside them.
//!
//! The data format is the established one; all that is added are entries of the attribute's `secondary`
//! map, which other readers show and otherwise leave alone. The handle is made of the identity instead of
//! the container, as the established system does it for virtual machines, so that whoever runs the
//! identity next finds its addresses with one read.
//!
//! An address of an identity is *held* while a workload has it, and *parked* between two workloads: then
//! `leaseUntil` says when it ends, and `node` is absent, so that no clean-up of a node takes it along.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use margay_model::ipam::AllocationAttribute;

use crate::request::Address;

/// The identity, for people.
pub const IDENTITY: &str = "identity";
/// How long the address stays parked, in seconds.
pub const LEASE_SECS: &str = "leaseSeconds";
/// Until when it is parked (RFC 3339); absent while it is held.
pub const LEASE_UNTIL: &str = "leaseUntil";
/// The container that has it, or had it last.
pub const CONTAINER: &str = "container";
/// Its workload endpoint, `NAMESPACE/NAME`.
pub const ENDPOINT: &str = "endpoint";
/// How often it has come to another node: neighbours of two nodes that both announce it prefer the one
/// with the larger number.
pub const MOVES: &str = "moves";
/// The node that had it last; only while it is parked.
pub const LAST_NODE: &str = "lastNode";
const NODE: &str = "node";

/// An address of a handle with everything that is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// The address.
    pub address: Address,
    /// What its block says of it.
    pub attribute: Arc<AllocationAttribute>,
    /// The block's sequence number when it was last taken, handed over or parked.
    pub sequence: Option<u64>,
}

impl Held {
    /// An entry of the attribute.
    pub fn attr(&self, name: &str) -> Option<&str> {
        attr(&self.attribute, name)
    }
}

/// Until when an address is parked; `None` for one that is held, rests, or has no identity. A time that
/// cannot be read counts as long ago.
pub fn parked_until(attribute: &AllocationAttribute) -> Option<Timestamp> {
    if attribute.is_resting() {
        return None;
    }
    let until = attr(attribute, LEASE_UNTIL)?;
    Some(until.parse().unwrap_or(Timestamp::UNIX_EPOCH))
}

/// How often an identity's addresses have moved once `node` has them.
pub fn moves_to(node: &str, held: &[Held]) -> u32 {
    let moves = held.iter().map(|held| {
        let before = held.attr(MOVES).and_then(|moves| moves.parse().ok());
        let before: u32 = before.unwrap_or(0);
        let had_it = held.attr(NODE).or_else(|| held.attr(LAST_NODE));
        before.saturating_add(u32::from(had_it != Some(node)))
    });
    moves.max().unwrap_or(0)
}

/// What is recorded beside an address of `identity`, in addition to node and time.
pub fn attrs(
    identity: &str,
    lease_secs: u32,
    container: &str,
    endpoint: &str,
    moves: u32,
) -> BTreeMap<String, String> {
    [
        (MOVES, moves.to_string()),
        (IDENTITY, identity.to_owned()),
        (LEASE_SECS, lease_secs.to_string()),
        (CONTAINER, container.to_owned()),
        (ENDPOINT, endpoint.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The attribute of the same address from the moment on at which its container is gone.
pub(crate) fn parked(attribute: &AllocationAttribute, now: Timestamp) -> AllocationAttribute {
    let mut parked = attribute.clone();
    let secs = attr(attribute, LEASE_SECS).and_then(|s| s.parse::<u32>().ok());
    let lease = SignedDuration::from_secs(secs.unwrap_or(0).into());
    let until = now.checked_add(lease).unwrap_or(Timestamp::MAX);
    let secondary = parked.secondary.get_or_insert_default();
    if let Some(node) = secondary.remove(NODE) {
        secondary.insert(LAST_NODE.to_owned(), node);
    }
    let until = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    secondary.insert(LEASE_UNTIL.to_owned(), until);
    parked
}

pub(crate) fn attr<'a>(attribute: &'a AllocationAttribute, name: &str) -> Option<&'a str> {
    attribute.secondary.as_ref()?.get(name).map(String::as_str)
}
