//! Forgets the connections of addresses that were given back, off the path: the kernel's table is walked
//! once for all addresses that were given back together.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use margay_dataplane::conntrack;
use tracing::{debug, warn};

/// How long addresses are gathered: a walk costs milliseconds of CPU however few connections there are. Far
/// shorter than it takes an address to come round again, for a block hands out the longest free one first.
const GATHER: Duration = Duration::from_millis(250);

/// A thread that flushes; it ends when this is dropped.
pub(super) struct Flusher {
    addresses: mpsc::Sender<BTreeSet<IpAddr>>,
}

impl Flusher {
    pub(super) fn spawn() -> io::Result<Self> {
        let (addresses, queue) = mpsc::channel::<BTreeSet<IpAddr>>();
        thread::Builder::new()
            .name("conntrack".into())
            .spawn(move || {
                while let Ok(first) = queue.recv() {
                    let mut all: HashSet<IpAddr> = first.into_iter().collect();
                    thread::sleep(GATHER);
                    all.extend(queue.try_iter().flatten());
                    match conntrack::flush(&all) {
                        Ok(connections) => debug!(connections, addresses = all.len(), "flushed"),
                        Err(error) => warn!(%error, "cannot flush connections of freed addresses"),
                    }
                }
            })?;
        Ok(Self { addresses })
    }

    /// Bounded by the endpoints that go: the sender never waits.
    pub(super) fn flush(&self, addresses: BTreeSet<IpAddr>) {
        if !addresses.is_empty() && self.addresses.send(addresses).is_err() {
            warn!("the conntrack thread is gone");
        }
    }
}
