//! Kernel routes of the daemon, as root in namespaces of its own, beside BIRD as the peer.
//!
//! ```text
//!   us  192.0.2.1, 2001:db8::1 ------ veth ------ 192.0.2.2, 2001:db8::2  them (BIRD, AS 65002)
//!        |
//!       lo  203.0.113.1 behind 192.0.2.2 by a route of the operator's
//! ```
//! 1. Without `kernel` nothing is written. With it best routes of both families are in the table, with our
//!    protocol and metric, next hops resolved by the host's own routes (RFC 4271, section 5.1.3).
//! 2. Withdrawn routes go, routes of others for the same prefix stay, ours come back when somebody removes
//!    them or the link was down.
//! 3. SIGTERM removes them, and nothing else.
//! 4. With graceful restart they stay on SIGTERM, as they do on SIGKILL; the next run adopts them, and
//!    removes what the peer no longer tells of.

#[expect(dead_code, reason = "the test of hand-overs uses all of it")]
mod rig;

use anyhow::{Result, ensure};
use margay_lab::{Bird, eventually};
use nix::sys::signal::Signal;

use rig::{PATIENCE, Rig};

const BOTH: &str = "10.1.0.0/24 via 192.0.2.2
10.2.0.0/24 via 192.0.2.2
2001:db8:beef::/48 via";

fn is_established(bird: &Bird) -> Result<()> {
    eventually(PATIENCE, "the session is up", || {
        bird.ensure_established("p1")
    })
}

#[test]
fn best_routes_are_in_the_kernel_until_they_are_withdrawn_or_the_daemon_stops() -> Result<()> {
    let rig = Rig::new()?;
    let routes = ["10.1.0.0/24", "10.2.0.0/24", "2001:db8:beef::/48"];
    let bird = rig.bird(&routes)?;
    // Somebody else's, which ours stands behind, or beside.
    rig.us
        .ip("route add 10.2.0.0/24 dev lo metric 50 proto static")?;
    rig.us.ip("route add 10.9.0.0/24 dev lo proto static")?;
    let mut speaker = rig.speaker("", "kernel: {}")?;
    rig.has(BOTH)?;

    rig.us.ip("route del 10.1.0.0/24 proto 78")?;
    rig.has(BOTH)?;
    rig.us.ip("link set eth0 down")?;
    rig.us.ip("link set eth0 up")?;
    rig.us.ip("addr replace 2001:db8::1/64 dev eth0 nodad")?;
    rig.has(BOTH)?;

    drop(bird);
    rig.has("")?;
    let _bird = rig.bird(&routes)?;
    rig.has(BOTH)?;
    speaker.stop()?;
    ensure!(rig.ours("main")?.is_empty(), "{}", rig.ours("main")?);
    let others = rig.us.ip("route show proto static")?;
    ensure!(others.lines().count() == 2, "{others}");
    Ok(())
}

#[test]
fn nothing_is_written_unless_asked_for_and_then_where_it_was_asked() -> Result<()> {
    let rig = Rig::new()?;
    let bird = rig.bird(&["10.1.0.0/24"])?;
    let mut without = rig.speaker("", "")?;
    is_established(&bird)?;
    without.stop()?;
    let told = rig.us.ip("route show 10.1.0.0/24")?;
    ensure!(told.is_empty(), "{told}");
    let _speaker = rig.speaker("", "kernel: {table: 100}")?;
    eventually(PATIENCE, "the other table has it", || {
        let found = rig.ours("100")?;
        ensure!(found == "10.1.0.0/24 via 192.0.2.2", "{found}");
        Ok(())
    })?;
    ensure!(rig.ours("main")?.is_empty(), "{}", rig.ours("main")?);
    Ok(())
}

#[test]
fn a_next_hop_behind_a_router_is_resolved_by_the_routes_of_the_host() -> Result<()> {
    let rig = Rig::new()?;
    rig.us
        .ip("route add 203.0.113.0/24 via 192.0.2.2 proto static")?;
    rig.them.ip("addr add 203.0.113.1/32 dev lo")?;
    let config = "router id 192.0.2.2; protocol device {}
         protocol static { ipv4; route 10.1.0.0/24 blackhole; }
         protocol bgp p1 { local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001;
           connect retry time 1; connect delay time 1; error wait time 1, 2;
           ipv4 { import all; export all; next hop address 203.0.113.1; }; }";
    let _bird = Bird::start(&rig.them, rig.dir.path(), config)?;
    let _speaker = rig.speaker("", "kernel: {}")?;
    rig.has("10.1.0.0/24 via 192.0.2.2")
}

#[test]
fn rfc4724_routes_outlive_a_restart_and_those_that_are_gone_go() -> Result<()> {
    let rig = Rig::new()?;
    let restart = "graceful_restart: {restart_time_secs: 60, restarting: true}";
    let bird = rig.bird(&["10.1.0.0/24", "10.2.0.0/24", "2001:db8:beef::/48"])?;
    let mut speaker = rig.documented()?;
    rig.has(BOTH)?;
    speaker.stop()?;
    ensure!(rig.ours("main")? == BOTH, "{}", rig.ours("main")?);
    let mut speaker = rig.speaker(restart, "kernel: {}")?;
    is_established(&bird)?;
    rig.has(BOTH)?;
    speaker.signal(Signal::SIGKILL)?;
    speaker.kill()?;
    ensure!(rig.ours("main")? == BOTH, "{}", rig.ours("main")?);
    drop(bird);
    let _bird = rig.bird(&["10.2.0.0/24"])?;
    let _speaker = rig.speaker(restart, "kernel: {}")?;
    rig.has("10.2.0.0/24 via 192.0.2.2")
}
