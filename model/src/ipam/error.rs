//! Why a stored record cannot be used.

use super::{BlockCidr, BlockCidrError};

/// A record that does not parse or contradicts itself. It is treated as unusable, never repaired
/// by guessing; the others go on.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct DecodeError {
    /// The key of the record.
    pub key: String,
    /// What is wrong with its value.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Not JSON, or a field of the wrong type.
    #[error("invalid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The CIDR names no block.
    #[error("cidr: {0}")]
    Cidr(#[from] BlockCidrError),
    /// The value's CIDR is not the one of its key.
    #[error("cidr is {found}, but the key says {key}")]
    WrongKey {
        /// The CIDR in the value.
        found: BlockCidr,
        /// The CIDR in the key.
        key: BlockCidr,
    },
    /// `allocations` does not have one entry for each address.
    #[error("allocations has {found} entries, {cidr} has {expected} addresses")]
    AllocationCount {
        /// The block.
        cidr: BlockCidr,
        /// Entries found.
        found: usize,
        /// Addresses in the block.
        expected: usize,
    },
    /// An allocation points past the end of `attributes`.
    #[error("allocations[{ordinal}] is {index}, but attributes has {attributes} entries")]
    AttributeIndex {
        /// Which allocation.
        ordinal: usize,
        /// Where it points.
        index: u32,
        /// How many attributes there are.
        attributes: usize,
    },
    /// A free ordinal is outside of the block.
    #[error("unallocated holds {ordinal}, the block's ordinals are 0 to {last}")]
    OrdinalRange {
        /// The ordinal found.
        ordinal: u32,
        /// The highest one that would be right.
        last: u32,
    },
    /// A free ordinal is listed twice.
    #[error("unallocated holds {ordinal} twice")]
    OrdinalTwice {
        /// The ordinal.
        ordinal: u32,
    },
    /// An ordinal is free and allocated.
    #[error("ordinal {ordinal} is in unallocated, but allocations[{ordinal}] is set")]
    FreeAndAllocated {
        /// The ordinal.
        ordinal: u32,
    },
    /// A key of `sequenceNumberForAllocation` is no ordinal of the block.
    #[error("sequenceNumberForAllocation has the key {found:?}, which is no ordinal of the block")]
    SequenceKey {
        /// The key found.
        found: String,
    },
    /// The record is marked deleted: its writer died before removing it.
    #[error("marked deleted")]
    Deleted,
}

impl Problem {
    /// Names the record that has this problem.
    pub(super) fn at(self, key: &str) -> DecodeError {
        DecodeError {
            key: key.to_owned(),
            problem: self,
        }
    }
}
