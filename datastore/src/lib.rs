//! Drivers for the `Store` trait, and the syncer that follows a store.
//!
//! Start with [`connect`], which makes an [`AnyStore`] of a [`DatastoreConfig`], and [`Syncer::spawn`],
//! which keeps a consumer in sync with several prefixes. All drivers pass one conformance suite; the
//! embedded and memory drivers refuse what etcd would refuse. Nothing here knows what keys mean.

mod any;
pub mod ask;
mod claim;
mod config;
mod embedded;
mod etcd;
mod file;
mod history;
mod memory;
mod secret;
mod serve;
mod snapshot;
mod socket;
mod srv;
mod syncer;
mod txn;
mod watch;
mod wire;

pub use any::{AnyStore, ConnectError, connect};
pub use claim::Claim;
pub use config::{DatastoreConfig, DatastoreType, EnvError};
pub use embedded::{EmbeddedStore, OpenError};
pub use etcd::{EtcdConfigError, EtcdStore};
pub use memory::{Fault, MemoryStore};
pub use secret::Secret;
pub use serve::serve_store_request;
pub use snapshot::{Snapshot, SnapshotError};
pub use socket::SocketStore;
pub use srv::SrvError;
pub use syncer::{SyncEvent, SyncStatus, Syncer};
pub use txn::{MAX_TXN_BYTES, MAX_TXN_OPS};
pub use watch::{Change, Watch, WatchError, WatchEvent, WatchStore};
