//! Policies come, change and go under traffic, and the agent dies meanwhile. What is forbidden is counted
//! where it would arrive: not one datagram, at any step.

use std::thread::sleep;
use std::time::Duration;

use anyhow::ensure;
use margay_lab::{eventually, ping};

use crate::flow::{Count, Flow};
use crate::rig::{POOLS, Rig, SOON, Sandbox};

const PORT: u16 = 7000;
const OTHER_PORT: u16 = 7001;

/// Lets everything in and out: what is closed in these tests is closed by a policy.
fn open_profile(network: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata:\n  name: {network}\nspec:\n  \
         labelsToApply:\n    {network}: \"\"\n  ingress:\n  - action: Allow\n  egress:\n  \
         - action: Allow\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  name: {name}\n  \
         namespace: default\nspec:\n{spec}"
    )
}

/// Blue servers let red clients in on one port, and nobody else.
fn red_only() -> String {
    policy(
        "red-only",
        "  selector: has(blue)\n  types: [Ingress]\n  ingress:\n  - action: Allow\n    \
         protocol: UDP\n    source:\n      selector: has(red)\n    destination:\n      \
         ports: [7000]\n",
    )
}

struct Scene {
    rig: Rig,
    red: Sandbox,
    green: Sandbox,
    /// Two of a kind: one for what is allowed, one for what is not, for a receiver takes what comes.
    blue: Sandbox,
    blue2: Sandbox,
}

impl Scene {
    fn new(policies: &str) -> Self {
        let mut resources = vec![POOLS.to_owned()];
        resources.extend(["red", "green", "blue"].map(open_profile));
        resources.extend((!policies.is_empty()).then(|| policies.to_owned()));
        let rig = Rig::embedded(&resources.join("---\n"));
        let [red, green, blue] = ["red", "green", "blue"].map(|name| rig.attach(name, name));
        let blue2 = rig.attach("blue2", "blue");
        Self {
            rig,
            red,
            green,
            blue,
            blue2,
        }
    }

    /// From red to blue, in both families, with what the policies of these tests allow.
    fn allowed(&self) -> [Flow; 2] {
        [self.blue.v4(), self.blue.v6()]
            .map(|to| Flow::start(&self.red.netns, &self.blue.netns, to, PORT))
    }

    /// From the wrong sender, in both families, and to the wrong port.
    fn forbidden(&self) -> [Flow; 3] {
        let (v4, v6) = (self.blue2.v4(), self.blue2.v6());
        [
            Flow::start(&self.green.netns, &self.blue2.netns, v4, PORT),
            Flow::start(&self.green.netns, &self.blue2.netns, v6, PORT),
            Flow::start(&self.red.netns, &self.blue2.netns, v4, OTHER_PORT),
        ]
    }

    fn everyone(&self) -> [&Sandbox; 4] {
        [&self.red, &self.green, &self.blue, &self.blue2]
    }

    fn apply(&self, yaml: &str) {
        self.rig.ctl().apply(yaml).unwrap();
    }

    fn remove(&self, what: &str) {
        self.rig.ctl().run(&format!("delete {what}")).unwrap();
    }
}

/// Waits until nothing arrives, then counts anew.
#[track_caller]
fn closed(flows: &[Flow]) {
    wait(flows, "closed", false);
}

/// Waits until datagrams arrive, then counts anew.
#[track_caller]
fn open(flows: &[Flow]) {
    wait(flows, "open", true);
}

#[track_caller]
fn wait(flows: &[Flow], what: &str, wanted: bool) {
    for flow in flows {
        let found = eventually(SOON, what, || {
            ensure!(flow.flows() == wanted, "not {what}");
            Ok::<_, anyhow::Error>(())
        });
        found.unwrap();
        flow.reset();
    }
}

#[track_caller]
fn all_arrived<const N: usize>(flows: [Flow; N]) {
    let counts = flows.map(Flow::stop);
    let fine = |c: &Count| c.sent > 20 && c.arrived == c.sent;
    assert!(counts.iter().all(fine), "{counts:?}");
}

#[track_caller]
fn none_arrived<const N: usize>(flows: [Flow; N]) {
    let counts = flows.map(Flow::stop);
    let fine = |c: &Count| c.sent > 20 && c.arrived == 0;
    assert!(counts.iter().all(fine), "{counts:?}");
}

