//! What annotations ask of the packet filter for one container.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::ensure;
use margay_lab::{eventually, ping};
use serde_json::{Value, json};

use crate::host_ports::OPEN;
use crate::rig::{NETWORK, POOLS, Rig, SOON, Sandbox};

const QUICK: Duration = Duration::from_millis(300);

const TRANSLATED: &str = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\n\
    metadata: {name: default}\nspec: {floatingIPs: Enabled}\n";

#[test]
fn annotations_limit_connections_of_a_container() {
    let rig = Rig::embedded(POOLS);
    let client = rig.attach("client", NETWORK);
    let mut server = rig.sandbox("server", NETWORK);
    let mut config = rig.config(NETWORK);
    config["args"] = json!({"cni": {"annotations": {
        "qos.projectcalico.org/ingressMaxConnections": "2",
        "qos.projectcalico.org/ingressPacketRate": "100k",
    }}});
    let netns = server.netns.path();
    let call = |verb| rig.plugin(verb, &server.id, netns.to_str(), &config);
    let ips = call("ADD").ips();
    server.ips = ips;
    let at = SocketAddr::new(server.v4(), 80);
    let listener = server.netns.within(|| Ok(TcpListener::bind(at)?)).unwrap();
    let connect = |patience| {
        client
            .netns
            .within(|| Ok(TcpStream::connect_timeout(&at, patience)?))
    };
    let first = connect(SOON).unwrap();
    let _second = connect(SOON).unwrap();
    connect(QUICK).unwrap_err();
    // One that ends makes room.
    drop(first);
    drop(listener.accept().unwrap());
    eventually(SOON, "there is room again", || {
        let stream = connect(QUICK);
        ensure!(stream.is_ok(), "{stream:?}");
        Ok(())
    })
    .unwrap();
    let stored = rig.list("/calico/resources/v3/").unwrap();
    let endpoint = stored
        .iter()
        .find(|(key, _)| key.contains("cni-server"))
        .unwrap();
    assert!(
        endpoint.1.contains("\"ingressPacketRate\":100000"),
        "{endpoint:?}"
    );
}

#[test]
fn a_floating_ip_is_reached_from_the_router_and_goes_with_del() {
    let rig = Rig::embedded(POOLS);
    rig.ctl().apply(OPEN).unwrap();
    let (a, b) = (rig.sandbox("a", NETWORK), rig.sandbox("b", NETWORK));
    let mut config = rig.config(NETWORK);
    config["args"] = json!({"cni": {"annotations": {
        "cni.projectcalico.org/floatingIPs": "[\"203.0.113.7\"]",
    }}});
    let call = |verb, sandbox: &Sandbox, config: &Value| {
        let netns = sandbox.netns.path();
        rig.plugin(verb, &sandbox.id, netns.to_str(), config)
    };
    call("ADD", &a, &config).refused(7, "feature_control.floating_ips must be true");
    config["feature_control"] = json!({"floating_ips": true});
    call("ADD", &a, &config).refused(7, "FelixConfiguration floatingIPs must be Enabled");
    rig.ctl().apply(TRANSLATED).unwrap();
    eventually(SOON, "the agent has heard of it", || {
        let added = call("ADD", &a, &config);
        ensure!(added.exit == 0, "{}", added.text);
        Ok(())
    })
    .unwrap();
    let floating = "203.0.113.7".parse().unwrap();
    let tor = &rig.lab.tor;
    tor.ip(&format!("route add 203.0.113.7 via {}", rig.host().v4))
        .unwrap();
    ping(tor, floating, SOON).unwrap();
    ping(&rig.host().netns, floating, SOON).unwrap();
    // It has one owner.
    call("ADD", &b, &config).refused(101, "floating IP 203.0.113.7 is container a's already");
    assert!(call("DEL", &a, &config).ips().is_empty());
    rig.ensure_exact(&[]);
    ping(tor, floating, QUICK).unwrap_err();
    call("ADD", &b, &config).ips();
    ping(tor, floating, SOON).unwrap();
}
