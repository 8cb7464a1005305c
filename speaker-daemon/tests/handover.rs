//! A daemon that is restarted as planned, as root in namespaces of its own: BIRD does not notice.
//!
//! 1. Stopped and started by a service manager, with BFD at 3 x 50 ms, and kernel routes: the session is as
//!    old as before, no route is told again or withdrawn, BFD stays up, the kernel's routes stay. The second
//!    time it is another program file.
//! 2. On SIGUSR2 it does the same by itself.
//! 3. What the file says otherwise by then is told, and nothing else. SIGHUP reads the file as ever.
//! 4. What the manager has not kept is a graceful restart (RFC 4724): BIRD keeps the routes.

#[expect(dead_code, reason = "the test of kernel routes uses all of it")]
mod rig;

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use margay_lab::{Bird, Manager, Process, eventually};
use nix::sys::signal::Signal;

use rig::{PATIENCE, Rig};

/// Nobody is there for so long: BFD would have noticed.
const AWAY: Duration = Duration::from_millis(700);

const LEARNT: &str = "10.1.0.0/24 via 192.0.2.2\n2001:db8:beef::/48 via";

fn bird(rig: &Rig) -> Result<Bird> {
    let config = "router id 192.0.2.2; protocol device {}
         protocol bfd b1 { interface \"*\" { min rx interval 50 ms; min tx interval 50 ms; multiplier 3; }; }
         protocol static { ipv4; route 10.1.0.0/24 blackhole; }
         protocol static { ipv6; route 2001:db8:beef::/48 blackhole; }
         protocol bgp p1 { local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001; graceful restart on; bfd on;
           connect retry time 1; connect delay time 1; error wait time 1, 2;
           ipv4 { import all; export all; }; ipv6 { import all; export all; }; }";
    Bird::start(&rig.them, rig.dir.path(), config)
}

/// A file that originates these.
fn file(networks: &[&str]) -> String {
    let networks: Vec<String> = networks
        .iter()
        .map(|prefix| format!("  - {{prefix: {prefix}}}\n"))
        .collect();
    format!(
        "speaker:
  local_as: 65001
  router_id: 192.0.2.1
  listen: ['0.0.0.0:179']
  initial_sync_secs: 20
  graceful_restart: {{restart_time_secs: 60}}
  peers:
    192.0.2.2:
      remote_as: 65002
      connect_retry_secs: 1
      hold_time_secs: 90
      bfd: {{min_tx_ms: 50, min_rx_ms: 50, multiplier: 3}}
      import: {{default: accept}}
      export: {{default: accept}}
kernel: {{}}
networks:
{}",
        networks.concat()
    )
}

/// What BIRD counts, and since when session and path are up: milliseconds of the day.
#[derive(Debug)]
struct Account {
    counts: Vec<String>,
    since: Vec<i64>,
}

impl Account {
    fn of(bird: &Bird) -> Result<Self> {
        let mut told = bird.ctl("show protocols all p1")?;
        told += &bird.ctl("show bfd sessions")?;
        let of_session = |line: &&str| {
            let line = line.trim_start();
            let starts = ["p1", "Import ", "Export ", "192.0.2.1"];
            starts.iter().any(|start| line.starts_with(start))
        };
        let mut account = Self {
            counts: Vec::new(),
            since: Vec::new(),
        };
        for line in told.lines().filter(of_session) {
            // Timers of BFD may change: they come last.
            let most = if line.contains("eth0") { 4 } else { usize::MAX };
            let (times, words): (Vec<&str>, Vec<&str>) = line
                .split_whitespace()
                .take(most)
                .partition(|word| millis(word).is_some());
            account.counts.push(words.join(" "));
            account.since.extend(times.into_iter().filter_map(millis));
        }
        ensure!(account.since.len() == 2, "{told}");
        Ok(account)
    }

    /// BIRD's arithmetic of times is not exact, where it does not get to a processor between two looks at its clocks.
    fn is_as_old_as(&self, other: &Self) -> bool {
        let near = |(a, b): (&i64, &i64)| (a - b).abs() < 300;
        self.since.iter().zip(&other.since).all(near)
    }

    /// It has noticed nothing.
    fn ensure_same(&self, other: &Self) -> Result<()> {
        let same = self.is_as_old_as(other) && self.counts == other.counts;
        ensure!(same, "{self:?}\n{other:?}");
        Ok(())
    }
}

/// `21:23:43.522`.
fn millis(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let mut part = || parts.next()?.parse::<f64>().ok();
    let (hours, minutes, seconds) = (part()?, part()?, part()?);
    Some(((hours * 60.0 + minutes) * 60_000.0 + seconds * 1000.0) as i64)
}

fn path_is_up(bird: &Bird) -> Result<()> {
    eventually(PATIENCE, "the path is up", || {
        let told = bird.ctl("show bfd sessions")?;
        ensure!(told.contains("Up"), "{told}");
        Ok(())
    })
}

/// Starts it as a service manager does.
fn start(rig: &Rig, manager: &Manager, program: &str) -> Result<Process> {
    let (command, passed) = manager.pass_to(&rig.command(program))?;
    let process = rig.run(command)?;
    // The process has its own.
    drop(passed);
    Ok(process)
}

fn took_over(rig: &Rig, times: usize) -> Result<()> {
    eventually(PATIENCE, "it takes over", || {
        let told = rig.told("took over sessions")?;
        ensure!(told == times, "{told} times");
        Ok(())
    })
}

/// BIRD's route to what we originate.
fn tells(bird: &Bird, prefix: &str) -> Result<()> {
    eventually(PATIENCE, "BIRD is told", || {
        let told = bird.ctl(&format!("show route {prefix}"))?;
        ensure!(told.contains("[p1"), "{told}");
        Ok(())
    })
}

#[test]
fn bird_does_not_notice_restarts_of_the_daemon() -> Result<()> {
    let rig = Rig::new()?;
    let bird = bird(&rig)?;
    let manager = Manager::start(rig.dir.path())?;
    let program = env!("CARGO_BIN_EXE_margay-speaker");
    rig.configure(&file(&["198.51.100.0/24", "2001:db8:100::/48"]))?;
    let mut speaker = start(&rig, &manager, program)?;
    rig.has(LEARNT)?;
    tells(&bird, "198.51.100.0/24")?;
    tells(&bird, "2001:db8:100::/48")?;
    path_is_up(&bird)?;
    let before = Account::of(&bird)?;
    let upgrade = rig.dir.path().join("margay-speaker-upgraded");
    fs::copy(program, &upgrade)?;
    let upgrade = upgrade.display().to_string();

    for (times, program) in [(1, program), (2, &upgrade), (3, program)] {
        speaker.stop()?;
        ensure!(
            manager.kept() > 2,
            "connection, listener and state are kept"
        );
        sleep(AWAY);
        ensure!(rig.ours("main")? == LEARNT, "{}", rig.ours("main")?);
        speaker = start(&rig, &manager, program)?;
        took_over(&rig, times)?;
        eventually(PATIENCE, "what is served is not kept as well", || {
            ensure!(manager.kept() == 0, "{}", manager.kept());
            Ok(())
        })?;
        Account::of(&bird)?.ensure_same(&before)?;
        rig.has(LEARNT)?;
    }
    for times in 4..=5 {
        speaker.signal(Signal::SIGUSR2)?;
        took_over(&rig, times)?;
        speaker.ensure_running()?;
        Account::of(&bird)?.ensure_same(&before)?;
    }

    // News of the file, and no other.
    speaker.stop()?;
    let networks = ["198.51.100.0/24", "2001:db8:100::/48", "203.0.113.0/24"];
    rig.configure(&file(&networks))?;
    speaker = start(&rig, &manager, program)?;
    tells(&bird, "203.0.113.0/24")?;
    rig.configure(&file(&[&networks[..], &["203.0.114.0/24"]].concat()))?;
    speaker.signal(Signal::SIGHUP)?;
    tells(&bird, "203.0.114.0/24")?;
    ensure!(rig.told("session up")? == 1, "another session came up");
    let now = Account::of(&bird)?;
    ensure!(now.is_as_old_as(&before), "{before:?}\n{now:?}");
    rig.has(LEARNT)
}

#[test]
fn what_the_manager_has_not_kept_is_a_graceful_restart() -> Result<()> {
    let rig = Rig::new()?;
    let bird = bird(&rig)?;
    let manager = Manager::start(rig.dir.path())?;
    let program = env!("CARGO_BIN_EXE_margay-speaker");
    rig.configure(&file(&["198.51.100.0/24"]))?;
    let mut speaker = start(&rig, &manager, program)?;
    rig.has(LEARNT)?;
    tells(&bird, "198.51.100.0/24")?;
    speaker.stop()?;
    manager.forget();
    tells(&bird, "198.51.100.0/24")?;
    ensure!(rig.ours("main")? == LEARNT, "{}", rig.ours("main")?);
    let _speaker = start(&rig, &manager, program)?;
    eventually(PATIENCE, "another session comes up", || {
        let ups = rig.told("session up")?;
        ensure!(ups == 2, "{ups}");
        Ok(())
    })?;
    tells(&bird, "198.51.100.0/24")?;
    rig.has(LEARNT)
}
