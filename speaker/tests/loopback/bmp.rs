//! What a BMP collector hears (RFC 7854), decoded by the test.

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
};

use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes, BytesMut};
use margay_bgp::{
    prefix::Ipv4Prefix,
    wire::{MessageType, NlriIter, Notification, Open, UpdateFrame, header},
};
use margay_lab::eventually;
use margay_speaker::bmp::{BmpConfig, Station};

use crate::{
    limits::{Ours, host, speaker},
    raw::{PATIENCE, prefix, withdrawal},
};

const ROUTE_MONITORING: u8 = 0;
const STATISTICS: u8 = 1;
const PEER_DOWN: u8 = 2;
const PEER_UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;

/// The collector's end of a connection.
struct Collector {
    stream: TcpStream,
    buf: BytesMut,
}

/// Octets of the per-peer header, and where the address is in it.
const PER_PEER: usize = 42;

impl Collector {
    fn accept(listener: &TcpListener) -> Result<Self> {
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            buf: BytesMut::new(),
        })
    }

    /// Type and what follows the common header.
    fn message(&mut self) -> Result<(u8, Bytes)> {
        loop {
            if let Some(head) = self.buf.get(..6) {
                ensure!(head[0] == 3, "version {}", head[0]);
                let len = u32::from_be_bytes(head[1..5].try_into()?) as usize;
                let kind = head[5];
                if self.buf.len() >= len {
                    let mut message = self.buf.split_to(len).freeze();
                    message.advance(6);
                    return Ok((kind, message));
                }
            }
            let mut piece = [0; 65536];
            let n = self
                .stream
                .read(&mut piece)
                .context("the station is silent")?;
            ensure!(n > 0, "the station closed the connection");
            self.buf.extend_from_slice(&piece[..n]);
        }
    }

    /// The next message, which has to be of this type; without its per-peer header, which has to
    /// name 127.0.0.`peer`.
    fn of_peer(&mut self, want: u8, peer: u8) -> Result<Bytes> {
        // Statistics come when they come.
        let (kind, mut body) = loop {
            let (kind, body) = self.message()?;
            if kind != STATISTICS || want == STATISTICS {
                break (kind, body);
            }
        };
        ensure!(kind == want, "message type {kind}, not {want}");
        ensure!(body[22..26] == host(peer).octets(), "{body:?}");
        body.advance(PER_PEER);
        Ok(body)
    }

    /// The UPDATE in the next message: how many prefixes it announces and withdraws.
    fn update(&mut self, peer: u8) -> Result<(Vec<Ipv4Prefix>, Vec<Ipv4Prefix>)> {
        let body = self.of_peer(ROUTE_MONITORING, peer)?;
        let (kind, len) = header::peek(&body, false)?.context("a whole message")?;
        ensure!((kind, len) == (MessageType::Update, body.len()));
        let frame = UpdateFrame::split(&body[header::HEADER_LEN..])?;
        let list = |octets| -> Result<Vec<Ipv4Prefix>> {
            let list = NlriIter::<Ipv4Prefix>::new(octets, false).map(|n| Ok(n?.prefix));
            list.collect()
        };
        Ok((list(frame.nlri)?, list(frame.withdrawn)?))
    }

    /// Collects announcements up to the first UPDATE without routes, End-of-RIB.
    fn announced(&mut self, peer: u8) -> Result<Vec<Ipv4Prefix>> {
        let mut all = Vec::new();
        loop {
            let (new, gone) = self.update(peer)?;
            ensure!(gone.is_empty());
            if new.is_empty() {
                all.sort();
                return Ok(all);
            }
            all.extend(new);
        }
    }

    fn peer_up(&mut self, peer: u8) -> Result<()> {
        let body = self.of_peer(PEER_UP, peer)?;
        ensure!(body[12..16] == host(1).octets(), "our address: {body:?}");
        let mut opens = BytesMut::from(&body[20..]);
        for asn in [65000, 65000 + u32::from(peer)] {
            let message = header::frame(&mut opens, false)?.context("an OPEN")?;
            ensure!(Open::decode(&message.body)?.asn == asn);
        }
        Ok(())
    }
}

fn station(ours: &Ours, config: BmpConfig) -> Station {
    let _in_runtime = ours.runtime.enter();
    let queries = ours.speaker.queries();
    Station::spawn(config, "here".to_owned(), move || Some(queries.clone()))
}

fn listener() -> Result<(TcpListener, BmpConfig)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let config = BmpConfig::new(listener.local_addr()?);
    Ok((listener, config))
}

