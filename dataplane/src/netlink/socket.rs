//! The socket: one conversation at a time, always to its end.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use rtnetlink::sys::{self, SocketAddr};

use super::batch::HEADER_LEN;
use super::{Attributes, Batch, NetlinkError, Request, RequestError, string_from, u32_from};

/// The largest message the kernel builds for a dump is 32 KiB; errors repeat a request only up to its header.
const RECEIVE_LEN: usize = 64 * 1024;
/// Room for the error of each of the 256 requests in a batch of the route table, many times over.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
const TIMEOUT_SECS: u64 = 10;
/// Each interrupted dump means that somebody else changed routes or links meanwhile.
const DUMP_ATTEMPTS: u32 = 10;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A message that answers a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The place of the request in its batch.
    pub request: usize,
    /// Message type, such as `RTM_NEWLINK`.
    pub kind: u16,
    /// The message behind its netlink header.
    pub payload: Vec<u8>,
}

/// What became of a batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The requests that failed, by their place; all others succeeded.
    pub errors: Vec<(usize, RequestError)>,
    /// Messages the kernel sent for requests that ask for something.
    pub answers: Vec<Answer>,
}

impl Outcome {
    /// The answer to the request at this place.
    #[must_use]
    pub fn answer(&self, request: usize) -> Option<&Answer> {
        self.answers.iter().find(|a| a.request == request)
    }

    /// The error of the request at this place.
    #[must_use]
    pub fn error(&self, request: usize) -> Option<&RequestError> {
        self.errors
            .iter()
            .find(|(r, _)| *r == request)
            .map(|(_, e)| e)
    }
}

/// A blocking netlink socket. It stays in the network namespace in which it was opened.
pub struct Socket {
    inner: sys::Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Socket {
    /// A socket for links, addresses, neighbours and routes, in the calling thread's network namespace.
    pub fn route() -> Result<Self, NetlinkError> {
        Self::open(sys::protocols::NETLINK_ROUTE)
    }

    /// A socket for conntrack and its relatives, in the calling thread's network namespace.
    pub fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(sys::protocols::NETLINK_NETFILTER)
    }

    /// A socket for drivers with messages of their own, in the calling thread's network namespace.
    pub fn generic() -> Result<Self, NetlinkError> {
        Self::open(sys::protocols::NETLINK_GENERIC)
    }

    fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let fail = |action| move |source| NetlinkError::Socket { action, source };
        let mut inner = sys::Socket::new(protocol).map_err(fail("socket"))?;
        let port = inner.bind_auto().map_err(fail("bind"))?.port_number();
        inner
            .connect(&SocketAddr::new(0, 0))
            .map_err(fail("connect"))?;
        // Old kernels lack these three; errors then come without text, dumps unfiltered.
        for optional in [
            inner.set_ext_ack(true),
            inner.set_cap_ack(true),
            inner.set_netlink_get_strict_chk(true),
        ] {
            drop(optional);
        }
        let fd = inner.as_fd();
        setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER))
            .map_err(|e| fail("set receive buffer")(e.into()))?;
        setsockopt(
            &fd,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(TIMEOUT_SECS as i64),
        )
        .map_err(|e| fail("set time-out")(e.into()))?;
        Ok(Self {
            inner,
            port,
            sequence: 1,
            buffer: Vec::with_capacity(RECEIVE_LEN),
        })
    }

    /// The port that the kernel notes in events caused by this socket.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Sends a batch and reads everything the kernel says about it. An error of one request leaves the others alone.
    pub fn transact(&mut self, batch: &mut Batch) -> Result<Outcome, NetlinkError> {
        #[cfg(test)]
        if let Some((place, fault)) = crate::faults::strike(batch.len()) {
            return fault.in_batch(place, batch, self, Self::converse);
        }
        self.converse(batch)
    }

    fn converse(&mut self, batch: &mut Batch) -> Result<Outcome, NetlinkError> {
        let mut outcome = Outcome::default();
        let count = batch.len() as u32;
        if count == 0 {
            return Ok(outcome);
        }
        let first = self.advance(count);
        self.send(batch.seal(first))?;
        let mut done = false;
        while !done {
            self.receive()?;
            for message in Messages(&self.buffer) {
                let request = message.sequence.wrapping_sub(first);
                if request >= count {
                    continue;
                }
                if message.kind == libc::NLMSG_ERROR as u16 {
                    done |= request == count - 1;
                    outcome
                        .errors
                        .extend(message.error().map(|e| (request as usize, e)));
                } else if message.kind >= libc::NLMSG_MIN_TYPE as u16 {
                    let payload = message.payload.to_vec();
                    let request = request as usize;
                    outcome.answers.push(Answer {
                        request,
                        kind: message.kind,
                        payload,
                    });
                }
            }
        }
        Ok(outcome)
    }

    /// Sends requests that the kernel takes as a whole or not at all, with the acknowledgement asked of the
    /// one at `acknowledged`. Everything the kernel says is there when the `send` returns. What it refused
    /// is in the errors, each with the place of its request; those of the frame have places too.
    pub fn commit(
        &mut self,
        batch: &mut Batch,
        acknowledged: usize,
    ) -> Result<Vec<(usize, RequestError)>, NetlinkError> {
        let count = batch.len() as u32;
        let first = self.advance(count);
        self.send(batch.seal_at(first, acknowledged))?;
        let mut errors = Vec::new();
        let mut done = false;
        loop {
            self.buffer.clear();
            match self.inner.recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.drain();
                    return Err(NetlinkError::Overrun);
                }
                Err(source) => {
                    let action = "receive";
                    return Err(NetlinkError::Socket { action, source });
                }
            }
            for message in Messages(&self.buffer) {
                let request = message.sequence.wrapping_sub(first);
                if request >= count || message.kind != libc::NLMSG_ERROR as u16 {
                    continue;
                }
                done |= request as usize == acknowledged;
                let error = message.error();
                errors.extend(error.map(|error| (request as usize, error)));
            }
        }
        match done || !errors.is_empty() {
            true => Ok(errors),
            // Neither done nor refused: the answer was lost.
            false => Err(NetlinkError::Overrun),
        }
    }

    /// Lets a batch of this many bytes be sent at once; only a limit.
    pub(crate) fn allow_batches_of(&self, bytes: usize) -> Result<(), NetlinkError> {
        let fd = self.inner.as_fd();
        setsockopt(&fd, sockopt::SndBufForce, &bytes)
            .or_else(|_| setsockopt(&fd, sockopt::SndBuf, &bytes))
            .map_err(|e| NetlinkError::Socket {
                action: "set send buffer",
                source: e.into(),
            })
    }

    /// One request; returns the first message it was answered with, if it asks for something.
    pub fn request(
        &mut self,
        kind: u16,
        flags: i32,
        header: &[u8],
        fill: impl FnOnce(&mut Request<'_>),
    ) -> Result<Option<Vec<u8>>, NetlinkError> {
        let mut batch = Batch::new();
        batch.push(kind, flags, header, fill);
        let mut outcome = self.transact(&mut batch)?;
        match outcome.errors.pop() {
            Some((_, error)) => Err(error.into()),
            None => Ok(outcome.answers.into_iter().next().map(|a| a.payload)),
        }
    }

    /// Reads a whole table: `read` is called for each entry with its message type and payload, and picks what it
    /// wants. A dump that was interrupted by a change is thrown away and repeated.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        header: &[u8],
        fill: impl Fn(&mut Request<'_>),
        mut read: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut batch = Batch::new();
            batch.push(kind, libc::NLM_F_DUMP, header, &fill);
            let mut entries = Vec::new();
            if self.dump_once(&mut batch, &mut |kind, payload| {
                entries.extend(read(kind, payload))
            })? {
                return Ok(entries);
            }
        }
        Err(NetlinkError::DumpInterrupted(DUMP_ATTEMPTS))
    }

    /// Whether a table has an entry for which `is` holds. Hears the answer no further than that: the socket is done with.
    pub(crate) fn dump_has(
        mut self,
        kind: u16,
        header: &[u8],
        fill: impl Fn(&mut Request<'_>),
        is: impl Fn(&[u8]) -> bool,
    ) -> Result<bool, NetlinkError> {
        let mut batch = Batch::new();
        batch.push(kind, libc::NLM_F_DUMP, header, fill);
        let sequence = self.advance(1);
        self.send(batch.seal(sequence))?;
        loop {
            self.receive()?;
            for message in Messages(&self.buffer).filter(|m| m.sequence == sequence) {
                let end = [libc::NLMSG_DONE as u16, libc::NLMSG_ERROR as u16];
                if end.contains(&message.kind) {
                    return message.error().map_or(Ok(false), |error| Err(error.into()));
                }
                if is(message.payload) {
                    return Ok(true);
                }
            }
        }
    }

    /// False if the dump was interrupted.
    fn dump_once(
        &mut self,
        batch: &mut Batch,
        read: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<bool, NetlinkError> {
        #[cfg(test)]
        if let Some((_, fault)) = crate::faults::strike(1) {
            let refused = |errno| RequestError { errno, text: None }.into();
            return Err(fault.errno().map_or(NetlinkError::Overrun, refused));
        }
        let sequence = self.advance(1);
        self.send(batch.seal(sequence))?;
        let mut whole = true;
        loop {
            self.receive()?;
            for message in Messages(&self.buffer).filter(|m| m.sequence == sequence) {
                whole &= message.flags & libc::NLM_F_DUMP_INTR as u16 == 0;
                if message.kind == libc::NLMSG_DONE as u16 {
                    return match message.error() {
                        Some(error) => Err(error.into()),
                        None => Ok(whole),
                    };
                }
                if message.kind == libc::NLMSG_ERROR as u16 {
                    if let Some(error) = message.error() {
                        return Err(error.into());
                    }
                } else {
                    read(message.kind, message.payload);
                }
            }
        }
    }

    fn advance(&mut self, count: u32) -> u32 {
        let first = self.sequence;
        self.sequence = first.wrapping_add(count);
        first
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        match self.inner.send(bytes, 0) {
            Ok(_) => Ok(()),
            Err(source) => Err(NetlinkError::Socket {
                action: "send",
                source,
            }),
        }
    }

    fn receive(&mut self) -> Result<(), NetlinkError> {
        loop {
            self.buffer.clear();
            let Err(source) = self.inner.recv(&mut self.buffer, 0) else {
                return Ok(());
            };
            return Err(match source.kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => NetlinkError::Timeout(TIMEOUT_SECS),
                _ if source.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.drain();
                    NetlinkError::Overrun
                }
                _ => NetlinkError::Socket {
                    action: "receive",
                    source,
                },
            });
        }
    }

    /// After an overrun the kernel drops everything, acknowledgements too, until what it holds has been read.
    fn drain(&mut self) {
        loop {
            self.buffer.clear();
            if self
                .inner
                .recv(&mut self.buffer, libc::MSG_DONTWAIT)
                .is_err()
            {
                return;
            }
        }
    }
}

