//! From a write to etcd until the kernel tells of the change, and how much of that is etcd's: until it answers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use margay_dataplane::nft::{Concern, Watch};
use margay_model::store::Txn;
use tokio::time::timeout;

use crate::host::{BenchHost, MEMBERS, member, policy};

/// No more events for so long: the change is done.
pub(crate) const QUIET: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(10);

/// Median and 90th percentile in milliseconds.
pub(crate) fn told(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    format!("{:.2} ms ({:.2})", at(0.5), at(0.9))
}

/// Listens to the kernel's events about our table.
pub(crate) struct Probe {
    watch: Watch,
    /// How many members were added.
    members: usize,
}

impl Probe {
    pub(crate) fn open(host: &BenchHost) -> Result<Self> {
        let _runtime = host.runtime.enter();
        Ok(Self {
            watch: Watch::open()?,
            members: MEMBERS,
        })
    }

    /// Another one, for which members were added already.
    pub(crate) fn anew(self, host: &BenchHost) -> Result<Self> {
        let members = self.members;
        Ok(Self {
            members,
            ..Self::open(host)?
        })
    }

    /// One more member in both sets.
    pub(crate) fn members(&mut self, host: &BenchHost, rounds: usize) -> Result<String> {
        let first = self.members;
        self.members += rounds;
        let changes = (first..first + rounds).map(member);
        Ok(format!("a set member: {}", self.changes(host, changes)?))
    }

    /// Another port in a policy.
    pub(crate) fn policies(&mut self, host: &BenchHost, rounds: usize) -> Result<String> {
        let changes = (0..rounds).map(|n| policy(n % 50, 1000 + n as u16));
        Ok(format!("a policy: {}", self.changes(host, changes)?))
    }

    fn changes(
        &mut self,
        host: &BenchHost,
        changes: impl Iterator<Item = (String, String)>,
    ) -> Result<String> {
        let mut times = Vec::new();
        let mut since_answer = Vec::new();
        let mut events = 0;
        for (key, value) in changes {
            self.settle(host);
            let begun = Instant::now();
            let written = async {
                let written = host.write(Txn::default().put(key, value)).await;
                written.map(|()| begun.elapsed())
            };
            let heard = async {
                let concern = Concern::our_table(None);
                let heard = timeout(PATIENCE, self.watch.changed(&concern)).await;
                (heard, begun.elapsed())
            };
            let (answered, (heard, took)) = host
                .runtime
                .block_on(async { tokio::join!(written, heard) });
            heard.context("the kernel tells of no change")??;
            times.push(took);
            since_answer.push(took.saturating_sub(answered?));
            events += 1 + self.settle(host);
        }
        let each = events as f64 / times.len() as f64;
        Ok(format!(
            "{}, of which after etcd's answer {}, {each:.1} datagrams of events",
            told(times),
            told(since_answer)
        ))
    }

    /// Waits until the kernel tells of a change.
    pub(crate) fn heard(&mut self, host: &BenchHost) -> Result<()> {
        let concern = Concern::our_table(None);
        let heard = host
            .runtime
            .block_on(async { timeout(PATIENCE, self.watch.changed(&concern)).await });
        Ok(heard.context("the kernel tells of no change")??)
    }

    /// Waits until the kernel has nothing more to tell; how many times it had.
    pub(crate) fn settle(&mut self, host: &BenchHost) -> usize {
        let mut heard = 0;
        let quiet = async {
            while let Ok(Ok(())) =
                timeout(QUIET, self.watch.changed(&Concern::our_table(None))).await
            {
                heard += 1;
            }
        };
        host.runtime.block_on(quiet);
        heard
    }
}
