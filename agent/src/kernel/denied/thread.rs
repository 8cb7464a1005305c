//! The thread that reads connections and marks them, since there may be a hundred thousand.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use margay_dataplane::conntrack::{self, Connection, Ends};
use margay_dataplane::netlink::NetlinkError;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tracing::debug;

use super::judge::Surroundings;

/// Connections that are judged before inputs are looked at again.
const AT_ONCE: usize = 64;

/// What the thread is to do.
pub(super) enum Job {
    Look {
        ends: Ends,
        /// Find out through which interfaces the connections go.
        ways: bool,
    },
    /// Set this bit, or clear it.
    Mark(Vec<(Connection, bool)>, u32),
}

/// What the thread has to say.
pub(in crate::kernel) enum Found {
    /// Connections, and what the host had around it.
    Some(Vec<Connection>, Arc<Surroundings>),
    /// These were all, or they could not be read; how much of a processor's time that took.
    Looked(Result<(), NetlinkError>, Duration),
    /// What became of one job.
    Marked(Result<Marked, NetlinkError>),
}

/// How many connections were marked, and how many are no longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::kernel) struct Marked {
    pub(super) ended: usize,
    pub(super) freed: usize,
}

/// What a look at connections found.
#[derive(Default)]
pub(super) struct Look {
    pub(super) connections: Vec<Connection>,
    pub(super) around: Surroundings,
    /// Why some connections, which are not among these, cannot be judged.
    pub(super) unclear: Option<NetlinkError>,
}

/// The connections of a host.
pub(super) trait Table: Send + 'static {
    fn look(&mut self, ends: &Ends, ways: bool) -> Result<Look, NetlinkError>;

    fn mark(&mut self, connections: &[(Connection, bool)], bit: u32) -> Result<(), NetlinkError>;
}

/// Those that the kernel knows.
pub(super) struct Conntrack;

impl Table for Conntrack {
    fn look(&mut self, ends: &Ends, ways: bool) -> Result<Look, NetlinkError> {
        let mut connections = conntrack::connections(ends)?;
        let (around, unclear) = Surroundings::of(&mut connections, ways)?;
        Ok(Look {
            connections,
            around,
            unclear,
        })
    }

    fn mark(&mut self, connections: &[(Connection, bool)], bit: u32) -> Result<(), NetlinkError> {
        conntrack::mark(connections, bit)
    }
}

/// Starts it. It ends when whoever gives it jobs is gone, or whoever hears of them.
pub(super) fn spawn(
    table: impl Table,
) -> io::Result<(Sender<Job>, mpsc::UnboundedReceiver<Found>)> {
    let (jobs, queue) = channel();
    // Bounded by the kernel's own table of connections.
    let (found, receiver) = mpsc::unbounded_channel();
    thread::Builder::new()
        .name("denied".into())
        .spawn(move || run(table, &queue, &found))?;
    Ok((jobs, receiver))
}

fn run(mut table: impl Table, queue: &Receiver<Job>, found: &mpsc::UnboundedSender<Found>) {
    while let Ok(job) = queue.recv() {
        let told = match job {
            Job::Look { ends, ways } => {
                let begun = worked();
                let clock = Instant::now();
                let looked = table.look(&ends, ways).and_then(|look| {
                    let around = Arc::new(look.around);
                    for some in look.connections.chunks(AT_ONCE) {
                        // An error means that the kernel thread ends, and with it the queue.
                        drop(found.send(Found::Some(some.to_vec(), Arc::clone(&around))));
                    }
                    look.unclear.map_or(Ok(()), Err)
                });
                let (took, worked) = (clock.elapsed(), worked().saturating_sub(begun));
                debug!(?took, ?worked, "looked at connections");
                Found::Looked(looked, worked)
            }
            Job::Mark(connections, bit) => {
                let ended = connections.iter().filter(|(_, denied)| *denied).count();
                let marked = Marked {
                    ended,
                    freed: connections.len() - ended,
                };
                Found::Marked(table.mark(&connections, bit).map(|()| marked))
            }
        };
        if found.send(told).is_err() {
            return;
        }
    }
}

/// How much of a processor's time this thread has had. Not how long it took: where others keep processors and locks of
/// the kernel busy, a look of milliseconds takes seconds.
fn worked() -> Duration {
    let clock = ClockId::CLOCK_THREAD_CPUTIME_ID;
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}
