use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};

use super::*;
use crate::{
    prefix::Family,
    session::{AddPathOffer, LocalLongLived, LocalRestart},
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

/// Two sessions joined in memory: a clock, connections with latency, and loss of connections.
struct Pair {
    now: Instant,
    ends: [Session; 2],
    /// Per end: connection to the other end's connection.
    wires: [BTreeMap<ConnId, ConnId>; 2],
    events: Vec<(Instant, u64, Event)>,
    sequence: u64,
    latency: Duration,
    /// Which end's connections are refused.
    deaf: [bool; 2],
    log: Vec<String>,
}

#[derive(Debug)]
enum Event {
    Arrive {
        at: usize,
        from: ConnId,
    },
    Answer {
        at: usize,
        conn: ConnId,
        other: Option<ConnId>,
    },
    Data {
        at: usize,
        from: ConnId,
        bytes: Bytes,
    },
    Lost {
        at: usize,
        from: ConnId,
    },
}

impl Pair {
    fn new(a: SessionConfig, b: SessionConfig, latency: Duration) -> Self {
        Self {
            now: Instant::now(),
            ends: [Session::new(a, 1), Session::new(b, 2)],
            wires: [BTreeMap::new(), BTreeMap::new()],
            events: Vec::new(),
            sequence: 0,
            latency,
            deaf: [false; 2],
            log: Vec::new(),
        }
    }

    fn post(&mut self, event: Event) {
        self.sequence += 1;
        self.events
            .push((self.now + self.latency, self.sequence, event));
    }

    fn drain(&mut self, end: usize) {
        let other = 1 - end;
        while let Some(output) = self.ends[end].poll_output() {
            match output {
                Output::Dial(from) => self.post(Event::Arrive { at: other, from }),
                Output::Send(conn, bytes) => {
                    self.log.push(format!("{end} {}", sent(&bytes)));
                    self.post(Event::Data {
                        at: other,
                        from: conn,
                        bytes,
                    });
                }
                Output::Close(conn) => {
                    if self.wires[end].contains_key(&conn) {
                        self.post(Event::Lost {
                            at: other,
                            from: conn,
                        });
                    }
                }
                Output::Up(..) => self.log.push(format!("{end} up")),
                Output::Down { .. } => self.log.push(format!("{end} down")),
                Output::Failed(_) | Output::Refresh(_) => {}
            }
        }
    }

    /// The connection at `at` whose far end is `from`.
    fn local(&self, at: usize, from: ConnId) -> Option<ConnId> {
        self.wires[at]
            .iter()
            .find(|(_, far)| **far == from)
            .map(|(near, _)| *near)
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Arrive { at, from } => {
                let near = if self.deaf[at] {
                    None
                } else {
                    self.ends[at].handle_incoming(now)
                };
                if let Some(near) = near {
                    self.wires[at].insert(near, from);
                }
                // The answer goes first, as TCP's handshake does before data.
                self.post(Event::Answer {
                    at: 1 - at,
                    conn: from,
                    other: near,
                });
                self.drain(at);
            }
            Event::Answer {
                at,
                conn,
                other: Some(_),
            } if self.ends[at].conn(conn).is_none() => {
                self.post(Event::Lost {
                    at: 1 - at,
                    from: conn,
                });
            }
            Event::Answer {
                at,
                conn,
                other: Some(other),
            } => {
                self.wires[at].insert(conn, other);
                self.ends[at].handle_connected(conn, now);
                self.drain(at);
            }
            Event::Answer {
                at,
                conn,
                other: None,
            } => {
                self.ends[at].handle_connection_lost(conn, now);
                self.drain(at);
            }
            Event::Data { at, from, bytes } => {
                let Some(conn) = self.local(at, from) else {
                    return;
                };
                let (kind, len) = header::peek(&bytes, false).unwrap().unwrap();
                self.ends[at].handle_message(conn, kind, &bytes[header::HEADER_LEN..len], now);
                self.drain(at);
            }
            Event::Lost { at, from } => {
                let Some(conn) = self.local(at, from) else {
                    return;
                };
                self.ends[at].handle_connection_lost(conn, now);
                self.drain(at);
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        self.drain(0);
        self.drain(1);
        loop {
            let event = self.events.iter().map(|e| (e.0, e.1)).min();
            let timer = self.ends.iter().filter_map(Session::poll_timeout).min();
            let next = [event.map(|e| e.0), timer].into_iter().flatten().min();
            let Some(next) = next.filter(|n| *n <= until) else {
                break;
            };
            self.now = self.now.max(next);
            if let Some(key) = event.filter(|e| e.0 <= next) {
                let at = self.events.iter().position(|e| (e.0, e.1) == key).unwrap();
                let (_, _, event) = self.events.swap_remove(at);
                self.happen(event);
            } else {
                for end in 0..2 {
                    self.ends[end].handle_timeout(self.now);
                    self.drain(end);
                }
            }
        }
        self.now = until;
    }

    fn both_up(&self) -> bool {
        self.ends
            .iter()
            .all(|s| s.state() == State::Established && s.conns.len() == 1)
    }
}

fn pair(latency_ms: u64) -> Pair {
    let mut pair = Pair::new(
        config(65001, 1, 65002),
        config(65002, 2, 65001),
        Duration::from_millis(latency_ms),
    );
    let now = pair.now;
    pair.ends[0].handle_start(now);
    pair.ends[1].handle_start(now);
    pair
}

#[test]
fn both_dial_at_once_and_the_higher_id_keeps_what_it_dialled() {
    for latency_ms in [0, 1, 100, 900] {
        let mut pair = pair(latency_ms);
        pair.run(10 * SECOND);
        assert!(pair.both_up(), "{latency_ms} ms: {:?}", pair.log);
        assert_eq!(
            pair.ends[0].conns[0].direction,
            Direction::Incoming,
            "{latency_ms} ms"
        );
        assert_eq!(
            pair.ends[1].conns[0].direction,
            Direction::Outgoing,
            "{latency_ms} ms"
        );
        assert!(
            pair.log.iter().any(|l| l.ends_with("6/7")),
            "a collision: {:?}",
            pair.log
        );
        assert!(
            !pair.log.iter().any(|l| l.ends_with("down")),
            "{:?}",
            pair.log
        );
    }
}

#[test]
fn sessions_stay_up_without_routes_and_die_by_the_hold_timer_when_the_wire_is_cut() {
    let mut pair = pair(1);
    pair.run(600 * SECOND);
    assert!(pair.both_up());
    assert!(!pair.log.iter().any(|l| l.ends_with("down")));
    // Neither end hears of the cut.
    pair.wires = [BTreeMap::new(), BTreeMap::new()];
    pair.deaf = [true; 2];
    pair.run(10 * SECOND);
    assert_eq!(pair.log.iter().filter(|l| l.ends_with("down")).count(), 2);
    pair.deaf = [false; 2];
    pair.run(20 * SECOND);
    assert!(pair.both_up(), "{:?}", pair.log);
}

#[test]
fn a_passive_end_waits_and_two_never_meet() {
    let mut one = Pair::new(
        SessionConfig {
            passive: true,
            ..config(65001, 1, 65002)
        },
        config(65002, 2, 65001),
        Duration::from_millis(1),
    );
    let now = one.now;
    one.ends.iter_mut().for_each(|s| s.handle_start(now));
    one.run(SECOND);
    assert!(one.both_up());
    assert_eq!(one.ends[0].conns[0].direction, Direction::Incoming);

    let mut two = Pair::new(
        SessionConfig {
            passive: true,
            ..config(65001, 1, 65002)
        },
        SessionConfig {
            passive: true,
            ..config(65002, 2, 65001)
        },
        Duration::from_millis(1),
    );
    two.ends.iter_mut().for_each(|s| s.handle_start(now));
    two.run(60 * SECOND);
    assert!(two.ends.iter().all(|s| s.state() == State::Active));
}

#[test]
fn a_mute_connection_does_not_keep_us_from_dialling() {
    let now = Instant::now();
    let (mut s, conn) = session_in(State::Active, now);
    assert_eq!(s.conn(conn).map(|c| c.id), None);
    s.handle_incoming(now).unwrap();
    drain(&mut s);
    s.handle_timeout(now + 5 * SECOND);
    assert_eq!(drain(&mut s), ["dial"]);
}

#[test]
fn a_late_starter_is_reached_within_the_retry_time() {
    let mut pair = pair(1);
    pair.ends[1].handle_stop(&Notification::new(Kind::CEASE_ADMIN_SHUTDOWN), pair.now);
    pair.run(60 * SECOND);
    assert!(!pair.both_up());
    pair.ends[1].config.passive = true;
    let now = pair.now;
    pair.ends[1].handle_start(now);
    pair.run(6 * SECOND);
    assert!(pair.both_up(), "{:?}", pair.log);
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
