//! Whatever somebody breaks by hand on a host whose agent runs is mended, counted and told of; the slow look, here each
//! second, finds what no event tells of. The tables of what is broken where are in docs/design/dataplane.md.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::{eventually, ping, run};
use serde_json::json;

use crate::rig::{NETWORK, POOLS, Rig, SOON, Sandbox};

const POLICY: &str = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: open}\n\
    spec: {selector: all(), types: [Ingress], ingress: [{action: Allow, source: {selector: all()}}]}\n";

/// Counted by what it was.
fn counted(rig: &Rig, what: &str) -> Result<u64> {
    let text = rig.host().netns.within(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9091")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    let name = format!("margay_dataplane_drift_total{{what=\"{what}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    Ok(line.context(name)?.parse()?)
}

struct Scene {
    rig: Rig,
    a: Sandbox,
    b: Sandbox,
    end: String,
}

impl Scene {
    fn new(mode: &str, looks: &str) -> Self {
        let felix = format!(
            "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\n\
             spec: {{nftablesMode: {mode}{looks}}}\n"
        );
        let rig = Rig::embedded(&[POOLS, "---\n", POLICY, &felix].concat());
        let mut a = rig.sandbox("a", NETWORK);
        let mut config = rig.config(NETWORK);
        config["runtimeConfig"] = json!({"bandwidth": {
            "ingressRate": 80_000_000, "ingressBurst": 8_000_000,
            "egressRate": 80_000_000, "egressBurst": 8_000_000,
        }});
        let netns = a.netns.path();
        a.ips = rig.plugin("ADD", "a", netns.to_str(), &config).ips();
        let b = rig.attach("b", NETWORK);
        let route = rig.host().netns.ip(&format!("-o route show {}", a.v4()));
        let route = route.unwrap();
        let end = route.split(' ').skip_while(|word| *word != "dev").nth(1);
        let end = end.unwrap().to_owned();
        Self { rig, a, b, end }
    }

    /// One thing is broken: it is counted, and as it was, and packets go in both families.
    #[track_caller]
    fn is_mended(&self, broken: &str, what: &str, state: &str) {
        let host = &self.rig.host().netns;
        let broken = broken.replace("END", &self.end);
        let look = || {
            run(host
                .command("sh")
                .args(["-c", &state.replace("END", &self.end)]))
        };
        // What was broken before this may have shaken it.
        let before = eventually(SOON, "something to break", look).unwrap();
        let count = counted(&self.rig, what).unwrap();
        host.exec(&broken).unwrap();
        eventually(SOON, &format!("{broken} is mended and counted"), || {
            let now = look()?;
            ensure!(now == before, "{now}instead of\n{before}");
            let counts = counted(&self.rig, what)?;
            ensure!(counts > count, "{what}: {counts}, as before");
            for to in [self.b.v4(), self.b.v6()] {
                ping(&self.a.netns, to, Duration::from_secs(1))?;
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.rig.log()));
    }
}

const EACH_SECOND: &str = ", routeRefreshInterval: 1s";
/// What is in the table, in whatever order.
const NFT: &str = "nft -s list table inet margay | tr -s ' ,\\t' '\\n' | sort";

#[test]
fn what_is_broken_by_hand_is_mended_and_counted_with_nftables() {
    let scene = Scene::new("Enabled", EACH_SECOND);
    let route = scene.a.v4();
    let route6 = scene.a.v6();
    for (broken, what, state) in [
        ("nft delete table inet margay", "rules", NFT),
        ("nft flush chain inet margay v4-forward", "rules", NFT),
        ("nft flush map inet margay v6-to-workload", "rules", NFT),
        (
            &format!("ip route del {route}"),
            "routes",
            &format!("ip route show {route}"),
        ),
        (
            &format!("ip -6 route del {route6}"),
            "routes",
            &format!("ip -6 route show {route6}"),
        ),
        (
            "ip route flush type blackhole proto 77",
            "routes",
            "ip route show type blackhole",
        ),
        (
            "ip -6 route flush type blackhole proto 77",
            "routes",
            "ip -6 route show type blackhole",
        ),
        (
            "sysctl -qw net.ipv4.ip_forward=0",
            "switches",
            "sysctl net.ipv4.ip_forward net.ipv4.conf.END.forwarding",
        ),
        (
            "sysctl -qw net.ipv6.conf.all.forwarding=0",
            "switches",
            "sysctl net.ipv6.conf.all.forwarding net.ipv6.conf.END.forwarding",
        ),
        (
            "sysctl -qw net.ipv4.conf.END.proxy_arp=0",
            "switches",
            "sysctl net.ipv4.conf.END.proxy_arp",
        ),
        (
            "ip link set END down",
            "interfaces",
            "ip -o link show END | grep -o ,UP,",
        ),
        (
            "ip link set END address 02:00:00:00:00:01",
            "interfaces",
            "ip -o link show END | grep -o ee:ee:ee:ee:ee:ee",
        ),
        (
            "ip link set END name lost0",
            "interfaces",
            "ip -o link show END | grep -o ' END@'",
        ),
        (
            "ip link set END mtu 1300",
            "interfaces",
            "ip -o link show END | grep -o 'mtu [0-9]*'",
        ),
        (
            "sysctl -qw net.ipv4.conf.END.rp_filter=0",
            "switches",
            "sysctl net.ipv4.conf.END.rp_filter",
        ),
        (
            "sysctl -qw net.ipv6.conf.END.accept_dad=1",
            "switches",
            "sysctl net.ipv6.conf.END.accept_dad",
        ),
        (
            "ip addr flush dev END",
            "interfaces",
            "ip -o addr show dev END | grep -o fe80::ecee:eeff:feee:eeee",
        ),
    ] {
        scene.is_mended(broken, what, state);
    }
}

/// Also what no event tells of.
#[test]
fn what_is_broken_by_hand_is_mended_and_counted_with_iptables() {
    let scene = Scene::new("Disabled", EACH_SECOND);
    let rules = "iptables-nft-save -t filter | grep ^-A; iptables-nft-save -t raw | grep ^-A";
    let rules6 = "ip6tables-nft-save -t filter | grep ^-A; ip6tables-nft-save -t raw | grep ^-A";
    for (broken, what, state) in [
        ("iptables-nft -F", "rules", rules),
        ("iptables-nft -D FORWARD 1", "rules", rules),
        ("iptables-nft -t raw -F", "rules", rules),
        ("ip6tables-nft -F mgy-FORWARD", "rules", rules6),
        ("ip6tables-nft -t raw -F", "rules", rules6),
        ("ipset flush mgy4-wl", "rules", "ipset list mgy4-wl | sort"),
        ("ipset flush mgy6-wl", "rules", "ipset list mgy6-wl | sort"),
    ] {
        scene.is_mended(broken, what, state);
    }
}

/// The slow look is a minute away.
#[test]
fn what_somebody_does_to_an_interface_is_heard_of() {
    let scene = Scene::new("Enabled", "");
    let queue = "tc qdisc show dev END root | grep -o 'tbf.*rate.*' | cut -d: -f2";
    let redirection = "tc filter show dev END ingress | grep -o 'ifb[0-9a-f]*'";
    for (broken, state) in [
        ("ip link set END down", "ip -o link show END | grep -o ,UP,"),
        (
            "ip link set END address 02:00:00:00:00:01",
            "ip -o link show END | grep -o ee:ee:ee:ee:ee:ee",
        ),
        (
            "ip link set END mtu 1300",
            "ip -o link show END | grep -o 'mtu [0-9]*'",
        ),
        (
            "ip link set END name lost0",
            "ip -o link show END | grep -o ' END@'",
        ),
        ("tc qdisc del dev END root", queue),
        ("tc qdisc replace dev END root pfifo", queue),
        ("tc qdisc del dev END ingress", redirection),
        ("tc filter del dev END parent ffff:", redirection),
        ("ip link del IFB", redirection),
        ("ip link set IFB down", "ip -o link show IFB | grep -o ,UP,"),
        ("tc qdisc del dev IFB root", &queue.replace("END", "IFB")),
    ] {
        let queues = |text: &str| text.replace("IFB", &scene.end.replace("mgy", "ifb"));
        scene.is_mended(&queues(broken), "interfaces", &queues(state));
    }
}

/// The slow look is a minute away.
#[test]
fn rules_that_are_flushed_in_iptables_are_heard_of_where_it_writes_to_nf_tables() {
    let scene = Scene::new("Disabled", "");
    let rules = "iptables-nft-save -t filter | grep ^-A";
    scene.is_mended("iptables-nft -F", "rules", rules);
    scene.is_mended("iptables-nft -D FORWARD 1", "rules", rules);
    scene.is_mended(
        "nft delete table ip raw",
        "rules",
        "iptables-nft-save -t raw | grep ^-A",
    );
}
