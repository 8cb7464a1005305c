//! What one process leaves to the next, and its form: a header with version and sum, then the fields
//! in order. A version that is not this one's is not read; nor is anything that does not add up.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use margay_bgp::{
    bfd,
    prefix::Prefix,
    rib::{Outstanding, Told, ToldRoute},
};

use super::codec::{Reader, Writer, fnv1a};
use crate::{bfd::LeftPath, peer_key::PeerKey};

const MAGIC: &[u8; 8] = b"margayHO";
/// Of the form. Whoever changes what is written, or what it means, counts it up.
const VERSION: u32 = 1;
const SUM_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Everything that is left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    /// When the sessions stopped, by the clock that counts from boot.
    pub(crate) frozen_at: Duration,
    /// What fingerprints begin with.
    pub(crate) seed: u64,
    /// Whom the listeners have TCP MD5 keys for.
    pub(crate) keyed: Vec<Prefix>,
    /// Peers that were up and are not among those below.
    pub(crate) dropped: Vec<PeerKey>,
    pub(crate) peers: Vec<PeerLeft>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerLeft {
    pub(crate) key: PeerKey,
    /// It is from a range.
    pub(crate) dynamic: bool,
    /// The ends of the connection, which name its socket.
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// OPEN sent and received.
    pub(crate) opens: [Bytes; 2],
    /// Of the settings of the connection.
    pub(crate) settings: u64,
    pub(crate) outgoing: bool,
    /// Silence left before the hold timer expires.
    pub(crate) hold: Option<Duration>,
    pub(crate) since: SystemTime,
    pub(crate) uptime: Duration,
    pub(crate) established_count: u64,
    pub(crate) updates_received: u64,
    /// Sent and received.
    pub(crate) octets: [u64; 2],
    pub(crate) end_of_rib: [bool; 2],
    /// The beginning of a message of the peer.
    pub(crate) partial: Bytes,
    /// What is to be sent before anything else; may begin inside a message.
    pub(crate) unsent: Bytes,
    /// UPDATEs that say what the peer has sent.
    pub(crate) received: Bytes,
    /// What the peer was told, by family.
    pub(crate) told: [Told; 2],
    pub(crate) bfd: Option<LeftPath>,
}

/// Why there is nothing to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateError {
    #[error("it is not the state of a speaker")]
    Foreign,
    #[error("it is of version {0}, this program reads {VERSION}")]
    Version(u32),
    #[error("it is damaged")]
    Damaged,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let body = self.fields();
        let mut out = Writer::default();
        out.0.extend_from_slice(MAGIC);
        out.u32(VERSION);
        out.u64(fnv1a(SUM_START, &body));
        out.octets(&body);
        out.0.into()
    }

    /// What stands behind the header.
    pub(crate) fn fields(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.u64(nanos(self.frozen_at));
        body.u64(self.seed);
        body.list(&self.keyed, |w, prefix| w.prefix(*prefix));
        body.list(&self.dropped, |w, key| w.text(key));
        body.list(&self.peers, PeerLeft::write);
        body.0.into()
    }

    pub(crate) fn decode(octets: &[u8]) -> Result<Self, StateError> {
        let rest = octets.strip_prefix(MAGIC).ok_or(StateError::Foreign)?;
        let mut header = Reader::new(rest);
        let version = header.u32().ok_or(StateError::Damaged)?;
        if version != VERSION {
            return Err(StateError::Version(version));
        }
        let sum = header.u64().ok_or(StateError::Damaged)?;
        let body = header.octets().ok_or(StateError::Damaged)?;
        if !header.is_at_end() || fnv1a(SUM_START, body) != sum {
            return Err(StateError::Damaged);
        }
        Self::read_fields(body).ok_or(StateError::Damaged)
    }

    pub(crate) fn read_fields(body: &[u8]) -> Option<Self> {
        let mut body = Reader::new(body);
        Self::read(&mut body).filter(|_| body.is_at_end())
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            frozen_at: Duration::from_nanos(body.u64()?),
            seed: body.u64()?,
            keyed: body.list(Reader::prefix)?,
            dropped: body.list(Reader::text)?,
            peers: body.list(PeerLeft::read)?,
        })
    }
}

