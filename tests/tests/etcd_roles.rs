//! The roles of `deploy/etcd`, on a real etcd with authentication.
//!
//! 1. With its role an agent becomes ready, attaches and detaches a container, and answers each role of people.
//! 2. Each role of people can do its work with `margayctl`, and is refused everything else.
//! 3. No role reaches keys of others, and making the roles again changes nothing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::resources::{NETWORK, pools_and_profile};
use margay_lab::{Agent, Container, Ctl, Datastore, Etcd, Lab, Plugin, STORE_V4, eventually};

const SOON: Duration = Duration::from_secs(60);
const ROLES: [&str; 4] = [
    "margay-agent",
    "margay-viewer",
    "margay-policy-editor",
    "margay-admin",
];

struct Rig {
    lab: Lab,
    etcd: Etcd,
}

impl Rig {
    /// An etcd with a user for each role, named after it; the password is the name.
    fn new() -> Result<Self> {
        let lab = Lab::new(1)?;
        let etcd = Etcd::start_in(lab.store.name(), STORE_V4.into())?;
        let rig = Self { lab, etcd };
        rig.make_roles(None)?;
        for user in ["root", ROLES[0], ROLES[1], ROLES[2], ROLES[3]] {
            rig.etcd.ctl(&["user", "add", &format!("{user}:{user}")])?;
            rig.etcd.ctl(&["user", "grant-role", user, user])?;
        }
        rig.etcd.ctl(&["auth", "enable"])?;
        Ok(rig)
    }

    fn make_roles(&self, user: Option<&str>) -> Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/etcd/make-roles.sh");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.lab.store.name()]);
        command
            .arg(script)
            .env("ETCDCTL_ENDPOINTS", self.etcd.url());
        if let Some(user) = user {
            command.env("ETCDCTL_USER", user);
        }
        let output = command.output()?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "make-roles.sh: {errors}");
        Ok(())
    }

    /// What `margayctl` says to a user, or its complaint.
    fn ctl(&self, user: &str, args: &str) -> Result<String> {
        let host = &self.lab.hosts[0];
        let ctl = Ctl::with_etcd(&host.netns, self.etcd.url(), &host.dir);
        let mut command = ctl.command()?;
        command
            .env("ETCD_USERNAME", user)
            .env("ETCD_PASSWORD", user);
        let output = command.args(args.split_whitespace()).output()?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{user}: {args}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn apply(&self, user: &str, yaml: &str) -> Result<String> {
        let file = self.lab.hosts[0].dir.join(format!("{user}.yaml"));
        std::fs::write(&file, yaml)?;
        self.ctl(user, &format!("apply -f {}", file.display()))
    }

    /// The store must have refused, and not something else.
    fn refused(result: Result<String>) -> Result<()> {
        let error = format!("{:#}", result.err().context("it was let through")?);
        ensure!(error.contains("permission denied"), "{error}");
        Ok(())
    }
}

fn resource(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}"
    )
}

#[test]
fn an_agent_works_with_its_role_and_with_nothing_more() -> Result<()> {
    let rig = Rig::new()?;
    rig.apply("margay-admin", &pools_and_profile(false))?;
    let host = &rig.lab.hosts[0];
    let mut agent = Agent::prepare(host, &Datastore::Etcd(rig.etcd.url().to_owned()))?;
    agent.set_env(&[
        ("ETCD_USERNAME", "margay-agent"),
        ("ETCD_PASSWORD", "margay-agent"),
    ]);
    agent.restart()?;
    eventually(SOON, "the agent is ready", || agent.ensure_ready())?;
    for network in [NETWORK, "a-network-without-a-profile"] {
        let plugin = Plugin::new(&agent, host, network)?;
        let mut container = Container::new(&rig.lab, network, plugin)?;
        container.cni_add()?;
        ensure!(container.addresses.len() == 2);
        container.cni_del()?;
    }
    let nodes = rig.ctl("margay-viewer", "get nodes -o name")?;
    ensure!(nodes == "node/h1\n", "{nodes}");
    for user in &ROLES[1..] {
        let status = rig.ctl(user, "node status h1")?;
        ensure!(status.starts_with("Node:        h1 "), "{user}: {status}");
    }
    let forged = ["put", "/calico/margay/v1/answer/h1/x/0", "{}"];
    let viewer = ["--user=margay-viewer:margay-viewer"];
    let error = rig.etcd.ctl(&[&viewer[..], &forged[..]].concat());
    ensure!(format!("{:#}", error.err().context("let through")?).contains("permission denied"));
    let log = std::fs::read_to_string(agent.log_file())?;
    ensure!(!log.contains("permission denied"), "{log}");

    let pool = resource("IPPool", "more", "{cidr: 10.99.0.0/16}");
    Rig::refused(rig.apply("margay-agent", &pool))?;
    let policy = resource(
        "GlobalNetworkPolicy",
        "open",
        "{ingress: [{action: Allow}]}",
    );
    Rig::refused(rig.apply("margay-agent", &policy))
}

