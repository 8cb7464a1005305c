//! The speaker's thread: sockets and clock around [`Session`](margay_bgp::session::Session) and
//! [`Rib`].
//!
//! Tasks, all on one thread: the core, which owns every session and the RIB, and reads and writes
//! their connections; an acceptor a listener; a dialler an attempt; a waiter for each socket that took
//! no more; a closer for each connection that is being left. All but the core own nothing but their
//! socket and may be aborted at any time.
//!
//! A round of the core takes in everything that has been read, decides once, and writes: changes
//! that arrive together leave together, and one change leaves at once ([`round`]). A round goes by in turns, so
//! that timers, commands and BFD never wait long, whatever a peer sends and however much of a table
//! has to be gone through.

mod core;
mod events;
mod link;
mod listen;
mod pace;
mod peer;
mod rate;
mod ready;
mod round;
mod strangers;
mod sync;
mod table;
mod unnumbered;
mod views;
mod watch;

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    time::Instant,
};

use margay_bgp::session::ConnId;
use tokio::{net::TcpStream, sync::mpsc};

use crate::{
    config::SpeakerConfig,
    handle::{Command, FibBatch, LocalRouteChange, SpeakerError},
    handover::{Handover, TookOver},
    peer_key::PeerKey,
};

/// Events between tasks and the core. An acceptor that finds it full stops accepting.
const EVENTS: usize = 256;

/// What the tasks tell the core.
#[derive(Debug)]
enum Event {
    /// Someone connected; when the connection was taken.
    Accepted(TcpStream, SocketAddr, Instant),
    /// An attempt to connect ended.
    Dialled(PeerKey, ConnId, io::Result<TcpStream>),
    /// A socket that took no more does again.
    Writable(link::LinkId),
    /// The router behind a peer's interface, and the interface's index.
    Router(PeerKey, Ipv6Addr, u32),
}

/// The thread. Tells `ready` whether it runs, and what became of `handover`; then returns when the handle is gone.
pub(crate) fn run(
    config: SpeakerConfig,
    routes: &[LocalRouteChange],
    handover: Option<Handover>,
    (commands, fib): (mpsc::Receiver<Command>, mpsc::Sender<FibBatch>),
    ready: &std::sync::mpsc::SyncSender<Result<Option<TookOver>, SpeakerError>>,
) {
    // A caller that has gone away needs no answer.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return drop(ready.send(Err(SpeakerError::Thread(e)))),
    };
    runtime.block_on(async {
        match core::Core::new(config, routes, handover, fib) {
            Ok(core) => {
                drop(ready.send(Ok(core.took_over())));
                // A task like its readers: the future that the runtime blocks on is polled only after
                // another look at the sockets, which each single route would wait for.
                let ended = tokio::spawn(core.run(commands)).await;
                if let Err(error) = ended
                    && let Ok(panic) = error.try_into_panic()
                {
                    std::panic::resume_unwind(panic);
                }
            }
            Err(e) => drop(ready.send(Err(e))),
        }
    });
}
