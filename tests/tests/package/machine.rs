//! The package under test, and what its unit starts.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use margay_lab::{Machine, NetNs, Process, binary, run};
use serde_json::Value;

pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The package of the programs under test, without what only a debugger reads.
pub(crate) fn package(dir: &Path) -> Result<PathBuf> {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin)?;
    for name in ["margayd", "margayctl", "margay-speaker", "margay-cni"] {
        let mut strip = Command::new("strip");
        run(strip.arg("-o").arg(bin.join(name)).arg(binary(name)?))?;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/deb.sh");
    let mut command = Command::new(script);
    command.arg(&bin).arg(dir).env("DEB_COMPRESSION", "none");
    Ok(run(&mut command)?.trim().into())
}

/// What the unit starts, with the capabilities that it leaves; `notify` is where it tells of itself.
pub(crate) fn start(copy: &Machine, dir: &Path, notify: &str) -> Result<Process> {
    let unit = copy.run("cat /lib/systemd/system/margayd.service")?;
    let of = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key));
        line.with_context(|| format!("no {key} in the unit: {unit}"))
    };
    let bounds: String = of("CapabilityBoundingSet=")?
        .split_whitespace()
        .map(|cap| format!(",+{}", cap.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let mut command = copy.command("env");
    command.args([&format!("NOTIFY_SOCKET={notify}"), "WATCHDOG_USEC=300000"]);
    command.args(["setpriv", "--no-new-privs", "--inh-caps=-all"]);
    command.arg(format!("--bounding-set=-all{bounds}"));
    command.args(of("ExecStart=")?.split_whitespace());
    Process::spawn("margayd", command, None, &dir.join("packaged.log"))
}

/// Waits until both were told.
pub(crate) fn ready_and_fed(manager: &UnixDatagram) -> Result<()> {
    manager.set_read_timeout(Some(SOON))?;
    let mut missing = BTreeSet::from(["READY=1".to_owned(), "WATCHDOG=1".to_owned()]);
    let mut heard = [0; 4096];
    while !missing.is_empty() {
        let length = manager.recv(&mut heard);
        let length = length.with_context(|| format!("not told: {missing:?}"))?;
        let text = String::from_utf8_lossy(&heard[..length]).into_owned();
        missing.retain(|line| !text.lines().any(|told| told == line));
    }
    Ok(())
}

/// ADD or DEL by what the package installed.
pub(crate) fn cni(
    copy: &Machine,
    list: &str,
    verb: &str,
    id: &str,
    container: &NetNs,
) -> Result<Value> {
    copy.cni("/usr/lib/cni", list, verb, id, &container.path())
}
