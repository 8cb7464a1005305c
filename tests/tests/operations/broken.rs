//! `doctor`, `trace` and `connectivity test` on a cluster in which something is broken.

use std::net::{IpAddr, UdpSocket};

use anyhow::{Context, Result, bail, ensure};
use margay_lab::{Container, Process, eventually};
use serde_json::Value;

use crate::rig::{Rig, SOON};

/// What `doctor` finds that is no matter of this machine.
fn found(rig: &Rig) -> Result<Vec<(String, String)>> {
    let report = rig.json("doctor")?;
    let all = report["findings"].as_array().context("no findings")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found = all.iter().map(|f| (text(&f["severity"]), text(&f["what"])));
    Ok(found
        .filter(|(_, what)| !what.starts_with("This host: "))
        .collect())
}

fn v4(container: &Container) -> Result<IpAddr> {
    let found = container.addresses.iter().find(|a| a.is_ipv4());
    found.copied().context("an IPv4 address")
}

fn await_finding(rig: &Rig, severity: &str, word: &str) -> Result<()> {
    eventually(SOON, &format!("doctor says {word:?}"), || {
        let found = found(rig)?;
        let said = found
            .iter()
            .any(|(s, what)| s == severity && what.contains(word));
        ensure!(said, "{found:?}");
        Ok(())
    })
}

fn await_health(rig: &Rig) -> Result<()> {
    eventually(SOON, "doctor is content", || {
        let found = found(rig)?;
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    })
}

#[test]
fn doctor_names_what_was_broken_and_is_content_when_it_is_mended() -> Result<()> {
    let mut rig = Rig::start(2)?;
    await_health(&rig)?;

    // The router goes.
    rig.tor.process().stop()?;
    await_finding(
        &rig,
        "broken",
        "The session with h1-tor-v4 (192.0.2.6, AS 65000)",
    )?;
    let (text, succeeded) = rig.ctl("doctor")?;
    ensure!(!succeeded, "a failure is a failure");
    ensure!(text.contains("Next: "), "{text}");

    // The other agent is killed: its sign of life outlives it, its session does not.
    rig.cluster.agents[1].kill()?;
    await_finding(&rig, "broken", "BGP sessions are down")?;

    // etcd goes.
    rig.cluster.etcd.kill()?;
    await_finding(
        &rig,
        "broken",
        "The agent has no connection to its datastore",
    )?;
    rig.cluster.etcd.restart()?;

    // The agent itself.
    rig.cluster.agents[0].kill()?;
    await_finding(&rig, "broken", "The agent of this host does not answer")
}

#[test]
fn doctor_names_a_full_pool_a_locked_datastore_and_a_policy_that_cannot_be_used() -> Result<()> {
    let rig = Rig::start(1)?;
    rig.cluster.ctl().apply(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: v4-small}\n\
         spec: {cidr: 10.66.0.0/30, blockSize: 30}\n",
    )?;
    rig.cluster
        .ctl()
        .run("patch ippool demo-v4 -p {\"spec\":{\"disabled\":true}}")?;
    let mut containers = Vec::new();
    // The agent hears of the pools a moment after they were written.
    let first = eventually(SOON, "an address of the small pool", || {
        let mut container = rig.cluster.attach(0, "c0")?;
        if !v4(&container)?.to_string().starts_with("10.66.") {
            // An ADD that is repeated gets what it got.
            container.cni_del()?;
            bail!("{:?}", container.addresses);
        }
        Ok(container)
    });
    containers.push(first?);
    for number in 1..4 {
        containers.push(rig.cluster.attach(0, &format!("c{number}"))?);
    }
    await_finding(&rig, "broken", "Pool v4-small is full: 4 of 4")?;
    rig.cluster.ctl().run("datastore lock")?;
    await_finding(&rig, "broken", "The datastore is locked")?;
    rig.cluster.ctl().run("datastore unlock")?;
    Ok(())
}

