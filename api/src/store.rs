//! Datastore requests over the agent's socket: how the command line reaches an embedded store.
//!
//! One request line, `{"store":{"get":{"key":"/calico/.."}}}`, is answered by one line, except for a
//! watch, which streams lines until either side closes. Values travel as base64.

use serde::{Deserialize, Serialize};

/// A call of the `Store` trait, or a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreRequest {
    /// The current value of one key; answered by [`StoreReply::Value`].
    Get {
        /// The full key.
        key: String,
    },
    /// Everything below a prefix; answered by [`StoreReply::Listing`].
    List {
        /// The prefix; empty means all.
        prefix: String,
    },
    /// A transaction; answered by [`StoreReply::Committed`] or [`StoreReply::Conflict`].
    Txn {
        /// Conditions, all of which must hold.
        compares: Vec<WireCompare>,
        /// Changes, applied together.
        ops: Vec<WireOp>,
    },
    /// Changes as they happen; answered by [`StoreReply::Event`] lines, an empty one now and then.
    Watch {
        /// The prefix; empty means all.
        prefix: String,
        /// The first revision wanted; 0 for "whatever comes next".
        from_revision: i64,
    },
}

/// A key with its value and the revision that last wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireKeyValue {
    /// The full key.
    pub key: String,
    /// The value in base64 (standard alphabet, padded).
    pub value: String,
    /// The revision that last wrote the key.
    pub mod_revision: i64,
}

/// A condition: the key was last written at exactly this revision; 0 for "does not exist".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireCompare {
    /// The key looked at.
    pub key: String,
    /// The revision demanded.
    pub mod_revision: i64,
}

/// A change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireOp {
    /// Create or overwrite.
    Put {
        /// The key to write.
        key: String,
        /// The value in base64.
        value: String,
    },
    /// Remove.
    Delete {
        /// The key to remove.
        key: String,
    },
}

/// A change seen by a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireChange {
    /// Created or overwritten.
    Put(WireKeyValue),
    /// Removed.
    Delete {
        /// The key removed.
        key: String,
    },
}

/// One answer line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreReply {
    /// The answer to a get; nothing when the key does not exist.
    Value(Option<WireKeyValue>),
    /// The answer to a list.
    Listing {
        /// In ascending order of their keys.
        kvs: Vec<WireKeyValue>,
        /// The store's revision when the list was taken.
        revision: i64,
    },
    /// All conditions held and the changes are durable.
    Committed {
        /// The revision of the transaction.
        revision: i64,
    },
    /// A condition did not hold; nothing was changed.
    Conflict {
        /// The compared keys as they are, in the order of the conditions.
        kvs: Vec<Option<WireKeyValue>>,
    },
    /// All changes of one revision; without changes it only says that the watch is alive.
    Event {
        /// The revision of the changes.
        revision: i64,
        /// What changed, in no particular order: a key appears once.
        changes: Vec<WireChange>,
    },
    /// The watch ends: its revision is no longer kept. List, then watch again.
    Compacted {
        /// The oldest revision that can still be watched from.
        compact_revision: i64,
    },
    /// The watch ends: the agent's own view of the store was interrupted. List, then watch again.
    WatchLost {
        /// For people.
        reason: String,
    },
    /// The store could not be reached; a transaction may or may not have been committed.
    Unavailable {
        /// For people.
        reason: String,
    },
    /// The store refused access.
    PermissionDenied {
        /// The key or prefix asked for.
        key: String,
        /// For people.
        reason: String,
    },
    /// The store found the request invalid.
    Rejected {
        /// For people.
        reason: String,
    },
    /// The agent did not hand the request to its store; the text is for people.
    Error(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;

    #[test]
    fn a_request_line_reads_as_documented() {
        let call = Request::Store(StoreRequest::Get {
            key: "/calico/a".into(),
        });
        let line = serde_json::to_string(&call).unwrap();
        assert_eq!(line, r#"{"store":{"get":{"key":"/calico/a"}}}"#);
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), call);
    }
}
