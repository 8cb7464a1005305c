//! Graceful restart, for a moment (RFC 4724, 8538) and for long (RFC 9494).

use super::*;
use crate::session::{LocalLongLived, LocalRestart};

fn graceful(config: SessionConfig) -> SessionConfig {
    let local = LocalRestart {
        restart_time_secs: 120,
        restarting: false,
        long_lived: None,
    };
    SessionConfig {
        graceful_restart: Some(local),
        ..config
    }
}

fn graceful_session(now: Instant) -> (Session, ConnId) {
    let mut s = Session::new(graceful(config(65001, 1, 65002)), 7);
    s.handle_start(now);
    let conn = s.conns[0].id;
    s.handle_connected(conn, now);
    tell(
        &mut s,
        conn,
        &open_of(&graceful(config(65002, 2, 65001))),
        now,
    );
    tell(&mut s, conn, &message(MessageType::Keepalive, &[]), now);
    drain(&mut s);
    (s, conn)
}

#[test]
fn rfc4724_and_rfc8538_say_which_ends_keep_routes() {
    let now = Instant::now();
    let cases: [(Input, &[&str]); 5] = [
        (
            ("lost", |s, c, t| s.handle_connection_lost(c, t)),
            &["close", "down, keep"],
        ),
        (
            ("cease from the peer", |s, c, t| {
                tell(s, c, &message(MessageType::Notification, &[6, 4]), t);
            }),
            &["close", "down, keep"],
        ),
        (
            ("hard reset from the peer", |s, c, t| {
                tell(s, c, &message(MessageType::Notification, &[6, 9, 6, 2]), t);
            }),
            &["close", "down"],
        ),
        (
            ("hold timer", |s, _, t| s.handle_timeout(t + 9 * SECOND)),
            &["4/0", "close", "down, keep"],
        ),
        (
            ("stopped here", |s, _, t| {
                s.handle_stop(&Notification::new(Kind::CEASE_ADMIN_SHUTDOWN), t)
            }),
            &["6/9", "close", "down"],
        ),
    ];
    for ((name, input), want) in cases {
        let (mut s, conn) = graceful_session(now);
        input(&mut s, conn, now);
        assert_eq!(drain(&mut s), want, "{name}");
    }
}

#[test]
fn rfc4724_5_a_new_connection_of_a_restarted_peer_replaces_the_old_one() {
    let now = Instant::now();
    let (mut s, _) = graceful_session(now);
    let later = now + 5 * SECOND;
    let new = s.handle_incoming(later).unwrap();
    tell(
        &mut s,
        new,
        &open_of(&graceful(config(65002, 2, 65001))),
        later,
    );
    assert_eq!(drain(&mut s), ["open", "close", "down, keep", "keepalive"]);
    // Without graceful restart it is a collision that the old one wins.
    let (mut s, _) = session_in(State::Established, now);
    let new = s.handle_incoming(later).unwrap();
    tell(&mut s, new, &open_of(&config(65002, 2, 65001)), later);
    assert_eq!(drain(&mut s), ["open", "6/7", "close", "failed"]);
    assert_eq!(s.state(), State::Established);
}

#[test]
fn rfc4724_3_the_restart_bits_are_set_as_the_kernel_deserves() {
    let open_when = |restarting, fresh, recovering| {
        let local = LocalRestart {
            restart_time_secs: 9,
            restarting,
            long_lived: None,
        };
        let c = SessionConfig {
            graceful_restart: Some(local),
            ..config(1, 1, 2)
        };
        let g = our_open(&c, fresh, recovering)
            .capabilities
            .graceful_restart
            .unwrap();
        (g.restarting, g.families.iter().all(|f| f.preserved))
    };
    let open = |restarting, fresh| open_when(restarting, fresh, false);
    // A session that is lost before all peers have been heard must not have them wait for each other.
    assert_eq!(open_when(true, false, true), (true, true));
    assert_eq!(open_when(false, false, true), (false, true));
    assert_eq!(open(false, true), (false, false));
    assert_eq!(open(true, true), (true, true));
    assert_eq!(open(true, false), (false, true));
    assert_eq!(open(false, false), (false, true));
}

