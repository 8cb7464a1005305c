//! The daemon with the examples of its documentation.

#[path = "../../speaker/tests/loopback/raw.rs"]
#[expect(dead_code, reason = "the speaker's own tests use all of it")]
mod raw;

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use margay_bgp::prefix::Prefix;
use margay_lab::{Process, eventually, free_port, run};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use raw::{PATIENCE, RawPeer, prefix};

fn docs() -> Result<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/margay-speaker.md");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The address of a peer.
const fn host(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, n)
}

/// The example under a heading, for 127.0.0.0/8 and with what `more` adds.
fn example(heading: &str, at: SocketAddr, more: &str) -> Result<String> {
    let docs = docs()?;
    let (_, section) = docs.split_once(heading).context("no such heading")?;
    let (_, block) = section.split_once("```yaml\n").context("no example")?;
    let (text, _) = block.split_once("```").context("no end")?;
    let mut text = text.replace("0.0.0.0:179", &at.to_string());
    for n in [2, 3] {
        text = text.replace(&format!(" 192.0.2.{n}:"), &format!(" 127.0.0.{n}:"));
    }
    Ok(text + more)
}

struct Daemon {
    process: Process,
    at: SocketAddr,
    dir: TempDir,
}

impl Daemon {
    fn start(heading: &str, more: &str) -> Result<Self> {
        let at = SocketAddr::new(host(1).into(), free_port()?);
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("speaker.yaml");
        let more = more.replace("DIR", &dir.path().display().to_string());
        fs::write(&file, example(heading, at, &more)?)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_margay-speaker"));
        command.arg("--config").arg(&file);
        let log = dir.path().join("speaker.log");
        let mut process = Process::spawn("margay-speaker", command, None, &log)?;
        eventually(PATIENCE, "the daemon listens", || {
            process.ensure_running()?;
            anyhow::Ok(std::net::TcpStream::connect(at)?)
        })?;
        Ok(Self { process, at, dir })
    }

    fn peer(&self, n: u8, asn: u32) -> Result<RawPeer> {
        RawPeer::establish(host(n), self.at, asn, false)
    }
}

fn first(count: u32) -> Vec<Prefix> {
    (0..count).filter_map(prefix).map(Prefix::V4).collect()
}

#[test]
fn the_route_server_of_the_documentation_passes_routes_on_and_writes_archives() -> Result<()> {
    let more = "mrt: {table: DIR/table.mrt}\n";
    let mut daemon = Daemon::start("## A route server", more)?;
    let mut left = daemon.peer(2, 65002)?;
    let mut right = daemon.peer(3, 65003)?;
    left.send(&left.announcement(0..20, 1)?)?;
    right.hears("the routes", |told| told.keys().eq(&first(20)))?;
    daemon.process.signal(Signal::SIGUSR1)?;
    let table = daemon.dir.path().join("table.mrt");
    eventually(PATIENCE, "the table is written", || {
        let text = run(Command::new("bgpdump").args(["-v", "-m"]).arg(&table))?;
        ensure!(text.lines().count() == 20, "{text}");
        Ok(())
    })?;
    daemon.process.stop()
}

#[test]
fn the_reflector_of_the_documentation_reflects() -> Result<()> {
    let mut daemon = Daemon::start("## A route reflector", "")?;
    let mut left = daemon.peer(2, 65000)?;
    let mut right = daemon.peer(3, 65000)?;
    left.send(&left.announcement(0..20, 1)?)?;
    let mut want = first(20);
    want.push("198.51.100.0/24".parse()?);
    right.hears("the routes", |told| told.keys().eq(&want))?;
    left.hears("what the reflector originates", |told| {
        told.keys().eq(&want[20..])
    })?;
    daemon.process.stop()
}

#[test]
fn the_documentation_names_every_key() -> Result<()> {
    let docs = docs()?;
    let words: BTreeSet<&str> = docs
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .collect();
    for file in [
        "config.rs",
        "config/peer.rs",
        "daemon.rs",
        "filter_config.rs",
        "bmp/mod.rs",
    ] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../speaker/src")
            .join(file);
        let source = fs::read_to_string(path)?;
        let fields = source.lines().filter_map(|line| {
            let (name, _) = line.strip_prefix("    pub ")?.split_once(':')?;
            (!name.contains([' ', '('])).then_some(name)
        });
        let mut known = 0;
        for field in fields {
            known += 1;
            ensure!(
                words.contains(field),
                "{file}: {field} is not in the documentation"
            );
        }
        ensure!(known > 1, "{file}: no keys found");
    }
    Ok(())
}
