//! Two hosts with Debian's dockerd and our drivers, one etcd behind them, and BIRD as their router.
//!
//! ```text
//!   h1: margayd, dockerd ---- tor (BIRD) ---- etcd
//!   h2: margayd, dockerd ----/
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Result, ensure};
use margay_lab::resources::{HOST_AS, TOR_AS, bgp};
use margay_lab::{
    Agent, Bird, Ctl, Datastore, Docker, Etcd, IMAGE, Lab, NetNs, STORE_V4, eventually, tor_config,
};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A loaded machine takes its time.
const SOON: Duration = Duration::from_secs(60);

/// A datagram that is not answered by then is sent again.
const TICK: Duration = Duration::from_millis(200);

/// What is to be stopped by policy is not waited for longer.
const NEVER: Duration = Duration::from_secs(1);

const POOLS: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: front\n\
    spec:\n  cidr: 10.65.0.0/24\n  blockSize: 28\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: back\n\
    spec:\n  cidr: 10.66.0.0/24\n  blockSize: 28\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: six\n\
    spec:\n  cidr: fd00:65::/112\n  blockSize: 124\n";

/// The router may reach the containers that are labelled so.
const POLICY: &str = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  \
    name: from-outside\n  namespace: libnetwork\nspec:\n  order: 10\n  selector: role == 'web'\n  \
    types: [Ingress]\n  ingress:\n  - action: Allow\n    protocol: TCP\n    destination:\n      \
    ports: [80]\n";

const FRONT: &str = "network create -d margay --ipam-driver margay --subnet 10.65.0.0/24 --ipv6 \
    --subnet fd00:65::/112 -o margay.network=front front";
const BACK: &str = "network create -d margay --ipam-driver margay --subnet 10.66.0.0/24 back";

struct Rig {
    dockers: Vec<Docker>,
    agents: Vec<Agent>,
    _bird: Bird,
    etcd: Etcd,
    lab: Lab,
}

