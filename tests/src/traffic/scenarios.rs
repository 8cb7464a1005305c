//! What must not cost a packet: restarts of every kind, changes of every kind.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{ALLOWED, Account, Traffic};
use crate::eventually::{REQUEST_MS, request_env};
use crate::resources::{NETWORK, pools_and_profile};
use crate::{
    Agent, Container, Ctl, Datastore, Etcd, Host, Lab, Manner, Plugin, Process, STORE_V4, Talk,
    TalkServer, binary, eventually,
};

const READY: Duration = Duration::from_secs(60);

/// Traffic before, between and after what happens.
const WHILE: Duration = Duration::from_millis(400);

/// What happens while packets flow.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// In words.
    pub name: &'static str,
    act: fn(&mut Stage) -> Result<()>,
}

/// Everything that must not cost a packet.
pub const SCENARIOS: [Scenario; 12] = [
    Scenario {
        name: "nothing happens",
        act: |_| Ok(()),
    },
    Scenario {
        name: "agent stopped and started",
        act: stopped,
    },
    Scenario {
        name: "agent killed (-9) and started",
        act: killed,
    },
    Scenario {
        name: "agent reloaded (SIGHUP, new process image)",
        act: reloaded,
    },
    Scenario {
        name: "agent upgraded (another file, SIGHUP)",
        act: upgraded,
    },
    Scenario {
        name: "etcd gone and back",
        act: without_etcd,
    },
    Scenario {
        name: "agent killed and started without etcd",
        act: started_without_etcd,
    },
    Scenario {
        name: "rules moved to iptables and back",
        act: moved,
    },
    Scenario {
        name: "policies and tiers changed, added, removed",
        act: policies,
    },
    Scenario {
        name: "open connections denied, and allowed again",
        act: denied,
    },
    Scenario {
        name: "members of sets changed",
        act: members,
    },
    Scenario {
        name: "other containers come and go",
        act: neighbours,
    },
];

impl Scenario {
    /// Lets it happen so many times under traffic. What became of the packets.
    pub fn run(&self, stage: &mut Stage, times: usize) -> Result<Account> {
        let traffic = stage.traffic()?;
        sleep(WHILE);
        for _ in 0..times {
            (self.act)(stage).with_context(|| self.name)?;
            sleep(WHILE);
        }
        traffic.stop()
    }
}

/// A host with two containers between which packets flow, and a policy that allows some of them.
#[derive(Debug)]
pub struct Stage {
    from: Container,
    to: Container,
    agent: Agent,
    process: Option<Process>,
    program: PathBuf,
    etcd: Etcd,
    lab: Lab,
    round: usize,
}

impl Stage {
    /// Builds it and attaches the containers.
    pub fn new() -> Result<Self> {
        let lab = Lab::new(1)?;
        let etcd = Etcd::start_in(lab.store.name(), STORE_V4.into())?;
        let ctl = Ctl::with_etcd(&lab.store, etcd.url(), lab.dir());
        ctl.apply(&pools_and_profile(false))?;
        ctl.apply(&policy("10", ""))?;
        let agent = Agent::prepare(&lab.hosts[0], &Datastore::Etcd(etcd.url().to_owned()))?;
        // A file of its own, to be replaced by an upgrade.
        let program = lab.dir().join("margayd");
        fs::copy(binary("margayd")?, &program)?;
        let plugin = || Plugin::new(&agent, &lab.hosts[0], NETWORK);
        let (from, to) = (plugin()?, plugin()?);
        let mut stage = Self {
            from: Container::new(&lab, "from", from)?,
            to: Container::new(&lab, "to", to)?,
            agent,
            process: None,
            program,
            etcd,
            lab,
            round: 0,
        };
        stage.start()?;
        stage.ready()?;
        stage.from.cni_add()?;
        stage.to.cni_add()?;
        Ok(stage)
    }

    fn traffic(&self) -> Result<Traffic> {
        Traffic::start(&self.from.netns, &self.to.netns, &self.to.addresses)
    }

    /// What policy decided about, as the agent tells.
    pub fn flows(&self) -> Result<Vec<Value>> {
        let report = self.agent.ask("{\"flows\":{}}")?;
        let flows = report["flows"].as_array();
        flows
            .cloned()
            .with_context(|| format!("no flows: {report}"))
    }

