//! The Debian package: made, installed, used and removed on a copy of this machine that is thrown away.
//!
//! 1. What it installs is complete, and what its unit starts works with the unit's capabilities alone.
//! 2. The service manager hears when the agent is ready, and is fed.
//! 3. A container attached by the packaged plugin is reached; `ip route` calls our routes by name.
//! 4. An upgrade leaves the configuration alone; removal takes the programs, and a purge everything.
//!
//! ```text
//!   host (network namespace of a lab) - c1
//!    `- a mount namespace, in it an overlay over /, in it everything below
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::{Lab, NetNs, Process, binary, eventually, ping, run};

const SOON: Duration = Duration::from_secs(30);

/// Longer than the test takes, and the end of it if nobody else ends it.
const LIFE: &str = "600";

const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: v4}\n\
    spec: {cidr: 10.65.0.0/24}\n";

/// A copy of this machine's files; it goes with its process.
struct Copy {
    holder: Process,
    root: PathBuf,
}

impl Copy {
    fn new(lab: &Lab) -> Result<Self> {
        let host = &lab.hosts[0];
        let dir = host.dir.join("copy");
        fs::create_dir_all(&dir)?;
        let script = format!(
            "set -e; mount -t tmpfs copy {dir}; cd {dir}; mkdir upper work root; \
             mount -t overlay copy -o lowerdir=/,upperdir=upper,workdir=work root; \
             mount --rbind /proc root/proc; mount --rbind /dev root/dev; mount --rbind /sys root/sys; \
             mount -t tmpfs run root/run; mkdir root/run/netns; mount --rbind /run/netns root/run/netns; \
             rm -rf root/var/lib/margay root/etc/margay; echo ready; exec sleep {LIFE}",
            dir = dir.display()
        );
        // Nothing of it is mounted where anybody else sees it, and removing the folder cannot reach through it.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
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
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-n", "-t", &self.holder.pid().to_string(), "chroot"]);
        command.arg(&self.root).arg(program);
        command
    }

    fn run(&self, line: &str) -> Result<String> {
        run(self.command("sh").args(["-c", line]))
    }

    /// With this as its input.
    fn run_with(&self, command: &mut Command, input: &str) -> Result<String> {
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
    fn path(&self, path: &str) -> PathBuf {
        let outside = format!("/proc/{}/root", self.holder.pid());
        Path::new(&outside)
            .join(self.root.strip_prefix("/").unwrap_or(&self.root))
            .join(path.trim_start_matches('/'))
    }
}

/// The package of the programs under test, without what only a debugger reads.
fn package(dir: &Path) -> Result<PathBuf> {
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

/// What the unit starts, with the capabilities that it leaves.
fn start(copy: &Copy, dir: &Path, notify: &str) -> Result<Process> {
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
fn ready_and_fed(manager: &UnixDatagram) -> Result<()> {
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

/// ADD or DEL by the packaged plugin, configured as the packaged list says.
fn cni(copy: &Copy, verb: &str, container: &NetNs) -> Result<String> {
    let list = copy.run("cat /usr/share/margay/cni/10-margay.conflist")?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    let mut conf = list["plugins"][0].clone();
    conf["name"] = list["name"].clone();
    conf["cniVersion"] = list["cniVersion"].clone();
    let mut command = copy.command("env");
    command.args([
        &format!("CNI_COMMAND={verb}"),
        "CNI_CONTAINERID=c1",
        &format!("CNI_NETNS={}", container.path().display()),
        "CNI_IFNAME=eth0",
        "CNI_PATH=/usr/lib/cni",
        "/usr/lib/cni/margay-cni",
    ]);
    copy.run_with(&mut command, &conf.to_string())
}

#[test]
fn the_package_installs_serves_upgrades_and_goes() -> Result<()> {
    let lab = Lab::new(1)?;
    let host = &lab.hosts[0];
    let container = lab.container_netns("c1")?;
    let deb = package(&host.dir)?;
    let copy = Copy::new(&lab)?;
    fs::copy(&deb, copy.path("/root/margay.deb"))?;

    copy.run("dpkg -i /root/margay.deb")?;
    let verified = copy.run("systemd-analyze verify --man=no margayd.service 2>&1")?;
    ensure!(!verified.contains("margayd"), "{verified}");
    copy.run(
        "bash -ec 'source /usr/share/bash-completion/completions/margayctl; complete -p margayctl'",
    )?;
    copy.run("zcat /usr/share/man/man1/margayctl-apply.1.gz | grep -q margayctl")?;
    let address = format!("node_ip: {}/30", host.v4);
    copy.run(&format!(
        "echo '{address}' >>/etc/margay/margayd.yaml; mkdir -p /run/margay"
    ))?;

    let manager = UnixDatagram::bind(copy.path("/run/notify"))?;
    let mut agent = start(&copy, &host.dir, "/run/notify")?;
    ready_and_fed(&manager).with_context(|| agent.log_tail(20))?;
    let mut apply = copy.command("margayctl");
    copy.run_with(apply.args(["apply", "-f", "-"]), POOL)?;
    let added: serde_json::Value = serde_json::from_str(&cni(&copy, "ADD", &container)?)?;
    let ip = added["ips"][0]["address"].as_str().context("an address")?;
    let ip: IpAddr = ip.split('/').next().unwrap_or_default().parse()?;
    ping(&host.netns, ip, SOON)?;
    let routes = copy.run("ip route")?;
    let ours = format!("{ip} dev ");
    let route = routes.lines().find(|line| line.starts_with(&ours));
    ensure!(
        route.is_some_and(|r| r.contains("proto margay")),
        "{routes}"
    );

    copy.run("dpkg -i /root/margay.deb")?;
    let config = copy.run("cat /etc/margay/margayd.yaml")?;
    ensure!(config.contains(&address), "{config}");
    agent.ensure_running()?;
    cni(&copy, "DEL", &container)?;
    agent.stop()?;

    copy.run("dpkg -r margay")?;
    copy.run("test ! -e /usr/bin/margayd && test -e /etc/margay/margayd.yaml && test -e /var/lib/margay/store.redb")?;
    copy.run("dpkg -P margay")?;
    copy.run(
        "test ! -e /etc/margay && test ! -e /var/lib/margay && test ! -e /usr/lib/cni/margay-cni",
    )?;
    Ok(())
}
