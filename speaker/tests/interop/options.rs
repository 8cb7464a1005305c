//! Options of a session against BIRD and FRR, as root in namespaces of their own.
//!
//! 1. Messages beyond 4096 octets where both sides have them (RFC 8654).
//! 2. AS numbers of four octets on a session of two: we find ours in AS4_PATH, and are AS_TRANS to
//!    FRR (RFC 6793).
//! 3. BIRD asks for our routes once more (RFC 2918, RFC 7313) and nothing is lost meanwhile; it tells all
//!    of its own anew between the marks of RFC 7313, and nothing is lost either. We ask BIRD, which marks
//!    begin and end, and GoBGP, and are told all again.
//! 4. local-as, allow-own-as, remove-private-as, as-override.
//! 5. We reflect routes between internal peers, and are a client of BIRD's (RFC 4456).
//! 6. Without filters nothing goes either way (RFC 8212).
//! 7. Next hops (RFC 4271 section 5.1.3): ours to an external peer, unless it is to be kept; kept to an
//!    internal one, unless it is to be ours.

use anyhow::{Context, Result, ensure};
use margay_lab::eventually;
use margay_speaker::{
    FilterConfig, LocalAction, LocalAttrs, LocalRouteChange, PeerConfig, RemoteAs, SpeakerConfig,
};

use crate::frr::Frr;
use crate::gobgp::Gobgp;
use crate::support::{Lab, Ours, PATIENCE, config, ip, local_routes, them};

#[test]
fn rfc8654_a_route_of_six_kilobytes_reaches_bird() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird("enable extended messages on;")?;
    let ours = lab.speaker(&config(PeerConfig {
        extended_messages: true,
        ..them()
    }))?;
    ours.is_up()?;
    let attrs = LocalAttrs {
        large_communities: (0..500).map(|n| [65001, 1, n]).collect(),
        ..LocalAttrs::default()
    };
    let change = LocalRouteChange {
        prefix: "198.51.100.0/24".parse()?,
        action: LocalAction::Announce(attrs),
    };
    ours.runtime
        .block_on(ours.speaker.originate(vec![change]))?;
    bird.shows("show route all 198.51.100.0/24", "(65001, 1, 499)")?;
    let session = ours.status()?.session.context("it is up")?;
    ensure!(session.capabilities.contains(&"extended messages"));
    Ok(())
}

#[test]
fn rfc8654_a_route_of_six_kilobytes_comes_from_bird() -> Result<()> {
    let lab = Lab::new()?;
    let many: String = (0..500)
        .map(|n| format!("bgp_large_community.add((65002, 1, {n}));"))
        .collect();
    let on = "enable extended messages on;";
    let _bird = lab.bird_with(&bird(65002, "65001", on, &many))?;
    let ours = lab.speaker(&config(PeerConfig {
        extended_messages: true,
        ..them()
    }))?;
    ours.learns("10.1.0.0/24")?;
    let heard = ours.best("10.1.0.0/24")?.attrs.large_communities;
    ensure!(heard.len() == 500 && heard.contains(&[65002, 1, 499]));
    Ok(())
}

/// BIRD of AS `asn` with this for the neighbour that we are, and in the channels.
fn bird(asn: u32, neighbor: &str, bgp: &str, export: &str) -> String {
    format!(
        "router id 192.0.2.2;
         protocol device {{}}
         protocol static s4 {{ ipv4; route 10.1.0.0/24 blackhole; }}
         protocol bgp p1 {{ local 192.0.2.2 as {asn}; neighbor 192.0.2.1 as {neighbor};
           connect retry time 1; connect delay time 1; error wait time 1, 2; {bgp}
           ipv4 {{ import all; export filter {{ if source != RTS_STATIC then reject; {export} accept; }}; }}; }}"
    )
}

#[test]
fn rfc6793_long_as_numbers_pass_a_session_of_two_octets() -> Result<()> {
    const OURS: u32 = 4_200_000_001;
    let lab = Lab::new()?;
    let frr = Frr::start(
        &lab,
        "router bgp 65002
 bgp router-id 192.0.2.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 192.0.2.1 remote-as 4200000001
 neighbor 192.0.2.1 dont-capability-negotiate
 neighbor 192.0.2.1 timers 3 9
 neighbor 192.0.2.1 timers connect 1
 address-family ipv4 unicast
  network 10.1.0.0/24
  neighbor 192.0.2.1 route-map longer out
 exit-address-family
route-map longer permit 10
 set as-path prepend 4200000009
",
    )?;
    let config = SpeakerConfig {
        local_as: OURS,
        ..config(them())
    };
    let ours = lab.speaker(&config)?;
    ours.originate(&["198.51.100.0/24"], true)?;
    ours.learns("10.1.0.0/24")?;
    let heard = ours.best("10.1.0.0/24")?.attrs.as_path.to_string();
    ensure!(heard == "65002 4200000009", "{heard}");
    let session = ours.status()?.session.context("it is up")?;
    ensure!(
        !session.capabilities.contains(&"four-octet AS"),
        "{session:?}"
    );
    // FRR looks for no AS4_PATH from one that could have sent four octets.
    frr.shows("show bgp ipv4 unicast 198.51.100.0/24", "\n  23456\n", true)
}

