//! Forgets what the kernel remembers of an address's last owner: connections and neighbours.
//!
//! When an address is given back, off the path: the kernel's table is walked once for all addresses that
//! came together. When an address is assigned, before its route is there, but only where something may
//! be left: it is not from a block of this host, it was elsewhere meanwhile, or its last flush is not
//! done. The usual address, from a block of our own, costs nothing.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use margay_dataplane::netlink::{NetlinkError, Socket};
use margay_dataplane::{conntrack, neigh};
use tracing::{debug, warn};

/// How long addresses are gathered: a walk costs some 15 ms of CPU however few connections there are, for the kernel's
/// table is as large as the host's memory allows. Shorter than an address rests before it comes round again, by default.
const GATHER: Duration = Duration::from_secs(5);

enum Job {
    Flush(BTreeSet<IpAddr>),
    /// Somebody waits: no more gathering.
    Hurry,
}

/// A thread that flushes; it ends when this is dropped.
pub(super) struct Flusher {
    jobs: mpsc::Sender<Job>,
    /// What was flushed, and whether that went well.
    done: mpsc::Receiver<(BTreeSet<IpAddr>, bool)>,
    /// With the thread.
    pending: BTreeSet<IpAddr>,
    /// Of whose last owner something may be left. Bounded by this host's blocks.
    unclean: BTreeSet<IpAddr>,
}

impl Flusher {
    pub(super) fn spawn() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (report, done) = mpsc::channel();
        thread::Builder::new()
            .name("conntrack".into())
            .spawn(move || {
                while let Ok(job) = queue.recv() {
                    let Job::Flush(first) = job else { continue };
                    let all = gather(first, &queue);
                    let flushed = flush(&all);
                    if report.send((all, flushed)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            jobs,
            done,
            pending: BTreeSet::new(),
            unclean: BTreeSet::new(),
        })
    }

    /// These were given back. Bounded by the endpoints that go: the sender never waits.
    pub(super) fn freed(&mut self, addresses: BTreeSet<IpAddr>) {
        self.collect();
        if addresses.is_empty() {
            return;
        }
        self.pending.extend(&addresses);
        if self.jobs.send(Job::Flush(addresses)).is_err() {
            warn!("the conntrack thread is gone");
        }
    }

    /// Another host has this address of ours.
    pub(super) fn elsewhere(&mut self, ip: IpAddr) {
        self.unclean.insert(ip);
    }

    /// These get a new owner; returns when nothing is left of the old one. `foreign` tells which are not
    /// from this host's blocks.
    pub(super) fn assigned(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        foreign: impl Fn(IpAddr) -> bool,
    ) {
        self.collect();
        // A flush that came later would take the new owner's connections.
        while addresses.iter().any(|ip| self.pending.contains(ip)) {
            if self.jobs.send(Job::Hurry).is_err() {
                warn!("the conntrack thread is gone");
            }
            match self.done.recv() {
                Ok(done) => self.took(done),
                Err(_ended) => self.unclean.append(&mut self.pending),
            }
        }
        let wanted = |ip: &IpAddr| self.unclean.contains(ip) || foreign(*ip);
        let some: BTreeSet<IpAddr> = addresses.iter().copied().filter(wanted).collect();
        if !some.is_empty() && flush(&some) {
            self.unclean.retain(|ip| !some.contains(ip));
        }
    }

    fn collect(&mut self) {
        while let Ok(done) = self.done.try_recv() {
            self.took(done);
        }
    }

    fn took(&mut self, (addresses, flushed): (BTreeSet<IpAddr>, bool)) {
        for ip in addresses {
            self.pending.remove(&ip);
            if !flushed {
                self.unclean.insert(ip);
            }
        }
    }
}

fn gather(mut all: BTreeSet<IpAddr>, queue: &mpsc::Receiver<Job>) -> BTreeSet<IpAddr> {
    let end = Instant::now() + GATHER;
    while let Ok(Job::Flush(more)) =
        queue.recv_timeout(end.saturating_duration_since(Instant::now()))
    {
        all.extend(more);
    }
    all
}

fn flush(addresses: &BTreeSet<IpAddr>) -> bool {
    let all: HashSet<IpAddr> = addresses.iter().copied().collect();
    let forget = || -> Result<(usize, usize), NetlinkError> {
        let neighbours = neigh::flush(&mut Socket::route()?, &all)?;
        Ok((conntrack::flush(&all)?, neighbours))
    };
    match forget() {
        Ok((connections, neighbours)) => {
            debug!(connections, neighbours, addresses = all.len(), "flushed");
            true
        }
        Err(error) => {
            warn!(%error, "cannot flush connections of freed addresses");
            false
        }
    }
}
