//! The README's five minutes on one host, as they stand, on a machine that has the programs where `make install` puts them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use margay_lab::{Lab, Machine, binary, eventually, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::blocks::blocks;
use crate::{SOON, root};

/// Ends what a block has left in the background.
struct Background<'a>(&'a Machine);

impl Drop for Background<'_> {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.0.path("/root/background"));
        if let Some(pid) = pid.ok().and_then(|pid| pid.trim().parse().ok()) {
            // It may have ended by itself.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}

/// What `make install` does, and a `sudo` for somebody who is root already.
fn install(machine: &Machine) -> Result<()> {
    machine.run("mkdir -p /usr/local/bin /opt/cni/bin")?;
    for (program, folder) in [
        ("margayd", "/usr/local/bin"),
        ("margayctl", "/usr/local/bin"),
        ("margay-cni", "/opt/cni/bin"),
    ] {
        let to = machine.path(folder).join(program);
        run(Command::new("strip")
            .arg("-o")
            .arg(to)
            .arg(binary(program)?))?;
    }
    let sudo = machine.path("/usr/local/bin/sudo");
    fs::write(&sudo, "#!/bin/sh\nexec env \"$@\"\n")?;
    fs::set_permissions(&sudo, fs::Permissions::from_mode(0o755))?;
    // Namespaces of the commands are this machine's alone.
    machine.run("mount -t tmpfs netns /run/netns").map(drop)
}

/// Runs commands in root's home; what they leave in the background goes on.
fn type_in(machine: &Machine, commands: &str) -> Result<()> {
    let script = format!(
        "cd /root\nset -euo pipefail\n{commands}\n[ -z \"${{!:-}}\" ] || echo $! >/root/background\n"
    );
    fs::write(machine.path("/root/block"), &script)?;
    let ran = machine.run("PATH=/usr/local/bin:$PATH bash /root/block >/root/said 2>&1");
    let said = fs::read_to_string(machine.path("/root/said")).unwrap_or_default();
    ran.map(drop).with_context(|| format!("{script}{said}"))
}

#[test]
fn the_five_minutes_of_the_readme_work_as_they_stand() -> Result<()> {
    let lab = Lab::new(1)?;
    let machine = Machine::new(&lab.hosts[0])?;
    install(&machine)?;
    let _background = Background(&machine);
    let readme = fs::read_to_string(root().join("README.md"))?;
    let (_, from) = readme
        .split_once("## Five minutes on one host")
        .context("no such part")?;
    let (part, _) = from.split_once("\n### ").context("no end")?;
    let all = blocks("README.md", part);
    let commands: Vec<_> = all
        .iter()
        .filter(|b| b.kind == "sh")
        .map(|b| b.text.as_str())
        .collect();
    let [start, pool, containers, isolate] = commands[..] else {
        anyhow::bail!("{} blocks of commands", commands.len());
    };
    type_in(&machine, start)?;
    // A person pastes the next block when the agent has said that it is there.
    eventually(SOON, "the pool is taken", || type_in(&machine, pool))?;
    type_in(&machine, containers)?;
    let (close, open) = isolate
        .split_once("sudo margayctl delete")
        .context("no delete")?;
    let ping = "ip netns exec c1 ping -c 1 -W 1 $(sudo margayctl get wep $(hostname)-cni-c2-eth0 \
        -o jsonpath='{.spec.ipNetworks[0]}' | cut -d/ -f1)";
    type_in(&machine, ping)?;
    type_in(&machine, close)?;
    eventually(SOON, "c2 is isolated", || {
        ensure!(type_in(&machine, ping).is_err(), "it answers");
        Ok(())
    })?;
    type_in(&machine, &format!("sudo margayctl delete{open}"))?;
    eventually(SOON, "c2 is there again", || type_in(&machine, ping))?;

    // The list for a runtime asks for both families.
    let list = all.iter().find(|b| b.kind == "json").context("no list")?;
    fs::write(machine.path("/root/list"), &list.text)?;
    type_in(
        &machine,
        "printf 'apiVersion: projectcalico.org/v3\\nkind: IPPool\\nmetadata: {name: six}\\nspec: {cidr: \"fd00:65::/48\"}\\n' |\n\
         margayctl apply -f -\nip netns add c3",
    )?;
    let c3 = std::path::Path::new("/run/netns/c3");
    let added = machine.cni("/opt/cni/bin", "/root/list", "ADD", "c3", c3)?;
    let addresses = added["ips"].as_array().context("no addresses")?;
    ensure!(addresses.len() == 2, "{added}");
    machine
        .cni("/opt/cni/bin", "/root/list", "DEL", "c3", c3)
        .map(drop)
}
