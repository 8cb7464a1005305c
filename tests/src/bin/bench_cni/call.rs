//! One call of a plugin as a runtime makes it, timed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use margay_lab::NetNs;
use serde_json::Value;

use crate::cpu;

/// A plugin with its network configuration.
#[derive(Clone, Debug)]
pub(crate) struct Plugin {
    pub(crate) program: PathBuf,
    pub(crate) config: Value,
}

/// What a call took.
#[derive(Clone, Debug)]
pub(crate) struct Took {
    pub(crate) wall: Duration,
    /// Of the plugin and what it ran.
    pub(crate) cpu: Duration,
    /// What the plugin printed.
    pub(crate) printed: String,
}

impl Plugin {
    /// ADD for `container`, in the namespace of the calling thread.
    pub(crate) fn add(&self, container: &NetNs) -> Result<Took> {
        self.call("ADD", container, "")
    }

    /// CHECK against what ADD printed.
    pub(crate) fn check(&self, container: &NetNs, added: &str) -> Result<Took> {
        self.call("CHECK", container, added)
    }

    /// DEL.
    pub(crate) fn del(&self, container: &NetNs) -> Result<Took> {
        self.call("DEL", container, "")
    }

    fn call(&self, verb: &str, container: &NetNs, previous: &str) -> Result<Took> {
        let config = match previous {
            "" => self.config.to_string(),
            previous => {
                let mut config = self.config.clone();
                config["prevResult"] = serde_json::from_str(previous)?;
                config.to_string()
            }
        };
        let folder = self.program.parent().unwrap_or(Path::new("/"));
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container.name())
            .env("CNI_NETNS", container.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let cpu = cpu::of_children()?;
        let begun = Instant::now();
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        stdin.write_all(config.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let wall = begun.elapsed();
        let cpu = cpu::of_children()?.saturating_sub(cpu);

        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{} {verb}: {printed}", self.program.display());
        }
        Ok(Took { wall, cpu, printed })
    }
}
