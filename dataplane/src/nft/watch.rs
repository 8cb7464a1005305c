//! Hears of changes that others make to our table.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use super::{
    TABLE_NAME,
    wire::{GROUP, TABLE, is_nf_tables},
};
use crate::netlink::{Attributes, Messages, string_from};

/// A burst of changes of others that the reader may sleep through. Overruns only cost a look.
const RECEIVE_BUFFER: usize = 1024 * 1024;
const DATAGRAM_LEN: usize = 64 * 1024;
/// Length of `struct nfgenmsg`.
const HEADER_LEN: usize = 4;

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

    /// Returns when somebody else changed our table, or may have; `own` is the port of our own socket (see
    /// [`crate::filter::Filter::event_port`]). Cancel safe: a change that is missed is one that is told of.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub async fn changed(&mut self, own: Option<u32>) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer).await {
                Ok(()) if concerns_us(&self.buffer, own) => return Ok(()),
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn concerns_us(datagram: &[u8], own: Option<u32>) -> bool {
    Messages(datagram).any(|message| {
        let of_others = is_nf_tables(message.kind) && Some(message.port) != own;
        let table = Attributes::after(message.payload, HEADER_LEN).find(TABLE);
        of_others && table.is_some_and(|table| string_from(table) == TABLE_NAME)
    })
}
