mod pair;
mod restart;

use bytes::{BufMut, Bytes};

use super::*;
use crate::{
    prefix::Family,
    session::AddPathOffer,
    wire::{Kind, update_encode::end_of_rib},
};

const SECOND: Duration = Duration::from_secs(1);

fn config(local_as: u32, id: u8, remote_as: u32) -> SessionConfig {
    SessionConfig {
        local_as,
        local_id: [192, 0, 2, id].into(),
        remote_as: Some(remote_as),
        hold_time_secs: 9,
        keepalive_secs: None,
        send_hold: None,
        connect_retry: 5 * SECOND,
        passive: false,
        families: Family::ALL.to_vec(),
        graceful_restart: None,
        extended_messages: false,
        extended_next_hop: false,
        add_path: AddPathOffer::default(),
    }
}

fn message(kind: MessageType, body: &[u8]) -> (MessageType, Vec<u8>) {
    (kind, body.to_vec())
}

fn open_of(config: &SessionConfig) -> (MessageType, Vec<u8>) {
    let mut out = BytesMut::new();
    our_open(config, true, false).encode(&mut out);
    (MessageType::Open, out[header::HEADER_LEN..].to_vec())
}

fn tell(s: &mut Session, conn: ConnId, message: &(MessageType, Vec<u8>), now: Instant) -> Accepted {
    s.handle_message(conn, message.0, &message.1, now)
}

/// Outputs as text, messages by name, NOTIFICATIONs by code.
fn drain(s: &mut Session) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(output) = s.poll_output() {
        all.push(match output {
            Output::Dial(_) => "dial".to_owned(),
            Output::Send(_, bytes) => sent(&bytes),
            Output::Close(_) => "close".to_owned(),
            Output::Up(..) => "up".to_owned(),
            Output::Down { retain, .. } if retain.is_some() => "down, keep".to_owned(),
            Output::Down { .. } => "down".to_owned(),
            Output::Failed(_) => "failed".to_owned(),
            Output::Refresh(_) => "refresh".to_owned(),
        });
    }
    all
}

fn sent(bytes: &Bytes) -> String {
    let (kind, _) = header::peek(bytes, false).unwrap().unwrap();
    match kind {
        MessageType::Notification => {
            let kind = Notification::decode(&bytes[header::HEADER_LEN..])
                .unwrap()
                .kind;
            format!("{}/{}", kind.code, kind.subcode)
        }
        other => format!("{other:?}").to_lowercase(),
    }
}

/// A session with AS 65002, brought to `state`, and its connection.
fn session_in(state: State, now: Instant) -> (Session, ConnId) {
    let mut s = Session::new(config(65001, 1, 65002), 7);
    let mut conn = ConnId(0);
    if state > State::Idle {
        s.handle_start(now);
        conn = s.conns[0].id;
    }
    if state == State::Active {
        s.handle_connection_lost(conn, now);
    }
    if state >= State::OpenSent {
        s.handle_connected(conn, now);
    }
    if state >= State::OpenConfirm {
        tell(&mut s, conn, &open_of(&config(65002, 2, 65001)), now);
    }
    if state == State::Established {
        tell(&mut s, conn, &message(MessageType::Keepalive, &[]), now);
    }
    drain(&mut s);
    assert_eq!(s.state(), state);
    (s, conn)
}

const STATES: [State; 6] = [
    State::Idle,
    State::Connect,
    State::Active,
    State::OpenSent,
    State::OpenConfirm,
    State::Established,
];

