//! One TCP connection: the beginning of a message, and a queue of what is to be written.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice, Read},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use margay_bgp::{session::ConnId, wire::header};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, task::JoinSet};

use crate::{
    driver::ready::{Bell, Ready},
    peer_key::PeerKey,
    socket,
};

/// Names a link; never reused.
pub(super) type LinkId = u64;

/// Octets read at a time. Twice the longest message, so that there is room behind the beginning of
/// one; what is handed over is copied out, and then more of it would leave the cache.
const READ: usize = 128 << 10;
/// Buffers that one write gathers.
const GATHER: usize = 64;
/// After so many acknowledgements our kernel is told once more to leave them to us: it comes to send them
/// itself when much has come, and when it was too early for us.
const LEFT_EVERY: u32 = 8;
/// How long a closing connection may need to take what was queued, NOTIFICATION included.
const LINGER: Duration = Duration::from_secs(1);

/// A connection of a peer.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: PeerKey,
    pub(super) conn: ConnId,
    pub(super) stream: Arc<TcpStream>,
    bell: Waker,
    /// The beginning of a message.
    partial: Vec<u8>,
    /// The peer may be about to negotiate messages beyond 4096 octets.
    extended: bool,
    /// Whole messages; the first may be sent in part.
    queue: VecDeque<Bytes>,
    queued: usize,
    front_started: bool,
    /// Messages that overtake the queue.
    urgent: VecDeque<Bytes>,
    /// The socket took no more; a task waits until it does.
    pub(super) blocked: bool,
    /// How often what was read was acknowledged.
    acknowledged: u32,
    /// The OPENs sent and received, whole messages.
    pub(super) opens: [Bytes; 2],
}

/// What a look at a socket found.
#[derive(Debug)]
pub(super) struct Piece {
    /// Whole messages, or nothing.
    pub(super) data: Bytes,
    /// There is more to read.
    pub(super) more: bool,
}

/// What a connection leaves to the next process.
#[derive(Debug)]
pub(super) struct LeftLink {
    pub(super) socket: OwnedFd,
    pub(super) opens: [Bytes; 2],
    /// The beginning of a message that was read.
    pub(super) partial: Bytes,
    /// What is to be written before anything else; may begin inside a message.
    pub(super) unsent: Bytes,
}

impl Link {
    /// `extended` is whether the peer may be about to negotiate messages beyond 4096 octets. Rings
    /// once it was told to [listen](Self::listen).
    pub(super) fn new(
        id: LinkId,
        (peer, conn): (PeerKey, ConnId),
        stream: TcpStream,
        extended: bool,
        ready: Arc<Ready>,
    ) -> Self {
        Self {
            peer,
            conn,
            stream: Arc::new(stream),
            bell: Bell::waker(Some(id), ready),
            partial: Vec::new(),
            extended,
            queue: VecDeque::new(),
            queued: 0,
            front_started: false,
            urgent: VecDeque::new(),
            blocked: false,
            acknowledged: 0,
            opens: [Bytes::new(), Bytes::new()],
        }
    }

    /// Goes on with what another process had begun to read and to write, before anything else.
    pub(super) fn resume(&mut self, opens: [Bytes; 2], partial: &[u8], unsent: Bytes) {
        self.opens = opens;
        self.partial = partial.to_vec();
        if !unsent.is_empty() {
            self.push(unsent);
            self.front_started = true;
        }
    }

    /// Ends here; another process goes on.
    pub(super) fn leave(mut self) -> io::Result<LeftLink> {
        let mut queue = std::mem::take(&mut self.queue).into_iter();
        // A message that has begun has to end before an urgent one.
        let begun = if self.front_started {
            queue.next()
        } else {
            None
        };
        let mut unsent = BytesMut::new();
        begun
            .into_iter()
            .chain(self.urgent.drain(..))
            .chain(queue)
            .for_each(|messages| unsent.extend_from_slice(&messages));
        let partial = std::mem::take(&mut self.partial);
        Ok(LeftLink {
            socket: self.stream.as_fd().try_clone_to_owned()?,
            opens: std::mem::take(&mut self.opens),
            partial: partial.into(),
            unsent: unsent.freeze(),
        })
    }

