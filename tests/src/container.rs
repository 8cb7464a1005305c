//! Containers: a namespace, attached by the CNI plugin exactly as a runtime would.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::binary::binary;
use crate::lab::{Host, Lab};
use crate::netns::NetNs;

/// Where the distribution has the reference plugins.
const DISTRIBUTION_PLUGINS: &str = "/usr/lib/cni";

/// The plugin as a host's runtime knows it.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// The program.
    pub program: PathBuf,
    /// The plugin's object of the network configuration, with name and cniVersion.
    pub config: Value,
    /// `CNI_ARGS`.
    pub args: String,
    host: String,
}

impl Plugin {
    /// `margay-cni` talking to `agent`, for the network `network`, with an address of each family.
    pub fn new(agent: &Agent, host: &Host, network: &str) -> Result<Self> {
        Ok(Self {
            program: binary("margay-cni")?,
            config: json!({
                "cniVersion": "1.0.0",
                "name": network,
                "type": "margay-cni",
                "socket": agent.socket(),
                "journal": agent.journal(),
                "ipam": {"type": "margay-ipam", "assign_ipv4": "true", "assign_ipv6": "true"},
            }),
            args: String::new(),
            host: host.netns.name().to_owned(),
        })
    }
}

/// A container's namespace with at most one attachment, `eth0`.
#[derive(Debug)]
pub struct Container {
    /// The container's name and CNI_CONTAINERID.
    pub id: String,
    /// Its namespace.
    pub netns: NetNs,
    /// The addresses that ADD returned.
    pub addresses: Vec<IpAddr>,
    plugin: Plugin,
}

impl Container {
    /// Makes the namespace; attaches nothing yet.
    pub fn new(lab: &Lab, id: &str, plugin: Plugin) -> Result<Self> {
        Ok(Self {
            id: id.to_owned(),
            netns: lab.container_netns(id)?,
            addresses: Vec::new(),
            plugin,
        })
    }

    /// ADD. The result as the plugin printed it.
    pub fn cni_add(&mut self) -> Result<Value> {
        let result: Value = serde_json::from_str(&self.cni("ADD")?)?;
        let ips = result["ips"].as_array().context("a result without ips")?;
        self.addresses = ips
            .iter()
            .map(|ip| {
                let address = ip["address"]
                    .as_str()
                    .context("an address that is no text")?;
                let (address, _length) = address.split_once('/').context("no prefix length")?;
                Ok(address.parse()?)
            })
            .collect::<Result<_>>()?;
        Ok(result)
    }

    /// DEL.
    pub fn cni_del(&mut self) -> Result<()> {
        self.cni("DEL")?;
        Ok(())
    }

    /// STATUS.
    pub fn cni_status(&self) -> Result<()> {
        let mut config = self.plugin.config.clone();
        config["cniVersion"] = "1.1.0".into();
        self.call("STATUS", &config)?;
        Ok(())
    }

    /// CHECK against the result of ADD.
    pub fn cni_check(&self, added: &Value) -> Result<()> {
        let mut config = self.plugin.config.clone();
        config["prevResult"] = added.clone();
        self.call("CHECK", &config)?;
        Ok(())
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Result<IpAddr> {
        self.address(IpAddr::is_ipv4)
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Result<IpAddr> {
        self.address(IpAddr::is_ipv6)
    }

    fn address(&self, wanted: impl Fn(&IpAddr) -> bool) -> Result<IpAddr> {
        let found = self.addresses.iter().copied().find(wanted);
        found.ok_or_else(|| anyhow!("{} has only {:?}", self.id, self.addresses))
    }

    fn cni(&self, verb: &str) -> Result<String> {
        self.call(verb, &self.plugin.config)
    }

    fn call(&self, verb: &str, config: &Value) -> Result<String> {
        let host = &self.plugin.host;
        let command = std::process::Command::new(&self.plugin.program);
        let mut command = crate::process::within(host, &command);
        let folder = self.plugin.program.parent();
        let folder = folder.context("a program without a folder")?;
        let path = format!("{}:{DISTRIBUTION_PLUGINS}", folder.display());
        let mut child = command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &self.id)
            .env("CNI_NETNS", self.netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", &self.plugin.args)
            .env("CNI_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        // A plugin that does not want its input closes the pipe, and says why.
        stdin.write_all(config.to_string().as_bytes()).ok();
        drop(stdin);
        let output = child.wait_with_output()?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "CNI {verb} of {} failed: {stdout}{}",
                self.id,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(stdout)
    }
}
