//! What time leads to.

use std::time::{Duration, Instant};

use super::{Conn, Phase, Session, Will};
use crate::{
    session::{ConnId, Direction, DownReason, Negotiated, Output},
    wire::{Kind, Notification},
};

impl Session {
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

    pub(super) fn run(&mut self, now: Instant) {
        self.will = Will::Running;
        self.retry_connect(now);
    }

    /// Dials unless the session is passive or a connection is on its way.
    pub(super) fn retry_connect(&mut self, now: Instant) {
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

    pub(super) fn keepalive_at(
        &mut self,
        negotiated: &Negotiated,
        now: Instant,
    ) -> Option<Instant> {
        let interval = negotiated.keepalive;
        (!interval.is_zero()).then(|| now + self.jitter.apply(interval))
    }
}
