//! `margayctl` as an operator uses it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::binary::binary;
use crate::eventually::{REQUEST_MS, request_env};
use crate::netns::NetNs;
use crate::process::{run, within};

/// The command line with its way to the datastore.
#[derive(Clone, Debug)]
pub struct Ctl {
    netns: String,
    way: Way,
    dir: PathBuf,
}

#[derive(Clone, Debug)]
enum Way {
    Etcd(String),
    Socket(PathBuf),
}

impl Ctl {
    /// Straight to etcd at `url`, run in `netns`; `dir` is for the files it reads.
    pub fn with_etcd(netns: &NetNs, url: &str, dir: &Path) -> Self {
        Self {
            netns: netns.name().to_owned(),
            way: Way::Etcd(url.to_owned()),
            dir: dir.to_owned(),
        }
    }

    pub(crate) fn with_agent(netns: &str, socket: PathBuf, dir: &Path) -> Self {
        Self {
            netns: netns.to_owned(),
            way: Way::Socket(socket),
            dir: dir.to_owned(),
        }
    }

    /// The command without arguments.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(binary("margayctl")?);
        match &self.way {
            Way::Etcd(url) => {
                command.env("DATASTORE_TYPE", "etcdv3");
                command.env("ETCD_ENDPOINTS", url);
                command.envs([request_env(REQUEST_MS)]);
            }
            Way::Socket(socket) => {
                command.arg("--socket").arg(socket);
            }
        }
        Ok(within(&self.netns, &command))
    }

    /// Runs it with arguments split at spaces.
    pub fn run(&self, args: &str) -> Result<String> {
        run(self.command()?.args(args.split_whitespace()))
    }

    /// Applies resources.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        let file = self.dir.join("resources.yaml");
        fs::write(&file, yaml)?;
        self.run(&format!("apply -f {}", file.display()))
    }

    /// Deletes resources.
    pub fn delete(&self, yaml: &str) -> Result<String> {
        let file = self.dir.join("resources.yaml");
        fs::write(&file, yaml)?;
        self.run(&format!("delete -f {}", file.display()))
    }
}
