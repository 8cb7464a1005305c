//! Which connections have something to read.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use crate::driver::link::LinkId;

/// Connections with something to read, the one that waits longest first. The core reads them by
/// itself: a task for each, and a queue to the core, would cost a single route more than all that is
/// decided about it.
#[derive(Debug, Default)]
pub(super) struct Ready(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    links: VecDeque<LinkId>,
    /// The core, while it waits for any.
    core: Option<Waker>,
}

impl Ready {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has something to read.
    pub(super) fn push(&self, link: LinkId) {
        let core = {
            let mut waiting = self.waiting();
            waiting.links.push_back(link);
            waiting.core.take()
        };
        if let Some(core) = core {
            core.wake();
        }
    }

    pub(super) fn pop(&self) -> Option<LinkId> {
        self.waiting().links.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting().links.is_empty()
    }

    /// Waits until there is any.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting();
        if !waiting.links.is_empty() {
            return Poll::Ready(());
        }
        waiting.core = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Rings when its connection has something to read.
#[derive(Debug)]
pub(super) struct Bell {
    pub(super) link: LinkId,
    pub(super) ready: Arc<Ready>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.push(self.link);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn bells_wake_the_core_and_are_answered_in_turn() {
        let ready = Arc::new(Ready::default());
        let bell = |link| {
            let ready = Arc::clone(&ready);
            Waker::from(Arc::new(Bell { link, ready }))
        };
        let (one, two) = (bell(1), bell(2));
        let ringing = tokio::spawn(async move {
            two.wake_by_ref();
            one.wake();
        });
        poll_fn(|cx| ready.poll(cx)).await;
        ringing.await.unwrap();
        assert_eq!((ready.pop(), ready.pop()), (Some(2), Some(1)));
        assert!(ready.is_empty());
    }
}
