//! The Debian package: made, installed, used and removed on copies of a machine that are thrown away.
//!
//! 1. What it installs is complete, and what its unit starts works with the unit's capabilities alone.
//! 2. The service manager hears when the agent is ready, and is fed.
//! 3. A container attached by the packaged plugin is reached; `ip route` calls our routes by name.
//! 4. An upgrade leaves the configuration alone; removal takes the programs, and a purge everything.
//! 5. Two machines with nothing but the package and an etcd make a network ([`fresh`]); with the packaged configuration of
//!    Prometheus every query of the dashboard has an answer, and alerts find what is broken.
//!
//! ```text
//!   host (network namespace of a lab) - c1
//!    `- a mount namespace, in it an overlay over / (or MARGAY_DEBIAN_ROOT), in it everything below
//! ```

mod fresh;
mod machine;

use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;

use anyhow::{Context, Result, ensure};
use margay_lab::{Lab, ping};

use machine::{Copy, SOON, package};

const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: v4}\n\
    spec: {cidr: 10.65.0.0/24}\n";

#[test]
fn the_package_installs_serves_upgrades_and_goes() -> Result<()> {
    let lab = Lab::new(1)?;
    let host = &lab.hosts[0];
    let container = lab.container_netns("c1")?;
    let deb = package(&host.dir)?;
    let copy = Copy::new(host)?;
    fs::copy(&deb, copy.path("/root/margay.deb"))?;

    copy.run("dpkg -i /root/margay.deb")?;
    let verified = copy.run("systemd-analyze verify --man=no margayd.service 2>&1")?;
    ensure!(!verified.contains("margayd"), "{verified}");
    copy.run(
        "bash -ec 'source /usr/share/bash-completion/completions/margayctl; complete -p margayctl'",
    )?;
    copy.run("zcat /usr/share/man/man1/margayctl-apply.1.gz | grep -q margayctl")?;
    let address = format!("node_ip: {}/30", host.v4);
    copy.run(&format!(
        "echo '{address}' >>/etc/margay/margayd.yaml; mkdir -p /run/margay"
    ))?;

    let manager = UnixDatagram::bind(copy.path("/run/notify"))?;
    let mut agent = machine::start(&copy, &host.dir, "/run/notify")?;
    machine::ready_and_fed(&manager).with_context(|| agent.log_tail(20))?;
    let mut apply = copy.command("margayctl");
    copy.run_with(apply.args(["apply", "-f", "-"]), POOL)?;
    let list = "/usr/share/margay/cni/10-margay.conflist";
    let added = machine::cni(&copy, list, "ADD", "c1", &container)?;
    let ip = added["ips"][0]["address"].as_str().context("an address")?;
    let ip: IpAddr = ip.split('/').next().unwrap_or_default().parse()?;
    ping(&host.netns, ip, SOON)?;
    let routes = copy.run("ip route")?;
    let ours = format!("{ip} dev ");
    let route = routes.lines().find(|line| line.starts_with(&ours));
    ensure!(
        route.is_some_and(|r| r.contains("proto margay")),
        "{routes}"
    );

    copy.run("dpkg -i /root/margay.deb")?;
    let config = copy.run("cat /etc/margay/margayd.yaml")?;
    ensure!(config.contains(&address), "{config}");
    agent.ensure_running()?;
    machine::cni(&copy, list, "DEL", "c1", &container)?;
    agent.stop()?;

    copy.run("dpkg -r margay")?;
    copy.run("test ! -e /usr/bin/margayd && test -e /etc/margay/margayd.yaml && test -e /var/lib/margay/store.redb")?;
    copy.run("dpkg -P margay")?;
    copy.run(
        "test ! -e /etc/margay && test ! -e /var/lib/margay && test ! -e /usr/lib/cni/margay-cni",
    )?;
    Ok(())
}