#[test]
fn an_agent_killed_and_started_under_traffic_loses_and_lets_through_nothing() {
    let mut scene = Scene::new(&red_only());
    let allowed = scene.allowed();
    let forbidden = scene.forbidden();
    for _ in 0..3 {
        scene.rig.agent.kill().unwrap();
        sleep(Duration::from_millis(200));
        scene.rig.restart(&[]);
    }
    all_arrived(allowed);
    none_arrived(forbidden);
    scene.rig.ensure_exact_endpoints(&scene.everyone());
}

#[test]
fn a_policy_that_changes_under_traffic_is_never_open() {
    let scene = Scene::new("");
    let allowed = scene.allowed();
    let forbidden = scene.forbidden();
    open(&forbidden);
    scene.apply(&red_only());
    closed(&forbidden);
    let by_net = |net: String| {
        format!(
            "  - action: Allow\n    protocol: UDP\n    source:\n      nets: [\"{net}\"]\n    \
             destination:\n      ports: [\"6990:7000\"]\n"
        )
    };
    let by_net = [
        "  selector: has(blue)\n  types: [Ingress]\n  ingress:\n",
        &by_net(format!("{}/32", scene.red.v4())),
        &by_net(format!("{}/128", scene.red.v6())),
    ]
    .concat();
    let by_exclusion = "  selector: has(blue)\n  types: [Ingress]\n  ingress:\n  - action: Deny\n    \
        source:\n      selector: has(green)\n  - action: Deny\n    protocol: UDP\n    \
        destination:\n      notPorts: [7000]\n  - action: Allow\n    protocol: UDP\n    source:\n      \
        notSelector: \"!has(red)\"\n";
    for spec in [by_net.as_str(), by_exclusion] {
        scene.apply(&policy("red-only", spec));
        sleep(Duration::from_millis(200));
        scene.apply(&red_only());
        sleep(Duration::from_millis(100));
    }
    all_arrived(allowed);
    none_arrived(forbidden);

    let forbidden = scene.forbidden();
    let echo = |number, kind| {
        format!(
            "  - action: Allow\n    protocol: {number}\n    icmp:\n      type: {kind}\n    source:\n      \
         selector: has(green)\n"
        )
    };
    let silent = |to| {
        assert!(ping(&scene.green.netns, to, Duration::from_millis(200)).is_err());
    };
    silent(scene.blue.v4());
    silent(scene.blue.v6());
    let rules = echo("ICMP", 8) + &echo("ICMPv6", 128);
    let spec =
        format!("  order: 5\n  selector: has(blue)\n  types: [Ingress]\n  ingress:\n{rules}");
    scene.apply(&policy("echo", &spec));
    for to in [scene.blue.v4(), scene.blue.v6()] {
        let answered = || ping(&scene.green.netns, to, Duration::from_millis(200));
        eventually(SOON, "an echo", answered).unwrap();
    }
    none_arrived(forbidden);

    scene.remove("networkpolicy echo -n default");
    eventually(SOON, "no echo", || {
        match ping(
            &scene.green.netns,
            scene.blue.v4(),
            Duration::from_millis(200),
        ) {
            Ok(_) => Err("an answer"),
            Err(_) => Ok(()),
        }
    })
    .unwrap();
    let forbidden = scene.forbidden();
    sleep(Duration::from_millis(200));
    assert!(forbidden.iter().all(|flow| flow.count().arrived == 0));
    scene.remove("networkpolicy red-only -n default");
    open(&forbidden);
}

#[test]
fn egress_is_held_as_tightly_as_ingress() {
    let scene = Scene::new("");
    let egress = "  selector: has(red) || has(green)\n  types: [Egress]\n  egress:\n  \
        - action: Allow\n    protocol: UDP\n    source:\n      selector: has(red)\n    \
        destination:\n      selector: has(blue)\n      ports: [7000]\n";
    let (allowed, forbidden) = (scene.allowed(), scene.forbidden());
    open(&forbidden);
    scene.apply(&policy("red-out", egress));
    closed(&forbidden);
    // Another order, another policy beside it: rendered anew, never open.
    scene.apply(&policy("red-out", &format!("  order: 50\n{egress}")));
    scene.apply(&policy(
        "beside",
        "  order: 90\n  selector: all()\n  types: [Egress]\n",
    ));
    sleep(Duration::from_millis(300));
    all_arrived(allowed);
    none_arrived(forbidden);
}

#[test]
fn a_missing_profile_allows_nothing() {
    let scene = Scene::new("");
    let flows = scene.allowed();
    open(&flows);
    scene.remove("profile blue");
    closed(&flows);
    sleep(Duration::from_millis(200));
    assert!(flows.iter().all(|flow| flow.count().arrived == 0));
    scene.apply(&open_profile("blue"));
    open(&flows);
    // The sender's is missed as well.
    scene.remove("profile red");
    closed(&flows);
    none_arrived(flows);
}

