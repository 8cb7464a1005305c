//! The kernel's side of the netlink socket, so that tests can put failures there.

use std::fmt::Debug;

use super::{
    read::{self, Found},
    wire::Transaction,
};
use crate::netlink::{NetlinkError, RequestError, Socket};

/// Far more than the largest transaction: a million members take some 100 MB. A limit, not memory.
const LARGEST_BATCH: usize = 256 * 1024 * 1024;

/// Reading the table and changing it.
pub(super) trait Edge: Debug + Send {
    /// Everything of ours.
    fn read(&mut self) -> Result<Found, NetlinkError>;
    /// How often each rule matched, by chain.
    fn counters(&mut self) -> Result<read::Counters, NetlinkError>;
    /// Changes everything or nothing. The places of the messages that were refused, none when all is done.
    fn commit(
        &mut self,
        transaction: &mut Transaction<super::plan::About>,
    ) -> Result<Vec<(usize, RequestError)>, NetlinkError>;
    /// The port that events of our own changes carry.
    fn port(&self) -> u32;
}

/// The kernel of the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Kernel {
    socket: Socket,
}

impl Kernel {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::netfilter()?;
        socket.allow_batches_of(LARGEST_BATCH)?;
        Ok(Self { socket })
    }
}

impl Edge for Kernel {
    fn read(&mut self) -> Result<Found, NetlinkError> {
        read::all(&mut self.socket)
    }

    fn counters(&mut self) -> Result<read::Counters, NetlinkError> {
        read::counters(&mut self.socket)
    }

    fn commit(
        &mut self,
        transaction: &mut Transaction<super::plan::About>,
    ) -> Result<Vec<(usize, RequestError)>, NetlinkError> {
        let (batch, last) = transaction.finish();
        self.socket.commit(batch, last)
    }

    fn port(&self) -> u32 {
        self.socket.port()
    }
}
