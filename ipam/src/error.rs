//! Why a request failed. Nothing was changed then, except where the store's answer got lost.

use std::net::IpAddr;

use margay_model::ipam::Family;
use margay_model::store::{KeyValue, StoreError};

use crate::pool::PoolError;

/// Why addresses were not assigned or given back.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// No pool serves the request.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The pools have no address left for this node.
    #[error("no free {family} address for node {node} in {pools}{hint}")]
    Exhausted {
        /// The family.
        family: Family,
        /// The node.
        node: String,
        /// The pools tried.
        pools: String,
        /// What stands in the way: resting addresses, block limit, strictAffinity.
        hint: String,
    },
    /// The address asked for is held.
    #[error("{ip} is taken by {by}")]
    Taken {
        /// The address.
        ip: IpAddr,
        /// The holder: handle and node.
        by: String,
    },
    /// The address asked for was released a moment ago.
    #[error("{ip} was released at {since} and may be used again {cooldown_secs} s later")]
    Resting {
        /// The address.
        ip: IpAddr,
        /// When it was released.
        since: String,
        /// How long addresses rest.
        cooldown_secs: u32,
    },
    /// The address asked for is in an `IPReservation`.
    #[error("{ip} is reserved")]
    Reserved {
        /// The address.
        ip: IpAddr,
    },
    /// The address asked for is in another host's block, or would need a block of nobody.
    #[error("{ip} is in a block of {owner}, and strictAffinity forbids to take it")]
    StrictAffinity {
        /// The address.
        ip: IpAddr,
        /// Who owns the block.
        owner: String,
    },
    /// The address to be given back is held by another handle, or since another time.
    #[error("{ip} is held by {found}, not by {expected}")]
    Mismatch {
        /// The address.
        ip: IpAddr,
        /// Who holds it.
        found: String,
        /// Who should hold it.
        expected: String,
    },
    /// The identity's address was handed to another workload since it was looked at.
    #[error("{ip} was handed to {to} meanwhile")]
    Moved {
        /// The address.
        ip: IpAddr,
        /// Who has it.
        to: String,
    },
    /// A record that the request depends on is damaged.
    #[error("unusable record: {0}")]
    Corrupt(String),
    /// A compare of the caller's part of the transaction did not hold.
    #[error("{} changed meanwhile", .compared.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>().join(", "))]
    ExtraConflict {
        /// The keys whose compare failed, with their current state.
        compared: Vec<(String, Option<KeyValue>)>,
    },
    /// Others changed the same blocks at each of the attempts.
    #[error("gave up after {attempts} attempts: others change the same blocks all the time")]
    Contention {
        /// How many.
        attempts: u32,
    },
    /// Another instance of the same node's agent began after this one.
    #[error(
        "another agent works as node {node}: node names must be unique, and one agent runs on a node"
    )]
    Superseded {
        /// The node.
        node: String,
    },
    /// The request needs more changes than one transaction may hold.
    #[error("the request needs {found} operations, one transaction holds at most {allowed}")]
    TooLarge {
        /// Operations needed.
        found: usize,
        /// Operations allowed.
        allowed: usize,
    },
    /// The caller's part touches a key twice or one of address management's.
    #[error("the transaction would touch {key} twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The store failed. When it is unavailable the change may or may not have been made: ask again
    /// with the same handle, or release it.
    #[error(transparent)]
    Store(#[from] std::sync::Arc<StoreError>),
}

impl From<StoreError> for IpamError {
    fn from(error: StoreError) -> Self {
        Self::Store(std::sync::Arc::new(error))
    }
}
