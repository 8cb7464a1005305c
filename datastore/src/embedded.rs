//! The single-host store: one file, the semantics of etcd, nothing to run.
//!
//! Every acknowledged transaction is on disk, whatever happens to the process. The history for watches
//! is kept in memory only: after a restart watchers list again. One process opens the file at a time;
//! others go through the agent's socket. All file access happens on blocking threads.
//!
//! After an I/O error (a full disk) the file refuses further writes until it is opened again.

use std::io::ErrorKind;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use margay_model::store::{KeyValue, Listing, Op, Revision, Store, StoreError, Txn, TxnOutcome};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
};

use crate::file;
use crate::history::History;
use crate::txn::{check, rejected, unavailable};
use crate::watch::{Change, Watch, WatchEvent, WatchStore};

/// Key to (mod revision, value).
const KVS: TableDefinition<'_, &str, (Revision, &[u8])> = TableDefinition::new("kvs");

/// [`FORMAT_KEY`] and [`REVISION_KEY`].
const META: TableDefinition<'_, &str, i64> = TableDefinition::new("meta");
const FORMAT_KEY: &str = "format";
const REVISION_KEY: &str = "revision";

/// Layout of the tables above. Raised when an older agent could not read the file.
const FORMAT: i64 = 1;

/// The page cache. A single host's data is a few megabytes; the library's default is a gigabyte.
const CACHE_BYTES: usize = 16 << 20;

/// Why a store file could not be opened. Not retried: someone has to look.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the file.
    #[error(
        "store file {} is in use by another process: is an agent already running on it?",
        path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer agent wrote the file.
    #[error(
        "store file {} has format {found}, this program reads up to {FORMAT}: it was written by a newer version",
        path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// The directory or file cannot be made or opened.
    #[error("cannot open store file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a store, or is damaged.
    #[error("store file {} is not usable", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The file format's words.
        #[source]
        source: redb::Error,
    },
}

/// Clones are the same open file.
#[derive(Clone, Debug)]
pub struct EmbeddedStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    db: Database,
    history: History,
    // Commit and publication are one step, or watchers would see revisions out of order.
    writer: Mutex<()>,
}

impl EmbeddedStore {
    /// Opens or makes the file, and its directory, readable by the owner only. Blocks on the disk.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let db = file::open(path, CACHE_BYTES).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse {
                path: path.to_owned(),
            },
            DatabaseError::Storage(StorageError::Io(source))
                if source.kind() != ErrorKind::InvalidData =>
            {
                OpenError::Io {
                    path: path.to_owned(),
                    source,
                }
            }
            other => damaged(path, other),
        })?;
        let revision = prepare(&db, path)?;
        Ok(Self(Arc::new(Shared {
            db,
            history: History::new(revision),
            writer: Mutex::new(()),
        })))
    }

    /// Forgets the history before `revision`: watches from before it end with `Compacted`.
    pub fn compact(&self, revision: Revision) {
        self.0.history.compact(revision);
    }

    async fn blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || run(&shared))
            .await
            .unwrap_or_else(|e| Err(unavailable(format!("store file access failed: {e}"))))
    }
}

/// Makes the tables of a new file, checks the format of an old one. The revision it is at.
fn prepare(db: &Database, path: &Path) -> Result<Revision, OpenError> {
    let at = |source: redb::Error| damaged(path, source);
    let write = db.begin_write().map_err(|e| at(e.into()))?;
    let revision = {
        write.open_table(KVS).map_err(|e| at(e.into()))?;
        let mut meta = write.open_table(META).map_err(|e| at(e.into()))?;
        let found = meta
            .get(FORMAT_KEY)
            .map_err(|e| at(e.into()))?
            .map(|v| v.value());
        match found {
            None => {
                meta.insert(FORMAT_KEY, FORMAT).map_err(|e| at(e.into()))?;
            }
            Some(FORMAT) => {}
            Some(found) => {
                return Err(OpenError::NewerFormat {
                    path: path.to_owned(),
                    found,
                });
            }
        }
        meta.get(REVISION_KEY)
            .map_err(|e| at(e.into()))?
            .map_or(0, |v| v.value())
    };
    write.commit().map_err(|e| at(e.into()))?;
    Ok(revision)
}

fn damaged(path: &Path, source: impl Into<redb::Error>) -> OpenError {
    OpenError::Damaged {
        path: path.to_owned(),
        source: source.into(),
    }
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        e @ (redb::Error::Corrupted(_) | redb::Error::ValueTooLarge(_)) => {
            rejected(format!("store file: {e}"))
        }
        e => unavailable(format!("store file: {e}")),
    }
}

type Kvs<'t> = redb::Table<'t, &'static str, (Revision, &'static [u8])>;

fn read(
    kvs: &impl ReadableTable<&'static str, (Revision, &'static [u8])>,
    key: &str,
) -> Result<Option<KeyValue>, StoreError> {
    let found = kvs.get(key).map_err(failed)?;
    Ok(found.map(|guard| key_value(key, guard.value())))
}

fn key_value(key: &str, (mod_revision, value): (Revision, &[u8])) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: value.to_vec(),
        mod_revision,
    }
}

impl Shared {
    fn revision(meta: &impl ReadableTable<&'static str, i64>) -> Result<Revision, StoreError> {
        let found = meta.get(REVISION_KEY).map_err(failed)?;
        Ok(found.map_or(0, |guard| guard.value()))
    }

    fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let snapshot = self.db.begin_read().map_err(failed)?;
        read(&snapshot.open_table(KVS).map_err(failed)?, key)
    }

    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let snapshot = self.db.begin_read().map_err(failed)?;
        let table = snapshot.open_table(KVS).map_err(failed)?;
        let mut kvs = Vec::new();
        for entry in table
            .range::<&str>((Bound::Included(prefix), Bound::Unbounded))
            .map_err(failed)?
        {
            let (key, value) = entry.map_err(failed)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            kvs.push(key_value(key.value(), value.value()));
        }
        let meta = snapshot.open_table(META).map_err(failed)?;
        Ok(Listing {
            kvs,
            revision: Self::revision(&meta)?,
        })
    }

    fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        // Nothing is guarded that a panic could leave half changed: the file's transaction is dropped.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let write = self.db.begin_write().map_err(failed)?;
        let (revision, changes) = {
            let mut kvs = write.open_table(KVS).map_err(failed)?;
            if let Some(now) = conflict(&kvs, &txn)? {
                return Ok(TxnOutcome::Conflict(now));
            }
            let mut meta = write.open_table(META).map_err(failed)?;
            let before = Self::revision(&meta)?;
            let mut changes = Vec::with_capacity(txn.ops.len());
            for op in txn.ops {
                changes.extend(apply(&mut kvs, op, before + 1)?);
            }
            if changes.is_empty() {
                return Ok(TxnOutcome::Committed(before));
            }
            meta.insert(REVISION_KEY, before + 1).map_err(failed)?;
            (before + 1, changes)
        };
        write.commit().map_err(failed)?;
        self.history.publish(WatchEvent { revision, changes });
        Ok(TxnOutcome::Committed(revision))
    }
}

/// The compared keys as they are, if one of them is not as demanded.
fn conflict(kvs: &Kvs<'_>, txn: &Txn) -> Result<Option<Vec<Option<KeyValue>>>, StoreError> {
    let mut now = Vec::with_capacity(txn.compares.len());
    for compare in &txn.compares {
        now.push(read(kvs, &compare.key)?);
    }
    let holds = now
        .iter()
        .zip(&txn.compares)
        .all(|(kv, c)| kv.as_ref().map_or(0, |kv| kv.mod_revision) == c.mod_revision);
    Ok((!holds).then_some(now))
}

/// What changed, if anything.
fn apply(kvs: &mut Kvs<'_>, op: Op, revision: Revision) -> Result<Option<Change>, StoreError> {
    match op {
        Op::Put { key, value } => {
            kvs.insert(key.as_str(), (revision, value.as_slice()))
                .map_err(failed)?;
            Ok(Some(Change::Put(KeyValue {
                key,
                value,
                mod_revision: revision,
            })))
        }
        Op::Delete { key } => {
            let existed = kvs.remove(key.as_str()).map_err(failed)?.is_some();
            Ok(existed.then_some(Change::Delete { key }))
        }
    }
}

impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let key = key.to_owned();
        self.blocking(move |shared| shared.get(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let prefix = prefix.to_owned();
        self.blocking(move |shared| shared.list(&prefix)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        check(&txn)?;
        self.blocking(move |shared| shared.txn(txn)).await
    }
}

impl WatchStore for EmbeddedStore {
    fn watch(&self, prefix: &str, from_revision: Revision) -> Watch {
        Watch::from_history(self.0.history.watch(prefix, from_revision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_open_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/store.redb");
        let first = EmbeddedStore::open(&path).unwrap();
        let refused = EmbeddedStore::open(&path).unwrap_err();
        assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
        assert!(refused.to_string().contains("sub/store.redb"));
        drop(first);
        EmbeddedStore::open(&path).unwrap();
    }

    #[tokio::test]
    async fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        {
            let store = EmbeddedStore::open(&path).unwrap();
            let write = store.0.db.begin_write().unwrap();
            write
                .open_table(META)
                .unwrap()
                .insert(FORMAT_KEY, FORMAT + 1)
                .unwrap();
            write.commit().unwrap();
        }
        let refused = EmbeddedStore::open(&path).unwrap_err();
        assert!(matches!(refused, OpenError::NewerFormat { found: 2, .. }));
    }

    #[tokio::test]
    async fn garbage_is_an_error_and_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        std::fs::write(&path, "not a store").unwrap();
        assert!(matches!(
            EmbeddedStore::open(&path).unwrap_err(),
            OpenError::Damaged { .. }
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"not a store");
    }

    #[tokio::test]
    async fn one_that_was_never_finished_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        // As a kill leaves it: as long as a new one, the header without its first octets.
        let mut unfinished = vec![0; 1 << 20];
        unfinished[9..64].fill(7);
        std::fs::write(&path, unfinished).unwrap();
        let store = EmbeddedStore::open(&path).unwrap();
        store.txn(Txn::default().put("/a", "1")).await.unwrap();
        drop(store);
        let store = EmbeddedStore::open(&path).unwrap();
        assert_eq!(store.list("/").await.unwrap().kvs.len(), 1);
    }

    #[tokio::test]
    async fn data_and_revision_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let store = EmbeddedStore::open(&path).unwrap();
        store.txn(Txn::default().put("/a", "1")).await.unwrap();
        store.txn(Txn::default().put("/b", "2")).await.unwrap();
        drop(store);
        let store = EmbeddedStore::open(&path).unwrap();
        let listing = store.list("/").await.unwrap();
        assert_eq!((listing.kvs.len(), listing.revision), (2, 2));
        assert!(store.watch("/", 1).next().await.is_err());
        let mut watch = store.watch("/", listing.revision + 1);
        store.txn(Txn::default().delete("/a")).await.unwrap();
        assert_eq!(watch.next().await.unwrap().revision, 3);
    }
}
