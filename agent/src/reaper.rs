//! Removes host interfaces off the path of DEL, in batches.
//!
//! The kernel takes 16-20 ms to unregister a veth, nearly all of it waiting, and hardly more for many at
//! once. By the time a name comes here its route and set entries are gone, so nothing can reach it.
//!
//! One task owns the queue. Dropping the last [`Reaper`] ends it after what is queued.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// Names waiting; a full queue makes DEL wait, which is the right push back.
const QUEUE_DEPTH: usize = 1024;

/// How long names are gathered: the answers of their DELs go first, and a batch costs hardly more than one.
const GATHER: Duration = Duration::from_millis(3);

/// Pause after a removal that failed, so that a kernel that keeps refusing is not hammered.
const RETRY: Duration = Duration::from_secs(1);

/// How often a name is tried before it is left to the agent's own audit of interfaces.
const ATTEMPTS: u32 = 5;

/// What removes interfaces; a missing one counts as removed.
type Remove = dyn Fn(&[String]) -> Result<(), String> + Send + Sync;

enum Message {
    Remove(String),
    WhenGone(String, oneshot::Sender<()>),
}

/// The way to the task.
#[derive(Clone, Debug)]
pub(crate) struct Reaper {
    queue: mpsc::Sender<Message>,
    /// Names that came and whose removal has not ended; an ADD on a quiet host asks the task nothing.
    pending: Arc<AtomicUsize>,
}

impl Reaper {
    /// Starts the task; `remove` runs on a blocking thread.
    pub(crate) fn spawn(
        remove: impl Fn(&[String]) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let (queue, messages) = mpsc::channel(QUEUE_DEPTH);
        let pending = Arc::new(AtomicUsize::new(0));
        tokio::spawn(run(messages, Arc::new(remove), Arc::clone(&pending)));
        Self { queue, pending }
    }

    /// Queues an interface for removal.
    pub(crate) async fn remove(&self, ifname: String) {
        self.pending.fetch_add(1, Ordering::SeqCst);
        if self.queue.send(Message::Remove(ifname)).await.is_err() {
            warn!("the interface reaper is gone");
        }
    }

    /// Returns once no removal of this name is queued or under way: the name is free for a new ADD.
    pub(crate) async fn when_gone(&self, ifname: &str) {
        if self.pending.load(Ordering::SeqCst) == 0 {
            return;
        }
        let (done, gone) = oneshot::channel();
        if self
            .queue
            .send(Message::WhenGone(ifname.to_owned(), done))
            .await
            .is_ok()
        {
            // An error means that the task ended, and with it all removals.
            gone.await.unwrap_or_default();
        }
    }
}

async fn run(
    mut messages: mpsc::Receiver<Message>,
    remove: Arc<Remove>,
    pending: Arc<AtomicUsize>,
) {
    let mut queued = Round::default();
    let mut open = true;
    while open || !queued.names.is_empty() {
        if queued.names.is_empty() {
            match messages.recv().await {
                Some(message) => queued.take(message),
                None => open = false,
            }
            continue;
        }
        let end = Instant::now() + GATHER;
        // Unless somebody waits for a name.
        while open && queued.waiting.is_empty() {
            match timeout_at(end, messages.recv()).await {
                Ok(Some(message)) => queued.take(message),
                Ok(None) => open = false,
                Err(_elapsed) => break,
            }
        }
        let mut under_way = std::mem::take(&mut queued);
        let names: Vec<String> = under_way.names.iter().cloned().collect();
        let removal = remove_all(names, &remove);
        tokio::pin!(removal);
        // Others do not wait for a removal that is none of theirs.
        loop {
            // Cancel-safe: a receive, and a future that is kept.
            tokio::select! {
                () = &mut removal => break,
                message = messages.recv(), if open => match message {
                    Some(Message::WhenGone(name, done))
                        if under_way.names.contains(&name) && !queued.names.contains(&name) =>
                    {
                        under_way.waiting.push(done);
                    }
                    Some(message) => queued.take(message),
                    None => open = false,
                },
            }
        }
        pending.fetch_sub(under_way.asked, Ordering::SeqCst);
        answer(under_way.waiting);
    }
}

