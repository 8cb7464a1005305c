//! Kernel routes of the daemon, as root in namespaces of its own, beside BIRD as the peer.
//!
//! ```text
//!   us  192.0.2.1, 2001:db8::1 ------ veth ------ 192.0.2.2, 2001:db8::2  them (BIRD, AS 65002)
//!        |
//!       lo  203.0.113.1 behind 192.0.2.2 by a route of the operator's
//! ```
//! 1. Without `kernel` nothing is written. With it best routes of both families are in the table, with our
//!    protocol and metric, next hops resolved by the host's own routes (RFC 4271, section 5.1.3).
//! 2. Withdrawn routes go, routes of others for the same prefix stay, ours come back when somebody removes
//!    them or the link was down.
//! 3. SIGTERM removes them, and nothing else.
//! 4. With graceful restart they stay on SIGTERM, as they do on SIGKILL; the next run adopts them, and
//!    removes what the peer no longer tells of.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use margay_lab::{Bird, NetNs, Process, eventually};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

const BOTH: &str = "10.1.0.0/24 via 192.0.2.2
10.2.0.0/24 via 192.0.2.2
2001:db8:beef::/48 via";

struct Rig {
    us: NetNs,
    them: NetNs,
    dir: TempDir,
}

impl Rig {
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mgkr{}x{number}", std::process::id());
        let us = NetNs::new(format!("{name}a"))?;
        let them = NetNs::new(format!("{name}b"))?;
        us.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}",
            them.name()
        ))?;
        for (ns, host) in [(&us, 1), (&them, 2)] {
            ns.ip(&format!("addr add 192.0.2.{host}/24 dev eth0"))?;
            ns.ip(&format!("addr add 2001:db8::{host}/64 dev eth0 nodad"))?;
            ns.ip("link set eth0 up")?;
        }
        let dir = tempfile::tempdir()?;
        Ok(Self { us, them, dir })
    }

    /// BIRD, which tells of these routes.
    fn bird(&self, routes: &[&str]) -> Result<Bird> {
        let of = |v6: bool| -> String {
            let own = routes.iter().filter(|r| r.contains(':') == v6);
            own.map(|route| format!("route {route} blackhole;"))
                .collect()
        };
        let config = format!(
            "router id 192.0.2.2; protocol device {{}}
             protocol static {{ ipv4; {} }}
             protocol static {{ ipv6; {} }}
             protocol bgp p1 {{ local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001; graceful restart on;
               connect retry time 1; connect delay time 1; error wait time 1, 2;
               ipv4 {{ import all; export all; }}; ipv6 {{ import all; export all; }}; }}",
            of(false),
            of(true)
        );
        Bird::start(&self.them, self.dir.path(), &config)
    }

    fn speaker(&self, own: &str, more: &str) -> Result<Process> {
        self.start(&format!(
            "speaker:
  local_as: 65001
  router_id: 192.0.2.1
  listen: ['0.0.0.0:179']
  initial_sync_secs: 20
  {own}
  peers:
    192.0.2.2: {{remote_as: 65002, connect_retry_secs: 1, import: {{default: accept}}, export: {{default: accept}}}}
{more}"
        ))
    }

    /// The router of the documentation.
    fn documented(&self) -> Result<Process> {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/margay-speaker.md");
        let docs = fs::read_to_string(docs)?;
        let (_, section) = docs
            .split_once("## A router\n")
            .context("no such heading")?;
        let (_, block) = section.split_once("```yaml\n").context("no example")?;
        let (text, _) = block.split_once("```").context("no end")?;
        self.start(text)
    }

    fn start(&self, text: &str) -> Result<Process> {
        let file = self.dir.path().join("speaker.yaml");
        fs::write(&file, text)?;
        let mut command = Command::new(PathBuf::from(env!("CARGO_BIN_EXE_margay-speaker")));
        command.arg("--config").arg(&file);
        let log = self.dir.path().join("speaker.log");
        Process::spawn("margay-speaker", command, Some(self.us.name()), &log)
    }

    /// Our routes in a table, sorted, with their IPv4 gateways: BIRD's address in IPv6 may be its link-local one.
    fn ours(&self, table: &str) -> Result<String> {
        let mut all = Vec::new();
        for (family, words) in [("-4", 3), ("-6", 2)] {
            let line = format!("{family} route show table {table} proto 78 metric 77");
            let text = self.us.ip(&line).unwrap_or_default();
            all.extend(text.lines().map(|route| {
                let words: Vec<&str> = route.split_whitespace().take(words).collect();
                words.join(" ")
            }));
        }
        all.sort();
        Ok(all.join("\n"))
    }

    fn has(&self, wanted: &str) -> Result<()> {
        eventually(PATIENCE, "the kernel has the routes", || {
            let found = self.ours("main")?;
            ensure!(found == wanted, "{found}");
            Ok(())
        })
    }
}

