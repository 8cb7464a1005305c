//! What annotations ask of the packet filter for one container.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::ensure;
use margay_lab::eventually;
use serde_json::json;

use crate::rig::{NETWORK, POOLS, Rig, SOON};

const QUICK: Duration = Duration::from_millis(300);

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
    let connect = || {
        client
            .netns
            .within(|| Ok(TcpStream::connect_timeout(&at, QUICK)?))
    };
    let first = connect().unwrap();
    let _second = connect().unwrap();
    connect().unwrap_err();
    // One that ends makes room.
    drop(first);
    drop(listener.accept().unwrap());
    eventually(SOON, "there is room again", || {
        let stream = connect();
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