#[test]
fn rfc7313_4_what_bird_tells_anew_between_its_marks_stays() -> Result<()> {
    let lab = Lab::new()?;
    let text = String::from("log stderr all;\n") + &bird(65002, "65001", "debug all;", "");
    let bird = lab.bird_with(&text)?;
    let ours = lab.speaker(&config(them()))?;
    ours.learns("10.1.0.0/24")?;
    ours.is_up()?;
    let before = ours.status()?.updates_received;
    bird.ask("reload out p1")?;
    eventually(PATIENCE, "BIRD has told all anew", || {
        let log = bird.process.log_tail(1000);
        ensure!(
            log.contains("Sending BEGIN-OF-RR") && log.contains("Sending END-OF-RR"),
            "{log}"
        );
        let now = ours.status()?.updates_received;
        ensure!(now > before, "{before}, {now}");
        Ok(())
    })?;
    // What the end of it would drop is gone when it has been read: BIRD's next word says that it was.
    bird.ask("disable s4")?;
    ours.loses("10.1.0.0/24")?;
    bird.ask("enable s4")?;
    ours.learns("10.1.0.0/24")?;
    let status = ours.status()?;
    ensure!(status.established_count == 1, "{status:?}");
    Ok(())
}

#[test]
fn rfc7313_bird_asks_again_and_gets_what_it_had_left_out() -> Result<()> {
    let lab = Lab::new()?;
    let text = |import: &str| {
        bird(65002, "65001", "", "").replace("import all;", &format!("import {import};"))
    };
    let bird = lab.bird_with(&text("where net != 198.51.100.0/24"))?;
    let ours = lab.speaker(&config(them()))?;
    ours.originate(&["198.51.100.0/24", "203.0.113.0/24"], true)?;
    bird.shows("show route", "203.0.113.0/24")?;
    ensure!(!bird.ask("show route")?.contains("198.51.100.0/24"));
    let session = ours.status()?.session.context("it is up")?;
    ensure!(
        session.capabilities.contains(&"enhanced route refresh"),
        "{session:?}"
    );
    std::fs::write(lab.dir.path().join("bird.conf"), text("all"))?;
    bird.ask("configure")?;
    bird.shows("show route", "198.51.100.0/24")?;
    bird.shows("show route", "203.0.113.0/24")?;
    let status = ours.status()?;
    ensure!(status.established_count == 1, "{status:?}");
    Ok(())
}

/// Asks the peer for its routes, and waits until they came again.
fn are_told_again(ours: &Ours, prefix: &str) -> Result<()> {
    ours.is_up()?;
    ours.learns(prefix)?;
    let before = ours.status()?;
    let queries = ours.speaker.queries();
    let asked = ours.runtime.block_on(queries.refresh(before.key))?;
    ensure!(asked, "it cannot be asked");
    eventually(PATIENCE, "all is told again", || {
        let now = ours.status()?.updates_received;
        ensure!(now > before.updates_received, "{now}, {before:?}");
        Ok(())
    })?;
    ours.learns(prefix)?;
    let status = ours.status()?;
    ensure!(status.established_count == 1, "{status:?}");
    Ok(())
}

#[test]
fn rfc7313_bird_is_asked_and_tells_all_between_its_marks() -> Result<()> {
    let lab = Lab::new()?;
    let text = String::from("log stderr all;\n") + &bird(65002, "65001", "debug all;", "");
    let bird = lab.bird_with(&text)?;
    let ours = lab.speaker(&config(them()))?;
    // All that it says at first has been said.
    eventually(PATIENCE, "its End-of-RIB", || {
        let status = ours.status()?;
        ensure!(status.routes.iter().any(|f| f.end_of_rib), "{status:?}");
        Ok(())
    })?;
    are_told_again(&ours, "10.1.0.0/24")?;
    let log = bird.process.log_tail(1000);
    ensure!(log.contains("Got ROUTE-REFRESH"), "{log}");
    eventually(PATIENCE, "both marks", || {
        let log = bird.process.log_tail(1000);
        ensure!(
            log.contains("Sending BEGIN-OF-RR") && log.contains("Sending END-OF-RR"),
            "{log}"
        );
        Ok(())
    })?;
    // The end of it has been read, and took nothing along.
    bird.ask("disable s4")?;
    ours.loses("10.1.0.0/24")
}

