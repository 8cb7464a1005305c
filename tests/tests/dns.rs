//! Names of workloads, asked for with `dig` on hosts and in containers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use margay_lab::resources::{NETWORK, bgp, pools_and_profile};
use margay_lab::{
    Agent, Container, Ctl, Datastore, Etcd, Lab, NetNs, Plugin, STORE_V4, eventually, run,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// Where every agent listens; the agents add it to their hosts.
const SERVER: &str = "169.254.1.53";

/// A workload that some other system runs, with a named port. And queries of containers come to the host.
const OTHERS: &str = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata:\n  \
    name: elsewhere-openstack-vm1-eth0\n  namespace: lab\nspec:\n  orchestrator: openstack\n  \
    workload: vm1\n  node: elsewhere\n  endpoint: eth0\n  interfaceName: tap1\n  \
    ipNetworks: [192.0.2.77/32]\n  ports:\n  - name: http\n    protocol: TCP\n    port: 8080\n---\n\
    apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata:\n  name: default\n\
    spec:\n  defaultEndpointToHostAction: Accept\n";

struct Rig {
    agents: Vec<Agent>,
    etcd: Etcd,
    lab: Lab,
}

impl Rig {
    fn new() -> Self {
        let lab = Lab::new(2).unwrap();
        let etcd = Etcd::start_in(lab.store.name(), STORE_V4.into()).unwrap();
        let ctl = Ctl::with_etcd(&lab.store, etcd.url(), lab.dir());
        for resources in [pools_and_profile(false), bgp(&lab), OTHERS.to_owned()] {
            ctl.apply(&resources).unwrap();
        }
        let datastore = Datastore::Etcd(etcd.url().to_owned());
        let mut agents = Vec::new();
        for host in &lab.hosts {
            let mut agent = Agent::prepare(host, &datastore).unwrap();
            let config = fs::read_to_string(agent.config_file()).unwrap();
            let dns = format!(
                "audit_interval_secs: 1\ndns:\n  listen: ['{SERVER}:53', '{}:5300']\n  upstreams: ['127.0.0.1:5354']\n",
                host.v4
            );
            fs::write(agent.config_file(), config + &dns).unwrap();
            agent.restart().unwrap();
            agents.push(agent);
        }
        for agent in &agents {
            eventually(SOON, "the agent is ready", || agent.ensure_ready()).unwrap();
        }
        Self { agents, etcd, lab }
    }

    fn host(&self, at: usize) -> &NetNs {
        &self.lab.hosts[at].netns
    }

    fn container(&self, at: usize, id: &str, args: &str) -> Container {
        let mut plugin = Plugin::new(&self.agents[at], &self.lab.hosts[at], NETWORK).unwrap();
        plugin.args = args.to_owned();
        let mut container = Container::new(&self.lab, id, plugin).unwrap();
        container.cni_add().unwrap();
        container
    }
}

/// `dig` with words split at spaces.
fn dig(netns: &NetNs, words: &str) -> Result<String> {
    let mut command = netns.command("dig");
    command
        .args(["+tries=1", "+timeout=20"])
        .args(words.split_whitespace());
    run(&mut command)
}

/// The data of an answer, sorted.
fn short(netns: &NetNs, words: &str) -> Result<Vec<String>> {
    let text = dig(netns, &format!("@{SERVER} +short {words}"))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

/// Waits until the answer is this.
#[track_caller]
fn expect(netns: &NetNs, words: &str, wanted: &[String]) {
    let mut wanted = wanted.to_vec();
    wanted.sort();
    eventually(SOON, words, || {
        let found = short(netns, words)?;
        ensure!(found == wanted, "{words}: {found:?}, not {wanted:?}");
        Ok(())
    })
    .unwrap();
}

/// A name server for everything else: it says that there is no such name.
struct Upstream {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Upstream {
    fn start(netns: &NetNs) -> Self {
        let socket = netns
            .within(|| Ok(UdpSocket::bind("127.0.0.1:5354")?))
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                buffer[2] |= 0x80;
                buffer[3] = 3;
                socket.send_to(&buffer[..length], from).unwrap();
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn metrics(netns: &NetNs) -> Result<String> {
    netns.within(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9091")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

#[test]
fn workloads_of_all_hosts_have_names_also_without_etcd() {
    let mut rig = Rig::new();
    let _upstream = Upstream::start(rig.host(0));
    let c1 = rig.container(0, "c1", "");
    let c2 = rig.container(1, "c2", "");
    names_are_answered_everywhere(&rig, &c1, &c2);
    long_answers_come_by_tcp(&rig);
    the_rest_is_passed_on(&rig);
    garbage_is_survived(&rig);
    let pod = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web";
    let (w1, w2) = (rig.container(0, "w1", pod), rig.container(1, "w2", pod));
    workloads_that_are_unhealthy_are_left_out(&rig, &w1, &w2);
    hosts_that_are_gone_are_left_out(&mut rig, &w1, &w2);
    names_outlive_the_datastore(&mut rig, &c1, &c2);
}

fn text(ip: Result<IpAddr>) -> String {
    ip.unwrap().to_string()
}

fn names_are_answered_everywhere(rig: &Rig, c1: &Container, c2: &Container) {
    for netns in [rig.host(0), rig.host(1), &c1.netns, &c2.netns] {
        for (container, name) in [(c1, "c1"), (c2, "c2")] {
            expect(
                netns,
                &format!("{name}.{NETWORK}.margay.internal A"),
                &[text(container.v4())],
            );
            expect(
                netns,
                &format!("{name}.default.margay.internal AAAA"),
                &[text(container.v6())],
            );
        }
    }
    let host = rig.host(0);
    let back = format!("c2.{NETWORK}.margay.internal.");
    for ip in [c2.v4(), c2.v6()] {
        expect(
            host,
            &format!("-x {}", text(ip)),
            std::slice::from_ref(&back),
        );
    }
    expect(
        host,
        "_http._tcp.vm1.lab.margay.internal SRV",
        &["0 0 8080 vm1.lab.margay.internal.".to_owned()],
    );
    expect(
        host,
        "+tcp vm1.lab.margay.internal",
        &["192.0.2.77".to_owned()],
    );
    let missing = dig(host, &format!("@{SERVER} nobody.{NETWORK}.margay.internal")).unwrap();
    assert!(
        missing.contains("status: NXDOMAIN") && missing.contains(" aa "),
        "{missing}"
    );
    // A container that goes takes its name along.
    let mut short_lived = rig.container(0, "brief", "");
    let name = format!("brief.{NETWORK}.margay.internal");
    expect(rig.host(1), &name, &[text(short_lived.v4())]);
    short_lived.cni_del().unwrap();
    expect(rig.host(1), &name, &[]);
}

/// A name of more endpoints than a datagram takes: `dig` asks again by TCP, as every resolver does.
fn long_answers_come_by_tcp(rig: &Rig) {
    let endpoint = |n: u8| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata:\n  \
             name: elsewhere-openstack-many-eth{n}\n  namespace: lab\nspec:\n  orchestrator: openstack\n  \
             workload: many\n  node: elsewhere\n  endpoint: eth{n}\n  interfaceName: tap{n}\n  \
             ipNetworks: [192.0.2.{n}/32]\n"
        )
    };
    let all: Vec<String> = (101..=140).map(endpoint).collect();
    let all = all.join("---\n");
    let ctl = Ctl::with_etcd(&rig.lab.store, rig.etcd.url(), rig.lab.dir());
    ctl.apply(&all).unwrap();
    let ips: Vec<String> = (101..=140).map(|n| format!("192.0.2.{n}")).collect();
    let name = "many.lab.margay.internal";
    expect(rig.host(1), &format!("+noedns {name}"), &ips);
    let cut = dig(rig.host(1), &format!("@{SERVER} +noedns +ignore {name}")).unwrap();
    assert!(
        cut.contains(" tc") && cut.matches("192.0.2.").count() < 40,
        "{cut}"
    );
    ctl.delete(&all).unwrap();
    expect(rig.host(1), name, &[]);
    expect(rig.host(0), name, &[]);
    // How long others may remember that there is nothing is in the zone's SOA (RFC 2308).
    let nothing = dig(rig.host(0), &format!("@{SERVER} {name} +noall +authority")).unwrap();
    let soa: Vec<&str> = nothing.split_whitespace().collect();
    assert_eq!(
        (soa[0], soa[3], soa.last()),
        ("margay.internal.", "SOA", Some(&"5")),
        "{nothing}"
    );
    let own = short(rig.host(0), "margay.internal SOA").unwrap();
    assert!(
        own[0].starts_with("ns.margay.internal. hostmaster.margay.internal. "),
        "{own:?}"
    );
}

fn the_rest_is_passed_on(rig: &Rig) {
    let passed_on = dig(rig.host(0), &format!("@{SERVER} example.org")).unwrap();
    assert!(
        passed_on.contains("status: NXDOMAIN") && !passed_on.contains(" aa "),
        "{passed_on}"
    );
    // Not for somebody out in the fabric, who may ask for names of ours.
    let at = format!("@{} -p 5300", rig.lab.hosts[0].v4);
    let refused = dig(&rig.lab.tor, &format!("{at} example.org")).unwrap();
    assert!(refused.contains("status: REFUSED"), "{refused}");
    let found = dig(
        &rig.lab.tor,
        &format!("{at} +short vm1.lab.margay.internal"),
    )
    .unwrap();
    assert_eq!(found.trim(), "192.0.2.77");
    // The other host's name server does not answer.
    let failed = dig(rig.host(1), &format!("@{SERVER} example.org")).unwrap();
    assert!(failed.contains("status: SERVFAIL"), "{failed}");
    let metrics = metrics(rig.host(0)).unwrap();
    let line = "margay_dns_queries_total{result=\"forwarded\"} 1\n";
    assert!(
        metrics.contains(line) && metrics.contains("margay_dns_endpoints 3\n"),
        "{metrics}"
    );
}

fn garbage_is_survived(rig: &Rig) {
    let server: SocketAddr = format!("{SERVER}:53").parse().unwrap();
    rig.host(0)
        .within(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            let mut state: u32 = 1;
            for length in 0..1500 {
                let mut message = vec![0; length % 300];
                for byte in &mut message {
                    // Numerical Recipes' generator: the same garbage at each run.
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *byte = (state >> 24) as u8;
                }
                // Half of them begin like a query.
                if length % 2 == 0 && message.len() > 12 {
                    message[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
                }
                // A refusal that nobody reads may come back as an error.
                socket.send_to(&message, server).ok();
                if length % 100 == 0 {
                    let mut stream = TcpStream::connect(server)?;
                    stream.write_all(&(message.len() as u16).to_be_bytes())?;
                    stream.write_all(&message)?;
                }
            }
            Ok(())
        })
        .unwrap();
    expect(
        rig.host(0),
        "vm1.lab.margay.internal",
        &["192.0.2.77".to_owned()],
    );
    rig.agents[0].ensure_ready().unwrap();
}

/// As somebody who checks them says.
fn workloads_that_are_unhealthy_are_left_out(rig: &Rig, w1: &Container, w2: &Container) {
    let both = [text(w1.v4()), text(w2.v4())];
    let name = "web.shop.margay.internal";
    expect(rig.host(0), name, &both);
    let ctl = Ctl::with_etcd(&rig.lab.store, rig.etcd.url(), rig.lab.dir());
    let listed = ctl.run("get wep -n shop -o json").unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let items = listed["items"].as_array().unwrap();
    let first = items.iter().find(|item| item["spec"]["node"] == "h1");
    let key = first.unwrap()["metadata"]["name"].as_str().unwrap();
    let say = |health: &str| {
        let patch =
            format!(r#"{{"metadata":{{"annotations":{{"margay.io/health":"{health}"}}}}}}"#);
        ctl.run(&format!("patch wep -n shop {key} -p {patch}"))
            .unwrap();
    };
    say("unhealthy");
    for host in [0, 1] {
        expect(rig.host(host), name, &both[1..]);
    }
    say("fine");
    expect(rig.host(1), name, &both);
}

/// An agent that ended by itself gives up its key; one that was killed lets it run out.
fn hosts_that_are_gone_are_left_out(rig: &mut Rig, w1: &Container, w2: &Container) {
    let both = [text(w1.v4()), text(w2.v4())];
    expect(rig.host(0), "web.shop.margay.internal", &both);
    rig.agents[1].kill().unwrap();
    expect(rig.host(0), "web.shop.margay.internal", &both[..1]);
    rig.agents[1].restart().unwrap();
    expect(rig.host(0), "web.shop.margay.internal", &both);
}

fn names_outlive_the_datastore(rig: &mut Rig, c1: &Container, c2: &Container) {
    let name = format!("c2.{NETWORK}.margay.internal");
    rig.etcd.kill().unwrap();
    expect(&c1.netns, &name, &[text(c2.v4())]);
    // A start without it begins with the snapshot, which is written soon after a change.
    rig.agents[0].restart().unwrap();
    expect(rig.host(0), &name, &[text(c2.v4())]);
    // Zone and time to live are the operator's.
    let agent = &mut rig.agents[0];
    let config = fs::read_to_string(agent.config_file()).unwrap();
    let config = config.replace("dns:\n", "dns:\n  zone: lab.test\n  ttl_secs: 77\n");
    fs::write(agent.config_file(), config).unwrap();
    agent.restart().unwrap();
    let named = format!("c2.{NETWORK}.lab.test");
    expect(rig.host(0), &named, &[text(c2.v4())]);
    let whole = dig(rig.host(0), &format!("@{SERVER} {named} +noall +answer")).unwrap();
    assert_eq!(whole.split_whitespace().nth(1), Some("77"), "{whole}");
}
