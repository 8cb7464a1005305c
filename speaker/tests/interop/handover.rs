//! One speaker leaves, another goes on, and a real router does not notice. Each pause is longer than BFD at
//! 3 x 50 ms bears.
//!
//! 1. BIRD, five times, with TCP MD5 and GTSM: the session is as old as before, no route is told again or
//!    withdrawn, BFD stays up; what changes meanwhile on either side arrives.
//! 2. FRR likewise, with several paths a prefix (RFC 7911).
//! 3. A state that does not come is a graceful restart: BIRD keeps the routes.
//! 4. A router without addresses, known by its interface.

use std::{process::Command, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use margay_lab::{Process, eventually, run};
use margay_speaker::{
    BfdConfig, GracefulRestartConfig, LocalRouteChange, PeerConfig, Secret, SpeakerConfig, Ttl,
};

use crate::{
    bfd::{frr, vtysh},
    support::{Bird, Lab, Ours, PATIENCE, config, local_routes, them},
    unnumbered::{bare_link, on_eth0},
};

/// Nobody is there for so long.
const AWAY: Duration = Duration::from_millis(700);

const QUICK: BfdConfig = BfdConfig {
    min_tx_ms: 50,
    min_rx_ms: 50,
    multiplier: 3,
};

fn ours(ttl: Ttl, password: Option<&str>) -> SpeakerConfig {
    let mut config = config(PeerConfig {
        bfd: Some(QUICK),
        hold_time_secs: 90,
        ttl,
        password: password.map(|key| Secret::new(key.to_owned())),
        ..them()
    });
    config.graceful_restart = Some(GracefulRestartConfig {
        restart_time_secs: 120,
        restarting: false,
    });
    config
}

/// 200 routes of both families, all with the same attributes.
fn routes() -> Result<Vec<LocalRouteChange>> {
    let v4 = (0..100).map(|n| format!("10.200.{n}.0/24"));
    let v6 = (0..100).map(|n| format!("2001:db8:{n}::/48"));
    let all: Vec<String> = v4.chain(v6).collect();
    local_routes(&all.iter().map(String::as_str).collect::<Vec<_>>(), true)
}

/// Leaves, does what happens meanwhile, and goes on.
fn pass_on(
    lab: &Lab,
    ours: Ours,
    config: &SpeakerConfig,
    routes: Vec<LocalRouteChange>,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Ours> {
    let Ours {
        speaker, runtime, ..
    } = ours;
    let left = runtime.block_on(speaker.hand_over())?;
    meanwhile()?;
    sleep(AWAY);
    let mut config = config.clone();
    // As an agent that restarts has it: sessions that cannot go on are waited for.
    config.graceful_restart = config.graceful_restart.map(|g| GracefulRestartConfig {
        restarting: true,
        ..g
    });
    Lab::speaker_from(&lab.us, &config, routes, Some(left))
}

fn watched(ours: &Ours) -> Result<()> {
    eventually(PATIENCE, "BFD is up", || {
        let status = ours.status()?;
        ensure!(status.bfd_up == Some(true), "{status:?}");
        Ok(())
    })
}

/// What BIRD has counted, and since when the session and BFD are up: milliseconds of the day.
#[derive(Debug)]
struct Account {
    lines: Vec<String>,
    since: Vec<i64>,
}

impl Account {
    fn of(bird: &Bird) -> Result<Self> {
        let told = bird.ask("show protocols all p1")?;
        let counts = |line: &&str| {
            let line = line.trim_start();
            line.starts_with("p1") || line.starts_with("Import ") || line.starts_with("Export ")
        };
        let mut lines: Vec<_> = told.lines().filter(counts).map(str::to_owned).collect();
        ensure!(lines.len() > 8, "{told}");
        let bfd = bird.ask("show bfd sessions")?;
        lines.extend(bfd.lines().filter(|l| l.contains("192.0.2.1")).map(|line| {
            // State and since when; timers are allowed to change.
            let words: Vec<&str> = line.split_whitespace().take(4).collect();
            words.join(" ")
        }));
        let times = |line: &String| {
            line.split_whitespace()
                .filter_map(millis)
                .collect::<Vec<_>>()
        };
        let since: Vec<i64> = lines.iter().flat_map(times).collect();
        ensure!(since.len() == 2, "{lines:?}");
        let plain = |line: &String| {
            let words = line
                .split_whitespace()
                .filter(|word| millis(word).is_none());
            words.collect::<Vec<_>>().join(" ")
        };
        Ok(Self {
            lines: lines.iter().map(plain).collect(),
            since,
        })
    }

    /// BIRD's arithmetic of times is not exact.
    fn is_as_old_as(&self, other: &Self) -> bool {
        let near = |(a, b): (&i64, &i64)| (a - b).abs() < 300;
        self.since.iter().zip(&other.since).all(near)
    }

    fn number(&self, what: &str) -> u64 {
        let lines = self.lines.iter().filter(|line| line.starts_with(what));
        let counts = lines.filter_map(|l| l.split_whitespace().nth(2)?.parse::<u64>().ok());
        counts.sum()
    }
}

/// `21:23:43.522`.
fn millis(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let mut part = || parts.next()?.parse::<f64>().ok();
    let (hours, minutes, seconds) = (part()?, part()?, part()?);
    Some(((hours * 60.0 + minutes) * 60_000.0 + seconds * 1000.0) as i64)
}

fn bird(lab: &Lab, bgp: &str) -> Result<Bird> {
    lab.bird_with(&format!(
        "router id 192.0.2.2;
         protocol device {{}}
         protocol bfd b1 {{ interface \"*\" {{ min rx interval 50 ms; min tx interval 50 ms; multiplier 3; }}; }}
         protocol static s4 {{ ipv4; route 10.1.0.0/24 blackhole; }}
         protocol static t4 {{ disabled; ipv4; route 10.2.0.0/24 blackhole; }}
         protocol static s6 {{ ipv6; route 2001:db8:beef::/48 blackhole; }}
         protocol bgp p1 {{ local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001; bfd on;
           graceful restart on; hold time 90; {bgp}
           connect retry time 1; connect delay time 1; error wait time 1, 2;
           ipv4 {{ import all; export where source = RTS_STATIC; }};
           ipv6 {{ import all; export where source = RTS_STATIC; }}; }}"
    ))
}

#[test]
fn bird_does_not_notice_five_speakers_in_a_row() -> Result<()> {
    let lab = Lab::new()?;
    let bird = bird(&lab, "password \"secret\"; ttl security on;")?;
    let config = ours(Ttl::Security(1), Some("secret"));
    let mut ours = lab.speaker_with(&config, routes()?)?;
    ours.is_up()?;
    bird.shows("show route 10.200.99.0/24", "10.200.99.0/24")?;
    bird.shows("show route 2001:db8:99::/48", "2001:db8:99::/48")?;
    bird.shows("show bfd sessions", "Up")?;
    ours.learns("10.1.0.0/24")?;
    ours.learns("2001:db8:beef::/48")?;
    watched(&ours)?;
    let before = Account::of(&bird)?;
    let since = ours.status()?.since;
    for _ in 0..5 {
        ours = pass_on(&lab, ours, &config, routes()?, || Ok(()))?;
        let status = ours.status()?;
        ensure!(
            status.since == since && status.established_count == 1,
            "{status:?}"
        );
        ensure!(
            status.routes.iter().all(|f| f.advertised == 100),
            "{status:?}"
        );
        ours.learns("10.1.0.0/24")?;
        ours.learns("2001:db8:beef::/48")?;
        watched(&ours)?;
        let now = Account::of(&bird)?;
        ensure!(now.lines == before.lines, "{before:?} {now:?}");
        ensure!(now.is_as_old_as(&before), "{before:?} {now:?}");
    }
    // Both sides have news when nobody is there.
    let mut changed = routes()?;
    changed.truncate(150);
    changed.extend(local_routes(&["10.201.0.0/24"], true)?);
    ours = pass_on(&lab, ours, &config, changed, || {
        bird.ask("disable s4")?;
        bird.ask("enable t4").map(drop)
    })?;
    ours.learns("10.2.0.0/24")?;
    ours.loses("10.1.0.0/24")?;
    bird.shows("show route 10.201.0.0/24", "10.201.0.0/24")?;
    bird.shows_no("show route table master6", "2001:db8:99::/48")?;
    ensure!(ours.status()?.since == since, "another session");
    // One announced, 50 withdrawn, and nothing else said.
    let now = Account::of(&bird)?;
    ensure!(now.is_as_old_as(&before), "{before:?} {now:?}");
    let told = |what| now.number(what) - before.number(what);
    ensure!(told("Import updates:") == 1, "{before:?} {now:?}");
    ensure!(told("Import withdraws:") == 50, "{before:?} {now:?}");
    Ok(())
}

#[test]
fn frr_does_not_notice_either() -> Result<()> {
    let lab = Lab::new()?;
    let _frr = frr(&lab, "192.0.2.1", "remote-as 65001")?;
    let mut config = ours(Ttl::Direct, None);
    for peer in config.peers.values_mut() {
        peer.add_path.receive = true;
    }
    let mut ours = lab.speaker_with(&config, routes()?)?;
    ours.is_up()?;
    ours.learns("10.1.0.0/24")?;
    watched(&ours)?;
    let neighbor = || -> Result<[String; 6]> {
        let text = vtysh(&lab, &["show bgp neighbors 192.0.2.1"])?;
        let line = |what: &str| -> Result<String> {
            let found = text.lines().find(|l| l.contains(what));
            Ok(found
                .with_context(|| format!("no {what}: {text}"))?
                .trim()
                .to_owned())
        };
        let bfd = vtysh(&lab, &["show bfd peers counters"])?;
        let downs = bfd.lines().find(|l| l.contains("Session down events"));
        Ok([
            line("Connections established")?,
            line("Updates:")?,
            line("Opens:")?,
            line("Notifications:")?,
            line("accepted prefixes")?,
            downs.context("no BFD")?.trim().to_owned(),
        ])
    };
    eventually(PATIENCE, "FRR has it all", || {
        let now = neighbor()?;
        ensure!(now[4].starts_with("100 "), "{now:?}");
        Ok(())
    })?;
    let before = neighbor()?;
    for _ in 0..5 {
        ours = pass_on(&lab, ours, &config, routes()?, || Ok(()))?;
        ours.learns("10.1.0.0/24")?;
        watched(&ours)?;
        ensure!(neighbor()? == before, "{before:?}\n{:?}", neighbor()?);
    }
    Ok(())
}

#[test]
fn what_is_not_passed_on_is_a_graceful_restart() -> Result<()> {
    let lab = Lab::new()?;
    let bird = bird(&lab, "")?;
    let config = ours(Ttl::Direct, None);
    let ours = lab.speaker_with(&config, routes()?)?;
    ours.is_up()?;
    bird.shows("show route 10.200.99.0/24", "10.200.99.0/24")?;
    ours.learns("10.1.0.0/24")?;
    let Ours {
        speaker, runtime, ..
    } = ours;
    let mut left = runtime.block_on(speaker.hand_over())?;
    left.state.truncate(100);
    let mut config = config;
    config.graceful_restart = Some(GracefulRestartConfig {
        restart_time_secs: 120,
        restarting: true,
    });
    let ours = Lab::speaker_from(&lab.us, &config, routes()?, Some(left))?;
    // Stale or not, it never goes.
    loop {
        bird.ask("show route 10.200.99.0/24").and_then(|told| {
            ensure!(told.contains("10.200.99.0/24"), "{told}");
            Ok(())
        })?;
        if ours.is_up().is_ok() && ours.learns("10.1.0.0/24").is_ok() {
            return Ok(());
        }
    }
}

#[test]
fn a_router_without_addresses_stays_ours() -> Result<()> {
    let lab = bare_link()?;
    let _frr: Vec<Process> = frr(&lab, "eth0", "interface remote-as external")?;
    let mut config = on_eth0(65001)?;
    for peer in config.peers.values_mut() {
        peer.bfd = Some(QUICK);
        peer.hold_time_secs = 90;
    }
    let mut ours = lab.speaker(&config)?;
    ours.is_up()?;
    ours.learns("10.1.0.0/24")?;
    watched(&ours)?;
    let since = ours.status()?.since;
    ours = pass_on(&lab, ours, &config, Vec::new(), || Ok(()))?;
    ours.learns("10.1.0.0/24")?;
    watched(&ours)?;
    ensure!(ours.status()?.since == since, "another session");
    let told = run(Command::new("vtysh")
        .arg("--vty_socket")
        .arg(lab.dir.path())
        .args(["-c", "show bgp neighbors eth0"]))?;
    ensure!(
        told.contains("Connections established 1; dropped 0"),
        "{told}"
    );
    Ok(())
}