    /// Rings once there is something to read.
    pub(super) fn listen(&self) {
        let mut cx = Context::from_waker(&self.bell);
        // An error is found by reading.
        if self.stream.poll_read_ready(&mut cx).is_ready() {
            self.bell.wake_by_ref();
        }
    }

    /// Reads what there is; `None` at the end of the stream.
    pub(super) fn read(&mut self) -> io::Result<Option<Piece>> {
        match read_once(&self.stream, &mut self.partial, self.extended) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Some(Piece {
                data: Bytes::new(),
                more: false,
            })),
            result => result,
        }
    }

    /// Tells the peer's kernel that what was read has come. By itself ours would do so in the middle of the
    /// reading that empties the socket, and what is to be told of a single route would wait for that.
    pub(super) fn acknowledge(&mut self) {
        // Where these fail the connection is gone, or the kernel goes on as it likes.
        drop(socket::acknowledge(&*self.stream));
        if self.acknowledged.is_multiple_of(LEFT_EVERY) {
            drop(socket::leave_acknowledging(&*self.stream));
        }
        self.acknowledged = self.acknowledged.wrapping_add(1);
    }

    /// Whether the peer has sent anything that is still to be taken in.
    pub(super) fn has_unread(&self) -> bool {
        let mut first = [MaybeUninit::uninit()];
        let peeked = SockRef::from(&*self.stream).peek(&mut first);
        peeked.is_ok_and(|n| n > 0)
    }

    /// Octets that wait in the queue.
    pub(super) const fn queued(&self) -> usize {
        self.queued
    }

    pub(super) fn is_drained(&self) -> bool {
        self.queue.is_empty() && self.urgent.is_empty()
    }

    /// Queues whole messages.
    pub(super) fn push(&mut self, messages: Bytes) {
        self.queued += messages.len();
        self.queue.push_back(messages);
    }

    /// Queues whole messages ahead of others.
    pub(super) fn push_urgent(&mut self, messages: Bytes) {
        self.urgent.push_back(messages);
    }

    /// Writes until everything is out or the socket takes no more (`Ok(false)`). Returns what
    /// there was to say about the socket, and the number of octets written.
    pub(super) fn write(&mut self) -> (io::Result<bool>, usize) {
        let mut written = 0;
        while !self.is_drained() {
            let result = self.write_once();
            match result {
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return (Ok(false), written),
                Err(e) => return (Err(e), written),
            }
        }
        (Ok(true), written)
    }

    fn write_once(&mut self) -> io::Result<usize> {
        if !self.front_started {
            while let Some(message) = self.urgent.pop_back() {
                self.queued += message.len();
                self.queue.push_front(message);
            }
        }
        // A message that has begun has to end before an urgent one.
        let most = if self.urgent.is_empty() { GATHER } else { 1 };
        let mut left = match self.queue.front() {
            Some(only) if self.queue.len() == 1 => self.stream.try_write(only)?,
            _ => {
                let slices: Vec<IoSlice<'_>> = self
                    .queue
                    .iter()
                    .take(most)
                    .map(|b| IoSlice::new(b))
                    .collect();
                self.stream.try_write_vectored(&slices)?
            }
        };
        let written = left;
        self.queued -= written;
        while let Some(front) = self.queue.front_mut() {
            if left < front.len() {
                front.advance(left);
                self.front_started = left > 0 || self.front_started;
                break;
            }
            left -= front.len();
            self.queue.pop_front();
            self.front_started = false;
        }
        Ok(written)
    }

    /// Stops reading; what is queued is sent if the peer takes it soon. With `discard` the
    /// connection is just closed.
    pub(super) fn close(mut self, discard: bool, closing: &mut JoinSet<()>) {
        if discard {
            return;
        }
        if !self.front_started {
            // Routes are of no use to a peer that is being left.
            self.queue.clear();
        } else {
            self.queue.truncate(1);
        }
        let rest: Vec<Bytes> = self.queue.drain(..).chain(self.urgent.drain(..)).collect();
        let stream = Arc::clone(&self.stream);
        drop(self);
        closing.spawn(async move {
            // What the peer does not take in time is lost with the connection.
            drop(tokio::time::timeout(LINGER, linger(stream, rest)).await);
        });
    }
}

