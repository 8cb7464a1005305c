//! What every driver demands of a transaction, so that code tried on one driver works on all.

use std::collections::BTreeSet;

use margay_model::store::{StoreError, Txn};

/// The most compares, and the most operations, that a transaction may have: etcd's own default limit.
pub const MAX_TXN_OPS: usize = 128;

/// The largest transaction in bytes of keys and values: etcd's default request limit of 1.5 MiB less
/// room for framing.
pub const MAX_TXN_BYTES: usize = (3 << 19) - (16 << 10);

/// Refuses what etcd would refuse.
pub(crate) fn check(txn: &Txn) -> Result<(), StoreError> {
    let widest = txn.compares.len().max(txn.ops.len());
    if widest > MAX_TXN_OPS {
        return Err(rejected(format!(
            "transaction with {widest} operations or conditions, at most {MAX_TXN_OPS} are allowed"
        )));
    }
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    for op in &txn.ops {
        let key = op.key();
        if key.is_empty() {
            return Err(rejected("transaction with an empty key".into()));
        }
        if !seen.insert(key) {
            return Err(rejected(format!("transaction changes key {key} twice")));
        }
        bytes += key.len();
        if let margay_model::store::Op::Put { value, .. } = op {
            bytes += value.len();
        }
    }
    if bytes > MAX_TXN_BYTES {
        return Err(rejected(format!(
            "transaction of {bytes} bytes, at most {MAX_TXN_BYTES} are allowed"
        )));
    }
    Ok(())
}

pub(crate) fn rejected(reason: String) -> StoreError {
    StoreError::Rejected { reason }
}

pub(crate) fn unavailable(reason: impl Into<String>) -> StoreError {
    StoreError::Unavailable {
        reason: reason.into(),
    }
}
