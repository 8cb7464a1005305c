//! containerd by `ctr run --cni`, which reads `/etc/cni/net.d` and `/opt/cni/bin`: each call sees its host's own there.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use margay_lab::{Process, eventually, run};

use crate::containerd::Containerd;
use crate::image::{IMAGE, PAGE, SERVER};
use crate::rack::{Rack, SOON};

const NAMESPACE: &str = "default";

struct Task {
    id: String,
    /// `ctr run` in the foreground, which removes the container's network when the task has ended.
    process: Process,
}

/// `ctr run` of the server.
fn start(rack: &Rack, host: usize, containerd: &Containerd, id: &str) -> Task {
    let mut ctr = containerd.ctr();
    ctr.args([
        "-n",
        NAMESPACE,
        "run",
        "--cni",
        "--rm",
        "--snapshotter",
        "native",
    ]);
    ctr.args(["--cap-add", "CAP_NET_RAW", "--no-pivot", IMAGE, id])
        .args(SERVER);
    let netns = rack.host(host).netns.name().to_owned();
    let log = rack.dir(host, "ctr").join(format!("{id}.log"));
    let process = Process::spawn("ctr", with_cni_of(containerd, &ctr), Some(&netns), &log);
    Task {
        id: id.to_owned(),
        process: process.unwrap(),
    }
}

/// In a mount namespace of its own, where the two folders are those of the host.
fn with_cni_of(containerd: &Containerd, command: &Command) -> Command {
    let mut wrapped = Command::new("unshare");
    let mount = "mkdir -p /etc/cni/net.d && mount --bind \"$1\" /etc/cni/net.d && mount -t tmpfs opt /opt && \
                 mkdir -p /opt/cni/bin && mount --bind \"$0\" /opt/cni/bin && shift && exec \"$@\"";
    wrapped.args(["--mount", "--propagation", "private", "sh", "-ec", mount]);
    wrapped.arg(&containerd.bin).arg(&containerd.conf);
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped
}

fn exec(containerd: &Containerd, id: &str, command: &[&str]) -> Result<String> {
    let mut ctr = containerd.ctr();
    ctr.args(["-n", NAMESPACE, "task", "exec", "--exec-id", "x", id])
        .args(command);
    run(ctr.stdin(Stdio::null()))
}

/// What ADD printed is nowhere to be seen: the endpoint has the address.
fn address(rack: &Rack, id: &str) -> std::net::IpAddr {
    let found = eventually(SOON, "the container is attached", || {
        let text = rack.cluster.ctl().run("get wep -A -o json")?;
        let list: serde_json::Value = serde_json::from_str(&text)?;
        let items = list["items"].as_array().context("no items")?;
        let of_id = |item: &&serde_json::Value| {
            item["spec"]["containerID"]
                .as_str()
                .is_some_and(|found| found.ends_with(id))
        };
        let item = items.iter().find(of_id).context("no endpoint yet")?;
        let net = item["spec"]["ipNetworks"][0]
            .as_str()
            .context("no address")?;
        let ip = net.split('/').next().unwrap_or_default();
        Ok::<_, anyhow::Error>(ip.parse()?)
    });
    found.unwrap()
}

#[test]
fn containers_of_ctr_reach_each_other_across_hosts_and_leave_nothing() {
    let rack = Rack::new(2);
    let hosts = [0, 1].map(|host| Containerd::start(&rack, host, NAMESPACE));
    let id = |n: u8| format!("{}-c{n}", rack.cluster.lab.name());
    let mut tasks = [
        start(&rack, 0, &hosts[0], &id(0)),
        start(&rack, 1, &hosts[1], &id(1)),
    ];
    let ips = [0, 1].map(|n| address(&rack, &id(n)));
    for ip in ips {
        rack.ensure_served(ip);
    }
    let to = ips[1].to_string();
    exec(
        &hosts[0],
        &tasks[0].id,
        &["/bin/ping", "-c", "1", "-W", "5", &to],
    )
    .unwrap();
    let page = exec(
        &hosts[0],
        &tasks[0].id,
        &["/bin/wget", "-q", "-O", "-", &format!("http://{to}:8080/")],
    );
    assert_eq!(page.unwrap(), PAGE);
    rack.ensure_isolated_by_label(ips[0]);
    for (containerd, task) in hosts.iter().zip(&mut tasks) {
        let kill = ["-n", NAMESPACE, "task", "kill", "-s", "SIGKILL", &task.id];
        run(containerd.ctr().args(kill)).unwrap();
        ended(task);
    }
    rack.ensure_clean(&ips);
}

