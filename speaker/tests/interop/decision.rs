//! The decision process beside BIRD's and FRR's, as root in namespaces of their own. Five peers tell us
//! and the router the same, each prefix decided by another step (RFC 4271 section 9.1.2.2, RFC 4456
//! section 9); both have to choose alike.
//!
//! ```text
//!   us 192.0.2.1, AS 65001 ---+--- 192.0.2.2, AS 65001  the router
//!                             +--- 192.0.2.3 and .4, AS 65003; .5, AS 65005; .6 and .7, AS 65001
//! ```
//! Two paths of equal length by different AS share the traffic with as-path relax and not without, in
//! FRR as here.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    thread,
};

use crate::{
    frr::Frr,
    raw::RawPeer,
    support::{Lab, Ours, PATIENCE, ip},
};
use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use margay_bgp::{
    prefix::Ipv4Prefix,
    wire::{AsPath, MAX_LEN, Origin, PathAttrs, update_encode::announce_v4},
};
use margay_lab::eventually;
use margay_speaker::{FilterConfig, MultipathConfig, PeerConfig, RouteSource, SpeakerConfig};
use nix::sched::{CloneFlags, setns};

const HOSTS: [(u8, u32); 5] = [(3, 65003), (4, 65003), (5, 65005), (6, 65001), (7, 65001)];

/// A path of a prefix: who tells it, and with what.
type Told = (u8, PathAttrs);

/// What a peer tells when nothing is special.
fn plain(host: u8, beyond: &[u32]) -> Told {
    let asn = asn(host);
    let internal = asn == 65001;
    let path: Vec<u32> = match internal {
        true => [&[65009], beyond].concat(),
        false => [&[asn], beyond].concat(),
    };
    let attrs = PathAttrs {
        origin: Origin::Igp,
        as_path: AsPath::sequence(&path),
        next_hop: Some(Ipv4Addr::new(192, 0, 2, host)),
        local_pref: internal.then_some(100),
        ..PathAttrs::default()
    };
    (host, attrs)
}

fn asn(host: u8) -> u32 {
    HOSTS.iter().find(|(h, _)| *h == host).map_or(0, |h| h.1)
}

fn with(host: u8, change: impl FnOnce(&mut PathAttrs)) -> Told {
    let (host, mut attrs) = plain(host, &[]);
    change(&mut attrs);
    (host, attrs)
}

fn reflected(host: u8, originator: u8, clusters: u8) -> Told {
    with(host, |a| {
        a.originator_id = Some(Ipv4Addr::new(10, 0, 0, originator));
        a.cluster_list = (0..clusters).map(|n| [10, 1, 1, n + 1].into()).collect();
    })
}

/// Each step, with the host whose path is the best.
fn cases() -> Vec<(&'static str, u8, Vec<Told>)> {
    let med = |host, med| with(host, |a| a.med = med);
    let preferred = with(7, |a| a.local_pref = Some(200));
    let incomplete = with(3, |a| a.origin = Origin::Incomplete);
    let egp = with(3, |a| a.origin = Origin::Egp);
    vec![
        ("the higher LOCAL_PREF", 7, vec![plain(3, &[]), preferred]),
        (
            "the shorter AS_PATH",
            5,
            vec![plain(3, &[65100]), plain(5, &[])],
        ),
        (
            "IGP before INCOMPLETE",
            5,
            vec![incomplete.clone(), plain(5, &[])],
        ),
        (
            "EGP before INCOMPLETE",
            3,
            vec![egp, with(5, |a| a.origin = Origin::Incomplete)],
        ),
        (
            "the lower MED of one AS",
            4,
            vec![med(3, Some(10)), med(4, Some(5))],
        ),
        ("no MED as 0", 4, vec![med(3, Some(10)), med(4, None)]),
        (
            "no MED of different AS",
            3,
            vec![med(3, Some(10)), med(5, Some(1))],
        ),
        (
            "MED of one AS before others take part",
            4,
            vec![med(3, Some(10)), med(5, Some(1)), med(4, Some(5))],
        ),
        (
            "external before internal",
            5,
            vec![plain(5, &[]), plain(6, &[])],
        ),
        (
            "the lower identifier",
            3,
            vec![plain(4, &[]), plain(3, &[])],
        ),
        (
            "ORIGINATOR_ID as identifier",
            7,
            vec![reflected(6, 9, 1), reflected(7, 1, 1)],
        ),
        (
            "the shorter CLUSTER_LIST",
            7,
            vec![reflected(6, 9, 2), reflected(7, 9, 1)],
        ),
        (
            "the lower address",
            6,
            vec![reflected(7, 9, 1), reflected(6, 9, 1)],
        ),
    ]
}