#[test]
fn doctor_names_who_keeps_packets_from_being_forwarded() -> Result<()> {
    let rig = Rig::start(1)?;
    let says = |severity: &str, word: &str| {
        let report = rig.json("doctor")?;
        let all = report["findings"].as_array().context("no findings")?;
        let said = |f: &&Value| f["what"].as_str().is_some_and(|what| what.contains(word));
        let found = all.iter().find(said).with_context(|| report.to_string())?;
        ensure!(found["severity"] == severity, "{found}");
        Ok(found["next"].as_str().unwrap_or_default().to_owned())
    };
    rig.host().exec("nft add table inet fw")?;
    rig.host().exec(
        "nft add chain inet fw guard { type filter hook forward priority 10 ; policy drop ; }",
    )?;
    let next = says("warning", "nftables chain inet fw guard drops")?;
    ensure!(next.contains("nft chain inet fw guard"), "{next}");
    // The next step is one.
    let command = next.split(';').next().unwrap_or_default();
    ensure!(command.ends_with("'{ policy accept"), "{command}");
    rig.host()
        .exec("nft chain inet fw guard { policy accept ; }")?;
    ensure!(
        says("warning", "nftables chain inet fw guard").is_err(),
        "mended"
    );

    rig.host().sysctl("net.ipv4.ip_forward", "0")?;
    let next = says("broken", "IPv4 is not forwarded")?;
    ensure!(next.contains("sysctl -w net.ipv4.ip_forward=1"), "{next}");
    Ok(())
}

#[test]
fn trace_follows_a_packet_and_says_where_it_ends() -> Result<()> {
    let mut rig = Rig::start(2)?;
    let (c1, c2) = (rig.cluster.attach(0, "c1")?, rig.cluster.attach(1, "c2")?);
    let to = v4(&c2)?;
    let way = eventually(SOON, "the route is there", || {
        let traced = rig.json(&format!("trace c1 {to}"))?;
        let way = traced["ways"][0].clone();
        ensure!(traced["arrives"] == true, "{way:#}");
        Ok(way)
    })?;
    let text = way.to_string();
    for word in [
        "kernel: via 192.0.2.6 dev eth0",
        "\"mtu\":1500",
        "BGP: 10.65.",
        "BGP: announces",
        // What only the other host's kernel knows.
        "kernel: on-link dev ",
        "none: pool demo-v4 has no natOutgoing",
        "none: pool demo-v4 asks for none",
    ] {
        ensure!(text.contains(word), "no {word:?} in {way:#}");
    }

    rig.cluster.ctl().apply(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: closed}\n\
         spec: {selector: all(), types: [Ingress]}\n",
    )?;
    let traced = rig.json(&format!("trace c1 {to}"))?;
    let stopped = traced["ways"][0]["stopped"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    ensure!(
        stopped.starts_with("Policy of the receiver: denied by"),
        "{stopped}"
    );
    rig.cluster.ctl().run("delete gnp closed")?;

    // The receiver's end goes down, and then the sender's: nobody but the containers puts that right.
    for (container, node) in [(&c2, "h2"), (&c1, "h1")] {
        let endpoints = rig.json("get wep -A")?;
        let interface = endpoints["items"]
            .as_array()
            .and_then(|all| all.iter().find(|e| e["spec"]["node"] == node))
            .and_then(|e| e["spec"]["interfaceName"].as_str().map(str::to_owned))
            .context("an interface")?;
        container.netns.ip("link set eth0 down")?;
        let (text, arrives) = rig.ctl(&format!("trace c1 {to}"))?;
        ensure!(
            !arrives && text.contains(&format!("interface {interface}, up, NO CARRIER")),
            "{text}"
        );
    }

    // Whoever does not answer is left to what the datastore says.
    rig.cluster.agents[1].kill()?;
    let (text, _) = rig.ctl(&format!("trace c1 {to}"))?;
    ensure!(text.contains("not looked at: agent of h2: "), "{text}");
    Ok(())
}

