//! Numbered datagrams from one namespace to another, counted where they arrive.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::{Result, anyhow};
use margay_lab::NetNs;
use nix::sched::{CloneFlags, setns};

/// 500 datagrams a second.
const PACE: Duration = Duration::from_millis(2);

/// How long a datagram may be on its way on a busy machine.
const STRAGGLERS: Duration = Duration::from_millis(150);

/// A stream without answers: to the connection tracker each datagram is as new as the first.
#[derive(Debug)]
pub(crate) struct Flow {
    sent: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    receiving: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
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
        let (arrived, receiving) = (Arc::clone(&flow.arrived), Arc::clone(&flow.receiving));
        flow.threads.push(spawn(move || {
            while receiving.load(Ordering::Relaxed) {
                match receiver.recv(&mut [0; 8]) {
                    Ok(_) => drop(arrived.fetch_add(1, Ordering::Relaxed)),
                    Err(e) if is_nothing(&e) => {}
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

    /// Counts anew.
    pub(crate) fn reset(&self) {
        sleep(STRAGGLERS);
        self.sent.store(0, Ordering::Relaxed);
        self.arrived.store(0, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> Count {
        Count {
            sent: self.sent.load(Ordering::Relaxed),
            arrived: self.arrived.load(Ordering::Relaxed),
        }
    }

    /// Whether datagrams arrive at the moment.
    pub(crate) fn flows(&self) -> bool {
        let before = self.count().arrived;
        sleep(STRAGGLERS);
        self.count().arrived > before
    }

    /// Stops and counts, after what is on its way has arrived.
    pub(crate) fn stop(mut self) -> Count {
        self.end()
    }

    fn end(&mut self) -> Count {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.threads.pop() {
            sender.join().unwrap().unwrap();
        }
        sleep(STRAGGLERS);
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

/// Time is up, or the machine wanted the thread for a moment.
fn is_nothing(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
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
