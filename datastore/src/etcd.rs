//! The etcd v3 driver.
//!
//! Each endpoint has its own connection and the driver chooses: a request that surely was not sent, and
//! every read, moves on to the next endpoint; a transaction whose fate is unknown is reported as such.
//! Connections are made on first use and come back by themselves, so a driver can be made while etcd is
//! down. Tasks: one for each running watch (see `Watch`).

mod claim;
mod dial;
mod error;
mod members;
mod unary;
mod watcher;

use std::path::PathBuf;
use std::sync::Arc;

use etcd_client::{
    Compare, CompareOp, GetOptions, KvClient, Txn as EtcdTxn, TxnOp, TxnOpResponse, TxnResponse,
};
use margay_model::store::{KeyValue, Listing, Op, Revision, Store, StoreError, Txn, TxnOutcome};

use crate::config::DatastoreConfig;
use crate::txn::{check, unavailable};
use crate::watch::{Watch, WatchStore};
use error::Failure;
use members::{Attempt, Members};

/// Keys fetched in one request of a list. Bounds the size of a message, and how long a list of 100,000
/// keys keeps etcd from other requests.
const LIST_PAGE: i64 = 5000;

/// Lists begun anew because compaction overtook them; a second time is already odd.
const LIST_ATTEMPTS: usize = 3;

/// Why a driver cannot be made from its configuration. Not retried.
#[derive(Debug, thiserror::Error)]
pub enum EtcdConfigError {
    /// No endpoint.
    #[error(
        "etcd endpoints: the list is empty, at least one URL such as https://10.0.0.1:2379 is needed"
    )]
    NoEndpoint,
    /// Not an http or https URL.
    #[error("etcd endpoint {endpoint:?}: {reason}, expected a URL such as https://10.0.0.1:2379")]
    BadEndpoint {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A PEM file cannot be read.
    #[error("etcd {field} {}", path.display())]
    File {
        /// The configuration field.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// A PEM file holds the wrong thing.
    #[error("etcd TLS settings: {reason}")]
    Tls {
        /// What is wrong.
        reason: String,
    },
    /// Two fields that need each other.
    #[error("etcd {present} is set without {missing}: both are needed")]
    Incomplete {
        /// The field that is there.
        present: &'static str,
        /// The field that is not.
        missing: &'static str,
    },
}

/// Clones share their connections.
#[derive(Clone, Debug)]
pub struct EtcdStore(Arc<Members>);

impl EtcdStore {
    /// Reads the certificate files; connects to nothing yet.
    pub fn new(config: &DatastoreConfig) -> Result<Self, EtcdConfigError> {
        Ok(Self(Arc::new(Members::new(config)?)))
    }

    async fn list_once(&self, prefix: &str) -> Result<Listing, Failure> {
        let (mut start, end) = range_of(prefix);
        let mut listing = Listing::default();
        loop {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(LIST_PAGE)
                .with_revision(listing.revision);
            let mut page = self
                .0
                .call(Attempt::Repeatable, |mut client: KvClient| {
                    let (start, options) = (start.clone(), options.clone());
                    async move { client.get(start, Some(options)).await }
                })
                .await?;
            if listing.revision == 0 {
                listing.revision = page.header().map_or(0, |h| h.revision());
            }
            let more = page.more();
            let kvs = page.take_kvs();
            match kvs.last() {
                Some(last) if more => {
                    start = last.key().to_vec();
                    start.push(0);
                }
                _ => {
                    listing.kvs.extend(kvs.into_iter().filter_map(key_value));
                    return Ok(listing);
                }
            }
            listing.kvs.extend(kvs.into_iter().filter_map(key_value));
        }
    }
}

impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let mut found = self
            .0
            .call(Attempt::Repeatable, |mut client: KvClient| async move {
                client.get(key, None).await
            })
            .await
            .map_err(|f| f.into_store_error(key))?;
        Ok(found.take_kvs().into_iter().find_map(key_value))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let mut attempts = 1;
        loop {
            match self.list_once(prefix).await {
                Err(Failure::Compacted) if attempts < LIST_ATTEMPTS => attempts += 1,
                other => return other.map_err(|f| f.into_store_error(prefix)),
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        check(&txn)?;
        let first_key = txn
            .ops
            .first()
            .map(Op::key)
            .or(txn.compares.first().map(|c| c.key.as_str()))
            .unwrap_or_default()
            .to_owned();
        let request = etcd_txn(txn);
        let answer = self
            .0
            .call(Attempt::Once, |mut client: KvClient| {
                let request = request.clone();
                async move { client.txn(request).await }
            })
            .await
            .map_err(|f| f.into_store_error(&first_key))?;
        outcome(&answer)
    }
}

impl WatchStore for EtcdStore {
    fn watch(&self, prefix: &str, from_revision: Revision) -> Watch {
        let members = Arc::clone(&self.0);
        let prefix = prefix.to_owned();
        Watch::spawn(|tx| watcher::run(members, prefix, from_revision, tx))
    }
}

/// The transaction in etcd's terms; the failure branch reads all compared keys.
fn etcd_txn(txn: Txn) -> EtcdTxn {
    let reads: Vec<TxnOp> = txn
        .compares
        .iter()
        .map(|c| TxnOp::get(c.key.as_str(), None))
        .collect();
    let compares: Vec<Compare> = txn
        .compares
        .into_iter()
        .map(|c| Compare::mod_revision(c.key, CompareOp::Equal, c.mod_revision))
        .collect();
    let ops: Vec<TxnOp> = txn
        .ops
        .into_iter()
        .map(|op| match op {
            Op::Put { key, value } => TxnOp::put(key, value, None),
            Op::Delete { key } => TxnOp::delete(key, None),
        })
        .collect();
    EtcdTxn::new().when(compares).and_then(ops).or_else(reads)
}

fn outcome(answer: &TxnResponse) -> Result<TxnOutcome, StoreError> {
    if answer.succeeded() {
        let header = answer.header();
        // Without a revision there is no telling what was committed when.
        return header
            .map(|h| TxnOutcome::Committed(h.revision()))
            .ok_or_else(|| unavailable("etcd answered a transaction without a header"));
    }
    let now = answer
        .op_responses()
        .into_iter()
        .map(|response| match response {
            TxnOpResponse::Get(mut found) => found.take_kvs().into_iter().find_map(key_value),
            _ => None,
        })
        .collect();
    Ok(TxnOutcome::Conflict(now))
}

/// None for a key that is not text: nothing of ours, and nothing we could name.
fn key_value(kv: etcd_client::KeyValue) -> Option<KeyValue> {
    let mod_revision = kv.mod_revision();
    let (key, value) = kv.into_key_value();
    match String::from_utf8(key) {
        Ok(key) => Some(KeyValue {
            key,
            value,
            mod_revision,
        }),
        Err(error) => {
            let key = String::from_utf8_lossy(error.as_bytes()).into_owned();
            tracing::warn!(key, "etcd key is not UTF-8, ignored");
            None
        }
    }
}

/// First key and end of the range that is a prefix, as etcd wants them.
fn range_of(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    if prefix.is_empty() {
        return (vec![0], vec![0]);
    }
    let mut end = prefix.as_bytes().to_vec();
    // A byte of UTF-8 is below 0xff, so the last one can always be raised.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (prefix.as_bytes().to_vec(), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_of_a_prefix_ends_just_after_it() {
        assert_eq!(range_of("/a/"), (b"/a/".to_vec(), b"/a0".to_vec()));
        assert_eq!(range_of(""), (vec![0], vec![0]));
    }
}
