//! BFD over UDP (RFC 5881, RFC 5883), on a thread of its own: what 3 x 50 ms must notice cannot wait for
//! a turn of the core, which may take in a hundred thousand routes.
//!
//! The thread owns its sockets and sessions; it ends, telling the other sides that it does, when the
//! handle is dropped.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use margay_bgp::bfd::{Change, Config, Output, Packet, Session};
use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvTtl, Ipv6RecvHopLimit},
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket, sync::mpsc, time::sleep_until};
use tracing::{debug, info, warn};

use crate::peer_key::PeerKey;

/// RFC 5881 section 4.
const SINGLE_HOP_PORT: u16 = 3784;
/// RFC 5883 section 5.
const MULTIHOP_PORT: u16 = 4784;
/// RFC 5881 section 4: where packets come from.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// Packets to take in before sessions get their turn.
const TURN_PACKETS: usize = 64;
/// Between attempts to open a port that somebody else has.
const RETRY: Duration = Duration::from_secs(5);
/// DSCP CS6, network control, as the IP TOS octet.
const TOS_CS6: u32 = 0xc0;

/// A path to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// Address to send from; the kernel's choice if there is none.
    pub(crate) source: Option<IpAddr>,
    /// The other side may be several hops away.
    pub(crate) multihop: bool,
    /// Timers.
    pub(crate) config: Config,
}

/// The paths to watch, by peer.
pub(crate) type Targets = BTreeMap<PeerKey, Target>;

/// The thread.
#[derive(Debug)]
pub(crate) struct Bfd(mpsc::UnboundedSender<Targets>);

impl Bfd {
    /// Starts it. Changes of sessions that it watches go to `changes`, which is unbounded: they are few,
    /// and this thread waits for nobody.
    pub(crate) fn spawn(changes: mpsc::UnboundedSender<(PeerKey, Change)>) -> io::Result<Self> {
        let (wanted, receiver) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("bfd".to_owned())
            .spawn(move || runtime.block_on(Watch::new(changes).run(receiver)))?;
        Ok(Self(wanted))
    }

    /// Watches these paths and no others.
    pub(crate) fn watch(&self, targets: Targets) {
        if self.0.send(targets).is_err() {
            warn!("the thread of BFD has ended");
        }
    }
}

/// A session and where its packets go out.
struct Watched {
    target: Target,
    session: Session,
    socket: Socket,
    to: SocketAddr,
}

/// What the thread owns.
struct Watch {
    watched: BTreeMap<PeerKey, Watched>,
    /// Wanted, but their sockets do not open.
    waiting: Targets,
    /// By family and port, while a session needs it.
    sockets: BTreeMap<(bool, u16), UdpSocket>,
    next_discr: u32,
    retry_at: Option<Instant>,
    changes: mpsc::UnboundedSender<(PeerKey, Change)>,
}

impl Watch {
    const fn new(changes: mpsc::UnboundedSender<(PeerKey, Change)>) -> Self {
        Self {
            watched: BTreeMap::new(),
            waiting: Targets::new(),
            sockets: BTreeMap::new(),
            next_discr: 1,
            retry_at: None,
            changes,
        }
    }

    async fn run(mut self, mut wanted: mpsc::UnboundedReceiver<Targets>) {
        loop {
            let sessions = self
                .watched
                .values()
                .filter_map(|w| w.session.poll_timeout());
            let wake = sessions.chain(self.retry_at).min();
            let wake = wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            // Cancel safe: `recv` and `readable` take nothing when dropped, the sleep is made anew.
            let targets = tokio::select! {
                targets = wanted.recv() => Some(targets),
                () = readable(&self.sockets) => None,
                () = sleep_until(wake.into()) => None,
            };
            let now = Instant::now();
            match targets {
                Some(Some(targets)) => self.configure(targets, now),
                Some(None) => return self.stop(now),
                None => {}
            }
            if self.retry_at.is_some_and(|at| at <= now) {
                let waiting = std::mem::take(&mut self.waiting);
                self.open(waiting, now);
            }
            self.receive(now);
            self.turn(now);
        }
    }

