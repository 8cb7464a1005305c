//! What a peer may and may not, against BIRD, as root in namespaces of their own.
//!
//! 1. A peer that sends too many prefixes is cut off and gets another chance (RFC 4486).
//! 2. A changed TCP MD5 key costs the one session and no other (RFC 2385).
//! 3. Only the addresses that are named take connections, and a change of them costs no session.
//! 4. A peer without GTSM is not heard where we demand it (RFC 5082).
//! 5. A BIRD that is stopped and reads nothing is let go by the send hold timer (RFC 9687).
//! 6. Who connects too often from one address is turned away; a BIRD at another is not.

use std::{
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use margay_bgp::prefix::Ipv4Prefix;
use margay_lab::eventually;
use margay_speaker::{
    ConnectionLimit, LocalAction, LocalAttrs, LocalRouteChange, MaxPrefixesAction, PeerConfig,
    PeerStatus, Secret, SpeakerConfig, State, Ttl,
};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::support::{Lab, Ours, PATIENCE, config, ip, them, within};

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
    let to: SocketAddr = to.parse()?;
    within(&lab.them, move || {
        match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(false),
            Err(e) => Err(e.into()),
        }
    })
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

#[test]
fn rfc9687_a_bird_that_reads_nothing_is_let_go() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird("hold time 240;")?;
    let ours = lab.speaker(&config(PeerConfig {
        hold_time_secs: 240,
        send_hold_secs: Some(3),
        ..them()
    }))?;
    ours.is_up()?;
    bird.process.signal(Signal::SIGSTOP)?;
    // More than the buffers of both kernels take, in rounds, as the table itself has only the last state.
    for round in 0.. {
        let status = ours.status()?;
        if status.state != State::Established {
            break;
        }
        ensure!(round < 400, "still up: {status:?}");
        ours.runtime.block_on(ours.speaker.originate(bulk(round)))?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let told = ours.status()?.last_error.unwrap_or_default();
    ensure!(told.contains("send hold timer expired"), "{told}");
    bird.process.signal(Signal::SIGCONT)?;
    eventually(PATIENCE, "it is back", || {
        let status = ours.status()?;
        ensure!(
            status.established_count == 2 && status.state == State::Established,
            "{status:?}"
        );
        Ok(())
    })?;
    let last = "show route where net ~ [20.0.0.0/8+] count";
    bird.shows(last, &format!("Total: {BULK} of"))
}

/// Routes in a round.
const BULK: u32 = 3000;

/// As many routes, of a kilobyte each, that differ from those of the round before.
fn bulk(round: u32) -> Vec<LocalRouteChange> {
    let route = |n: u32| {
        let attrs = LocalAttrs {
            large_communities: (0..80).map(|k| [round, n, k]).collect(),
            ..LocalAttrs::default()
        };
        let prefix = Ipv4Prefix::new(20 << 24 | n << 8, 24).expect("24 is a length");
        LocalRouteChange {
            prefix: prefix.into(),
            action: LocalAction::Announce(attrs),
        }
    };
    (0..BULK).map(route).collect()
}

#[test]
fn a_bird_is_heard_while_its_neighbour_connects_without_end() -> Result<()> {
    let lab = Lab::new()?;
    ip(&format!("-n {} addr add 192.0.2.3/24 dev eth0", lab.them))?;
    let mut config = config(PeerConfig {
        passive: true,
        ..them()
    });
    config.connection_limit = ConnectionLimit {
        burst: 5,
        per_second: 1,
    };
    let neighbour = PeerConfig {
        passive: true,
        ..them()
    };
    config.peers.insert("192.0.2.3".parse()?, neighbour);
    let ours = lab.speaker(&config)?;
    let flood = || {
        within(&lab.them, || {
            let mut taken = 0;
            for _ in 0..100 {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                socket.bind(&SocketAddr::from(([192, 0, 2, 3], 0)).into())?;
                socket.connect(&SocketAddr::from(([192, 0, 2, 1], 179)).into())?;
                socket.set_read_timeout(Some(PATIENCE))?;
                // Its OPEN, or the end.
                let mut stream = TcpStream::from(socket);
                taken += u32::from(stream.read(&mut [0]).is_ok_and(|n| n > 0));
            }
            Ok(taken)
        })
    };
    let begun = Instant::now();
    let taken = u64::from(flood()?);
    ensure!(taken <= 6 + begun.elapsed().as_secs(), "{taken} taken");
    let bird = lab.bird("")?;
    flood()?;
    is_up(&ours, "192.0.2.2")?;
    flood()?;
    bird.shows("show protocols p1", "Established")?;
    let totals = ours.runtime.block_on(ours.speaker.queries().totals())?;
    ensure!(totals.connections_refused > 100, "{totals:?}");
    ensure!(is_up(&ours, "192.0.2.2")?.established_count == 1);
    Ok(())
}
