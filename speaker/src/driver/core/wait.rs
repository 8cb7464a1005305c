//! What the core waits for.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use margay_bgp::bfd::Change;
use tokio::{
    sync::mpsc,
    time::{Sleep, sleep_until},
};

use super::{Core, TURN_EVENTS};
use crate::{
    driver::{
        Event,
        ready::{Bell, Ready},
    },
    handle::Command,
    peer_key::PeerKey,
};

/// What the core is woken by, beside links and its own timers.
pub(super) enum News {
    /// Nothing, or nothing that has to be handed over.
    None,
    /// What BFD finds of a path.
    Path(PeerKey, Change),
    /// `None` once nobody can send another.
    Command(Option<Command>),
}

/// Waits for channels, the alarm and links. Channels and alarm have a bell of their own and are not asked
/// as long as it does not ring: a single route would wait for their answers.
#[derive(Debug)]
pub(super) struct Waiter {
    commands: mpsc::Receiver<Command>,
    alarm: Pin<Box<Sleep>>,
    bell: Waker,
    /// All of them have been asked, and ring once they have anything.
    will_ring: bool,
}

impl Waiter {
    pub(super) fn new(
        commands: mpsc::Receiver<Command>,
        ready: Arc<Ready>,
        alarm: Instant,
    ) -> Self {
        Self {
            commands,
            alarm: Box::pin(sleep_until(alarm.into())),
            bell: Bell::waker(None, ready),
            will_ring: false,
        }
    }

    /// Not set back: the timers that messages set back are many, and ring late then.
    pub(super) fn set_alarm(&mut self, at: Instant) {
        let at = at.into();
        if at < self.alarm.deadline() || self.alarm.is_elapsed() {
            self.alarm.as_mut().reset(at);
            self.will_ring = false;
        }
    }

    /// Waits until there is something to do, which is at once unless the core is `idle`. Takes events only if
    /// it is `hungry`, as it is when it is idle.
    pub(super) async fn wait(
        &mut self,
        core: &mut Core,
        batch: &mut Vec<Event>,
        (hungry, idle): (bool, bool),
    ) -> News {
        let ready = Arc::clone(&core.ready);
        let wants_fib = core.due.fib;
        // Cancel safe throughout: `recv`, `recv_many` and `reserve` take nothing when dropped, the alarm
        // stays.
        let mut others = pin!(async {
            tokio::select! {
                biased;
                Some((key, change)) = core.bfd_changes.recv() => News::Path(key, change),
                command = self.commands.recv() => News::Command(command),
                _ = core.events.recv_many(batch, TURN_EVENTS), if hungry => News::None,
                _ = core.fib.reserve(), if wants_fib => News::None,
                () = &mut self.alarm, if idle => News::None,
            }
        });
        poll_fn(|cx| {
            if ready.take_other() || !self.will_ring {
                let found = others.as_mut().poll(&mut Context::from_waker(&self.bell));
                // A place in the queue for the FIB is given up with the future.
                self.will_ring = found.is_pending() && idle && !wants_fib;
                if found.is_ready() {
                    return found;
                }
            }
            if idle {
                ready.poll(cx).map(|()| News::None)
            } else {
                Poll::Ready(News::None)
            }
        })
        .await
    }
}
