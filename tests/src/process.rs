//! A daemon under test, and one-shot commands.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually::eventually;

/// How long a daemon may take to obey a SIGTERM before it is killed: it may take leave of others, on a loaded machine.
const GRACE: Duration = Duration::from_secs(60);

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`, in namespace `netns` if one is named.
    pub fn spawn(name: &str, command: Command, netns: Option<&str>, log: &Path) -> Result<Self> {
        let mut command = match netns {
            Some(netns) => within(netns, &command),
            None => command,
        };
        let out = File::options().create(true).append(true).open(log);
        let out = out.with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// The last lines of its output, for error messages.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// An error with its last output if it has ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "{} ended ({status}), its last output:\n{}",
                self.name,
                self.log_tail(15)
            );
        }
        Ok(())
    }

    /// Sends a signal, by pid.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// kill -9 and wait.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, wait, and SIGKILL if that does not help.
    pub fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        self.signal(Signal::SIGTERM)?;
        let ended = eventually(GRACE, "ends on SIGTERM", || {
            let status = self.child.try_wait()?;
            status.context("still running")
        });
        if ended.is_err() {
            self.kill()?;
            bail!("{} did not end on SIGTERM", self.name);
        }
        Ok(())
    }

    /// Leaves it running for good: the demo's KEEP=1.
    pub fn leave_running(self) {
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it has ended, which is what is wanted.
        drop(self.kill());
    }
}

/// The same command inside a named network namespace, as one process.
pub(crate) fn within(netns: &str, command: &Command) -> Command {
    let mut wrapped = Command::new("nsenter");
    wrapped.arg(format!("--net=/run/netns/{netns}")).arg("--");
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    wrapped
}

/// Runs a command to its end and returns its standard output; an error with everything it said otherwise.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    let out = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}{}",
        output.status,
        out,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(out.into_owned())
}
