use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn config(tx: u32, rx: u32, detect_mult: u8) -> Config {
    Config {
        min_tx: MS * tx,
        min_rx: MS * rx,
        detect_mult,
    }
}

/// Two sessions joined by a wire that may be cut.
struct Pair {
    ends: [Session; 2],
    now: Instant,
    cut: bool,
    changes: [Vec<Change>; 2],
    sent: [u32; 2],
}

impl Pair {
    fn new(a: Config, b: Config) -> Self {
        let now = Instant::now();
        Self {
            ends: [Session::new(a, 1, 1, now), Session::new(b, 2, 2, now)],
            now,
            cut: false,
            changes: [vec![], vec![]],
            sent: [0; 2],
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            for at in [0, 1] {
                self.ends[at].handle_timeout(self.now);
                while let Some(output) = self.ends[at].poll_output(self.now) {
                    match output {
                        Output::Changed(change) => self.changes[at].push(change),
                        Output::Send(packet) => {
                            self.sent[at] += 1;
                            assert!(!(packet.poll && packet.last), "never both");
                            if !self.cut {
                                self.ends[1 - at].handle_packet(&packet, self.now);
                            }
                        }
                    }
                }
            }
            let next = self.ends.iter().filter_map(Session::poll_timeout).min();
            let next = next.unwrap_or(until).max(self.now);
            if next > until {
                break;
            }
            self.now = next;
        }
        self.now = until;
    }
}

#[test]
fn rfc5880_6_8_6_two_sessions_come_up_and_send_at_the_agreed_rate() {
    let mut pair = Pair::new(config(50, 50, 3), config(20, 100, 5));
    pair.run(MS * 3000);
    assert_eq!(pair.changes, [[Change::Up], [Change::Up]]);
    pair.sent = [0; 2];
    pair.run(MS * 10_000);
    // The first may send every 50 ms but is asked for 100; the second the other way round is
    // asked for 50. Each interval is shortened by up to a quarter.
    assert!((100..=134).contains(&pair.sent[0]), "{:?}", pair.sent);
    assert!((200..=267).contains(&pair.sent[1]), "{:?}", pair.sent);
    assert!(!pair.ends[0].polling && !pair.ends[1].polling);
}

#[test]
fn rfc5880_6_8_4_silence_is_noticed_in_time_and_told_once() {
    let mut pair = Pair::new(config(50, 50, 3), config(50, 50, 3));
    pair.run(MS * 3000);
    pair.cut = true;
    pair.run(MS * 99);
    assert_eq!(pair.ends[0].state(), State::Up);
    pair.run(MS * 52);
    assert_eq!(pair.ends[0].state(), State::Down);
    let down = Change::Down {
        diag: Diag::TIME_EXPIRED,
        independent: false,
    };
    assert_eq!(pair.changes[0], [Change::Up, down]);
    // RFC 5880 section 6.8.3: slow while down.
    pair.sent = [0; 2];
    pair.run(MS * 10_000);
    assert!(pair.sent[0] <= 14, "{:?}", pair.sent);
    pair.cut = false;
    pair.run(MS * 3000);
    assert_eq!(pair.changes[0], [Change::Up, down, Change::Up]);
}

#[test]
fn a_pause_of_our_own_is_no_silence_of_theirs() {
    let mut pair = Pair::new(config(50, 50, 3), config(50, 50, 3));
    pair.run(MS * 3000);
    // The machine stood still.
    pair.now += MS * 400;
    for end in &mut pair.ends {
        end.handle_pause(MS * 400);
    }
    pair.run(MS * 3000);
    assert_eq!(pair.changes, [[Change::Up], [Change::Up]]);
    // A path that died meanwhile is noticed once it can be.
    pair.cut = true;
    pair.now += MS * 400;
    pair.ends[0].handle_pause(MS * 400);
    pair.run(MS * 152);
    assert_eq!(pair.ends[0].state(), State::Down);
}

#[test]
fn rfc5882_3_2_an_administrative_end_is_no_failure() {
    let mut pair = Pair::new(config(50, 50, 3), config(50, 50, 3));
    pair.run(MS * 3000);
    let now = pair.now;
    pair.ends[1].handle_admin_down(now);
    pair.run(MS * 3000);
    assert_eq!(pair.changes[0], [Change::Up, Change::RemoteAdminDown]);
    assert_eq!(pair.ends[0].state(), State::Down);
    assert_eq!(pair.ends[1].state(), State::AdminDown);
}

#[test]
fn rfc5880_6_5_a_change_while_up_is_polled_until_it_is_understood() {
    let mut pair = Pair::new(config(50, 50, 3), config(50, 50, 3));
    pair.run(MS * 3000);
    pair.ends[0].set_config(config(200, 50, 3));
    assert!(pair.ends[0].packet().poll);
    pair.run(MS * 1000);
    assert!(!pair.ends[0].packet().poll);
    assert_eq!(pair.ends[1].remote.desired_tx, MS * 200);
    assert_eq!(pair.changes[1], [Change::Up], "nobody noticed");
}

