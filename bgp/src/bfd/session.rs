//! The state machine and timers of one session (RFC 5880 section 6.8).

use std::time::{Duration, Instant};

use super::packet::{Diag, Packet, State};
use crate::session::Jitter;

/// RFC 5880 section 6.8.3: nobody sends faster while the session is not up.
const SLOW_TX: Duration = Duration::from_secs(1);
/// Silence that a session which was taken over bears at first: the other side may send slowly still.
const RESUME: Duration = Duration::from_secs(1);

/// What a session wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Shortest interval to send at; not 0.
    pub min_tx: Duration,
    /// Shortest interval to receive at; not 0.
    pub min_rx: Duration,
    /// Packets that the other side may miss; not 0.
    pub detect_mult: u8,
}

/// A change that the driver's own driver cares about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Both directions work.
    Up,
    /// They do not any more.
    Down {
        /// Why.
        diag: Diag,
        /// The other side's BFD does not share fate with its control plane: forwarding is dead
        /// even if a graceful restart is going on (RFC 5882 section 4.3).
        independent: bool,
    },
    /// The other side's operator took the session down, which says nothing of the path (RFC 5882
    /// section 3.2).
    RemoteAdminDown,
}

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send a packet.
    Send(Packet),
    /// Tell others.
    Changed(Change),
}

/// One session.
#[derive(Debug)]
pub struct Session {
    config: Config,
    jitter: Jitter,
    state: State,
    diag: Diag,
    my_discr: u32,
    your_discr: u32,
    remote: Remote,
    /// A poll sequence goes on: P is set until F comes.
    polling: bool,
    /// The interval to send at until the other side has understood that it grows.
    before: Option<Duration>,
    next_tx: Instant,
    detect_at: Option<Instant>,
    answer: Option<Packet>,
    changes: Vec<Change>,
}

/// What a session that is up leaves to the next process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Our name for it, not 0.
    pub my_discr: u32,
    /// The other side's.
    pub your_discr: u32,
    /// What the other side said last.
    pub remote: Remote,
}

/// What the other side said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Its state.
    pub state: State,
    /// Shortest interval that it can receive at; zero for not at all.
    pub min_rx: Duration,
    /// Shortest interval that it sends at.
    pub desired_tx: Duration,
    /// Packets of it that may be missed.
    pub detect_mult: u8,
    /// It wants packets only when asked for.
    pub demand: bool,
    /// Its BFD outlives its control plane.
    pub independent: bool,
}

/// RFC 5880 section 6.8.1: before anything is heard.
const UNKNOWN: Remote = Remote {
    state: State::Down,
    min_rx: Duration::from_micros(1),
    desired_tx: Duration::ZERO,
    detect_mult: 0,
    demand: false,
    independent: false,
};

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

impl Session {
    /// A session that is down and starts at once. `my_discr` is unique on this host and not 0.
    pub fn new(config: Config, my_discr: u32, seed: u64, now: Instant) -> Self {
        Self {
            config,
            jitter: Jitter::new(seed),
            state: State::Down,
            diag: Diag::NONE,
            my_discr,
            your_discr: 0,
            remote: UNKNOWN,
            polling: false,
            before: None,
            next_tx: now,
            detect_at: None,
            answer: None,
            changes: Vec::new(),
        }
    }

    /// Goes on with a session that another process had up.
    pub fn resume(config: Config, left: Left, seed: u64, now: Instant) -> Self {
        let mut session = Self {
            state: State::Up,
            your_discr: left.your_discr,
            remote: left.remote,
            // The other side has been asked for patience.
            polling: true,
            changes: vec![Change::Up],
            ..Self::new(config, left.my_discr, seed, now)
        };
        session.detect_at = Some(now + session.detection_time().max(RESUME));
        session
    }

    /// What the next process has to know of a session that is up; `None` of one that is not, or whose
    /// other side has yet to answer.
    pub fn left(&self) -> Option<Left> {
        let settled = self.state == State::Up && !self.polling;
        settled.then_some(Left {
            my_discr: self.my_discr,
            your_discr: self.your_discr,
            remote: self.remote,
        })
    }

    /// What is wanted.
    pub const fn config(&self) -> Config {
        self.config
    }

    /// Whether the other side has yet to answer.
    pub fn is_polling(&self) -> bool {
        self.polling && self.state == State::Up
    }

    /// Its state.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Our name for it.
    pub const fn my_discr(&self) -> u32 {
        self.my_discr
    }

    /// What is wanted changed (RFC 5880 section 6.8.3): a session that is up asks whether the
    /// other side has understood.
    pub fn set_config(&mut self, config: Config) {
        if self.config != config {
            let up = self.state == State::Up;
            if up && config.min_tx > self.config.min_tx {
                self.before.get_or_insert(self.config.min_tx);
            }
            self.config = config;
            self.polling |= up;
        }
    }

    /// The operator takes the session down: the other side is told, and is not to mind.
    pub fn handle_admin_down(&mut self, now: Instant) {
        self.state = State::AdminDown;
        self.diag = Diag::ADMIN_DOWN;
        self.polling = false;
        self.detect_at = None;
        self.next_tx = now;
    }

