//! What messages of the peer lead to, as far as they are not for the RIB.

use std::time::Instant;

use super::{Accepted, COLLISION_WINDOW, Phase, Session};
use crate::{
    session::{ConnId, Direction, DownReason, Negotiated, Output, negotiate::negotiate},
    wire::{Kind, MessageType, Notification, Open, RouteRefresh, WireError},
};

impl Session {
    pub(super) fn message(
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
}

/// RFC 6608 section 3: the data is the type of the message.
fn unexpected(kind: Kind, message: MessageType) -> Notification {
    Notification::with_data(kind, &[message.to_wire()])
}