impl Rig {
    fn new() -> Self {
        let lab = Lab::new(2).unwrap();
        let etcd = Etcd::start_in(lab.store.name(), STORE_V4.into()).unwrap();
        let ctl = Ctl::with_etcd(&lab.store, etcd.url(), lab.dir());
        ctl.apply(POOLS).unwrap();
        ctl.apply(&bgp(&lab)).unwrap();
        let bird = Bird::start(&lab.tor, lab.dir(), &tor_config(&lab, TOR_AS, HOST_AS)).unwrap();
        let datastore = Datastore::Etcd(etcd.url().to_owned());
        let mut agents = Vec::new();
        for host in &lab.hosts {
            let mut agent = Agent::prepare(host, &datastore).unwrap();
            agent.set_request_limit(3000);
            Docker::configure(&agent, host).unwrap();
            let config = fs::read_to_string(agent.config_file()).unwrap();
            let config = config + "audit_interval_secs: 1\nleak_grace_secs: 5\n";
            fs::write(agent.config_file(), config).unwrap();
            agents.push(agent);
        }
        let mut rig = Self {
            dockers: Vec::new(),
            agents,
            _bird: bird,
            etcd,
            lab,
        };
        for at in [0, 1] {
            rig.restart_agent(at, &[]);
        }
        // Each takes seconds to start, most of them waiting.
        let hosts = &rig.lab.hosts;
        let started: Vec<Result<Docker>> = thread::scope(|scope| {
            let starting: Vec<_> = hosts
                .iter()
                .map(|h| scope.spawn(|| Docker::start(h)))
                .collect();
            starting
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        rig.dockers = started.into_iter().map(Result::unwrap).collect();
        rig
    }

    fn restart_agent(&mut self, at: usize, env: &[(&str, &str)]) {
        self.agents[at].set_env(env);
        self.agents[at].restart().unwrap();
        let ready = eventually(SOON, "the agent is ready", || {
            self.agents[at].ensure_ready()
        });
        ready.unwrap();
    }

    fn host(&self, at: usize) -> &NetNs {
        &self.lab.hosts[at].netns
    }

    /// A container that serves `served` on port 80.
    fn run(&self, at: usize, name: &str, options: &str) -> Result<()> {
        let line = format!("run -d --name {name} {options} {IMAGE} httpd -f -p 80 -h /www");
        self.dockers[at].run(&line)?;
        Ok(())
    }

    /// A container's address in a network.
    fn address(&self, at: usize, name: &str, network: &str, v4: bool) -> IpAddr {
        let inspected = self.dockers[at].inspect(name).unwrap();
        let attached = &inspected["NetworkSettings"]["Networks"][network];
        let field = if v4 { "IPAddress" } else { "GlobalIPv6Address" };
        let text = attached[field].as_str().unwrap();
        text.parse()
            .unwrap_or_else(|_| panic!("{name} in {network}: {attached}"))
    }

    /// One container fetches what another serves.
    fn fetch(&self, at: usize, from: &str, to: &str, timeout: Duration) -> Result<()> {
        let once = timeout.min(Duration::from_secs(3));
        let got = eventually(timeout, "the page is fetched", || {
            self.dockers[at].fetch(from, to, once)
        })?;
        ensure!(got == "served\n", "{got}");
        Ok(())
    }

    /// The router connects to a container.
    fn router_reaches(&self, to: IpAddr, timeout: Duration) -> Result<()> {
        eventually(timeout, "the router connects", || {
            self.lab.tor.within(|| {
                TcpStream::connect_timeout(&SocketAddr::new(to, 80), NEVER)?;
                Ok(())
            })
        })
    }

    fn interfaces(&self, at: usize) -> Vec<String> {
        let links = self.host(at).exec("ip -o link show").unwrap();
        let names = links
            .lines()
            .filter_map(|line| line.split([':', '@']).nth(1));
        let ours = names.map(|name| name.trim().to_owned());
        ours.filter(|name| name.starts_with("mgy") || name.starts_with("dkp"))
            .collect()
    }

    /// Nor is anything of networks, on any host.
    fn ensure_no_networks(&self) -> Result<()> {
        let profiles = "/calico/resources/v3/projectcalico.org/profiles/docker.";
        for prefix in ["/calico/margay/v1/docker/", profiles] {
            let left = self.etcd.ctl(&["get", "--prefix", "--keys-only", prefix])?;
            ensure!(left.trim().is_empty(), "{left}");
        }
        Ok(())
    }

    /// Nothing of Docker is left: endpoint, address, interface.
    fn ensure_clean(&self) -> Result<()> {
        let endpoints = "/calico/resources/v3/projectcalico.org/workloadendpoints/";
        let listed = self
            .etcd
            .ctl(&["get", "--prefix", "--keys-only", endpoints])?;
        ensure!(listed.trim().is_empty(), "endpoints: {listed}");
        let handles =
            self.etcd
                .ctl(&["get", "--prefix", "--keys-only", "/calico/ipam/v2/handle/"])?;
        ensure!(handles.trim().is_empty(), "addresses: {handles}");
        for at in 0..self.lab.hosts.len() {
            let left = self.interfaces(at);
            ensure!(left.is_empty(), "interfaces: {left:?}");
        }
        Ok(())
    }
}

/// Containers that are attached at once, so that each needs no turn of its own to be started.
fn at_once(works: Vec<Box<dyn FnOnce() + Send + '_>>) {
    thread::scope(|scope| {
        for work in works {
            scope.spawn(work);
        }
    });
}

#[test]
fn containers_of_two_hosts_reach_each_other_and_all_of_it_survives_and_ends() {
    let mut rig = Rig::new();
    networks_are_made_and_shown(&rig);
    containers_reach_members_and_nobody_else(&rig);
    policy_by_label_opens(&rig);
    ports_of_the_host_lead_to_containers(&rig);
    datagrams_follow_the_port(&rig);
    an_unhealthy_container_is_told(&rig);
    networks_are_joined_and_left_while_running(&rig);
    errors_are_the_users(&rig);
    the_agent_is_killed_on_the_way(&mut rig);
    the_daemon_is_killed(&mut rig);
    the_daemon_is_killed_on_the_way(&mut rig);
    the_datastore_is_away(&mut rig);
    the_host_starts_anew(&mut rig);
    everything_is_removed(&rig);
    the_daemon_forgets_everything(&mut rig);
    the_host_is_gone_for_good(&mut rig);
}

fn networks_are_made_and_shown(rig: &Rig) {
    for docker in &rig.dockers {
        docker.run(FRONT).unwrap();
    }
    rig.dockers[0].run(BACK).unwrap();
    let network = rig.dockers[0].inspect("front").unwrap();
    assert_eq!(network["Driver"], "margay");
    assert_eq!(network["IPAM"]["Driver"], "margay");
    assert_eq!(network["IPAM"]["Config"][0]["Subnet"], "10.65.0.0/24");
    assert_eq!(network["Scope"], "local");
}

fn containers_reach_members_and_nobody_else(rig: &Rig) {
    at_once(vec![
        Box::new(|| {
            let labelled = "--net front --label margay.label.role=web --ip 10.65.0.100";
            rig.run(0, "web", labelled).unwrap();
        }),
        Box::new(|| rig.run(0, "other", "--net back").unwrap()),
        Box::new(|| rig.run(1, "client", "--net front").unwrap()),
    ]);
    let (v4, v6) = (
        rig.address(0, "web", "front", true),
        rig.address(0, "web", "front", false),
    );
    assert_eq!(v4.to_string(), "10.65.0.100");
    rig.fetch(1, "client", &v4.to_string(), SOON).unwrap();
    rig.fetch(1, "client", &v6.to_string(), SOON).unwrap();
    let client = rig.address(1, "client", "front", true);
    rig.fetch(0, "web", &client.to_string(), SOON).unwrap();
    // Docker's own names, of the containers of one daemon.
    rig.run(0, "near", "--net front").unwrap();
    rig.fetch(0, "near", "web", SOON).unwrap();
    // Neither another network's containers nor anybody outside.
    rig.fetch(0, "other", &v4.to_string(), NEVER).unwrap_err();
    rig.router_reaches(client, NEVER).unwrap_err();
    let shown = rig.dockers[0].inspect("front").unwrap();
    let members = shown["Containers"].as_object().unwrap().values();
    let names: BTreeSet<&str> = members.filter_map(|c| c["Name"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(["near", "web"]));
}

/// The label is the container's own, which dockerd tells after it has started.
fn policy_by_label_opens(rig: &Rig) {
    let ctl = Ctl::with_etcd(&rig.lab.store, rig.etcd.url(), rig.lab.dir());
    ctl.apply(POLICY).unwrap();
    for v4 in [true, false] {
        rig.router_reaches(rig.address(0, "web", "front", v4), SOON)
            .unwrap();
    }
    rig.router_reaches(rig.address(0, "near", "front", true), NEVER)
        .unwrap_err();
    let shown = ctl.run("get wep -n libnetwork -o yaml").unwrap();
    assert!(shown.contains("workload: web"), "{shown}");
}

/// Published, a port is open to everybody, as its user expects.
fn ports_of_the_host_lead_to_containers(rig: &Rig) {
    rig.run(0, "published", "--net front -p 8080:80").unwrap();
    let host = &rig.lab.hosts[0];
    let connect = |from: &NetNs, ip: IpAddr, timeout| {
        eventually(timeout, "the port of the host answers", || {
            from.within(|| {
                Ok(TcpStream::connect_timeout(
                    &SocketAddr::new(ip, 8080),
                    NEVER,
                )?)
            })
        })
    };
    for ip in [IpAddr::from(host.v4), host.v6.into()] {
        connect(&rig.lab.tor, ip, SOON).unwrap();
        connect(&host.netns, ip, SOON).unwrap();
    }
    let error = rig
        .run(0, "second", "--net front -p 8080:80")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("port 8080/tcp of the host is taken by"),
        "{error}"
    );
    // The container reaches itself that way.
    let own = host.v4.to_string();
    rig.run(0, "self", "--net front -p 80:80").unwrap();
    rig.fetch(0, "self", &own, SOON).unwrap();
    rig.fetch(0, "published", &own, SOON).unwrap();
    rig.dockers[0].run("rm -f second published self").unwrap();
    connect(&rig.lab.tor, host.v4.into(), NEVER).unwrap_err();
}

/// Answers datagrams with a word, in a container, until dropped.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(netns: PathBuf, word: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let socket = within(&netns, || UdpSocket::bind("0.0.0.0:53"));
            socket.set_read_timeout(Some(TICK)).unwrap();
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    // A caller that has gone is fine.
                    drop(socket.send_to(word.as_bytes(), from));
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// A socket that is opened in a namespace, from a thread of its own.
fn within(netns: &Path, open: impl FnOnce() -> io::Result<UdpSocket> + Send) -> UdpSocket {
    let file = fs::File::open(netns).unwrap();
    thread::scope(|scope| {
        let opened = scope.spawn(|| {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            open()
        });
        opened.join().unwrap().unwrap()
    })
}

/// What a caller hears, who keeps its port and so its flow.
fn hear(caller: &UdpSocket, to: IpAddr, word: &str) {
    caller.set_read_timeout(Some(TICK)).unwrap();
    eventually(SOON, "the port of the host answers", || {
        caller.send_to(b"?", (to, 5300))?;
        let mut buffer = [0; 64];
        let (length, from) = caller.recv_from(&mut buffer)?;
        let heard = String::from_utf8_lossy(&buffer[..length]);
        ensure!(heard == word && from.ip() == to, "{heard:?} from {from}");
        Ok(())
    })
    .unwrap();
}

/// Datagrams, of callers that were there before; their flows follow the port from container to container.
fn datagrams_follow_the_port(rig: &Rig) {
    let host = &rig.lab.hosts[0];
    let to = IpAddr::from(host.v4);
    let open = || Ok(UdpSocket::bind("0.0.0.0:0")?);
    let callers = [&rig.lab.tor, &host.netns].map(|netns| netns.within(open).unwrap());
    for caller in &callers {
        // Nobody is there yet, and the kernel remembers that.
        caller.send_to(b"?", (to, 5300)).unwrap();
    }
    for word in ["first", "second"] {
        rig.run(0, word, "--net front -p 5300:53/udp -p 5301:53/sctp")
            .unwrap();
        let netns = rig.dockers[0].netns_of(word).unwrap();
        let _echo = Echo::start(netns.clone(), word);
        for caller in &callers {
            hear(caller, to, word);
        }
        let itself = within(&netns, || UdpSocket::bind("0.0.0.0:0"));
        hear(&itself, to, word);
        let ports = rig.dockers[0].inspect(word).unwrap();
        let ports = &ports["HostConfig"]["PortBindings"];
        assert_eq!(ports["53/sctp"][0]["HostPort"], "5301");
        let rules =
            ["nft list ruleset", "iptables-save -t nat"].map(|r| host.netns.exec(r).unwrap());
        assert!(rules.iter().any(|r| r.contains("5301")), "{rules:?}");
        rig.dockers[0].run(&format!("rm -f {word}")).unwrap();
    }
}

/// dockerd is killed while the agent works for it. It takes back what it knows of; the rest the agent finds.
fn the_daemon_is_killed_on_the_way(rig: &mut Rig) {
    for point in [
        "docker-after-address",
        "docker-after-endpoint",
        "docker-after-gateways",
        "docker-before-join-answer",
        "docker-after-ports",
    ] {
        rig.restart_agent(1, &[("MARGAY_FAULT", &format!("{point}:stop"))]);
        let line = format!("run -d --name cut --net front -p 8080:80 {IMAGE} sleep 1000");
        let mut running = rig.dockers[1].spawn(&line).unwrap();
        let agent = rig.agents[1].process().unwrap();
        let stat = PathBuf::from(format!("/proc/{}/stat", agent.pid()));
        let stands_still = || {
            let stat = fs::read_to_string(&stat)?;
            let state = stat.rsplit_once(") ").map(|(_, state)| state);
            ensure!(state.is_some_and(|s| s.starts_with('T')), "{point}: {stat}");
            Ok(())
        };
        eventually(SOON, "the agent stands still", stands_still).unwrap();
        rig.dockers[1].kill().unwrap();
        agent.signal(Signal::SIGCONT).unwrap();
        running.wait().unwrap();
        rig.dockers[1].restart().unwrap();
        // It may not have got as far as a container.
        rig.dockers[1].run("rm -f cut").ok();
        eventually(SOON, "one container is left", || {
            let listed = rig.agents[1].ctl().run("get wep -n libnetwork -o json")?;
            let listed: Value = serde_json::from_str(&listed)?;
            let all = listed["items"].as_array().into_iter().flatten();
            let here = all.filter(|endpoint| endpoint["spec"]["node"] == "h2");
            ensure!(here.count() == 1, "{point}: {listed}");
            let interfaces = rig.interfaces(1);
            ensure!(interfaces.len() == 1, "{point}: {interfaces:?}");
            Ok(())
        })
        .unwrap();
    }
    let web = rig.address(0, "web", "front", true).to_string();
    rig.fetch(1, "client", &web, SOON).unwrap();
    rig.run(1, "cut", "--net front -p 8080:80").unwrap();
    rig.dockers[1].run("rm -f cut").unwrap();
}

/// dockerd's own check decides, and is told to the responder of names by an annotation.
fn an_unhealthy_container_is_told(rig: &Rig) {
    let check = "--health-cmd=/bin/false --health-interval=1s --health-retries=1";
    rig.run(0, "sick", &format!("--net front {check}")).unwrap();
    eventually(SOON, "the endpoint says so", || {
        let shown = rig.agents[0].ctl().run("get wep -n libnetwork -o yaml")?;
        ensure!(shown.contains("margay.io/health: unhealthy"), "{shown}");
        Ok(())
    })
    .unwrap();
    rig.dockers[0].run("rm -f sick").unwrap();
}

fn networks_are_joined_and_left_while_running(rig: &Rig) {
    let docker = &rig.dockers[0];
    let other = rig.address(0, "other", "back", true).to_string();
    rig.fetch(0, "near", &other, NEVER).unwrap_err();
    docker.run("network connect back near").unwrap();
    rig.fetch(0, "near", &other, SOON).unwrap();
    let inner = rig.address(0, "near", "back", true).to_string();
    rig.fetch(0, "other", &inner, SOON).unwrap();
    let web = rig.address(0, "web", "front", true).to_string();
    rig.fetch(0, "near", &web, SOON).unwrap();
    docker.run("network disconnect back near").unwrap();
    rig.fetch(0, "other", &inner, NEVER).unwrap_err();
    rig.fetch(0, "near", &web, SOON).unwrap();
}

fn errors_are_the_users(rig: &Rig) {
    let docker = &rig.dockers[1];
    let refused = |line: &str, needle: &str| {
        let error = docker.run(line).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    };
    let create = "network create -d margay";
    refused(
        &format!("{create} bad"),
        "create it with --ipam-driver margay",
    );
    refused(
        &format!("{create} --ipam-driver margay --subnet 10.9.0.0/16 bad"),
        "no IPPool has the range 10.9.0.0/16; there are:",
    );
    // The address of a container on the other host.
    let error = rig
        .run(1, "twin", "--net front --ip 10.65.0.100")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("10.65.0.100 is taken by _docker.h1 on node h1"),
        "{error}"
    );
    docker.run("rm twin").unwrap();
}

/// At the point where it was told to.
fn dies_and_comes_back(agent: &mut Agent) {
    let died = eventually(SOON, "the agent dies", || {
        ensure!(
            agent.process()?.ensure_running().is_err(),
            "it is not reached"
        );
        Ok(())
    });
    died.unwrap();
    agent.set_env(&[]);
    agent.restart().unwrap();
}

/// dockerd repeats the call without its content, which fails, and whoever wanted the container starts it again.
fn the_agent_is_killed_on_the_way(rig: &mut Rig) {
    rig.restart_agent(1, &[("MARGAY_FAULT", "docker-before-join-answer")]);
    let (docker, agent) = (&rig.dockers[1], &mut rig.agents[1]);
    thread::scope(|scope| {
        let line = format!("run -d --name hurt --net front {IMAGE} httpd -f -p 80 -h /www");
        let running = scope.spawn(move || docker.run(&line));
        dies_and_comes_back(agent);
        let error = running.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("try again"), "{error}");
    });
    rig.dockers[1].run("rm -f hurt").unwrap();
    rig.run(1, "hurt", "--net front").unwrap();
    let at = rig.address(1, "hurt", "front", true).to_string();
    rig.fetch(1, "client", &at, SOON).unwrap();
    // And while one goes.
    rig.restart_agent(1, &[("MARGAY_FAULT", "docker-after-kernel-removal")]);
    thread::scope(|scope| {
        let (docker, agent) = (&rig.dockers[1], &mut rig.agents[1]);
        let removing = scope.spawn(move || docker.run("rm -f hurt"));
        dies_and_comes_back(agent);
        removing.join().unwrap().unwrap();
    });
    let web = rig.address(0, "web", "front", true).to_string();
    rig.fetch(1, "client", &web, SOON).unwrap();
}

