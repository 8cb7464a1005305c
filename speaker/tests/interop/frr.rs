//! Against FRR, as root in namespaces of their own. Without zebra bgpd knows no interface and
//! takes a link-local next hop for an error, so both run.
//!
//! 1. Routes of both families go both ways on one session over IPv4 and are withdrawn (RFC 4760).

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use anyhow::{Result, ensure};
use margay_lab::{Process, eventually, run};

use crate::support::{Lab, PATIENCE, config, them};

/// The configuration of both daemons for a session with us.
const CONFIG: &str = "router bgp 65002
 bgp router-id 192.0.2.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 192.0.2.1 remote-as 65001
 neighbor 192.0.2.1 timers 3 9
 neighbor 192.0.2.1 timers connect 1
 address-family ipv4 unicast
  network 10.1.0.0/24
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:beef::/48
  neighbor 192.0.2.1 activate
 exit-address-family
";

/// Running zebra and bgpd.
pub(crate) struct Frr<'a> {
    daemons: [Process; 2],
    dir: &'a Path,
}

impl<'a> Frr<'a> {
    pub(crate) fn start(lab: &'a Lab, config: &str) -> Result<Self> {
        let dir = lab.dir.path();
        // The daemons drop to the user frr.
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
        std::fs::write(dir.join("frr.conf"), config)?;
        run(Command::new("chown").arg("-R").arg("frr:frr").arg(dir))?;
        let zebra = Self::daemon(lab, "zebra")?;
        eventually(PATIENCE, "zebra has its socket", || {
            ensure!(dir.join("zserv.api").exists(), "there is none");
            Ok(())
        })?;
        let bgpd = Self::daemon(lab, "bgpd")?;
        Ok(Self {
            daemons: [zebra, bgpd],
            dir,
        })
    }

    fn daemon(lab: &Lab, name: &str) -> Result<Process> {
        let dir = lab.dir.path();
        let mut command = Command::new(format!("/usr/lib/frr/{name}"));
        command
            .arg("-f")
            .arg(dir.join("frr.conf"))
            .arg("-i")
            .arg(dir.join(format!("{name}.pid")))
            .arg("-z")
            .arg(dir.join("zserv.api"))
            .arg("--vty_socket")
            .arg(dir)
            .args(["-P", "0"]);
        Process::spawn(
            name,
            command,
            Some(&lab.them),
            &dir.join(format!("{name}.log")),
        )
    }

    /// kill -9 of both.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.daemons.iter_mut().rev().try_for_each(Process::kill)
    }

    pub(crate) fn ask(&self, command: &str) -> Result<String> {
        run(Command::new("vtysh")
            .arg("--vty_socket")
            .arg(self.dir)
            .args(["-c", command]))
    }

    pub(crate) fn shows(&self, command: &str, text: &str, wanted: bool) -> Result<()> {
        eventually(
            PATIENCE,
            &format!("bgpd's `{command}` and `{text}`: {wanted}"),
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
    let frr = Frr::start(&lab, CONFIG)?;
    let ours = lab.speaker(&config(them()))?;
    ours.originate(&["198.51.100.0/24", "2001:db8:100::/48"], true)?;
    ours.is_up()?;
    ensure!(ours.learns("10.1.0.0/24")? == "[192.0.2.2]");
    ours.learns("2001:db8:beef::/48")?;
    frr.shows(
        "show bgp ipv4 unicast 198.51.100.0/24",
        "Community: 65001:7",
        true,
    )?;
    frr.shows(
        "show bgp ipv6 unicast 2001:db8:100::/48",
        "2001:db8::1",
        true,
    )?;
    ours.originate(&["198.51.100.0/24"], false)?;
    frr.shows(
        "show bgp ipv4 unicast 198.51.100.0/24",
        "not in table",
        true,
    )?;
    frr.shows("show bgp ipv6 unicast", "2001:db8:100::/48", true)?;
    Ok(())
}