/// One message in a received datagram.
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

impl Received<'_> {
    /// The error in an `NLMSG_ERROR` or `NLMSG_DONE`; none when it is an acknowledgement.
    pub(crate) fn error(&self) -> Option<RequestError> {
        let errno = -(u32_from(self.payload)? as i32);
        if errno == 0 {
            return None;
        }
        let text = (self.flags & libc::NLM_F_ACK_TLVS as u16 != 0)
            .then(|| Attributes::after(self.payload, self.text_offset()).find(NLMSGERR_ATTR_MSG))
            .flatten()
            .map(string_from);
        Some(RequestError { errno, text })
    }

    /// Behind the error number come the header of the request and, unless capped, its payload.
    fn text_offset(&self) -> usize {
        if self.kind == libc::NLMSG_DONE as u16 {
            return 4;
        }
        if self.flags & libc::NLM_F_CAPPED as u16 != 0 {
            return 4 + HEADER_LEN;
        }
        let request = self
            .payload
            .get(4..8)
            .and_then(u32_from)
            .unwrap_or(HEADER_LEN as u32);
        4 + (request as usize).next_multiple_of(4)
    }
}

/// Splits a datagram into messages; a malformed one ends it.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Received<'a>> {
        let header = self.0.get(..HEADER_LEN)?;
        let length = u32_from(header)? as usize;
        let received = Received {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32_from(&header[8..])?,
            port: u32_from(&header[12..])?,
            payload: self.0.get(HEADER_LEN..length)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::NetNs;
    use crate::netlink::ifinfomsg;

    #[test]
    fn errors_are_told_apart_by_request() {
        let ns = NetNs::new();
        ns.run(|| {
            let mut socket = Socket::route().unwrap();
            let mut batch = Batch::new();
            for name in ["lo", "nope0", "lo", "nope1"] {
                batch.push(libc::RTM_GETLINK, 0, &ifinfomsg(0, 0, 0), |m| {
                    m.string(libc::IFLA_IFNAME, name);
                });
            }
            let outcome = socket.transact(&mut batch).unwrap();
            let failed: Vec<_> = outcome.errors.iter().map(|(place, _)| *place).collect();
            assert_eq!(failed, [1, 3]);
            assert!(outcome.error(1).unwrap().is_missing());
            assert!(outcome.answer(0).is_some() && outcome.answer(2).is_some());
            assert_eq!(outcome.answer(1), None);
        });
    }

    #[test]
    fn the_conversation_goes_on_after_an_overrun() {
        let ns = NetNs::new();
        ns.run(|| {
            let mut socket = Socket::route().unwrap();
            setsockopt(&socket.inner.as_fd(), sockopt::RcvBuf, &4096).unwrap();
            let mut batch = Batch::new();
            for _ in 0..256 {
                batch.push(libc::RTM_SETLINK, 0, &ifinfomsg(4_000_000, 0, 0), |_| {});
            }
            let error = socket.transact(&mut batch).unwrap_err();
            assert!(matches!(error, NetlinkError::Overrun), "{error}");
            let answer = socket.request(libc::RTM_GETLINK, 0, &ifinfomsg(1, 0, 0), |_| {});
            assert!(answer.unwrap().is_some());
        });
    }
}