/// Its containers go on, and it knows them afterwards; what it had not finished is taken back.
fn the_daemon_is_killed(rig: &mut Rig) {
    let web = rig.address(0, "web", "front", true);
    rig.dockers[0].kill().unwrap();
    rig.router_reaches(web, SOON).unwrap();
    rig.restart_agent(0, &[]);
    rig.router_reaches(web, SOON).unwrap();
    rig.dockers[0].restart().unwrap();
    rig.router_reaches(web, SOON).unwrap();
    rig.dockers[0].run("rm -f near").unwrap();
    rig.run(0, "near", "--net front").unwrap();
    rig.fetch(0, "near", "web", SOON).unwrap();
}

fn the_datastore_is_away(rig: &mut Rig) {
    rig.etcd.process().unwrap().signal(Signal::SIGSTOP).unwrap();
    let error = rig.run(1, "late", "--net front").unwrap_err().to_string();
    assert!(error.contains("datastore unavailable"), "{error}");
    // What runs goes on, and can be stopped.
    rig.router_reaches(rig.address(0, "web", "front", true), SOON)
        .unwrap();
    rig.dockers[0].run("rm -f near").unwrap();
    rig.etcd.process().unwrap().signal(Signal::SIGCONT).unwrap();
    rig.dockers[1].run("rm -f late").unwrap();
    eventually(SOON, "its endpoint is gone", || {
        let ctl = Ctl::with_etcd(&rig.lab.store, rig.etcd.url(), rig.lab.dir());
        let shown = ctl.run("get wep -n libnetwork -o yaml")?;
        ensure!(!shown.contains("workload: near"), "{shown}");
        Ok(())
    })
    .unwrap();
}

