//! A peer that sends what it is told to and keeps account of what it hears.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use margay_bgp::{
    prefix::{Family, Ipv4Prefix, Prefix},
    wire::{
        AsPath, AttrContext, Capabilities, MAX_LEN, MessageType, NlriIter, Notification, Open,
        Origin, PathAttrs, PeerKind, RawMessage, UpdateFrame, header,
        update_encode::{announce_v4, end_of_rib, withdraw_v4},
    },
};
use socket2::{Domain, Protocol, Socket, Type};

/// How long anything may take on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A session with the speaker, hold time 0, IPv4 only.
pub(crate) struct RawPeer {
    stream: TcpStream,
    buf: BytesMut,
    asn: u32,
    /// MED of each prefix that it was told.
    pub(crate) told: BTreeMap<Prefix, Option<u32>>,
}

/// A connection from `local`, with as little buffer as the kernel gives if `small`.
pub(crate) fn connect(local: Ipv4Addr, to: SocketAddr, small: bool) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    if small {
        socket.set_recv_buffer_size(1)?;
    }
    socket.bind(&SocketAddr::new(local.into(), 0).into())?;
    socket.connect(&to.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

impl RawPeer {
    /// Connects from `local` and brings the session up.
    pub(crate) fn establish(
        local: Ipv4Addr,
        to: SocketAddr,
        asn: u32,
        small: bool,
    ) -> Result<Self> {
        let mut peer = Self {
            stream: connect(local, to, small)?,
            buf: BytesMut::new(),
            asn,
            told: BTreeMap::new(),
        };
        let open = Open {
            asn,
            hold_time_secs: 0,
            id: local,
            capabilities: Capabilities {
                multiprotocol: Some(vec![Family::Ipv4Unicast]),
                route_refresh: true,
                enhanced_route_refresh: true,
                four_octet_as: Some(asn),
                ..Capabilities::default()
            },
        };
        let mut out = BytesMut::new();
        open.encode(&mut out);
        header::put_keepalive(&mut out);
        peer.send(&out)?;
        ensure!(peer.message()?.kind == MessageType::Open, "no OPEN first");
        ensure!(
            peer.message()?.kind == MessageType::Keepalive,
            "no KEEPALIVE second"
        );
        Ok(peer)
    }

    pub(crate) fn send(&mut self, octets: &[u8]) -> Result<()> {
        self.stream.write_all(octets).context("writing")
    }

    /// The next message.
    pub(crate) fn message(&mut self) -> Result<RawMessage> {
        loop {
            if let Some(message) = header::frame(&mut self.buf, false)? {
                return Ok(message);
            }
            let mut piece = vec![0; 64 << 10];
            let n = self.stream.read(&mut piece).context("reading")?;
            ensure!(n > 0, "the speaker closed the connection");
            self.buf.extend_from_slice(&piece[..n]);
        }
    }

    /// Takes in messages until `done` holds of what was told.
    pub(crate) fn hears(
        &mut self,
        what: &str,
        done: impl Fn(&BTreeMap<Prefix, Option<u32>>) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !done(&self.told) {
            ensure!(Instant::now() < end, "not heard: {what}");
            let message = self.message().with_context(|| what.to_owned())?;
            self.take(&message)?;
        }
        Ok(())
    }

    /// Takes in a message.
    pub(crate) fn take(&mut self, message: &RawMessage) -> Result<()> {
        match message.kind {
            MessageType::Update => self.update(&message.body),
            MessageType::Notification => bail!("{}", Notification::decode(&message.body)?),
            _ => Ok(()),
        }
    }

    fn update(&mut self, body: &[u8]) -> Result<()> {
        let frame = UpdateFrame::split(body)?;
        for gone in NlriIter::<Ipv4Prefix>::new(frame.withdrawn, false) {
            self.told.remove(&Prefix::V4(gone?.prefix));
        }
        let ctx = AttrContext {
            four_octet_as: true,
            peer: PeerKind::Ibgp,
        };
        let attrs = PathAttrs::decode(&frame.attrs, &ctx).attrs;
        for new in NlriIter::<Ipv4Prefix>::new(frame.nlri, false) {
            self.told.insert(Prefix::V4(new?.prefix), attrs.med);
        }
        Ok(())
    }

    /// UPDATEs that announce these prefixes of [`prefix`], eight to a set of attributes.
    pub(crate) fn announcement(&self, which: Range<u32>, med: u32) -> Result<BytesMut> {
        self.announce(which, 8, med, &[])
    }

    /// The same with attributes of their own for each prefix, and many octets of them.
    pub(crate) fn bulky(&self, which: Range<u32>, med: u32) -> Result<BytesMut> {
        let communities: Vec<u32> = (0..60).map(|n| self.asn << 16 | n).collect();
        self.announce(which, 1, med, &communities)
    }

    fn announce(
        &self,
        which: Range<u32>,
        together: u32,
        med: u32,
        communities: &[u32],
    ) -> Result<BytesMut> {
        // An address of 127/8 is no next hop that anyone takes.
        let next_hop = Ipv4Addr::from(0xc000_0200 + self.asn % 250);
        // Inside the speaker's AS its number is in no path, and LOCAL_PREF has to be there.
        let internal = self.asn == 65000;
        let mut out = BytesMut::new();
        for from in which.clone().step_by(usize::try_from(together)?) {
            let attrs = PathAttrs {
                origin: Origin::Igp,
                as_path: match internal {
                    true => AsPath::sequence(&[1000 + from / 8, 3356]),
                    false => AsPath::sequence(&[self.asn, 1000 + from / 8, 3356]),
                },
                local_pref: internal.then_some(100),
                next_hop: Some(next_hop),
                med: Some(med),
                communities: communities.iter().map(|c| c + from).collect(),
                ..PathAttrs::default()
            };
            let mut encoded = BytesMut::new();
            attrs.encode(true, &mut encoded);
            let list = (from..which.end.min(from + together)).filter_map(prefix);
            announce_v4(&encoded, list, MAX_LEN, &mut out)?;
        }
        end_of_rib(Family::Ipv4Unicast, &mut out);
        Ok(out)
    }
}

/// UPDATEs that withdraw these prefixes.
pub(crate) fn withdrawal(which: Range<u32>) -> BytesMut {
    let mut out = BytesMut::new();
    withdraw_v4(which.filter_map(prefix), MAX_LEN, &mut out);
    out
}

/// The `n`th prefix, a /24 in 16/4 and what follows.
pub(crate) fn prefix(n: u32) -> Option<Ipv4Prefix> {
    Ipv4Prefix::new((0x10_0000 + n) << 8, 24)
}