impl PeerLeft {
    fn write(out: &mut Writer, peer: &Self) {
        out.text(peer.key);
        out.flag(peer.dynamic);
        out.text(peer.local);
        out.text(peer.remote);
        peer.opens.iter().for_each(|open| out.octets(open));
        out.u64(peer.settings);
        out.flag(peer.outgoing);
        out.option(peer.hold, |w, hold| w.u64(nanos(hold)));
        let since = peer.since.duration_since(SystemTime::UNIX_EPOCH);
        out.u64(nanos(since.unwrap_or_default()));
        out.u64(nanos(peer.uptime));
        out.u64(peer.established_count);
        out.u64(peer.updates_received);
        peer.octets.iter().for_each(|n| out.u64(*n));
        peer.end_of_rib.iter().for_each(|seen| out.flag(*seen));
        for octets in [&peer.partial, &peer.unsent, &peer.received] {
            out.octets(octets);
        }
        for told in &peer.told {
            write_told(out, told);
        }
        out.option(peer.bfd, write_path);
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        fn copied(from: &mut Reader<'_>) -> Option<Bytes> {
            from.octets().map(Bytes::copy_from_slice)
        }
        Some(Self {
            key: from.text()?,
            dynamic: from.flag()?,
            local: from.text()?,
            remote: from.text()?,
            opens: [copied(from)?, copied(from)?],
            settings: from.u64()?,
            outgoing: from.flag()?,
            hold: from.option(duration)?,
            since: SystemTime::UNIX_EPOCH.checked_add(duration(from)?)?,
            uptime: duration(from)?,
            established_count: from.u64()?,
            updates_received: from.u64()?,
            octets: [from.u64()?, from.u64()?],
            end_of_rib: [from.flag()?, from.flag()?],
            partial: copied(from)?,
            unsent: copied(from)?,
            received: copied(from)?,
            told: [read_told(from)?, read_told(from)?],
            bfd: from.option(read_path)?,
        })
    }
}

fn write_told(out: &mut Writer, told: &Told) {
    out.u8(match told.outstanding {
        Outstanding::Nothing => 0,
        Outstanding::EndOfRib => 1,
        Outstanding::EndOfRefresh => 2,
    });
    out.list(&told.routes, |out, route| {
        out.prefix(route.prefix);
        out.u8(route.number);
        out.option(route.print, Writer::u64);
    });
}

fn read_told(from: &mut Reader<'_>) -> Option<Told> {
    Some(Told {
        outstanding: match from.u8()? {
            0 => Outstanding::Nothing,
            1 => Outstanding::EndOfRib,
            2 => Outstanding::EndOfRefresh,
            _ => return None,
        },
        routes: from.list(|from| {
            Some(ToldRoute {
                prefix: from.prefix()?,
                number: from.u8()?,
                print: from.option(Reader::u64)?,
            })
        })?,
    })
}

fn write_path(out: &mut Writer, path: LeftPath) {
    let LeftPath { session, port } = path;
    out.u32(session.my_discr);
    out.u32(session.your_discr);
    out.u8(match session.remote.state {
        bfd::State::AdminDown => 0,
        bfd::State::Down => 1,
        bfd::State::Init => 2,
        bfd::State::Up => 3,
    });
    out.u64(nanos(session.remote.min_rx));
    out.u64(nanos(session.remote.desired_tx));
    out.u8(session.remote.detect_mult);
    out.flag(session.remote.demand);
    out.flag(session.remote.independent);
    out.u32(port.into());
}

fn read_path(from: &mut Reader<'_>) -> Option<LeftPath> {
    let my_discr = from.u32().filter(|discr| *discr != 0)?;
    let your_discr = from.u32()?;
    let remote = bfd::Remote {
        state: match from.u8()? {
            0 => bfd::State::AdminDown,
            1 => bfd::State::Down,
            2 => bfd::State::Init,
            3 => bfd::State::Up,
            _ => return None,
        },
        min_rx: interval(from)?,
        desired_tx: interval(from)?,
        detect_mult: from.u8()?,
        demand: from.flag()?,
        independent: from.flag()?,
    };
    Some(LeftPath {
        session: bfd::Left {
            my_discr,
            your_discr,
            remote,
        },
        port: from.u32()?.try_into().ok()?,
    })
}

