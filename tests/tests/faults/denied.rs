//! A change of policy ends the connections that it denies, and no other: also where the server speaks first, also what
//! is translated, also where the change came while no agent ran.

use margay_lab::{Manner, Talk, TalkServer};
use serde_json::json;

use crate::rig::{NETWORK, Rig, Sandbox};

const ECHO: u16 = 7000;
const TICKS: u16 = 7001;
const BEHIND_PORT: u16 = 7002;
const HOST_PORT: u16 = 8080;

const POOLS: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\n\
    metadata:\n  name: v4\nspec:\n  cidr: 10.65.0.0/24\n  blockSize: 28\n  natOutgoing: true\n  \
    nodeSelector: all()\n---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  \
    name: v6\nspec:\n  cidr: fd00:65::/112\n  blockSize: 124\n  natOutgoing: true\n  \
    nodeSelector: all()\n---\n";

/// Whoever has the label of a friend, and what comes by the port of the host.
const FRIENDS_ONLY: &str = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  \
    name: friends-only\n  namespace: default\nspec:\n  selector: has(blue)\n  types: [Ingress]\n  \
    ingress:\n  - action: Allow\n    protocol: TCP\n    source:\n      selector: has(friend)\n  \
    - action: Allow\n    protocol: TCP\n    destination:\n      ports: [7002]\n";

/// Everything allowed; members have these labels.
fn profile(network: &str, labels: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata:\n  name: {network}\nspec:\n  \
         labelsToApply: {{{labels}}}\n  ingress:\n  - action: Allow\n  egress:\n  - action: Allow\n"
    )
}

fn settings(spec: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata:\n  name: default\n\
         spec: {{{spec}}}\n"
    )
}

struct Scene {
    rig: Rig,
    green: Sandbox,
    blue: Sandbox,
    /// These come to be denied.
    denied: Vec<Talk>,
    /// And these never.
    allowed: Vec<Talk>,
    _servers: Vec<TalkServer>,
}

impl Scene {
    fn new(spec: &str) -> Self {
        let profiles = [
            profile(NETWORK, "friend: ''"),
            profile("green", ""),
            profile("blue", "blue: ''"),
        ];
        let resources = format!("{POOLS}{}---\n{}", profiles.join("---\n"), settings(spec));
        let rig = Rig::with_etcd(&resources);
        let (red, green) = (rig.attach("red", NETWORK), rig.attach("green", "green"));
        let mut blue = rig.sandbox("blue", "blue");
        let mut config = rig.config("blue");
        let ports =
            json!([{"hostPort": HOST_PORT, "containerPort": BEHIND_PORT, "protocol": "tcp"}]);
        config["runtimeConfig"] = json!({"portMappings": ports});
        let netns = blue.netns.path();
        blue.ips = rig.plugin("ADD", "blue", netns.to_str(), &config).ips();
        let tor = &rig.lab.tor;
        let servers = [
            (&blue.netns, ECHO, Manner::Echoes),
            (&blue.netns, TICKS, Manner::Ticks),
            (&blue.netns, BEHIND_PORT, Manner::Echoes),
            (tor, ECHO, Manner::Echoes),
        ];
        let start = |(netns, port, manner)| TalkServer::start(netns, port, manner).unwrap();
        let servers = servers.map(start).into();
        let (host, echoes) = (rig.host(), Manner::Echoes);
        let (mut denied, mut allowed) = (Vec::new(), Vec::new());
        for (to, outside, port_of) in [
            (blue.v4(), host.tor_v4.into(), host.v4.into()),
            (blue.v6(), host.tor_v6.into(), host.v6.into()),
        ] {
            let talk = |from, to, port, manner| Talk::open(from, to, port, manner).unwrap();
            denied.push(talk(&green.netns, to, ECHO, echoes));
            denied.push(talk(&green.netns, to, TICKS, Manner::Ticks));
            allowed.push(talk(&red.netns, to, ECHO, echoes));
            allowed.push(talk(&red.netns, to, TICKS, Manner::Ticks));
            // Translated on the way out, and on the way in.
            allowed.push(talk(&blue.netns, outside, ECHO, echoes));
            allowed.push(talk(tor, port_of, HOST_PORT, echoes));
        }
        Self {
            rig,
            green,
            blue,
            denied,
            allowed,
            _servers: servers,
        }
    }

    fn apply(&self, yaml: &str) {
        self.rig.ctl().apply(yaml).unwrap();
    }

    #[track_caller]
    fn ended(&mut self) {
        self.denied
            .iter_mut()
            .for_each(|talk| talk.ensure_silent().unwrap());
        self.others_go_on();
    }

    #[track_caller]
    fn go_on(&mut self) {
        self.denied
            .iter_mut()
            .for_each(|talk| talk.ensure_on().unwrap());
        self.others_go_on();
    }

    #[track_caller]
    fn others_go_on(&mut self) {
        self.allowed
            .iter_mut()
            .for_each(|talk| talk.ensure_on().unwrap());
    }
}

fn denied_connections_end_and_go_on_when_they_are_allowed_again(mode: &str) {
    let mut scene = Scene::new(&format!("nftablesMode: {mode}"));
    scene.apply(FRIENDS_ONLY);
    scene.ended();
    // A member comes and goes.
    scene.apply(&profile("green", "friend: ''"));
    scene.go_on();
    scene.apply(&profile("green", ""));
    scene.ended();
    scene
        .rig
        .ctl()
        .run("delete networkpolicy friends-only -n default")
        .unwrap();
    scene.go_on();
    // Nobody tells an agent that does not run; the next one finds out.
    scene.rig.agent.kill().unwrap();
    let etcd = scene.rig.etcd.as_ref().unwrap();
    let ctl = margay_lab::Ctl::with_etcd(&scene.rig.lab.store, etcd.url(), scene.rig.lab.dir());
    ctl.apply(FRIENDS_ONLY).unwrap();
    scene.go_on();
    scene.rig.restart(&[]);
    scene.ended();
    let metrics = "curl -sS --fail --max-time 10 http://127.0.0.1:9091/metrics";
    let text = scene.rig.host().netns.exec(metrics).unwrap();
    let name = "margay_policy_connections_ended_total ";
    let ended = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    let least = scene.denied.len() as f64;
    assert!(ended.parse::<f64>().unwrap() >= least, "{ended}");
}

#[test]
fn denied_connections_end_and_go_on_when_they_are_allowed_again_with_nftables() {
    denied_connections_end_and_go_on_when_they_are_allowed_again("Enabled");
}

#[test]
fn denied_connections_end_and_go_on_when_they_are_allowed_again_with_iptables() {
    denied_connections_end_and_go_on_when_they_are_allowed_again("Disabled");
}

#[test]
fn where_they_are_to_be_kept_only_new_connections_are_denied() {
    let mut scene = Scene::new("deniedConnections: Keep");
    scene.apply(FRIENDS_ONLY);
    // The attachment of a container says that the policy is in the kernel.
    let other = scene.rig.attach("other", "green");
    let refused = |from: &Sandbox| {
        let to = std::net::SocketAddr::new(scene.blue.v4(), ECHO);
        let patience = std::time::Duration::from_millis(300);
        let connect = || Ok(std::net::TcpStream::connect_timeout(&to, patience).is_err());
        from.netns.within(connect).unwrap()
    };
    assert!(refused(&scene.green) && refused(&other));
    scene.go_on();
    scene.apply(&settings("deniedConnections: End"));
    scene.ended();
    scene.apply(&settings("deniedConnections: Keep"));
    scene.go_on();
}
