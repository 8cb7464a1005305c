//! MRT archives (RFC 6396): the table as a snapshot, and what peers send as it comes.
//!
//! Both replay: `gobgp mrt inject`, `bgpdump` and whatever else reads route collectors' files
//! takes them, so a report of a fault can carry what led to it.

mod encode;
mod log;

use std::{net::Ipv4Addr, path::Path, time::SystemTime};

use bytes::Bytes;
use margay_bgp::prefix::Family;
use tokio::io::AsyncWriteExt;

use crate::{
    handle::{Queries, SpeakerError},
    peer_key::PeerKey,
};

pub(crate) use encode::{IndexedPeer, RibEntry, peer_index_table, rib_record};
pub use log::UpdateLog;

/// Where a snapshot goes on.
#[derive(Debug, Clone)]
pub struct TableCursor {
    pub(crate) started: SystemTime,
    /// Peers by index, ourselves aside; empty until the first page.
    pub(crate) peers: Vec<PeerKey>,
    pub(crate) family: Family,
    pub(crate) place: u32,
    pub(crate) sequence: u32,
}

impl TableCursor {
    /// The beginning: the index of peers, then the prefixes.
    pub fn start() -> Self {
        Self {
            started: SystemTime::now(),
            peers: Vec::new(),
            family: Family::Ipv4Unicast,
            place: 0,
            sequence: 0,
        }
    }

    pub(crate) fn is_start(&self) -> bool {
        self.sequence == 0 && self.place == 0 && self.family == Family::Ipv4Unicast
    }
}

/// Whole records, and where the others are.
#[derive(Debug, Clone)]
pub struct TablePage {
    /// TABLE_DUMP_V2 records.
    pub records: Bytes,
    /// `None` when there are no more.
    pub next: Option<TableCursor>,
}

/// Index of ourselves among the peers of a snapshot.
pub(crate) const OURSELVES: u16 = 0;

/// The address that stands for ourselves.
pub(crate) const OUR_ADDRESS: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Why a snapshot was not written. Worth a retry once the cause is gone.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file.
    #[error("cannot write the table to {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The speaker.
    #[error(transparent)]
    Speaker(#[from] SpeakerError),
}

/// Writes a snapshot of the table to a file, which is replaced once the snapshot is whole.
pub async fn write_table(queries: &Queries, path: &Path) -> Result<(), TableError> {
    let at_fault = |source| TableError::File {
        path: path.display().to_string(),
        source,
    };
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    let mut file = tokio::fs::File::create(new).await.map_err(at_fault)?;
    let mut cursor = Some(TableCursor::start());
    while let Some(from) = cursor {
        let page = queries.table(from).await?;
        file.write_all(&page.records).await.map_err(at_fault)?;
        cursor = page.next;
    }
    file.flush().await.map_err(at_fault)?;
    tokio::fs::rename(new, path).await.map_err(at_fault)
}