type Input = (&'static str, fn(&mut Session, ConnId, Instant));

/// RFC 4271 section 8.2.2 with RFC 6608: every input in every state.
#[test]
fn every_input_in_every_state_does_what_the_rfc_says() {
    use MessageType as T;
    let inputs: [Input; 10] = [
        ("start", |s, _, t| s.handle_start(t)),
        ("stop", |s, _, t| {
            s.handle_stop(&Notification::new(Kind::CEASE_ADMIN_SHUTDOWN), t);
        }),
        ("connected", |s, c, t| s.handle_connected(c, t)),
        ("lost", |s, c, t| s.handle_connection_lost(c, t)),
        ("incoming", |s, _, t| {
            s.handle_incoming(t);
        }),
        ("OPEN", |s, c, t| {
            tell(s, c, &open_of(&config(65002, 2, 65001)), t);
        }),
        ("KEEPALIVE", |s, c, t| {
            tell(s, c, &message(T::Keepalive, &[]), t);
        }),
        ("UPDATE", |s, c, t| {
            tell(s, c, &message(T::Update, &[0; 4]), t);
        }),
        ("NOTIFICATION", |s, c, t| {
            tell(s, c, &message(T::Notification, &[6, 4]), t);
        }),
        ("REFRESH", |s, c, t| {
            tell(s, c, &message(T::RouteRefresh, &[0, 1, 0, 1]), t);
        }),
    ];
    // Rows: inputs; columns: STATES. `state: outputs`.
    #[rustfmt::skip]
    let table: [[&str; 6]; 10] = [
        // start
        ["Connect: dial", "Connect:", "Active:", "OpenSent:", "OpenConfirm:", "Established:"],
        // stop
        ["Idle:", "Idle: close failed", "Idle:", "Idle: 6/2 close failed", "Idle: 6/2 close failed", "Idle: 6/2 close down"],
        // connected
        ["Idle:", "OpenSent: open", "Active:", "OpenSent:", "OpenConfirm:", "Established:"],
        // lost
        ["Idle:", "Active: close failed", "Active:", "Active: close failed", "Active: close failed", "Active: close down"],
        // incoming
        ["Idle:", "OpenSent: open", "OpenSent: open", "OpenSent: open", "OpenConfirm: open", "Established: open"],
        // OPEN
        ["Idle:", "Connect:", "Active:", "OpenConfirm: keepalive", "Idle: 5/2 close failed", "Idle: 5/3 close down"],
        // KEEPALIVE
        ["Idle:", "Connect:", "Active:", "Idle: 5/1 close failed", "Established: up", "Established:"],
        // UPDATE
        ["Idle:", "Connect:", "Active:", "Idle: 5/1 close failed", "Idle: 5/2 close failed", "Established:"],
        // NOTIFICATION
        ["Idle:", "Connect:", "Active:", "Active: close failed", "Active: close failed", "Active: close down"],
        // REFRESH
        ["Idle:", "Connect:", "Active:", "Idle: 5/1 close failed", "Idle: 5/2 close failed", "Established: refresh"],
    ];
    let now = Instant::now();
    for ((name, input), row) in inputs.iter().zip(table) {
        for (state, want) in STATES.into_iter().zip(row) {
            let (mut s, conn) = session_in(state, now);
            input(&mut s, conn, now);
            let outputs = drain(&mut s).join(" ");
            let got = format!("{}: {outputs}", s.state());
            assert_eq!(got.trim_end(), want, "{name} in {state}");
        }
    }
}

#[test]
fn rfc4271_6_2_an_open_that_does_not_fit_is_answered_with_its_error() {
    let now = Instant::now();
    let peer = config(65002, 2, 65001);
    let id_clash = SessionConfig {
        local_as: 65001,
        local_id: [192, 0, 2, 1].into(),
        ..peer.clone()
    };
    for (remote_as, open, want) in [
        (
            65002,
            SessionConfig {
                local_as: 65003,
                ..peer.clone()
            },
            "2/2",
        ),
        (65001, id_clash, "2/3"),
        (
            65002,
            SessionConfig {
                families: vec![],
                ..peer.clone()
            },
            "2/7",
        ),
    ] {
        let mut s = Session::new(
            SessionConfig {
                families: vec![Family::Ipv6Unicast],
                ..config(65001, 1, remote_as)
            },
            7,
        );
        s.handle_start(now);
        let conn = s.conns[0].id;
        s.handle_connected(conn, now);
        drain(&mut s);
        tell(&mut s, conn, &open_of(&open), now);
        assert_eq!(drain(&mut s), [want, "close", "failed"]);
    }
    // RFC 6286: the same identifier in another AS is fine.
    let (mut s, conn) = session_in(State::OpenSent, now);
    tell(&mut s, conn, &open_of(&config(65002, 1, 65001)), now);
    assert_eq!(s.state(), State::OpenConfirm);
}

#[test]
fn the_hold_timer_ends_the_session_and_messages_put_it_off() {
    let start = Instant::now();
    let (mut s, conn) = session_in(State::Established, start);
    tell(
        &mut s,
        conn,
        &message(MessageType::Update, &[0; 4]),
        start + 5 * SECOND,
    );
    s.handle_timeout(start + 13 * SECOND);
    assert_eq!(drain(&mut s), ["keepalive"]);
    s.handle_timeout(start + 14 * SECOND);
    assert_eq!(drain(&mut s), ["4/0", "close", "down"]);
    assert_eq!(s.state(), State::Active);
}

#[test]
fn what_waits_to_be_taken_in_puts_the_hold_timer_off_once_it_is_due() {
    let now = Instant::now();
    let (mut s, conn) = session_in(State::Established, now);
    let hold = s.negotiated().unwrap().hold_time;
    s.handle_waiting(conn, now);
    let late = now + hold;
    s.handle_waiting(conn, late);
    s.handle_timeout(late);
    assert_eq!(s.state(), State::Established);
    s.handle_timeout(late + hold);
    assert_ne!(s.state(), State::Established);
}

#[test]
fn rfc9687_a_peer_that_does_not_read_is_dropped() {
    let start = Instant::now();
    let (mut s, conn) = session_in(State::Established, start);
    s.handle_blocked(conn, start);
    s.handle_blocked(conn, start + 400 * SECOND);
    for t in 1..480 {
        tell(
            &mut s,
            conn,
            &message(MessageType::Keepalive, &[]),
            start + t * SECOND,
        );
    }
    s.handle_timeout(start + 479 * SECOND);
    drain(&mut s);
    s.handle_timeout(start + 480 * SECOND);
    assert_eq!(drain(&mut s), ["8/0", "close", "down"]);

    // As it is configured; the peer may well be heard.
    let (mut s, conn) = session_in(State::Established, start);
    s.config.send_hold = Some(20 * SECOND);
    s.handle_blocked(conn, start);
    let heard = start + 19 * SECOND;
    tell(&mut s, conn, &message(MessageType::Keepalive, &[]), heard);
    s.handle_timeout(heard);
    drain(&mut s);
    s.handle_timeout(start + 20 * SECOND);
    assert_eq!(drain(&mut s), ["8/0", "close", "down"]);
}

#[test]
fn rfc2918_a_peer_that_can_is_asked_for_each_family() {
    let now = Instant::now();
    for state in [State::Connect, State::OpenConfirm] {
        let (mut s, _) = session_in(state, now);
        assert!(!s.handle_refresh_wanted() && drain(&mut s).is_empty());
    }
    let (mut s, _) = session_in(State::Established, now);
    assert!(s.handle_refresh_wanted());
    let Some(Output::Send(_, mut asked)) = s.poll_output() else {
        panic!("nothing is sent")
    };
    for family in Family::ALL {
        let message = asked.split_to(23);
        let body = &message[header::HEADER_LEN..];
        let kind = RefreshKind::Request;
        assert_eq!(
            RouteRefresh::decode(body),
            Ok(Some(RouteRefresh { family, kind }))
        );
    }
    assert!(asked.is_empty() && s.poll_output().is_none());
    // One of before RFC 2918.
    let (mut s, conn) = session_in(State::OpenSent, now);
    let (kind, mut open) = open_of(&config(65002, 2, 65001));
    open.truncate(9);
    open.push(0);
    tell(&mut s, conn, &(kind, open), now);
    tell(&mut s, conn, &message(MessageType::Keepalive, &[]), now);
    drain(&mut s);
    assert_eq!(s.state(), State::Established);
    assert!(!s.handle_refresh_wanted() && drain(&mut s).is_empty());
}

#[test]
fn errors_in_a_row_are_waited_out_longer_and_longer() {
    let mut now = Instant::now();
    let mut s = Session::new(config(65001, 1, 65002), 7);
    s.handle_start(now);
    let mut waits = Vec::new();
    for _ in 0..7 {
        let conn = s.conns[0].id;
        s.handle_connected(conn, now);
        tell(&mut s, conn, &message(MessageType::Keepalive, &[]), now);
        assert_eq!(s.state(), State::Idle);
        assert_eq!(s.handle_incoming(now), None);
        let wake = s.poll_timeout().unwrap();
        waits.push(wake - now);
        now = wake;
        s.handle_timeout(now);
        assert_eq!(s.state(), State::Connect);
    }
    let most = |n: u64| Duration::from_secs(n);
    for (wait, max) in waits.iter().zip([5, 10, 20, 40, 80, 120, 120].map(most)) {
        assert!(
            *wait <= max && *wait >= max.mul_f64(0.75),
            "{wait:?} of {max:?}"
        );
    }
}

/// What a session with `ours` finds out from an OPEN of `theirs`.
fn agreed(ours: SessionConfig, theirs: &SessionConfig) -> Negotiated {
    let now = Instant::now();
    let mut s = Session::new(ours, 7);
    s.handle_start(now);
    let conn = s.conns[0].id;
    s.handle_connected(conn, now);
    tell(&mut s, conn, &open_of(theirs), now);
    tell(&mut s, conn, &message(MessageType::Keepalive, &[]), now);
    s.negotiated().unwrap().clone()
}

#[test]
fn rfc7911_4_paths_go_where_one_side_sends_and_the_other_receives() {
    let with = |id, send, receive| SessionConfig {
        add_path: AddPathOffer { send, receive },
        ..config(65000 + u32::from(id), id, 65003 - u32::from(id))
    };
    for (ours, theirs, sent, received) in [
        ((true, true), (true, true), true, true),
        ((true, false), (false, true), true, false),
        ((false, true), (true, false), false, true),
        ((true, false), (true, false), false, false),
        ((false, false), (true, true), false, false),
        ((true, true), (false, false), false, false),
    ] {
        let found = agreed(with(1, ours.0, ours.1), &with(2, theirs.0, theirs.1));
        let all = |on| if on { Family::ALL.to_vec() } else { vec![] };
        assert_eq!(found.paths_sent, all(sent), "{ours:?} {theirs:?}");
        assert_eq!(found.paths_received, all(received), "{ours:?} {theirs:?}");
    }
    // A family that one side does not have is left out.
    let narrow = SessionConfig {
        families: vec![Family::Ipv6Unicast],
        ..with(2, true, true)
    };
    let found = agreed(with(1, true, true), &narrow);
    assert_eq!(found.paths_sent, [Family::Ipv6Unicast]);
}

#[test]
fn an_external_peer_may_be_in_any_as_but_ours() {
    let any = SessionConfig {
        remote_as: None,
        ..config(65001, 1, 0)
    };
    let found = agreed(any.clone(), &config(65077, 2, 65001));
    assert_eq!(found.peer.asn, 65077);
    let now = Instant::now();
    let mut s = Session::new(any, 7);
    s.handle_start(now);
    let conn = s.conns[0].id;
    s.handle_connected(conn, now);
    drain(&mut s);
    tell(&mut s, conn, &open_of(&config(65001, 2, 65001)), now);
    assert_eq!(drain(&mut s), ["2/2", "close", "failed"]);
}

proptest::proptest! {
    #[test]
    fn any_messages_in_any_order_never_panic(
        messages in proptest::collection::vec((0u8..6, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)), 0..30),
    ) {
        let now = Instant::now();
        let (mut s, _) = session_in(State::OpenSent, now);
        let mut t = now;
        for (kind, body) in messages {
            t += SECOND;
            let kind = [MessageType::Open, MessageType::Update, MessageType::Notification, MessageType::Keepalive, MessageType::RouteRefresh]
                .get(usize::from(kind)).copied().unwrap_or(MessageType::Keepalive);
            let good = open_of(&config(65002, 2, 65001));
            let body = if kind == MessageType::Open && body.len() % 2 == 0 { good.1 } else { body };
            for conn in (0..s.next_conn).map(ConnId) {
                s.handle_message(conn, kind, &body, t);
            }
            s.handle_timeout(t);
            if s.handle_incoming(t).is_some() {
                drain(&mut s);
            }
        }
        drain(&mut s);
        let established = s.conns.iter().filter(|c| matches!(c.phase, Phase::Established { .. })).count();
        proptest::prop_assert!(established <= 1);
    }
}

#[test]
fn an_end_of_rib_is_an_update_like_any_other() {
    let now = Instant::now();
    let (mut s, conn) = session_in(State::Established, now);
    let mut out = BytesMut::new();
    end_of_rib(Family::Ipv6Unicast, &mut out);
    out.put_u8(0);
    let (kind, len) = header::peek(&out, false).unwrap().unwrap();
    let accepted = s.handle_message(conn, kind, &out[header::HEADER_LEN..len], now);
    assert_eq!(accepted, Accepted::Update);
}
