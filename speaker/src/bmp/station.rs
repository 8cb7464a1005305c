//! The task that keeps a collector informed.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
    time::{Instant, interval_at, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    BmpConfig,
    encode::{self, AsNumbers, Goodbye},
};
use crate::{
    handle::{Queries, SpeakerError},
    peer_key::PeerKey,
    watch::{Held, HeldCursor, Watch, WatchEvent, WatchedPeer},
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The first pause before another attempt; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A collector that takes nothing for so long is given up.
const STUCK: Duration = Duration::from_secs(60);

/// Why a connection to the collector ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the collector closed the connection")]
    Closed,
    #[error("the collector took nothing for {} s", STUCK.as_secs())]
    Stuck,
    #[error("the collector is too slow, or the speaker stopped")]
    Behind,
    #[error("{0}")]
    Speaker(#[from] SpeakerError),
    #[error("stopped")]
    Stopped,
}

/// Keeps one collector informed for as long as it lives; dropping it ends the connection.
///
/// Its only state is the connection, so aborting its task at any time is safe.
#[derive(Debug)]
pub struct Station {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Station {
    /// Starts the task on the current runtime. `speaker` is asked for the speaker before each
    /// connection: it may have been replaced by another, or not be there yet. `name` is what the
    /// collector is told of us.
    pub fn spawn(
        config: BmpConfig,
        name: String,
        speaker: impl Fn() -> Option<Queries> + Send + 'static,
    ) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(config, name, speaker, stop.clone()));
        Self { task, stop }
    }

    /// Says goodbye to the collector, within a second.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        // A collector that takes nothing is left without.
        drop(timeout(Duration::from_secs(1), &mut self.task).await);
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    config: BmpConfig,
    name: String,
    speaker: impl Fn() -> Option<Queries>,
    stop: CancellationToken,
) {
    let collector = config.collector;
    let mut pause = RETRY_MIN;
    loop {
        let end = match speaker() {
            None => End::Speaker(SpeakerError::Stopped),
            Some(queries) => match connect(&config).await {
                Ok(stream) => {
                    info!(%collector, "BMP: connected");
                    pause = RETRY_MIN;
                    let session = Session::start(stream, &config, queries, &name);
                    match session.await {
                        Ok(session) => session.run(&stop).await,
                        Err(end) => end,
                    }
                }
                Err(error) => End::Io(error),
            },
        };
        match end {
            End::Stopped => return,
            End::Speaker(_) => debug!(%collector, "BMP: the speaker is not running"),
            end => warn!(%collector, reason = %end, "BMP: not connected"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn connect(config: &BmpConfig) -> io::Result<TcpStream> {
    let connected = timeout(CONNECT, TcpStream::connect(config.collector)).await;
    let stream = connected.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection to the collector.
struct Session {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    watch: Watch,
    queries: Queries,
    /// Zero for none.
    statistics: Duration,
    up: BTreeMap<PeerKey, Arc<WatchedPeer>>,
    /// Peers whose routes from before have yet to be told, the front one being under way.
    to_tell: VecDeque<PeerKey>,
    out: BytesMut,
}

impl Session {
    async fn start(
        stream: TcpStream,
        config: &BmpConfig,
        queries: Queries,
        name: &str,
    ) -> Result<Self, End> {
        let watch = queries.watch().await?;
        let (reader, writer) = stream.into_split();
        let mut out = BytesMut::new();
        encode::initiation(name, &mut out);
        Ok(Self {
            reader,
            writer,
            watch,
            queries,
            statistics: Duration::from_secs(config.statistics_secs),
            up: BTreeMap::new(),
            to_tell: VecDeque::new(),
            out,
        })
    }

    /// Until something ends it, which the collector is told if it can be.
    async fn run(mut self, stop: &CancellationToken) -> End {
        let end = tokio::select! {
            end = self.tell() => end.err().unwrap_or(End::Stopped),
            () = stop.cancelled() => End::Stopped,
        };
        let goodbye = match end {
            End::Stopped => Goodbye::Stopped,
            End::Behind => Goodbye::OutOfResources,
            _ => return end,
        };
        // Half a message may have been written: then only closing is left.
        if self.out.is_empty() {
            encode::termination(goodbye, &mut self.out);
            drop(timeout(Duration::from_millis(500), self.flush()).await);
        }
        end
    }

    async fn tell(&mut self) -> Result<(), End> {
        self.flush().await?;
        let every = self.statistics.max(Duration::from_secs(1));
        let mut statistics = interval_at(Instant::now() + every, every);
        let mut unread = [0; 64];
        loop {
            // Cancel safe: the watch and the timer are; what a collector says means nothing
            // (RFC 7854 section 3.2), so it does not matter what is lost of it.
            tokio::select! {
                event = self.watch.next() => {
                    let event = event.ok_or(End::Behind)?;
                    self.event(event).await?;
                }
                read = self.reader.read(&mut unread) => {
                    if read? == 0 {
                        return Err(End::Closed);
                    }
                }
                _ = statistics.tick(), if !self.statistics.is_zero() => {
                    let status = self.queries.status().await?;
                    for status in &status {
                        if let Some(peer) = self.up.get(&status.key) {
                            encode::statistics(peer, status, &mut self.out);
                        }
                    }
                }
            }
            self.flush().await?;
        }
    }

    async fn event(&mut self, event: WatchEvent) -> Result<(), End> {
        match event {
            WatchEvent::Up(peer, held) => {
                encode::peer_up(&peer, &mut self.out);
                if held == Held::Routes {
                    self.to_tell.push_back(peer.key);
                    if self.to_tell.len() == 1 {
                        self.watch.ask(HeldCursor::start(peer.key)).await?;
                    }
                }
                self.up.insert(peer.key, peer);
            }
            WatchEvent::Down(peer, reason, at) => {
                encode::peer_down(&peer, &reason, at, &mut self.out);
                self.up.remove(&peer.key);
                if self.to_tell.front() == Some(&peer.key) {
                    self.next_to_tell().await?;
                } else {
                    self.to_tell.retain(|key| *key != peer.key);
                }
            }
            WatchEvent::Updates(peer, messages, at) => {
                let numbers = AsNumbers::of(&peer);
                encode::updates(&peer, numbers, &messages, at, &mut self.out);
            }
            WatchEvent::Held(peer, messages, next) => {
                let (numbers, now) = (AsNumbers::FourOctets, SystemTime::now());
                encode::updates(&peer, numbers, &messages, now, &mut self.out);
                // The answer to what was asked of a session that is gone is of no use.
                if self.to_tell.front() == Some(&peer.key) {
                    match next {
                        Some(next) => self.watch.ask(next).await?,
                        None => self.next_to_tell().await?,
                    }
                }
            }
        }
        Ok(())
    }

    /// The front peer is done with; asks for the next one's routes.
    async fn next_to_tell(&mut self) -> Result<(), End> {
        self.to_tell.pop_front();
        match self.to_tell.front() {
            Some(key) => Ok(self.watch.ask(HeldCursor::start(*key)).await?),
            None => Ok(()),
        }
    }

    /// Writes what is encoded.
    async fn flush(&mut self) -> Result<(), End> {
        while !self.out.is_empty() {
            let written = timeout(STUCK, self.writer.write(&self.out)).await;
            let n = written.map_err(|_elapsed| End::Stuck)??;
            if n == 0 {
                return Err(End::Closed);
            }
            self.out.advance(n);
        }
        Ok(())
    }
}
