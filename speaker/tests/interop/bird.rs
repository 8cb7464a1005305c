//! Against BIRD 2, as root in namespaces of their own (see `support` for the topology).
//!
//! 1. Routes of both families go both ways on one session, with TCP MD5, and are withdrawn
//!    (RFC 4271, RFC 4760, RFC 2385).
//! 2. A wrong MD5 key connects to nothing.
//! 3. GTSM holds on both sides (RFC 5082).
//! 4. A silent link ends the session by the hold timer (RFC 4271 section 6.5).
//! 5. Both dial at once, many times, and one session is left (RFC 4271 section 6.8).
//! 6. A restarted speaker costs BIRD no route (RFC 4724), an administrative stop costs all.
//! 7. A killed BIRD costs us no route until it is back without them (RFC 4724 section 4.2).
//! 8. Garbage on the BGP port leaves a session alone.
//! 9. A changed filter takes effect without a reset.
//! 10. IPv4 routes go both ways over IPv6 next hops (RFC 8950).
//! 11. A peer that stops reading holds nobody up and gets the last state when it reads again.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::support::{Lab, PATIENCE, config, ip, local_routes, them};
use anyhow::{Result, ensure};
use margay_bgp::prefix::Ipv4Prefix;
use margay_lab::eventually;
use margay_speaker::{
    FilterConfig, GracefulRestartConfig, LocalAction, LocalAttrs, LocalRouteChange, PeerConfig,
    Secret, Shutdown, SpeakerConfig, State, Ttl,
};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
};

#[test]
fn routes_go_both_ways_with_md5_and_are_withdrawn() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird("password \"a key\";")?;
    let key = Some(Secret::new("a key".to_owned()));
    let mut ours = lab.speaker(&config(PeerConfig {
        password: key,
        ..them()
    }))?;
    ours.originate(&["198.51.100.0/24", "2001:db8:100::/48"], true)?;
    ours.is_up()?;
    ensure!(ours.learns("10.1.0.0/24")? == "[192.0.2.2]");
    // The link-local address if BIRD knew its own when the session came up.
    let next_hop = ours.learns("2001:db8:beef::/48")?;
    ensure!(
        next_hop.contains("fe80::") || next_hop == "[2001:db8::2]",
        "{next_hop}"
    );
    bird.shows("show route all 198.51.100.0/24", "BGP.community: (65001,7)")?;
    bird.shows(
        "show route all 2001:db8:100::/48",
        "BGP.next_hop: 2001:db8::1",
    )?;

    let mut fib = std::collections::BTreeSet::new();
    let mut synced = false;
    while fib.len() < 2 || !synced {
        let next = async { tokio::time::timeout(PATIENCE, ours.fib.recv()).await };
        let Some(batch) = ours.runtime.block_on(next)? else {
            break;
        };
        fib.extend(batch.changes.iter().map(|c| c.prefix.to_string()));
        synced |= batch.initial_sync_done;
    }
    ensure!(synced && fib.contains("10.1.0.0/24") && fib.contains("2001:db8:beef::/48"));

    ours.originate(&["198.51.100.0/24", "2001:db8:100::/48"], false)?;
    bird.shows_no("show route", "198.51.100.0/24")?;
    bird.shows_no("show route", "2001:db8:100::/48")?;
    bird.ask("disable s4")?;
    ours.loses("10.1.0.0/24")?;
    ours.learns("2001:db8:beef::/48")?;
    Ok(())
}

#[test]
fn a_wrong_md5_key_connects_to_nothing_and_the_right_one_does() -> Result<()> {
    let lab = Lab::new()?;
    let _bird = lab.bird("password \"a key\";")?;
    let with_key = |key: &str| {
        config(PeerConfig {
            password: Some(Secret::new(key.to_owned())),
            ..them()
        })
    };
    let mut ours = lab.speaker(&with_key("another"))?;
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        ensure!(ours.status()?.state < State::OpenSent);
        std::thread::sleep(Duration::from_millis(50));
    }
    ours.runtime
        .block_on(ours.speaker.configure(with_key("a key")))?;
    ours.is_up()
}

#[test]
fn gtsm_holds_on_both_sides() -> Result<()> {
    let lab = Lab::new()?;
    let _bird = lab.bird("ttl security on;")?;
    let ours = lab.speaker(&config(PeerConfig {
        ttl: Ttl::Security(1),
        ..them()
    }))?;
    ours.is_up()
}