/// Processes, interfaces and everything in the kernel are gone; disks are not.
fn the_host_starts_anew(rig: &mut Rig) {
    rig.dockers[0].run("update --restart=always web").unwrap();
    rig.dockers[0].kill().unwrap();
    rig.agents[0].kill().unwrap();
    drop(rig.dockers.remove(0));
    for interface in rig.interfaces(0) {
        // Those of containers that ended went with them.
        Command::new("ip")
            .args(["-n", rig.host(0).name(), "link", "del", &interface])
            .output()
            .unwrap();
    }
    rig.restart_agent(0, &[]);
    rig.dockers
        .insert(0, Docker::start(&rig.lab.hosts[0]).unwrap());
    rig.router_reaches("10.65.0.100".parse().unwrap(), SOON)
        .unwrap();
    rig.fetch(1, "client", "10.65.0.100", SOON).unwrap();
}

fn everything_is_removed(rig: &Rig) {
    for docker in &rig.dockers {
        let all = docker.run("ps -aq").unwrap().replace('\n', " ");
        docker.run(&format!("rm -f {all}")).unwrap();
    }
    eventually(SOON, "all is clean", || rig.ensure_clean()).unwrap();
    for docker in &rig.dockers {
        docker.run("network rm front").unwrap();
    }
    rig.dockers[0].run("network rm back").unwrap();
    rig.ensure_no_networks().unwrap();
}