    fn configure(&mut self, targets: Targets, now: Instant) {
        let kept = |key: &PeerKey, watched: &Watched| {
            let new = targets.get(key);
            new.is_some_and(|t| {
                (t.source, t.multihop) == (watched.target.source, watched.target.multihop)
            })
        };
        let gone: Vec<PeerKey> = self
            .watched
            .iter()
            .filter(|(key, watched)| !kept(key, watched))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            if let Some(mut watched) = self.watched.remove(&key) {
                watched.admin_down(now);
            }
        }
        let mut new = Targets::new();
        for (key, target) in targets {
            match self.watched.get_mut(&key) {
                Some(watched) => {
                    watched.target = target;
                    watched.session.set_config(target.config);
                }
                None => {
                    new.insert(key, target);
                }
            }
        }
        self.open(new, now);
        let watched = &self.watched;
        self.sockets.retain(|port, _| {
            watched
                .iter()
                .any(|(key, w)| port_of(*key, w.target) == *port)
        });
    }

    /// Starts sessions; those whose sockets do not open are tried again.
    fn open(&mut self, targets: Targets, now: Instant) {
        self.waiting = Targets::new();
        for (key, target) in targets {
            if let Err(error) = self.open_one(key, target, now) {
                warn!(peer = %key, %error, "BFD cannot start, will be tried again");
                self.waiting.insert(key, target);
            }
        }
        self.retry_at = (!self.waiting.is_empty()).then(|| now + RETRY);
    }

    fn open_one(&mut self, key: PeerKey, target: Target, now: Instant) -> io::Result<()> {
        let port = port_of(key, target);
        if let Entry::Vacant(vacant) = self.sockets.entry(port) {
            vacant.insert(receiver(port)?);
        }
        let socket = sender(key.addr, target.source)?;
        let seed = seed(key, now);
        let discr = self.next_discr;
        self.next_discr = self.next_discr.checked_add(1).unwrap_or(1);
        let watched = Watched {
            target,
            session: Session::new(target.config, discr, seed, now),
            socket,
            to: SocketAddr::new(key.addr, port.1),
        };
        self.watched.insert(key, watched);
        Ok(())
    }

    fn receive(&mut self, now: Instant) {
        for ((_, port), socket) in &self.sockets {
            for _ in 0..TURN_PACKETS {
                let Ok((packet, from, ttl)) =
                    socket.try_io(Interest::READABLE, || receive_one(socket))
                else {
                    break;
                };
                // RFC 5881 section 5: from one hop away, nothing arrives with less.
                if *port == SINGLE_HOP_PORT && ttl != Some(255) {
                    continue;
                }
                let Some(packet) = packet else { continue };
                let is_for = |(key, watched): &(&PeerKey, &mut Watched)| {
                    key.addr == from
                        && watched.to.port() == *port
                        && (packet.your_discr == 0
                            || packet.your_discr == watched.session.my_discr())
                };
                if let Some((_, watched)) = self.watched.iter_mut().find(is_for) {
                    watched.session.handle_packet(&packet, now);
                }
            }
        }
    }

    fn turn(&mut self, now: Instant) {
        for (key, watched) in &mut self.watched {
            watched.session.handle_timeout(now);
            while let Some(output) = watched.session.poll_output(now) {
                match output {
                    Output::Send(packet) => watched.send(&packet),
                    Output::Changed(change) => {
                        info!(peer = %key, ?change, "BFD");
                        if self.changes.send((*key, change)).is_err() {
                            debug!("the speaker is gone");
                        }
                    }
                }
            }
        }
    }

    fn stop(mut self, now: Instant) {
        for watched in self.watched.values_mut() {
            watched.admin_down(now);
        }
    }
}

impl Watched {
    /// A packet that does not go out is as good as lost on the way.
    fn send(&self, packet: &Packet) {
        let mut out = BytesMut::new();
        packet.encode(&mut out);
        drop(self.socket.send_to(&out, &self.to.into()));
    }

    /// Tells the other side that what follows is no failure.
    fn admin_down(&mut self, now: Instant) {
        self.session.handle_admin_down(now);
        while let Some(output) = self.session.poll_output(now) {
            if let Output::Send(packet) = output {
                self.send(&packet);
            }
        }
    }
}

/// Family (whether IPv4) and port that a session's packets come in by.
fn port_of(key: PeerKey, target: Target) -> (bool, u16) {
    let port = if target.multihop {
        MULTIHOP_PORT
    } else {
        SINGLE_HOP_PORT
    };
    (key.addr.is_ipv4(), port)
}

/// Jitter only has to differ between sessions.
fn seed(key: PeerKey, now: Instant) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one((key, now))
}

/// Waits until some socket has a packet; for ever without sockets.
async fn readable(sockets: &BTreeMap<(bool, u16), UdpSocket>) {
    let mut waits: Vec<_> = sockets
        .values()
        .map(|socket| Box::pin(socket.readable()))
        .collect();
    std::future::poll_fn(|context| {
        for wait in &mut waits {
            if wait.as_mut().poll(context).is_ready() {
                return std::task::Poll::Ready(());
            }
        }
        std::task::Poll::Pending
    })
    .await;
}

fn unspecified(v4: bool) -> IpAddr {
    if v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

fn udp(v4: bool) -> io::Result<Socket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if !v4 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn receiver((v4, port): (bool, u16)) -> io::Result<UdpSocket> {
    let socket = udp(v4)?;
    if v4 {
        setsockopt(&socket, Ipv4RecvTtl, &true)?;
    } else {
        setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
    }
    socket.bind(&SocketAddr::new(unspecified(v4), port).into())?;
    UdpSocket::from_std(socket.into())
}

fn sender(to: IpAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let v4 = to.is_ipv4();
    let socket = udp(v4)?;
    if v4 {
        socket.set_ttl_v4(255)?;
        socket.set_tos_v4(TOS_CS6)?;
    } else {
        socket.set_unicast_hops_v6(255)?;
        socket.set_tclass_v6(TOS_CS6)?;
    }
    let source = source.unwrap_or_else(|| unspecified(v4));
    let mut result = Err(io::ErrorKind::AddrInUse.into());
    for port in SOURCE_PORTS {
        result = socket.bind(&SocketAddr::new(source, port).into());
        match &result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    result.map(|()| socket)
}

/// One datagram: what it holds if it is a packet, who sent it, and its TTL.
fn receive_one(socket: &UdpSocket) -> io::Result<(Option<Packet>, IpAddr, Option<u8>)> {
    let mut data = [0; 128];
    let mut control = cmsg_space!(libc::c_int);
    let mut buffers = [IoSliceMut::new(&mut data)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut buffers,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let mut ttl = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) =
            control
        {
            ttl = u8::try_from(value).ok();
        }
    }
    let from = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    let len = message.bytes;
    let packet = data.get(..len).and_then(|data| Packet::decode(data).ok());
    let from = from.ok_or(io::ErrorKind::InvalidData)?;
    Ok((packet, from, ttl))
}
