//! Long-lived graceful restart (RFC 9494) against BIRD, FRR and GoBGP, as root in namespaces of their own.
//!
//! 1. BIRD is gone for longer than its restart time: its route stays, marked, and is as before once
//!    it is back.
//! 2. We are gone for longer than ours: BIRD keeps our route, marked, until we are back.
//! 3. The same both ways with FRR and with GoBGP.

use anyhow::{Result, ensure};
use margay_bgp::wire::attrs::community::LLGR_STALE;
use margay_lab::eventually;
use margay_speaker::{GracefulRestartConfig, LongLivedConfig, PeerConfig, Shutdown, SpeakerConfig};

use crate::frr::Frr;
use crate::gobgp::Gobgp;
use crate::support::{Lab, Ours, PATIENCE, config, local_routes, them};

const BIRD: &str = "graceful restart on; graceful restart time 1;
    long lived graceful restart on; long lived stale time 600;";

fn patient(restarting: bool) -> SpeakerConfig {
    let graceful_restart = Some(GracefulRestartConfig {
        restart_time_secs: 1,
        restarting,
    });
    let long_lived = Some(LongLivedConfig {
        stale_time_secs: 600,
        max_stale_time_secs: None,
        partial_deployment: false,
    });
    SpeakerConfig {
        graceful_restart,
        ..config(PeerConfig {
            long_lived,
            ..them()
        })
    }
}

fn is_marked(ours: &Ours, wanted: bool) -> Result<()> {
    eventually(PATIENCE, &format!("the route is marked: {wanted}"), || {
        let best = ours.best("10.1.0.0/24")?;
        ensure!(best.attrs.has_community(LLGR_STALE) == wanted, "{best:?}");
        Ok(())
    })
}

#[test]
fn rfc9494_a_bird_that_is_gone_for_long_costs_no_route() -> Result<()> {
    let lab = Lab::new()?;
    let mut bird = lab.bird(BIRD)?;
    let ours = lab.speaker(&patient(false))?;
    ours.learns("10.1.0.0/24")?;
    bird.process.kill()?;
    is_marked(&ours, true)?;
    ensure!(ours.best("10.1.0.0/24")?.stale);
    drop(bird);
    let _bird = lab.bird(BIRD)?;
    ours.is_up()?;
    ours.learns("10.1.0.0/24")?;
    is_marked(&ours, false)
}

#[test]
fn rfc9494_bird_keeps_our_routes_while_we_are_gone_for_long() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird(BIRD)?;
    let route = "show route all 198.51.100.0/24";
    let ours = lab.speaker(&patient(false))?;
    ours.originate(&["198.51.100.0/24"], true)?;
    bird.shows(route, "BGP.community: (65001,7)")?;
    ours.runtime
        .block_on(ours.speaker.shutdown(Shutdown::Restart));
    // The well-known community LLGR_STALE.
    bird.shows(route, "(65535,6)")?;
    let routes = local_routes(&["198.51.100.0/24"], true)?;
    let ours = lab.speaker_with(&patient(true), routes)?;
    ours.is_up()?;
    bird.shows_no(route, "(65535,6)")?;
    bird.shows(route, "BGP.community: (65001,7)")
}

const FRR: &str = "router bgp 65002
 bgp router-id 192.0.2.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 bgp graceful-restart restart-time 1
 bgp graceful-restart stalepath-time 1
 bgp long-lived-graceful-restart stale-time 600
 neighbor 192.0.2.1 remote-as 65001
 neighbor 192.0.2.1 timers 3 9
 neighbor 192.0.2.1 timers connect 1
 address-family ipv4 unicast
  network 10.1.0.0/24
 exit-address-family
";

#[test]
fn rfc9494_an_frr_that_is_gone_for_long_costs_no_route() -> Result<()> {
    let lab = Lab::new()?;
    let mut frr = Frr::start(&lab, FRR)?;
    let ours = lab.speaker(&patient(false))?;
    ours.learns("10.1.0.0/24")?;
    frr.kill()?;
    is_marked(&ours, true)?;
    ensure!(ours.best("10.1.0.0/24")?.stale);
    drop(frr);
    let _frr = Frr::start(&lab, FRR)?;
    ours.is_up()?;
    ours.learns("10.1.0.0/24")?;
    is_marked(&ours, false)
}

#[test]
fn rfc9494_frr_keeps_our_routes_while_we_are_gone_for_long() -> Result<()> {
    let lab = Lab::new()?;
    let frr = Frr::start(&lab, FRR)?;
    let route = "show bgp ipv4 unicast 198.51.100.0/24";
    let ours = lab.speaker(&patient(false))?;
    ours.originate(&["198.51.100.0/24"], true)?;
    frr.shows(route, "Community: 65001:7", true)?;
    ours.runtime
        .block_on(ours.speaker.shutdown(Shutdown::Restart));
    frr.shows(route, "llgr-stale", true)?;
    let routes = local_routes(&["198.51.100.0/24"], true)?;
    let ours = lab.speaker_with(&patient(true), routes)?;
    ours.is_up()?;
    frr.shows(route, "llgr-stale", false)?;
    frr.shows(route, "Community: 65001:7", true)
}

/// Graceful restart and the long-lived one behind it, for each family.
const GOBGP: [&str; 2] = [
    "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 1\nlong-lived-enabled = true\n",
    "[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n\
     [neighbors.afi-safis.long-lived-graceful-restart.config]\nenabled = true\nrestart-time = 600\n",
];

#[test]
fn rfc9494_a_gobgp_that_is_gone_for_long_costs_no_route() -> Result<()> {
    let lab = Lab::new()?;
    let [of_peer, of_family] = GOBGP;
    let start = || -> Result<Gobgp<'_>> {
        let gobgp = Gobgp::start_with(&lab, of_peer, of_family)?;
        gobgp.ask("global rib add 10.1.0.0/24")?;
        Ok(gobgp)
    };
    let mut gobgp = start()?;
    let ours = lab.speaker(&patient(false))?;
    ours.learns("10.1.0.0/24")?;
    gobgp.kill()?;
    is_marked(&ours, true)?;
    ensure!(ours.best("10.1.0.0/24")?.stale);
    drop(gobgp);
    let _gobgp = start()?;
    ours.is_up()?;
    is_marked(&ours, false)
}

#[test]
fn rfc9494_gobgp_keeps_our_routes_while_we_are_gone_for_long() -> Result<()> {
    let lab = Lab::new()?;
    let [of_peer, of_family] = GOBGP;
    let gobgp = Gobgp::start_with(&lab, of_peer, of_family)?;
    let route = "global rib 198.51.100.0/24";
    let ours = lab.speaker(&patient(false))?;
    ours.originate(&["198.51.100.0/24"], true)?;
    gobgp.shows(route, "65001:7", true)?;
    ours.runtime
        .block_on(ours.speaker.shutdown(Shutdown::Restart));
    gobgp.shows(route, "llgr-stale", true)?;
    let routes = local_routes(&["198.51.100.0/24"], true)?;
    let ours = lab.speaker_with(&patient(true), routes)?;
    ours.is_up()?;
    gobgp.shows(route, "llgr-stale", false)?;
    gobgp.shows(route, "65001:7", true)
}
