//! What a test has the kernel refuse, on the test's own thread.
//!
//! What the kernel is asked is counted: each message of a batch, each dump, each switch that is written. The one that
//! [`plan`] names meets a [`Fault`], once.

use std::cell::Cell;

use crate::netlink::{Batch, NetlinkError, Outcome, RequestError, Socket};

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is refused with this error number; the rest of its batch is done.
    Refused(i32),
    /// Its batch is not done, and the answer is lost.
    LostUndone,
    /// Its batch is done, and the answer is lost.
    LostDone,
}

/// All that may become of it.
pub(crate) const FAULTS: [Fault; 6] = [
    Fault::Refused(libc::EBUSY),
    Fault::Refused(libc::ENOBUFS),
    Fault::Refused(libc::ENOMEM),
    Fault::Refused(libc::EEXIST),
    Fault::LostUndone,
    Fault::LostDone,
];

thread_local! {
    static PLANNED: Cell<Option<(usize, Fault)>> = const { Cell::new(None) };
}

/// The `nth` thing from here on, counted from 0, meets a fault.
pub(crate) fn plan(nth: usize, fault: Fault) {
    PLANNED.set(Some((nth, fault)));
}

/// Forgets the plan. Whether it was carried out.
pub(crate) fn struck() -> bool {
    PLANNED.take().is_none()
}

/// Which of the next things meets a fault.
pub(crate) fn strike(things: usize) -> Option<(usize, Fault)> {
    let (nth, fault) = PLANNED.take()?;
    if nth < things {
        return Some((nth, fault));
    }
    PLANNED.set(Some((nth - things, fault)));
    None
}

impl Fault {
    /// The conversation, with this fault at a place of the batch.
    pub(crate) fn in_batch(
        self,
        place: usize,
        batch: &mut Batch,
        socket: &mut Socket,
        converse: impl FnOnce(&mut Socket, &mut Batch) -> Result<Outcome, NetlinkError>,
    ) -> Result<Outcome, NetlinkError> {
        match self {
            Self::LostUndone => Err(NetlinkError::Overrun),
            Self::LostDone => converse(socket, batch).and(Err(NetlinkError::Overrun)),
            Self::Refused(errno) => {
                batch.spoil(place);
                let mut outcome = converse(socket, batch)?;
                let mut errors = outcome.errors.iter_mut();
                let error = errors.find(|(at, _)| *at == place);
                error.expect("no kernel takes it").1 = RequestError { errno, text: None };
                Ok(outcome)
            }
        }
    }

    /// The same of a single thing that asks for something, or is not known to be done.
    pub(crate) const fn errno(self) -> Option<i32> {
        match self {
            Self::Refused(errno) => Some(errno),
            Self::LostUndone | Self::LostDone => None,
        }
    }
}