fn prefix(case: usize) -> Result<Ipv4Prefix> {
    let case = u8::try_from(case)?;
    Ok(format!("10.9.{case}.0/24").parse()?)
}

/// The peers, with a session with us and one with the router each; `tell` is what they say, by prefix.
fn peers(lab: &Lab, tell: Vec<(Ipv4Prefix, Vec<Told>)>) -> Result<Vec<RawPeer>> {
    let ns = std::fs::File::open(format!("/run/netns/{}", lab.us))?;
    let all = thread::spawn(move || {
        setns(ns, CloneFlags::CLONE_NEWNET)?;
        let mut all = Vec::new();
        for (host, asn) in HOSTS {
            for to in [1, 2] {
                let (local, to) = ([192, 0, 2, host].into(), ([192, 0, 2, to], 179).into());
                let mut peer = eventually(PATIENCE, "a session", || {
                    RawPeer::establish(local, to, asn, false)
                })?;
                for (prefix, told) in &tell {
                    for (_, attrs) in told.iter().filter(|(by, _)| *by == host) {
                        let (mut encoded, mut out) = (BytesMut::new(), BytesMut::new());
                        attrs.encode(true, &mut encoded);
                        announce_v4(&encoded, [*prefix], MAX_LEN, &mut out)?;
                        peer.send(&out)?;
                    }
                }
                all.push(peer);
            }
        }
        anyhow::Ok(all)
    });
    all.join().ok().context("the peers panicked")?
}

/// With the peers on our side of the link: next hops on its own side a router takes for its own.
fn lab() -> Result<Lab> {
    let lab = Lab::new()?;
    for (host, _) in HOSTS {
        ip(&format!(
            "-n {} addr add 192.0.2.{host}/24 dev eth0",
            lab.us
        ))?;
    }
    Ok(lab)
}

fn config(as_path_relax: bool) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(65001, [192, 0, 2, 1].into());
    config.listen.insert(([0, 0, 0, 0], 179).into());
    config.multipath = MultipathConfig {
        max_paths: 8,
        as_path_relax,
    };
    for (host, asn) in HOSTS {
        let peer = PeerConfig {
            passive: true,
            import: FilterConfig::accept_all(),
            ..PeerConfig::new(asn)
        };
        let key = IpAddr::from([192, 0, 2, host]).into();
        config.peers.insert(key, peer);
    }
    config
}

/// Whose path is the best here, once all are known.
fn chosen(ours: &Ours, prefix: Ipv4Prefix, paths: usize) -> Result<u8> {
    let known = ours.paths(&prefix.to_string())?;
    ensure!(known.len() == paths, "{known:?}");
    let Some(RouteSource::Peer(key)) = known.first().and_then(|path| path.source) else {
        bail!("no peer: {known:?}");
    };
    match key.addr {
        IpAddr::V4(addr) => Ok(addr.octets()[3]),
        IpAddr::V6(other) => bail!("{other}"),
    }
}

/// We choose what has to be chosen, and the router, asked by `theirs`, the same.
fn all_agree(lab: &Lab, theirs: impl Fn() -> Result<BTreeMap<String, (u8, usize)>>) -> Result<()> {
    let ours = lab.speaker(&config(true))?;
    let cases = cases();
    let tell = cases.iter().enumerate();
    let tell = tell.map(|(n, (_, _, told))| Ok((prefix(n)?, told.clone())));
    let _peers = peers(lab, tell.collect::<Result<_>>()?)?;
    for (n, (what, expected, told)) in cases.iter().enumerate() {
        let prefix = prefix(n)?;
        eventually(PATIENCE, &format!("we have {what}"), || {
            let choice = chosen(&ours, prefix, told.len())?;
            ensure!(choice == *expected, "we chose {choice}");
            Ok(())
        })?;
        eventually(PATIENCE, &format!("the router has {what}"), || {
            let all = theirs()?;
            let (choice, paths) = all.get(&prefix.to_string()).copied().context("unknown")?;
            ensure!(paths == told.len(), "it knows {paths} paths");
            ensure!(choice == *expected, "{what}: it chose {choice}");
            Ok(())
        })?;
    }
    Ok(())
}

