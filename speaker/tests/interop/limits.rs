//! What a peer may and may not, against BIRD, as root in namespaces of their own.
//!
//! 1. A peer that sends too many prefixes is cut off and gets another chance (RFC 4486).
//! 2. A changed TCP MD5 key costs the one session and no other (RFC 2385).
//! 3. Only the addresses that are named take connections, and a change of them costs no session.
//! 4. A peer without GTSM is not heard where we demand it (RFC 5082).

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use margay_lab::eventually;
use margay_speaker::{
    MaxPrefixesAction, PeerConfig, PeerStatus, Secret, SpeakerConfig, State, Ttl,
};
use nix::sched::{CloneFlags, setns};

use crate::support::{Lab, Ours, PATIENCE, config, ip, them};

#[test]
fn rfc4486_too_many_prefixes_end_the_session_and_it_gets_another_chance() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird("")?;
    let mut limited = config(PeerConfig {
        max_prefixes: Some(1),
        max_prefixes_action: MaxPrefixesAction::Restart,
        ..them()
    });
    let ours = lab.speaker(&limited)?;
    ours.learns("10.1.0.0/24")?;
    let more = "protocol static more { ipv4; route 10.5.0.0/24 blackhole; }";
    let conf = lab.dir.path().join("bird.conf");
    let text = std::fs::read_to_string(&conf)?;
    std::fs::write(&conf, format!("{text}\n{more}"))?;
    bird.ask("configure")?;
    eventually(PATIENCE, "the session ended and began again", || {
        let status = ours.status()?;
        let told = status.last_error.clone().unwrap_or_default();
        ensure!(told.contains("maximum number of prefixes"), "{told}");
        ensure!(status.established_count > 1, "{status:?}");
        Ok(())
    })?;
    bird.shows(
        "show protocols all p1",
        "Maximum number of prefixes reached",
    )?;
    for peer in limited.peers.values_mut() {
        peer.max_prefixes = Some(2);
    }
    let mut ours = ours;
    ours.runtime.block_on(ours.speaker.configure(limited))?;
    ours.learns("10.5.0.0/24").map(drop)
}

fn peer(ours: &Ours, addr: &str) -> Result<PeerStatus> {
    let all = ours.runtime.block_on(ours.speaker.status())?;
    let mut all = all.into_iter();
    all.find(|p| p.key.to_string() == addr)
        .context("no such peer")
}

fn is_up(ours: &Ours, addr: &str) -> Result<PeerStatus> {
    eventually(PATIENCE, &format!("the session with {addr} is up"), || {
        let status = peer(ours, addr)?;
        ensure!(status.state == State::Established, "{status:?}");
        Ok(status)
    })
}

#[test]
fn rfc2385_a_changed_key_costs_one_session_and_no_other() -> Result<()> {
    let lab = Lab::new()?;
    let text = |key: &str| {
        format!(
            "router id 192.0.2.2; protocol device {{}}
             protocol bgp p1 {{ local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001;
               connect retry time 1; connect delay time 1; error wait time 1, 2;
               password \"{key}\"; ipv4 {{ import all; export none; }}; }}"
        )
    };
    let ours = |key: &str| -> Result<SpeakerConfig> {
        let with = |key: &str| PeerConfig {
            password: Some(Secret::new(key.to_owned())),
            ..them()
        };
        let mut config = config(with(key));
        let another = PeerConfig {
            remote_as: 65003.into(),
            ..with("another")
        };
        config.peers.insert("192.0.2.3".parse()?, another);
        Ok(config)
    };
    let bird = lab.bird_with(&text("old"))?;
    let mut speaker = lab.speaker(&ours("old")?)?;
    let _another = lab.source_with(&lab.them, 3, 1, &[], Some("another"))?;
    is_up(&speaker, "192.0.2.2")?;
    is_up(&speaker, "192.0.2.3")?;
    std::fs::write(lab.dir.path().join("bird.conf"), text("new"))?;
    bird.ask("configure")?;
    let new = ours("new")?;
    speaker.runtime.block_on(speaker.speaker.configure(new))?;
    eventually(PATIENCE, "the session came back", || {
        let status = peer(&speaker, "192.0.2.2")?;
        ensure!(status.state == State::Established, "{status:?}");
        ensure!(status.established_count >= 2, "{status:?}");
        Ok(())
    })?;
    let other = is_up(&speaker, "192.0.2.3")?;
    ensure!(other.established_count == 1, "{other:?}");
    bird.shows("show protocols p1", "Established")
}

/// Whether a connection from their side is taken.
fn is_open(lab: &Lab, to: &str) -> Result<bool> {
    let ns = std::fs::File::open(format!("/run/netns/{}", lab.them))?;
    let to: SocketAddr = to.parse()?;
    let attempt = std::thread::spawn(move || -> Result<bool> {
        setns(ns, CloneFlags::CLONE_NEWNET)?;
        match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(false),
            Err(e) => Err(e.into()),
        }
    });
    attempt.join().expect("connecting does not panic")
}

#[test]
fn only_named_addresses_take_connections() -> Result<()> {
    let lab = Lab::new()?;
    ip(&format!("-n {} addr add 192.0.2.9/24 dev eth0", lab.us))?;
    let _bird = lab.bird("")?;
    let listening = |addr: &str| -> Result<SpeakerConfig> {
        let mut config = config(them());
        config.listen.clear();
        config.listen.insert(addr.parse()?);
        Ok(config)
    };
    let mut ours = lab.speaker(&listening("192.0.2.1:179")?)?;
    ours.is_up()?;
    ensure!(is_open(&lab, "192.0.2.1:179")?);
    ensure!(!is_open(&lab, "192.0.2.9:179")? && !is_open(&lab, "[2001:db8::1]:179")?);
    let moved = listening("192.0.2.9:179")?;
    ours.runtime.block_on(ours.speaker.configure(moved))?;
    eventually(PATIENCE, "the old address is closed", || {
        ensure!(!is_open(&lab, "192.0.2.1:179")?);
        Ok(())
    })?;
    ensure!(is_open(&lab, "192.0.2.9:179")?);
    let status = ours.status()?;
    ensure!(
        status.established_count == 1 && status.uptime.is_some(),
        "{status:?}"
    );
    Ok(())
}

#[test]
fn rfc5082_a_peer_that_could_be_far_away_is_not_heard() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird("")?;
    let ours = lab.speaker(&config(PeerConfig {
        ttl: Ttl::Security(1),
        ..them()
    }))?;
    // Its packets arrive with a TTL of 1.
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        let status = ours.status()?;
        ensure!(status.state < State::OpenConfirm, "{status:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let conf = lab.dir.path().join("bird.conf");
    let text = std::fs::read_to_string(&conf)?;
    let near = text.replace("connect retry", "ttl security on; connect retry");
    std::fs::write(&conf, near)?;
    bird.ask("configure")?;
    ours.is_up()
}
