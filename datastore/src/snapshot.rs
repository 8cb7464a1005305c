//! What a follower last saw of a store, kept on disk for a start while the store is away.
//!
//! A file of its own, written behind the follower's back: a task passes the syncer's events on and notes what
//! changed, a thread writes what was noted. A slow or full disk costs the follower nothing; it makes the file old.
//! It is a copy: whatever is wrong with it, it is made anew.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use margay_model::store::{KeyValue, Revision};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::file;
use crate::syncer::SyncEvent;

/// Whose snapshot this is, and in which layout.
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
const OWNER_KEY: &str = "owner";

/// A change waits this long for others, and stays out of the way of what it is part of.
const GATHER: Duration = Duration::from_millis(100);

/// Writes are at least so far apart: a stream of changes is one write a second.
const APART: Duration = Duration::from_secs(1);

/// The page cache; the file is read once and otherwise written, in the order of its keys.
const CACHE_BYTES: usize = 1 << 20;

/// The rows of a table.
type Rows = TableDefinition<'static, &'static str, (Revision, &'static [u8])>;

/// Why a snapshot could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("snapshot {}", path.display())]
pub struct SnapshotError {
    path: PathBuf,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// What changed of one followed part since it was last handed to the thread.
#[derive(Debug, Default)]
struct Noted {
    /// Everything that exists is in `changes`: what is not, is gone.
    whole: bool,
    /// Values, and `None` for what is gone.
    changes: HashMap<String, Option<(Revision, Vec<u8>)>>,
}

impl Noted {
    fn is_empty(&self) -> bool {
        !self.whole && self.changes.is_empty()
    }
}

/// A snapshot file that is being kept; the thread ends when all tasks that follow have.
#[derive(Clone, Debug)]
pub struct Snapshot {
    writes: SyncSender<(&'static str, Noted)>,
}

impl Snapshot {
    /// What the file at `path` holds of the part `table`, when `owner` wrote it: all at one moment, unless it was
    /// being listed anew. `None` without a file, or when somebody else wrote it.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(
        path: &Path,
        owner: &str,
        table: &'static str,
    ) -> Result<Option<Vec<KeyValue>>, SnapshotError> {
        let failed = |source| SnapshotError {
            path: path.to_owned(),
            source,
        };
        if !path.exists() {
            return Ok(None);
        }
        let db = open(path).map_err(failed)?;
        let read = || -> Result<Option<Vec<KeyValue>>, redb::Error> {
            let txn = db.begin_read()?;
            let meta = match txn.open_table(META) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                meta => meta?,
            };
            if meta.get(OWNER_KEY)?.is_none_or(|is| is.value() != owner) {
                return Ok(None);
            }
            let rows = match txn.open_table(Rows::new(table)) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                rows => rows?,
            };
            let mut all = Vec::new();
            for row in rows.iter()? {
                let (key, value) = row?;
                let (mod_revision, bytes) = value.value();
                all.push(KeyValue {
                    key: key.value().to_owned(),
                    value: bytes.to_vec(),
                    mod_revision,
                });
            }
            Ok(Some(all))
        };
        read().map_err(|error| failed(error.into()))
    }

    /// Keeps the file at `path` in the name of `owner`. What another owner left is forgotten, and a file that
    /// cannot be used is made anew.
    ///
    /// # Errors
    /// A directory or file that cannot be made, no thread.
    pub fn keep(path: &Path, owner: &str) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError {
            path: path.to_owned(),
            source,
        };
        let db = match open(path).and_then(|db| claim(&db, owner).map(|()| db).map_err(Into::into))
        {
            Ok(db) => db,
            Err(error) if path.exists() => {
                warn!(path = %path.display(), %error, "snapshot is not usable, made anew");
                fs::remove_file(path).map_err(|error| failed(error.into()))?;
                let db = open(path).map_err(failed)?;
                claim(&db, owner).map_err(|error| failed(error.into()))?;
                db
            }
            Err(error) => return Err(failed(error)),
        };
        // One that waits while one is written; more is noted together.
        let (writes, queue) = sync_channel::<(&'static str, Noted)>(1);
        let path = path.to_owned();
        thread::Builder::new()
            .name("snapshot".into())
            .spawn(move || {
                while let Ok((table, noted)) = queue.recv() {
                    if let Err(error) = write(&db, table, noted) {
                        // Better none than one with a hole.
                        warn!(path = %path.display(), %error, "snapshot not written, no more is kept");
                        drop(db);
                        if let Err(error) = fs::remove_file(&path) {
                            warn!(path = %path.display(), %error, "old snapshot not removed");
                        }
                        return;
                    }
                }
            })
            .map_err(|error| failed(error.into()))?;
        Ok(Self { writes })
    }

    /// Passes events on, in order and at once, and notes them as the part `table`. Ends with either side.
    pub async fn follow(
        self,
        table: &'static str,
        mut events: mpsc::Receiver<SyncEvent>,
        follower: mpsc::Sender<SyncEvent>,
    ) {
        let mut noted = Noted::default();
        // Of a list that is coming in; it counts when it is complete.
        let mut listing: Option<Noted> = None;
        let mut due: Option<Instant> = None;
        let mut next = Instant::now();
        loop {
            // Cancel-safe: a receive and a timer.
            let event = tokio::select! {
                event = events.recv() => event,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.hand_over(table, &mut noted);
                    next = Instant::now() + APART;
                    due = (!noted.is_empty()).then_some(next);
                    continue;
                }
            };
            let Some(event) = event else { return };
            note(&event, &mut noted, &mut listing);
            if due.is_none() && !noted.is_empty() {
                due = Some(next.max(Instant::now() + GATHER));
            }
            if follower.send(event).await.is_err() {
                return;
            }
        }
    }

    /// While the thread is busy it stays noted.
    fn hand_over(&self, table: &'static str, noted: &mut Noted) {
        match self.writes.try_send((table, std::mem::take(noted))) {
            Err(TrySendError::Full((_, back))) => *noted = back,
            // The thread has told why it ended.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

fn note(event: &SyncEvent, noted: &mut Noted, listing: &mut Option<Noted>) {
    let value = |kv: &KeyValue| (kv.key.clone(), Some((kv.mod_revision, kv.value.clone())));
    match event {
        SyncEvent::Init => {
            *listing = Some(Noted {
                whole: true,
                changes: HashMap::new(),
            });
        }
        SyncEvent::InitApply(kv) => {
            if let Some(listing) = listing {
                listing.changes.extend([value(kv)]);
            }
        }
        SyncEvent::InitDone { .. } => {
            if let Some(listing) = listing.take() {
                *noted = listing;
            }
        }
        SyncEvent::Apply(kv) => noted.changes.extend([value(kv)]),
        SyncEvent::Delete { key, .. } => {
            noted.changes.insert(key.clone(), None);
        }
    }
}

fn open(path: &Path) -> Result<Database, Box<dyn std::error::Error + Send + Sync>> {
    Ok(file::open(path, CACHE_BYTES)?)
}

fn claim(db: &Database, owner: &str) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    let ours = {
        let meta = txn.open_table(META)?;
        let is = meta.get(OWNER_KEY)?;
        is.is_some_and(|is| is.value() == owner)
    };
    if !ours {
        let tables: Vec<_> = txn.list_tables()?.collect();
        for table in tables {
            txn.delete_table(table)?;
        }
        txn.open_table(META)?.insert(OWNER_KEY, owner)?;
    }
    txn.commit()?;
    Ok(())
}

/// Only what differs: after a restart that is little.
fn write(db: &Database, table: &'static str, noted: Noted) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    let (mut written, mut removed) = (0, 0);
    let mut changes: Vec<_> = noted.changes.iter().collect();
    changes.sort_unstable_by_key(|(key, _)| *key);
    {
        let mut rows = txn.open_table(Rows::new(table))?;
        if noted.whole {
            let mut had = BTreeMap::new();
            for row in rows.iter()? {
                let (key, value) = row?;
                had.insert(key.value().to_owned(), value.value().0);
            }
            for key in had.keys() {
                if !noted.changes.get(key).is_some_and(Option::is_some) {
                    rows.remove(key.as_str())?;
                    removed += 1;
                }
            }
            for (key, value) in changes {
                if let Some((revision, value)) = value
                    && had.get(key) != Some(revision)
                {
                    rows.insert(key.as_str(), (*revision, value.as_slice()))?;
                    written += 1;
                }
            }
        } else {
            for (key, value) in changes {
                match value {
                    Some((revision, value)) => {
                        rows.insert(key.as_str(), (*revision, value.as_slice()))?;
                        written += 1;
                    }
                    None => removed += usize::from(rows.remove(key.as_str())?.is_some()),
                }
            }
        }
    }
    txn.commit()?;
    if noted.whole {
        info!(table, written, removed, "snapshot brought up to date");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
