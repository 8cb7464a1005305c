//! Numbered datagrams from one namespace to another, counted where they arrive.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::{Result, anyhow};
use margay_lab::{NetNs, eventually};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};

/// 500 datagrams a second.
const PACE: Duration = Duration::from_millis(2);

/// Enough to tell.
const ENOUGH: u64 = 21;

/// Seconds of datagrams, should the receiver not get to a processor.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// How long the sender or the receiver may not get to a processor.
const PATIENCE: Duration = Duration::from_secs(60);

/// A stream without answers: to the connection tracker each datagram is as new as the first.
#[derive(Debug)]
pub(crate) struct Flow {
    sent: Arc<AtomicU64>,
    arrived: Arc<Mutex<Arrived>>,
    stop: Arc<AtomicBool>,
    receiving: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// What the receiver has seen.
#[derive(Clone, Copy, Debug, Default)]
struct Arrived {
    /// Datagrams with this number and higher ones are counted.
    since: u64,
    count: u64,
    /// The number of the last one.
    last: Option<u64>,
    /// How often it found nothing to receive.
    pauses: u64,
}

impl Arrived {
    fn add(&mut self, number: u64) {
        self.last = Some(number);
        if number >= self.since {
            self.count += 1;
        }
    }
}

/// What was sent and what arrived since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) sent: u64,
    pub(crate) arrived: u64,
}

impl Flow {
    /// Sends from `from` to port `port` of `to`, which is in the namespace `at`, until dropped.
    pub(crate) fn start(from: &NetNs, at: &NetNs, to: IpAddr, port: u16) -> Self {
        let mut flow = Self {
            sent: Arc::default(),
            arrived: Arc::default(),
            stop: Arc::default(),
            receiving: Arc::new(true.into()),
            threads: Vec::new(),
        };
        let receiver = within(&at.path(), move || UdpSocket::bind((to, port))).unwrap();
        receiver.set_read_timeout(Some(PACE * 10)).unwrap();
        setsockopt(&receiver, sockopt::RcvBufForce, &RECEIVE_BUFFER).unwrap();
        let (arrived, receiving) = (Arc::clone(&flow.arrived), Arc::clone(&flow.receiving));
        flow.threads.push(spawn(move || {
            while receiving.load(Ordering::Relaxed) {
                let mut number = [0; 8];
                match receiver.recv(&mut number) {
                    Ok(_) => locked(&arrived).add(u64::from_be_bytes(number)),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) if is_nothing(&e) => locked(&arrived).pauses += 1,
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(())
        }));
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let sender = within(&from.path(), move || UdpSocket::bind(any)).unwrap();
        let (sent, stop) = (Arc::clone(&flow.sent), Arc::clone(&flow.stop));
        flow.threads.push(spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let number = sent.fetch_add(1, Ordering::Relaxed);
                // A refusal is a loss like any other.
                sender
                    .send_to(&number.to_be_bytes(), SocketAddr::new(to, port))
                    .ok();
                sleep(PACE);
            }
            Ok(())
        }));
        flow
    }

    /// Counts anew: the datagrams that are not sent yet.
    pub(crate) fn reset(&self) {
        let mut arrived = locked(&self.arrived);
        arrived.since = self.sent.load(Ordering::Relaxed);
        arrived.count = 0;
    }

    pub(crate) fn count(&self) -> Count {
        let arrived = locked(&self.arrived);
        Count {
            sent: self.sent.load(Ordering::Relaxed) - arrived.since,
            arrived: arrived.count,
        }
    }

    /// Whether datagrams that are sent from now on arrive.
    pub(crate) fn flows(&self) -> bool {
        let first = self.sent.load(Ordering::Relaxed);
        self.send_up_to(first + ENOUGH);
        let pauses = locked(&self.arrived).pauses;
        until("datagrams, or nothing", || {
            let arrived = *locked(&self.arrived);
            let flows = arrived.last.is_some_and(|last| last >= first);
            // A pause may have begun before the last of them was sent; the next one has not.
            (flows || arrived.pauses > pauses + 1).then_some(flows)
        })
    }

    /// Waits until so many datagrams were sent, in all.
    fn send_up_to(&self, wanted: u64) {
        until("datagrams are sent", || {
            (self.sent.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    }

    /// Stops when there was enough, and counts after what is on its way has arrived.
    pub(crate) fn stop(mut self) -> Count {
        let since = locked(&self.arrived).since;
        self.send_up_to(since + ENOUGH);
        self.end()
    }

    fn end(&mut self) -> Count {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.threads.pop() {
            sender.join().unwrap().unwrap();
        }
        let pauses = locked(&self.arrived).pauses;
        until("nothing is on its way", || {
            (locked(&self.arrived).pauses > pauses + 1).then_some(())
        });
        self.receiving.store(false, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap().unwrap();
        }
        self.count()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.receiving.store(false, Ordering::Relaxed);
    }
}

/// Waits for an answer.
#[track_caller]
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    eventually(PATIENCE, what, || look().ok_or("not yet")).unwrap()
}

fn locked(arrived: &Mutex<Arrived>) -> MutexGuard<'_, Arrived> {
    arrived.lock().unwrap()
}

/// Time is up.
fn is_nothing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A socket belongs to the namespace that its thread was in when it was made.
fn within(
    netns: &Path,
    open: impl FnOnce() -> std::io::Result<UdpSocket> + Send + 'static,
) -> Result<UdpSocket> {
    let file = File::open(netns)?;
    let thread = spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        Ok(open()?)
    });
    thread
        .join()
        .map_err(|_panic| anyhow!("the thread panicked"))?
}