fn settings(spec: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata:\n  name: default\n\
         spec:\n{spec}"
    )
}

/// By hand, behind the agent's back, and heard of by it: no look is due within the test.
#[test]
fn what_others_break_in_nftables_is_repaired_at_once() {
    let scene =
        Scene::new(&[&settings("  nftablesMode: Enabled\n"), "---\n", &red_only()].concat());
    let (allowed, forbidden) = (scene.allowed(), scene.forbidden());
    let host = &scene.rig.host().netns;
    open(&allowed);
    let listing = host.exec("nft list table inet margay").unwrap();
    let mut words = listing.split(|c: char| c.is_whitespace() || c == ',');
    let set = words.find(|word| word.starts_with("v4-hosts/")).unwrap();
    let breakages = [
        format!("nft flush set inet margay {set}"),
        "nft flush chain inet margay v4-from-workloads".to_owned(),
        "nft insert rule inet margay v4-forward drop".to_owned(),
    ];
    for breakage in breakages {
        host.exec(&breakage).unwrap();
        open(&allowed);
    }
    none_arrived(forbidden);
    host.exec("nft flush ruleset").unwrap();
    let forbidden = scene.forbidden();
    closed(&forbidden);
    open(&allowed);
    sleep(Duration::from_millis(200));
    none_arrived(forbidden);
    scene.rig.ensure_exact_endpoints(&scene.everyone());
}

/// The setting is changed back and forth under traffic.
#[test]
fn policy_moves_between_nftables_and_iptables_without_a_gap() {
    let scene = Scene::new(
        &[
            &settings("  nftablesMode: Disabled\n"),
            "---\n",
            &red_only(),
        ]
        .concat(),
    );
    let (allowed, forbidden) = (scene.allowed(), scene.forbidden());
    let host = &scene.rig.host().netns;
    open(&allowed);
    for (mode, table) in [("Enabled", true), ("Disabled", false), ("Auto", true)] {
        scene.apply(&settings(&format!("  nftablesMode: {mode}\n")));
        eventually(SOON, "the rules are in one place", || {
            let tables = host.exec("nft list tables")?;
            let sets = host.exec("ipset -n list")?;
            ensure!(tables.contains("inet margay") == table, "{tables}");
            ensure!(sets.contains("mgy") != table, "{sets}");
            Ok(())
        })
        .unwrap();
        sleep(Duration::from_millis(100));
    }
    scene.rig.ensure_exact_endpoints(&scene.everyone());
    all_arrived(allowed);
    none_arrived(forbidden);
}

/// By hand, behind the agent's back, and repaired by itself.
#[test]
fn what_others_break_in_the_kernel_is_repaired() {
    let every_second = settings("  iptablesRefreshInterval: 1s\n  nftablesMode: Disabled\n");
    let scene = Scene::new(&[&every_second, "---\n", &red_only()].concat());
    let (allowed, forbidden) = (scene.allowed(), scene.forbidden());
    let host = &scene.rig.host().netns;
    open(&allowed);
    let (v4, v6) = (scene.blue.v4(), scene.blue.v6());
    let ifname = host.exec(&format!("ip -o route show {v4}")).unwrap();
    let ifname = ifname.split_whitespace().nth(2).unwrap();

    for (family, ip) in [("-4", v4), ("-6", v6)] {
        host.ip(&format!("{family} route del {ip}")).unwrap();
    }
    open(&allowed);
    host.ip(&format!("link set {ifname} down")).unwrap();
    host.ip(&format!("link set {ifname} up")).unwrap();
    open(&allowed);
    none_arrived(forbidden);

    let saved = host.exec("ipset save").unwrap();
    let member = saved
        .lines()
        .find(|line| line.starts_with("add ") && line.contains(&scene.red.v4().to_string()))
        .unwrap();
    host.exec(&format!("ipset {}", member.replacen("add", "del", 1)))
        .unwrap();
    open(&allowed);

    for program in ["iptables", "ip6tables"] {
        for table in ["filter", "nat", "raw", "mangle"] {
            host.exec(&format!("{program} -t {table} -F")).unwrap();
        }
    }
    let forbidden = scene.forbidden();
    closed(&forbidden);
    open(&allowed);
    sleep(Duration::from_millis(200));
    none_arrived(forbidden);
    scene.rig.ensure_exact_endpoints(&scene.everyone());
}
