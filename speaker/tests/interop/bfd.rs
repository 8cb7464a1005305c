//! BFD with BIRD 2 and FRR's bfdd, as root in namespaces of their own (see `support` for the topology).
//!
//! 1. A session with BIRD comes up at 3 x 50 ms; a link that swallows packets without going down takes BGP
//!    and its routes along within a second, though the hold timer is 90 s and both have graceful restart
//!    (RFC 5881, RFC 5882 section 4, RFC 9384).
//! 2. FRR's operator takes BFD down and up again: BGP stays (RFC 5882 section 3.2).
//! 3. The same with FRR, for IPv4, where both sides ask for different intervals (RFC 5880 section 6.8.3).
//! 4. Over several hops (RFC 5883), over IPv4 and over IPv6.
//! 5. With FRR on an interface without addresses: the path to whichever router is there.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use margay_lab::{Process, eventually, run};
use margay_speaker::{
    BfdConfig, GracefulRestartConfig, PeerConfig, PeerEvent, SpeakerConfig, State, Ttl,
};

use crate::support::{Lab, Ours, PATIENCE, config, them};
use crate::unnumbered::{bare_link, on_eth0};

const QUICK: BfdConfig = BfdConfig {
    min_tx_ms: 50,
    min_rx_ms: 50,
    multiplier: 3,
};

fn watched(ttl: Ttl) -> SpeakerConfig {
    let mut config = config(PeerConfig {
        bfd: Some(QUICK),
        hold_time_secs: 90,
        ttl,
        ..them()
    });
    config.graceful_restart = Some(GracefulRestartConfig {
        restart_time_secs: 120,
        restarting: false,
    });
    config
}

/// What is told on sessions over IPv6.
const OVER_IPV6: &str = "2001:db8:beef::/48";

/// Several hops away, by IPv6.
fn over_ipv6() -> SpeakerConfig {
    let mut config = watched(Ttl::Multihop);
    config
        .listen
        .insert("[::]:179".parse().expect("an address"));
    let peer = config.peers.pop_first().expect("one peer").1;
    let key = "2001:db8::2".parse().expect("an address");
    config.peers.insert(key, peer);
    config
}

/// BIRD with BFD on its session; it restarts gracefully as well.
fn bird_conf(interface: &str, bgp: &str) -> String {
    format!(
        "router id 192.0.2.2;
         protocol device {{}}
         protocol bfd b1 {{ {interface} {{ min rx interval 50 ms; min tx interval 50 ms; multiplier 3; }}; }}
         protocol static s4 {{ ipv4; route 10.1.0.0/24 blackhole; }}
         protocol bgp p1 {{ local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001; bfd on;
           graceful restart on; hold time 90; {bgp}
           connect retry time 1; connect delay time 1; error wait time 1, 2;
           ipv4 {{ import all; export all; }}; }}"
    )
}

fn path_is(ours: &Ours, up: bool) -> Result<()> {
    eventually(PATIENCE, &format!("BFD is up: {up}"), || {
        let status = ours.status()?;
        ensure!(status.bfd_up == Some(up), "{status:?}");
        Ok(())
    })
}

/// Packets from them vanish, or not any more, while the link stays up.
fn swallow(lab: &Lab, on: bool) -> Result<()> {
    let what = if on { "-I" } else { "-D" };
    for (program, from) in [
        ("iptables", "192.0.2.2"),
        ("ip6tables", "fe80::/10"),
        ("ip6tables", "2001:db8::/64"),
    ] {
        run(Command::new("ip")
            .args(["netns", "exec", &lab.us, program, "-w"])
            .args([what, "INPUT", "-s", from, "-j", "DROP"]))?;
    }
    Ok(())
}

/// The session ends well before any timer of BGP, and keeps nothing.
fn fails_at_once(lab: &Lab, ours: &Ours) -> Result<()> {
    fails_at_once_with(lab, ours, "10.1.0.0/24")
}

/// The same, where this is what it told.
fn fails_at_once_with(lab: &Lab, ours: &Ours, route: &str) -> Result<()> {
    let start = Instant::now();
    swallow(lab, true)?;
    let status = ours.is_down()?;
    ours.loses(route)?;
    let took = start.elapsed();
    // 150 ms to notice; the rest is for a loaded machine, far from the hold time of 90 s.
    ensure!(took < Duration::from_secs(45), "{took:?}");
    let told = status.last_error.unwrap_or_default();
    ensure!(told.contains("BFD down"), "{told}");
    happened(ours, "BFD Up", "BFD Down", "control detection time expired")
}

