//! The daemon and BIRD, each in a namespace, on one link.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use margay_lab::{Bird, NetNs, Process, eventually};
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    pub(crate) us: NetNs,
    pub(crate) them: NetNs,
    pub(crate) dir: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Result<Self> {
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
    pub(crate) fn bird(&self, routes: &[&str]) -> Result<Bird> {
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

    pub(crate) fn speaker(&self, own: &str, more: &str) -> Result<Process> {
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
    pub(crate) fn documented(&self) -> Result<Process> {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/margay-speaker.md");
        let docs = fs::read_to_string(docs)?;
        let (_, section) = docs
            .split_once("## A router\n")
            .context("no such heading")?;
        let (_, block) = section.split_once("```yaml\n").context("no example")?;
        let (text, _) = block.split_once("```").context("no end")?;
        self.start(text)
    }

    pub(crate) fn start(&self, text: &str) -> Result<Process> {
        self.configure(text)?;
        self.run(self.command(env!("CARGO_BIN_EXE_margay-speaker")))
    }

    /// What the daemon reads when it starts.
    pub(crate) fn configure(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.dir.path().join("speaker.yaml"), text)?)
    }

    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        let file = self.dir.path().join("speaker.yaml");
        command.arg("--config").arg(file);
        command
    }

    /// Starts a daemon in our namespace.
    pub(crate) fn run(&self, command: Command) -> Result<Process> {
        let log = self.dir.path().join("speaker.log");
        Process::spawn("margay-speaker", command, Some(self.us.name()), &log)
    }

    /// How often the daemon's log says this.
    pub(crate) fn told(&self, what: &str) -> Result<usize> {
        let log = fs::read_to_string(self.dir.path().join("speaker.log"))?;
        Ok(log.lines().filter(|line| line.contains(what)).count())
    }

    /// Our routes in a table, sorted, with their IPv4 gateways: BIRD's address in IPv6 may be its link-local one.
    pub(crate) fn ours(&self, table: &str) -> Result<String> {
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

    pub(crate) fn has(&self, wanted: &str) -> Result<()> {
        eventually(PATIENCE, "the kernel has the routes", || {
            let found = self.ours("main")?;
            ensure!(found == wanted, "{found}");
            Ok(())
        })
    }
}
