//! A change of policy of the host itself ends the connections that it denies, on each way that its packets take, and no
//! other.

use std::net::IpAddr;

use margay_lab::{Host, Manner, Talk, TalkServer};
use serde_json::json;

use crate::rig::Rig;

/// Of the host and of the router; what is denied.
const DENIED: u16 = 7000;
const ALLOWED: u16 = 7001;
/// No policy closes this one.
const FAILSAFE: u16 = 6666;
const HOST_PORT: u16 = 8080;
const BEHIND_PORT: u16 = 7002;

const RESOURCES: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: v4}\n\
    spec: {cidr: 10.65.0.0/24, blockSize: 28, natOutgoing: true, nodeSelector: all()}\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: v6}\n\
    spec: {cidr: 'fd00:65::/112', blockSize: 124, natOutgoing: true, nodeSelector: all()}\n---\n\
    apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {name: blue}\n\
    spec: {ingress: [{action: Allow}], egress: [{action: Allow}]}\n---\n\
    apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: usual}\n\
    spec: {order: 100, selector: role == 'host', ingress: [{action: Allow}], egress: [{action: Allow}]}\n---\n\
    apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: uplink, labels: {role: host}}\n\
    spec: {node: h1, interfaceName: eth0}\n";

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: change}}\n\
         spec: {{order: 10, selector: role == 'host', {spec}}}\n"
    )
}

fn deny(port: u16) -> String {
    format!("{{action: Deny, protocol: TCP, destination: {{ports: [{port}]}}}}")
}

/// Ways that connections take, each in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// To the host: at the port that is denied, at another one, at one that nobody can close.
    In,
    InElsewhere,
    InFailsafe,
    Out,
    OutElsewhere,
    /// From the container, by the same ports.
    Through,
    ThroughElsewhere,
    /// To the container, by a port of the host.
    Translated,
}

struct Scene {
    rig: Rig,
    talks: Vec<(Way, Talk)>,
    _servers: Vec<TalkServer>,
}

/// A connection of the host's to a place that a route says there is no way to.
fn to_nowhere(host: &Host) {
    for (own, nowhere) in [
        (IpAddr::from(host.v4), "203.0.113.9"),
        (host.v6.into(), "2001:db8:dead::9"),
    ] {
        let known = format!(
            "conntrack -I --timeout 600 -p tcp -s {own} -d {nowhere} --sport 1 --dport 2 --state ESTABLISHED"
        );
        host.netns.exec(&known).unwrap();
        host.netns
            .exec(&format!("ip route add blackhole {nowhere}"))
            .unwrap();
    }
}

impl Scene {
    fn new(mode: &str) -> Self {
        let felix = format!(
            "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\n\
             spec: {{nftablesMode: {mode}}}\n"
        );
        let rig = Rig::embedded(&format!("{RESOURCES}{felix}"));
        let blue = rig.sandbox("blue", "blue");
        let mut config = rig.config("blue");
        let ports =
            json!([{"hostPort": HOST_PORT, "containerPort": BEHIND_PORT, "protocol": "tcp"}]);
        config["runtimeConfig"] = json!({"portMappings": ports});
        let netns = blue.netns.path();
        rig.plugin("ADD", "blue", netns.to_str(), &config).ips();
        let (host, tor, echoes) = (rig.host(), &rig.lab.tor, Manner::Echoes);
        // What is true of one connection keeps nobody from judging the others.
        to_nowhere(host);
        let servers = [
            (&host.netns, DENIED),
            (&host.netns, ALLOWED),
            (&host.netns, FAILSAFE),
            (tor, DENIED),
            (tor, ALLOWED),
            (&blue.netns, BEHIND_PORT),
        ];
        let start = |(netns, port)| TalkServer::start(netns, port, echoes).unwrap();
        let servers = servers.map(start).into();
        let mut talks = Vec::new();
        for (near, far) in [
            (host.v4.into(), host.tor_v4.into()),
            (host.v6.into(), host.tor_v6.into()),
        ] {
            talks.extend(
                [
                    (Way::In, tor, near, DENIED),
                    (Way::InElsewhere, tor, near, ALLOWED),
                    (Way::InFailsafe, tor, near, FAILSAFE),
                    (Way::Out, &host.netns, far, DENIED),
                    (Way::OutElsewhere, &host.netns, far, ALLOWED),
                    (Way::Through, &blue.netns, far, DENIED),
                    (Way::ThroughElsewhere, &blue.netns, far, ALLOWED),
                    (Way::Translated, tor, near, HOST_PORT),
                ]
                .map(|(way, from, to, port)| (way, Talk::open(from, to, port, echoes).unwrap())),
            );
        }
        Self {
            rig,
            talks,
            _servers: servers,
        }
    }

    /// These end and all others go on.
    #[track_caller]
    fn ended(&mut self, ended: &[Way]) {
        let (silent, on): (Vec<_>, Vec<_>) = self
            .talks
            .iter_mut()
            .partition(|(way, _)| ended.contains(way));
        for (way, talk) in silent {
            talk.ensure_silent()
                .unwrap_or_else(|e| panic!("{way:?}: {e:#}"));
        }
        for (way, talk) in on {
            talk.ensure_on()
                .unwrap_or_else(|e| panic!("{way:?}: {e:#}"));
        }
    }

    /// While this policy is there, these end.
    #[track_caller]
    fn ends_while(&mut self, spec: &str, ended: &[Way]) {
        self.rig.ctl().apply(&policy(spec)).unwrap();
        self.ended(ended);
        self.rig.ctl().run("delete gnp change").unwrap();
        self.ended(&[]);
    }
}

fn what_policy_of_the_host_comes_to_deny_ends(mode: &str) {
    let mut scene = Scene::new(mode);
    scene.ended(&[]);
    let ports = format!("[{}, {}]", deny(DENIED), deny(FAILSAFE));
    scene.ends_while(&format!("ingress: {ports}"), &[Way::In]);
    scene.ends_while(&format!("egress: {ports}"), &[Way::Out]);
    let forward = format!(
        "applyOnForward: true, egress: [{}, {{action: Allow}}]",
        deny(DENIED)
    );
    scene.ends_while(&forward, &[Way::Out, Way::Through]);
    // Where the packet goes, and where it was sent to.
    let forward = format!(
        "applyOnForward: true, ingress: [{}, {{action: Allow}}]",
        deny(BEHIND_PORT)
    );
    scene.ends_while(&forward, &[Way::Translated]);
    let early = format!(
        "applyOnForward: true, preDNAT: true, ingress: [{}, {}]",
        deny(HOST_PORT),
        deny(FAILSAFE)
    );
    scene.ends_while(&early, &[Way::Translated]);
    // Nobody tells an agent that does not run; the next one finds out what is there already.
    let both = format!("ingress: {ports}, egress: {ports}");
    scene.rig.ctl().apply(&policy(&both)).unwrap();
    scene.ended(&[Way::In, Way::Out]);
    scene.rig.agent.kill().unwrap();
    scene.rig.restart(&[]);
    scene.ended(&[Way::In, Way::Out]);
    // An endpoint that is gone denies nothing.
    scene.rig.ctl().run("delete hostendpoint uplink").unwrap();
    scene.ended(&[]);
}

#[test]
fn what_policy_of_the_host_comes_to_deny_ends_with_nftables() {
    what_policy_of_the_host_comes_to_deny_ends("Enabled");
}

#[test]
fn what_policy_of_the_host_comes_to_deny_ends_with_iptables() {
    what_policy_of_the_host_comes_to_deny_ends("Disabled");
}
