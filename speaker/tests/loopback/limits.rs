//! What strangers and hasty peers can do.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::Result;
use margay_lab::free_port;
use margay_speaker::{
    ConnectionLimit, FilterConfig, PeerConfig, PeerKey, Speaker, SpeakerConfig, Ttl,
};
use tokio::runtime::Runtime;

use crate::raw::{RawPeer, connect};

/// A speaker on loopback, and what drives it.
pub(crate) struct Ours {
    pub(crate) speaker: Speaker,
    pub(crate) runtime: Runtime,
    pub(crate) at: SocketAddr,
    pub(crate) config: SpeakerConfig,
}

/// The address of a peer.
pub(crate) const fn host(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, n)
}

/// AS 65000 with passive peers in AS 65000 + n at 127.0.0.n, everything allowed.
pub(crate) fn speaker(peers: &[u8]) -> Result<Ours> {
    let at = SocketAddr::new(host(1).into(), free_port()?);
    let mut config = SpeakerConfig::new(65000, Ipv4Addr::new(192, 0, 2, 1));
    config.listen.insert(at);
    config.peers = peers
        .iter()
        .map(|&n| {
            let peer = PeerConfig {
                passive: true,
                ttl: Ttl::Multihop,
                import: FilterConfig::accept_all(),
                export: FilterConfig::accept_all(),
                next_hop_v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
                ..PeerConfig::new(asn(n))
            };
            (PeerKey::from(IpAddr::V4(host(n))), peer)
        })
        .collect::<BTreeMap<_, _>>();
    let (speaker, fib) = Speaker::spawn(config.clone())?;
    drop(fib);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    Ok(Ours {
        speaker,
        runtime,
        at,
        config,
    })
}

pub(crate) fn asn(n: u8) -> u32 {
    65000 + u32::from(n)
}

impl Ours {
    pub(crate) fn peer(&self, n: u8) -> Result<RawPeer> {
        RawPeer::establish(host(n), self.at, asn(n), false)
    }
}

/// Whether the speaker answers with an OPEN, rather than closing.
fn greets(from: u8, at: SocketAddr) -> Result<bool> {
    let mut stream = connect(host(from), at, false)?;
    let mut first = [0];
    match stream.read(&mut first) {
        Ok(n) => Ok(n > 0),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[test]
fn an_address_that_connects_too_often_is_turned_away_and_others_are_not() -> Result<()> {
    let mut ours = speaker(&[2, 3])?;
    ours.config.connection_limit = ConnectionLimit {
        burst: 5,
        per_second: 1,
    };
    let config = ours.config.clone();
    ours.runtime.block_on(ours.speaker.configure(config))?;
    let start = std::time::Instant::now();
    let greeted = (0..40)
        .map(|_| greets(2, ours.at))
        .collect::<Result<Vec<_>>>()?;
    let greeted = greeted.into_iter().filter(|greeted| *greeted).count();
    let allowed = 6 + usize::try_from(start.elapsed().as_secs())?;
    assert!((1..=allowed).contains(&greeted), "{greeted} of {allowed}");
    let mut quiet = ours.peer(3)?;
    quiet.send(&quiet.announcement(0..1, 1)?)?;
    let totals = ours.runtime.block_on(ours.speaker.queries().totals())?;
    assert_eq!(totals.connections_refused, 40 - u64::try_from(greeted)?);
    Ok(())
}

#[test]
fn a_stranger_is_not_answered() -> Result<()> {
    let ours = speaker(&[2])?;
    assert!(!greets(9, ours.at)?);
    assert!(greets(2, ours.at)?);
    Ok(())
}
