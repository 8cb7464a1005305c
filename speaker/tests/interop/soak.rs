//! Sessions with short timers under load, as root in namespaces of their own.
//!
//! ```text
//!   us  192.0.2.1 ------ veth ------ 192.0.2.2  them (BIRD)
//!                                    192.0.2.3  feeder (played by the test)
//! ```
//! A session with BIRD at 1 s KEEPALIVE and 3 s hold time, watched by BFD at 3 x 50 ms, stays up while the
//! same host takes in a full table over and over, withdraws it, filters all of it anew, and has other
//! work for every processor. BIRD stands for a router elsewhere: it runs ahead of that work. When our packets of
//! BFD came is told by the kernel, which stamps them on their way to it. BIRD may take down a path all the same, where
//! the kernel had no time to give it what had come: that is told, and excused as long as our packets came in time.
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

/// What BIRD bears: three packets of 50 ms.
const DETECTION: Duration = Duration::from_millis(150);

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
    _process: Process,
    file: PathBuf,
}

impl Meter {
    fn start(lab: &Lab) -> Result<Self> {
        let file = lab.dir.path().join("tcpdump.log");
        let mut command = Command::new("tcpdump");
        let ours = "udp dst port 3784 and src host 192.0.2.1";
        command.args(["-i", "eth0", "-tt", "-nn", "-l", "-x", ours]);
        let process = Process::spawn("tcpdump", command, Some(&lab.them), &file)?;
        let meter = Self {
            _process: process,
            file,
        };
        eventually(PATIENCE, "packets are seen", || {
            let packets = meter.packets()?;
            ensure!(packets.iter().any(|(_, up)| *up), "{packets:?}");
            Ok(())
        })?;
        Ok(meter)
    }

    /// When they came, in seconds, and whether they say that the path is up.
    fn packets(&self) -> Result<Vec<(f64, bool)>> {
        let text = std::fs::read_to_string(&self.file)?;
        let mut packets: Vec<(f64, bool)> = Vec::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                // Octets 16 to 31; those of BFD begin at 28, and the state has two bits of the second.
                Some("0x0010:") => {
                    let state = words.nth(6).and_then(|word| word.get(2..3));
                    let up = state.is_some_and(|digit| "cdef".contains(digit));
                    packets.last_mut().context("octets of nothing")?.1 = up;
                }
                Some(time) => packets.extend(time.parse().ok().map(|time| (time, false))),
                None => {}
            }
        }
        Ok(packets)
    }

    /// The longest time from one of them to the next while the path was up.
    fn longest_gap(&self) -> Result<Duration> {
        let packets = self.packets()?;
        let gaps = packets.windows(2).filter(|pair| pair[0].1);
        let longest = gaps.map(|pair| pair[1].0 - pair[0].0).fold(0.0, f64::max);
        Ok(Duration::from_secs_f64(longest))
    }
}

/// An error if BIRD's session or path is down, or was since the session came up for the `times`th time.
fn still_up(ours: &Ours, times: u64) -> Result<()> {
    let bird = of(ours, [192, 0, 2, 2])?;
    let up = bird.state == State::Established && bird.bfd_up == Some(true);
    if up && bird.established_count == times {
        return Ok(());
    }
    let queries = ours.speaker.queries();
    let events = ours.runtime.block_on(queries.events())?;
    let turn = ours.runtime.block_on(queries.totals())?.longest_turn;
    bail!("it is or was down: {bird:?}, after {events:?}; the longest turn took {turn:?}")
}

/// A host without a moment for BIRD, or for what the kernel has to give it, makes BIRD take down a path that is
/// in order. Nothing else is excused: not that packets of ours were late, nor that we ended anything.
fn excused(ours: &Ours, meter: &Meter) -> Result<()> {
    let gap = meter.longest_gap()?;
    ensure!(gap < DETECTION, "our packets were up to {gap:?} apart");
    let events = ours.runtime.block_on(ours.speaker.queries().events())?;
    let of_bird = events
        .iter()
        .filter(|e| e.key.addr == IpAddr::from([192, 0, 2, 2]));
    for event in of_bird {
        let theirs = match event.from.to_string().as_str() {
            "BFD Up" => event.reason == "neighbor signaled session down",
            "Established" => event.reason == "connection lost" || event.reason.contains("BFD down"),
            _ => true,
        };
        ensure!(theirs, "{event:?}");
    }
    Ok(())
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
        still_up(&ours, 1)
    })?;

    let meter = Meter::start(&lab)?;
    let burners = (0..setting("MARGAY_SOAK_BURNERS", BURNERS)?).map(|_| burner(&lab));
    let _burners = burners.collect::<Result<Vec<_>>>()?;
    let feeder = feed(&lab, routes, length);
    let end = Instant::now() + length;
    let mut turns = 0;
    let key: PeerKey = IpAddr::from(FEEDER).into();
    let mut times = 1;
    let mut check = |ours: &Ours| -> Result<()> {
        let Err(error) = still_up(ours, times) else {
            return Ok(());
        };
        eventually(PATIENCE, "BIRD is back", || {
            let bird = of(ours, [192, 0, 2, 2])?;
            still_up(ours, bird.established_count)?;
            times = bird.established_count;
            anyhow::Ok(())
        })?;
        excused(ours, &meter).with_context(|| format!("{error:#}"))
    };
    while Instant::now() < end {
        // Every route of the feeder is filtered again, and some of them told again to BIRD.
        turns += 1_u32;
        let turn = (turns % 250) as u8;
        if let Some(peer) = config.peers.get_mut(&key) {
            peer.import = elaborate(turn);
        }
        ours.runtime
            .block_on(ours.speaker.configure(config.clone()))?;
        check(&ours)?;
        thread::sleep(Duration::from_millis(500));
    }
    let rounds = feeder.join().ok().context("the feeder panicked")??;
    check(&ours)?;
    let gap = meter.longest_gap()?;
    ensure!(rounds > 0 && turns > 0, "{rounds} rounds, {turns} turns");
    let turn = ours.runtime.block_on(ours.speaker.queries().totals())?;
    println!(
        "{rounds} times {routes} routes, {turns} changes of policy, {length:?}: all stayed up, but for {} \
         times that BIRD took down a path that was in order; our packets of BFD were at most {gap:?} \
         apart, in the last minute no turn took longer than {:?}",
        times - 1,
        turn.longest_turn,
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
