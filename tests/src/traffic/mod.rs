//! Thousands of numbered packets a second between two namespaces: some that policy allows, on connections that are
//! known and on new ones, and some that it denies. What is lost and what is let through is counted.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::NetNs;

mod scenarios;

pub use scenarios::{SCENARIOS, Scenario, Stage};

/// Ports that policy is to allow, of UDP and TCP.
pub const ALLOWED: std::ops::RangeInclusive<u16> = 7000..=7009;
/// Ports that it is to deny.
pub const DENIED: std::ops::RangeInclusive<u16> = 7010..=7019;

const ANSWERED: u16 = 7000;
const UNANSWERED: u16 = 7001;
const CONNECTED: u16 = 7002;
const FORBIDDEN: u16 = 7010;
const FORBIDDEN_TCP: u16 = 7011;

/// So many datagrams are sent together, each time after this pause.
const AT_ONCE: u64 = 2;
const PACE: Duration = Duration::from_millis(1);

/// Seconds of datagrams, should a receiver not get to a processor: such a loss is none of policy.
const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;

/// How long a datagram may be on its way on a busy machine.
const STRAGGLERS: Duration = Duration::from_millis(300);

/// A first packet that is lost is sent again after a second: a connection that takes as long has lost one.
const RESENT: Duration = Duration::from_millis(950);
/// How long the other end of a connection may take to get to a processor.
const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT_PACE: Duration = Duration::from_millis(5);
const FORBIDDEN_PATIENCE: Duration = Duration::from_millis(200);

/// What became of one kind of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets or connections begun.
    pub sent: u64,
    /// Those that arrived; where there are answers, those that were answered.
    pub arrived: u64,
}

impl Seen {
    /// Those that did not arrive.
    pub const fn lost(self) -> u64 {
        self.sent.saturating_sub(self.arrived)
    }
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.arrived += other.arrived;
    }
}

/// What became of all, both families together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Datagrams of a connection that is known, and answered.
    pub established: Seen,
    /// Datagrams without answers: the rules are asked about each.
    pub new: Seen,
    /// Whole TCP connections.
    pub connections: Seen,
    /// Datagrams and TCP connections that are not allowed: what arrives is a leak.
    pub denied: Seen,
    /// How long it was looked.
    pub time: Duration,
}

impl Account {
    /// Allowed packets that were lost.
    pub const fn lost(&self) -> u64 {
        self.established.lost() + self.new.lost() + self.connections.lost()
    }

    /// Packets a second, answers included.
    pub fn rate(&self) -> f64 {
        // A connection has nine packets here.
        let packets = self.established.sent + self.established.arrived + self.new.sent;
        let packets = packets + 9 * self.connections.sent + self.denied.sent;
        packets as f64 / self.time.as_secs_f64().max(1e-9)
    }

    /// An error unless nothing was lost, nothing was let through, and there was enough of each to tell.
    pub fn ensure_clean(&self, at_least: u64) -> Result<()> {
        for (what, seen) in [
            ("established", self.established),
            ("new", self.new),
            ("denied", self.denied),
        ] {
            ensure!(
                seen.sent >= at_least,
                "only {} packets {what}: {self:?}",
                seen.sent
            );
        }
        ensure!(self.lost() == 0, "{} packets lost: {self:?}", self.lost());
        ensure!(
            self.denied.arrived == 0,
            "{} packets let through: {self:?}",
            self.denied.arrived
        );
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Counter {
    sent: AtomicU64,
    arrived: AtomicU64,
}

impl Counter {
    fn seen(&self) -> Seen {
        Seen {
            sent: self.sent.load(Ordering::Relaxed),
            arrived: self.arrived.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    established: Counter,
    new: Counter,
    connections: Counter,
    denied: Counter,
}

/// Traffic that runs until it is dropped.
#[derive(Debug)]
pub struct Traffic {
    counters: Arc<Counters>,
    /// Senders end first.
    stop: Arc<AtomicBool>,
    /// Then those who answer.
    answering: Arc<AtomicBool>,
    receiving: Arc<AtomicBool>,
    senders: Vec<JoinHandle<()>>,
    answerers: Vec<JoinHandle<()>>,
    receivers: Vec<JoinHandle<()>>,
    problem: Arc<Mutex<Option<String>>>,
    begun: Instant,
    pace: Duration,
}

/// Which counter a thread works for.
type Which = fn(&Counters) -> &Counter;

impl Traffic {
    /// From the namespace `from` to the addresses `to` in the namespace `at`.
    pub fn start(from: &NetNs, at: &NetNs, to: &[IpAddr]) -> Result<Self> {
        Self::paced(from, at, to, PACE)
    }

    /// The same with this pause between packets, for a machine that is emulated.
    pub fn paced(from: &NetNs, at: &NetNs, to: &[IpAddr], pace: Duration) -> Result<Self> {
        let mut traffic = Self {
            counters: Arc::default(),
            stop: Arc::default(),
            answering: Arc::new(true.into()),
            receiving: Arc::new(true.into()),
            senders: Vec::new(),
            answerers: Vec::new(),
            receivers: Vec::new(),
            problem: Arc::default(),
            begun: Instant::now(),
            pace,
        };
        for to in to {
            traffic.to(from, at, *to)?;
        }
        Ok(traffic)
    }

    fn to(&mut self, from: &NetNs, at: &NetNs, to: IpAddr) -> Result<()> {
        let listen = |port: u16| at.within(|| Ok(TcpListener::bind((to, port))?));
        for port in [CONNECTED, FORBIDDEN_TCP] {
            let listener = listen(port)?;
            listener.set_nonblocking(true)?;
            let receiving = Arc::clone(&self.receiving);
            self.receivers
                .push(thread::spawn(move || serve(&listener, &receiving)));
        }
        let bind = |netns: &NetNs, ip: IpAddr, port: u16| {
            let socket = netns.within(|| Ok(UdpSocket::bind((ip, port))?))?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            anyhow::Ok(socket)
        };
        let streams: [(u16, bool, Which); 3] = [
            (ANSWERED, true, |c| &c.established),
            (UNANSWERED, false, |c| &c.new),
            (FORBIDDEN, false, |c| &c.denied),
        ];
        for (port, answers, which) in streams {
            let receiver = bind(at, to, port)?;
            let any = match to {
                IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            };
            let sender = bind(from, any, 0)?;
            if answers {
                let returned = sender.try_clone()?;
                self.receive(returned, which, false);
                self.receive(receiver, |c| &c.established, true);
            } else {
                self.receive(receiver, which, false);
            }
            self.send(sender, SocketAddr::new(to, port), which);
        }
        self.connect(from, SocketAddr::new(to, CONNECTED), true)?;
        self.connect(from, SocketAddr::new(to, FORBIDDEN_TCP), false)
    }

    fn receive(&mut self, socket: UdpSocket, which: Which, answer: bool) {
        let counters = Arc::clone(&self.counters);
        let (going_on, threads) = match answer {
            true => (&self.answering, &mut self.answerers),
            false => (&self.receiving, &mut self.receivers),
        };
        let going_on = Arc::clone(going_on);
        threads.push(thread::spawn(move || {
            let mut bytes = [0; 8];
            loop {
                let ends = !going_on.load(Ordering::Relaxed);
                match socket.recv_from(&mut bytes) {
                    // An answer that cannot be sent is one that does not arrive.
                    Ok((length, from)) if answer => {
                        drop(socket.send_to(&bytes[..length], from));
                    }
                    Ok(_) => drop(which(&counters).arrived.fetch_add(1, Ordering::Relaxed)),
                    // Nothing is left in the socket.
                    Err(error) if ends && error.kind() == ErrorKind::WouldBlock => return,
                    // Time is up, or an ICMP error came back.
                    Err(_) => {}
                }
            }
        }));
    }

    fn send(&mut self, socket: UdpSocket, to: SocketAddr, which: Which) {
        let (counters, stop) = (Arc::clone(&self.counters), Arc::clone(&self.stop));
        let pace = self.pace;
        self.senders.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..AT_ONCE {
                    let number = which(&counters).sent.fetch_add(1, Ordering::Relaxed);
                    // A refusal is a loss like any other.
                    drop(socket.send_to(&number.to_be_bytes(), to));
                }
                thread::sleep(pace);
            }
        }));
    }

