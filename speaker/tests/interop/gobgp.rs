//! Against GoBGP, as root in namespaces of their own.
//!
//! 1. Routes of both families go both ways on one session over IPv4 and are withdrawn (RFC 4760).

use std::process::Command;

use anyhow::{Result, ensure};
use margay_lab::{Process, eventually, run};

use crate::support::{Lab, PATIENCE, config, them};

/// A running gobgpd.
pub(crate) struct Gobgp<'a> {
    process: Process,
    lab: &'a Lab,
}

impl<'a> Gobgp<'a> {
    /// `more` goes into the neighbour's table of the file, behind its families.
    pub(crate) fn start(lab: &'a Lab, more: &str) -> Result<Self> {
        Self::start_with(lab, more, "")
    }

    /// The same with `each` in the table of each family.
    pub(crate) fn start_with(lab: &'a Lab, more: &str, each: &str) -> Result<Self> {
        let conf = lab.dir.path().join("gobgp.toml");
        let family = |name: &str| {
            format!(
                "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}\"\n{each}"
            )
        };
        let text = format!(
            "[global.config]\nas = 65002\nrouter-id = \"192.0.2.2\"\n[[neighbors]]\n\
             [neighbors.config]\nneighbor-address = \"192.0.2.1\"\npeer-as = 65001\n\
             [neighbors.timers.config]\nconnect-retry = 1\nhold-time = 9\n{}{}{more}",
            family("ipv4-unicast"),
            family("ipv6-unicast")
        );
        std::fs::write(&conf, text)?;
        let mut command = Command::new("gobgpd");
        command
            .arg("-f")
            .arg(&conf)
            .args(["--api-hosts", "127.0.0.1:50051"]);
        let log = lab.dir.path().join("gobgp.log");
        let process = Process::spawn("gobgpd", command, Some(&lab.them), &log)?;
        let gobgp = Self { process, lab };
        eventually(PATIENCE, "gobgpd answers", || gobgp.ask("global"))?;
        Ok(gobgp)
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    pub(crate) fn ask(&self, command: &str) -> Result<String> {
        run(Command::new("ip")
            .args(["netns", "exec", &self.lab.them, "gobgp"])
            .args(command.split_whitespace()))
    }

    pub(crate) fn shows(&self, command: &str, text: &str, wanted: bool) -> Result<()> {
        eventually(
            PATIENCE,
            &format!("gobgp's `{command}` and `{text}`: {wanted}"),
            || {
                let answer = self.ask(command)?;
                ensure!(answer.contains(text) == wanted, "{answer}");
                Ok(())
            },
        )
    }
}

#[test]
fn routes_of_both_families_go_both_ways_and_are_withdrawn() -> Result<()> {
    let lab = Lab::new()?;
    let gobgp = Gobgp::start(&lab, "")?;
    gobgp.ask("global rib add 10.1.0.0/24")?;
    gobgp.ask("global rib add -a ipv6 2001:db8:beef::/48 nexthop 2001:db8::2")?;
    let ours = lab.speaker(&config(them()))?;
    ours.originate(&["198.51.100.0/24", "2001:db8:100::/48"], true)?;
    ours.is_up()?;
    ensure!(ours.learns("10.1.0.0/24")? == "[192.0.2.2]");
    ours.learns("2001:db8:beef::/48")?;
    gobgp.shows("global rib 198.51.100.0/24", "65001:7", true)?;
    gobgp.shows("global rib -a ipv6", "2001:db8:100::/48", true)?;
    ours.originate(&["198.51.100.0/24"], false)?;
    gobgp.shows("global rib", "198.51.100.0/24", false)?;
    gobgp.ask("global rib del 10.1.0.0/24")?;
    ours.loses("10.1.0.0/24")
}
