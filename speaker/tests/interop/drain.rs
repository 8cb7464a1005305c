//! Graceful shutdown (RFC 8326) with BIRD 2 as the router, as root in namespaces of their own.
//!
//! ```text
//!   us 198.51.100.1 --- 192.0.2.0/24 --- them (BIRD) --- 192.0.3.0/24 --- 198.51.100.1 other
//! ```
//! 1. A drain moves traffic to the other path before anything is withdrawn: what follows, a stopped speaker
//!    and a link that goes down, loses no packet. Taking the drain back moves it home.
//! 2. A route that BIRD marks with GRACEFUL_SHUTDOWN is least preferred here.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use margay_lab::eventually;
use margay_speaker::{Shutdown, SpeakerConfig};
use nix::{sys::signal, unistd::Pid};

use crate::support::{Lab, PATIENCE, config, ip, local_routes, them};

const SERVICE: &str = "198.51.100.1";

/// Another host with the same address. Dropping it removes it.
struct Other(String);

impl Other {
    fn beside(lab: &Lab) -> Result<Self> {
        let (them, other) = (&lab.them, format!("{}o", lab.them));
        ip(&format!("netns add {other}"))?;
        let guard = Self(other.clone());
        ip(&format!(
            "link add eth1 netns {them} type veth peer name eth1 netns {other}"
        ))?;
        ip(&format!("-n {them} addr add 192.0.3.1/24 dev eth1"))?;
        ip(&format!("-n {them} link set eth1 up"))?;
        ip(&format!("-n {other} addr add 192.0.3.2/24 dev eth1"))?;
        ip(&format!("-n {other} addr add {SERVICE}/32 dev lo"))?;
        ip(&format!("-n {other} link set lo up"))?;
        ip(&format!("-n {other} link set eth1 up"))?;
        ip(&format!("-n {other} route add 192.0.2.0/24 via 192.0.3.1"))?;
        ip(&format!("-n {} addr add {SERVICE}/32 dev lo", lab.us))?;
        Ok(guard)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Nothing is left to do about a namespace that is gone already.
        drop(ip(&format!("netns del {}", self.0)));
    }
}

fn goes_by(lab: &Lab, device: &str) -> Result<()> {
    eventually(PATIENCE, &format!("the router sends by {device}"), || {
        let route = ip(&format!("-n {} route get {SERVICE}", lab.them))?;
        ensure!(route.contains(&format!("dev {device} ")), "{route}");
        Ok(())
    })
}

fn ours(draining: bool) -> SpeakerConfig {
    SpeakerConfig {
        graceful_shutdown: draining,
        ..config(them())
    }
}

#[test]
fn a_drained_host_can_be_stopped_without_losing_a_packet() -> Result<()> {
    let lab = Lab::new()?;
    let _other = Other::beside(&lab)?;
    let _bird = lab.bird_with(&format!(
        "router id 192.0.2.2;
         protocol device {{}}
         protocol kernel {{ ipv4 {{ export all; }}; }}
         protocol static s4 {{ ipv4 {{ preference 50; }}; route {SERVICE}/32 via 192.0.3.2; }}
         protocol bgp p1 {{ local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001;
           connect retry time 1; connect delay time 1; error wait time 1, 2;
           ipv4 {{ export none; import filter {{
             if (65535, 0) ~ bgp_community then {{ bgp_local_pref = 0; preference = 10; }}
             accept; }}; }}; }}"
    ))?;
    let mut speaker = lab.speaker_with(&ours(false), local_routes(&["198.51.100.1/32"], true)?)?;
    speaker.is_up()?;
    goes_by(&lab, "eth0")?;
    speaker
        .runtime
        .block_on(speaker.speaker.configure(ours(true)))?;
    goes_by(&lab, "eth1")?;
    speaker
        .runtime
        .block_on(speaker.speaker.configure(ours(false)))?;
    goes_by(&lab, "eth0")?;

    let pings = Command::new("ip")
        .args([
            "netns", "exec", &lab.them, "ping", "-i", "0.01", "-W", "1", SERVICE,
        ])
        .stdout(Stdio::piped())
        .spawn()?;
    thread::sleep(Duration::from_millis(300));
    speaker
        .runtime
        .block_on(speaker.speaker.configure(ours(true)))?;
    goes_by(&lab, "eth1")?;
    let stop = Shutdown::Administrative("maintenance".to_owned());
    speaker.runtime.block_on(speaker.speaker.shutdown(stop));
    ip(&format!("-n {} link set eth0 down", lab.us))?;
    thread::sleep(Duration::from_millis(300));
    signal::kill(
        Pid::from_raw(i32::try_from(pings.id())?),
        signal::Signal::SIGINT,
    )?;
    let text = String::from_utf8(pings.wait_with_output()?.stdout)?;
    let sums = text.lines().rev().find(|line| line.contains("transmitted"));
    let sums = sums.context("no sums")?;
    ensure!(sums.contains(" 0% packet loss"), "{sums}");
    Ok(())
}

#[test]
fn a_route_that_bird_shuts_down_is_least_preferred_here() -> Result<()> {
    let lab = Lab::new()?;
    let _bird = lab.bird_with(
        "router id 192.0.2.2;
         protocol device {}
         protocol static s4 { ipv4; route 10.1.0.0/24 blackhole; }
         protocol bgp p1 { local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001;
           connect retry time 1; connect delay time 1; error wait time 1, 2;
           ipv4 { import all; export filter { bgp_community.add((65535, 0)); accept; }; }; }",
    )?;
    let ours = lab.speaker(&config(them()))?;
    ours.learns("10.1.0.0/24")?;
    let best = ours.best("10.1.0.0/24")?;
    ensure!(best.attrs.local_pref == Some(0), "{best:?}");
    Ok(())
}
