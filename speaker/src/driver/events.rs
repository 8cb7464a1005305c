//! What happened to a session and its path, the last things first to go.

use std::{collections::VecDeque, time::SystemTime};

use margay_bgp::session::State;

use crate::{
    peer_key::PeerKey,
    view::{EventState, PeerEvent},
};

/// Events kept for a peer.
const KEPT: usize = 64;

/// A peer that cannot be reached goes through the same few states again and again: what equals one
/// of the last so many is counted, not added.
const CYCLE: usize = 6;

/// The last changes of state of one peer.
#[derive(Debug, Default)]
pub(super) struct EventLog(VecDeque<PeerEvent>);

impl EventLog {
    /// Notes a change; `true` if it is not a mere repetition.
    pub(super) fn note(
        &mut self,
        key: PeerKey,
        (from, to): (EventState, EventState),
        reason: &str,
        at: SystemTime,
    ) -> bool {
        let same = |e: &&mut PeerEvent| (e.from, e.to) == (from, to) && e.reason == reason;
        if let Some(known) = self.0.iter_mut().rev().take(CYCLE).find(same) {
            known.count += 1;
            known.at = at;
            return false;
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(PeerEvent {
            key,
            at,
            first: at,
            count: 1,
            from,
            to,
            reason: reason.to_owned(),
        });
        true
    }

    /// Oldest first, by when they happened last.
    pub(super) fn entries(&self) -> impl Iterator<Item = PeerEvent> + '_ {
        self.0.iter().cloned()
    }
}

/// Why a session enters `to` when nothing went wrong.
pub(super) const fn usual_reason(from: State, to: State) -> &'static str {
    match (from, to) {
        (_, State::Idle) => "stopped, or waiting after an error",
        (_, State::Connect) => "dialling",
        (_, State::Active) => "waiting for a connection",
        (_, State::OpenSent) => "connected, OPEN sent",
        (_, State::OpenConfirm) => "OPEN received and accepted",
        (_, State::Established) => "KEEPALIVE received",
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use super::*;

    #[test]
    fn repetitions_are_counted_and_the_oldest_go() {
        let key = PeerKey::from(IpAddr::from([192, 0, 2, 1]));
        let start = SystemTime::UNIX_EPOCH;
        let change = |from: State, to: State| (from.into(), to.into());
        let mut log = EventLog::default();
        for turn in 0..100 {
            let at = start + Duration::from_secs(turn);
            let fresh = log.note(key, change(State::Connect, State::Active), "refused", at);
            assert_eq!(fresh, turn == 0);
            log.note(key, change(State::Active, State::Connect), "dialling", at);
        }
        let all: Vec<_> = log.entries().collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].count, all[0].first), (100, start));
        assert_eq!(all[0].at, start + Duration::from_secs(99));
        for n in 0..200 {
            let reason = format!("reason {n}");
            assert!(log.note(key, change(State::Established, State::Idle), &reason, start));
        }
        assert_eq!(log.entries().count(), KEPT);
    }
}