#[test]
fn each_role_of_people_can_do_its_work_and_nothing_more() -> Result<()> {
    let rig = Rig::new()?;
    let policies = [
        resource("Tier", "sec", "{order: 5}"),
        resource("GlobalNetworkPolicy", "sec.a", "{tier: sec}"),
        resource("NetworkPolicy", "b", "{ingress: [{action: Allow}]}"),
        resource("StagedGlobalNetworkPolicy", "c", "{}"),
        resource("StagedNetworkPolicy", "d", "{}"),
        resource("StagedKubernetesNetworkPolicy", "e", "{}"),
        resource("GlobalNetworkSet", "f", "{nets: [10.0.0.0/8]}"),
        resource("NetworkSet", "g", "{nets: [10.0.0.0/8]}"),
        resource("Profile", "h", "{ingress: [{action: Allow}]}"),
    ]
    .join("\n---\n");
    let rest = [
        resource("IPPool", "i", "{cidr: 10.65.0.0/16}"),
        resource("BGPPeer", "j", "{peerIP: 192.0.2.9, asNumber: 65000}"),
        resource("BGPConfiguration", "default", "{asNumber: 64999}"),
        resource("FelixConfiguration", "default", "{logSeverityScreen: Info}"),
        resource("HostEndpoint", "k", "{node: h1, interfaceName: eth0}"),
        resource("IPAMConfiguration", "default", "{strictAffinity: true}"),
        resource("Node", "h9", "{}"),
    ];
    let (admin, editor, viewer) = ("margay-admin", "margay-policy-editor", "margay-viewer");

    rig.apply(editor, &policies)?;
    for document in &rest {
        Rig::refused(rig.apply(editor, document))?;
        Rig::refused(rig.apply(viewer, document))?;
        rig.apply(admin, document)?;
    }
    for document in policies.split("\n---\n") {
        let changed = document.replacen("metadata: {", "metadata: {labels: {a: b}, ", 1);
        Rig::refused(rig.apply(viewer, &changed))?;
    }
    for user in [viewer, editor, admin] {
        for args in [
            "get gnp -o wide",
            "get pools",
            "ipam show",
            "ipam check",
            "get nodes",
        ] {
            rig.ctl(user, args)?;
        }
    }
    for args in ["delete gnp sec.a", "delete ippool i", "datastore lock"] {
        Rig::refused(rig.ctl(viewer, args))?;
    }
    Rig::refused(rig.ctl(editor, "delete ippool i"))?;
    Rig::refused(rig.ctl(editor, "datastore lock"))?;
    rig.ctl(editor, "delete gnp sec.a")?;
    rig.ctl(editor, "delete tier sec")?;
    rig.ctl(admin, "datastore lock")?;
    rig.ctl(admin, "datastore unlock")?;
    rig.ctl(admin, "delete ippool i")?;
    Ok(())
}

#[test]
fn no_role_reaches_what_is_not_ours() -> Result<()> {
    let rig = Rig::new()?;
    rig.make_roles(Some("root:root"))?;
    for role in ROLES {
        let user = format!("--user={role}:{role}");
        for words in [
            ["get", "/calico-not", "--prefix"],
            ["put", "/other", "x"],
            ["del", "", "--prefix"],
            ["user", "delete", "root"],
        ] {
            let args: Vec<_> = [user.as_str()].into_iter().chain(words).collect();
            let error = rig.etcd.ctl(&args).err().context("it was let through")?;
            let text = format!("{error:#}");
            ensure!(
                text.contains("permission denied"),
                "{role}: {words:?}: {text}"
            );
        }
        rig.etcd.ctl(&[&user, "get", "/calico/", "--prefix"])?;
    }
    Ok(())
}
