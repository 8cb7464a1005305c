//! The store's values as they travel over the agent's socket.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use margay_api::store::{StoreReply, StoreRequest, WireChange, WireCompare, WireKeyValue, WireOp};
use margay_model::store::{Compare, KeyValue, Op, StoreError, Txn};

use crate::txn::rejected;
use crate::watch::{Change, WatchError, WatchEvent};

pub(crate) fn key_value(kv: KeyValue) -> WireKeyValue {
    WireKeyValue {
        key: kv.key,
        value: BASE64_STANDARD.encode(kv.value),
        mod_revision: kv.mod_revision,
    }
}

pub(crate) fn read_key_value(wire: WireKeyValue) -> Result<KeyValue, StoreError> {
    Ok(KeyValue {
        value: decode(&wire.key, &wire.value)?,
        key: wire.key,
        mod_revision: wire.mod_revision,
    })
}

fn decode(key: &str, value: &str) -> Result<Vec<u8>, StoreError> {
    BASE64_STANDARD
        .decode(value)
        .map_err(|e| rejected(format!("value of {key} is not base64: {e}")))
}

pub(crate) fn txn_request(txn: Txn) -> StoreRequest {
    let compares = txn.compares.into_iter().map(|c| WireCompare {
        key: c.key,
        mod_revision: c.mod_revision,
    });
    let ops = txn.ops.into_iter().map(|op| match op {
        Op::Put { key, value } => WireOp::Put {
            key,
            value: BASE64_STANDARD.encode(value),
        },
        Op::Delete { key } => WireOp::Delete { key },
    });
    StoreRequest::Txn {
        compares: compares.collect(),
        ops: ops.collect(),
    }
}

pub(crate) fn read_txn(compares: Vec<WireCompare>, ops: Vec<WireOp>) -> Result<Txn, StoreError> {
    let compares = compares.into_iter().map(|c| Compare {
        key: c.key,
        mod_revision: c.mod_revision,
    });
    let mut txn = Txn {
        compares: compares.collect(),
        ops: Vec::with_capacity(ops.len()),
    };
    for op in ops {
        txn.ops.push(match op {
            WireOp::Put { key, value } => Op::Put {
                value: decode(&key, &value)?,
                key,
            },
            WireOp::Delete { key } => Op::Delete { key },
        });
    }
    Ok(txn)
}

pub(crate) fn event(event: WatchEvent) -> StoreReply {
    let changes = event.changes.into_iter().map(|change| match change {
        Change::Put(kv) => WireChange::Put(key_value(kv)),
        Change::Delete { key } => WireChange::Delete { key },
    });
    StoreReply::Event {
        revision: event.revision,
        changes: changes.collect(),
    }
}

pub(crate) fn read_changes(changes: Vec<WireChange>) -> Result<Vec<Change>, StoreError> {
    let read = |change| match change {
        WireChange::Put(kv) => read_key_value(kv).map(Change::Put),
        WireChange::Delete { key } => Ok(Change::Delete { key }),
    };
    changes.into_iter().map(read).collect()
}

pub(crate) fn watch_error(error: WatchError) -> StoreReply {
    match error {
        WatchError::Compacted { compact_revision } => StoreReply::Compacted { compact_revision },
        WatchError::Lost { reason } => StoreReply::WatchLost { reason },
    }
}

pub(crate) fn store_error(error: StoreError) -> StoreReply {
    match error {
        StoreError::Unavailable { reason } => StoreReply::Unavailable { reason },
        StoreError::PermissionDenied { key, reason } => {
            StoreReply::PermissionDenied { key, reason }
        }
        StoreError::Rejected { reason } => StoreReply::Rejected { reason },
    }
}
