//! NOTIFICATIONs of peers that restart gracefully (RFC 8538), both ways with FRR, as root in namespaces of
//! their own.
//!
//! 1. FRR's operator resets the session, softly as it is configured: its routes stay, stale. He shuts it,
//!    which is a hard reset: they go at once, and what he said with it (RFC 9003) is shown.
//! 2. Our hold timer expires: FRR keeps our routes, stale, until we are back; when we are stopped it gets a
//!    hard reset and drops them.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use margay_lab::{eventually, run};
use margay_speaker::{GracefulRestartConfig, Shutdown, SpeakerConfig};

use crate::{
    bfd::vtysh,
    frr::Frr,
    support::{Lab, Ours, PATIENCE, config, them},
};

const FRR: &str = "router bgp 65002
 bgp router-id 192.0.2.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 bgp graceful-restart restart-time 100
 bgp graceful-restart notification
 no bgp hard-administrative-reset
 neighbor 192.0.2.1 remote-as 65001
 neighbor 192.0.2.1 timers 3 9
 neighbor 192.0.2.1 timers connect 1
 address-family ipv4 unicast
  network 10.1.0.0/24
 exit-address-family
";

fn graceful() -> SpeakerConfig {
    SpeakerConfig {
        graceful_restart: Some(GracefulRestartConfig {
            restart_time_secs: 100,
            restarting: false,
        }),
        ..config(them())
    }
}

/// Has packets dropped that come in here and match, or not any more.
fn dropped(ns: &str, matching: &[&str], on: bool) -> Result<()> {
    let what = if on { "-I" } else { "-D" };
    run(Command::new("ip")
        .args(["netns", "exec", ns, "iptables", "-w", what, "INPUT"])
        .args(["-p", "tcp"])
        .args(matching)
        .args(["-j", "DROP"]))
    .map(drop)
}

/// Whether there are new connections.
fn connections(lab: &Lab, on: bool) -> Result<()> {
    for ns in [&lab.us, &lab.them] {
        dropped(ns, &["--syn"], !on)?;
    }
    Ok(())
}

fn ended_by(ours: &Ours, reason: &str) -> Result<()> {
    let told = ours.is_down()?.last_error.unwrap_or_default();
    ensure!(told.contains(reason), "{told}");
    Ok(())
}

#[test]
fn rfc8538_what_frr_ends_hard_is_gone_and_what_it_ends_softly_stays() -> Result<()> {
    let lab = Lab::new()?;
    let _frr = Frr::start(&lab, FRR)?;
    let ours = lab.speaker(&graceful())?;
    ours.learns("10.1.0.0/24")?;
    let session = ours.status()?.session.context("it is up")?;
    let on_notification = "graceful restart on NOTIFICATION";
    ensure!(
        session.capabilities.contains(&on_notification),
        "{session:?}"
    );
    connections(&lab, false)?;
    vtysh(&lab, &["clear bgp 192.0.2.1"])?;
    ended_by(&ours, "received cease: administrative reset")?;
    ensure!(ours.best("10.1.0.0/24")?.stale);
    connections(&lab, true)?;
    ours.is_up()?;
    eventually(PATIENCE, "it has said its route again", || {
        ensure!(!ours.best("10.1.0.0/24")?.stale);
        Ok(())
    })?;
    let shut = "neighbor 192.0.2.1 shutdown message ticket 4711";
    vtysh(&lab, &["configure terminal", "router bgp 65002", shut])?;
    ended_by(&ours, "received cease: hard reset")?;
    ours.ended_by(
        "received cease: hard reset (6/9) because of cease: administrative shutdown (6/2): ticket 4711",
    )?;
    ours.loses("10.1.0.0/24")
}

#[test]
fn rfc8538_frr_keeps_our_routes_over_a_notification_and_none_over_a_hard_reset() -> Result<()> {
    let lab = Lab::new()?;
    let frr = Frr::start(&lab, FRR)?;
    let ours = lab.speaker(&graceful())?;
    ours.originate(&["198.51.100.0/24"], true)?;
    let route = "show bgp ipv4 unicast 198.51.100.0/24";
    frr.shows(route, "Community: 65001:7", true)?;
    // It hears us, and we do not hear it.
    dropped(&lab.us, &["-s", "192.0.2.2"], true)?;
    ended_by(&ours, "sent hold timer expired")?;
    frr.shows(route, "stale", true)?;
    dropped(&lab.us, &["-s", "192.0.2.2"], false)?;
    ours.is_up()?;
    frr.shows(route, "stale", false)?;
    frr.shows(route, "Community: 65001:7", true)?;
    let bye = Shutdown::Administrative("bye".to_owned());
    ours.runtime.block_on(ours.speaker.shutdown(bye));
    frr.shows("show bgp ipv4 unicast", "198.51.100.0/24", false)?;
    frr.shows("show bgp neighbors 192.0.2.1", "Hard Reset", true)
}