#[test]
fn the_connectivity_test_finds_who_answers_and_an_mtu_that_is_too_large() -> Result<()> {
    let rig = Rig::start(2)?;
    let _containers = (rig.cluster.attach(0, "c1")?, rig.cluster.attach(1, "c2")?);
    let all = eventually(SOON, "everybody answers", || {
        let tested = rig.json("connectivity test")?;
        ensure!(tested["failed"] == 0, "{tested:#}");
        Ok(tested)
    })?;
    let kinds: Vec<_> = all["targets"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|t| &t["kind"])
        .collect();
    for kind in ["peer", "host", "endpoint"] {
        ensure!(kinds.iter().any(|k| *k == kind), "no {kind}: {all:#}");
    }
    // Behind the router packets must be smaller, and it says nothing of that.
    let tor = &rig.cluster.lab.tor;
    tor.ip("link set to-h2 mtu 1400")?;
    tor.exec("nft add table ip quiet")?;
    tor.exec("nft add chain ip quiet out { type filter hook output priority 0 ; }")?;
    tor.exec("nft add rule ip quiet out icmp type destination-unreachable drop")?;
    let tested = rig.json("connectivity test --wait 1")?;
    let failed: Vec<_> = tested["targets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|t| {
            t["problem"]
                .as_str()
                .is_some_and(|p| p.contains("MTU on the way is smaller"))
        })
        .collect();
    ensure!(!failed.is_empty(), "{tested:#}");
    ensure!(failed.iter().all(|t| t["answered"] == true), "{tested:#}");
    Ok(())
}

#[test]
fn flows_tell_which_rule_denied_what_and_a_collector_hears_of_it() -> Result<()> {
    let rig = Rig::start(2)?;
    let (c1, c2) = (rig.cluster.attach(0, "c1")?, rig.cluster.attach(1, "c2")?);
    let to = v4(&c2)?;
    rig.cluster.ctl().apply(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: quiet}\n\
         spec: {selector: all(), types: [Egress], egress: [{action: Deny, protocol: ICMP}, {action: Allow}]}\n",
    )?;
    let collector = rig
        .host()
        .within(|| Ok(UdpSocket::bind("127.0.0.1:4739")?))?;
    collector.set_read_timeout(Some(SOON))?;
    let told = eventually(SOON, "the flow is told", || {
        // No answer comes, which is the point.
        drop(c1.netns.exec(&format!("ping -c 2 -i 0.2 -W 1 {to}")));
        let line =
            format!("flows --denied --from c1 --to {to} --policy quiet --ipfix 127.0.0.1:4739");
        let (text, _) = rig.ctl(&format!("{line} -o json"))?;
        let first = text.lines().next().context("no flow yet")?;
        serde_json::from_str::<Value>(first).context("a line of JSON")
    })?;
    ensure!(
        told["reason"]["policy"]["policy"] == "GlobalNetworkPolicy/quiet",
        "{told}"
    );
    ensure!(told["reason"]["policy"]["rule"] == 0, "{told}");
    ensure!(
        told["verdict"] == "deny" && told["ingress"] == false,
        "{told}"
    );
    let mut message = [0; 2048];
    let length = collector.recv(&mut message)?;
    ensure!(
        message[..2] == [0, 10] && message[..length].windows(7).any(|w| w == b"\x05quiet\0"),
        "{:?}",
        &message[..length]
    );
    let (text, _) = rig.ctl("flows --denied --policy no-such")?;
    ensure!(!text.contains("quiet"), "{text}");
    Ok(())
}

/// `flows --follow`, with what it has said so far.
struct Follower(Process);

impl Follower {
    fn start(rig: &Rig, args: &str) -> Result<Self> {
        let mut command = rig.cluster.ctl().command()?;
        command.env("MARGAY_SOCKET", rig.cluster.agents[0].socket());
        command.args(["flows", "--follow", "-o", "json"]);
        command.args(args.split_whitespace());
        let log = rig.cluster.lab.dir().join("followed");
        Ok(Self(Process::spawn(
            "margayctl flows",
            command,
            None,
            &log,
        )?))
    }

