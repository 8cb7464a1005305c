//! What there is to do: which connections have something to read, and whether anything else has happened.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use crate::driver::link::LinkId;

/// Connections with something to read, the one that waits longest first. The core reads them by
/// itself: a task for each, and a queue to the core, would cost a single route more than all that is
/// decided about it. For the same reason it does not ask channels and timers as long as none rings.
#[derive(Debug, Default)]
pub(super) struct Ready(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    links: VecDeque<LinkId>,
    /// Something else rang.
    other: bool,
    /// The core, while it waits for any.
    core: Option<Waker>,
}

impl Ready {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has something to read.
    pub(super) fn push(&self, link: LinkId) {
        self.ring(Some(link));
    }

    /// The same, or with `None` anything else has happened.
    fn ring(&self, link: Option<LinkId>) {
        let core = {
            let mut waiting = self.waiting();
            match link {
                Some(link) => waiting.links.push_back(link),
                None => waiting.other = true,
            }
            waiting.core.take()
        };
        if let Some(core) = core {
            core.wake();
        }
    }

    /// Whether anything else has happened since the last call.
    pub(super) fn take_other(&self) -> bool {
        std::mem::take(&mut self.waiting().other)
    }

    pub(super) fn pop(&self) -> Option<LinkId> {
        self.waiting().links.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting().links.is_empty()
    }

    /// Waits until there is any, or something else has happened.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting();
        if waiting.other || !waiting.links.is_empty() {
            return Poll::Ready(());
        }
        waiting.core = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Rings when its connection has something to read, or for anything else.
#[derive(Debug)]
pub(super) struct Bell {
    link: Option<LinkId>,
    ready: Arc<Ready>,
}

impl Bell {
    pub(super) fn waker(link: Option<LinkId>, ready: Arc<Ready>) -> Waker {
        Arc::new(Self { link, ready }).into()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.ring(self.link);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn bells_wake_the_core_and_are_answered_in_turn() {
        let ready = Arc::new(Ready::default());
        let bell = |link| Bell::waker(link, Arc::clone(&ready));
        let (one, two) = (bell(Some(1)), bell(Some(2)));
        let ringing = tokio::spawn(async move {
            two.wake_by_ref();
            one.wake();
        });
        poll_fn(|cx| ready.poll(cx)).await;
        ringing.await.unwrap();
        assert_eq!((ready.pop(), ready.pop()), (Some(2), Some(1)));
        assert!(ready.is_empty());
        assert!(!ready.take_other());
        let other = bell(None);
        let ringing = tokio::spawn(async move { other.wake() });
        poll_fn(|cx| ready.poll(cx)).await;
        ringing.await.unwrap();
        assert!(ready.is_empty() && ready.take_other());
        assert!(!ready.take_other());
    }
}
