//! What is measured.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use margay_lab::ping;

use crate::call::Plugin;
use crate::cpu;
use crate::host::{BenchHost, interface_count};

const WARM_UP: usize = 5;
/// Between calls, so that what a call left to be done later is not charged to the next.
const PAUSE: Duration = Duration::from_millis(150);
const PING: Duration = Duration::from_secs(5);
/// Calls that etcd's counters are read around.
const COUNTED: usize = 20;

/// Figures of one plugin over all rounds.
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) add: Vec<Duration>,
    pub(crate) add_cpu: Vec<Duration>,
    pub(crate) del: Vec<Duration>,
    pub(crate) del_cpu: Vec<Duration>,
    /// Time to the answer of the first packet of a container, sent as soon as ADD returned.
    pub(crate) first_packet: Vec<Duration>,
    pub(crate) later_packet: Vec<Duration>,
}

/// CPU of a daemon during the calls, and all told.
#[derive(Debug, Default)]
pub(crate) struct Daemon {
    pub(crate) add: Vec<Duration>,
    pub(crate) del: Vec<Duration>,
    /// Over a whole round, with all that follows a call.
    pub(crate) round: Vec<Duration>,
}

/// Both plugins in turns.
#[derive(Debug, Default)]
pub(crate) struct Paired {
    pub(crate) ours: Series,
    pub(crate) theirs: Series,
    pub(crate) agent: Daemon,
    pub(crate) etcd: Daemon,
}

/// One container after the other, each plugin in its turn; who begins changes.
pub(crate) fn paired(host: &BenchHost, rounds: usize) -> Result<Paired> {
    let mut all = Paired::default();
    for round in 0..WARM_UP + rounds {
        margay_lab::ensure_not_interrupted()?;
        let mut scratch = Paired::default();
        let kept = if round < WARM_UP {
            &mut scratch
        } else {
            &mut all
        };
        if round % 2 == 0 {
            our_round(host, round, kept)?;
            one(
                host,
                &host.theirs,
                &format!("b{round}"),
                &mut kept.theirs,
                || Ok(()),
            )?;
        } else {
            one(
                host,
                &host.theirs,
                &format!("b{round}"),
                &mut kept.theirs,
                || Ok(()),
            )?;
            our_round(host, round, kept)?;
        }
    }
    Ok(all)
}

fn our_round(host: &BenchHost, round: usize, kept: &mut Paired) -> Result<()> {
    let look = || -> Result<[Duration; 2]> {
        Ok([
            cpu::of_process(host.agent_pid)?,
            cpu::of_process(host.etcd_pid)?,
        ])
    };
    let mut looks: Vec<[Duration; 2]> = vec![look()?];
    one(
        host,
        &host.ours,
        &format!("a{round}"),
        &mut kept.ours,
        || {
            looks.push(look()?);
            Ok(())
        },
    )?;
    looks.push(look()?);
    // Before ADD and after, before DEL and after; around it all.
    let between =
        |who: usize, from: usize, to: usize| looks[to][who].saturating_sub(looks[from][who]);
    for (who, daemon) in [(0, &mut kept.agent), (1, &mut kept.etcd)] {
        daemon.add.push(between(who, 1, 2));
        daemon.del.push(between(who, 3, 4));
        daemon.round.push(between(who, 0, 5));
    }
    Ok(())
}

/// One container; `look` is called right before and after each of the two calls.
fn one(
    host: &BenchHost,
    plugin: &Plugin,
    name: &str,
    series: &mut Series,
    mut look: impl FnMut() -> Result<()>,
) -> Result<()> {
    let container = host.container(name)?;
    let interfaces = interface_count()?;
    thread::sleep(PAUSE);
    look()?;
    let added = plugin.add(&container)?;
    look()?;
    series
        .first_packet
        .push(ping(&container, host.router, PING)?);
    series
        .later_packet
        .push(ping(&container, host.router, PING)?);
    thread::sleep(PAUSE);
    look()?;
    let deleted = plugin.del(&container)?;
    look()?;
    series.add.push(added.wall);
    series.add_cpu.push(added.cpu);
    series.del.push(deleted.wall);
    series.del_cpu.push(deleted.cpu);
    host.settle(interfaces)?;
    thread::sleep(PAUSE);
    Ok(())
}

/// Calls of etcd's key-value service, by name, for each ADD and each DEL.
#[derive(Debug)]
pub(crate) struct Requests {
    pub(crate) add: Vec<(String, f64)>,
    pub(crate) del: Vec<(String, f64)>,
}

/// Counted by etcd itself.
pub(crate) fn requests(host: &BenchHost) -> Result<Requests> {
    let containers = (0..COUNTED)
        .map(|n| host.container(&format!("r{n}")))
        .collect::<Result<Vec<_>>>()?;
    let before = host.etcd_calls()?;
    for container in &containers {
        host.ours.add(container)?;
    }
    let added = host.etcd_calls()?;
    for container in &containers {
        host.ours.del(container)?;
    }
    let deleted = host.etcd_calls()?;
    Ok(Requests {
        add: each(&before, &added),
        del: each(&added, &deleted),
    })
}

fn each(before: &[(String, u64)], after: &[(String, u64)]) -> Vec<(String, f64)> {
    let count = |name: &str| {
        before
            .iter()
            .find(|(n, _)| n == name)
            .map_or(0, |(_, c)| *c)
    };
    after
        .iter()
        .map(|(name, now)| {
            (
                name.clone(),
                now.saturating_sub(count(name)) as f64 / COUNTED as f64,
            )
        })
        .collect()
}

/// What many containers change.
#[derive(Debug)]
pub(crate) struct Growth {
    pub(crate) containers: usize,
    /// Resident memory of the agent in KiB, before and with the containers.
    pub(crate) memory: [u64; 2],
    /// ADD and DEL of one more.
    pub(crate) series: Series,
    pub(crate) agent: Daemon,
}

/// Fills the host, then measures as before.
pub(crate) fn growth(host: &BenchHost, containers: usize) -> Result<Growth> {
    let idle = resident_kib(host.agent_pid)?;
    let present = (0..containers)
        .map(|n| {
            let container = host.container(&format!("g{n}"))?;
            host.ours.add(&container)?;
            Ok(container)
        })
        .collect::<Result<Vec<_>>>()?;
    let full = resident_kib(host.agent_pid)?;
    let mut all = Paired::default();
    for round in 0..WARM_UP + 20 {
        let mut scratch = Paired::default();
        let kept = if round < WARM_UP {
            &mut scratch
        } else {
            &mut all
        };
        our_round(host, round, kept)?;
    }
    for container in &present {
        host.ours.del(container)?;
    }
    Ok(Growth {
        containers,
        memory: [idle, full],
        series: all.ours,
        agent: all.agent,
    })
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.context("no VmRSS")?.parse()?)
}
