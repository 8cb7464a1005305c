//! Faults for proving the checker: a store that loses what it should keep.

use std::str::FromStr;

use margay_datastore::EtcdStore;
use margay_model::store::{KeyValue, Listing, Op, Store, StoreError, Txn, TxnOutcome};

/// What is wrong with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Nothing.
    Nothing,
    /// One transaction in five is made whatever its compares say.
    DropCompares,
    /// Endpoints stay when their addresses go, one time in five.
    KeepEndpoints,
    /// One transaction in fifty is said to be made and is not.
    FalseCommit,
    /// One transaction in fifty is made and reported as refused.
    FalseRefusal,
    /// Parked addresses are given back before their leases are over.
    EarlyLease,
}

impl Plant {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::DropCompares => "drop-compares",
            Self::KeepEndpoints => "keep-endpoints",
            Self::FalseCommit => "false-commit",
            Self::FalseRefusal => "false-refusal",
            Self::EarlyLease => "early-lease",
        }
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [
            Self::Nothing,
            Self::DropCompares,
            Self::KeepEndpoints,
            Self::FalseCommit,
            Self::FalseRefusal,
            Self::EarlyLease,
        ];
        let found = all.into_iter().find(|plant| plant.name() == text);
        found.ok_or_else(|| format!("unknown fault {text:?}"))
    }
}

/// etcd, with a fault.
#[derive(Clone, Debug)]
pub(crate) struct Planted {
    pub(crate) store: EtcdStore,
    pub(crate) plant: Plant,
}

impl Store for Planted {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.store.list(prefix).await
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnOutcome, StoreError> {
        match self.plant {
            Plant::DropCompares if fastrand::u8(..5) == 0 => txn.compares.clear(),
            Plant::KeepEndpoints if fastrand::u8(..5) == 0 => txn.ops.retain(
                |op| !matches!(op, Op::Delete { key } if key.contains("/workloadendpoints/")),
            ),
            Plant::FalseCommit if fastrand::u8(..50) == 0 => {
                return Ok(TxnOutcome::Committed(self.store.list("-").await?.revision));
            }
            Plant::FalseRefusal if fastrand::u8(..50) == 0 => {
                self.store.txn(txn).await?;
                let reason = "planted".to_owned();
                return Err(StoreError::Rejected { reason });
            }
            _ => {}
        }
        self.store.txn(txn).await
    }
}
