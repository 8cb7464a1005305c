//! Another speaker goes on where one was, and the peers, played by the test, see every octet.

use std::{
    io::Read,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use margay_speaker::{
    Handover, LocalAction, LocalAttrs, LocalRouteChange, PeerStatus, RouteQuery, Speaker,
    SpeakerConfig, State, TookOver,
};

use crate::limits::{Ours, host, speaker};
use crate::raw::{PATIENCE, RawPeer, connect, prefix};

/// Local routes with attributes of their own, and many octets of them.
fn routes(which: Range<u32>, med: u32) -> Vec<LocalRouteChange> {
    let route = |n| {
        let attrs = LocalAttrs {
            med: Some(med),
            communities: (0..60)
                .map(|c| (65000 << 16) | ((c + n) % 60_000))
                .collect(),
            ..LocalAttrs::default()
        };
        Some(LocalRouteChange {
            prefix: prefix(n)?.into(),
            action: LocalAction::Announce(attrs),
        })
    };
    which.filter_map(route).collect()
}

impl Ours {
    /// What the speaker leaves, with which it is gone.
    fn leave(&mut self) -> Result<Handover> {
        let placeholder = speaker(&[])?.speaker;
        let old = std::mem::replace(&mut self.speaker, placeholder);
        Ok(self.runtime.block_on(old.hand_over())?)
    }

    fn go_on(&mut self, left: Handover, routes: Vec<LocalRouteChange>) -> Result<()> {
        self.start(&self.config.clone(), left, routes)
    }

    fn start(
        &mut self,
        config: &SpeakerConfig,
        left: Handover,
        routes: Vec<LocalRouteChange>,
    ) -> Result<()> {
        let (speaker, fib) = Speaker::spawn_from(config.clone(), routes, Some(left))?;
        drop(fib);
        self.speaker = speaker;
        Ok(())
    }

    fn status(&self) -> Result<PeerStatus> {
        let all = self.runtime.block_on(self.speaker.status())?;
        all.into_iter().next().context("no peer")
    }

    /// Waits until the peer has told so many routes.
    fn holds(&self, count: u32) -> Result<PeerStatus> {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status()?;
            if status.routes[0].received == count {
                return Ok(status);
            }
            ensure!(Instant::now() < end, "{count} routes expected: {status:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// One peer that has sent 100 routes and was told of 10, with whom all is said.
fn settled() -> Result<(Ours, RawPeer)> {
    let ours = speaker(&[2])?;
    ours.runtime
        .block_on(ours.speaker.originate(routes(1000..1010, 1)))?;
    let mut peer = ours.peer(2)?;
    peer.send(&peer.announcement(0..100, 1)?)?;
    peer.hears("ten routes", |told| told.len() == 10)?;
    // End-of-RIB.
    ensure!(peer.message()?.body[..] == [0; 4], "something else");
    ours.holds(100)?;
    Ok((ours, peer))
}

#[test]
fn a_message_may_come_in_two_halves_to_two_speakers() -> Result<()> {
    let (mut ours, mut peer) = settled()?;
    let before = ours.status()?;
    let more = peer.announcement(100..300, 1)?;
    let (first, second) = more.split_at(more.len() / 2 + 5);
    peer.send(first)?;
    // It is read, or in the socket, or in between.
    let left = ours.leave()?;
    peer.send(&second[..7])?;
    ours.go_on(left, routes(1000..1010, 1))?;
    let took = ours.speaker.took_over();
    let all =
        matches!(took, Some(TookOver::Sessions { kept: 1, lost: 0, pause }) if pause < PATIENCE);
    ensure!(all, "{took:?}");
    peer.send(&second[7..])?;
    let status = ours.holds(300)?;
    ensure!(status.established_count == 1, "{status:?}");
    ensure!(status.since == before.since, "{status:?}");
    ensure!(status.uptime >= before.uptime, "{status:?}");
    ensure!(
        status.octets_received > before.octets_received,
        "{status:?}"
    );
    // The first thing that it hears is news.
    let mut told = peer.told.len();
    ours.runtime
        .block_on(ours.speaker.originate(routes(2000..2001, 1)))?;
    let message = peer.message()?;
    told += 1;
    peer.take(&message)?;
    ensure!(peer.told.len() == told, "{message:?}");
    Ok(())
}

#[test]
fn what_a_slow_peer_has_not_read_comes_whole_and_in_order() -> Result<()> {
    let mut ours = speaker(&[2])?;
    let mut peer = RawPeer::establish(host(2), ours.at, 65002, true)?;
    // Far more than the kernel holds for a connection.
    let originate = ours.speaker.originate(routes(0..30_000, 1));
    ours.runtime.block_on(originate)?;
    // Not all at once, so that something of every kind is on its way.
    for round in 2..5 {
        let left = ours.leave()?;
        ours.go_on(left, routes(0..30_000, round))?;
        peer.hears("some", |told| told.len() >= 3000 * round as usize)?;
    }
    let left = ours.leave()?;
    let mut last = routes(0..20_000, 4);
    last.extend(routes(40_000..40_100, 9));
    ours.go_on(left, last)?;
    peer.hears("the last state", |told| {
        told.len() == 20_100 && told.values().all(|med| matches!(med, Some(4 | 9)))
    })?;
    let status = ours.status()?;
    ensure!(status.established_count == 1, "{status:?}");
    ensure!(status.routes[0].advertised == 20_100, "{status:?}");
    Ok(())
}

#[test]
fn who_connects_meanwhile_waits_and_is_greeted() -> Result<()> {
    let (mut ours, _peer) = settled()?;
    let left = ours.leave()?;
    let key = std::net::IpAddr::V4(host(3)).into();
    let mut config = ours.config.clone();
    let (_, second) = config.peers.first_key_value().context("a peer")?;
    config.peers.insert(
        key,
        margay_speaker::PeerConfig {
            name: "late".to_owned(),
            remote_as: margay_speaker::PeerConfig::new(65003).remote_as,
            ..second.clone()
        },
    );
    let mut early = connect(host(3), ours.at, false)?;
    ours.start(&config, left, routes(1000..1010, 1))?;
    early.read_exact(&mut [0; 19])?;
    Ok(())
}

/// The session that was there ends, and another one can begin.
fn starts_anew(ours: &Ours, mut old: RawPeer) -> Result<()> {
    ensure!(old.message().is_err(), "the connection lives");
    let mut peer = ours.peer(2)?;
    peer.send(&peer.announcement(0..3, 1)?)?;
    peer.hears("ten routes", |told| told.len() == 10)?;
    let status = ours.holds(3)?;
    ensure!(status.state == State::Established, "{status:?}");
    Ok(())
}

#[test]
fn a_state_that_is_damaged_costs_the_sessions_and_nothing_else() -> Result<()> {
    let (mut ours, peer) = settled()?;
    let mut left = ours.leave()?;
    let middle = left.state.len() / 2;
    left.state[middle] ^= 1;
    ours.go_on(left, routes(1000..1010, 1))?;
    starts_anew(&ours, peer)
}

#[test]
fn a_state_without_sockets_is_of_no_use() -> Result<()> {
    let (mut ours, peer) = settled()?;
    let mut left = ours.leave()?;
    left.sockets.clear();
    ours.go_on(left, routes(1000..1010, 1))?;
    starts_anew(&ours, peer)
}

#[test]
fn a_session_whose_settings_changed_starts_anew() -> Result<()> {
    let (mut ours, peer) = settled()?;
    let left = ours.leave()?;
    for peer in ours.config.peers.values_mut() {
        peer.hold_time_secs = 30;
    }
    ours.go_on(left, routes(1000..1010, 1))?;
    starts_anew(&ours, peer)
}

#[test]
fn what_the_filters_say_now_counts() -> Result<()> {
    let (mut ours, mut peer) = settled()?;
    let left = ours.leave()?;
    for peer in ours.config.peers.values_mut() {
        peer.export =
            margay_speaker::FilterConfig::accept_within([prefix(1003).context("a prefix")?.into()]);
        peer.import = margay_speaker::FilterConfig::default();
    }
    ours.go_on(left, routes(1000..1010, 1))?;
    peer.hears("nine withdrawals", |told| told.len() == 1)?;
    let best = ours
        .runtime
        .block_on(ours.speaker.routes(RouteQuery::Best))?;
    ensure!(best.len() == 10, "its routes are refused: {best:?}");
    ensure!(ours.status()?.routes[0].received == 100, "but kept");
    Ok(())
}

#[test]
fn nothing_is_left_to_nobody() -> Result<()> {
    let (mut ours, mut peer) = settled()?;
    drop(ours.leave()?);
    ensure!(peer.message().is_err(), "the connection lives");
    Ok(())
}