#[test]
fn rfc5880_6_8_3_a_longer_interval_waits_for_the_other_sides_word() {
    let mut pair = Pair::new(config(50, 50, 3), config(50, 50, 3));
    pair.run(MS * 3000);
    pair.cut = true;
    pair.sent = [0; 2];
    pair.ends[0].set_config(config(4000, 50, 3));
    assert!(pair.ends[0].is_polling() && pair.ends[0].left().is_none());
    pair.run(MS * 80);
    assert!(pair.sent[0] > 0, "as often as before: {:?}", pair.sent);
    pair.cut = false;
    pair.run(MS * 200);
    assert!(!pair.ends[0].is_polling());
    pair.sent = [0; 2];
    pair.run(MS * 2900);
    assert_eq!(pair.sent[0], 0, "now it may be slow");
    assert_eq!(pair.changes, [[Change::Up], [Change::Up]]);
}

#[test]
fn rfc5880_6_8_3_a_shorter_interval_to_receive_waits_for_the_other_sides_word() {
    // The second could send every 50 ms, and is asked for one a second.
    let mut pair = Pair::new(config(1000, 1000, 3), config(50, 50, 3));
    pair.run(MS * 10_000);
    for _ in 0..20 {
        pair.ends[0].set_config(config(1000, 50, 3));
        pair.run(MS * 3100);
        pair.sent = [0; 2];
        pair.run(MS * 1000);
        assert!(pair.sent[1] >= 19, "it does now: {:?}", pair.sent);
        pair.ends[0].set_config(config(1000, 1000, 3));
        pair.run(MS * 4300);
    }
    assert_eq!(pair.changes, [[Change::Up], [Change::Up]]);
    pair.ends[0].set_config(config(1000, 50, 3));
    pair.run(MS * 3000);
    pair.cut = true;
    pair.run(MS * 152);
    assert_eq!(pair.ends[0].state(), State::Down, "noticed as soon as that");
}

#[test]
fn another_process_goes_on_and_the_other_side_notices_nothing() {
    let fast = config(50, 50, 3);
    let mut pair = Pair::new(fast, config(50, 50, 3));
    pair.run(MS * 3000);
    pair.ends[0].set_config(config(4000, 50, 3));
    pair.run(MS * 200);
    let left = pair.ends[0].left().unwrap();
    // Nobody is there, for far longer than the time that fast sessions bear.
    for _ in 0..80 {
        pair.now += MS * 50;
        let now = pair.now;
        pair.ends[1].handle_timeout(now);
    }
    let now = pair.now;
    pair.ends[0] = Session::resume(fast, left, 7, now);
    pair.run(MS * 3000);
    assert_eq!(pair.changes[1], [Change::Up], "nothing happened");
    assert_eq!(pair.changes[0], [Change::Up, Change::Up]);
    assert!(!pair.ends[0].is_polling());
    pair.cut = true;
    pair.run(MS * 152);
    assert_eq!(pair.ends[1].state(), State::Down, "as fast as ever");
}

#[test]
fn rfc5880_6_8_7_who_wants_no_packets_gets_none() {
    let now = Instant::now();
    let mut session = Session::new(config(50, 50, 3), 1, 1, now);
    assert!(matches!(session.poll_output(now), Some(Output::Send(_))));
    let quiet = Packet {
        required_min_rx_us: 0,
        ..Session::new(config(50, 50, 3), 9, 1, now).packet()
    };
    session.handle_packet(&quiet, now);
    let later = now + MS * 5000;
    assert_eq!(session.poll_output(later), None);
}

proptest! {
    #[test]
    fn whatever_comes_the_session_stays_in_its_rules(
        packets in proptest::collection::vec((0u8..4, any::<[bool; 4]>(), 1u8..5, 0u32..3, 0u64..2000), 0..60),
    ) {
        let mut now = Instant::now();
        let mut session = Session::new(config(50, 50, 3), 1, 1, now);
        let mut up = false;
        for (state, [poll, last, demand, independent], detect_mult, your_discr, wait) in packets {
            now += MS * u32::try_from(wait).unwrap();
            session.handle_timeout(now);
            let packet = Packet {
                diag: Diag::NONE,
                state: [State::AdminDown, State::Down, State::Init, State::Up][usize::from(state)],
                poll, last: last && !poll, independent, demand, detect_mult,
                my_discr: 7, your_discr,
                desired_min_tx_us: 50_000, required_min_rx_us: 50_000, required_min_echo_rx_us: 0,
            };
            session.handle_packet(&packet, now);
            let mut sent = 0;
            while let Some(output) = session.poll_output(now) {
                match output {
                    Output::Changed(Change::Up) => { prop_assert!(!up); up = true; }
                    Output::Changed(_) => { prop_assert!(up); up = false; }
                    Output::Send(packet) => {
                        sent += 1;
                        prop_assert!(!(packet.poll && packet.last));
                        if packet.state != State::Up {
                            prop_assert!(packet.desired_min_tx_us >= 1_000_000);
                        }
                    }
                }
            }
            prop_assert!(sent <= 2, "a turn sends one packet and one answer");
            prop_assert_eq!(up, session.state() == State::Up);
        }
    }
}
