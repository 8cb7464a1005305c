//! A containerd of a host's own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use margay_lab::{Process, eventually, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::image::{self, IMAGE};
use crate::rack::{Rack, SOON};

/// The runtime, with the image imported. Dropping it kills it and everything that it started.
pub(crate) struct Containerd {
    pub(crate) socket: PathBuf,
    pub(crate) bin: PathBuf,
    pub(crate) conf: PathBuf,
    netns: String,
    dir: PathBuf,
    process: Option<Process>,
}

impl Containerd {
    /// On the host of this index, with the image in the containerd namespace `namespace`.
    pub(crate) fn start(rack: &Rack, host: usize, namespace: &str) -> Self {
        let (bin, conf) = rack.install(host, "1.0.0");
        let dir = rack.dir(host, "containerd");
        let socket = dir.join("containerd.sock");
        let config = format!(
            "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n\
             [grpc]\n  address = \"{socket}\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"{IMAGE}\"\n  \
             restrict_oom_score_adj = true\n  disable_apparmor = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  snapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"{bin}\"\n  conf_dir = \"{conf}\"\n",
            dir = dir.display(),
            socket = socket.display(),
            bin = bin.display(),
            conf = conf.display(),
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let mut containerd = Self {
            socket,
            bin,
            conf,
            netns: rack.host(host).netns.name().to_owned(),
            dir,
            process: None,
        };
        containerd.restart().unwrap();
        let archive = image::archive(&containerd.dir).unwrap();
        let archive = archive.to_str().unwrap().to_owned();
        let import = [
            "-n",
            namespace,
            "images",
            "import",
            "--snapshotter",
            "native",
            &archive,
        ];
        run(containerd.ctr().args(import)).unwrap();
        containerd
    }

    /// `ctr`, talking to it.
    pub(crate) fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(&self.socket);
        ctr
    }

    /// kill -9; containers run on.
    pub(crate) fn kill(&mut self) {
        self.process
            .take()
            .map(|mut process| process.kill())
            .transpose()
            .unwrap();
    }

    pub(crate) fn restart(&mut self) -> Result<()> {
        self.kill();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(self.dir.join("config.toml"));
        let log = self.dir.join("containerd.log");
        let process = self.process.insert(Process::spawn(
            "containerd",
            command,
            Some(&self.netns),
            &log,
        )?);
        eventually(SOON, "containerd answers", || {
            process.ensure_running()?;
            UnixStream::connect(&self.socket).context("no socket yet")
        })?;
        let mut version = self.ctr();
        eventually(SOON, "containerd serves", || run(version.arg("version")))?;
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        drop(self.process.take());
        end_those_of(&self.dir);
    }
}

/// Kills what names this folder in its arguments, or runs below it: shims and their containers outlive containerd.
pub(crate) fn end_those_of(dir: &Path) {
    let dir = dir.to_string_lossy().into_owned();
    let mut doomed = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let root = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        let first = root
            .lines()
            .find(|line| line.split(' ').nth(4) == Some("/"))
            .unwrap_or_default();
        let named = String::from_utf8_lossy(&arguments).contains(&dir) || first.contains(&dir);
        if named && pid != std::process::id().cast_signed() {
            doomed.push(pid);
        }
    }
    for pid in doomed {
        // One that has ended meanwhile is fine.
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_default();
    }
    // What was mounted there for containers; the deepest first.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut places: Vec<&str> = places.filter(|place| place.starts_with(&dir)).collect();
    places.sort_unstable();
    for place in places.into_iter().rev() {
        drop(Command::new("umount").args(["-l", place]).output());
    }
}
