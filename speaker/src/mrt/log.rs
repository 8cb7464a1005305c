//! What peers send, appended to a file as it comes.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::BytesMut;
use margay_bgp::wire::{MessageType, header};
use tokio::{fs::File, io::AsyncWriteExt, task::JoinHandle, time::sleep};
use tracing::{info, warn};

use super::encode::{self, MrtState};
use crate::{
    handle::Queries,
    watch::{Watch, WatchEvent},
};

/// Pause after the file could not be written, or the speaker not be heard.
const RETRY: Duration = Duration::from_secs(5);

/// Appends every UPDATE and every change of a session to a file (BGP4MP), for as long as it lives.
///
/// A disk that is too slow costs a gap in the file, which begins and ends with the states of the
/// sessions, and nothing else. Aborting the task leaves at most the beginning of a record.
#[derive(Debug)]
pub struct UpdateLog(JoinHandle<()>);

impl UpdateLog {
    /// Starts the task on the current runtime. `speaker` is asked for the speaker whenever the
    /// watch begins anew.
    pub fn spawn(path: PathBuf, speaker: impl Fn() -> Option<Queries> + Send + 'static) -> Self {
        Self(tokio::spawn(run(path, speaker)))
    }
}

impl Drop for UpdateLog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(path: PathBuf, speaker: impl Fn() -> Option<Queries>) {
    loop {
        if let Some(queries) = speaker()
            && let Ok(watch) = queries.watch().await
        {
            match follow(&path, watch).await {
                Ok(()) => info!(path = %path.display(), "MRT: fell behind, or no speaker"),
                Err(error) => warn!(path = %path.display(), %error, "MRT: cannot write"),
            }
        }
        sleep(RETRY).await;
    }
}

async fn follow(path: &Path, mut watch: Watch) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).open(path).await?;
    let mut out = BytesMut::new();
    while let Some(event) = watch.next().await {
        put(&event, &mut out);
        file.write_all(&out).await?;
        file.flush().await?;
        out.clear();
    }
    Ok(())
}

fn put(event: &WatchEvent, out: &mut BytesMut) {
    use MrtState::{Established, Idle, OpenConfirm};
    match event {
        WatchEvent::Up(peer, _) => {
            encode::state_change(peer, peer.since, (OpenConfirm, Established), out);
        }
        WatchEvent::Down(peer, _, at) => {
            encode::state_change(peer, *at, (Established, Idle), out);
        }
        WatchEvent::Updates(peer, messages, at) => {
            let mut rest = &messages[..];
            while let Ok(Some((kind, len))) = header::peek(rest, true) {
                let (message, after) = rest.split_at(len);
                rest = after;
                if kind == MessageType::Update {
                    encode::message(peer, *at, message, out);
                }
            }
        }
        // Never asked for: the snapshot has them.
        WatchEvent::Held(..) => {}
    }
}