    /// A packet that is for this session (RFC 5880 section 6.8.6).
    pub fn handle_packet(&mut self, packet: &Packet, now: Instant) {
        if packet.your_discr != 0 && packet.your_discr != self.my_discr {
            return;
        }
        self.your_discr = packet.my_discr;
        self.remote = Remote {
            state: packet.state,
            min_rx: Duration::from_micros(packet.required_min_rx_us.into()),
            desired_tx: Duration::from_micros(packet.desired_min_tx_us.into()),
            detect_mult: packet.detect_mult,
            demand: packet.demand,
            independent: packet.independent,
        };
        if packet.last {
            self.polling = false;
            self.before = None;
        }
        if self.state == State::AdminDown {
            return;
        }
        self.detect_at = Some(now + self.detection_time());
        match (self.state, packet.state) {
            (State::Down, State::Down) => self.enter(State::Init, Diag::NONE, now),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, Diag::NONE, now);
            }
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.enter(State::Down, Diag::NEIGHBOR_DOWN, now);
            }
            _ => {}
        }
        // The other side may want packets sooner than the next one was due.
        let soonest = now + self.tx_interval();
        self.next_tx = self.next_tx.min(soonest);
        if packet.poll {
            self.answer = Some(Packet {
                poll: false,
                last: true,
                ..self.packet()
            });
        }
    }

    /// This side did not run for so long: that it heard nothing meanwhile says little of the other.
    pub fn handle_pause(&mut self, pause: Duration) {
        if let Some(at) = &mut self.detect_at {
            *at += pause;
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.detect_at.is_some_and(|at| at <= now) {
            self.detect_at = None;
            self.your_discr = 0;
            if matches!(self.state, State::Init | State::Up) {
                self.enter(State::Down, Diag::TIME_EXPIRED, now);
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and
    /// [`poll_output`](Self::poll_output) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tx = self.sends().then_some(self.next_tx);
        [tx, self.detect_at].into_iter().flatten().min()
    }

    /// What to do at `now`.
    pub fn poll_output(&mut self, now: Instant) -> Option<Output> {
        if !self.changes.is_empty() {
            return Some(Output::Changed(self.changes.remove(0)));
        }
        if let Some(answer) = self.answer.take() {
            return Some(Output::Send(answer));
        }
        if !self.sends() || self.next_tx > now {
            return None;
        }
        let interval = self.tx_interval();
        let mut shortened = self.jitter.apply(interval);
        if self.config.detect_mult == 1 {
            // RFC 5880 section 6.8.7: at most 90 % where one packet decides.
            shortened = shortened.min(interval.mul_f64(0.9));
        }
        self.next_tx = now + shortened;
        Some(Output::Send(self.packet()))
    }

    /// RFC 5880 section 6.8.7: whether packets go out by themselves.
    fn sends(&self) -> bool {
        let asleep = self.remote.demand
            && self.state == State::Up
            && self.remote.state == State::Up
            && !self.polling;
        !self.remote.min_rx.is_zero() && !asleep
    }

    fn packet(&self) -> Packet {
        Packet {
            diag: self.diag,
            state: self.state,
            poll: self.polling,
            last: false,
            independent: false,
            demand: false,
            detect_mult: self.config.detect_mult,
            my_discr: self.my_discr,
            your_discr: self.your_discr,
            desired_min_tx_us: micros(self.desired_tx()),
            required_min_rx_us: micros(self.config.min_rx),
            required_min_echo_rx_us: 0,
        }
    }

    fn desired_tx(&self) -> Duration {
        if self.state == State::Up {
            self.config.min_tx
        } else {
            self.config.min_tx.max(SLOW_TX)
        }
    }

    /// RFC 5880 section 6.8.3: one that grows is not in force before the other side has understood.
    fn tx_interval(&self) -> Duration {
        let own = self.before.unwrap_or_else(|| self.desired_tx());
        own.max(self.remote.min_rx)
    }

    /// RFC 5880 section 6.8.4.
    fn detection_time(&self) -> Duration {
        let interval = self.config.min_rx.max(self.remote.desired_tx);
        interval * u32::from(self.remote.detect_mult)
    }

    fn enter(&mut self, state: State, diag: Diag, now: Instant) {
        let was_up = self.state == State::Up;
        self.before = None;
        self.state = state;
        self.diag = diag;
        // Who waits for the change should not wait for the interval.
        self.next_tx = now;
        if state == State::Up {
            // The interval shortens now: RFC 5880 section 6.8.3.
            self.polling = true;
            self.changes.push(Change::Up);
        } else {
            self.polling = false;
        }
        if was_up && state != State::Up {
            let independent = self.remote.independent;
            let admin = self.remote.state == State::AdminDown && diag == Diag::NEIGHBOR_DOWN;
            self.changes.push(if admin {
                Change::RemoteAdminDown
            } else {
                Change::Down { diag, independent }
            });
        }
    }
}

#[cfg(test)]
mod tests {
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
}
