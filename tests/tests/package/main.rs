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

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;

use anyhow::{Context, Result, ensure};
use margay_lab::{Lab, Machine, ping};

use machine::{SOON, package};

const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: v4}\n\
    spec: {cidr: 10.65.0.0/24}\n";

/// All that a package is to bring, of which what can be tried by itself is tried.
fn ensure_complete(copy: &Machine) -> Result<()> {
    let listed = copy.run("dpkg -L margay")?;
    let listed: BTreeSet<_> = listed.lines().collect();
    for path in [
        "/usr/bin/margayd",
        "/usr/bin/margayctl",
        "/usr/bin/margay-speaker",
        "/usr/bin/kubectl-margay",
        "/usr/lib/cni/margay-cni",
        "/lib/systemd/system/margayd.service",
        "/lib/systemd/system/margay-speaker.service",
        "/etc/margay/margayd.yaml",
        "/etc/iproute2/rt_protos.d/margay.conf",
        "/usr/share/margay/cni/10-margay.conflist",
        "/usr/share/margay/etcd/roles",
        "/usr/share/margay/etcd/make-roles.sh",
        "/usr/share/margay/monitoring/rules.yaml",
        "/usr/share/margay/monitoring/prometheus.yaml",
        "/usr/share/margay/monitoring/grafana-margay.json",
        "/usr/share/bash-completion/completions/margayctl",
        "/usr/share/zsh/vendor-completions/_margayctl",
        "/usr/share/fish/vendor_completions.d/margayctl.fish",
        "/usr/share/man/man1/margayctl.1.gz",
        "/usr/share/doc/margay/copyright",
        "/usr/share/doc/margay/examples/tor/frr.conf",
    ] {
        ensure!(listed.contains(path), "{path} is not in the package");
    }
    for (unit, exposure) in [("margayd", 60), ("margay-speaker", 40)] {
        let verified = copy.run(&format!(
            "systemd-analyze verify --man=no {unit}.service 2>&1"
        ))?;
        ensure!(!verified.contains("margay"), "{verified}");
        // Of 100; a unit that restricts nothing has 96.
        copy.run(&format!(
            "systemd-analyze security --offline=true --threshold={exposure} {unit}.service"
        ))?;
    }
    copy.run(
        "bash -ec 'source /usr/share/bash-completion/completions/margayctl; complete -p margayctl'",
    )?;
    copy.run("zsh -n /usr/share/zsh/vendor-completions/_margayctl")?;
    copy.run("fish -n /usr/share/fish/vendor_completions.d/margayctl.fish")?;
    copy.run("zcat /usr/share/man/man1/margayctl-apply.1.gz | grep -q margayctl")?;
    Ok(())
}

#[test]
fn the_package_installs_serves_upgrades_and_goes() -> Result<()> {
    let lab = Lab::new(1)?;
    let host = &lab.hosts[0];
    let container = lab.container_netns("c1")?;
    let deb = package(&host.dir)?;
    let copy = Machine::new(host)?;
    fs::copy(&deb, copy.path("/root/margay.deb"))?;

    copy.run("dpkg -i /root/margay.deb")?;
    ensure_complete(&copy)?;
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