fn frr_config(more: &str) -> String {
    let neighbors = HOSTS.map(|(host, asn)| {
        format!(" neighbor 192.0.2.{host} remote-as {asn}\n neighbor 192.0.2.{host} passive\n")
    });
    format!(
        "router bgp 65001
 bgp router-id 192.0.2.2
 no bgp ebgp-requires-policy
 bgp bestpath compare-routerid
 bgp deterministic-med
{}{more}",
        neighbors.concat()
    )
}

/// What FRR knows of each prefix: whose path is the best, and how many there are.
fn frr_choices(frr: &Frr<'_>) -> Result<BTreeMap<String, (u8, usize)>> {
    let text = frr.ask("show bgp ipv4 unicast json")?;
    let all: serde_json::Value = serde_json::from_str(&text)?;
    let routes = all["routes"].as_object().context("no routes")?;
    let choice = |paths: &serde_json::Value| {
        let paths = paths.as_array()?;
        let best = paths.iter().find(|path| path["bestpath"] == true)?;
        let host = best["peerId"].as_str()?.rsplit('.').next()?.parse().ok()?;
        Some((host, paths.len()))
    };
    let known = routes
        .iter()
        .filter_map(|(prefix, paths)| Some((prefix.clone(), choice(paths)?)));
    Ok(known.collect())
}

#[test]
fn frr_chooses_as_we_do_in_every_step() -> Result<()> {
    let lab = lab()?;
    let frr = Frr::start(&lab, &frr_config(""))?;
    all_agree(&lab, || frr_choices(&frr))
}

#[test]
fn bird_chooses_as_we_do_in_every_step() -> Result<()> {
    let lab = lab()?;
    let session = |(host, asn): (u8, u32)| {
        format!(
            "protocol bgp p{host} {{ local 192.0.2.2 as 65001; neighbor 192.0.2.{host} as {asn};
               passive on; deterministic med on; ipv4 {{ import all; export none; }}; }}\n"
        )
    };
    let bird = lab.bird_with(&format!(
        "router id 192.0.2.2; protocol device {{}} protocol direct {{ ipv4; }} {}",
        HOSTS.map(session).concat()
    ))?;
    all_agree(&lab, || {
        let mut known = BTreeMap::<String, (u8, usize)>::new();
        let mut prefix = String::new();
        for line in bird.ask("show route")?.lines() {
            // "10.9.0.0/24  unicast [p7 20:00:00.000] * (100) [AS65009i]": of each prefix the first is the
            // best, and those that follow do not repeat it.
            let Some((before, after)) = line.split_once("unicast [p") else {
                continue;
            };
            if let Some(new) = before.split_whitespace().next() {
                prefix = new.to_owned();
            }
            let host = after.split_whitespace().next().context("no protocol")?;
            let entry = known.entry(prefix.clone()).or_insert((host.parse()?, 0));
            entry.1 += 1;
        }
        Ok(known)
    })
}

#[test]
fn paths_by_different_as_share_the_traffic_with_relax_and_not_without_as_in_frr() -> Result<()> {
    for (relax, line) in [
        (true, " bgp bestpath as-path multipath-relax\n"),
        (false, ""),
    ] {
        let lab = lab()?;
        let families = " address-family ipv4 unicast\n  maximum-paths 8\n exit-address-family\n";
        let frr = Frr::start(&lab, &frr_config(&format!("{line}{families}")))?;
        let ours = lab.speaker(&config(relax))?;
        let told = vec![plain(3, &[65100]), plain(5, &[65100])];
        let _peers = peers(&lab, vec![(prefix(0)?, told)])?;
        eventually(PATIENCE, "both paths are known", || {
            chosen(&ours, prefix(0)?, 2)
        })?;
        let used = ours
            .paths("10.9.0.0/24")?
            .iter()
            .filter(|p| p.multipath)
            .count();
        ensure!(
            used == usize::from(relax),
            "{used} more paths with relax {relax}"
        );
        eventually(
            PATIENCE,
            &format!("FRR does the same, relax {relax}"),
            || {
                let text = frr.ask("show bgp ipv4 unicast 10.9.0.0/24 json")?;
                let route: serde_json::Value = serde_json::from_str(&text)?;
                let paths = route["paths"].as_array().context("no paths")?;
                ensure!(paths.len() == 2, "{text}");
                let shared = paths
                    .iter()
                    .filter(|path| path["multipath"] == true)
                    .count();
                ensure!(shared == if relax { 2 } else { 0 }, "{text}");
                Ok(())
            },
        )?;
    }
    Ok(())
}