/// The path's change of state is among the events, with its reason.
fn happened(ours: &Ours, from: &str, to: &str, reason: &str) -> Result<()> {
    let events = ours.runtime.block_on(ours.speaker.queries().events())?;
    let is_it = |e: &&PeerEvent| {
        (e.from.to_string(), e.to.to_string(), e.reason.as_str())
            == (from.to_owned(), to.to_owned(), reason)
    };
    ensure!(events.iter().any(|e| is_it(&e)), "{events:?}");
    Ok(())
}

#[test]
fn a_path_that_fails_takes_bgp_along_at_once_with_bird() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird_with(&bird_conf("interface \"*\"", ""))?;
    let ours = lab.speaker(&watched(Ttl::Direct))?;
    ours.is_up()?;
    ours.learns("10.1.0.0/24")?;
    path_is(&ours, true)?;
    bird.shows("show bfd sessions", "Up")?;
    fails_at_once(&lab, &ours)?;
    swallow(&lab, false)?;
    ours.learns("10.1.0.0/24")?;
    path_is(&ours, true)
}

#[test]
fn several_hops_are_watched_by_their_own_port_with_bird() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird_with(&bird_conf("multihop", "multihop 5;"))?;
    let ours = lab.speaker(&watched(Ttl::Multihop))?;
    ours.is_up()?;
    ours.learns("10.1.0.0/24")?;
    path_is(&ours, true)?;
    bird.shows("show bfd sessions", "Up")?;
    fails_at_once(&lab, &ours)
}

/// Us and BIRD at IPv6 addresses, with IPv4 routes of its.
#[test]
fn rfc5883_several_hops_are_watched_over_ipv6_with_bird() -> Result<()> {
    let lab = Lab::new()?;
    let conf = bird_conf("multihop", "multihop 5;")
        .replace("local 192.0.2.2", "local 2001:db8::2")
        .replace("neighbor 192.0.2.1", "neighbor 2001:db8::1")
        .replace(
            "static s4 { ipv4; route 10.1.0.0/24",
            "static s6 { ipv6; route 2001:db8:beef::/48",
        )
        .replace("ipv4 { import all", "ipv6 { import all");
    let bird = lab.bird_with(&conf)?;
    let ours = lab.speaker(&over_ipv6())?;
    ours.is_up()?;
    ours.learns(OVER_IPV6)?;
    path_is(&ours, true)?;
    let port = || -> Result<()> {
        let sessions = bird.ask("show bfd sessions")?;
        ensure!(
            sessions.contains("2001:db8::1") && sessions.contains("Up"),
            "{sessions}"
        );
        Ok(())
    };
    eventually(PATIENCE, "BIRD watches the path", port)?;
    fails_at_once_with(&lab, &ours, OVER_IPV6)
}

/// The same with FRR, which is told by its `ebgp-multihop` that the path has several hops.
#[test]
fn rfc5883_several_hops_are_watched_over_ipv6_with_frr() -> Result<()> {
    let lab = Lab::new()?;
    let _frr = frr(
        &lab,
        "2001:db8::1",
        "remote-as 65001\n neighbor 2001:db8::1 ebgp-multihop 5",
    )?;
    vtysh(
        &lab,
        &[
            "configure terminal",
            "router bgp 65002",
            "address-family ipv6 unicast",
            "neighbor 2001:db8::1 activate",
            "network 2001:db8:beef::/48",
        ],
    )?;
    let ours = lab.speaker(&over_ipv6())?;
    ours.is_up()?;
    ours.learns(OVER_IPV6)?;
    path_is(&ours, true)?;
    let show = || -> Result<()> {
        let text = vtysh(&lab, &["show bfd peers"])?;
        ensure!(text.contains("peer 2001:db8::1 multihop"), "{text}");
        ensure!(text.contains("Status: up"), "{text}");
        Ok(())
    };
    eventually(PATIENCE, "bfdd sees us", show)?;
    fails_at_once_with(&lab, &ours, OVER_IPV6)
}

