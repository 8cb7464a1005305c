//! The state machine.

mod ending;
mod messages;
mod resume;
mod timers;

pub use resume::{Left, ResumeError};

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use crate::{
    session::{
        ConnId, Direction, DownReason, Negotiated, Output, SessionConfig, State, jitter::Jitter,
        negotiate::our_open,
    },
    wire::{MessageType, Notification, RouteRefresh, header, refresh::RefreshKind},
};

/// Hold time until the peer's OPEN came (RFC 4271 section 8.2.2).
const LARGE_HOLD: Duration = Duration::from_secs(240);
/// Shortest default send hold time (RFC 9687: the greater of 8 minutes and twice the hold time).
const SEND_HOLD_MIN: Duration = Duration::from_secs(480);
/// A connection accepted this long after the session came up cannot be the loser of a collision:
/// the peer restarted.
const COLLISION_WINDOW: Duration = Duration::from_secs(1);

/// What to do with a message that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is an UPDATE of the Established session: give it to the RIB.
    Update,
    /// It is done with.
    Done,
}

/// What to do with a connection that the peer has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// Hand it in ([`Session::handle_incoming`]).
    Take,
    /// Ask again soon.
    Wait,
    /// Close it.
    Refuse,
}

/// Whether the session wants to be up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Will {
    /// Stopped by the operator.
    Stopped,
    /// Waits out an error.
    Held { until: Instant },
    /// Dials and accepts.
    Running,
}

#[derive(Debug)]
enum Phase {
    Dialling,
    OpenSent,
    OpenConfirm(Box<Negotiated>),
    Established {
        negotiated: Box<Negotiated>,
        since: Instant,
    },
}

#[derive(Debug)]
struct Conn {
    id: ConnId,
    direction: Direction,
    since: Instant,
    phase: Phase,
    hold: Option<Instant>,
    keepalive: Option<Instant>,
    send_hold: Option<Instant>,
}

/// The sessions with one peer, one after the other.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    jitter: Jitter,
    will: Will,
    conns: Vec<Conn>,
    next_conn: u32,
    connect_retry: Option<Instant>,
    /// Errors in a row since the session was last up.
    errors: u32,
    /// Never Established since the process started.
    fresh: bool,
    /// The speaker has restarted, and waits for what its peers know.
    recovering: bool,
    outputs: VecDeque<Output>,
}

impl Session {
    /// A stopped session. `seed` decides the jitter of its timers.
    pub const fn new(config: SessionConfig, seed: u64) -> Self {
        Self {
            config,
            jitter: Jitter::new(seed),
            will: Will::Stopped,
            conns: Vec::new(),
            next_conn: 0,
            connect_retry: None,
            errors: 0,
            fresh: true,
            recovering: false,
            outputs: VecDeque::new(),
        }
    }

    /// The settings.
    pub const fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// Replaces the settings for the next connection; the present one is not touched.
    pub fn set_config(&mut self, config: SessionConfig) {
        self.config = config;
    }

    /// The state, of the furthest connection.
    pub fn state(&self) -> State {
        if self.will != Will::Running {
            return State::Idle;
        }
        let of_conn = |c: &Conn| match c.phase {
            Phase::Dialling => State::Connect,
            Phase::OpenSent => State::OpenSent,
            Phase::OpenConfirm(_) => State::OpenConfirm,
            Phase::Established { .. } => State::Established,
        };
        self.conns
            .iter()
            .map(of_conn)
            .max()
            .unwrap_or(State::Active)
    }

