//! Router advertisements (RFC 4861), by which routers on one link learn each other's link-local
//! address: all that a session without configured addresses needs.

use std::{
    io,
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd,
    time::Duration,
};

use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt::Ipv6RecvHopLimit,
    },
};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

use crate::socket::pass_only_icmp6;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// RFC 4861 sections 6.1.1 and 6.1.2: what comes with less has crossed a router.
const HOP_LIMIT: u32 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Between advertisements: a neighbour that starts is asked for at once by its solicitation or our
/// next turn.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);
/// An advertisement without options.
const ADVERTISEMENT_LEN: usize = 16;
const SOLICITATION_LEN: usize = 8;

/// What came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A router at this address.
    Router(Ipv6Addr),
    /// Someone asks who is there.
    Question,
}

/// A socket for the advertisements of one interface.
#[derive(Debug)]
pub(crate) struct Advertiser {
    /// A raw socket, which is read and written as one of datagrams.
    socket: UdpSocket,
    ifindex: u32,
}

impl Advertiser {
    /// On the interface with this index. Needs the right to open raw sockets.
    pub(crate) fn open(ifindex: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.set_nonblocking(true)?;
        socket.set_multicast_hops_v6(HOP_LIMIT)?;
        socket.set_unicast_hops_v6(HOP_LIMIT)?;
        socket.set_multicast_loop_v6(false)?;
        socket.set_multicast_if_v6(ifindex)?;
        setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
        pass_only_icmp6(&socket, &[SOLICITATION, ADVERTISEMENT])?;
        for group in [ALL_NODES, ALL_ROUTERS] {
            socket.join_multicast_v6(&group, ifindex)?;
        }
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, ifindex })
    }

    /// Tells everyone on the link that we are here.
    pub(crate) fn advertise(&self) -> io::Result<()> {
        self.send(&advertisement(), ALL_NODES)
    }

    /// Asks the routers on the link to say that they are here.
    pub(crate) fn solicit(&self) -> io::Result<()> {
        let mut message = [0; SOLICITATION_LEN];
        message[0] = SOLICITATION;
        self.send(&message, ALL_ROUTERS)
    }

    fn send(&self, message: &[u8], to: Ipv6Addr) -> io::Result<()> {
        let to = SockAddr::from(SocketAddrV6::new(to, 0, 0, self.ifindex));
        let socket = SockRef::from(&self.socket);
        socket.send_to(message, &to).map(drop)
    }

    /// The next message worth hearing. Cancel safe.
    pub(crate) async fn hear(&self) -> io::Result<Heard> {
        loop {
            let got = self
                .socket
                .async_io(Interest::READABLE, || self.receive())
                .await?;
            if let Some(heard) = got {
                return Ok(heard);
            }
        }
    }

    fn receive(&self) -> io::Result<Option<Heard>> {
        let mut buf = [0; 2048];
        let mut control = cmsg_space!(libc::c_int);
        let mut parts = [io::IoSliceMut::new(&mut buf)];
        let flags = MsgFlags::empty();
        let got = recvmsg::<SockaddrIn6>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            flags,
        )?;
        let hops = got.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv6HopLimit(hops) => Some(hops),
            _ => None,
        });
        let (len, from) = (got.bytes, got.address);
        let Some(from) = from.filter(|from| from.scope_id() == self.ifindex) else {
            return Ok(None);
        };
        let near = hops.is_some_and(|hops| u32::try_from(hops) == Ok(HOP_LIMIT));
        let message = buf.get(..len).unwrap_or_default();
        Ok(near.then(|| decode(message, from.ip())).flatten())
    }
}

/// An advertisement of a router that nobody should use as their default router: its lifetime is 0
/// (RFC 4861 section 4.2).
fn advertisement() -> [u8; ADVERTISEMENT_LEN] {
    let mut message = [0; ADVERTISEMENT_LEN];
    message[0] = ADVERTISEMENT;
    message
}

/// RFC 4861 sections 6.1.1 and 6.1.2; the kernel has checked the checksum.
pub(crate) fn decode(message: &[u8], from: Ipv6Addr) -> Option<Heard> {
    let (&[kind, code, ..], len) = (message.first_chunk::<4>()?, message.len());
    match kind {
        _ if code != 0 => None,
        SOLICITATION if len >= SOLICITATION_LEN => Some(Heard::Question),
        ADVERTISEMENT
            if len >= ADVERTISEMENT_LEN
                && from.is_unicast_link_local()
                && options_are_whole(message.get(ADVERTISEMENT_LEN..)?) =>
        {
            Some(Heard::Router(from))
        }
        _ => None,
    }
}

/// Every option has a length, in units of eight octets, that is not 0 and fits.
fn options_are_whole(mut options: &[u8]) -> bool {
    while let Some(&[_, units]) = options.first_chunk::<2>() {
        match options.get(usize::from(units) * 8..) {
            Some(rest) if units > 0 => options = rest,
            _ => return false,
        }
    }
    options.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEAR: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    #[test]
    fn rfc4861_6_1_2_an_advertisement_is_valid_or_ignored() {
        let ours = advertisement();
        assert_eq!(decode(&ours, NEAR), Some(Heard::Router(NEAR)));
        let with_mtu = [&ours[..], &[5, 1, 0, 0, 0, 0, 5, 220]].concat();
        assert_eq!(decode(&with_mtu, NEAR), Some(Heard::Router(NEAR)));
        let far = "2001:db8::1".parse().unwrap();
        assert_eq!(decode(&ours, far), None, "not from a link-local address");
        assert_eq!(decode(&ours[..15], NEAR), None, "cut off");
        let code = [&[ADVERTISEMENT, 1][..], &ours[2..]].concat();
        assert_eq!(decode(&code, NEAR), None, "another code");
        for option in [
            &[5, 0, 0, 0, 0, 0, 0, 0][..],
            &[5, 2, 0, 0, 0, 0, 0, 0],
            &[5],
        ] {
            let message = [&ours[..], option].concat();
            assert_eq!(decode(&message, NEAR), None, "{option:?}");
        }
    }

    #[test]
    fn rfc4861_6_1_1_a_solicitation_is_a_question() {
        let message = [SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode(&message, NEAR), Some(Heard::Question));
        assert_eq!(decode(&message[..7], NEAR), None);
    }

    #[test]
    fn nobody_takes_us_for_a_default_router() {
        let lifetime = advertisement().get(6..8).map(<[u8]>::to_vec);
        assert_eq!(lifetime, Some(vec![0, 0]));
    }

    proptest! {
        #[test]
        fn any_octets_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            decode(&octets, NEAR);
        }
    }
}