/// What is left of a container in containerd's hands, whatever its `ctr` came to.
fn remove(containerd: &Containerd, id: &str) {
    for words in [
        &["task", "kill", "-s", "SIGKILL", id][..],
        &["task", "rm", "--force", id],
        &["container", "rm", id],
        &["snapshot", "--snapshotter", "native", "rm", id],
    ] {
        // It may not have got as far as that.
        drop(
            containerd
                .ctr()
                .args(["-n", NAMESPACE])
                .args(words)
                .output(),
        );
    }
}

#[test]
fn an_agent_killed_under_ctr_leaves_nothing() {
    let mut rack = Rack::watchful(1);
    let containerd = Containerd::start(&rack, 0, NAMESPACE);
    for point in ["after-link", "after-txn", "before-answer", "before-reply"] {
        rack.restart_agent(0, point);
        let id = format!("{}-{point}", rack.cluster.lab.name());
        let mut task = start(&rack, 0, &containerd, &id);
        ended(&mut task);
        rack.restart_agent(0, "");
        remove(&containerd, &id);
        rack.ensure_clean(&[]);
    }
    // And while no agent is there, a container ends.
    let (id, mut task, ip) = serving(&rack, &containerd);
    rack.cluster.agents[0].kill().unwrap();
    let kill = ["-n", NAMESPACE, "task", "kill", "-s", "SIGKILL", &id];
    run(containerd.ctr().args(kill)).unwrap();
    ended(&mut task);
    rack.restart_agent(0, "");
    rack.ensure_clean(&[ip]);
}

/// `ctr` is the runtime that calls the plugin: killed, it calls no DEL, and the agent's own look clears up after the
/// container has ended.
#[test]
fn a_ctr_and_a_containerd_killed_in_the_middle_of_an_add_leave_nothing() {
    let mut rack = Rack::watchful(1);
    let mut containerd = Containerd::start(&rack, 0, NAMESPACE);
    for (point, with_containerd) in [
        ("after-link", false),
        ("after-txn-and-link", true),
        ("before-reply", false),
    ] {
        rack.restart_agent(0, &format!("{point}:stop"));
        let id = format!("{}-{point}", rack.cluster.lab.name());
        let mut task = start(&rack, 0, &containerd, &id);
        rack.await_still(0);
        task.process.kill().unwrap();
        if with_containerd {
            containerd.kill();
        }
        rack.go_on(0);
        if with_containerd {
            containerd.restart().unwrap();
        }
        remove(&containerd, &id);
        rack.ensure_clean(&[]);
    }
    // Nor does one that runs, when both are killed.
    let (id, mut task, ip) = serving(&rack, &containerd);
    task.process.kill().unwrap();
    containerd.kill();
    rack.ensure_served(ip);
    containerd.restart().unwrap();
    remove(&containerd, &id);
    rack.ensure_clean(&[ip]);
}

/// A container that answers: its id, its task and its address.
fn serving(rack: &Rack, containerd: &Containerd) -> (String, Task, std::net::IpAddr) {
    let id = format!("{}-c", rack.cluster.lab.name());
    let task = start(rack, 0, containerd, &id);
    let ip = address(rack, &id);
    rack.ensure_served(ip);
    (id, task, ip)
}

fn ended(task: &mut Task) {
    eventually(SOON, "ctr ends", || {
        ensure!(task.process.ensure_running().is_err(), "still running");
        Ok(())
    })
    .unwrap();
}
