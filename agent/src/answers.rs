//! Answers what other hosts ask of this node through the datastore: what the socket answers to this host, as far as
//! it changes nothing.
//!
//! One task follows the questions, and one for each question answers it. Questions are bounded in number; those
//! from before the agent started, and those beyond the bound, stay without an answer, and go when their askers do.
//! All of it works on copies and channels: the graph never waits for anybody here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use margay_api::{Reply, Request};
use margay_datastore::ask::{Answer, Posted, questions};
use margay_datastore::{AnyStore, SyncEvent, Syncer};
use margay_model::store::{KeyValue, Revision};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{Id, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::server::{answer, inform};
use crate::status::StatusSource;

/// Questions that are known at once. Askers take theirs back, so that more than a few is a flood.
const MOST: usize = 32;

/// Answers that are made at once: each may take some megabytes while it is.
const AT_ONCE: usize = 4;

/// Events between the syncer and this task; the syncer waits when it is full.
const EVENTS: usize = 64;

/// How long an answer may take to make.
const PATIENCE: Duration = Duration::from_secs(30);

/// What answers are made from, and where they go.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) store: AnyStore,
    /// What all keys start with.
    pub(crate) root: String,
    pub(crate) status: StatusSource,
}

/// Which questions are news.
#[derive(Debug, Default)]
struct Seen {
    /// Everything up to here has been heard of; nothing before the first list is complete.
    up_to: Option<Revision>,
}

impl Seen {
    fn is_news(&self, kv: &KeyValue) -> bool {
        self.up_to.is_some_and(|seen| kv.mod_revision > seen)
    }

    fn up_to(&mut self, revision: Revision) {
        self.up_to = self.up_to.max(Some(revision));
    }
}

impl Answers {
    /// Answers for ever. Returns at once where there is nobody else to ask: leases are etcd's.
    pub(crate) async fn run(self) {
        if !matches!(self.store, AnyStore::Etcd(_)) {
            return;
        }
        let prefix = questions(&self.root, &self.status.node);
        let (sender, mut events) = mpsc::channel(EVENTS);
        let _syncer = Syncer::spawn(self.store.clone(), vec![prefix.clone()], sender);
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut tasks = JoinSet::new();
        let mut open: BTreeMap<String, (Id, CancellationToken)> = BTreeMap::new();
        let mut seen = Seen::default();
        loop {
            // Cancel-safe: a receive, and a task that has ended.
            let event = tokio::select! {
                event = events.recv() => event,
                Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => {
                    let ended = ended.map_or_else(|panic| panic.id(), |(id, ())| id);
                    open.retain(|_, (id, _)| *id != ended);
                    continue;
                }
            };
            match event {
                None => return,
                Some(SyncEvent::Init) => {}
                Some(SyncEvent::InitDone { revision }) => seen.up_to(revision),
                Some(SyncEvent::Delete { key, .. }) => {
                    if let Some((_, gone)) = open.get(&key) {
                        gone.cancel();
                    }
                }
                Some(SyncEvent::InitApply(kv) | SyncEvent::Apply(kv)) => {
                    if !seen.is_news(&kv) || open.contains_key(&kv.key) {
                        continue;
                    }
                    if open.len() >= MOST {
                        debug!(key = kv.key, "a question too many, left without an answer");
                        continue;
                    }
                    let id = kv.key.strip_prefix(&prefix).unwrap_or_default().to_owned();
                    let gone = CancellationToken::new();
                    let work = self
                        .clone()
                        .settle(id, kv.value, Arc::clone(&slots), gone.clone());
                    let task = tasks.spawn(work).id();
                    open.insert(kv.key, (task, gone));
                }
            }
        }
    }

    /// Answers one question, and takes the answer away when its asker is done.
    async fn settle(
        self,
        id: String,
        question: Vec<u8>,
        slots: Arc<Semaphore>,
        gone: CancellationToken,
    ) {
        let posted = {
            // Cancel-safe: nothing is written before the answer is whole.
            let made = tokio::select! {
                () = gone.cancelled() => return,
                made = self.make(&question, slots) => made,
            };
            made.post(&self.store, &self.root, (&self.status.node, &id))
                .await
        };
        match posted {
            Ok(posted) => {
                drop(timeout(Posted::LIFETIME, gone.cancelled()).await);
                posted.take_back(&self.store).await;
            }
            Err(error) => info!(id, %error, "a question of another host stays without an answer"),
        }
    }

    async fn make(&self, question: &[u8], slots: Arc<Semaphore>) -> Answer {
        let _slot = slots.acquire().await.expect("never closed");
        let mut made = Answer::default();
        let why = match serde_json::from_slice::<Request>(question) {
            Ok(question) => {
                match timeout(PATIENCE, inform(&self.status, question, &mut made)).await {
                    Ok(Ok(())) => return made,
                    Ok(Err(error)) => error.to_string(),
                    Err(_elapsed) => format!("not within {} s", PATIENCE.as_secs()),
                }
            }
            Err(error) => format!("the question is not understood: {error}"),
        };
        // Whatever there is of the answer is of no use.
        let mut refusal = Answer::default();
        let line = Reply::<()>::Error(why);
        if let Err(error) = answer(&mut refusal, &line).await {
            debug!(%error, "a refusal is too long");
        }
        refusal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(mod_revision: Revision) -> KeyValue {
        KeyValue {
            key: "/calico/margay/v1/ask/n1/x".into(),
            value: Vec::new(),
            mod_revision,
        }
    }

    #[test]
    fn questions_from_before_the_start_are_stale_and_those_of_a_lost_watch_are_not() {
        let mut seen = Seen::default();
        assert!(!seen.is_news(&asked(5)));
        seen.up_to(7);
        assert!(!seen.is_news(&asked(7)));
        assert!(seen.is_news(&asked(8)));
        // The watch was lost: a list brings what was heard of, and what was not.
        seen.up_to(9);
        assert!(seen.is_news(&asked(10)));
        seen.up_to(4);
        assert!(!seen.is_news(&asked(8)));
    }
}
