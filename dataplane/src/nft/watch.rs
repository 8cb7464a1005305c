//! Hears of changes that others make to rules of ours: in our table, or in those of iptables' nft variant.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use super::{
    TABLE_NAME,
    wire::{GROUP, Message, TABLE, chain, is_nf_tables, rule},
};
use crate::filter::names::CHAIN_PREFIX;
use crate::netlink::{Attributes, Messages, string_from};

/// A burst of changes of others that the reader may sleep through. Overruns only cost a look.
const RECEIVE_BUFFER: usize = 1024 * 1024;
const DATAGRAM_LEN: usize = 64 * 1024;
/// Length of `struct nfgenmsg`.
const HEADER_LEN: usize = 4;

/// Which changes a filter should hear of, and by which ports it makes changes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    place: Place,
    own: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    OurTable,
    /// Chains of ours, and those of the kernel's that lead to them, in the tables that iptables' nft variant has.
    Iptables,
}

impl Concern {
    /// Everything in our table.
    #[must_use]
    pub fn our_table(own: Option<u32>) -> Self {
        Self {
            place: Place::OurTable,
            own: own.into_iter().collect(),
        }
    }

    /// Our chains in iptables' nft variant. A program that writes there does so by a port that is its process id.
    #[must_use]
    pub fn iptables(own: Vec<u32>) -> Self {
        Self {
            place: Place::Iptables,
            own,
        }
    }

    fn is(&self, datagram: &[u8]) -> bool {
        Messages(datagram).any(|message| {
            let of_others = is_nf_tables(message.kind) && !self.own.contains(&message.port);
            let attributes = Attributes::after(message.payload, HEADER_LEN);
            of_others
                && match self.place {
                    Place::OurTable => {
                        let table = attributes.find(TABLE);
                        table.is_some_and(|table| string_from(table) == TABLE_NAME)
                    }
                    Place::Iptables => is_of_iptables(message.kind, message.payload, attributes),
                }
        })
    }
}

/// A rule or a chain that went, or a rule that came.
fn is_of_iptables(kind: u16, payload: &[u8], attributes: Attributes<'_>) -> bool {
    let name = match kind {
        _ if kind == Message::NewRule.kind() || kind == Message::DelRule.kind() => rule::CHAIN,
        _ if kind == Message::DelChain.kind() => chain::NAME,
        _ => return false,
    };
    let families = [libc::NFPROTO_IPV4 as u8, libc::NFPROTO_IPV6 as u8];
    let name = attributes.find(name).map(string_from).unwrap_or_default();
    let ours = name.starts_with(CHAIN_PREFIX) || LEADING_TO_OURS.contains(&name.as_str());
    ours && payload
        .first()
        .is_some_and(|family| families.contains(family))
}

/// Chains that come before ours.
const LEADING_TO_OURS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// A subscription in the network namespace in which it was opened. Dropping it ends it.
pub struct Watch {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Subscribes. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the kernel has no nf_tables, or lets nobody listen.
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        let fd = socket.socket_ref().as_fd();
        setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        socket.socket_mut().add_membership(GROUP)?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(DATAGRAM_LEN),
        })
    }

    /// Returns when somebody else made such a change, or may have (see [`crate::filter::Filter::concern`]). Cancel safe:
    /// a change that is missed is one that is told of.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub async fn changed(&mut self, concern: &Concern) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer).await {
                Ok(()) if concern.is(&self.buffer) => return Ok(()),
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