/// Its disk was lost, and with it what it knew of networks and containers: what they had is collected.
fn the_daemon_forgets_everything(rig: &mut Rig) {
    rig.dockers[1].run(FRONT).unwrap();
    rig.run(1, "lost", "--net front -p 8080:80").unwrap();
    drop(rig.dockers.remove(1));
    fs::remove_dir_all(rig.lab.hosts[1].dir.join("docker")).unwrap();
    rig.dockers.push(Docker::start(&rig.lab.hosts[1]).unwrap());
    eventually(SOON, "what it had is collected", || {
        rig.ensure_clean()?;
        rig.ensure_no_networks()
    })
    .unwrap();
    // And it begins anew.
    rig.dockers[1].run(FRONT).unwrap();
    rig.run(1, "found", "--net front -p 8080:80").unwrap();
    rig.fetch(1, "found", "found", SOON).unwrap();
}

/// Once the operator says so, another host's agent takes everything that it had.
fn the_host_is_gone_for_good(rig: &mut Rig) {
    rig.agents[1].kill().unwrap();
    drop(rig.dockers.remove(1));
    let ctl = Ctl::with_etcd(&rig.lab.store, rig.etcd.url(), rig.lab.dir());
    let known = ctl.run("get wep -n libnetwork -o yaml").unwrap();
    assert!(known.contains("node: h2"), "{known}");
    ctl.run("delete node h2").unwrap();
    eventually(SOON, "nothing of it is left", || {
        rig.ensure_no_networks()?;
        for prefix in [
            "/calico/ipam/v2/host/h2/",
            "/calico/ipam/v2/handle/",
            "/calico/resources/v3/projectcalico.org/workloadendpoints/",
        ] {
            let left = rig.etcd.ctl(&["get", "--prefix", "--keys-only", prefix])?;
            ensure!(left.trim().is_empty(), "{left}");
        }
        let blocks = rig
            .etcd
            .ctl(&["get", "--prefix", "/calico/ipam/v2/assignment/"])?;
        ensure!(!blocks.contains("host:h2"), "{blocks}");
        Ok(())
    })
    .unwrap();
}
