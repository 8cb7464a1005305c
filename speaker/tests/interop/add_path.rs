//! Several paths of a prefix (RFC 7911) against BIRD, FRR and GoBGP, as root in namespaces of their
//! own. Two further routers, of AS 65003 and 65004, announce the same prefix:
//!
//! ```text
//!   1. we send:      65003, 65004 -> us -> router      (both on the router's side of the link)
//!   2. we receive:   65003, 65004 -> router -> us      (both on our side)
//! ```
//!
//! 1. The router knows both paths, and the one that goes is withdrawn by its identifier.
//! 2. We know both paths by their identifiers, use both, and lose the one that goes.

use anyhow::{Result, ensure};
use margay_lab::eventually;
use margay_speaker::{AddPathConfig, FilterConfig, PathLimit, PeerConfig, SpeakerConfig};

use crate::{
    frr::Frr,
    gobgp::Gobgp,
    support::{Lab, Ours, PATIENCE, config, them},
};

const PREFIX: &str = "10.2.0.0/24";

/// Us with the router, all of whose paths we take, and who is sent all of ours.
fn several() -> SpeakerConfig {
    let add_path = AddPathConfig {
        receive: true,
        send: Some(PathLimit::All),
    };
    let mut config = config(PeerConfig { add_path, ..them() });
    for asn in [65003, 65004] {
        let peer = PeerConfig {
            import: FilterConfig::accept_all(),
            passive: true,
            ..PeerConfig::new(asn)
        };
        let host = u8::try_from(asn - 65000).unwrap_or(0);
        let key = std::net::IpAddr::from([192, 0, 2, host]).into();
        config.peers.insert(key, peer);
    }
    config
}

fn sources(lab: &Lab, at: &str, to: u8) -> Result<[Ours; 2]> {
    Ok([
        lab.source(at, 3, to, &[PREFIX])?,
        lab.source(at, 4, to, &[PREFIX])?,
    ])
}

/// We know so many paths of the prefix, each with an identifier of its own, and FIB next hops of all.
fn knows(ours: &Ours, count: usize) -> Result<()> {
    eventually(PATIENCE, &format!("{count} paths are known"), || {
        let paths = ours.paths(PREFIX)?;
        let mut ids: Vec<_> = paths.iter().filter_map(|path| path.path_id).collect();
        ids.sort_unstable();
        ids.dedup();
        ensure!(paths.len() == count && ids.len() == count, "{paths:?}");
        let used = paths.iter().filter(|path| path.multipath).count();
        ensure!(used + 1 == count, "{paths:?}");
        Ok(())
    })
}

/// The paths come, and one goes.
fn are_received(ours: &Ours, sources: &[Ours; 2]) -> Result<()> {
    knows(ours, 2)?;
    sources[1].originate(&[PREFIX], false)?;
    knows(ours, 1)?;
    let left = ours.best(PREFIX)?;
    ensure!(left.attrs.as_path.to_string() == "65002 65003", "{left:?}");
    sources[1].originate(&[PREFIX], true)?;
    knows(ours, 2)
}

#[test]
fn bird_is_sent_several_paths() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird_with(
        "router id 192.0.2.2;
         protocol device {}
         protocol bgp p1 { local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001;
           connect retry time 1; connect delay time 1; error wait time 1, 2;
           ipv4 { add paths rx; import all; export none; }; }",
    )?;
    let ours = lab.speaker(&several())?;
    let sources = sources(&lab, &lab.them, 1)?;
    let command = "show route all 10.2.0.0/24";
    bird.shows(command, "BGP.as_path: 65001 65003")?;
    bird.shows(command, "BGP.as_path: 65001 65004")?;
    sources[0].originate(&[PREFIX], false)?;
    bird.shows_no(command, "BGP.as_path: 65001 65003")?;
    ensure!(bird.ask(command)?.contains("BGP.as_path: 65001 65004"));
    drop(ours);
    Ok(())
}

#[test]
fn bird_sends_several_paths() -> Result<()> {
    let lab = Lab::new()?;
    let session = |name: &str, host: u8, ipv4: &str| {
        format!(
            "protocol bgp {name} {{ local 192.0.2.2 as 65002; neighbor 192.0.2.{host} as {};
               connect retry time 1; connect delay time 1; error wait time 1, 2;
               ipv4 {{ {ipv4} }}; }}",
            65000 + u32::from(host)
        )
    };
    let _bird = lab.bird_with(&format!(
        "router id 192.0.2.2; protocol device {{}} {} {} {}",
        session("p1", 1, "add paths tx; import none; export all;"),
        session("p3", 3, "import all; export none;"),
        session("p4", 4, "import all; export none;"),
    ))?;
    let ours = lab.speaker(&several())?;
    are_received(&ours, &sources(&lab, &lab.us, 2)?)
}

/// FRR with a neighbour for each of `hosts`; `more` is about the first in IPv4.
fn frr_config(hosts: &[u8], more: &str) -> String {
    let neighbors = hosts.iter().map(|host| {
        format!(
            " neighbor 192.0.2.{host} remote-as {}
 neighbor 192.0.2.{host} timers 3 9
 neighbor 192.0.2.{host} timers connect 1
",
            65000 + u32::from(*host)
        )
    });
    format!(
        "router bgp 65002
 bgp router-id 192.0.2.2
 no bgp ebgp-requires-policy
 no bgp network import-check
{} address-family ipv4 unicast
  {more}
 exit-address-family
",
        neighbors.collect::<String>()
    )
}

#[test]
fn frr_is_sent_several_paths() -> Result<()> {
    let lab = Lab::new()?;
    // FRR takes several paths unless told otherwise.
    let frr = Frr::start(&lab, &frr_config(&[1], ""))?;
    let ours = lab.speaker(&several())?;
    let sources = sources(&lab, &lab.them, 1)?;
    let command = "show bgp ipv4 unicast 10.2.0.0/24";
    frr.shows(command, "65001 65003", true)?;
    frr.shows(command, "65001 65004", true)?;
    sources[0].originate(&[PREFIX], false)?;
    frr.shows(command, "65001 65003", false)?;
    ensure!(frr.ask(command)?.contains("65001 65004"));
    drop(ours);
    Ok(())
}

#[test]
fn frr_sends_several_paths() -> Result<()> {
    let lab = Lab::new()?;
    let all = "neighbor 192.0.2.1 addpath-tx-all-paths";
    let _frr = Frr::start(&lab, &frr_config(&[1, 3, 4], all))?;
    let ours = lab.speaker(&several())?;
    are_received(&ours, &sources(&lab, &lab.us, 2)?)
}

#[test]
fn gobgp_is_sent_several_paths() -> Result<()> {
    let lab = Lab::new()?;
    let gobgp = Gobgp::start(&lab, "[neighbors.add-paths.config]\nreceive = true\n")?;
    let ours = lab.speaker(&several())?;
    let sources = sources(&lab, &lab.them, 1)?;
    gobgp.shows("global rib 10.2.0.0/24", "65001 65003", true)?;
    gobgp.shows("global rib 10.2.0.0/24", "65001 65004", true)?;
    sources[0].originate(&[PREFIX], false)?;
    gobgp.shows("global rib 10.2.0.0/24", "65001 65003", false)?;
    gobgp.shows("global rib 10.2.0.0/24", "65001 65004", true)?;
    drop(ours);
    Ok(())
}
