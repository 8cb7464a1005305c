//! Questions to a process on another host, by way of the store that both reach.
//!
//! Whoever asks writes `ROOT/margay/v1/ask/NODE/ID`; the agent of that node, which watches for it, writes the answer
//! in parts to `ROOT/margay/v1/answer/NODE/ID/NUMBER`. All of them hang on leases: of the asker, so that a question
//! nobody waits for is gone, and of the agent, so that nobody can make it leave anything behind. What is asked and
//! answered is text that nobody here looks into.
//!
//! Keys with a lease exist in etcd alone. The other drivers have a single host, which is asked by its socket.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use margay_model::store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use tokio::time::timeout;

use crate::any::AnyStore;
use crate::claim::Claim;
use crate::watch::{Change, WatchStore};

/// How long a question may lie there: longer than anybody waits.
const ASK_TTL: Duration = Duration::from_secs(30);

/// How long an answer lies there if its asker dies before taking its question back.
const ANSWER_TTL: Duration = Duration::from_secs(60);

/// Octets of a part; etcd takes requests of 1.5 MiB unless configured otherwise.
const PART: usize = 512 << 10;

/// The largest answer, packed: what an agent keeps in memory for a stranger.
const MAX_PACKED: usize = 6 << 20;

/// The largest answer, unpacked: what an asker lets an agent make it keep in memory.
const MAX_PLAIN: u64 = 512 << 20;

/// What the keys of all questions to a node start with.
pub fn questions(root: &str, node: &str) -> String {
    format!("{root}/margay/v1/ask/{node}/")
}

fn answers(root: &str, node: &str, id: &str) -> String {
    format!("{root}/margay/v1/answer/{node}/{id}/")
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The store has a single host.
    #[error("only where etcd is the datastore can the agents of other hosts be asked")]
    NoLeases,
    /// Nobody answers.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// What came is no answer.
    #[error("the answer cannot be read: {0}")]
    Damaged(String),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A part of an answer, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    /// Parts that there are.
    of: usize,
    /// Some of the gzip stream, in base64.
    data: String,
}

/// Asks the agent of `node`, and takes the question back in the end. `id` must be new; each part of the answer
/// must come within `patience`.
///
/// # Errors
/// See [`AskError`]; none is worth trying again at once.
pub async fn ask(
    store: &AnyStore,
    root: &str,
    (node, id): (&str, &str),
    question: &str,
    patience: Duration,
) -> Result<String, AskError> {
    if !matches!(store, AnyStore::Etcd(_)) {
        return Err(AskError::NoLeases);
    }
    let key = questions(root, node) + id;
    let mut claim = Claim::new(key, question, ASK_TTL);
    let answer = match store.hold(&mut claim).await {
        Ok(_) => collect(store, &answers(root, node, id), patience).await,
        Err(error) => Err(error.into()),
    };
    // It goes by itself if that fails.
    drop(store.let_go(&mut claim).await);
    answer
}

