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
    tx_before: Option<Duration>,
    /// The interval that the other side keeps to until it has understood that it may send faster.
    rx_before: Option<Duration>,
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
            tx_before: None,
            rx_before: None,
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
                self.tx_before.get_or_insert(self.config.min_tx);
            }
            if up && config.min_rx < self.config.min_rx {
                let before = self.rx_before.get_or_insert(self.config.min_rx);
                *before = self.config.min_rx.max(*before);
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
            self.tx_before = None;
            self.rx_before = None;
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
        let own = self.tx_before.unwrap_or_else(|| self.desired_tx());
        own.max(self.remote.min_rx)
    }

    /// RFC 5880 section 6.8.4; of an interval to receive at that shrinks, section 6.8.3.
    fn detection_time(&self) -> Duration {
        let own = self.rx_before.unwrap_or_default().max(self.config.min_rx);
        let interval = own.max(self.remote.desired_tx);
        interval * u32::from(self.remote.detect_mult)
    }

    fn enter(&mut self, state: State, diag: Diag, now: Instant) {
        let was_up = self.state == State::Up;
        self.tx_before = None;
        self.rx_before = None;
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
mod tests;
