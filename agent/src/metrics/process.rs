//! The process of the agent.

use super::text::{Kind, Text};

/// Kernel clock ticks a second, the same on every Linux.
const TICKS: f64 = 100.0;

/// What exporters of every language tell of their process.
pub(super) fn collect(text: &mut Text) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
    let stat = read("stat").unwrap_or_default();
    // The name of the command may hold blanks: count from behind it.
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').collect())
        .unwrap_or_default();
    let field = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
    if let (Some(user), Some(system)) = (field(11), field(12)) {
        let help = "Total user and system CPU time spent in seconds.";
        let seconds = (user + system) / TICKS;
        text.single(Kind::Counter, "process_cpu_seconds_total", help, seconds);
    }
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "));
    let boot = boot.and_then(|secs| secs.trim().parse::<f64>().ok());
    if let (Some(boot), Some(started)) = (boot, field(19)) {
        let help = "Start time of the process since unix epoch in seconds.";
        let at = boot + started / TICKS;
        text.single(Kind::Gauge, "process_start_time_seconds", help, at);
    }
    let limits = read("limits").unwrap_or_default();
    let open = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"));
    if let Some(most) = open.and_then(|l| l.split_whitespace().next()?.parse().ok()) {
        let help = "Maximum number of open file descriptors.";
        text.single(Kind::Gauge, "process_max_fds", help, most);
    }
    if let Some(bytes) = field(20) {
        let help = "Virtual memory size in bytes.";
        text.single(Kind::Gauge, "process_virtual_memory_bytes", help, bytes);
    }
    let status = read("status").unwrap_or_default();
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok());
    if let Some(kib) = kib {
        let help = "Resident memory size in bytes.";
        text.single(
            Kind::Gauge,
            "process_resident_memory_bytes",
            help,
            kib * 1024.0,
        );
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let help = "Number of open file descriptors.";
        text.single(Kind::Gauge, "process_open_fds", help, open.count() as f64);
    }
}
