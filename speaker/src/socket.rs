//! TCP sockets as BGP wants them: TTL rules, MD5 keys, CS6, no Nagle.
//!
//! Socket options that no safe wrapper offers are set here and nowhere else.
#![expect(
    unsafe_code,
    reason = "TCP_MD5SIG, the minimum TTL, TCP_QUICKACK's third value and filters have no safe wrapper"
)]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use margay_bgp::prefix::Prefix;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{config::Ttl, secret::Secret};

/// Connections that may wait to be accepted: a whole fabric may dial at once after an outage, and
/// a dropped handshake costs seconds.
const BACKLOG: i32 = 4096;
/// DSCP CS6, network control, as the IP TOS octet.
const TOS_CS6: u32 = 0xc0;
const TTL_MAX: u8 = 255;
const TTL_DEFAULT: u8 = 64;
/// RFC 2385 key length that the kernel takes.
const MD5_KEY_MAX: usize = 80;

/// Of `TCP_QUICKACK`: bit 0 is for what comes later, any other for what has come (`net/ipv4/tcp.c`).
const QUICKACK_ONCE: libc::c_int = 2;

/// linux/tcp.h; the libc crate lacks them.
const TCP_MD5SIG_EXT: libc::c_int = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    addr: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: i32,
    key: [u8; MD5_KEY_MAX],
}

/// The TTL to send with, and the lowest to accept (RFC 5082: 255 less the hops on the way).
const fn ttl_rules(ttl: Ttl, external: bool) -> (u8, Option<u8>) {
    match ttl {
        Ttl::Direct if external => (1, None),
        Ttl::Direct | Ttl::Multihop => (TTL_DEFAULT, None),
        Ttl::Security(hops) => (TTL_MAX, Some(TTL_MAX - hops.saturating_sub(1))),
    }
}

/// A listening socket.
pub(crate) fn listener(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = new_socket(addr)?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A peer with GTSM drops a SYN-ACK with less; accepted sockets get their own value.
    set_ttl(&socket, addr.ip(), TTL_MAX)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket to dial from.
pub(crate) fn dialler(
    peer: SocketAddr,
    source: Option<IpAddr>,
    ttl: Ttl,
    external: bool,
    password: Option<&Secret>,
) -> io::Result<tokio::net::TcpSocket> {
    let socket = new_socket(peer)?;
    apply(&socket, peer.ip(), ttl, external)?;
    if let Some(key) = password {
        set_md5(&socket, Prefix::host(peer.ip()), Some(key))?;
    }
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(tokio::net::TcpSocket::from_std_stream(socket.into()))
}

/// Makes an accepted socket follow the rules of its peer.
pub(crate) fn adopt(
    stream: &tokio::net::TcpStream,
    peer: IpAddr,
    ttl: Ttl,
    external: bool,
) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    apply(&socket, peer, ttl, external)?;
    // From here on its own rules do what the listener's filter has done.
    take_only(stream, &[])
}

/// Sets or removes the TCP MD5 key (RFC 2385) for segments from and to `peers`: one address, or a
/// range of them. On a listener that has to happen before the peer's SYN arrives. Of several keys
/// the one of the longest prefix counts.
pub(crate) fn set_md5(
    socket: &impl AsRawFd,
    peers: Prefix,
    key: Option<&Secret>,
) -> io::Result<()> {
    let key = key.map_or(&[][..], |k| k.expose().as_bytes());
    let single = peers == Prefix::host(peers.addr());
    let mut option = TcpMd5Sig {
        addr: storage(peers.addr()),
        flags: if single { 0 } else { TCP_MD5SIG_FLAG_PREFIX },
        prefix_len: if single { 0 } else { peers.len() },
        key_len: u16::try_from(key.len()).unwrap_or(0),
        ifindex: 0,
        key: [0; MD5_KEY_MAX],
    };
    let Some(room) = option.key.get_mut(..key.len()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the MD5 key exceeds 80 octets",
        ));
    };
    room.copy_from_slice(key);
    let name = if single {
        libc::TCP_MD5SIG
    } else {
        TCP_MD5SIG_EXT
    };
    set_option(socket, libc::IPPROTO_TCP, name, &option)
}

