//! Packets that rules hand up (`NFLOG` in iptables, `log group` in nftables), read from the kernel.
//!
//! A group has one listener in a network namespace. The kernel gathers packets for a moment and sends them together;
//! what a listener is too slow for is dropped and counted, never waited for.

mod packet;

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

pub use self::packet::Packet;
use crate::netlink::{Batch, Messages, NetlinkError, RequestError};

/// `NFNL_SUBSYS_ULOG` with `NFULNL_MSG_PACKET` and `NFULNL_MSG_CONFIG`.
const PACKET: u16 = 0x0400;
const CONFIG: u16 = 0x0401;

const CFG_COMMAND: u16 = 1;
const CFG_MODE: u16 = 2;
const CFG_TIMEOUT: u16 = 4;
const CFG_GATHER: u16 = 5;
const CFG_FLAGS: u16 = 6;
const COMMAND_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const FLAG_SEQUENCE: u16 = 1;

/// Of each packet: what holds the headers up to the ports, with some IPv6 extensions.
const COPIED: u32 = 128;
/// The kernel sends after this time, in hundredths of a second, or once it has so many packets.
const TIMEOUT: u32 = 2;
const GATHERED: u32 = 32;

/// Some ten thousand packets, should the reader be busy elsewhere.
const RECEIVE_BUFFER: usize = 2 * 1024 * 1024;
const DATAGRAM_LEN: usize = 64 * 1024;

/// A listener to one group, in the network namespace in which it was opened. Dropping it ends it.
pub struct Listener {
    socket: TokioSocket,
    buffer: Vec<u8>,
    last: Option<u32>,
    lost: u64,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener")
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl Listener {
    /// Listens to a group. Needs a tokio runtime.
    ///
    /// # Errors
    /// `EPERM` when somebody else listens; others when the kernel has no `NFLOG` ([`is_unsupported`]).
    pub fn open(group: u16) -> Result<Self, NetlinkError> {
        let fail = |action| move |source| NetlinkError::Socket { action, source };
        let mut socket = TokioSocket::new(NETLINK_NETFILTER).map_err(fail("socket"))?;
        socket
            .socket_mut()
            .bind(&SocketAddr::new(0, 0))
            .map_err(fail("bind"))?;
        let fd = socket.socket_ref().as_fd();
        setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER))
            .map_err(|e| fail("set receive buffer")(e.into()))?;
        let mut listener = Self {
            socket,
            buffer: Vec::with_capacity(DATAGRAM_LEN),
            last: None,
            lost: 0,
        };
        listener.configure(group, |m| m.bytes(CFG_COMMAND, &[COMMAND_BIND]))?;
        listener.configure(group, |m| {
            let [a, b, c, d] = COPIED.to_be_bytes();
            m.bytes(CFG_MODE, &[a, b, c, d, COPY_PACKET, 0]);
            m.bytes(CFG_TIMEOUT, &TIMEOUT.to_be_bytes());
            m.bytes(CFG_GATHER, &GATHERED.to_be_bytes());
            m.bytes(CFG_FLAGS, &FLAG_SEQUENCE.to_be_bytes());
        })?;
        Ok(listener)
    }

    /// The kernel answers before the `send` returns.
    fn configure(
        &mut self,
        group: u16,
        fill: impl FnOnce(&mut crate::netlink::Request<'_>),
    ) -> Result<(), NetlinkError> {
        let fail = |action| move |source| NetlinkError::Socket { action, source };
        let [high, low] = group.to_be_bytes();
        let mut batch = Batch::new();
        batch.push(CONFIG, 0, &[0, 0, high, low], fill);
        let socket = self.socket.socket_ref();
        socket.send(batch.seal(1), 0).map_err(fail("send"))?;
        loop {
            self.buffer.clear();
            socket
                .recv(&mut self.buffer, libc::MSG_DONTWAIT)
                .map_err(fail("receive"))?;
            let answer = Messages(&self.buffer).find(|m| m.kind == libc::NLMSG_ERROR as u16);
            match answer.map(|answer| answer.error()) {
                Some(Some(error)) => return Err(error.into()),
                Some(None) => return Ok(()),
                // Packets, which may come as soon as there is a listener.
                None => {}
            }
        }
    }

    /// Waits for packets; they come a few at a time. Cancel safe.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub async fn packets(&mut self) -> io::Result<Vec<Packet>> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer).await {
                Ok(()) => {
                    let packets = self.read();
                    if !packets.is_empty() {
                        return Ok(packets);
                    }
                }
                // What was dropped is missing in the numbers.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn read(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        for message in Messages(&self.buffer).filter(|m| m.kind == PACKET) {
            let Some((packet, number)) = packet::parse(message.payload) else {
                continue;
            };
            if let Some(number) = number {
                let expected = self.last.map_or(number, |last| last.wrapping_add(1));
                self.lost += u64::from(number.wrapping_sub(expected));
                self.last = Some(number);
            }
            packets.push(packet);
        }
        packets
    }

    /// Packets that were dropped because they came faster than they were read.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }
}

/// Whether the kernel lacks `NFLOG`, so that rules that use it would be refused.
#[must_use]
pub fn is_unsupported(error: &NetlinkError) -> bool {
    let errno = error.refused().map(|RequestError { errno, .. }| *errno);
    matches!(
        errno,
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT)
    ) || matches!(
        error,
        NetlinkError::Socket {
            action: "socket",
            ..
        }
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::lab::NetNs;

    fn run(ns: &NetNs, work: impl AsyncFnOnce() + Send) {
        ns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(work());
        });
    }

    #[test]
    fn packets_of_the_group_come_with_their_prefix_and_what_is_missed_is_counted() {
        let ns = NetNs::new();
        let rules = tempfile::NamedTempFile::new().unwrap();
        let text = "table inet t { chain o { type filter hook output priority 0; \
                    udp dport 53 log group 7 prefix \"mgy:DeN\" drop; }; }";
        std::fs::write(&rules, text).unwrap();
        let (made, output) = ns.command(&format!("nft -f {}", rules.path().display()));
        assert!(made, "{output}");
        run(&ns, async || {
            let mut listener = Listener::open(7).unwrap();
            let taken = Listener::open(7).unwrap_err();
            assert_eq!(taken.refused().map(|e| e.errno), Some(libc::EPERM));
            assert!(!is_unsupported(&taken));
            let socket = std::net::UdpSocket::bind("127.0.0.1:4000").unwrap();
            let send = |times: usize| {
                for _ in 0..times {
                    socket.send_to(b"hello", "127.0.0.1:53").unwrap_err();
                }
            };
            send(1);
            let packets = listener.packets().await.unwrap();
            assert_eq!(packets[0].prefix, "mgy:DeN");
            assert_eq!(packets[0].ports, (4000, 53));
            assert_eq!((packets[0].protocol, packets[0].bytes), (17, 33));
            assert!(packets[0].out_index.is_some() && packets[0].in_index.is_none());
            // Far more than the buffer holds.
            let (mut sent, mut read) = (60_000, 0);
            send(sent);
            while listener.lost() == 0 {
                match timeout(Duration::from_millis(200), listener.packets()).await {
                    Ok(packets) => read += packets.unwrap().len(),
                    // That the last ones are missing only shows with the next.
                    Err(_elapsed) => {
                        send(1);
                        sent += 1;
                    }
                }
            }
            assert!(read + listener.lost() as usize <= sent);
            assert!(read > 100, "{read}");
        });
    }
}