#[test]
fn a_collector_hears_sessions_what_they_sent_before_and_what_they_send() -> Result<()> {
    let ours = speaker(&[2, 3])?;
    let mut early = ours.peer(2)?;
    early.send(&early.announcement(0..20_000, 1)?)?;
    let mut witness = ours.peer(3)?;
    witness.hears("all that the first peer sent", |told| told.len() == 20_000)?;

    let (listener, mut config) = listener()?;
    config.statistics_secs = 1;
    let station = station(&ours, config);
    let mut collector = Collector::accept(&listener)?;
    ensure!(collector.message()?.0 == INITIATION);
    collector.peer_up(2)?;
    collector.peer_up(3)?;
    // In three pages, each prefix once.
    let all: Vec<_> = (0..20_000).filter_map(prefix).collect();
    assert_eq!(collector.announced(2)?, all);
    assert_eq!(collector.announced(3)?, []);

    // What comes now is passed on as it came.
    early.send(&withdrawal(7..8))?;
    let (new, gone) = collector.update(2)?;
    assert_eq!((new, gone), (vec![], vec![prefix(7).context("few")?]));
    drop(early);
    let down = collector.of_peer(PEER_DOWN, 2)?;
    assert_eq!(
        down[..],
        [4],
        "the connection was lost without a NOTIFICATION"
    );

    // Statistics of the peer that is left: two numbers, and one for each configured family.
    let statistics = collector.of_peer(STATISTICS, 3)?;
    assert_eq!(statistics[..4], [0, 0, 0, 4]);

    // Goodbye.
    ours.runtime.block_on(station.shutdown());
    let last = loop {
        let (kind, _) = collector.message()?;
        if kind != STATISTICS {
            break kind;
        }
    };
    assert_eq!(last, TERMINATION);
    Ok(())
}

#[test]
fn a_session_that_we_end_is_told_with_its_notification() -> Result<()> {
    let mut ours = speaker(&[2])?;
    let (listener, config) = listener()?;
    let _station = station(&ours, config);
    let mut collector = Collector::accept(&listener)?;
    ensure!(collector.message()?.0 == INITIATION);
    let _peer = ours.peer(2)?;
    collector.peer_up(2)?;
    let mut config = ours.config.clone();
    config.peers.clear();
    ours.runtime.block_on(ours.speaker.configure(config))?;
    let down = collector.of_peer(PEER_DOWN, 2)?;
    assert_eq!(down[0], 1);
    let message = header::frame(&mut BytesMut::from(&down[1..]), false)?.context("whole")?;
    let notification = Notification::decode(&message.body)?;
    assert_eq!((notification.kind.code, notification.kind.subcode), (6, 3));
    Ok(())
}

#[test]
fn a_collector_that_is_stuck_or_away_delays_no_route() -> Result<()> {
    let ours = speaker(&[2, 3])?;
    let (stuck, config) = listener()?;
    let mut stations = vec![station(&ours, config)];
    // Accepted and never read from.
    let _connection = Collector::accept(&stuck)?;
    let nobody = BmpConfig::new(([127, 0, 0, 1], margay_lab::free_port()?).into());
    stations.push(station(&ours, nobody));
    let mut feeder = ours.peer(2)?;
    let mut reader = ours.peer(3)?;
    for _ in 0..2 {
        feeder.send(&feeder.announcement(0..30_000, 1)?)?;
        reader.hears("all routes", |told| told.len() == 30_000)?;
        feeder.send(&withdrawal(0..30_000))?;
        reader.hears("all withdrawals", |told| told.is_empty())?;
    }
    Ok(())
}

#[test]
fn a_collector_that_comes_back_is_told_everything_again() -> Result<()> {
    let ours = speaker(&[2])?;
    let mut peer = ours.peer(2)?;
    peer.send(&peer.announcement(0..50, 1)?)?;
    eventually(PATIENCE, "the routes are there", || {
        let totals = ours.runtime.block_on(ours.speaker.queries().totals())?;
        ensure!(totals.rib.prefixes == 50, "{totals:?}");
        Ok(())
    })?;
    let (listener, config) = listener()?;
    let _station = station(&ours, config);
    for _ in 0..2 {
        let mut collector = Collector::accept(&listener)?;
        ensure!(collector.message()?.0 == INITIATION);
        collector.peer_up(2)?;
        assert_eq!(collector.announced(2)?.len(), 50);
    }
    Ok(())
}
