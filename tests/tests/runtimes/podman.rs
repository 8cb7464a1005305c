//! podman with its CNI backend.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use margay_lab::resources::NETWORK;
use margay_lab::{eventually, run};

use crate::containerd::end_those_of;
use crate::image::{self, PAGE, SERVER};
use crate::rack::{Rack, SOON, fetch, forget_namespace};

const IMAGE: &str = "localhost/busy:1";

/// The podman of a host, with the image imported.
struct Podman {
    netns: String,
    dir: PathBuf,
}

impl Podman {
    fn new(rack: &Rack, host: usize) -> Self {
        let (bin, conf) = rack.install(host, "0.4.0");
        let dir = rack.dir(host, "podman");
        let config = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{bin}\"]\nnetwork_config_dir = \"{conf}\"\n\
             default_network = \"{NETWORK}\"\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\nevents_logger = \"none\"\nlock_type = \"file\"\n\
             tmp_dir = \"{dir}/tmp\"\nstatic_dir = \"{dir}/static\"\nvolume_path = \"{dir}/volumes\"\n\
             [containers]\ndefault_ulimits = [\"nofile=1024:20000\", \"nproc=1024:4096\"]\nlog_driver = \"k8s-file\"\n",
            bin = bin.display(),
            conf = conf.display(),
            dir = dir.display(),
        );
        fs::write(dir.join("containers.conf"), config).unwrap();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{dir}/root\"\nrunroot = \"{dir}/run\"\n",
            dir = dir.display()
        );
        fs::write(dir.join("storage.conf"), storage).unwrap();
        let podman = Self {
            netns: rack.host(host).netns.name().to_owned(),
            dir,
        };
        let layer = image::layer(&podman.dir).unwrap();
        podman
            .run(&["import", layer.to_str().unwrap(), IMAGE])
            .unwrap();
        podman
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.netns))
            .args(["--", "podman"]);
        command
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.dir.join("storage.conf"));
        command
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        run(self.command().args(words))
    }

    /// Starts the server; the container's IPv4 address.
    fn start(&self, name: &str, more: &[&str]) -> Result<IpAddr> {
        let run = [
            &["run", "-d", "--name", name, "--cap-add", "NET_RAW"],
            more,
            &[IMAGE],
            &SERVER,
        ]
        .concat();
        self.run(&run)?;
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let ip = self.run(&["inspect", "--format", format, name])?;
        ip.trim()
            .parse()
            .with_context(|| format!("the address is {ip:?}"))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        drop(
            self.command()
                .args(["rm", "--all", "--force", "--time", "0"])
                .output(),
        );
        end_those_of(&self.dir);
    }
}

#[test]
fn containers_of_podman_reach_each_other_across_hosts_and_leave_nothing() {
    let rack = Rack::new(2);
    let hosts = [Podman::new(&rack, 0), Podman::new(&rack, 1)];
    let name = |n: u8| format!("{}-p{n}", rack.cluster.lab.name());
    let a = hosts[0].start(&name(0), &["-p", "8088:8080"]).unwrap();
    let b = hosts[1].start(&name(1), &[]).unwrap();
    for ip in [a, b] {
        rack.ensure_served(ip);
    }
    let to = b.to_string();
    hosts[0]
        .run(&["exec", &name(0), "/bin/ping", "-c", "1", "-W", "5", &to])
        .unwrap();
    let url = format!("http://{to}:8080/");
    let page = hosts[0].run(&["exec", &name(0), "/bin/wget", "-q", "-O", "-", &url]);
    assert_eq!(page.unwrap().trim(), PAGE);
    let published = || fetch(rack.tor(), rack.host(0).v4.into(), 8088, SOON);
    eventually(SOON, "the port of the host leads there", published).unwrap();
    rack.ensure_isolated_by_label(a);
    hosts[0]
        .run(&["rm", "--force", "--time", "0", &name(0)])
        .unwrap();
    hosts[1]
        .run(&["rm", "--force", "--time", "0", &name(1)])
        .unwrap();
    rack.ensure_clean(&[a, b]);
}

#[test]
fn an_agent_killed_under_podman_leaves_nothing() {
    let mut rack = Rack::new(1);
    let podman = Podman::new(&rack, 0);
    let name = rack.cluster.lab.name().to_owned();
    for point in ["after-link", "after-txn", "before-answer", "before-reply"] {
        rack.restart_agent(0, point);
        let container = format!("{name}-{point}");
        let error = format!("{:#}", podman.start(&container, &[]).unwrap_err());
        assert!(error.contains("the agent"), "{error}");
        rack.restart_agent(0, "");
        podman
            .run(&["rm", "--force", "--time", "0", &container])
            .unwrap();
        rack.ensure_clean(&[]);
    }
    let ip = podman.start(&format!("{name}-c"), &[]).unwrap();
    rack.ensure_served(ip);
    rack.cluster.agents[0].kill().unwrap();
    podman
        .run(&["rm", "--force", "--time", "0", &format!("{name}-c")])
        .unwrap();
    rack.cluster.agents[0].restart().unwrap();
    rack.ensure_clean(&[ip]);
}

#[test]
fn a_podman_killed_in_the_middle_of_an_add_leaves_nothing() {
    let mut rack = Rack::watchful(1);
    let podman = Podman::new(&rack, 0);
    for point in ["after-link", "after-txn-and-link", "before-reply"] {
        rack.restart_agent(0, &format!("{point}:stop"));
        let container = format!("{}-{point}", rack.cluster.lab.name());
        let mut running = podman.command();
        running
            .args(["run", "-d", "--name", &container, IMAGE])
            .args(SERVER);
        let mut running = running
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let netns = rack.await_stopped(0);
        running.kill().unwrap();
        running.wait().unwrap();
        rack.go_on(0);
        // Of a container that it has not started, podman knows no namespace, and may have left a mount in its own way.
        let removed = podman.run(&["rm", "--force", "--time", "0", &container]);
        if let Err(error) = removed.map_err(|error| format!("{error:#}")) {
            assert!(error.contains("root filesystem"), "{error}");
        }
        forget_namespace(&netns);
        rack.ensure_clean(&[]);
    }
}