    /// What was agreed on, while Established.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.conns.iter().find_map(|c| match &c.phase {
            Phase::Established { negotiated, .. } => Some(&**negotiated),
            _ => None,
        })
    }

    /// The operator wants the session.
    pub fn handle_start(&mut self, now: Instant) {
        if self.will == Will::Stopped {
            self.run(now);
        }
    }

    /// The operator does not want the session, for the reason in `cease`.
    pub fn handle_stop(&mut self, cease: &Notification, now: Instant) {
        while let Some(conn) = self.conns.first() {
            let id = conn.id;
            self.end(id, DownReason::Sent(cease.clone()), now);
        }
        self.will = Will::Stopped;
        self.connect_retry = None;
        self.errors = 0;
    }

    /// Ends the session, for the reason in `cease`, and starts over.
    pub fn handle_reset(&mut self, cease: &Notification, now: Instant) {
        if self.will != Will::Stopped {
            self.handle_stop(cease, now);
            self.handle_start(now);
        }
    }

    /// The speaker has restarted and waits for what its peers know (RFC 4724 section 4.1), or it has
    /// what it waited for. Meanwhile no peer is to wait for it, however often sessions come up.
    pub const fn set_recovering(&mut self, recovering: bool) {
        self.recovering = recovering;
    }

    /// What to do with a connection of the peer's that was taken at `at`.
    ///
    /// To a peer that keeps our routes a second connection beside an Established one says that we have
    /// restarted (RFC 4724 section 4.2); if it comes before we have told our routes, they go. So while we
    /// recover the peer's connection has to wait until it is known what becomes of the one that we
    /// dialled at the same time.
    pub fn incoming(&self, at: Instant, now: Instant) -> Incoming {
        if !self.recovering {
            return Incoming::Take;
        }
        let stance = |c: &Conn| match (&c.phase, c.direction) {
            (Phase::Established { since, .. }, _) if at <= *since => Incoming::Refuse,
            (Phase::OpenConfirm(_), Direction::Outgoing) => Incoming::Refuse,
            (Phase::Dialling | Phase::OpenSent, Direction::Outgoing)
                if now < c.since + COLLISION_WINDOW =>
            {
                Incoming::Wait
            }
            _ => Incoming::Take,
        };
        let mut all = self.conns.iter().map(stance);
        all.find(|s| *s != Incoming::Take).unwrap_or(Incoming::Take)
    }

    /// The peer dialled; `None` to refuse. The OPEN to send is among the outputs.
    pub fn handle_incoming(&mut self, now: Instant) -> Option<ConnId> {
        if self.will != Will::Running {
            return None;
        }
        // A peer that dials again has given up on what it dialled before.
        let old = self.conns.iter().find(|c| {
            c.direction == Direction::Incoming && !matches!(c.phase, Phase::Established { .. })
        });
        if let Some(id) = old.map(|c| c.id) {
            self.drop_conn(id);
        }
        let id = self.add_conn(Direction::Incoming, now);
        self.send_open(id, now);
        Some(id)
    }

    /// A dialled connection is there.
    pub fn handle_connected(&mut self, conn: ConnId, now: Instant) {
        if self
            .conn(conn)
            .is_some_and(|c| matches!(c.phase, Phase::Dialling))
        {
            self.connect_retry = None;
            self.send_open(conn, now);
        }
    }

    /// A connection closed or broke, or dialling failed.
    pub fn handle_connection_lost(&mut self, conn: ConnId, now: Instant) {
        let Some(c) = self.conn(conn) else { return };
        let reason = match c.phase {
            Phase::Dialling => DownReason::DialFailed,
            _ => DownReason::ConnectionLost,
        };
        self.end(conn, reason, now);
    }

    /// A message arrived whole; `body` is what follows its header.
    pub fn handle_message(
        &mut self,
        conn: ConnId,
        kind: MessageType,
        body: &[u8],
        now: Instant,
    ) -> Accepted {
        match self.message(conn, kind, body, now) {
            Ok(accepted) => accepted,
            Err(notification) => {
                self.end(conn, DownReason::Sent(notification), now);
                Accepted::Done
            }
        }
    }

    /// Framing, the RIB or a limit found something that ends the connection.
    pub fn handle_error(&mut self, conn: ConnId, notification: Notification, now: Instant) {
        if self.conn(conn).is_some() {
            self.end(conn, DownReason::Sent(notification), now);
        }
    }

    /// Octets went out; `pending` if more wait for the peer to read (RFC 9687).
    pub fn handle_sent(&mut self, conn: ConnId, pending: bool, now: Instant) {
        let wanted = self.config.send_hold;
        let Some(c) = self.conns.iter_mut().find(|c| c.id == conn) else {
            return;
        };
        c.send_hold = match &c.phase {
            Phase::Established { negotiated, .. } if pending && !negotiated.hold_time.is_zero() => {
                let hold = negotiated.hold_time;
                Some(now + wanted.unwrap_or_else(|| SEND_HOLD_MIN.max(hold * 2)))
            }
            _ => None,
        };
    }

    /// Octets of the peer wait to be taken in: it is alive, however late we are. A hold timer that
    /// is due starts again.
    pub fn handle_waiting(&mut self, conn: ConnId, now: Instant) {
        if let Some(c) = self.conns.iter_mut().find(|c| c.id == conn)
            && let Phase::Established { negotiated, .. } = &c.phase
            && c.hold.is_some_and(|hold| hold <= now)
        {
            c.hold = Some(now + negotiated.hold_time);
        }
    }

    /// Octets wait to be sent and the peer does not read: starts the send hold timer unless it
    /// runs.
    pub fn handle_blocked(&mut self, conn: ConnId, now: Instant) {
        if self.conn(conn).is_some_and(|c| c.send_hold.is_none()) {
            self.handle_sent(conn, true, now);
        }
    }

    /// The operator wants the peer to send all its routes again (RFC 2918); `false` if the session is not
    /// up, or the peer does not know how to.
    pub fn handle_refresh_wanted(&mut self) -> bool {
        let up = self.conns.iter().find_map(|c| match &c.phase {
            Phase::Established { negotiated, .. } if negotiated.route_refresh => {
                Some((c.id, negotiated))
            }
            _ => None,
        });
        let Some((id, negotiated)) = up else {
            return false;
        };
        let mut out = BytesMut::new();
        for &family in &negotiated.families {
            let kind = RefreshKind::Request;
            RouteRefresh { family, kind }.encode(&mut out);
        }
        self.outputs.push_back(Output::Send(id, out.freeze()));
        true
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn send_open(&mut self, id: ConnId, now: Instant) {
        let mut out = BytesMut::new();
        our_open(&self.config, self.fresh, self.recovering).encode(&mut out);
        if let Some(conn) = self.conns.iter_mut().find(|c| c.id == id) {
            conn.phase = Phase::OpenSent;
            conn.hold = Some(now + LARGE_HOLD);
            self.outputs.push_back(Output::Send(id, out.freeze()));
        }
    }

    fn send_keepalive(&mut self, id: ConnId) {
        let mut out = BytesMut::with_capacity(header::HEADER_LEN);
        header::put_keepalive(&mut out);
        self.outputs.push_back(Output::Send(id, out.freeze()));
    }

    fn add_conn(&mut self, direction: Direction, now: Instant) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn = self.next_conn.wrapping_add(1);
        self.conns.push(Conn {
            id,
            direction,
            since: now,
            phase: Phase::Dialling,
            hold: None,
            keepalive: None,
            send_hold: None,
        });
        id
    }

    fn conn(&self, id: ConnId) -> Option<&Conn> {
        self.conns.iter().find(|c| c.id == id)
    }

    fn take_conn(&mut self, id: ConnId) -> Option<Conn> {
        let at = self.conns.iter().position(|c| c.id == id)?;
        Some(self.conns.remove(at))
    }

    /// Closes a connection that nobody will miss.
    fn drop_conn(&mut self, id: ConnId) {
        if self.take_conn(id).is_some() {
            self.outputs.push_back(Output::Close(id));
        }
    }
}

#[cfg(test)]
mod tests;