    /// Every line so far, each an object.
    fn lines(&mut self) -> Result<Vec<Value>> {
        self.0.ensure_running()?;
        let text = std::fs::read_to_string(self.0.log_file())?;
        // The last one may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    fn await_line(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Result<()> {
        eventually(SOON, what, || {
            let lines = self.lines()?;
            ensure!(lines.iter().any(&mut wanted), "{lines:?}");
            Ok(())
        })
    }
}

#[test]
fn flows_are_followed_and_staged_policies_say_what_they_would_do() -> Result<()> {
    let rig = Rig::start(1)?;
    let (c1, c2) = (rig.cluster.attach(0, "c1")?, rig.cluster.attach(0, "c2")?);
    let to = v4(&c2)?;
    rig.cluster.ctl().apply(
        "apiVersion: projectcalico.org/v3\nkind: StagedGlobalNetworkPolicy\nmetadata: {name: planned}\n\
         spec: {selector: all(), types: [Ingress], ingress: [{action: Deny, protocol: ICMP}]}\n",
    )?;
    let mut follower = Follower::start(&rig, "")?;
    let is_planned = |flow: &Value| {
        flow["verdict"] == "would_deny"
            && flow["reason"]["policy"]["policy"] == "StagedGlobalNetworkPolicy/planned"
            && flow["destination"] == to.to_string()
    };
    eventually(SOON, "what is planned is told, and passes", || {
        // It is not enforced.
        c1.netns.exec(&format!("ping -c 1 -W 2 {to}"))?;
        let lines = follower.lines()?;
        ensure!(lines.iter().any(is_planned), "{lines:?}");
        Ok(())
    })?;
    // What it says nothing of, the end of its tier would deny.
    eventually(SOON, "the end of its tier is told", || {
        c1.netns
            .within(|| Ok(UdpSocket::bind("0.0.0.0:0")?.send_to(b"?", (to, 9))?))?;
        let is_end = |flow: &Value| {
            flow["verdict"] == "would_deny"
                && flow["reason"]["end_of_tier"]["tier"] == "default"
                && flow["protocol"] == 17
                && flow["destination"] == to.to_string()
        };
        let lines = follower.lines()?;
        ensure!(lines.iter().any(is_end), "{lines:?}");
        // Of what it does decide, the end is not reached.
        let is_wrong =
            |flow: &Value| flow["protocol"] == 1 && flow["reason"]["end_of_tier"].is_object();
        ensure!(!lines.iter().any(is_wrong), "{lines:?}");
        Ok(())
    })?;
    let (text, _) = rig.ctl("flows --policy planned")?;
    ensure!(text.contains("would DENY"), "{text}");

    // It goes on: a policy made later, and traffic that comes later, are told too.
    let before = follower.lines()?.len();
    rig.cluster.ctl().apply(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: enforced}\n\
         spec: {selector: all(), types: [Ingress], ingress: [{action: Deny, protocol: ICMP}]}\n",
    )?;
    eventually(SOON, "the policy is enforced", || {
        let answered = c1.netns.exec(&format!("ping -c 1 -W 1 {to}"));
        ensure!(answered.is_err(), "it is answered");
        Ok(())
    })?;
    follower.await_line("what is denied is told", |flow| {
        flow["verdict"] == "deny"
            && flow["reason"]["policy"]["policy"] == "GlobalNetworkPolicy/enforced"
    })?;
    let lines = follower.lines()?;
    ensure!(lines.len() > before, "{lines:?}");
    // What did not change is not told twice.
    let mut told: Vec<String> = lines.iter().map(Value::to_string).collect();
    let all = told.len();
    told.sort_unstable();
    told.dedup();
    ensure!(told.len() == all, "{lines:?}");
    Ok(())
}
