//! What the agent last read of the datastore, on disk: for a start while the datastore is away.
//!
//! Without it such an agent would have no BGP sessions, and what neighbours keep for a graceful restart would run out
//! before the datastore is back.

use std::path::PathBuf;

use margay_datastore::{DatastoreType, Snapshot, SyncEvent};
use margay_model::keys::Keys;
use margay_model::store::KeyValue;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::causes::in_full;
use crate::config::Config;

/// The parts of the file, one for each syncer of the graph.
const RESOURCES: &str = "resources";
const AFFINITIES: &str = "affinities";

/// Events between the file's note-taker and the graph.
const EVENTS: usize = 256;

/// The file, and in whose name it is kept.
pub(crate) struct Memory {
    path: PathBuf,
    /// Another node's state, or another cluster's in the same etcd, must not be taken for this one's.
    owner: String,
}

/// All that the graph knew.
pub(crate) struct Remembered {
    pub(crate) resources: Vec<KeyValue>,
    pub(crate) affinities: Vec<KeyValue>,
}

impl Memory {
    /// `None` where the datastore is a file of this host anyway.
    pub(crate) fn of(config: &Config, keys: &Keys, node: &str) -> Option<Self> {
        match config.datastore.kind {
            DatastoreType::Etcdv3 => Some(Self {
                path: config.snapshot.clone(),
                owner: format!("{node} {}", keys.prefix()),
            }),
            DatastoreType::Embedded => None,
        }
    }

    /// What an earlier agent left; before [`Memory::keep`].
    pub(crate) async fn recall(&self) -> Option<Remembered> {
        let (path, owner) = (self.path.clone(), self.owner.clone());
        let read = move || {
            let part = |table| Snapshot::read(&path, &owner, table);
            Ok((part(RESOURCES)?, part(AFFINITIES)?))
        };
        let read = tokio::task::spawn_blocking(read).await;
        match read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
            Ok((Some(resources), affinities)) => {
                info!(resources = resources.len(), "read the snapshot");
                Some(Remembered {
                    resources,
                    affinities: affinities.unwrap_or_default(),
                })
            }
            Ok((None, _)) => None,
            Err::<_, margay_datastore::SnapshotError>(error) => {
                warn!(error = in_full(&error), "the snapshot cannot be read");
                None
            }
        }
    }

    /// Keeps the file from what the syncers tell, and passes that on. Without a file it just passes it on.
    pub(crate) fn keep(
        self,
        resources: mpsc::Receiver<SyncEvent>,
        affinities: mpsc::Receiver<SyncEvent>,
    ) -> (mpsc::Receiver<SyncEvent>, mpsc::Receiver<SyncEvent>) {
        let snapshot = match Snapshot::keep(&self.path, &self.owner) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                let error = in_full(&error);
                warn!(
                    error,
                    "no snapshot is kept: a start without the datastore will have to wait for it"
                );
                return (resources, affinities);
            }
        };
        let followed = |table, events| {
            let (tx, rx) = mpsc::channel(EVENTS);
            tokio::spawn(snapshot.clone().follow(table, events, tx));
            rx
        };
        (
            followed(RESOURCES, resources),
            followed(AFFINITIES, affinities),
        )
    }
}
