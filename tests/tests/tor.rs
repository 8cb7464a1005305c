//! The example configurations of `deploy/tor` that can be run here: as they stand, with agents at the other end.
//!
//! The router takes a container's route, tells the hosts a default route, and refuses what lies in no pool; BFD watches
//! the sessions.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::resources::pools_and_profile;
use margay_lab::{Bird, Cluster, Frr, Lab, eventually, host_route};

const SOON: Duration = Duration::from_secs(60);

fn example(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/tor")
        .join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The BGPPeer of `deploy/tor/README.md`, for each host's own address of the router.
fn peers(lab: &Lab) -> String {
    let peer = |host: &margay_lab::Host| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: tor-{name}}}\n\
             spec: {{peerIP: {tor}, asNumber: 65000, node: {name}, bfd: {{}}}}\n---\n\
             apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: tor6-{name}}}\n\
             spec: {{peerIP: \"{tor6}\", asNumber: 65000, node: {name}, bfd: {{}}}}\n",
            name = host.name,
            tor = host.tor_v4,
            tor6 = host.tor_v6,
        )
    };
    lab.hosts.iter().map(peer).collect::<Vec<_>>().join("---\n")
}

const NO_MESH: &str = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\n\
    spec: {asNumber: 64512, nodeToNodeMeshEnabled: false}\n";

/// Agents behind the router that `start` starts; the router learns a container of the first.
fn serves<T>(start: impl FnOnce(&Lab) -> Result<T>) -> Result<(Cluster, T)> {
    let lab = Lab::new(2)?;
    let router = start(&lab)?;
    let all = [pools_and_profile(false), NO_MESH.to_owned(), peers(&lab)];
    let cluster = Cluster::start(lab, &all)?;
    for agent in &cluster.agents {
        eventually(SOON, "the sessions are up", || agent.ensure_sessions(2))?;
        eventually(SOON, "BFD watches them", || {
            let peers = agent.ask("{\"bgp\":{\"peers\":{}}}")?;
            let mut peers = peers.as_array().into_iter().flatten();
            ensure!(
                peers.all(|peer| peer["bfd_up"] == true),
                "BFD of {}",
                agent.name()
            );
            Ok(())
        })?;
    }
    let container = cluster.attach(0, "c1")?;
    for address in &container.addresses {
        let route = eventually(SOON, "the router learns", || {
            host_route(&cluster.lab.tor, *address)
        })?;
        // The next hop of IPv6 may be the link-local address.
        let via = match address {
            IpAddr::V4(_) => cluster.lab.hosts[0].v4.to_string(),
            IpAddr::V6(_) => route.gateway.clone().unwrap_or_default(),
        };
        let gateway = route.gateway.as_deref() == Some(&via);
        ensure!(
            gateway && route.dev.as_deref() == Some("to-h1"),
            "{route:?}"
        );
    }
    let told = cluster.agents[1].ctl();
    eventually(SOON, "the hosts are told a default route", || {
        let peer = cluster.lab.hosts[1].tor_v4;
        let routes = told.run(&format!("bgp routes --received {peer}"))?;
        let lines: Vec<_> = routes.lines().skip(1).collect();
        let default = |line: &&str| line.starts_with("0.0.0.0/0") || line.starts_with("::/0");
        ensure!(lines.iter().all(default), "{routes}");
        ensure!(routes.contains("\n0.0.0.0/0"), "{routes}");
        Ok(())
    })?;
    Ok((cluster, router))
}

#[test]
fn the_configuration_for_bird_serves_hosts_as_it_stands() -> Result<()> {
    let (_cluster, bird) = serves(|lab| Bird::start(&lab.tor, lab.dir(), &example("bird.conf")?))?;
    eventually(SOON, "a session for each host", || {
        let protocols = bird.protocols()?;
        let dynamic = protocols.iter().filter(|p| p.name.starts_with("host4_"));
        ensure!(dynamic.count() == 2, "{protocols:?}");
        Ok(())
    })
}

#[test]
fn the_configuration_for_frr_serves_hosts_as_it_stands() -> Result<()> {
    let (_cluster, frr) = serves(|lab| Frr::start(&lab.tor, &example("frr.conf")?))?;
    eventually(SOON, "a session for each host", || {
        let summary = frr.json("show bgp summary")?;
        let peers = summary["ipv4Unicast"]["peers"].as_object();
        ensure!(
            peers.is_some_and(|peers| peers.len() == 4 || peers.len() == 2),
            "{summary:#}"
        );
        Ok(())
    })
}

