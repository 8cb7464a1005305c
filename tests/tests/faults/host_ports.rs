//! Ports of the host that lead to containers: through the agent's death, one owner each, gone with DEL.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, ensure};
use margay_lab::{NetNs, eventually};
use serde_json::{Value, json};

use crate::rig::{Answer, NETWORK, POOLS, Rig, SOON, Sandbox};

const QUICK: Duration = Duration::from_millis(300);

/// Serves until dropped: each connection hears the server's name.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(netns: &NetNs, port: u16, name: &str) -> Self {
        let listener = netns
            .within(|| Ok(TcpListener::bind(("::", port))?))
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, name) = (Arc::clone(&stop), name.to_owned());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    // The client may have left.
                    Ok((mut stream, _)) => drop(stream.write_all(name.as_bytes())),
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn hear(from: &NetNs, ip: IpAddr, port: u16) -> Result<String> {
    from.within(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), QUICK)?;
        stream.set_read_timeout(Some(QUICK))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

fn call(rig: &Rig, verb: &str, sandbox: &Sandbox, mappings: &Value) -> Answer {
    let mut config = rig.config(NETWORK);
    config["runtimeConfig"] = json!({"portMappings": mappings});
    let netns = sandbox.netns.path();
    rig.plugin(verb, &sandbox.id, netns.to_str(), &config)
}

/// The router hears this name at the port of the host, at both addresses.
#[track_caller]
fn ensure_heard(rig: &Rig, port: u16, name: &str) {
    let host = rig.host();
    for ip in [IpAddr::from(host.v4), host.v6.into()] {
        eventually(SOON, "the port leads there", || {
            let heard = hear(&rig.lab.tor, ip, port)?;
            ensure!(heard == name, "{heard:?} at {ip}");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn ports_outlive_the_agent_and_go_with_del() {
    let mut rig = Rig::with_etcd(POOLS);
    rig.ctl().apply(OPEN).unwrap();
    let mappings = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let mut a = rig.sandbox("a", NETWORK);
    a.ips = call(&rig, "ADD", &a, &mappings).ips();
    let _server = Server::start(&a.netns, 80, "a");
    ensure_heard(&rig, 8080, "a");
    rig.agent.kill().unwrap();
    ensure_heard(&rig, 8080, "a");
    rig.restart(&[]);
    ensure_heard(&rig, 8080, "a");
    assert!(call(&rig, "DEL", &a, &mappings).ips().is_empty());
    hear(&rig.lab.tor, rig.host().v4.into(), 8080).unwrap_err();
    // The same port for the next one.
    let b = rig.sandbox("b", NETWORK);
    call(&rig, "ADD", &b, &mappings).ips();
    let _next = Server::start(&b.netns, 80, "b");
    ensure_heard(&rig, 8080, "b");
    // It goes while the agent is down, and comes to another.
    rig.agent.kill().unwrap();
    assert!(call(&rig, "DEL", &b, &mappings).ips().is_empty());
    rig.restart(&[]);
    rig.ensure_exact(&[]);
    hear(&rig.lab.tor, rig.host().v4.into(), 8080).unwrap_err();
}

#[test]
fn a_port_has_one_owner_however_many_ask_at_once() {
    let rig = Rig::embedded(POOLS);
    let mappings = json!([{"hostPort": 8080, "containerPort": 80}, {"hostPort": 53, "containerPort": 53, "protocol": "udp"}]);
    let mut all: Vec<Sandbox> = (0..4)
        .map(|n| rig.sandbox(&format!("c{n}"), NETWORK))
        .collect();
    let answers: Vec<Answer> = thread::scope(|scope| {
        let calls: Vec<_> = all
            .iter()
            .map(|sandbox| scope.spawn(|| call(&rig, "ADD", sandbox, &mappings)))
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let owners: Vec<usize> = (0..all.len()).filter(|n| answers[*n].exit == 0).collect();
    let [owner] = owners[..] else {
        panic!("{answers:?}");
    };
    for (n, answer) in answers.iter().enumerate().filter(|(n, _)| *n != owner) {
        answer.refused(103, "leads to container c");
        assert!(
            answer.text.contains(&format!("c{owner}")),
            "{n}: {}",
            answer.text
        );
    }
    all[owner].ips = answers[owner].ips();
    rig.ensure_exact(&[&all[owner]]);
    // Elsewhere it is free, and after DEL here as well.
    let at = json!([{"hostPort": 8081, "containerPort": 80}]);
    let other = (owner + 1) % all.len();
    all[other].ips = call(&rig, "ADD", &all[other], &at).ips();
    assert!(call(&rig, "DEL", &all[owner], &mappings).ips().is_empty());
    let third = (owner + 2) % all.len();
    all[third].ips = call(&rig, "ADD", &all[third], &mappings).ips();
    rig.ensure_exact(&[&all[other], &all[third]]);
}

/// Whoever comes from the router may connect: the network's own profile lets in its members only.
pub(crate) const OPEN: &str = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: open\n\
    spec:\n  order: 1\n  ingress: [{action: Allow}]\n  egress: [{action: Allow}]\n";