/// Writes `rest`, then waits for the peer to close: closing first, with octets unread, would
/// make the kernel send a reset that overtakes the NOTIFICATION.
async fn linger(stream: Arc<TcpStream>, rest: Vec<Bytes>) -> io::Result<()> {
    for mut bytes in rest {
        while !bytes.is_empty() {
            stream.writable().await?;
            match stream.try_write(&bytes) {
                Ok(n) => bytes.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }
    SockRef::from(&*stream).shutdown(std::net::Shutdown::Write)?;
    let mut unread = [0; 4096];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut unread) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

thread_local! {
    /// Where all connections of the thread read to: a peer that says nothing has no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// What has come, up to the end of the last whole message; what follows that goes to `rest`.
/// `None` at the end of the stream.
fn read_once(stream: &TcpStream, rest: &mut Vec<u8>, extended: bool) -> io::Result<Option<Piece>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let (front, room) = scratch.split_at_mut(rest.len());
        let n = read_some(stream, room)?;
        if n == 0 {
            return Ok(None);
        }
        let more = n == room.len();
        front.copy_from_slice(rest);
        let data = scratch.get(..rest.len() + n).unwrap_or_default();
        let (whole, after) = data.split_at(whole_messages(data, extended));
        // Replaced rather than cleared: most reads end with a message and leave nothing to keep.
        *rest = after.to_vec();
        let data = Bytes::copy_from_slice(whole);
        Ok(Some(Piece { data, more }))
    })
}

/// Reads what there is. When that does not fill the room there is no more, and the next wait begins
/// at once, without asking the kernel a second time.
fn read_some(stream: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    let mut short = None;
    let result = stream.try_io(Interest::READABLE, || {
        let n = (&*SockRef::from(stream)).read(room)?;
        if n == 0 || n == room.len() {
            return Ok(n);
        }
        // What comes from here on is news to epoll, which tells of each edge.
        short = Some(n);
        Err(io::ErrorKind::WouldBlock.into())
    });
    short.map_or(result, Ok)
}

/// Octets up to the end of the last whole message, or everything if a header is broken: the
/// session has to see that.
fn whole_messages(buf: &[u8], extended: bool) -> usize {
    let mut end = 0;
    while let Some(rest) = buf.get(end..).filter(|r| !r.is_empty()) {
        match header::peek(rest, extended) {
            Ok(Some((_, len))) => end += len,
            Ok(None) => break,
            Err(_) => return buf.len(),
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_is_sending_hears_the_last_word() -> io::Result<()> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let mut peer = TcpStream::connect(listener.local_addr()?).await?;
        let (ours, _) = listener.accept().await?;
        peer.write_all(&[7; 1000]).await?;
        let leaving = tokio::spawn(linger(Arc::new(ours), vec![Bytes::from_static(b"why")]));
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).await?;
        assert_eq!(heard, b"why");
        drop(peer);
        leaving.await?
    }

    #[test]
    fn partial_messages_wait_and_broken_ones_do_not() {
        let mut buf = BytesMut::new();
        header::put_keepalive(&mut buf);
        header::put_keepalive(&mut buf);
        assert_eq!(whole_messages(&buf, false), 38);
        assert_eq!(whole_messages(&buf[..30], false), 19);
        assert_eq!(whole_messages(b"", false), 0);
        assert_eq!(whole_messages(&[&buf[..], b"GET"].concat(), false), 41);
        // Of a long one the header is enough to refuse it, unless it may be in order.
        let long = [&[0xff; 16][..], &5000_u16.to_be_bytes(), &[2]].concat();
        assert_eq!(whole_messages(&long, false), 19);
        assert_eq!(whole_messages(&long, true), 0);
    }
}