    fn host(&self) -> &Host {
        &self.lab.hosts[0]
    }

    fn ctl(&self) -> Ctl {
        Ctl::with_etcd(&self.lab.store, self.etcd.url(), self.lab.dir())
    }

    fn start(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.agent.config_file());
        command.envs([request_env(REQUEST_MS)]);
        let netns = self.host().netns.name().to_owned();
        let process = Process::spawn("margayd", command, Some(&netns), &self.agent.log_file())?;
        self.process = Some(process);
        Ok(())
    }

    fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("no agent runs")
    }

    fn kill(&mut self) -> Result<()> {
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        self.agent.status()
    }

    fn ready(&mut self) -> Result<()> {
        eventually(READY, "the agent is ready", || self.agent.ensure_ready())
    }

    /// The agent has started anew in the same process, and is ready.
    fn reborn(&mut self) -> Result<()> {
        let started = |stage: &Self| -> Result<u64> {
            let uptime = &stage.status()?["uptime_secs"];
            uptime.as_u64().context("no uptime")
        };
        // Uptime is in whole seconds.
        let old = || -> Result<()> {
            let uptime = started(self)?;
            ensure!(uptime >= 2, "only {uptime} s old");
            Ok(())
        };
        eventually(READY, "the agent is some seconds old", old)?;
        self.process()?.signal(Signal::SIGHUP)?;
        let young = || -> Result<()> {
            let uptime = started(self)?;
            ensure!(uptime < 2, "{uptime} s old: not new");
            Ok(())
        };
        eventually(READY, "the agent is new", young)?;
        self.ready()
    }

    fn backend(&self, wanted: &str) -> Result<()> {
        eventually(READY, "the rules have moved", || {
            let status = self.status()?;
            let backend = status["dataplane"]["backend"].as_str().unwrap_or_default();
            ensure!(backend.contains(wanted), "they are in {backend}");
            anyhow::Ok(())
        })
    }

    /// What was applied is in the kernel: the agent says so of a container that comes after it.
    fn settled(&self) -> Result<()> {
        let plugin = Plugin::new(&self.agent, self.host(), NETWORK)?;
        let mut container = Container::new(&self.lab, "settle", plugin)?;
        container.cni_add()?;
        container.cni_del()
    }
}

/// Allows what traffic is to be allowed; `more` rules come first.
fn policy(order: &str, more: &str) -> String {
    let ports = format!("{}:{}", ALLOWED.start(), ALLOWED.end());
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: traffic\n\
         spec:\n  order: {order}\n  selector: all()\n  types: [Ingress]\n  ingress:\n{more}  \
         - action: Allow\n    protocol: UDP\n    destination:\n      ports: ['{ports}']\n  \
         - action: Allow\n    protocol: TCP\n    destination:\n      ports: ['{ports}']\n"
    )
}

fn stopped(stage: &mut Stage) -> Result<()> {
    // It takes leave of peers and gives up its claims, some seconds each if they do not answer.
    stage.process()?.signal(Signal::SIGTERM)?;
    eventually(READY, "the agent ends", || {
        let ended = stage.process()?.ensure_running().is_err();
        ensure!(ended, "it still runs");
        anyhow::Ok(())
    })?;
    stage.process = None;
    sleep(WHILE);
    stage.start()?;
    stage.ready()
}

fn killed(stage: &mut Stage) -> Result<()> {
    stage.kill()?;
    sleep(WHILE);
    stage.start()?;
    stage.ready()
}

fn reloaded(stage: &mut Stage) -> Result<()> {
    stage.reborn()
}

fn upgraded(stage: &mut Stage) -> Result<()> {
    let new = stage.program.with_extension("new");
    fs::copy(&stage.program, &new)?;
    fs::rename(&new, &stage.program)?;
    stage.reborn()
}

fn without_etcd(stage: &mut Stage) -> Result<()> {
    stage.etcd.kill()?;
    sleep(4 * WHILE);
    stage.etcd.restart()?;
    eventually(READY, "the agent is connected", || {
        let status = stage.status()?;
        ensure!(
            status["datastore"]["connected"] == true,
            "{}",
            status["datastore"]
        );
        anyhow::Ok(())
    })
}

