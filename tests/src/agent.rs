//! An agent on a host of the lab, and the command line pointed at it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::binary::binary;
use crate::eventually::eventually;
use crate::lab::Host;
use crate::netns::NetNs;
use crate::process::{Process, run};

const START: Duration = Duration::from_secs(20);

/// Where the agents' resources are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datastore {
    /// etcd at this URL.
    Etcd(String),
    /// A file in the agent's own folder.
    Embedded,
}

/// An agent. Dropping it kills it.
#[derive(Debug)]
pub struct Agent {
    name: String,
    netns: String,
    dir: PathBuf,
    process: Option<Process>,
}

impl Agent {
    /// Starts an agent on `host`, named after it, and waits until its socket answers.
    pub fn start(host: &Host, datastore: &Datastore) -> Result<Self> {
        let dir = &host.dir;
        let store = match datastore {
            Datastore::Etcd(url) => format!("  type: etcdv3\n  endpoints: [\"{url}\"]\n"),
            Datastore::Embedded => {
                let path = dir.join("store.redb");
                format!("  type: embedded\n  path: {}\n", path.display())
            }
        };
        let config = format!(
            "node_name: {}\nsocket: {}\ncni_journal: {}\nnode_ip: {}/30\nnode_ip6: {}/64\n\
             datastore:\n{store}",
            host.name,
            dir.join("margayd.sock").display(),
            dir.join("cni-journal").display(),
            host.v4,
            host.v6,
        );
        fs::write(dir.join("margayd.yaml"), config)?;
        let mut agent = Self {
            name: host.name.clone(),
            netns: host.netns.name().to_owned(),
            dir: dir.clone(),
            process: None,
        };
        agent.restart()?;
        Ok(agent)
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("margayd.sock")
    }

    /// Where the shim leaves the DELs that it could not hand over.
    pub fn journal(&self) -> PathBuf {
        self.dir.join("cni-journal")
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("margayd.yaml")
    }

    /// Its output.
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("margayd.log")
    }

    /// What runs, unless killed.
    pub fn process(&mut self) -> Result<&mut Process> {
        let name = &self.name;
        let process = self.process.as_mut();
        process.with_context(|| format!("the agent on {name} is not running"))
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Starts it (again) and waits until its socket answers.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let mut command = Command::new(binary("margayd")?);
        command.arg("--config").arg(self.config_file());
        let log = self.log_file();
        let process = Process::spawn("margayd", command, Some(&self.netns), &log)?;
        self.process = Some(process);
        let what = format!("the agent on {} answers", self.name);
        let socket = self.socket();
        eventually(START, &what, || {
            self.process()?.ensure_running()?;
            UnixStream::connect(&socket).context("its socket is not there")
        })?;
        Ok(())
    }

    /// Runs `margayctl` through this agent, with arguments split at spaces.
    pub fn ctl(&self, args: &str) -> Result<String> {
        let mut command = Command::new(binary("margayctl")?);
        command
            .arg("--socket")
            .arg(self.socket())
            .args(args.split_whitespace());
        run(&mut crate::process::within(&self.netns, &command))
    }

    /// Leaves it running for good. Its pid.
    pub fn keep(mut self) -> Option<u32> {
        let process = self.process.take()?;
        let pid = process.pid();
        process.leave_running();
        Some(pid)
    }
}

/// `margayctl` in a namespace with its own idea of where the datastore is.
pub fn ctl_with_etcd(netns: &NetNs, url: &str) -> Result<Command> {
    let mut command = netns.command(binary("margayctl")?);
    command.env("DATASTORE_TYPE", "etcdv3");
    command.env("ETCD_ENDPOINTS", url);
    Ok(command)
}
