//! Sessions with short timers under load, as root in namespaces of their own.
//!
//! ```text
//!   us  192.0.2.1 ------ veth ------ 192.0.2.2  them (BIRD)
//!                                    192.0.2.3  feeder (played by the test)
//! ```
//! A session with BIRD at 1 s KEEPALIVE and 3 s hold time, watched by BFD at 3 x 50 ms, stays up while the
//! same host takes in a full table over and over, withdraws it, filters all of it anew, and has other
//! work for every processor. BIRD stands for a router elsewhere: it runs ahead of that work.
//!
//! `MARGAY_SOAK_SECS`, `MARGAY_SOAK_ROUTES` and `MARGAY_SOAK_BURNERS` make it longer, larger and harder:
//! 600 and 1000000 in `make soak-bgp`.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::raw::{RawPeer, withdrawal};
use crate::support::{Bird, Lab, Ours, PATIENCE, config, ip};
use anyhow::{Context, Result, bail, ensure};
use margay_bgp::prefix::Prefix;
use margay_lab::{Process, eventually, run};
use margay_speaker::{
    Action, BfdConfig, FilterConfig, FilterRule, PeerConfig, PeerKey, PeerStatus, SpeakerConfig,
    State,
};
use nix::sched::{CloneFlags, setns};

/// The short form: what a test run can afford in time and, in a debug build, in routes.
const SECS: u64 = 12;
const ROUTES: u32 = 20_000;
/// Processes that want a processor and nothing else.
const BURNERS: u32 = 2;

const FEEDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);

fn setting<T: std::str::FromStr>(name: &str, otherwise: T) -> Result<T> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .ok()
            .with_context(|| format!("{name} is {text}")),
        Err(_) => Ok(otherwise),
    }
}

/// BIRD, watched, with short timers; and a feeder without.
fn peers() -> SpeakerConfig {
    let mut config = config(PeerConfig {
        hold_time_secs: 3,
        keepalive_secs: Some(1),
        bfd: Some(BfdConfig {
            min_tx_ms: 50,
            min_rx_ms: 50,
            multiplier: 3,
        }),
        // Some of the table goes on to BIRD, which need not be as fast as we are.
        export: within("16.0.0.0/16"),
        import: FilterConfig::accept_all(),
        ..PeerConfig::new(65002)
    });
    let feeder = PeerConfig {
        passive: true,
        import: FilterConfig::accept_all(),
        ..PeerConfig::new(65003)
    };
    let key: PeerKey = IpAddr::from(FEEDER).into();
    config.peers.insert(key, feeder);
    config
}

/// Takes what is in `prefix` and nothing else.
fn within(prefix: &str) -> FilterConfig {
    let prefix = prefix.parse().expect("a prefix");
    FilterConfig::accept_within([prefix])
}

/// The same with many rules that match nothing: work for every route.
fn elaborate(turn: u8) -> FilterConfig {
    let rule = |n: u8| {
        let prefix = Prefix::new(IpAddr::from([10, n, turn, 0]), 24).expect("a prefix");
        FilterRule {
            action: Action::Reject,
            ..FilterRule::accept(prefix)
        }
    };
    FilterConfig {
        rules: (0..32).map(rule).collect(),
        default: Action::Accept,
    }
}

fn of(ours: &Ours, addr: [u8; 4]) -> Result<PeerStatus> {
    let all = ours.runtime.block_on(ours.speaker.status())?;
    let found = all.into_iter().find(|p| p.key.addr == IpAddr::from(addr));
    found.context("no such peer")
}

/// Our packets of BFD, as they come in over there.
struct Meter {
    process: Process,
    file: PathBuf,
}

impl Meter {
    fn start(lab: &Lab) -> Result<Self> {
        let file = lab.dir.path().join("tcpdump.log");
        let mut command = Command::new("tcpdump");
        let ours = "udp dst port 3784 and src host 192.0.2.1";
        command.args(["-i", "eth0", "-tt", "-nn", "-l", ours]);
        let process = Process::spawn("tcpdump", command, Some(&lab.them), &file)?;
        let meter = Self { process, file };
        eventually(PATIENCE, "packets are seen", || {
            ensure!(meter.times()?.len() > 1, "none yet");
            Ok(())
        })?;
        Ok(meter)
    }

    /// When they came, in seconds.
    fn times(&self) -> Result<Vec<f64>> {
        let text = std::fs::read_to_string(&self.file)?;
        let time = |line: &str| line.split_whitespace().next()?.parse().ok();
        Ok(text.lines().filter_map(time).collect())
    }

    /// The longest time between two of them.
    fn longest_gap(mut self) -> Result<Duration> {
        self.process.stop()?;
        let times = self.times()?;
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        let longest = gaps.fold(0.0, f64::max);
        Ok(Duration::from_secs_f64(longest))
    }
}

