//! runc with a network namespace by its path: what a small runtime of one's own does, calling the plugin itself.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use margay_lab::resources::NETWORK;
use margay_lab::{Container, Plugin, Process, eventually, run};
use serde_json::json;

use crate::containerd::end_those_of;
use crate::image::{self, PAGE, SERVER};
use crate::rack::{Rack, SOON};

/// A container in a namespace that the plugin attached.
struct Running {
    attached: Container,
    root: PathBuf,
    bundle: PathBuf,
    process: Process,
}

/// A namespace by its path, for a container that the plugin has not attached yet.
fn prepare(rack: &Rack, host: usize, id: &str) -> Container {
    let id = format!("{}-{id}", rack.cluster.lab.name());
    let plugin = Plugin::new(&rack.cluster.agents[host], rack.host(host), NETWORK).unwrap();
    Container::new(&rack.cluster.lab, &id, plugin).unwrap()
}

impl Running {
    fn start(rack: &Rack, host: usize, id: &str) -> Self {
        let mut attached = prepare(rack, host, id);
        let added = attached.cni_add().unwrap();
        attached.cni_check(&added).unwrap();
        Self::run(rack, host, attached)
    }

    fn run(rack: &Rack, host: usize, attached: Container) -> Self {
        let id = attached.id.clone();
        let bundle = rack.dir(host, &id);
        let root = rack.dir(host, "runc");
        image::root(&bundle).unwrap();
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": SERVER, "env": ["PATH=/bin"],
                "capabilities": {"bounding": ["CAP_NET_RAW"], "effective": ["CAP_NET_RAW"],
                                 "permitted": ["CAP_NET_RAW"]},
            },
            "root": {"path": "root"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "cgroupsPath": format!("/{id}"),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                               {"type": "network", "path": attached.netns.path()}],
            },
        });
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        let mut runc = runc_in(&root);
        runc.args(["run", "--bundle"]).arg(&bundle).arg(&id);
        let process = Process::spawn("runc", runc, None, &bundle.join("runc.log")).unwrap();
        Self {
            attached,
            root,
            bundle,
            process,
        }
    }

    fn exec(&self, command: &[&str]) -> Result<String> {
        run(runc_in(&self.root)
            .args(["exec", "--cap", "CAP_NET_RAW", &self.attached.id])
            .args(command))
    }

    fn remove(&mut self) {
        self.end();
        self.attached.cni_del().unwrap();
    }

    /// The container ends, and runc with it.
    fn end(&mut self) {
        run(runc_in(&self.root).args(["kill", &self.attached.id, "KILL"])).unwrap();
        eventually(SOON, "runc ends", || match self.process.ensure_running() {
            Ok(()) => Err("still running"),
            Err(_ended) => Ok(()),
        })
        .unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already.
        drop(
            runc_in(&self.root)
                .args(["delete", "--force", &self.attached.id])
                .output(),
        );
        end_those_of(&self.bundle);
    }
}

fn runc_in(root: &std::path::Path) -> Command {
    let mut runc = Command::new("runc");
    runc.arg("--root").arg(root);
    runc
}

#[test]
fn containers_of_runc_reach_each_other_across_hosts_and_leave_nothing() {
    let rack = Rack::new(2);
    let mut a = Running::start(&rack, 0, "a");
    let mut b = Running::start(&rack, 1, "b");
    let ips = [a.attached.v4().unwrap(), b.attached.v4().unwrap()];
    for ip in [ips[0], ips[1], a.attached.v6().unwrap()] {
        rack.ensure_served(ip);
    }
    let to = ips[1].to_string();
    a.exec(&["/bin/ping", "-c", "1", "-W", "5", &to]).unwrap();
    let page = a.exec(&["/bin/wget", "-q", "-O", "-", &format!("http://{to}:8080/")]);
    assert_eq!(page.unwrap(), PAGE);
    rack.ensure_isolated_by_label(ips[0]);
    a.remove();
    b.remove();
    rack.ensure_clean(&ips);
}

/// Whoever calls the plugin itself sees that its ADD or DEL failed, and calls DEL (again) whenever it likes.
#[test]
fn an_agent_killed_under_runc_leaves_nothing() {
    let mut rack = Rack::watchful(1);
    for point in [
        "after-journal-forgot",
        "before-txn",
        "after-link",
        "after-txn-and-link",
        "after-policy",
        "after-route",
        "before-answer",
        "before-reply",
    ] {
        rack.restart_agent(0, point);
        let mut container = prepare(&rack, 0, point);
        container.cni_add().unwrap_err();
        // No agent is there to hear of it.
        container.cni_del().unwrap();
        rack.restart_agent(0, "");
        rack.ensure_clean(&[]);
    }
    for point in [
        "before-kernel-removal",
        "after-kernel-removal",
        "after-release",
        "after-reply",
    ] {
        let mut running = Running::start(&rack, 0, point);
        rack.ensure_served(running.attached.v4().unwrap());
        running.end();
        rack.restart_agent(0, point);
        running.attached.cni_del().unwrap();
        rack.restart_agent(0, "");
        rack.ensure_clean(&running.attached.addresses);
    }
    let mut running = Running::start(&rack, 0, "last");
    rack.ensure_served(running.attached.v4().unwrap());
    running.remove();
    rack.ensure_clean(&running.attached.addresses);
}

/// The container outlives its runc, and is removed by another.
#[test]
fn a_killed_runc_leaves_nothing() {
    let rack = Rack::new(1);
    let mut running = Running::start(&rack, 0, "a");
    let ip = running.attached.v4().unwrap();
    rack.ensure_served(ip);
    running.process.kill().unwrap();
    rack.ensure_served(ip);
    let id = running.attached.id.clone();
    run(runc_in(&running.root).args(["delete", "--force", &id])).unwrap();
    running.attached.cni_del().unwrap();
    rack.ensure_clean(&[ip]);
    // One that is killed while it makes the container.
    for step in 0..4 {
        let id = format!("cut{step}");
        let mut attached = prepare(&rack, 0, &id);
        attached.cni_add().unwrap();
        let mut cut = Running::run(&rack, 0, attached);
        std::thread::sleep(std::time::Duration::from_millis(10 * step));
        cut.process.kill().unwrap();
        // It may have got as far as a container or not.
        drop(
            runc_in(&cut.root)
                .args(["delete", "--force", &cut.attached.id])
                .output(),
        );
        cut.attached.cni_del().unwrap();
        rack.ensure_clean(&cut.attached.addresses);
    }
}