/// Has a listener, and connections that come by it, take only what this filter takes; with none everything.
pub(crate) fn take_only(socket: &impl AsRawFd, filter: &[libc::sock_filter]) -> io::Result<()> {
    if filter.is_empty() {
        let nothing: libc::c_int = 0;
        let detached = set_option(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &nothing);
        return match detached {
            // There was none.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        };
    }
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap_or(0),
        // The kernel only reads it.
        filter: filter.as_ptr().cast_mut(),
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// The lowest TTL to accept of a peer; zero if any will do.
pub(crate) fn lowest_ttl(ttl: Ttl) -> u8 {
    ttl_rules(ttl, false).1.unwrap_or(0)
}

/// Lets these types of ICMPv6 messages through a raw socket and no others.
pub(crate) fn pass_only_icmp6(socket: &impl AsRawFd, types: &[u8]) -> io::Result<()> {
    // A set bit blocks; linux/icmpv6.h, `struct icmp6_filter`.
    let mut filter = [u32::MAX; 8];
    for kind in types {
        if let Some(word) = filter.get_mut(usize::from(kind >> 5)) {
            *word &= !(1 << (kind & 31));
        }
    }
    set_option(socket, libc::IPPROTO_ICMPV6, ICMP6_FILTER, &filter)
}

/// Tells the other side's kernel that what was read has come, and ours to leave that to us from here on, in
/// one call. Where ours has told it already, it goes on telling by itself: there [`leave_acknowledging`] is
/// needed as well.
pub(crate) fn acknowledge(socket: &impl AsRawFd) -> io::Result<()> {
    set_option(
        socket,
        libc::IPPROTO_TCP,
        libc::TCP_QUICKACK,
        &QUICKACK_ONCE,
    )
}

/// Tells our kernel to leave it to us when the other side's hears that what was read has come; after some 40
/// ms, and where much comes, it does so all the same.
pub(crate) fn leave_acknowledging(socket: &impl AsRawFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, &0_i32)
}

fn new_socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn apply(socket: &Socket, peer: IpAddr, ttl: Ttl, external: bool) -> io::Result<()> {
    let (send, accept) = ttl_rules(ttl, external);
    socket.set_tcp_nodelay(true)?;
    match peer {
        IpAddr::V4(_) => socket.set_tos_v4(TOS_CS6)?,
        IpAddr::V6(_) => socket.set_tclass_v6(TOS_CS6)?,
    }
    set_ttl(socket, peer, send)?;
    if let Some(min) = accept {
        let min = libc::c_int::from(min);
        match peer {
            IpAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &min)?,
            IpAddr::V6(_) => set_option(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &min)?,
        }
    }
    Ok(())
}

/// linux/icmpv6.h; the libc crate lacks it.
const ICMP6_FILTER: libc::c_int = 1;

/// linux/in6.h; the libc crate lacks it.
const IPV6_MINHOPCOUNT: libc::c_int = 73;

fn set_ttl(socket: &Socket, peer: IpAddr, ttl: u8) -> io::Result<()> {
    match peer {
        IpAddr::V4(_) => socket.set_ttl_v4(ttl.into()),
        IpAddr::V6(_) => socket.set_unicast_hops_v6(ttl.into()),
    }
}

fn storage(addr: IpAddr) -> libc::sockaddr_storage {
    let addr = SockAddr::from(SocketAddr::new(addr, 0));
    // SAFETY: `SockAddr` keeps a whole sockaddr_storage behind the pointer, initialised.
    unsafe { addr.as_ptr().cast::<libc::sockaddr_storage>().read() }
}

fn set_option<T>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: `value` is valid for reads of `len` octets for the call; every option set here is
    // plain data that the kernel copies, and what a filter points to outlives the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            len,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc5082_ttl_rules() {
        assert_eq!(ttl_rules(Ttl::Direct, true), (1, None));
        assert_eq!(ttl_rules(Ttl::Direct, false), (64, None));
        assert_eq!(ttl_rules(Ttl::Security(1), true), (255, Some(255)));
        assert_eq!(ttl_rules(Ttl::Security(3), true), (255, Some(253)));
    }

    #[test]
    fn the_md5_option_has_the_size_that_the_kernel_expects() {
        assert_eq!(size_of::<TcpMd5Sig>(), 216);
    }
}