/// Interfaces that are removed together, and who waits for it.
#[derive(Default)]
struct Round {
    names: BTreeSet<String>,
    /// How often a removal was asked for; the same name may come twice.
    asked: usize,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Round {
    fn take(&mut self, message: Message) {
        match message {
            Message::Remove(name) => {
                self.asked += 1;
                self.names.insert(name);
            }
            Message::WhenGone(name, done) if self.names.contains(&name) => self.waiting.push(done),
            Message::WhenGone(_, done) => answer(vec![done]),
        }
    }
}

fn answer(waiters: Vec<oneshot::Sender<()>>) {
    for done in waiters {
        // The waiter may have given up.
        done.send(()).unwrap_or_default();
    }
}

async fn remove_all(names: Vec<String>, remove: &Arc<Remove>) {
    for attempt in 1..=ATTEMPTS {
        let (remove, batch) = (Arc::clone(remove), names.clone());
        let result = tokio::task::spawn_blocking(move || remove(&batch)).await;
        let reason = match result {
            Ok(Ok(())) => return,
            Ok(Err(reason)) => reason,
            Err(panic) => panic.to_string(),
        };
        warn!(interfaces = ?names, attempt, reason, "cannot remove interfaces");
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_name_is_free_only_after_its_removal() {
        let removed = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&removed);
        let reaper = Reaper::spawn(move |names| {
            std::thread::sleep(Duration::from_millis(20));
            seen.lock().unwrap().extend_from_slice(names);
            Ok(())
        });
        reaper.when_gone("mgy1").await;
        reaper.remove("mgy1".into()).await;
        reaper.remove("mgy2".into()).await;
        reaper.remove("mgy1".into()).await;
        reaper.when_gone("mgy1").await;
        assert!(removed.lock().unwrap().contains(&"mgy1".to_owned()));
        reaper.when_gone("mgy2").await;
        assert_eq!(reaper.pending.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_removal_under_way_holds_up_no_other_name() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let (tell, mut begun) = mpsc::unbounded_channel();
        let reaper = Reaper::spawn(move |names| {
            tell.send(names.to_vec()).unwrap();
            wait.lock().unwrap().recv().unwrap();
            Ok(())
        });
        reaper.remove("mgy1".into()).await;
        reaper.when_gone("mgy2").await;
        assert_eq!(begun.recv().await.unwrap(), ["mgy1"]);
        reaper.remove("mgy2".into()).await;
        let second = reaper.when_gone("mgy2");
        let first = reaper.when_gone("mgy1");
        tokio::pin!(first, second);
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(futures_util::poll!(&mut first).is_pending());
        go.send(()).unwrap();
        first.await;
        assert!(futures_util::poll!(&mut second).is_pending());
        go.send(()).unwrap();
        second.await;
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_gathered_unless_somebody_waits() {
        let (tell, mut begun) = mpsc::unbounded_channel();
        let reaper = Reaper::spawn(move |names| {
            tell.send(names.to_vec()).unwrap();
            Ok(())
        });
        reaper.remove("mgy1".into()).await;
        tokio::time::sleep(GATHER / 2).await;
        reaper.remove("mgy2".into()).await;
        assert_eq!(begun.recv().await.unwrap(), ["mgy1", "mgy2"]);
        let now = Instant::now();
        reaper.remove("mgy3".into()).await;
        reaper.when_gone("mgy3").await;
        assert_eq!(now.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_removal_is_tried_again() {
        let left = Arc::new(Mutex::new(2));
        let counter = Arc::clone(&left);
        let reaper = Reaper::spawn(move |_| {
            let mut left = counter.lock().unwrap();
            if *left == 0 {
                return Ok(());
            }
            *left -= 1;
            Err("busy".into())
        });
        reaper.remove("mgy1".into()).await;
        reaper.when_gone("mgy1").await;
        assert_eq!(*left.lock().unwrap(), 0);
    }
}
