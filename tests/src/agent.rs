//! An agent on a host of the lab, and the command line pointed at it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::binary::binary;
use crate::ctl::Ctl;
use crate::eventually::{REQUEST_MS, eventually, patience, request_env};
use crate::lab::Host;
use crate::manager::Manager;
use crate::process::Process;

/// A loaded machine takes its time.
const START: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(30);

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
    env: Vec<(String, String)>,
    request_ms: u32,
    program: Option<PathBuf>,
    process: Option<Process>,
}

impl Agent {
    /// Starts an agent on `host`, named after it, and waits until its socket answers.
    pub fn start(host: &Host, datastore: &Datastore) -> Result<Self> {
        let mut agent = Self::prepare(host, datastore)?;
        agent.restart()?;
        Ok(agent)
    }

    /// Writes the configuration of an agent that [`Self::restart`] then starts.
    pub fn prepare(host: &Host, datastore: &Datastore) -> Result<Self> {
        let dir = &host.dir;
        let store = match datastore {
            Datastore::Etcd(url) => format!("  type: etcdv3\n  endpoints: [\"{url}\"]\n"),
            Datastore::Embedded => {
                let path = dir.join("store.redb");
                format!("  type: embedded\n  path: {}\n", path.display())
            }
        };
        let config = format!(
            "node_name: {}\nsocket: {}\ncni_journal: {}\nsnapshot: {}\nwireguard_keys: {}\nnode_ip: {}/30\nnode_ip6: {}/64\n\
             datastore:\n{store}",
            host.name,
            dir.join("margayd.sock").display(),
            dir.join("cni-journal").display(),
            dir.join("snapshot.redb").display(),
            dir.join("wireguard").display(),
            host.v4,
            host.v6,
        );
        fs::write(dir.join("margayd.yaml"), config)?;
        Ok(Self {
            name: host.name.clone(),
            netns: host.netns.name().to_owned(),
            dir: dir.clone(),
            env: Vec::new(),
            request_ms: REQUEST_MS,
            program: None,
            process: None,
        })
    }

    /// The environment of the next start, beside what is inherited.
    pub fn set_env(&mut self, env: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.env = env.iter().map(owned).collect();
    }

    /// How many milliseconds a request to etcd may take from the next start on: few where etcd does not answer, and
    /// somebody waits.
    pub fn set_request_limit(&mut self, millis: u32) {
        self.request_ms = millis;
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

    /// What the next start runs, instead of the program that was built.
    pub fn set_program(&mut self, program: PathBuf) {
        self.program = Some(program);
    }

    /// Starts it (again) and waits until its socket answers.
    pub fn restart(&mut self) -> Result<()> {
        self.start_under(None)
    }

    /// Starts it (again) by a service manager, with what that keeps for it.
    pub fn restart_under(&mut self, manager: &Manager) -> Result<()> {
        self.start_under(Some(manager))
    }

    fn start_under(&mut self, manager: Option<&Manager>) -> Result<()> {
        self.kill()?;
        let program = match &self.program {
            Some(program) => program.clone(),
            None => binary("margayd")?,
        };
        let mut command = Command::new(program);
        command.arg("--config").arg(self.config_file());
        command.envs([request_env(self.request_ms)]);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let mut passed = Vec::new();
        if let Some(manager) = manager {
            (command, passed) = manager.pass_to(&command)?;
        }
        let log = self.log_file();
        let process = Process::spawn("margayd", command, Some(&self.netns), &log)?;
        // The process has its own.
        drop(passed);
        self.process = Some(process);
        let what = format!("the agent on {} answers", self.name);
        let socket = self.socket();
        eventually(START, &what, || {
            self.process()?.ensure_running()?;
            UnixStream::connect(&socket).context("its socket is not there")
        })?;
        Ok(())
    }

    /// `margayctl` on this host, talking to this agent.
    pub fn ctl(&self) -> Ctl {
        Ctl::with_agent(&self.netns, self.socket(), &self.dir)
    }

    /// The state that the agent reports over its socket.
    pub fn status(&self) -> Result<Value> {
        self.ask("{\"node_status\":{}}")
    }

    /// The agent's answer to a line of JSON over its socket.
    pub fn ask(&self, question: &str) -> Result<Value> {
        let mut stream = UnixStream::connect(self.socket())
            .with_context(|| format!("the agent on {} has no socket", self.name))?;
        stream.set_read_timeout(Some(ANSWER * patience()))?;
        stream.write_all(format!("{question}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let reply: Value = serde_json::from_str(&line)
            .with_context(|| format!("the agent on {} answers {line:?}", self.name))?;
        match reply.get("ok") {
            Some(answer) => Ok(answer.clone()),
            None => bail!("the agent on {} answers {reply}", self.name),
        }
    }

    /// An error that says why, unless the agent has programmed everything and serves ADD.
    pub fn ensure_ready(&self) -> Result<()> {
        let status = self.status()?;
        ensure!(
            status["ready"] == true,
            "the agent on {} waits for {}",
            self.name,
            status["not_ready_reasons"]
        );
        Ok(())
    }

    /// The number of BGP sessions, all of them established and no fewer than `at_least`; an error that
    /// names one that is not.
    pub fn ensure_sessions(&self, at_least: usize) -> Result<usize> {
        let status = self.status()?;
        let peers = status["bgp"]["peers"].as_array();
        let peers = peers.context("a status without peers")?;
        for peer in peers {
            ensure!(
                peer["state"] == "Established",
                "the agent on {} says of session {} with {}: {} {}",
                self.name,
                peer["name"],
                peer["address"],
                peer["state"],
                peer["last_error"]
            );
        }
        ensure!(
            peers.len() >= at_least,
            "the agent on {} has {} sessions, expected {at_least}",
            self.name,
            peers.len()
        );
        Ok(peers.len())
    }

    /// Leaves it running for good. Its pid.
    pub fn keep(mut self) -> Option<u32> {
        let process = self.process.take()?;
        let pid = process.pid();
        process.leave_running();
        Some(pid)
    }
}