/// What a configuration says: lines that start and end so, with the value in between, by what it is.
type Said = [(&'static str, &'static [&'static str]); 12];

const FRR: Said = [
    ("system of the router", &["router bgp {}"]),
    ("system of the hosts", &["neighbor hosts remote-as {}"]),
    ("id", &["bgp router-id {}"]),
    (
        "IPv4 pool",
        &["ip prefix-list containers seq 5 permit {} le 32"],
    ),
    (
        "IPv6 pool",
        &["ipv6 prefix-list containers seq 5 permit {} le 128"],
    ),
    ("IPv4 hosts", &["bgp listen range 192{} peer-group hosts"]),
    ("IPv6 hosts", &["bgp listen range 2001:{} peer-group hosts"]),
    ("most prefixes", &["neighbor hosts maximum-prefix {}"]),
    ("most paths", &["maximum-paths {}"]),
    ("BFD interval", &["neighbor hosts bfd 3 {} 300"]),
    ("BFD multiplier", &["neighbor hosts bfd {} 300 300"]),
    ("graceful restart", &["bgp {}-restart"]),
];

const BIRD: Said = [
    ("system of the router", &["local as {};"]),
    (
        "system of the hosts",
        &[
            "protocol bgp hosts4 from host { neighbor range 192.0.2.0/24 as {}; dynamic name \"host4_\"; }",
            "protocol bgp hosts6 from host { neighbor range 2001:db8::/32 as {}; dynamic name \"host6_\"; }",
        ],
    ),
    ("id", &["router id {};"]),
    (
        "IPv4 pool",
        &["filter containers4 { if net ~ [ {}+ ] then accept; reject; }"],
    ),
    (
        "IPv6 pool",
        &["filter containers6 { if net ~ [ {}+ ] then accept; reject; }"],
    ),
    (
        "IPv4 hosts",
        &[
            "protocol bgp hosts4 from host { neighbor range 192{} as 64512; dynamic name \"host4_\"; }",
        ],
    ),
    (
        "IPv6 hosts",
        &[
            "protocol bgp hosts6 from host { neighbor range 2001:{} as 64512; dynamic name \"host6_\"; }",
        ],
    ),
    (
        "most prefixes",
        &[
            "ipv4 { import filter containers4; import limit {} action block; export where net = 0.0.0.0/0; next hop self; };",
            "ipv6 { import filter containers6; import limit {} action block; export where net = ::/0; next hop self; };",
        ],
    ),
    (
        "most paths",
        &[
            "protocol kernel { ipv4 { import none; export where source != RTS_DEVICE; }; merge paths yes limit {}; }",
            "protocol kernel { ipv6 { import none; export where source != RTS_DEVICE; }; merge paths yes limit {}; }",
        ],
    ),
    (
        "BFD interval",
        &["protocol bfd { interface \"*\" { interval {} ms; multiplier 3; }; }"],
    ),
    (
        "BFD multiplier",
        &["protocol bfd { interface \"*\" { interval 300 ms; multiplier {}; }; }"],
    ),
    ("graceful restart", &["{} restart on;"]),
];

const EOS: Said = [
    ("system of the router", &["router bgp {}"]),
    (
        "system of the hosts",
        &["10 match as-range {} result accept"],
    ),
    ("id", &["router-id {}"]),
    (
        "IPv4 pool",
        &["ip prefix-list CONTAINERS seq 10 permit {} le 32"],
    ),
    ("IPv6 pool", &["seq 10 permit {} le 128"]),
    (
        "IPv4 hosts",
        &["bgp listen range 192{} peer-group HOSTS peer-filter HOSTS"],
    ),
    (
        "IPv6 hosts",
        &["bgp listen range 2001:{} peer-group HOSTS peer-filter HOSTS"],
    ),
    ("most prefixes", &["neighbor HOSTS maximum-routes {}"]),
    (
        "most paths",
        &["maximum-paths {} ecmp 64", "maximum-paths 64 ecmp {}"],
    ),
    (
        "BFD interval",
        &[
            "interval {} min-rx 300 multiplier 3 default",
            "interval 300 min-rx {} multiplier 3 default",
        ],
    ),
    (
        "BFD multiplier",
        &["interval 300 min-rx 300 multiplier {} default"],
    ),
    ("graceful restart", &["{}-restart-helper"]),
];

const NXOS: Said = [
    ("system of the router", &["router bgp {}"]),
    ("system of the hosts", &["match as-number {}"]),
    ("id", &["router-id {}"]),
    (
        "IPv4 pool",
        &["ip prefix-list CONTAINERS seq 10 permit {} le 32"],
    ),
    (
        "IPv6 pool",
        &["ipv6 prefix-list CONTAINERS6 seq 10 permit {} le 128"],
    ),
    (
        "IPv4 hosts",
        &["neighbor 192{} remote-as route-map HOSTS-AS"],
    ),
    (
        "IPv6 hosts",
        &["neighbor 2001:{} remote-as route-map HOSTS-AS"],
    ),
    ("most prefixes", &["maximum-prefix {}"]),
    ("most paths", &["maximum-paths {}"]),
    (
        "BFD interval",
        &[
            "bfd interval {} min_rx 300 multiplier 3",
            "bfd interval 300 min_rx {} multiplier 3",
        ],
    ),
    (
        "BFD multiplier",
        &["bfd interval 300 min_rx 300 multiplier {}"],
    ),
    ("graceful restart", &["{}-restart-helper"]),
];

const JUNOS: Said = [
    (
        "system of the router",
        &["set routing-options autonomous-system {}"],
    ),
    (
        "system of the hosts",
        &["set protocols bgp group hosts peer-as {}"],
    ),
    ("id", &["set routing-options router-id {}"]),
    (
        "IPv4 pool",
        &["set policy-options policy-statement from-hosts term v4 from route-filter {} orlonger"],
    ),
    (
        "IPv6 pool",
        &["set policy-options policy-statement from-hosts term v6 from route-filter {} orlonger"],
    ),
    ("IPv4 hosts", &["set protocols bgp group hosts allow 192{}"]),
    (
        "IPv6 hosts",
        &["set protocols bgp group hosts allow 2001:{}"],
    ),
    (
        "most prefixes",
        &[
            "set protocols bgp group hosts family inet unicast prefix-limit maximum {}",
            "set protocols bgp group hosts family inet6 unicast prefix-limit maximum {}",
        ],
    ),
    ("most paths", &["set chassis maximum-ecmp {}"]),
    (
        "BFD interval",
        &["set protocols bgp group hosts bfd-liveness-detection minimum-interval {}"],
    ),
    (
        "BFD multiplier",
        &["set protocols bgp group hosts bfd-liveness-detection multiplier {}"],
    ),
    (
        "graceful restart",
        &["set protocols bgp group hosts {}-restart"],
    ),
];

/// What stands in a line in place of `{}`.
fn between<'a>(line: &'a str, pattern: &str) -> Option<&'a str> {
    let (start, end) = pattern.split_once("{}")?;
    line.trim().strip_prefix(start)?.strip_suffix(end)
}

/// Networks and addresses that a configuration names, but for the default routes, which some need not name.
fn addresses(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with(['#', '!']));
    let words =
        lines.flat_map(|line| line.split(|c: char| !(c.is_ascii_hexdigit() || ".:/".contains(c))));
    let words = words.map(|word| word.trim_end_matches('.'));
    let is_network = |word: &&str| {
        let (address, _) = word.split_once('/').unwrap_or((word, ""));
        address
            .parse::<IpAddr>()
            .is_ok_and(|address| !address.is_unspecified())
    };
    words.filter(is_network).map(str::to_owned).collect()
}

