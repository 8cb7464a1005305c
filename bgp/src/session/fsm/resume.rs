//! An Established session goes from one process to the next without its peer noticing.

use std::time::{Duration, Instant};

use super::{Conn, Phase, Session, Will};
use crate::{
    session::{
        ConnId, Direction,
        negotiate::{negotiate, our_open},
    },
    wire::{MAX_EXTENDED_LEN, MessageType, Open, header},
};

/// What the state machine leaves to its successor, beside the OPENs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The connection.
    pub conn: ConnId,
    /// We dialled.
    pub outgoing: bool,
    /// Silence of the peer that is left before the hold timer expires; `None` without one.
    pub hold: Option<Duration>,
}

/// Why a session cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// What was kept is no OPEN.
    #[error("what was kept of its start is no OPEN message")]
    Open,
    /// We would send another OPEN now.
    #[error("its settings are not those that it was started with")]
    Changed,
    /// The peer's OPEN does not fit the configuration.
    #[error("its settings do not fit what the peer offered")]
    Refused,
}

impl Session {
    /// What the next process has to know of the Established connection, if there is one.
    pub fn left(&self, now: Instant) -> Option<Left> {
        let established = |c: &&Conn| matches!(c.phase, Phase::Established { .. });
        let conn = self.conns.iter().find(established)?;
        Some(Left {
            conn: conn.id,
            outgoing: conn.direction == Direction::Outgoing,
            hold: conn.hold.map(|at| at.saturating_duration_since(now)),
        })
    }

    /// Goes on with a connection that another process had Established: `opens` are the messages sent
    /// and received, `hold` is the silence of the peer that is left, and `up` how long it has been
    /// so. The session must not have been started. A KEEPALIVE is due at once.
    ///
    /// # Errors
    /// The OPENs are none, or are not those that the configuration would lead to.
    pub fn resume(
        &mut self,
        [sent, received]: [&[u8]; 2],
        (outgoing, hold, up): (bool, Option<Duration>, Duration),
        now: Instant,
    ) -> Result<ConnId, ResumeError> {
        let [sent, received] = [open(sent)?, open(received)?];
        if comparable(sent) != comparable(our_open(&self.config, false, false)) {
            return Err(ResumeError::Changed);
        }
        let negotiated =
            negotiate(&self.config, received).map_err(|_error| ResumeError::Refused)?;
        let direction = match outgoing {
            true => Direction::Outgoing,
            false => Direction::Incoming,
        };
        let hold = hold.unwrap_or(negotiated.hold_time);
        let hold = (!negotiated.hold_time.is_zero()).then(|| now + hold);
        let keepalive = (!negotiated.keepalive.is_zero()).then_some(now);
        let id = self.add_conn(direction, now);
        if let Some(conn) = self.conns.iter_mut().find(|c| c.id == id) {
            conn.hold = hold;
            conn.keepalive = keepalive;
            conn.phase = Phase::Established {
                negotiated: Box::new(negotiated),
                since: now.checked_sub(up).unwrap_or(now),
            };
        }
        self.will = Will::Running;
        self.fresh = false;
        Ok(id)
    }
}

/// The OPEN that a message is.
fn open(message: &[u8]) -> Result<Open, ResumeError> {
    let whole = header::peek(message, true).ok().flatten();
    match whole {
        Some((MessageType::Open, len)) if len == message.len() && len <= MAX_EXTENDED_LEN => {
            let body = message.get(header::HEADER_LEN..).unwrap_or_default();
            Open::decode(body).map_err(|_error| ResumeError::Open)
        }
        _ => Err(ResumeError::Open),
    }
}

/// What two OPENs of ours have to have in common: not whether we had restarted when they were sent.
fn comparable(mut open: Open) -> Open {
    if let Some(graceful) = &mut open.capabilities.graceful_restart {
        graceful.restarting = false;
        graceful
            .families
            .iter_mut()
            .for_each(|f| f.preserved = true);
    }
    for long_lived in open.capabilities.long_lived.iter_mut().flatten() {
        long_lived.preserved = true;
    }
    open
}
