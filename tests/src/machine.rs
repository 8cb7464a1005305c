//! A machine to be thrown away: a copy of this one's files in a host's network namespace, where anything may be
//! installed, removed and configured.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::eventually::eventually;
use crate::lab::Host;
use crate::process::{Process, run};

const SOON: Duration = Duration::from_secs(60);

/// Longer than a test takes, and the end of it if nobody else ends it.
const LIFE: &str = "600";

/// A copy of this machine's files, or of those below `MARGAY_DEBIAN_ROOT`; it goes with its process.
#[derive(Debug)]
pub struct Machine {
    holder: Process,
    root: PathBuf,
}

impl Machine {
    /// Makes it; it has the host's name.
    pub fn new(host: &Host) -> Result<Self> {
        let lower = std::env::var("MARGAY_DEBIAN_ROOT").unwrap_or_else(|_| "/".to_owned());
        let dir = host.dir.join("copy");
        fs::create_dir_all(&dir)?;
        let script = format!(
            "set -e; echo {name} >/proc/sys/kernel/hostname; mount -t tmpfs copy {dir}; cd {dir}; mkdir upper work root; \
             mount -t overlay copy -o lowerdir={lower},upperdir=upper,workdir=work root; \
             mount --rbind /proc root/proc; mount --rbind /dev root/dev; mount --rbind /sys root/sys; \
             mount -t tmpfs run root/run; mkdir root/run/netns; mount --rbind /run/netns root/run/netns; \
             rm -rf root/var/lib/margay root/etc/margay root/etc/cni; echo ready; exec sleep {LIFE}",
            name = host.name,
            dir = dir.display()
        );
        // Nothing of it is mounted where anybody else sees it, and removing the folder cannot reach through it; what
        // others mount later, namespaces of containers, is seen in it.
        let mut command = Command::new("unshare");
        command.args([
            "--uts",
            "--mount",
            "--propagation",
            "slave",
            "sh",
            "-c",
            &script,
        ]);
        let log = host.dir.join("copy.log");
        let mut holder = Process::spawn("a machine", command, Some(host.netns.name()), &log)?;
        eventually(SOON, "the machine is there", || {
            holder.ensure_running()?;
            ensure!(fs::read_to_string(&log)?.ends_with("ready\n"), "not yet");
            Ok(())
        })?;
        let root = dir.join("root");
        Ok(Self { holder, root })
    }

    /// A command in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "-u",
            "-m",
            "-n",
            "-t",
            &self.holder.pid().to_string(),
            "chroot",
        ]);
        command.arg(&self.root).arg(program);
        command
    }

    /// Runs a line of the shell in it.
    pub fn run(&self, line: &str) -> Result<String> {
        run(self.command("sh").args(["-c", line]))
    }

    /// Runs a command with this as its input.
    pub fn run_with(&self, command: &mut Command, input: &str) -> Result<String> {
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

    /// A file of it, as this process sees that.
    pub fn path(&self, path: &str) -> PathBuf {
        let outside = format!("/proc/{}/root", self.holder.pid());
        Path::new(&outside)
            .join(self.root.strip_prefix("/").unwrap_or(&self.root))
            .join(path.trim_start_matches('/'))
    }

    /// ADD or DEL as a runtime does it that has its plugins there: every plugin of the list, each with the result of the one before; backwards for DEL.
    pub fn cni(
        &self,
        plugins: &str,
        list: &str,
        verb: &str,
        id: &str,
        container: &Path,
    ) -> Result<Value> {
        let list: Value = serde_json::from_str(&self.run(&format!("cat {list}"))?)?;
        let mut called = list["plugins"].as_array().context("no plugins")?.clone();
        if verb == "DEL" {
            called.reverse();
        }
        let mut result = Value::Null;
        for mut conf in called {
            conf["name"] = list["name"].clone();
            conf["cniVersion"] = list["cniVersion"].clone();
            if !result.is_null() {
                conf["prevResult"] = result;
            }
            let plugin = conf["type"].as_str().context("no type")?.to_owned();
            let mut command = self.command("env");
            command.args([
                &format!("CNI_COMMAND={verb}"),
                &format!("CNI_CONTAINERID={id}"),
                &format!("CNI_NETNS={}", container.display()),
                "CNI_IFNAME=eth0",
                &format!("CNI_PATH={plugins}"),
                &format!("{plugins}/{plugin}"),
            ]);
            let text = self.run_with(&mut command, &conf.to_string())?;
            result = match text.trim() {
                "" => Value::Null,
                text => serde_json::from_str(text)?,
            };
        }
        Ok(result)
    }
}
