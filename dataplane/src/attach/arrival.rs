//! The container's IPv6 addresses on their way: the kernel takes one at once and makes it its own by a work queue, which
//! on a busy host comes to it after the first packet. That packet would be somebody else's to the container, and lost.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::{AttachError, AttachSpec};
use crate::netlink::{Batch, Socket};

const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

const RTMSG_LEN: usize = 12;
/// Where `rtm_type` is in a `struct rtmsg`.
const TYPE_AT: usize = 7;

/// The addresses that may not have arrived yet. Nothing happens when it is dropped.
#[derive(Debug)]
pub struct Arriving {
    socket: Socket,
    ifname: String,
    addresses: Vec<IpAddr>,
}

impl Arriving {
    pub(super) fn new(socket: Socket, spec: &AttachSpec, addresses: &[IpAddr]) -> Self {
        let v6 = addresses.iter().copied().filter(IpAddr::is_ipv6);
        Self {
            socket,
            ifname: spec.container_ifname.clone(),
            addresses: v6.collect(),
        }
    }

    /// Whether all have arrived; costs one exchange with the kernel, or none if they are known to have, or there are
    /// none. By the time that policy and routes are programmed they usually have.
    pub fn is_over(&mut self) -> Result<bool, AttachError> {
        if self.addresses.is_empty() {
            return Ok(true);
        }
        let mut batch = Batch::new();
        let mut header = [0; RTMSG_LEN];
        (header[0], header[1]) = (libc::AF_INET6 as u8, 128);
        for address in &self.addresses {
            batch.push(libc::RTM_GETROUTE, 0, &header, |m| {
                m.ip(libc::RTA_DST, *address);
            });
        }
        let look = AttachError::kernel("look for an address", &self.ifname);
        let outcome = self.socket.transact(&mut batch).map_err(look)?;
        // Until then the way to it is that to everybody, or there is none.
        let is_own = |place: usize| {
            let answer = outcome.answer(place);
            answer.is_some_and(|a| a.payload.get(TYPE_AT) == Some(&libc::RTN_LOCAL))
        };
        let over = (0..self.addresses.len()).all(is_own);
        if over {
            self.addresses.clear();
        }
        Ok(over)
    }

    /// Waits until all have arrived. Whether they have within this time.
    pub fn wait(&mut self, patience: Duration) -> Result<bool, AttachError> {
        let end = Instant::now() + patience;
        let mut pause = FIRST_PAUSE;
        while !self.is_over()? {
            if Instant::now() >= end {
                return Ok(false);
            }
            thread::sleep(pause);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        Ok(true)
    }
}
