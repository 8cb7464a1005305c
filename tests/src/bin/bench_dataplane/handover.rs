//! How long nobody serves the BGP sessions of an agent with a full table that is reloaded, and whether a peer that
//! watches the path every 50 ms notices.

use std::fmt::Write as _;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use margay_lab::resources::HOST_AS;
use margay_lab::{Agent, Bird, Datastore, Host, Lab, eventually};
use nix::sys::signal::Signal;

use crate::latency::told;

const ROUTES: u32 = 1_000_000;
const ROUNDS: usize = 5;

/// BIRD and the kernel take a million routes.
const FILLED: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(60);
/// Between two looks at the log.
const LOOK: Duration = Duration::from_millis(1);

/// What the agent says when its sessions go on.
const TOOK_OVER: &str = "took over sessions";
/// What BIRD's clock shows of the same moment when it is asked twice, in seconds of the day.
const SAME: f64 = 0.1;

pub(crate) fn run() -> Result<()> {
    let lab = Lab::new(1)?;
    let host = &lab.hosts[0];
    let mut agent = Agent::start(host, &Datastore::Embedded)?;
    agent.ctl().apply(&peer(host))?;
    let begun = Instant::now();
    let bird = Bird::start(&lab.tor, lab.dir(), &router(host))?;
    eventually(FILLED, "all routes are in the kernel", || {
        let routes = agent.status()?["dataplane"]["routes"].as_u64();
        ensure!(routes >= Some(u64::from(ROUTES)), "{routes:?} routes");
        Ok(())
    })?;
    println!(
        "{ROUTES} routes: from the start of the router until all are in the kernel {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let since = eventually(SOON, "BFD watches", || watched(&bird))?;
    let (mut goes_on, mut ready) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        agent.process()?.signal(Signal::SIGHUP)?;
        let begun = Instant::now();
        while taken_over(&agent)? < round {
            ensure!(begun.elapsed() < SOON, "nobody goes on with the session");
            sleep(LOOK);
        }
        goes_on.push(begun.elapsed());
        eventually(SOON, "the agent is ready", || agent.ensure_ready())?;
        ready.push(begun.elapsed());
        let now = eventually(SOON, "BFD watches as before", || watched(&bird))?;
        let same = |(before, now): (&f64, &f64)| (before - now).abs() < SAME;
        ensure!(
            since.iter().zip(&now).all(same),
            "not the session from before, or its path was down: {since:?}, {now:?}"
        );
    }
    println!(
        "from SIGHUP until the session goes on {}, until all is as wanted {}; the peer, with BFD at 3 times 50 ms, has \
         noticed nothing",
        told(goes_on),
        told(ready)
    );
    Ok(())
}

fn taken_over(agent: &Agent) -> Result<usize> {
    let log = fs::read_to_string(agent.log_file())?;
    Ok(log.matches(TOOK_OVER).count())
}

/// Since when the router has the session, and since when its path is up, watched every 50 ms.
fn watched(bird: &Bird) -> Result<[f64; 2]> {
    let protocols = bird.ctl("show protocols")?;
    let of_host = |line: &&str| line.starts_with("h1 ") && line.contains("Established");
    let line = protocols.lines().find(of_host).context("no session")?;
    let session = line.split_whitespace().nth(4).context("no time")?;
    let sessions = bird.ctl("show bfd sessions")?;
    let up = sessions.lines().find(|line| line.contains(" Up "));
    let words: Vec<&str> = up.unwrap_or_default().split_whitespace().collect();
    let [_, _, _, path, "0.050", "0.150"] = words[..] else {
        anyhow::bail!("it does not watch: {sessions}");
    };
    Ok([seconds(session)?, seconds(path)?])
}

/// Of `21:23:43.522`.
fn seconds(time: &str) -> Result<f64> {
    let parts = time.split(':').map(str::parse::<f64>);
    let parts = parts.collect::<Result<Vec<_>, _>>();
    let parts = parts.with_context(|| format!("not a time of day: {time}"))?;
    Ok(parts.iter().fold(0.0, |all, part| all * 60.0 + part))
}

/// One of the host's own AS, for which there is no limit to the number of routes; and pools around these, as no others are
/// learned.
fn peer(host: &Host) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata:\n  name: default\n\
         spec:\n  asNumber: {HOST_AS}\n  nodeToNodeMeshEnabled: false\n---\n\
         apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: tor\n\
         spec:\n  node: {}\n  peerIP: \"{}\"\n  asNumber: {HOST_AS}\n  \
         bfd: {{transmitInterval: 50ms, receiveInterval: 50ms}}\n\
         ---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: low\n\
         spec: {{cidr: 16.0.0.0/4, disabled: true}}\n\
         ---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: high\n\
         spec: {{cidr: 32.0.0.0/4, disabled: true}}\n",
        host.name, host.tor_v4
    )
}

fn router(host: &Host) -> String {
    let mut config = format!(
        "router id 198.51.100.1;\nprotocol device {{ }}\n\
         protocol bfd {{ interface \"*\" {{ interval 50 ms; multiplier 3; }}; }}\n\
         protocol bgp h1 {{\n  local {} as {HOST_AS};\n  neighbor {} as {HOST_AS};\n  direct;\n  bfd on;\n  \
         connect retry time 1;\n  connect delay time 1;\n  error wait time 1, 5;\n  \
         ipv4 {{ import all; export all; next hop self; }};\n}}\nprotocol static {{\n  ipv4;\n",
        host.tor_v4, host.v4
    );
    for n in 0..ROUTES {
        let net = std::net::Ipv4Addr::from(0x1400_0000 + (n << 8));
        // Writing to a string does not fail.
        writeln!(config, "  route {net}/24 blackhole;").unwrap_or_default();
    }
    config + "}\n"
}
