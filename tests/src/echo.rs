//! ICMP echo from inside a namespace: one request, or a stream that counts what is lost.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

use crate::eventually::{eventually, patience};
use crate::netns::NetNs;

/// Tells our replies from those of other senders in the same namespace.
static IDENTIFIERS: AtomicU16 = AtomicU16::new(1);

/// How long a stream waits for stragglers at its end.
const STRAGGLERS: Duration = Duration::from_millis(500);

/// How long a stream may take to send what somebody waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// When a request that is not answered is sent anew.
const AGAIN: Duration = Duration::from_secs(1);

/// Sends a request from `netns`, and another one each second, until one is answered. The round-trip time.
pub fn ping(netns: &NetNs, to: IpAddr, timeout: Duration) -> Result<Duration> {
    exchange(netns, to, timeout, AGAIN)
}

/// The same with a single request.
pub fn ping_once(netns: &NetNs, to: IpAddr, timeout: Duration) -> Result<Duration> {
    exchange(netns, to, timeout, Duration::MAX)
}

fn exchange(netns: &NetNs, to: IpAddr, timeout: Duration, again: Duration) -> Result<Duration> {
    let timeout = timeout * patience();
    netns.within(|| {
        let mut echo = Echo::open(to)?;
        let begun = Instant::now();
        let (mut sent, mut refusal) = (Vec::new(), String::new());
        while begun.elapsed() < timeout {
            let sequence = u16::try_from(sent.len())?;
            sent.push(Instant::now());
            if let Err(error) = echo.send(sequence) {
                refusal = format!(": {error}");
            }
            let left = timeout.saturating_sub(begun.elapsed());
            let end = Instant::now() + left.min(again);
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                let answered = echo.receive(left)?;
                let at = answered.and_then(|sequence| sent.get(usize::from(sequence)));
                if let Some(at) = at {
                    return Ok(at.elapsed());
                }
            }
        }
        let secs = timeout.as_secs_f32();
        bail!("no reply from {to} within {secs:.1} s{refusal}")
    })
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingerReport {
    /// Requests sent, or refused by the local kernel.
    pub sent: usize,
    /// Requests without a reply.
    pub lost: usize,
    /// The most requests lost in a row, as time.
    pub longest_gap: Duration,
}

/// A running stream of echo requests.
#[derive(Debug)]
pub struct Pinger {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Result<PingerReport>>>,
}

impl Pinger {
    /// Sends from `netns` every `interval` until stopped; less often on a machine that would not keep up.
    pub fn start(netns: &NetNs, to: IpAddr, interval: Duration) -> Result<Self> {
        let interval = interval * patience();
        let file = netns.open()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let thread = thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            stream(to, interval, &stopped, &counted)
        });
        Ok(Self {
            stop,
            sent,
            thread: Some(thread),
        })
    }

    /// Waits until so many more requests were sent.
    pub fn sends(&self, requests: usize) -> Result<()> {
        let wanted = self.sent.load(Ordering::Relaxed) + requests;
        eventually(PATIENCE, "requests are sent", || {
            let sent = self.sent.load(Ordering::Relaxed);
            ensure!(sent >= wanted, "{sent} of {wanted}");
            Ok(())
        })
    }

    /// Stops sending, waits for stragglers, and counts.
    pub fn stop(mut self) -> Result<PingerReport> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a pinger stops once")?;
        thread
            .join()
            .unwrap_or_else(|_panic| Err(anyhow!("the pinger panicked")))
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn stream(
    to: IpAddr,
    interval: Duration,
    stop: &AtomicBool,
    sent: &AtomicUsize,
) -> Result<PingerReport> {
    let mut echo = Echo::open(to)?;
    let mut replied: Vec<bool> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let sequence = u16::try_from(replied.len() % 0x1_0000)?;
        // A refusal (no route for a moment) is a loss like any other.
        echo.send(sequence).ok();
        replied.push(false);
        sent.store(replied.len(), Ordering::Relaxed);
        // A thread that did not get to a processor makes up for nothing: replies to a burst of requests would not fit
        // into the socket before they are read.
        collect(&mut echo, &mut replied, Instant::now() + interval)?;
    }
    if replied.iter().any(|seen| !seen) {
        let end = Instant::now() + STRAGGLERS * patience();
        collect(&mut echo, &mut replied, end)?;
    }
    let longest = replied.split(|seen| *seen).map(<[bool]>::len).max();
    Ok(PingerReport {
        sent: replied.len(),
        lost: replied.iter().filter(|seen| !**seen).count(),
        longest_gap: interval * u32::try_from(longest.unwrap_or(0))?,
    })
}

/// Marks the replies that come until `end`.
fn collect(echo: &mut Echo, replied: &mut [bool], end: Instant) -> Result<()> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let Some(sequence) = echo.receive(left)? else {
            continue;
        };
        // The newest request with this number: replies are far younger than 65,536 requests.
        let sequence = usize::from(sequence);
        let last = replied.len().saturating_sub(1);
        let wraps = (last.saturating_sub(sequence)) / 0x1_0000;
        if let Some(seen) = replied.get_mut(sequence + wraps * 0x1_0000) {
            *seen = true;
        }
    }
}

/// A raw socket for one destination.
struct Echo {
    socket: Socket,
    v4: bool,
    identifier: u16,
}

const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;

impl Echo {
    fn open(to: IpAddr) -> Result<Self> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket
            .connect(&SocketAddr::new(to, 0).into())
            .with_context(|| format!("no way to {to}"))?;
        Ok(Self {
            socket,
            v4: to.is_ipv4(),
            identifier: IDENTIFIERS.fetch_add(1, Ordering::Relaxed),
        })
    }

    fn send(&self, sequence: u16) -> std::io::Result<()> {
        let kind = if self.v4 { REQUEST_V4 } else { REQUEST_V6 };
        let mut packet = [
            kind, 0, 0, 0, 0, 0, 0, 0, b'm', b'a', b'r', b'g', b'a', b'y', 0, 0,
        ];
        packet[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        packet[6..8].copy_from_slice(&sequence.to_be_bytes());
        if self.v4 {
            // The kernel computes the checksum of ICMPv6 only.
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        self.socket.send(&packet).map(|_sent| ())
    }

    /// The sequence number of a reply to us; `None` for anything else and when the time is up.
    fn receive(&mut self, timeout: Duration) -> Result<Option<u16>> {
        // Zero would mean to wait for ever.
        let timeout = timeout.max(Duration::from_micros(10));
        self.socket.set_read_timeout(Some(timeout))?;
        let mut packet = [0; 256];
        let length = match self.socket.read(&mut packet) {
            Ok(length) => length,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            // An ICMP error that came back, such as "host unreachable": a loss, told as such.
            Err(_) => {
                thread::sleep(Duration::from_millis(1));
                return Ok(None);
            }
        };
        Ok(self.sequence_of(&packet[..length]))
    }

    fn sequence_of(&self, packet: &[u8]) -> Option<u16> {
        let (header, reply) = if self.v4 {
            (usize::from(packet.first()? & 0xf) * 4, REPLY_V4)
        } else {
            (0, REPLY_V6)
        };
        let icmp = packet.get(header..)?;
        let word = |at: usize| Some(u16::from_be_bytes([*icmp.get(at)?, *icmp.get(at + 1)?]));
        (*icmp.first()? == reply && word(4)? == self.identifier).then_some(())?;
        word(6)
    }
}

/// The internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}
