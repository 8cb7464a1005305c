//! The state machine.

mod resume;

pub use resume::{Left, ResumeError};

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use crate::{
    prefix::Family,
    session::{
        ConnId, Direction, DownReason, Negotiated, Output, Retain, SessionConfig, State,
        jitter::Jitter,
        negotiate::{negotiate, our_open},
    },
    wire::{
        Kind, MessageType, Notification, Open, RouteRefresh, WireError, header,
        refresh::RefreshKind,
    },
};

/// Hold time until the peer's OPEN came (RFC 4271 section 8.2.2).
const LARGE_HOLD: Duration = Duration::from_secs(240);
/// Shortest default send hold time (RFC 9687: the greater of 8 minutes and twice the hold time).
const SEND_HOLD_MIN: Duration = Duration::from_secs(480);
/// First wait after a session was lost that had been fine: long enough for the peer to notice.
const QUICK_RETRY: Duration = Duration::from_secs(1);
/// Waits after errors double up to this.
const MAX_IDLE_HOLD: Duration = Duration::from_secs(120);
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

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if matches!(self.will, Will::Held { until } if until <= now) {
            self.run(now);
        }
        let ids: Vec<ConnId> = self.conns.iter().map(|c| c.id).collect();
        for id in ids {
            self.conn_timeout(id, now);
        }
        if due(self.connect_retry) {
            self.retry_connect(now);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let held = match self.will {
            Will::Held { until } => Some(until),
            _ => None,
        };
        let of_conns = self
            .conns
            .iter()
            .flat_map(|c| [c.hold, c.keepalive, c.send_hold]);
        [held, self.connect_retry]
            .into_iter()
            .chain(of_conns)
            .flatten()
            .min()
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn message(
        &mut self,
        id: ConnId,
        kind: MessageType,
        body: &[u8],
        now: Instant,
    ) -> Result<Accepted, Notification> {
        use MessageType as T;
        let Some(conn) = self.conns.iter_mut().find(|c| c.id == id) else {
            return Ok(Accepted::Done);
        };
        match (&conn.phase, kind) {
            (Phase::Dialling, _) => {}
            (_, T::Notification) => {
                let received =
                    Notification::decode(body).unwrap_or_else(WireError::into_notification);
                self.end(id, DownReason::Received(received), now);
            }
            (Phase::Established { negotiated, .. }, kind) => {
                let hold = negotiated.hold_time;
                conn.hold = (!hold.is_zero()).then(|| now + hold);
                match kind {
                    T::Update => return Ok(Accepted::Update),
                    T::RouteRefresh => self.refresh(body)?,
                    T::Open => return Err(unexpected(Kind::FSM_ESTABLISHED, kind)),
                    T::Keepalive | T::Notification => {}
                }
            }
            (Phase::OpenConfirm(_), T::Keepalive) => self.establish(id, now),
            (Phase::OpenConfirm(_), kind) => return Err(unexpected(Kind::FSM_OPEN_CONFIRM, kind)),
            (Phase::OpenSent, T::Open) => self.open(id, body, now)?,
            (Phase::OpenSent, kind) => return Err(unexpected(Kind::FSM_OPEN_SENT, kind)),
        }
        Ok(Accepted::Done)
    }

    fn refresh(&mut self, body: &[u8]) -> Result<(), Notification> {
        let refresh = RouteRefresh::decode(body).map_err(WireError::into_notification)?;
        let known = |r: &RouteRefresh| {
            self.negotiated()
                .is_some_and(|n| n.families.contains(&r.family))
        };
        if let Some(refresh) = refresh.filter(known) {
            self.outputs.push_back(Output::Refresh(refresh));
        }
        Ok(())
    }

    /// The peer's OPEN arrived on a connection in OpenSent.
    fn open(&mut self, id: ConnId, body: &[u8], now: Instant) -> Result<(), Notification> {
        let open = Open::decode(body).map_err(WireError::into_notification)?;
        let negotiated = negotiate(&self.config, open).map_err(WireError::into_notification)?;
        if !self.resolve_collision(id, &negotiated, now) {
            return Err(Notification::new(Kind::CEASE_COLLISION));
        }
        let keepalive = self.keepalive_at(&negotiated, now);
        if let Some(conn) = self.conns.iter_mut().find(|c| c.id == id) {
            conn.hold = (!negotiated.hold_time.is_zero()).then(|| now + negotiated.hold_time);
            conn.keepalive = keepalive;
            conn.phase = Phase::OpenConfirm(Box::new(negotiated));
            self.send_keepalive(id);
        }
        Ok(())
    }

    /// RFC 4271 section 6.8, RFC 6286 section 2.3: whether `id` survives beside the connections
    /// that are as far or further. Those that do not survive it are closed.
    fn resolve_collision(&mut self, id: ConnId, peer: &Negotiated, now: Instant) -> bool {
        let Some(new) = self.conn(id) else {
            return false;
        };
        let (new_direction, new_since) = (new.direction, new.since);
        let rival = self.conns.iter().find_map(|c| match &c.phase {
            _ if c.id == id => None,
            Phase::OpenConfirm(_) => Some((c.id, c.direction, None)),
            Phase::Established { negotiated, since } => Some((
                c.id,
                c.direction,
                Some((*since, negotiated.graceful_restart.is_some())),
            )),
            _ => None,
        });
        let Some((rival, rival_direction, established)) = rival else {
            return true;
        };
        if let Some((since, graceful)) = established {
            let restarted = graceful
                && new_direction == Direction::Incoming
                && new_since >= since + COLLISION_WINDOW;
            if restarted {
                self.end(rival, DownReason::Replaced, now);
            }
            return restarted;
        }
        if rival_direction == new_direction {
            self.end(
                rival,
                DownReason::Sent(Notification::new(Kind::CEASE_COLLISION)),
                now,
            );
            return true;
        }
        let ours = (self.config.local_id, self.config.local_as);
        let ours_wins = ours > (peer.peer.id, peer.peer.asn);
        let keep = if ours_wins {
            Direction::Outgoing
        } else {
            Direction::Incoming
        };
        if new_direction == keep {
            self.end(
                rival,
                DownReason::Sent(Notification::new(Kind::CEASE_COLLISION)),
                now,
            );
        }
        new_direction == keep
    }

    fn establish(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conns.iter_mut().find(|c| c.id == id) else {
            return;
        };
        let Phase::OpenConfirm(negotiated) = std::mem::replace(&mut conn.phase, Phase::OpenSent)
        else {
            return;
        };
        conn.hold = (!negotiated.hold_time.is_zero()).then(|| now + negotiated.hold_time);
        conn.phase = Phase::Established {
            negotiated: negotiated.clone(),
            since: now,
        };
        self.outputs.push_back(Output::Up(id, negotiated));
        self.fresh = false;
        self.errors = 0;
        self.connect_retry = None;
        let others: Vec<ConnId> = self
            .conns
            .iter()
            .map(|c| c.id)
            .filter(|other| *other != id)
            .collect();
        for other in others {
            self.end(
                other,
                DownReason::Sent(Notification::new(Kind::CEASE_COLLISION)),
                now,
            );
        }
    }

    /// Ends one connection for `reason` and decides how the session goes on.
    fn end(&mut self, id: ConnId, reason: DownReason, now: Instant) {
        let Some(conn) = self.take_conn(id) else {
            return;
        };
        if let (DownReason::Sent(cease), false) = (&reason, matches!(conn.phase, Phase::Dialling)) {
            let mut out = BytesMut::new();
            on_the_wire(cease, &conn.phase).encode(&mut out);
            self.outputs.push_back(Output::Send(id, out.freeze()));
        }
        self.outputs.push_back(Output::Close(id));
        let was_up = match conn.phase {
            Phase::Established { negotiated, .. } => {
                let retain = retain(&negotiated, &reason);
                self.outputs.push_back(Output::Down {
                    reason: reason.clone(),
                    retain,
                });
                true
            }
            _ => {
                self.outputs.push_back(Output::Failed(reason.clone()));
                false
            }
        };
        if self.will == Will::Running && self.conns.is_empty() {
            self.plan_retry(&reason, was_up, now);
        }
    }

    /// After the last connection ended.
    fn plan_retry(&mut self, reason: &DownReason, was_up: bool, now: Instant) {
        let retry = self.config.connect_retry;
        let wait = match reason {
            DownReason::Replaced | DownReason::DialFailed => retry,
            DownReason::ConnectionLost if was_up => QUICK_RETRY.min(retry),
            DownReason::ConnectionLost => retry,
            DownReason::Sent(n) | DownReason::Received(n) if n.kind == Kind::CEASE_COLLISION => {
                QUICK_RETRY.min(retry)
            }
            // Silence and the other operator's wish are no errors.
            DownReason::Sent(n) if was_up && n.kind == Kind::HOLD_TIMER_EXPIRED => retry,
            DownReason::Received(n) if n.kind.code == Kind::CEASE_COLLISION.code => retry,
            DownReason::Received(n) if was_up && n.kind == Kind::HOLD_TIMER_EXPIRED => retry,
            DownReason::Sent(_) | DownReason::Received(_) => return self.hold_idle(now),
        };
        self.connect_retry = Some(now + self.jitter.apply(wait));
    }

    /// RFC 4271 section 8.1.1, DampPeerOscillations: waits double with every error in a row.
    fn hold_idle(&mut self, now: Instant) {
        let wait = self
            .config
            .connect_retry
            .saturating_mul(1 << self.errors.min(5));
        self.errors += 1;
        self.connect_retry = None;
        let until = now + self.jitter.apply(wait.min(MAX_IDLE_HOLD));
        self.will = Will::Held { until };
    }

    fn run(&mut self, now: Instant) {
        self.will = Will::Running;
        self.retry_connect(now);
    }

    /// Dials unless the session is passive or a connection is on its way.
    fn retry_connect(&mut self, now: Instant) {
        self.connect_retry = None;
        if self.config.passive || self.will != Will::Running {
            return;
        }
        let dialling = self
            .conns
            .iter()
            .find(|c| matches!(c.phase, Phase::Dialling));
        if let Some(id) = dialling.map(|c| c.id) {
            self.drop_conn(id);
            self.outputs
                .push_back(Output::Failed(DownReason::DialFailed));
        }
        let retry = self.config.connect_retry;
        self.connect_retry = Some(now + self.jitter.apply(retry));
        // A connection on its way is given as long as an attempt of ours.
        let busy = |c: &Conn| !matches!(c.phase, Phase::OpenSent) || now < c.since + retry;
        if !self.conns.iter().any(busy) {
            let id = self.add_conn(Direction::Outgoing, now);
            self.outputs.push_back(Output::Dial(id));
        }
    }

    fn conn_timeout(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conn(id) else { return };
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(conn.hold) {
            let kind = Kind::HOLD_TIMER_EXPIRED;
            return self.end(id, DownReason::Sent(Notification::new(kind)), now);
        }
        if due(conn.send_hold) {
            let kind = Kind::SEND_HOLD_TIMER_EXPIRED;
            return self.end(id, DownReason::Sent(Notification::new(kind)), now);
        }
        if due(conn.keepalive) {
            self.send_keepalive(id);
            let interval = match &self.conn(id).map(|c| &c.phase) {
                Some(Phase::OpenConfirm(n) | Phase::Established { negotiated: n, .. }) => {
                    n.keepalive
                }
                _ => Duration::ZERO,
            };
            let next = (!interval.is_zero()).then(|| now + self.jitter.apply(interval));
            if let Some(conn) = self.conns.iter_mut().find(|c| c.id == id) {
                conn.keepalive = next;
            }
        }
    }

    fn keepalive_at(&mut self, negotiated: &Negotiated, now: Instant) -> Option<Instant> {
        let interval = negotiated.keepalive;
        (!interval.is_zero()).then(|| now + self.jitter.apply(interval))
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

/// RFC 4724 section 4.2, RFC 8538 section 4, RFC 9494 section 4.2: what outlives the session.
fn retain(negotiated: &Negotiated, reason: &DownReason) -> Option<Retain> {
    let peer = negotiated.graceful_restart.as_ref()?;
    let kept = match reason {
        DownReason::ConnectionLost | DownReason::Replaced | DownReason::DialFailed => true,
        DownReason::Received(n) => {
            negotiated.survives_notification() && n.kind != Kind::CEASE_HARD_RESET
        }
        DownReason::Sent(n) => negotiated.survives_notification() && !is_hard(n.kind),
    };
    let families: Vec<Family> = peer
        .families
        .iter()
        .map(|f| f.family)
        .filter(|f| negotiated.families.contains(f))
        .collect();
    let long_lived = Family::ALL.map(|family| negotiated.long_lived_time(family));
    let any = !families.is_empty() || long_lived.iter().any(|time| !time.is_zero());
    (kept && any).then_some(Retain {
        families,
        restart_time: Duration::from_secs(peer.restart_time_secs.into()),
        long_lived,
    })
}

/// RFC 8538 section 5, RFC 9384 section 3: what an operator, a limit or a dead path ended must not be kept
/// alive by grace.
const fn is_hard(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::CEASE_ADMIN_SHUTDOWN
            | Kind::CEASE_PEER_DECONFIGURED
            | Kind::CEASE_ADMIN_RESET
            | Kind::CEASE_MAX_PREFIXES
            | Kind::CEASE_HARD_RESET
            | Kind::CEASE_BFD_DOWN
    )
}

/// The NOTIFICATION as sent: wrapped in a hard reset where grace would misread it.
fn on_the_wire(cease: &Notification, phase: &Phase) -> Notification {
    let wrap = matches!(phase, Phase::Established { negotiated, .. }
        if negotiated.survives_notification() && is_hard(cease.kind));
    if wrap {
        cease.clone().into_hard_reset()
    } else {
        cease.clone()
    }
}

/// RFC 6608 section 3: the data is the type of the message.
fn unexpected(kind: Kind, message: MessageType) -> Notification {
    Notification::with_data(kind, &[message.to_wire()])
}

#[cfg(test)]
mod tests;
