//! A named network namespace that is removed when its guard drops.

use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{run, within};

/// Every lab of this process gets a number of its own.
static LABS: AtomicU32 = AtomicU32::new(0);

/// A name that no other lab on the machine uses.
pub(crate) fn unique_lab_name() -> String {
    let number = LABS.fetch_add(1, Ordering::Relaxed);
    format!("mg{}-{number}", std::process::id())
}

/// The guard of a namespace.
#[derive(Debug)]
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// Makes it, with its loopback interface up and duplicate address detection off, which would hold
    /// back every IPv6 address for a second.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let netns = Self { name };
        netns.ip("link set lo up")?;
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        netns.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        Ok(netns)
    }

    /// The name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace, as CNI_NETNS wants it.
    pub fn path(&self) -> PathBuf {
        path(&self.name)
    }

    /// `program` inside the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        within(&self.name, &Command::new(program))
    }

    /// Runs a command line, split at spaces, and returns its output.
    pub fn exec(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        run(self.command(program).args(words))
    }

    /// Runs `ip` with arguments split at spaces.
    pub fn ip(&self, args: &str) -> Result<String> {
        run(self.command("ip").args(args.split_whitespace()))
    }

    /// Sets a sysctl of the namespace.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        run(self
            .command("sysctl")
            .args(["-qw", &format!("{name}={value}")]))?;
        Ok(())
    }

    /// Runs `work` on a thread of its own inside the namespace.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        within_netns(&self.name, work)
    }

    /// The namespace's file, open: what `setns` wants.
    pub(crate) fn open(&self) -> Result<File> {
        open(&self.name)
    }

    /// Leaves the namespace for good. Its name.
    pub fn keep(self) -> String {
        let name = self.name.clone();
        std::mem::forget(self);
        name
    }

    fn remove(&self) -> Result<()> {
        let pids = run(Command::new("ip").args(["netns", "pids", &self.name]))?;
        for pid in pids.split_whitespace() {
            // The namespace is ours, so is what runs in it. It may have ended by itself.
            kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL).ok();
        }
        run(Command::new("ip").args(["netns", "del", &self.name]))?;
        Ok(())
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        // A guard has nobody to tell; a namespace that is already gone is fine.
        drop(self.remove());
    }
}

/// Runs `work` on a thread of its own inside the namespace of this name.
pub(crate) fn within_netns<T: Send>(
    name: &str,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let file = open(name)?;
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        thread
            .join()
            .unwrap_or_else(|_panic| Err(anyhow!("the thread in the namespace panicked")))
    })
}

fn open(name: &str) -> Result<File> {
    let path = path(name);
    File::open(&path).with_context(|| format!("cannot open {}", path.display()))
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}