/// What a packet of BFD can tell: 32 bits of microseconds.
fn interval(from: &mut Reader<'_>) -> Option<Duration> {
    let most = Duration::from_micros(u32::MAX.into());
    duration(from).filter(|interval| *interval <= most)
}

fn duration(from: &mut Reader<'_>) -> Option<Duration> {
    from.u64().map(Duration::from_nanos)
}

/// 584 years at most.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> State {
        let second = Duration::from_secs(1);
        let route = |text: &str, number, print| ToldRoute {
            prefix: text.parse().unwrap(),
            number,
            print,
        };
        State {
            frozen_at: second * 77,
            seed: 9,
            keyed: vec!["192.0.2.0/24".parse().unwrap()],
            dropped: vec!["%eth0".parse().unwrap()],
            peers: vec![PeerLeft {
                key: "fe80::1%lo".parse().unwrap(),
                dynamic: true,
                local: "[fe80::2%3]:179".parse().unwrap(),
                remote: "[fe80::1%3]:40000".parse().unwrap(),
                opens: [Bytes::from_static(b"sent"), Bytes::from_static(b"received")],
                settings: 5,
                outgoing: true,
                hold: Some(second * 3),
                since: SystemTime::UNIX_EPOCH + second * 1000,
                uptime: second * 60,
                established_count: 2,
                updates_received: 3,
                octets: [4, 5],
                end_of_rib: [true, false],
                partial: Bytes::from_static(&[0xff; 7]),
                unsent: Bytes::new(),
                received: Bytes::from_static(b"updates"),
                told: [
                    Told {
                        routes: vec![
                            route("10.0.0.0/8", 0, Some(1)),
                            route("10.1.0.0/16", 3, None),
                        ],
                        outstanding: Outstanding::Nothing,
                    },
                    Told {
                        routes: vec![route("2001:db8::/32", 0, Some(2))],
                        outstanding: Outstanding::EndOfRib,
                    },
                ],
                bfd: Some(LeftPath {
                    session: bfd::Left {
                        my_discr: 1,
                        your_discr: 2,
                        remote: bfd::Remote {
                            state: bfd::State::Up,
                            min_rx: second / 20,
                            desired_tx: second / 20,
                            detect_mult: 3,
                            demand: false,
                            independent: true,
                        },
                    },
                    port: 49152,
                }),
            }],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(State::decode(&state().encode()), Ok(state()));
        let nothing = State::default();
        assert_eq!(State::decode(&nothing.encode()), Ok(nothing));
    }

    #[test]
    fn another_version_and_another_file_are_told_apart() {
        let mut octets = state().encode();
        octets[11] += 1;
        let error = State::decode(&octets).unwrap_err();
        assert_eq!(error, StateError::Version(2));
        assert_eq!(
            error.to_string(),
            "it is of version 2, this program reads 1"
        );
        assert_eq!(State::decode(b"#!/bin/sh"), Err(StateError::Foreign));
        assert_eq!(State::decode(b""), Err(StateError::Foreign));
    }

    #[test]
    fn whatever_is_cut_off_or_added_is_noticed() {
        let mut octets = state().encode();
        for end in MAGIC.len()..octets.len() {
            assert_eq!(State::decode(&octets[..end]), Err(StateError::Damaged));
        }
        octets.push(0);
        assert_eq!(State::decode(&octets), Err(StateError::Damaged));
    }

    /// With a sum that is right, so that the fields are looked at.
    fn framed(body: &[u8]) -> Vec<u8> {
        let mut out = Writer::default();
        out.0.extend_from_slice(MAGIC);
        out.u32(VERSION);
        out.u64(fnv1a(SUM_START, body));
        out.octets(body);
        out.0.into()
    }

    proptest! {
        #[test]
        fn no_octets_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(State::decode(&body));
            drop(State::decode(&framed(&body)));
        }

        #[test]
        fn no_change_of_octets_panics(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8)) {
            let whole = state().encode();
            let mut body = whole[28..].to_vec();
            prop_assert_eq!(State::decode(&framed(&body)), Ok(state()));
            for (at, octet) in changes {
                let at = at % body.len();
                body[at] = octet;
            }
            // What is read is what is written for it, or nothing is read.
            if let Ok(read) = State::decode(&framed(&body)) {
                prop_assert_eq!(State::decode(&read.encode()), Ok(read));
            }
        }
    }
}
