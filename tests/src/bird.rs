//! BIRD 2 as a router in a namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::eventually::eventually;
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::{Process, run};

const START: Duration = Duration::from_secs(60);

/// A running BIRD. Dropping it kills it.
#[derive(Debug)]
pub struct Bird {
    process: Process,
    control: PathBuf,
}

/// A line of `show protocols`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BirdProtocol {
    /// As configured.
    pub name: String,
    /// `BGP`, `Kernel`, ...
    pub kind: String,
    /// `up`, `start`, ...
    pub state: String,
    /// For BGP: `Established`, or why not.
    pub info: String,
}

impl Bird {
    /// Starts BIRD with this configuration; its files go to `dir`.
    pub fn start(netns: &NetNs, dir: &Path, config: &str) -> Result<Self> {
        let name = netns.name();
        let file = dir.join(format!("bird-{name}.conf"));
        let control = dir.join(format!("bird-{name}.ctl"));
        fs::write(&file, config)?;
        run(Command::new("bird").arg("-p").arg("-c").arg(&file))
            .context("BIRD finds fault with its configuration")?;
        let mut command = Command::new("bird");
        command
            .arg("-f")
            .arg("-c")
            .arg(&file)
            .arg("-s")
            .arg(&control);
        let log = dir.join(format!("bird-{name}.log"));
        let mut bird = Self {
            process: Process::spawn("bird", command, Some(name), &log)?,
            control,
        };
        eventually(START, "BIRD answers", || {
            bird.process.ensure_running()?;
            bird.ctl("show status")
        })?;
        Ok(bird)
    }

    /// Runs a command of `birdc`.
    pub fn ctl(&self, command: &str) -> Result<String> {
        run(Command::new("birdc")
            .arg("-r")
            .arg("-s")
            .arg(&self.control)
            .args(command.split_whitespace()))
    }

    /// What `show protocols` says.
    pub fn protocols(&self) -> Result<Vec<BirdProtocol>> {
        Ok(parse_protocols(&self.ctl("show protocols")?))
    }

    /// An error unless the BGP session `name` is established.
    pub fn ensure_established(&self, name: &str) -> Result<()> {
        let all = self.protocols()?;
        let found = all.into_iter().find(|p| p.name == name);
        let session = found.with_context(|| format!("BIRD has no protocol {name}"))?;
        ensure!(
            session.info.starts_with("Established"),
            "BIRD says of session {name}: {} {}",
            session.state,
            session.info
        );
        Ok(())
    }

    /// What runs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Leaves it running for good. Its pid and control socket.
    pub fn keep(self) -> (u32, PathBuf) {
        let pid = self.process.pid();
        self.process.leave_running();
        (pid, self.control)
    }
}

fn parse_protocols(text: &str) -> Vec<BirdProtocol> {
    let parse = |line: &str| {
        // Name, Proto, Table, State, Since, Info; Since is one word here, or two with a date.
        let mut words = line.split_whitespace();
        let protocol = BirdProtocol {
            name: words.next()?.to_owned(),
            kind: words.next()?.to_owned(),
            state: words.nth(1)?.to_owned(),
            info: words.skip(1).collect::<Vec<_>>().join(" "),
        };
        Some(protocol)
    };
    let lines = text.lines().skip_while(|l| !l.starts_with("Name"));
    lines.skip(1).filter_map(parse).collect()
}

/// A top-of-rack router in AS `tor_as` with one session per host and family, hosts in AS `host_as`.
/// Sessions are named `h1_v4`, `h1_v6`, ...
pub fn tor_config(lab: &Lab, tor_as: u32, host_as: u32) -> String {
    let mut config = String::from(
        "router id 198.51.100.1;\n\
         protocol device { scan time 2; }\n\
         protocol kernel { ipv4 { import none; export all; }; merge paths yes limit 8; }\n\
         protocol kernel { ipv6 { import none; export all; }; merge paths yes limit 8; }\n",
    );
    for host in &lab.hosts {
        let ends = [
            ("v4", "ipv4", host.tor_v4.to_string(), host.v4.to_string()),
            ("v6", "ipv6", host.tor_v6.to_string(), host.v6.to_string()),
        ];
        for (family, channel, local, neighbor) in ends {
            config += &format!(
                "protocol bgp {}_{family} {{\n  local {local} as {tor_as};\n  \
                 neighbor {neighbor} as {host_as};\n  direct;\n  connect retry time 1;\n  \
                 connect delay time 1;\n  error wait time 1, 5;\n  graceful restart on;\n  \
                 {channel} {{ import all; export all; next hop self; }};\n}}\n",
                host.name
            );
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_read_from_birds_table() {
        let text = "BIRD 2.0.12 ready.\nAccess restricted\n\
            Name       Proto      Table      State  Since         Info\n\
            device1    Device     ---        up     08:13:00.123  \n\
            h1_v4      BGP        ---        up     08:13:01.300  Established   \n\
            h2_v4      BGP        ---        start  08:13:01.300  Active        Socket: No route\n";
        let found = parse_protocols(text);
        assert_eq!(found.len(), 3);
        assert_eq!(
            (found[1].name.as_str(), found[1].info.as_str()),
            ("h1_v4", "Established")
        );
        assert_eq!(found[2].info, "Active Socket: No route");
        assert_eq!(found[2].state, "start");
    }
}
