//! What /proc tells of the device under test and of the machine.

use std::collections::{HashMap, HashSet};
use std::fs;

/// USER_HZ: fixed at 100 for every Linux that this is likely to meet.
const TICK: f64 = 100.0;

#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Usage {
    pub(crate) cpu_s: f64,
    pub(crate) rss_kib: u64,
    pub(crate) peak_kib: u64,
    pub(crate) processes: usize,
    pub(crate) threads: u64,
}

struct Stat {
    ppid: u32,
    ticks: u64,
    threads: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let s = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold blanks and brackets: count from the last one.
    let f: Vec<&str> = s[s.rfind(')')? + 2..].split(' ').collect();
    Some(Stat {
        ppid: f.get(1)?.parse().ok()?,
        ticks: f.get(11)?.parse::<u64>().ok()? + f.get(12)?.parse::<u64>().ok()?,
        threads: f.get(17)?.parse().ok()?,
    })
}

/// The process and all that descend from it, added up.
pub(crate) fn tree(root: u32) -> Option<Usage> {
    let mut kids: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut stats = HashMap::new();
    for e in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = e.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(s) = stat(pid) {
            kids.entry(s.ppid).or_default().push(pid);
            stats.insert(pid, s);
        }
    }
    stats.get(&root)?;
    let mut u = Usage::default();
    let mut todo = vec![root];
    let mut done = HashSet::new();
    while let Some(pid) = todo.pop() {
        if !done.insert(pid) {
            continue;
        }
        todo.extend(kids.get(&pid).into_iter().flatten());
        let Some(s) = stats.get(&pid) else { continue };
        u.cpu_s += s.ticks as f64 / TICK;
        u.threads += s.threads;
        u.processes += 1;
        if let Ok(t) = fs::read_to_string(format!("/proc/{pid}/status")) {
            for l in t.lines() {
                let kib = || {
                    l.split_whitespace()
                        .nth(1)
                        .and_then(|v| v.parse().ok())
                        .unwrap_or(0)
                };
                if l.starts_with("VmHWM:") {
                    u.peak_kib += kib();
                } else if l.starts_with("VmRSS:") {
                    u.rss_kib += kib();
                }
            }
        }
    }
    Some(u)
}

/// Processor seconds of this process.
pub(crate) fn own_cpu() -> f64 {
    stat(std::process::id()).map_or(0.0, |s| s.ticks as f64 / TICK)
}

/// Processor seconds that the whole machine was busy, less idle and iowait.
pub(crate) fn machine_busy() -> f64 {
    let s = fs::read_to_string("/proc/stat").unwrap_or_default();
    let Some(l) = s.lines().next() else {
        return 0.0;
    };
    let f: Vec<u64> = l
        .split_whitespace()
        .skip(1)
        .filter_map(|v| v.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal
    let busy: u64 = f
        .iter()
        .enumerate()
        .filter(|(i, _)| matches!(i, 0 | 1 | 2 | 5 | 6 | 7))
        .map(|(_, v)| v)
        .sum();
    busy as f64 / TICK
}
