//! Dynamic neighbours against BIRD, as root in namespaces of their own. The configuration names no
//! peer but a range of addresses with room for one, of any external AS, with a TCP MD5 key.
//!
//! 1. BIRD connects from the range and becomes a peer; routes go both ways.
//! 2. While it is there, another router from the range is refused.
//! 3. Once BIRD is gone it is forgotten, and the other router has its place.
//! 4. With more room both are peers, and a change of what they are takes effect without a reset.

use anyhow::{Result, ensure};
use margay_lab::eventually;
use margay_speaker::{
    DynamicPeers, FilterConfig, PeerConfig, PeerStatus, RemoteAs, Secret, SpeakerConfig, State,
};

use crate::support::{Lab, Ours, PATIENCE, them};

const KEY: &str = "a key for all";

fn range(limit: u32, import: FilterConfig) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(65001, [192, 0, 2, 1].into());
    config.listen.insert(([0, 0, 0, 0], 179).into());
    let prefix = "192.0.2.0/28".parse().expect("it is a prefix");
    let peer = PeerConfig {
        remote_as: RemoteAs::External,
        password: Some(Secret::new(KEY.to_owned())),
        import,
        ..them()
    };
    config.dynamic.push(DynamicPeers {
        prefix,
        limit,
        peer,
    });
    config
}

/// Waits until just these are peers with sessions.
fn has_peers(ours: &Ours, addresses: &[&str]) -> Result<Vec<PeerStatus>> {
    eventually(PATIENCE, &format!("{addresses:?} are the peers"), || {
        let all = ours.runtime.block_on(ours.speaker.status())?;
        let up = all.iter().filter(|p| p.state == State::Established);
        let up: Vec<_> = up.map(|p| p.key.to_string()).collect();
        ensure!(up == addresses && all.len() == up.len(), "{all:?}");
        Ok(all)
    })
}

#[test]
fn whoever_connects_from_the_range_is_a_peer_until_it_is_gone() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird(&format!("password \"{KEY}\";"))?;
    let mut ours = lab.speaker(&range(1, FilterConfig::accept_all()))?;
    ours.originate(&["198.51.100.0/24"], true)?;
    let peers = has_peers(&ours, &["192.0.2.2"])?;
    let peer = (peers[0].name.as_str(), peers[0].remote_as);
    ensure!(peer == ("192.0.2.0/28", 65002), "{peers:?}");
    ours.learns("10.1.0.0/24")?;
    bird.shows("show route", "198.51.100.0/24")?;

    let other = lab.source_with(&lab.them, 3, 1, &["10.3.0.0/24"], Some(KEY))?;
    eventually(PATIENCE, "the other router is turned away", || {
        let status = other.status()?;
        ensure!(status.last_error.is_some(), "{status:?}");
        Ok(())
    })?;
    has_peers(&ours, &["192.0.2.2"])?;

    bird.ask("disable p1")?;
    ours.learns("10.3.0.0/24")?;
    ours.loses("10.1.0.0/24")?;
    has_peers(&ours, &["192.0.2.3"])?;

    let narrow = FilterConfig::accept_within(["10.1.0.0/16".parse()?]);
    ours.runtime
        .block_on(ours.speaker.configure(range(2, narrow)))?;
    bird.ask("enable p1")?;
    ours.learns("10.1.0.0/24")?;
    ours.loses("10.3.0.0/24")?;
    let peers = has_peers(&ours, &["192.0.2.2", "192.0.2.3"])?;
    ensure!(peers.iter().all(|p| p.established_count == 1), "{peers:?}");

    let nobody = SpeakerConfig {
        dynamic: Vec::new(),
        ..range(1, FilterConfig::accept_all())
    };
    ours.runtime.block_on(ours.speaker.configure(nobody))?;
    has_peers(&ours, &[])?;
    Ok(())
}
