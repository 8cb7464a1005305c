//! GoBGP as a speaker in a namespace. It keeps routes to itself: nothing reaches the kernel.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::eventually::eventually;
use crate::netns::NetNs;
use crate::process::{Process, run, within};

const START: Duration = Duration::from_secs(60);

/// BGP_FSM_ESTABLISHED of its API.
const ESTABLISHED: u64 = 6;

/// A running GoBGP. Dropping it kills it.
#[derive(Debug)]
pub struct Gobgp {
    process: Process,
    netns: String,
}

impl Gobgp {
    /// Starts it with this TOML configuration; its files go to `dir`.
    pub fn start(netns: &NetNs, dir: &Path, config: &str) -> Result<Self> {
        let name = netns.name().to_owned();
        let file = dir.join(format!("gobgp-{name}.toml"));
        fs::write(&file, config)?;
        let mut command = Command::new("gobgpd");
        command.arg("-f").arg(&file);
        // One address for all is fine: it is the namespace's own loopback.
        command.args(["--api-hosts", "127.0.0.1:50051", "--pprof-disable"]);
        let log = dir.join(format!("gobgp-{name}.log"));
        let process = Process::spawn("gobgpd", command, Some(&name), &log)?;
        let mut gobgp = Self {
            process,
            netns: name,
        };
        eventually(START, "GoBGP answers", || {
            gobgp.process.ensure_running()?;
            gobgp.ctl("global")
        })?;
        Ok(gobgp)
    }

    /// Runs `gobgp` with arguments split at spaces.
    pub fn ctl(&self, args: &str) -> Result<String> {
        let mut command = Command::new("gobgp");
        command.args(args.split_whitespace());
        run(&mut within(&self.netns, &command))
    }

    /// The same with an answer in JSON.
    pub fn json(&self, args: &str) -> Result<Value> {
        let text = self.ctl(&format!("-j {args}"))?;
        serde_json::from_str(&text).with_context(|| format!("gobgp {args} says {text}"))
    }

    /// An error unless the session with this address is established.
    pub fn ensure_established(&self, neighbor: &str) -> Result<()> {
        let answer = self.json(&format!("neighbor {neighbor}"))?;
        let state = &answer["state"]["session_state"];
        ensure!(
            state.as_u64() == Some(ESTABLISHED),
            "GoBGP says of session {neighbor}: state {state}"
        );
        Ok(())
    }
}