#[test]
fn rfc2918_gobgp_is_asked_and_tells_all_again() -> Result<()> {
    let lab = Lab::new()?;
    let gobgp = Gobgp::start(&lab, "")?;
    gobgp.ask("global rib add 10.1.0.0/24")?;
    let ours = lab.speaker(&config(them()))?;
    are_told_again(&ours, "10.1.0.0/24")
}

/// With a route of AS 65003 from our own side of the link.
fn with_source(lab: &Lab, peer: PeerConfig) -> Result<[Ours; 2]> {
    let mut config = config(peer);
    let source = PeerConfig {
        passive: true,
        import: FilterConfig::accept_all(),
        ..PeerConfig::new(65003)
    };
    config.peers.insert("192.0.2.3".parse()?, source);
    let ours = lab.speaker(&config)?;
    let source = lab.source(&lab.them, 3, 1, &["10.3.0.0/24"])?;
    Ok([ours, source])
}

#[test]
fn local_as_and_allow_own_as_hold_towards_bird() -> Result<()> {
    let lab = Lab::new()?;
    let looped = "bgp_path.prepend(64999);";
    let bird = lab.bird_with(&bird(65002, "64999", "", looped))?;
    let peer = |allow_own_as| PeerConfig {
        local_as: Some(64999),
        allow_own_as,
        ..them()
    };
    let mut ours = lab.speaker(&config(peer(0)))?;
    ours.originate(&["198.51.100.0/24"], true)?;
    bird.shows("show route all 198.51.100.0/24", "BGP.as_path: 64999")?;
    let outcome = eventually(PATIENCE, "the route is known", || {
        anyhow::Ok(ours.best("10.1.0.0/24")?.outcome.unwrap_or_default())
    })?;
    ensure!(outcome == "looped: our AS is in AS_PATH", "{outcome}");
    ours.runtime
        .block_on(ours.speaker.configure(config(peer(1))))?;
    ours.learns("10.1.0.0/24").map(drop)
}

#[test]
fn rfc6996_private_numbers_are_not_told_to_bird() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird_with(&bird(65002, "65001", "", ""))?;
    let _both = with_source(
        &lab,
        PeerConfig {
            remove_private_as: true,
            ..them()
        },
    )?;
    bird.shows("show route all 10.3.0.0/24", "BGP.as_path: 65001\n")
}

#[test]
fn two_sites_of_one_as_reach_each_other_by_as_override() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird_with(&bird(65003, "65001", "", ""))?;
    // Whatever AS it turns out to be.
    let _both = with_source(
        &lab,
        PeerConfig {
            remote_as: RemoteAs::External,
            as_override: true,
            ..them()
        },
    )?;
    bird.shows("show route all 10.3.0.0/24", "BGP.as_path: 65001 65001")
}

#[test]
fn rfc4456_routes_are_reflected_between_internal_peers() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird_with(
        "router id 192.0.2.2; protocol device {}
         protocol static s4 { ipv4; route 10.2.0.0/24 blackhole; }
         protocol bgp p1 { local 192.0.2.2 as 65001; neighbor 192.0.2.1 as 65001;
           direct; connect retry time 1; connect delay time 1; error wait time 1, 2;
           ipv4 { import all; export all; next hop self; }; }",
    )?;
    let client = PeerConfig {
        remote_as: RemoteAs::Internal,
        route_reflector_client: true,
        ..them()
    };
    let mut config = config(client.clone());
    config.peers.insert("192.0.2.3".parse()?, client);
    let ours = lab.speaker(&config)?;
    ip(&format!("-n {} addr add 192.0.2.3/24 dev eth0", lab.us))?;
    let mut third = SpeakerConfig::new(65001, [192, 0, 2, 3].into());
    let reflector = PeerConfig {
        remote_as: RemoteAs::Internal,
        source: Some([192, 0, 2, 3].into()),
        ..them()
    };
    third.peers.insert("192.0.2.1".parse()?, reflector);
    let third = Lab::speaker_in(&lab.us, &third, local_routes(&["10.3.0.0/24"], true)?)?;
    ours.learns("10.2.0.0/24")?;
    let hop = third.learns("10.2.0.0/24")?;
    let attrs = third.best("10.2.0.0/24")?.attrs;
    ensure!(
        hop == "[192.0.2.2]" && attrs.originator_id == Some([192, 0, 2, 2].into()),
        "{attrs:?}"
    );
    let reflected = "show route all 10.3.0.0/24";
    bird.shows(reflected, "BGP.originator_id: 192.0.2.3")?;
    bird.shows(reflected, "BGP.cluster_list: 192.0.2.1")?;
    bird.shows(reflected, "BGP.next_hop: 192.0.2.3")
}

