//! What address management keeps in the store: blocks, their affinities, handles and the
//! configuration, in the byte layout that the established system's agents and clients read and write.
//!
//! Everything here is data: [`Block`] holds the arithmetic-free record, `margay-ipam` allocates in it.
//! Decoding never panics and never guesses: a record that contradicts itself is a [`DecodeError`]
//! naming its key, so that one damaged record can be left out without stopping the others.

mod affinity;
mod block;
mod block_cidr;
mod config;
mod error;
mod handle;
mod keys;

pub use affinity::{AffinityState, BlockAffinity, Owner};
pub use block::{AllocationAttribute, Block, go_timestamp, parse_go_timestamp};
pub use block_cidr::{BlockCidr, BlockCidrError, Family, MAX_BLOCK_ADDRESSES};
pub use config::{
    DEFAULT_COOLDOWN_SECS, DEFAULT_MAX_BLOCKS_PER_HOST, IpamConfig, MAX_COOLDOWN_SECS,
};
pub use error::{DecodeError, Problem};
pub use handle::Handle;
pub use keys::{IpamKey, IpamKeys};