#[test]
fn rfc4724_4_2_one_that_recovers_answers_one_connection_of_two() {
    let now = Instant::now();
    let soon = now + SECOND / 2;
    let (mut dialling, _) = session_in(State::Connect, now);
    let (mut sent, conn) = session_in(State::OpenSent, now);
    assert_eq!(dialling.incoming(now, soon), Incoming::Take);
    for s in [&mut dialling, &mut sent] {
        s.set_recovering(true);
        assert_eq!(s.incoming(now, soon), Incoming::Wait);
        // An attempt that leads nowhere.
        assert_eq!(s.incoming(now, now + SECOND), Incoming::Take);
    }
    tell(&mut sent, conn, &open_of(&config(65002, 2, 65001)), soon);
    assert_eq!(sent.state(), State::OpenConfirm);
    assert_eq!(sent.incoming(now, soon), Incoming::Refuse);
    tell(&mut sent, conn, &message(MessageType::Keepalive, &[]), soon);
    assert_eq!(sent.incoming(now, soon), Incoming::Refuse);
    // That is another one: the peer has restarted as well.
    let later = soon + 2 * SECOND;
    assert_eq!(sent.incoming(later, later), Incoming::Take);
    // One that only the peer has opened is answered.
    let (mut waiting, conn) = session_in(State::Connect, now);
    waiting.set_recovering(true);
    waiting.handle_connection_lost(conn, now);
    assert_eq!(waiting.incoming(now, soon), Incoming::Take);
}

fn long_lived(config: SessionConfig, stale_time_secs: u32) -> SessionConfig {
    let mut config = graceful(config);
    config.graceful_restart = config.graceful_restart.map(|local| LocalRestart {
        long_lived: Some(LocalLongLived {
            stale_time_secs,
            max_stale_time_secs: 1000,
        }),
        ..local
    });
    config
}

#[test]
fn rfc9494_4_the_stale_time_is_the_peers_within_our_bound() {
    let ours = long_lived(config(65001, 1, 65002), 3600);
    let theirs = long_lived(config(65002, 2, 65001), 600);
    let found = agreed(ours.clone(), &theirs);
    assert_eq!(found.long_lived_time(Family::Ipv4Unicast), 600 * SECOND);
    let long = long_lived(config(65002, 2, 65001), 100_000);
    let found = agreed(ours.clone(), &long);
    assert_eq!(found.long_lived_time(Family::Ipv6Unicast), 1000 * SECOND);
    let without = agreed(ours, &graceful(config(65002, 2, 65001)));
    assert_eq!(without.long_lived, None);
    let unasked = agreed(graceful(config(65001, 1, 65002)), &theirs);
    assert_eq!(unasked.long_lived, None);
}

#[test]
fn rfc9494_4_2_a_lost_session_tells_how_long_to_keep_what() {
    let now = Instant::now();
    let mut s = Session::new(long_lived(config(65001, 1, 65002), 3600), 7);
    s.handle_start(now);
    let conn = s.conns[0].id;
    s.handle_connected(conn, now);
    let theirs = long_lived(config(65002, 2, 65001), 600);
    tell(&mut s, conn, &open_of(&theirs), now);
    tell(&mut s, conn, &message(MessageType::Keepalive, &[]), now);
    s.handle_connection_lost(conn, now);
    let retain = std::iter::from_fn(|| s.poll_output())
        .find_map(|output| match output {
            Output::Down { retain, .. } => retain,
            _ => None,
        })
        .unwrap();
    assert_eq!(retain.restart_time, 120 * SECOND);
    assert_eq!(retain.long_lived, [600 * SECOND; 2]);
}
