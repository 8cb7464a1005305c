//! The `Store` trait: what every datastore driver offers, in the terms of etcd v3.
//!
//! A store is an ordered map from keys to values with one global revision that grows by one with each
//! committed transaction. Drivers live in `margay-datastore`; the trait is here so that pure crates
//! (the allocator above all) can be generic over it without knowing a runtime or a socket.

use std::future::Future;

/// A store revision. 0 is "before anything": as a key's `mod_revision` in a [`Compare`] it means absent.
pub type Revision = i64;

/// One key with its value and the revision that last changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The full key, for example `/calico/resources/v3/projectcalico.org/nodes/n1`.
    pub key: String,
    /// The stored bytes. Nearly always JSON.
    pub value: Vec<u8>,
    /// The revision of the transaction that last wrote this key; never 0.
    pub mod_revision: Revision,
}

/// All keys below a prefix at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// In ascending byte order of their keys.
    pub kvs: Vec<KeyValue>,
    /// The store's revision when the list was taken; watch from `revision + 1` to miss nothing.
    pub revision: Revision,
}

/// A condition of a transaction: the key was last changed at exactly this revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key looked at.
    pub key: String,
    /// Its `mod_revision`; 0 demands that the key does not exist.
    pub mod_revision: Revision,
}

/// A change made by a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create or overwrite.
    Put {
        /// The key to write.
        key: String,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Remove; removing what is absent is no error.
    Delete {
        /// The key to remove.
        key: String,
    },
}

impl Op {
    /// The key that this change touches.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// All changes if all compares hold, nothing otherwise. A key appears at most once in `ops`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// Conditions, all of which must hold.
    pub compares: Vec<Compare>,
    /// Changes, applied together at one revision.
    pub ops: Vec<Op>,
}

impl Txn {
    /// Adds: `key` must be at `mod_revision` (0: absent).
    #[must_use]
    pub fn when(mut self, key: impl Into<String>, mod_revision: Revision) -> Self {
        self.compares.push(Compare {
            key: key.into(),
            mod_revision,
        });
        self
    }

    /// Adds a write.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.ops.push(Op::Put {
            key: key.into(),
            value: value.into(),
        });
        self
    }

    /// Adds a removal.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All compares held; the changes are durable at this revision.
    Committed(Revision),
    /// At least one compare did not hold and nothing was changed. The compared keys as they were at
    /// that moment, in the order of `Txn::compares`; `None` for an absent one.
    Conflict(Vec<Option<KeyValue>>),
}

/// Why a store could not answer. A conflict is not an error: see [`TxnOutcome::Conflict`].
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached or did not answer in time. Reads may be retried at once elsewhere;
    /// a transaction may or may not have been committed, so re-read before retrying it.
    #[error("datastore unavailable: {reason}")]
    Unavailable {
        /// What the driver saw, without secrets.
        reason: String,
    },
    /// The store refused: wrong credentials or a role that lacks the right. Not retried.
    #[error("datastore refused access to {key}: {reason}")]
    PermissionDenied {
        /// The key or prefix asked for.
        key: String,
        /// The store's words.
        reason: String,
    },
    /// The store found the request invalid (too large, too many operations) or its own file damaged.
    #[error("datastore rejected the request: {reason}")]
    Rejected {
        /// The store's words.
        reason: String,
    },
}

/// Reads and transactions. Every driver gives linearizable reads and serializable transactions.
///
/// Implementations are cheap to clone by reference and safe to share; no method holds a lock across
/// its answer. Cancelling a `txn` future leaves it unknown whether the transaction took place.
pub trait Store: Send + Sync {
    /// The current value of one key.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<KeyValue>, StoreError>> + Send;

    /// Everything whose key starts with `prefix`, consistently at one revision.
    fn list(&self, prefix: &str) -> impl Future<Output = Result<Listing, StoreError>> + Send;

    /// Runs a transaction.
    fn txn(&self, txn: Txn) -> impl Future<Output = Result<TxnOutcome, StoreError>> + Send;
}

impl<S: Store> Store for std::sync::Arc<S> {
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<KeyValue>, StoreError>> + Send {
        (**self).get(key)
    }

    fn list(&self, prefix: &str) -> impl Future<Output = Result<Listing, StoreError>> + Send {
        (**self).list(prefix)
    }

    fn txn(&self, txn: Txn) -> impl Future<Output = Result<TxnOutcome, StoreError>> + Send {
        (**self).txn(txn)
    }
}