#[test]
fn a_silent_link_ends_the_session_by_the_hold_timer() -> Result<()> {
    let lab = Lab::new()?;
    let _bird = lab.bird("")?;
    let ours = lab.speaker(&config(PeerConfig {
        hold_time_secs: 3,
        ..them()
    }))?;
    ours.is_up()?;
    ours.learns("10.1.0.0/24")?;
    ip(&format!("-n {} link set eth0 down", lab.them))?;
    let status = ours.is_down()?;
    ensure!(
        status
            .last_error
            .is_some_and(|e| e.contains("hold timer expired"))
    );
    ours.loses("10.1.0.0/24")
}

#[test]
fn both_dial_at_once_and_one_session_is_left() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird("")?;
    let ours = lab.speaker(&config(them()))?;
    for round in 1..=3 {
        ours.is_up()?;
        bird.shows("show protocols", "Established")?;
        ensure!(ours.status()?.established_count >= round);
        bird.ask("restart p1")?;
        ours.is_down()?;
    }
    ours.is_up()
}

fn graceful(restarting: bool) -> SpeakerConfig {
    let graceful_restart = Some(GracefulRestartConfig {
        restart_time_secs: 60,
        restarting,
    });
    SpeakerConfig {
        graceful_restart,
        ..config(them())
    }
}

#[test]
fn rfc4724_a_restarted_speaker_costs_bird_no_route_and_a_stopped_one_all() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird("graceful restart on;")?;
    let route = "show route 198.51.100.0/24";
    let ours = lab.speaker(&graceful(false))?;
    ours.originate(&["198.51.100.0/24"], true)?;
    bird.shows(route, "via 192.0.2.1")?;
    let born = bird.ask(route)?;
    ours.runtime
        .block_on(ours.speaker.shutdown(Shutdown::Restart));
    bird.shows("show protocols all p1", "Neighbor graceful restart active")?;
    ensure!(bird.ask(route)? == born, "the stale route is kept");

    let routes = local_routes(&["198.51.100.0/24"], true)?;
    let ours = lab.speaker_with(&graceful(true), routes)?;
    ours.is_up()?;
    bird.shows("show protocols", "Established")?;
    ours.learns("10.1.0.0/24")?;
    let now = bird.ask(route)?;
    ensure!(now == born, "the route was never replaced: {born} {now}");

    ours.runtime.block_on(
        ours.speaker
            .shutdown(Shutdown::Administrative("bye".to_owned())),
    );
    bird.shows_no("show route", "198.51.100.0/24")
}

#[test]
fn rfc4724_a_killed_bird_costs_no_route_until_it_is_back() -> Result<()> {
    let lab = Lab::new()?;
    let mut bird = lab.bird("graceful restart on;")?;
    let ours = lab.speaker(&graceful(false))?;
    ours.learns("10.1.0.0/24")?;
    bird.process.kill()?;
    ours.is_down()?;
    ensure!(
        ours.learnt()?.contains_key("10.1.0.0/24"),
        "the stale route is kept"
    );
    drop(bird);
    let bird = lab.bird("graceful restart on;")?;
    ours.is_up()?;
    ours.learns("10.1.0.0/24")?;
    bird.ask("disable s4")?;
    ours.loses("10.1.0.0/24")
}

#[test]
fn garbage_on_the_port_leaves_a_session_alone() -> Result<()> {
    let lab = Lab::new()?;
    let _bird = lab.bird("")?;
    let ours = lab.speaker(&config(them()))?;
    ours.learns("10.1.0.0/24")?;
    let ns = std::fs::File::open(format!("/run/netns/{}", lab.them))?;
    let attack = std::thread::spawn(move || -> Result<()> {
        setns(ns, CloneFlags::CLONE_NEWNET)?;
        let header = [&[0xff; 16][..], &[0xff, 0xff, 2]].concat();
        let open = [&[0xff; 16][..], &[0, 29, 1, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0]].concat();
        for payload in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &header,
            &open,
            &[0xff; 4096],
            &[],
        ] {
            let mut stream = TcpStream::connect("192.0.2.1:179")?;
            stream.set_read_timeout(Some(Duration::from_millis(300)))?;
            // The speaker may close at any time: that is what is tested.
            drop(stream.write_all(payload));
            drop(stream.read(&mut [0; 512]));
        }
        Ok(())
    });
    attack.join().expect("the attacker does not panic")?;
    let status = ours.status()?;
    ensure!(
        status.state == State::Established && status.established_count == 1,
        "{status:?}"
    );
    ensure!(ours.learnt()?.contains_key("10.1.0.0/24"));
    Ok(())
}