fn is_established(bird: &Bird) -> Result<()> {
    eventually(PATIENCE, "the session is up", || {
        bird.ensure_established("p1")
    })
}

#[test]
fn best_routes_are_in_the_kernel_until_they_are_withdrawn_or_the_daemon_stops() -> Result<()> {
    let rig = Rig::new()?;
    let routes = ["10.1.0.0/24", "10.2.0.0/24", "2001:db8:beef::/48"];
    let bird = rig.bird(&routes)?;
    // Somebody else's, which ours stands behind, or beside.
    rig.us
        .ip("route add 10.2.0.0/24 dev lo metric 50 proto static")?;
    rig.us.ip("route add 10.9.0.0/24 dev lo proto static")?;
    let mut speaker = rig.speaker("", "kernel: {}")?;
    rig.has(BOTH)?;

    rig.us.ip("route del 10.1.0.0/24 proto 78")?;
    rig.has(BOTH)?;
    rig.us.ip("link set eth0 down")?;
    rig.us.ip("link set eth0 up")?;
    rig.us.ip("addr replace 2001:db8::1/64 dev eth0 nodad")?;
    rig.has(BOTH)?;

    drop(bird);
    rig.has("")?;
    let _bird = rig.bird(&routes)?;
    rig.has(BOTH)?;
    speaker.stop()?;
    ensure!(rig.ours("main")?.is_empty(), "{}", rig.ours("main")?);
    let others = rig.us.ip("route show proto static")?;
    ensure!(others.lines().count() == 2, "{others}");
    Ok(())
}

#[test]
fn nothing_is_written_unless_asked_for_and_then_where_it_was_asked() -> Result<()> {
    let rig = Rig::new()?;
    let bird = rig.bird(&["10.1.0.0/24"])?;
    let mut without = rig.speaker("", "")?;
    is_established(&bird)?;
    without.stop()?;
    let told = rig.us.ip("route show 10.1.0.0/24")?;
    ensure!(told.is_empty(), "{told}");
    let _speaker = rig.speaker("", "kernel: {table: 100}")?;
    eventually(PATIENCE, "the other table has it", || {
        let found = rig.ours("100")?;
        ensure!(found == "10.1.0.0/24 via 192.0.2.2", "{found}");
        Ok(())
    })?;
    ensure!(rig.ours("main")?.is_empty(), "{}", rig.ours("main")?);
    Ok(())
}

#[test]
fn a_next_hop_behind_a_router_is_resolved_by_the_routes_of_the_host() -> Result<()> {
    let rig = Rig::new()?;
    rig.us
        .ip("route add 203.0.113.0/24 via 192.0.2.2 proto static")?;
    rig.them.ip("addr add 203.0.113.1/32 dev lo")?;
    let config = "router id 192.0.2.2; protocol device {}
         protocol static { ipv4; route 10.1.0.0/24 blackhole; }
         protocol bgp p1 { local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001;
           connect retry time 1; connect delay time 1; error wait time 1, 2;
           ipv4 { import all; export all; next hop address 203.0.113.1; }; }";
    let _bird = Bird::start(&rig.them, rig.dir.path(), config)?;
    let _speaker = rig.speaker("", "kernel: {}")?;
    rig.has("10.1.0.0/24 via 192.0.2.2")
}

#[test]
fn rfc4724_routes_outlive_a_restart_and_those_that_are_gone_go() -> Result<()> {
    let rig = Rig::new()?;
    let restart = "graceful_restart: {restart_time_secs: 60, restarting: true}";
    let bird = rig.bird(&["10.1.0.0/24", "10.2.0.0/24", "2001:db8:beef::/48"])?;
    let mut speaker = rig.documented()?;
    rig.has(BOTH)?;
    speaker.stop()?;
    ensure!(rig.ours("main")? == BOTH, "{}", rig.ours("main")?);
    let mut speaker = rig.speaker(restart, "kernel: {}")?;
    is_established(&bird)?;
    rig.has(BOTH)?;
    speaker.signal(Signal::SIGKILL)?;
    speaker.kill()?;
    ensure!(rig.ours("main")? == BOTH, "{}", rig.ours("main")?);
    drop(bird);
    let _bird = rig.bird(&["10.2.0.0/24"])?;
    let _speaker = rig.speaker(restart, "kernel: {}")?;
    rig.has("10.2.0.0/24 via 192.0.2.2")
}
