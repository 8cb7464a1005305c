//! FRR's zebra and bgpd as a router in a namespace, with bfdd where the configuration speaks of BFD.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::eventually::eventually;
use crate::netns::NetNs;
use crate::process::{Process, run};

const START: Duration = Duration::from_secs(60);

/// Where Debian keeps the daemons.
const DAEMONS: &str = "/usr/lib/frr";

/// Running daemons. Dropping it kills them.
#[derive(Debug)]
pub struct Frr {
    bgpd: Process,
    _bfdd: Option<Process>,
    zebra: Process,
    dir: TempDir,
}

impl Frr {
    /// Starts the daemons with this configuration.
    pub fn start(netns: &NetNs, config: &str) -> Result<Self> {
        // The daemons drop to user frr and keep their sockets in a directory of theirs.
        let dir = tempfile::Builder::new().prefix("frr").tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        fs::write(dir.path().join("frr.conf"), config)?;
        run(Command::new("chown")
            .arg("-R")
            .arg("frr:frr")
            .arg(dir.path()))?;
        let zebra = daemon("zebra", netns, dir.path())?;
        eventually(START, "zebra has its socket", || {
            fs::metadata(dir.path().join("zserv.api"))
        })?;
        let has_bfd = config.lines().any(|line| line.contains(" bfd"));
        let bfdd = has_bfd.then(|| daemon("bfdd", netns, dir.path()));
        let mut frr = Self {
            bgpd: daemon("bgpd", netns, dir.path())?,
            _bfdd: bfdd.transpose()?,
            zebra,
            dir,
        };
        eventually(START, "bgpd answers", || {
            frr.zebra.ensure_running()?;
            frr.bgpd.ensure_running()?;
            frr.vtysh("show bgp summary")
        })?;
        Ok(frr)
    }

    /// Runs a command of `vtysh`.
    pub fn vtysh(&self, command: &str) -> Result<String> {
        run(Command::new("vtysh")
            .arg("--vty_socket")
            .arg(self.dir.path())
            .args(["-c", command]))
    }

    /// Runs a command that answers in JSON.
    pub fn json(&self, command: &str) -> Result<serde_json::Value> {
        let text = self.vtysh(&format!("{command} json"))?;
        serde_json::from_str(&text).with_context(|| format!("vtysh {command} says {text}"))
    }

    /// An error unless the session with this address is established for this family: `ipv4Unicast` or
    /// `ipv6Unicast`.
    pub fn ensure_established(&self, neighbor: &str, family: &str) -> Result<()> {
        let summary = self.json("show bgp summary")?;
        let state = &summary[family]["peers"][neighbor]["state"];
        ensure!(
            state == "Established",
            "FRR says of session {neighbor} for {family}: {state}"
        );
        Ok(())
    }
}

fn daemon(name: &str, netns: &NetNs, dir: &Path) -> Result<Process> {
    let mut command = Command::new(Path::new(DAEMONS).join(name));
    command
        .arg("-f")
        .arg(dir.join("frr.conf"))
        .arg("-i")
        .arg(dir.join(format!("{name}.pid")))
        .arg("-z")
        .arg(dir.join("zserv.api"))
        .arg("--vty_socket")
        .arg(dir)
        .args(["-P", "0", "--log", "stdout"]);
    if name == "bfdd" {
        command.arg("--bfdctl").arg(dir.join("bfdd.sock"));
    }
    Process::spawn(
        name,
        command,
        Some(netns.name()),
        &dir.join(format!("{name}.log")),
    )
}