/// Two of them run above, so what all say is what works.
#[test]
fn every_configuration_says_the_same() -> Result<()> {
    let all = [
        ("frr.conf", FRR),
        ("bird.conf", BIRD),
        ("arista-eos.conf", EOS),
        ("cisco-nxos.conf", NXOS),
        ("juniper-junos.conf", JUNOS),
    ];
    let mut first: Option<Vec<(&str, String)>> = None;
    let named = addresses(&example("frr.conf")?);
    ensure!(named.len() == 5, "{named:?}");
    for (name, said) in all {
        let text = example(name)?;
        let mut values = Vec::new();
        for (what, patterns) in said {
            let mut found = BTreeSet::new();
            for pattern in patterns {
                let here: Vec<_> = text
                    .lines()
                    .filter_map(|line| between(line, pattern))
                    .collect();
                ensure!(!here.is_empty(), "{name}: {what}: no line says {pattern:?}");
                found.extend(here);
            }
            ensure!(found.len() == 1, "{name}: {what}: {found:?}");
            values.push((what, found.into_iter().collect::<String>()));
        }
        ensure!(addresses(&text) == named, "{name}: {:?}", addresses(&text));
        let first = first.get_or_insert_with(|| values.clone());
        ensure!(
            *first == values,
            "{name} says {values:?}, frr.conf {first:?}"
        );
    }
    let readme = example("README.md")?;
    for (what, value) in first.into_iter().flatten().take(5) {
        ensure!(
            readme.contains(&value),
            "the README does not name the {what}, {value}"
        );
    }
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/tor"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let known = name == "README.md" || all.iter().any(|(known, _)| *known == name);
        ensure!(
            known && (name == "README.md" || readme.contains(&name)),
            "{name} is unknown"
        );
    }
    Ok(())
}
