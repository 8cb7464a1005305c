//! Reading a snapshot from a store, and committing a repair.

use margay_model::ipam::IpamKeys;
use margay_model::keys::Keys;
use margay_model::store::{Store, StoreError, Txn, TxnOutcome};

use super::{Finding, RESOURCE_KINDS, Repair, Snapshot, When, repair};

/// What became of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mended {
    /// This was done.
    Done(String),
    /// It was not wrong any more.
    Healed,
    /// It is left to people.
    Refused(String),
    /// Somebody changed the same records: look again.
    Conflict,
}

/// Reads everything that a check looks at, in the order that a [`Snapshot`] needs.
///
/// # Errors
/// The store cannot answer.
pub async fn look<S: Store>(store: &S, keys: &Keys) -> Result<Snapshot, StoreError> {
    let ipam = store.list(IpamKeys::new(keys.prefix()).all()).await?;
    let mut resources = Vec::new();
    for kind in RESOURCE_KINDS {
        resources.extend(store.list(&keys.kind(kind)).await?.kvs);
    }
    Ok(Snapshot::new(keys, &ipam.kvs, &resources))
}

/// Mends one finding that two snapshots agree on; `snapshot` is the later of them, and goes along
/// with what is committed.
///
/// # Errors
/// The store cannot answer. Whether the repair took place is unknown then: look again.
pub async fn mend<S: Store>(
    store: &S,
    snapshot: &mut Snapshot,
    finding: &Finding,
    when: When,
) -> Result<Mended, StoreError> {
    let repair = repair(snapshot, &finding.fault, when);
    commit(store, snapshot, repair).await
}

/// Commits a repair.
///
/// # Errors
/// As [`mend`].
pub async fn commit<S: Store>(
    store: &S,
    snapshot: &mut Snapshot,
    repair: Repair,
) -> Result<Mended, StoreError> {
    let (txn, deed): (Txn, String) = match repair {
        Repair::Commit { txn, deed } => (txn, deed),
        Repair::Healed => return Ok(Mended::Healed),
        Repair::Refused(reason) => return Ok(Mended::Refused(reason)),
    };
    match store.txn(txn.clone()).await? {
        TxnOutcome::Committed(revision) => {
            snapshot.apply(&txn, revision);
            Ok(Mended::Done(deed))
        }
        TxnOutcome::Conflict(_) => Ok(Mended::Conflict),
    }
}