/// An error if BIRD's session or path is down, or was since it came up.
fn still_up(ours: &Ours) -> Result<()> {
    let bird = of(ours, [192, 0, 2, 2])?;
    let up = bird.state == State::Established && bird.bfd_up == Some(true);
    if up && bird.established_count == 1 {
        return Ok(());
    }
    let queries = ours.speaker.queries();
    let events = ours.runtime.block_on(queries.events())?;
    let turn = ours.runtime.block_on(queries.totals())?.longest_turn;
    bail!("it is or was down: {bird:?}, after {events:?}; the longest turn took {turn:?}")
}

#[test]
fn sessions_stay_up_under_load() -> Result<()> {
    let length = Duration::from_secs(setting("MARGAY_SOAK_SECS", SECS)?);
    let routes = setting("MARGAY_SOAK_ROUTES", ROUTES)?;
    let lab = Lab::new()?;
    ip(&format!("-n {} addr add {FEEDER}/24 dev eth0", lab.them))?;
    let bird = lab.bird_with(
        "router id 192.0.2.2;
         protocol device {}
         protocol bfd b1 { interface \"eth0\" { min rx interval 50 ms; min tx interval 50 ms; multiplier 3; }; }
         protocol bgp p1 { local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001; bfd on;
           hold time 3; keepalive time 1; connect retry time 1; connect delay time 1; error wait time 1, 2;
           ipv4 { import all; export none; }; }",
    )?;
    ahead_of_others(&bird)?;
    let mut config = peers();
    let mut ours = lab.speaker(&config)?;
    eventually(PATIENCE, "the session and its path are up", || {
        still_up(&ours)
    })?;

    let meter = Meter::start(&lab)?;
    let burners = (0..setting("MARGAY_SOAK_BURNERS", BURNERS)?).map(|_| burner(&lab));
    let _burners = burners.collect::<Result<Vec<_>>>()?;
    let feeder = feed(&lab, routes, length);
    let end = Instant::now() + length;
    let mut turns = 0;
    let key: PeerKey = IpAddr::from(FEEDER).into();
    let mut all_up = Ok(());
    while all_up.is_ok() && Instant::now() < end {
        // Every route of the feeder is filtered again, and some of them told again to BIRD.
        turns += 1_u32;
        let turn = (turns % 250) as u8;
        if let Some(peer) = config.peers.get_mut(&key) {
            peer.import = elaborate(turn);
        }
        ours.runtime
            .block_on(ours.speaker.configure(config.clone()))?;
        all_up = still_up(&ours);
        thread::sleep(Duration::from_millis(500));
    }
    let mut rounds = 0;
    if all_up.is_ok() {
        rounds = feeder.join().ok().context("the feeder panicked")??;
        all_up = still_up(&ours);
    }
    let gap = meter.longest_gap()?;
    all_up.with_context(|| format!("our packets were at most {gap:?} apart"))?;
    ensure!(rounds > 0 && turns > 0, "{rounds} rounds, {turns} turns");
    let turn = ours.runtime.block_on(ours.speaker.queries().totals())?;
    println!(
        "{rounds} times {routes} routes, {turns} changes of policy, {length:?}: all stayed up; \
         in the last minute no turn took longer than {:?}, packets of BFD were at most {gap:?} apart",
        turn.longest_turn
    );
    Ok(())
}

/// What keeps this host busy does not concern a router.
fn ahead_of_others(bird: &Bird) -> Result<()> {
    let pid = bird.process.pid().to_string();
    run(Command::new("chrt").args(["--all-tasks", "--rr", "--pid", "1", &pid]))?;
    Ok(())
}

/// A process that does nothing, all the time.
fn burner(lab: &Lab) -> Result<Process> {
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]);
    Process::spawn("burner", command, None, &lab.dir.path().join("burner.log"))
}

/// Announces and withdraws `routes` routes until the time is over; how often.
fn feed(lab: &Lab, routes: u32, length: Duration) -> thread::JoinHandle<Result<u32>> {
    let ns = std::fs::File::open(format!("/run/netns/{}", lab.them));
    thread::spawn(move || {
        setns(ns?, CloneFlags::CLONE_NEWNET)?;
        let mut peer = RawPeer::establish(FEEDER, ([192, 0, 2, 1], 179).into(), 65003, false)?;
        let gone = withdrawal(0..routes);
        let end = Instant::now() + length;
        let mut rounds = 0;
        while Instant::now() < end {
            peer.send(&peer.announcement(0..routes, rounds)?)?;
            peer.send(&gone)?;
            rounds += 1;
        }
        Ok(rounds)
    })
}
