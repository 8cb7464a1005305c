//! The session state machine of one peer (RFC 4271 section 8), without I/O.
//!
//! [`Session`] is told what happened by `handle_*(.., now)` and is asked what to do by
//! [`Session::poll_output`] and when to be woken by [`Session::poll_timeout`]. It owns every timer
//! but no socket and no route: the driver dials, accepts, reads and writes, frames messages with
//! [`wire::header`](crate::wire::header), and hands UPDATEs to the RIB.
//!
//! A peer may have several connections at once while a collision is being resolved; each has a
//! [`ConnId`]. At most one is Established.

mod config;
mod fsm;
mod jitter;
mod negotiate;

pub use config::{AddPathOffer, LocalLongLived, LocalRestart, SessionConfig};
pub use fsm::{Accepted, Incoming, Left, ResumeError, Session};
pub(crate) use jitter::Jitter;
pub use negotiate::Negotiated;

use std::{fmt, time::Duration};

use bytes::Bytes;

use crate::{
    prefix::Family,
    wire::{Notification, RouteRefresh},
};

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// We dialled.
    Outgoing,
    /// The peer dialled.
    Incoming,
}

/// Names a connection of a session; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub(crate) u32);

/// States of RFC 4271 section 8.2.2; of several connections the furthest one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Stopped, or waiting after an error; refuses connections.
    Idle,
    /// Dialling.
    Connect,
    /// Waiting for the peer to dial, or to dial again.
    Active,
    /// OPEN sent.
    OpenSent,
    /// OPEN received as well.
    OpenConfirm,
    /// Routes flow.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a connection or a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownReason {
    /// We ended it with this NOTIFICATION.
    Sent(Notification),
    /// The peer ended it with this NOTIFICATION.
    Received(Notification),
    /// TCP closed or broke without a NOTIFICATION.
    ConnectionLost,
    /// Dialling failed or took too long.
    DialFailed,
    /// A peer that restarted opened a new connection (RFC 4724 section 5).
    Replaced,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(n) => write!(f, "sent {n}"),
            Self::Received(n) => write!(f, "received {n}"),
            Self::ConnectionLost => f.write_str("connection lost"),
            Self::DialFailed => f.write_str("could not connect"),
            Self::Replaced => f.write_str("the peer restarted"),
        }
    }
}

/// Routes to keep while a peer restarts (RFC 4724 section 4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retain {
    /// Families whose routes become stale; routes of others go at once.
    pub families: Vec<Family>,
    /// For how long at most, unless the session comes back.
    pub restart_time: Duration,
    /// How much longer as long-lived stale ones, by [`Family::index`] (RFC 9494).
    pub long_lived: [Duration; 2],
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Dial the peer; answer with [`Session::handle_connected`] or
    /// [`Session::handle_connection_lost`].
    Dial(ConnId),
    /// Send whole messages, in order, ahead of queued UPDATEs.
    Send(ConnId, Bytes),
    /// Close the connection after what was sent, or stop dialling. Nothing more is expected of it.
    Close(ConnId),
    /// The session is Established: dump the routes, then End-of-RIB.
    Up(ConnId, Box<Negotiated>),
    /// The session is not Established any more.
    Down {
        /// Why.
        reason: DownReason,
        /// What to keep; `None`: withdraw all routes of the peer.
        retain: Option<Retain>,
    },
    /// A connection ended before it was Established.
    Failed(DownReason),
    /// The peer asks for routes or marks the ends of a refresh.
    Refresh(RouteRefresh),
}
