//! How a connection ends, what outlives it, and when the next one is tried.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::{Phase, Session, Will};
use crate::{
    prefix::Family,
    session::{ConnId, DownReason, Negotiated, Output, Retain},
    wire::{Kind, Notification},
};

/// First wait after a session was lost that had been fine: long enough for the peer to notice.
const QUICK_RETRY: Duration = Duration::from_secs(1);
/// Waits after errors double up to this.
const MAX_IDLE_HOLD: Duration = Duration::from_secs(120);

impl Session {
    /// Ends one connection for `reason` and decides how the session goes on.
    pub(super) fn end(&mut self, id: ConnId, reason: DownReason, now: Instant) {
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
