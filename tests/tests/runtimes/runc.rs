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

impl Running {
    fn start(rack: &Rack, host: usize, id: &str) -> Self {
        let id = format!("{}-{id}", rack.cluster.lab.name());
        let plugin = Plugin::new(&rack.cluster.agents[host], rack.host(host), NETWORK).unwrap();
        let mut attached = Container::new(&rack.cluster.lab, &id, plugin).unwrap();
        let added = attached.cni_add().unwrap();
        attached.cni_check(&added).unwrap();
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
        run(runc_in(&self.root).args(["kill", &self.attached.id, "KILL"])).unwrap();
        eventually(SOON, "runc ends", || match self.process.ensure_running() {
            Ok(()) => Err("still running"),
            Err(_ended) => Ok(()),
        })
        .unwrap();
        self.attached.cni_del().unwrap();
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
