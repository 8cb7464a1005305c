//! Bidirectional forwarding detection, asynchronous mode (RFC 5880), without I/O.
//!
//! [`Packet`] is the control packet on the wire; [`Session`] is one path to one system, driven by
//! `handle_*(.., now)` and drained by `poll_*`. The driver sends what it is told to where it likes:
//! the rules of one hop or several (TTL, ports) are its own (RFC 5881, RFC 5883).
//!
//! It has no authentication, no echo and does not ask for demand mode.

mod packet;
mod session;

pub use packet::{Diag, Discard, Packet, State};
pub use session::{Change, Config, Left, Output, Remote, Session};
