//! TCP connections that stay open, to see whether they go on.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::eventually::eventually;
use crate::netns::NetNs;

/// A loaded machine takes its time, and TCP waits longer and longer before it sends again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Silence of this length is an end: far longer than an answer takes, and than the pause between two ticks.
const SILENCE: Duration = Duration::from_millis(400);
const TICK: Duration = Duration::from_millis(10);
const POLL: Duration = Duration::from_millis(2);

/// What a server does with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Answers each byte with the same.
    Echoes,
    /// Sends a byte every 10 ms, asked or not.
    Ticks,
}

/// A server that ends when it is dropped.
#[derive(Debug)]
pub struct TalkServer(Arc<AtomicBool>);

impl TalkServer {
    /// Listens in a namespace, in both families.
    pub fn start(netns: &NetNs, port: u16, manner: Manner) -> Result<Self> {
        let listener = netns.within(|| Ok(TcpListener::bind(("::", port))?))?;
        listener.set_nonblocking(true)?;
        let runs = Arc::new(AtomicBool::new(true));
        let server = Self(Arc::clone(&runs));
        thread::spawn(move || {
            while runs.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let runs = Arc::clone(&runs);
                        // Ends with the connection or with the server.
                        thread::spawn(move || drop(serve(stream, manner, &runs)));
                    }
                    Err(_) => thread::sleep(POLL),
                }
            }
        });
        Ok(server)
    }
}

impl Drop for TalkServer {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn serve(mut stream: TcpStream, manner: Manner, runs: &AtomicBool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut byte = [0];
    while runs.load(Ordering::Relaxed) {
        let done = match manner {
            Manner::Echoes => stream
                .read_exact(&mut byte)
                .and_then(|()| stream.write_all(&byte)),
            Manner::Ticks => {
                thread::sleep(TICK);
                stream.write_all(b"t")
            }
        };
        match done {
            Err(error) if !is_timeout(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// An open connection.
#[derive(Debug)]
pub struct Talk {
    name: String,
    stream: TcpStream,
    manner: Manner,
}

impl Talk {
    /// Connects from a namespace to a server of this manner.
    pub fn open(from: &NetNs, to: IpAddr, port: u16, manner: Manner) -> Result<Self> {
        let to = SocketAddr::new(to, port);
        let stream = from.within(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let name = format!("the connection from {} to {to}", from.name());
        let mut talk = Self {
            name,
            stream,
            manner,
        };
        talk.ensure_on()?;
        Ok(talk)
    }

    /// An error unless bytes still go there and back.
    pub fn ensure_on(&mut self) -> Result<()> {
        let what = format!("{} goes on", self.name);
        eventually(PATIENCE, &what, || {
            ensure!(self.is_on()?, "nothing comes back");
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(())
    }

    /// An error unless no byte comes any more.
    pub fn ensure_silent(&mut self) -> Result<()> {
        let what = format!("{} ends", self.name);
        eventually(PATIENCE, &what, || {
            ensure!(!self.is_on()?, "bytes still come");
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(())
    }

    fn is_on(&mut self) -> Result<bool> {
        self.drain()?;
        if self.manner == Manner::Echoes {
            self.stream.write_all(b"x")?;
        }
        match self.stream.read(&mut [0; 64]) {
            Ok(0) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) if is_timeout(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What came before, late answers among it, tells nothing of now.
    fn drain(&mut self) -> Result<()> {
        self.stream.set_nonblocking(true)?;
        while matches!(self.stream.read(&mut [0; 1024]), Ok(length) if length > 0) {}
        self.stream.set_nonblocking(false)?;
        Ok(())
    }
}
