//! Two sessions that speak with each other.

use std::collections::BTreeMap;

use super::*;

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