/// FRR's daemons, where Debian keeps them, with us as `neighbor` `remote`.
pub(crate) fn frr(lab: &Lab, neighbor: &str, remote: &str) -> Result<Vec<Process>> {
    let dir = lab.dir.path();
    let conf = format!(
        "bfd\n profile quick\n  receive-interval 60\n  transmit-interval 40\n  detect-multiplier 4\n\
         router bgp 65002\n bgp router-id 192.0.2.2\n no bgp ebgp-requires-policy\n \
         no bgp network import-check\n neighbor {neighbor} {remote}\n \
         neighbor {neighbor} timers connect 1\n neighbor {neighbor} bfd\n \
         neighbor {neighbor} bfd profile quick\n address-family ipv4 unicast\n  \
         network 10.1.0.0/24\n exit-address-family\n"
    );
    std::fs::write(dir.join("frr.conf"), conf)?;
    run(Command::new("chmod").arg("755").arg(dir))?;
    run(Command::new("chown").arg("-R").arg("frr:frr").arg(dir))?;
    ["zebra", "bfdd", "bgpd"]
        .into_iter()
        .map(|name| {
            let mut command = Command::new(format!("/usr/lib/frr/{name}"));
            command
                .arg("-f")
                .arg(dir.join("frr.conf"))
                .arg("-i")
                .arg(dir.join(format!("{name}.pid")))
                .arg("-z")
                .arg(dir.join("zserv.api"))
                .arg("--vty_socket")
                .arg(dir);
            if name == "bfdd" {
                command.arg("--bfdctl").arg(dir.join("bfdd.sock"));
            }
            let log = dir.join(format!("{name}.log"));
            let process = Process::spawn(name, command, Some(&lab.them), &log)?;
            let socket = dir.join(format!("{name}.vty"));
            eventually(PATIENCE, "the daemon has its socket", || {
                std::fs::metadata(&socket)
            })?;
            Ok(process)
        })
        .collect()
}

pub(crate) fn vtysh(lab: &Lab, commands: &[&str]) -> Result<String> {
    let mut command = Command::new("vtysh");
    command.arg("--vty_socket").arg(lab.dir.path());
    for line in commands {
        command.args(["-c", line]);
    }
    run(&mut command)
}

#[test]
fn bfd_that_its_operator_takes_down_leaves_bgp_alone() -> Result<()> {
    let lab = Lab::new()?;
    let _frr = frr(&lab, "192.0.2.1", "remote-as 65001")?;
    let ours = lab.speaker(&watched(Ttl::Direct))?;
    ours.is_up()?;
    path_is(&ours, true)?;
    let ups = ours.status()?.established_count;
    vtysh(
        &lab,
        &["configure terminal", "bfd", "profile quick", "shutdown"],
    )?;
    path_is(&ours, false)?;
    vtysh(
        &lab,
        &["configure terminal", "bfd", "profile quick", "no shutdown"],
    )?;
    path_is(&ours, true)?;
    let status = ours.status()?;
    ensure!(status.state == State::Established, "{status:?}");
    ensure!(status.established_count == ups, "{status:?}");
    let reason = "taken down by the peer's operator";
    happened(&ours, "BFD Up", "BFD AdminDown", reason)?;
    happened(&ours, "BFD AdminDown", "BFD Up", "both directions work")
}

#[test]
fn a_path_that_fails_takes_bgp_along_at_once_with_frr() -> Result<()> {
    let lab = Lab::new()?;
    let _frr = frr(&lab, "192.0.2.1", "remote-as 65001")?;
    let ours = lab.speaker(&watched(Ttl::Direct))?;
    ours.is_up()?;
    ours.learns("10.1.0.0/24")?;
    path_is(&ours, true)?;
    let show = || -> Result<()> {
        let text = vtysh(&lab, &["show bfd peers"])?;
        ensure!(text.contains("Status: up"), "{text}");
        // What we told it, and what it was told.
        ensure!(text.contains("Receive interval: 50ms"), "{text}");
        Ok(())
    };
    eventually(PATIENCE, "bfdd sees us", show)?;
    fails_at_once(&lab, &ours)
}

#[test]
fn a_path_without_addresses_that_fails_takes_bgp_along_at_once_with_frr() -> Result<()> {
    let lab = bare_link()?;
    let _frr = frr(&lab, "eth0", "interface remote-as external")?;
    let mut config = on_eth0(65001)?;
    for peer in config.peers.values_mut() {
        peer.bfd = Some(QUICK);
        peer.hold_time_secs = 90;
    }
    let ours = lab.speaker(&config)?;
    ours.is_up()?;
    ours.learns("10.1.0.0/24")?;
    path_is(&ours, true)?;
    fails_at_once(&lab, &ours)?;
    swallow(&lab, false)?;
    ours.learns("10.1.0.0/24")?;
    path_is(&ours, true)
}