#[test]
fn rfc4456_we_are_the_client_of_a_bird_that_reflects() -> Result<()> {
    let lab = Lab::new()?;
    let client = |name: &str, host: u8| {
        format!(
            "protocol bgp {name} {{ local 192.0.2.2 as 65001; neighbor 192.0.2.{host} as 65001;
               rr client; rr cluster id 9.9.9.9; connect retry time 1; connect delay time 1;
               error wait time 1, 2; ipv4 {{ import all; export all; }}; }}"
        )
    };
    let text = "router id 192.0.2.2; protocol device {}".to_owned();
    let _bird = lab.bird_with(&(text + &client("p1", 1) + &client("p3", 3)))?;
    ip(&format!("-n {} addr add 192.0.2.3/24 dev eth0", lab.us))?;
    let clients = [1, 3].map(|host| -> Result<Ours> {
        let mut config = SpeakerConfig::new(65001, [192, 0, 2, host].into());
        let reflector = PeerConfig {
            remote_as: RemoteAs::Internal,
            source: Some([192, 0, 2, host].into()),
            ..them()
        };
        config.peers.insert("192.0.2.2".parse()?, reflector);
        let prefix = format!("10.{host}.0.0/24");
        Lab::speaker_in(&lab.us, &config, local_routes(&[&prefix], true)?)
    });
    let [first, third] = clients;
    let (first, third) = (first?, third?);
    for (client, other) in [(&first, 3), (&third, 1)] {
        let prefix = format!("10.{other}.0.0/24");
        let hop = client.learns(&prefix)?;
        let attrs = client.best(&prefix)?.attrs;
        ensure!(
            hop == format!("[192.0.2.{other}]")
                && attrs.originator_id == Some([192, 0, 2, other].into())
                && attrs.cluster_list == [std::net::Ipv4Addr::new(9, 9, 9, 9)],
            "{hop} {attrs:?}"
        );
    }
    third.originate(&["10.3.0.0/24"], false)?;
    first.loses("10.3.0.0/24")
}

#[test]
fn rfc8212_without_filters_nothing_goes_either_way() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird("")?;
    let ours = lab.speaker(&config(PeerConfig {
        import: FilterConfig::default(),
        export: FilterConfig::default(),
        ..them()
    }))?;
    ours.originate(&["198.51.100.0/24"], true)?;
    eventually(PATIENCE, "bird has sent all", || {
        let status = ours.status()?;
        let done = status
            .routes
            .iter()
            .all(|f| f.end_of_rib && f.received == 1);
        ensure!(done, "{status:?}");
        Ok(())
    })?;
    ensure!(ours.learnt()?.is_empty());
    let outcome = ours.best("10.1.0.0/24")?.outcome;
    ensure!(
        outcome.as_deref() == Some("refused by the import filter"),
        "{outcome:?}"
    );
    ensure!(ours.status()?.routes.iter().all(|f| f.advertised == 0));
    ensure!(!bird.ask("show route")?.contains("198.51.100.0/24"));
    Ok(())
}

#[test]
fn rfc4271_5_1_3_next_hops_are_ours_or_kept_as_the_peer_is_to_be_told() -> Result<()> {
    let route = "show route all 10.3.0.0/24";
    for (asn, usual, changed) in [
        (65002, "192.0.2.1", "192.0.2.3"),
        (65001, "192.0.2.3", "192.0.2.1"),
    ] {
        let lab = Lab::new()?;
        let bird = lab.bird_with(&bird(asn, "65001", "", ""))?;
        let mut config = config(PeerConfig {
            remote_as: asn.into(),
            ..them()
        });
        let third: std::net::IpAddr = [192, 0, 2, 3].into();
        let source = PeerConfig {
            remote_as: RemoteAs::External,
            passive: true,
            ..them()
        };
        config.peers.insert(third.into(), source);
        let mut ours = lab.speaker(&config)?;
        // In our namespace, for BIRD takes no address of its own for a next hop.
        let _source = lab.source(&lab.us, 3, 1, &["10.3.0.0/24"])?;
        bird.shows(route, &format!("BGP.next_hop: {usual}"))?;
        for peer in config.peers.values_mut() {
            (peer.next_hop_keep, peer.next_hop_self) = (asn == 65002, asn == 65001);
        }
        ours.runtime.block_on(ours.speaker.configure(config))?;
        bird.shows(route, &format!("BGP.next_hop: {changed}"))?;
        let all = ours.runtime.block_on(ours.speaker.status())?;
        ensure!(all.iter().all(|p| p.established_count == 1), "{all:?}");
    }
    Ok(())
}
