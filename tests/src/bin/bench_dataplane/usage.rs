//! Memory and processor time of the agent.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What a process used, in words, over a time.
pub(crate) fn of(what: &str, pid: u32, watched: Duration) -> Result<String> {
    let meter = Meter::start(pid)?;
    sleep(watched);
    meter.told(what)
}

/// Processor time since it started.
pub(crate) struct Meter {
    pid: u32,
    cpu: Duration,
    begun: Instant,
}

impl Meter {
    pub(crate) fn start(pid: u32) -> Result<Self> {
        Ok(Self {
            pid,
            cpu: cpu(pid)?,
            begun: Instant::now(),
        })
    }

    pub(crate) fn told(&self, what: &str) -> Result<String> {
        let cpu = cpu(self.pid)?.saturating_sub(self.cpu);
        let share = 100.0 * cpu.as_secs_f64() / self.begun.elapsed().as_secs_f64();
        let memory = resident_kib(self.pid)? as f64 / 1024.0;
        Ok(format!("{what}: {memory:.1} MiB, {share:.2} % of a core"))
    }
}

/// User and system time of all threads, to a hundredth of a second.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no stat")?;
    let field = |n: usize| -> Result<u64> {
        let text = fields.split_whitespace().nth(n).context("too few fields")?;
        Ok(text.parse()?)
    };
    Ok(Duration::from_millis(10 * (field(11)? + field(12)?)))
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.context("no VmRSS")?.parse()?)
}