#[test]
fn a_changed_filter_takes_effect_without_a_reset() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird("")?;
    let mut ours = lab.speaker(&config(them()))?;
    ours.originate(&["198.51.100.0/24", "203.0.113.0/24"], true)?;
    ours.learns("10.1.0.0/24")?;
    bird.shows("show route", "203.0.113.0/24")?;
    let narrow = PeerConfig {
        import: FilterConfig::accept_within(["2001:db8::/32".parse()?]),
        export: FilterConfig::accept_within(["198.51.100.0/24".parse()?]),
        ..them()
    };
    ours.runtime
        .block_on(ours.speaker.configure(config(narrow)))?;
    ours.loses("10.1.0.0/24")?;
    bird.shows_no("show route", "203.0.113.0/24")?;
    bird.shows("show route", "198.51.100.0/24")?;
    ours.runtime
        .block_on(ours.speaker.configure(config(them())))?;
    ours.learns("10.1.0.0/24")?;
    bird.shows("show route", "203.0.113.0/24")?;
    ensure!(ours.status()?.established_count == 1);
    let mut gone = config(them());
    gone.peers.clear();
    ours.runtime.block_on(ours.speaker.configure(gone))?;
    bird.shows_no("show route", "198.51.100.0/24")?;
    eventually(PATIENCE, "there is no peer", || {
        let peers = ours.runtime.block_on(ours.speaker.status())?;
        ensure!(peers.is_empty());
        Ok(())
    })
}

#[test]
fn a_peer_that_stops_reading_holds_nobody_up_and_gets_the_last_state() -> Result<()> {
    const ROUTES: u32 = 30_000;
    let lab = Lab::new()?;
    let bird = lab.bird("hold time 240;")?;
    let ours = lab.speaker(&config(PeerConfig {
        hold_time_secs: 240,
        ..them()
    }))?;
    ours.is_up()?;
    let announce = |community: u32| -> Result<()> {
        let changes = (0..ROUTES).map(|n| {
            let attrs = LocalAttrs {
                communities: vec![community],
                med: Some(n),
                ..LocalAttrs::default()
            };
            let prefix = Ipv4Prefix::new(20 << 24 | n << 8, 24)
                .expect("24 is a length")
                .into();
            LocalRouteChange {
                prefix,
                action: LocalAction::Announce(attrs),
            }
        });
        Ok(ours
            .runtime
            .block_on(ours.speaker.originate(changes.collect()))?)
    };
    bird.process.signal(Signal::SIGSTOP)?;
    for community in 1..=5 {
        announce(community)?;
        let asked = Instant::now();
        ours.status()?;
        ensure!(
            asked.elapsed() < Duration::from_secs(30),
            "took {:?}",
            asked.elapsed()
        );
    }
    bird.process.signal(Signal::SIGCONT)?;
    bird.shows(
        "show route where bgp_community ~ [(0,5)] count",
        &format!("Total: {ROUTES} of"),
    )?;
    ensure!(ours.status()?.established_count == 1);
    Ok(())
}

#[test]
fn ipv4_routes_go_both_ways_over_ipv6_next_hops() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird_with(
        "router id 192.0.2.2;
         protocol device {}
         protocol static s4 { ipv4; route 10.1.0.0/24 blackhole; }
         protocol bgp p1 { local 2001:db8::2 as 65002; neighbor 2001:db8::1 as 65001;
           connect retry time 1; connect delay time 1; error wait time 1, 2;
           ipv4 { extended next hop on; import all; export all; }; }",
    )?;
    let mut config = SpeakerConfig::new(65001, [192, 0, 2, 1].into());
    let peer = PeerConfig {
        extended_next_hop: true,
        ..them()
    };
    config.peers.insert("2001:db8::2".parse()?, peer);
    let ours = lab.speaker(&config)?;
    ours.originate(&["198.51.100.0/24"], true)?;
    ours.is_up()?;
    let hop = ours.learns("10.1.0.0/24")?;
    ensure!(
        hop.contains("2001:db8::2") || hop.contains("fe80::"),
        "{hop}"
    );
    bird.shows(
        "show route all 198.51.100.0/24",
        "BGP.next_hop: 2001:db8::1",
    )?;
    ours.originate(&["198.51.100.0/24"], false)?;
    bird.shows_no("show route", "198.51.100.0/24")
}

#[test]
fn rfc9003_why_birds_operator_ends_the_session_is_shown() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird("")?;
    let ours = lab.speaker(&config(them()))?;
    ours.is_up()?;
    bird.ask("disable p1 \"ticket 4711\"")?;
    ours.ended_by("received cease: administrative shutdown (6/2): ticket 4711")?;
    bird.ask("enable p1")?;
    ours.is_up()?;
    bird.ask("restart p1 \"ticket 4712\"")?;
    ours.ended_by("received cease: administrative reset (6/4): ticket 4712")
}
