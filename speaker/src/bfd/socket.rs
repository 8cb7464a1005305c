//! The sockets of BFD: one for each port that packets come in by, and one a session to send from.

use std::{
    collections::BTreeMap,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::AsRawFd,
};

use margay_bgp::bfd::Packet;
use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvTtl, Ipv6RecvHopLimit},
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

/// RFC 5881 section 4.
pub(super) const SINGLE_HOP_PORT: u16 = 3784;
/// RFC 5883 section 5.
pub(super) const MULTIHOP_PORT: u16 = 4784;
/// RFC 5881 section 4: where packets come from.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// Packets to take in at one go: more than the kernel keeps for a socket, so that all that has come
/// before is among them.
const TURN_PACKETS: usize = 512;
/// DSCP CS6, network control, as the IP TOS octet.
const TOS_CS6: u32 = 0xc0;

/// Family (whether IPv4) and port of a socket.
pub(super) type Port = (bool, u16);

/// What came in.
pub(super) struct Received {
    pub(super) packet: Packet,
    pub(super) from: IpAddr,
    /// The interface of a link-local address, else 0.
    pub(super) scope: u32,
    pub(super) ttl: Option<u8>,
}

/// Everything that has come to `socket`, in order.
///
/// The kernel is asked, not tokio, which knows what was there when the thread last slept: a packet
/// that came in time and was not read for want of the processor is no sign of a dead path.
pub(super) fn drain(socket: &UdpSocket, mut take: impl FnMut(&Received)) {
    for _ in 0..TURN_PACKETS {
        match receive(socket) {
            Ok(Some(received)) => take(&received),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // So that the next wait is for what comes from here on.
                let empty = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                drop(socket.try_io(Interest::READABLE, empty));
                return;
            }
            Err(_) => return,
        }
    }
}

/// One datagram, if it is a packet.
fn receive(socket: &UdpSocket) -> io::Result<Option<Received>> {
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
    let address = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|a| (a.ip().into(), 0));
        v4.or_else(|| {
            let v6 = address.as_sockaddr_in6()?;
            Some((v6.ip().into(), v6.scope_id()))
        })
    });
    let len = message.bytes;
    let packet = data.get(..len).and_then(|data| Packet::decode(data).ok());
    Ok(packet.zip(address).map(|(packet, (from, scope))| Received {
        packet,
        from,
        scope,
        ttl,
    }))
}

/// Waits until some socket has a packet; for ever without sockets.
pub(super) async fn readable(sockets: &BTreeMap<Port, UdpSocket>) {
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

/// A socket that packets come in by.
pub(super) fn receiver((v4, port): Port) -> io::Result<UdpSocket> {
    let socket = udp(v4)?;
    if v4 {
        setsockopt(&socket, Ipv4RecvTtl, &true)?;
    } else {
        setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
    }
    socket.bind(&SocketAddr::new(unspecified(v4), port).into())?;
    UdpSocket::from_std(socket.into())
}

/// A socket that packets to `to` go out by; `scope` is the interface of a link-local address, `from`
/// the port that they came from before (RFC 5881 section 4: one port a session).
pub(super) fn sender(
    to: IpAddr,
    scope: u32,
    source: Option<IpAddr>,
    from: Option<u16>,
) -> io::Result<Socket> {
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
    for port in from.into_iter().chain(SOURCE_PORTS) {
        result = socket.bind(&at(source, port, scope).into());
        match &result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    result.map(|()| socket)
}

/// A port at an address.
pub(super) fn at(addr: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match addr {
        IpAddr::V4(addr) => SocketAddrV4::new(addr, port).into(),
        IpAddr::V6(addr) => SocketAddrV6::new(addr, port, 0, scope).into(),
    }
}
