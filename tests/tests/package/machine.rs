//! A machine to be thrown away, with the package on it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::{Host, NetNs, Process, binary, eventually, run};
use serde_json::Value;

pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Longer than the test takes, and the end of it if nobody else ends it.
const LIFE: &str = "600";

/// A copy of this machine's files, or of those below `MARGAY_DEBIAN_ROOT`; it goes with its process.
pub(crate) struct Copy {
    holder: Process,
    root: PathBuf,
}

impl Copy {
    pub(crate) fn new(host: &Host) -> Result<Self> {
        let lower = std::env::var("MARGAY_DEBIAN_ROOT").unwrap_or_else(|_| "/".to_owned());
        let dir = host.dir.join("copy");
        fs::create_dir_all(&dir)?;
        let script = format!(
            "set -e; mount -t tmpfs copy {dir}; cd {dir}; mkdir upper work root; \
             mount -t overlay copy -o lowerdir={lower},upperdir=upper,workdir=work root; \
             mount --rbind /proc root/proc; mount --rbind /dev root/dev; mount --rbind /sys root/sys; \
             mount -t tmpfs run root/run; mkdir root/run/netns; mount --rbind /run/netns root/run/netns; \
             rm -rf root/var/lib/margay root/etc/margay root/etc/cni; echo ready; exec sleep {LIFE}",
            dir = dir.display()
        );
        // Nothing of it is mounted where anybody else sees it, and removing the folder cannot reach through it; what
        // others mount later, namespaces of containers, is seen in it.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", &script]);
        let log = host.dir.join("copy.log");
        let mut holder = Process::spawn("a copy of /", command, Some(host.netns.name()), &log)?;
        eventually(SOON, "a copy of the root", || {
            holder.ensure_running()?;
            ensure!(fs::read_to_string(&log)?.ends_with("ready\n"), "not yet");
            Ok(())
        })?;
        let root = dir.join("root");
        Ok(Self { holder, root })
    }

    /// A command in the copy.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-n", "-t", &self.holder.pid().to_string(), "chroot"]);
        command.arg(&self.root).arg(program);
        command
    }

    pub(crate) fn run(&self, line: &str) -> Result<String> {
        run(self.command("sh").args(["-c", line]))
    }

    /// With this as its input.
    pub(crate) fn run_with(&self, command: &mut Command, input: &str) -> Result<String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {text}{error}");
        Ok(text)
    }

    /// A file of the copy, as this process sees it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        let outside = format!("/proc/{}/root", self.holder.pid());
        Path::new(&outside)
            .join(self.root.strip_prefix("/").unwrap_or(&self.root))
            .join(path.trim_start_matches('/'))
    }
}

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
pub(crate) fn start(copy: &Copy, dir: &Path, notify: &str) -> Result<Process> {
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

/// ADD or DEL as a runtime does it: every plugin of the list, each with the result of the one before; backwards for DEL.
pub(crate) fn cni(
    copy: &Copy,
    list: &str,
    verb: &str,
    id: &str,
    container: &NetNs,
) -> Result<Value> {
    let list: Value = serde_json::from_str(&copy.run(&format!("cat {list}"))?)?;
    let mut plugins = list["plugins"].as_array().context("no plugins")?.clone();
    if verb == "DEL" {
        plugins.reverse();
    }
    let mut result = Value::Null;
    for mut conf in plugins {
        conf["name"] = list["name"].clone();
        conf["cniVersion"] = list["cniVersion"].clone();
        if !result.is_null() {
            conf["prevResult"] = result;
        }
        let plugin = conf["type"].as_str().context("no type")?.to_owned();
        let mut command = copy.command("env");
        command.args([
            &format!("CNI_COMMAND={verb}"),
            &format!("CNI_CONTAINERID={id}"),
            &format!("CNI_NETNS={}", container.path().display()),
            "CNI_IFNAME=eth0",
            "CNI_PATH=/usr/lib/cni",
            &format!("/usr/lib/cni/{plugin}"),
        ]);
        let text = copy.run_with(&mut command, &conf.to_string())?;
        result = match text.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text)?,
        };
    }
    Ok(result)
}
