//! The driver chosen at run time.

use margay_model::store::{KeyValue, Listing, Revision, Store, StoreError, Txn, TxnOutcome};

use crate::config::{DatastoreConfig, DatastoreType};
use crate::embedded::{EmbeddedStore, OpenError};
use crate::etcd::{EtcdConfigError, EtcdStore};
use crate::memory::MemoryStore;
use crate::socket::SocketStore;
use crate::srv::{self, SrvError};
use crate::watch::{Watch, WatchStore};

/// One of the drivers. Clones share its connection or file.
#[derive(Clone, Debug)]
pub enum AnyStore {
    /// An etcd cluster.
    Etcd(EtcdStore),
    /// A file opened by this process.
    Embedded(EmbeddedStore),
    /// The store of this host's agent.
    Socket(SocketStore),
    /// For tests.
    Memory(MemoryStore),
}

/// Why there is no store. Not retried: the configuration or the file needs a look.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The etcd settings are wrong.
    #[error(transparent)]
    Etcd(#[from] EtcdConfigError),
    /// The endpoints cannot be found by DNS.
    #[error(transparent)]
    Discovery(#[from] SrvError),
    /// The embedded store's file cannot be opened.
    #[error(transparent)]
    Embedded(#[from] OpenError),
}

/// Makes the store that the configuration names. An etcd that is down is no error: requests say so.
/// Blocks on the disk for the embedded store, a few milliseconds unless the file needs repair, and on
/// name servers where endpoints are found by DNS.
pub fn connect(config: &DatastoreConfig) -> Result<AnyStore, ConnectError> {
    Ok(match config.kind {
        DatastoreType::Etcdv3 => match &config.discovery_srv {
            Some(domain) => {
                let found = DatastoreConfig {
                    endpoints: srv::endpoints(domain)?,
                    ..config.clone()
                };
                AnyStore::Etcd(EtcdStore::new(&found)?)
            }
            None => AnyStore::Etcd(EtcdStore::new(config)?),
        },
        DatastoreType::Embedded => AnyStore::Embedded(EmbeddedStore::open(&config.path)?),
    })
}

macro_rules! each_driver {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Self::Etcd($store) => $call,
            Self::Embedded($store) => $call,
            Self::Socket($store) => $call,
            Self::Memory($store) => $call,
        }
    };
}

impl Store for AnyStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        each_driver!(self, store => store.get(key).await)
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        each_driver!(self, store => store.list(prefix).await)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        each_driver!(self, store => store.txn(txn).await)
    }
}

impl WatchStore for AnyStore {
    fn watch(&self, prefix: &str, from_revision: Revision) -> Watch {
        each_driver!(self, store => store.watch(prefix, from_revision))
    }
}
