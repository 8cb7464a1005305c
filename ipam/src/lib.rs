//! Hands out addresses: every change of blocks, affinities, handles and what the caller adds to it
//! (the workload's endpoint) is one store transaction.
//!
//! The entry is [`Allocator`], generic over [`margay_model::store::Store`] and without a runtime, a
//! clock or randomness: time is an argument, order is seeded by the node's name. What it remembers
//! between calls is a hint that each transaction verifies; it is never the truth.

mod address_set;
mod allocator;
mod block;
pub mod check;
mod error;
mod known;
pub mod own_keys;
mod plan;
mod pool;
mod request;
pub mod sticky;
mod usage;

pub use address_set::AddressSet;
pub use allocator::{Allocator, Loaded, NodeBlock, View};
pub use block::{Allocate, Taken};
pub use error::IpamError;
pub use pool::{Pool, PoolError, Pools, Requested};
pub use request::{
    Address, AssignRequest, Extra, ExtraFn, GiveUpRequest, NamespaceFn, Outcome, ParkRequest,
    ReleaseIpRequest, ReleaseRequest, Request, Skipped,
};
pub use usage::{BlockUsage, Borrowed, PoolUsage, Usage};
