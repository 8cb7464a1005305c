//! The connection to an endpoint, whose small writes are put together.
//!
//! A request is three frames of HTTP/2 that come from two tasks, and each would be a write, and a wake-up of etcd, of
//! its own. Here frames are kept until every task that is ready has had its turn, and leave in one write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::Uri;

/// More than this is written at once.
const ENOUGH: usize = 64 * 1024;

/// Connects to the host and port of an endpoint.
pub(super) async fn dial(uri: Uri) -> io::Result<TokioIo<Gathered<TcpStream>>> {
    let host = uri.host().unwrap_or_default();
    let standard = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    // An IPv6 address is in brackets in a URI only.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(standard))).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(Gathered::new(stream)))
}

/// A stream that writes when it is flushed for the second time, after all tasks that were ready at the first.
#[derive(Debug)]
pub(super) struct Gathered<S> {
    stream: S,
    kept: Vec<u8>,
    /// Of `kept`, what was written.
    written: usize,
    /// The first flush was asked for.
    asked: bool,
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    const fn new(stream: S) -> Self {
        Self {
            stream,
            kept: Vec::new(),
            written: 0,
            asked: false,
        }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self
            .kept
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.kept.clear();
        self.written = 0;
        self.asked = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.kept.len() >= ENOUGH {
            ready!(self.poll_write_out(cx))?;
        }
        self.kept.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.kept.len() >= ENOUGH {
            ready!(self.poll_write_out(cx))?;
        }
        parts
            .iter()
            .for_each(|part| self.kept.extend_from_slice(part));
        Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.kept.is_empty() && !self.asked {
            self.asked = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_comes_before_the_second_flush_is_one_write() {
        let (near, mut far) = duplex(1 << 20);
        let mut gathered = Gathered::new(near);
        gathered.write_all(b"head").await.unwrap();
        {
            let flush = gathered.flush();
            tokio::pin!(flush);
            assert!(futures_util::poll!(&mut flush).is_pending());
        }
        gathered.write_all(b"body").await.unwrap();
        gathered.flush().await.unwrap();
        let mut read = [0; 64];
        let count = far.read(&mut read).await.unwrap();
        assert_eq!(&read[..count], b"headbody");
    }

    #[tokio::test]
    async fn nothing_is_lost_when_the_peer_reads_slowly() {
        let (near, mut far) = duplex(100);
        let mut gathered = Gathered::new(near);
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            for part in copy.chunks(777) {
                gathered.write_all(part).await.unwrap();
            }
            gathered.shutdown().await.unwrap();
        });
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        writer.await.unwrap();
        assert_eq!(read, sent);
    }
}