    fn connect(&mut self, from: &NetNs, to: SocketAddr, allowed: bool) -> Result<()> {
        let file: File = from.open()?;
        let (counters, stop) = (Arc::clone(&self.counters), Arc::clone(&self.stop));
        let problem = Arc::clone(&self.problem);
        let pace = CONNECT_PACE.max(self.pace);
        self.senders.push(thread::spawn(move || {
            if let Err(error) = setns(file, CloneFlags::CLONE_NEWNET) {
                *problem.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(format!("cannot enter a namespace: {error}"));
                return;
            }
            let (counter, patience) = match allowed {
                true => (&counters.connections, RESENT),
                false => (&counters.denied, FORBIDDEN_PATIENCE),
            };
            while !stop.load(Ordering::Relaxed) {
                counter.sent.fetch_add(1, Ordering::Relaxed);
                if exchange(to, patience) {
                    counter.arrived.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(pace);
            }
        }));
        Ok(())
    }

    fn look(&self) -> Account {
        Account {
            established: self.counters.established.seen(),
            new: self.counters.new.seen(),
            connections: self.counters.connections.seen(),
            denied: self.counters.denied.seen(),
            time: self.begun.elapsed(),
        }
    }

    /// Ends, and counts after what is on its way has arrived.
    pub fn stop(mut self) -> Result<Account> {
        self.stop.store(true, Ordering::Relaxed);
        let time = self.begun.elapsed();
        for thread in self.senders.drain(..) {
            thread
                .join()
                .map_err(|_panic| anyhow!("a sender panicked"))?;
        }
        thread::sleep(STRAGGLERS);
        for (going_on, threads) in [
            (&self.answering, &mut self.answerers),
            (&self.receiving, &mut self.receivers),
        ] {
            going_on.store(false, Ordering::Relaxed);
            for thread in threads.drain(..) {
                thread
                    .join()
                    .map_err(|_panic| anyhow!("a receiver panicked"))?;
            }
        }
        if let Some(problem) = self
            .problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            return Err(anyhow!(problem));
        }
        Ok(Account {
            time,
            ..self.look()
        })
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.answering.store(false, Ordering::Relaxed);
        self.receiving.store(false, Ordering::Relaxed);
    }
}

/// Answers each connection with the byte that it sends.
fn serve(listener: &TcpListener, receiving: &AtomicBool) {
    while receiving.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let mut byte = [0];
                let patient = stream.set_nonblocking(false);
                let patient = patient.and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
                if patient.and_then(|()| stream.read_exact(&mut byte)).is_ok() {
                    // Whoever does not wait for it any more has given up.
                    drop(stream.write_all(&byte));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return,
        }
    }
}

/// Whether a connection comes about without a packet sent again, and takes a byte each way.
fn exchange(to: SocketAddr, patience: Duration) -> bool {
    let all = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])
    };
    all().is_ok()
}