fn started_without_etcd(stage: &mut Stage) -> Result<()> {
    stage.etcd.kill()?;
    stage.kill()?;
    stage.start()?;
    eventually(READY, "the agent answers", || stage.status())?;
    sleep(4 * WHILE);
    stage.etcd.restart()?;
    stage.ready()
}

fn moved(stage: &mut Stage) -> Result<()> {
    for (mode, backend) in [("Disabled", "iptables"), ("Enabled", "nftables")] {
        let felix = format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata:\n  \
             name: default\nspec:\n  nftablesMode: {mode}\n"
        );
        stage.ctl().apply(&felix)?;
        stage.backend(backend)?;
    }
    Ok(())
}

fn policies(stage: &mut Stage) -> Result<()> {
    stage.round += 1;
    let ctl = stage.ctl();
    let tier = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata:\n  name: before\nspec:\n  \
                order: 5\n  defaultAction: Pass\n";
    let in_it = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  \
                 name: before.some\nspec:\n  tier: before\n  order: 1\n  selector: all()\n  \
                 types: [Ingress, Egress]\n  ingress:\n  - action: Deny\n    protocol: SCTP\n  \
                 - action: Pass\n  egress:\n  - action: Allow\n";
    for (order, more) in [
        (
            20usize,
            "  - action: Deny\n    protocol: TCP\n    destination:\n      ports: [1]\n",
        ),
        (
            5,
            "  - action: Log\n    protocol: UDP\n    destination:\n      ports: [7015]\n",
        ),
        (10, ""),
    ] {
        ctl.apply(&policy(&(order + stage.round).to_string(), more))?;
        ctl.apply(&format!("{tier}---\n{in_it}"))?;
        stage.settled()?;
        ctl.delete(in_it)?;
        ctl.delete(tier)?;
        stage.settled()?;
    }
    Ok(())
}

fn denied(stage: &mut Stage) -> Result<()> {
    let ctl = stage.ctl();
    let port = ALLOWED.end() - 1;
    let servers = [(port, Manner::Echoes), (port + 1, Manner::Ticks)];
    let start = |(port, manner)| TalkServer::start(&stage.to.netns, port, manner);
    let _running = servers.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    let mut talks = Vec::new();
    for to in &stage.to.addresses {
        for (port, manner) in servers {
            talks.push(Talk::open(&stage.from.netns, *to, port, manner)?);
        }
    }
    let foes = format!(
        "  - action: Deny\n    protocol: TCP\n    destination:\n      ports: ['{port}:{}']\n",
        port + 1
    );
    ctl.apply(&policy("10", &foes))?;
    talks.iter_mut().try_for_each(Talk::ensure_silent)?;
    ctl.apply(&policy("10", ""))?;
    talks.iter_mut().try_for_each(Talk::ensure_on)
}

fn members(stage: &mut Stage) -> Result<()> {
    let ctl = stage.ctl();
    let set = |nets: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata:\n  name: foes\n  \
             labels: {{foe: ''}}\nspec:\n  nets: [{nets}]\n"
        )
    };
    let foes = "  - action: Deny\n    source:\n      selector: has(foe)\n";
    for nets in [
        "10.99.0.0/16",
        "10.99.0.0/24, 10.98.0.1/32, 'fd99::/64'",
        "10.0.0.0/24",
    ] {
        ctl.apply(&set(nets))?;
        ctl.apply(&policy("10", foes))?;
        stage.settled()?;
    }
    ctl.apply(&policy("10", ""))?;
    ctl.delete(&set(""))?;
    stage.settled()
}

fn neighbours(stage: &mut Stage) -> Result<()> {
    let containers = (0..5).map(|n| {
        let plugin = Plugin::new(&stage.agent, stage.host(), NETWORK)?;
        Container::new(&stage.lab, &format!("other{n}"), plugin)
    });
    let mut containers = containers.collect::<Result<Vec<_>>>()?;
    for container in &mut containers {
        container.cni_add()?;
    }
    for container in &mut containers {
        container.cni_del()?;
    }
    Ok(())
}