async fn collect(store: &AnyStore, prefix: &str, patience: Duration) -> Result<String, AskError> {
    let mut parts = BTreeMap::new();
    loop {
        let listing = store.list(prefix).await?;
        for kv in &listing.kvs {
            take(&mut parts, prefix, &kv.key, &kv.value)?;
        }
        let mut watch = store.watch(prefix, listing.revision + 1);
        while !complete(&parts) {
            let next = timeout(patience, watch.next()).await;
            let Ok(event) = next.map_err(|_elapsed| AskError::Silent(patience))? else {
                // List, then watch again.
                break;
            };
            for change in event.changes {
                if let Change::Put(kv) = change {
                    take(&mut parts, prefix, &kv.key, &kv.value)?;
                }
            }
        }
        if complete(&parts) {
            return unpack(parts);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn take(
    parts: &mut BTreeMap<usize, Part>,
    prefix: &str,
    key: &str,
    value: &[u8],
) -> Result<(), AskError> {
    let damaged = |why: String| AskError::Damaged(format!("{key}: {why}"));
    let number = key.strip_prefix(prefix).and_then(|n| n.parse().ok());
    let number = number.ok_or_else(|| damaged("no number".to_owned()))?;
    let part: Part = serde_json::from_slice(value).map_err(|error| damaged(error.to_string()))?;
    parts.insert(number, part);
    Ok(())
}

fn complete(parts: &BTreeMap<usize, Part>) -> bool {
    let of = parts.values().next().map(|part| part.of);
    of.is_some_and(|of| parts.len() >= of)
}

fn unpack(parts: BTreeMap<usize, Part>) -> Result<String, AskError> {
    let damaged = |why: &dyn std::fmt::Display| AskError::Damaged(why.to_string());
    let mut packed = Vec::new();
    for part in parts.into_values() {
        let bytes = STANDARD.decode(part.data).map_err(|e| damaged(&e))?;
        packed.extend(bytes);
    }
    let mut text = String::new();
    let mut plain = GzDecoder::new(packed.as_slice()).take(MAX_PLAIN);
    plain.read_to_string(&mut text).map_err(|e| damaged(&e))?;
    match plain.limit() {
        0 => Err(damaged(&"it is too large")),
        _ => Ok(text),
    }
}

/// An answer that is being written, packed as it comes: it never takes more than some megabytes.
#[derive(Debug)]
pub struct Answer(GzEncoder<Vec<u8>>);

impl Default for Answer {
    fn default() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }
}

impl AsyncWrite for Answer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.0.get_ref().len() > MAX_PACKED {
            let mib = MAX_PACKED >> 20;
            let why = format!("it is larger than {mib} MiB packed, which goes by the socket alone");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::FileTooLarge, why)));
        }
        Poll::Ready(self.0.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An answer that lies in the store.
#[derive(Debug)]
pub struct Posted(Vec<Claim>);

impl Answer {
    /// Writes it where the asker of `id` waits for it.
    ///
    /// # Errors
    /// The store's. What is written by then goes with its lease.
    pub async fn post(
        self,
        store: &AnyStore,
        root: &str,
        (node, id): (&str, &str),
    ) -> Result<Posted, StoreError> {
        let packed = self.0.finish().expect("writing to memory cannot fail");
        let parts = packed.chunks(PART);
        let of = parts.len();
        let mut posted = Posted(Vec::new());
        for (number, bytes) in parts.enumerate() {
            let data = STANDARD.encode(bytes);
            let part = serde_json::json!(Part { of, data }).to_string();
            let key = format!("{}{number}", answers(root, node, id));
            let mut claim = Claim::new(key, part, ANSWER_TTL);
            store.hold(&mut claim).await?;
            // Only the lease is needed from here on.
            claim.value = String::new();
            posted.0.push(claim);
        }
        Ok(posted)
    }
}

impl Posted {
    /// How long it lies there at most.
    pub const LIFETIME: Duration = ANSWER_TTL;

    /// Takes it away once nobody waits for it.
    pub async fn take_back(mut self, store: &AnyStore) {
        for claim in &mut self.0 {
            // Its lease ends by itself.
            drop(store.let_go(claim).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// The parts of an answer as they would be stored.
    fn parts(answer: Answer) -> BTreeMap<usize, Part> {
        let packed = answer.0.finish().unwrap();
        let parts = packed.chunks(PART);
        let of = parts.len();
        let part = |bytes| Part {
            of,
            data: STANDARD.encode(bytes),
        };
        parts.map(part).enumerate().collect()
    }

    /// Text that does not pack well.
    fn noise(octets: usize) -> String {
        let mut random = fastrand::Rng::with_seed(7);
        (0..octets).map(|_| random.alphanumeric()).collect()
    }

    #[tokio::test]
    async fn an_answer_of_several_parts_is_put_together_again() {
        let text = noise(3 * PART);
        let mut answer = Answer::default();
        answer.write_all(text.as_bytes()).await.unwrap();
        let mut all = parts(answer);
        assert!(all.len() > 2, "{}", all.len());
        let last = all.pop_last().unwrap();
        assert!(!complete(&all));
        all.insert(last.0, last.1);
        assert!(complete(&all) && !complete(&BTreeMap::new()));
        assert_eq!(unpack(all).unwrap(), text);
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_refused_while_it_is_written() {
        let block = noise(1 << 20);
        let mut answer = Answer::default();
        let mut written = 0;
        let error = loop {
            match answer.write_all(block.as_bytes()).await {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert!((6..12).contains(&written), "{written} MiB");
        assert!(error.to_string().contains("larger than 6 MiB"), "{error}");
    }

    #[test]
    fn what_is_no_answer_is_said_to_be_none() {
        let mut all = BTreeMap::new();
        let key = "/c/margay/v1/answer/n1/i/0";
        let prefix = "/c/margay/v1/answer/n1/i/";
        for value in ["", "{}", "{\"of\":1}", "\u{0}"] {
            let error = take(&mut all, prefix, key, value.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
        take(&mut all, prefix, key, br#"{"of":1,"data":"AAAA"}"#).unwrap();
        assert!(complete(&all));
        unpack(all).unwrap_err();
    }
}
