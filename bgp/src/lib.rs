//! BGP-4 without I/O: wire codec, session state machine, RIB.
//!
//! [`wire`] turns octets into messages and back; [`session`] is the RFC 4271 state machine of one
//! peer, driven by `handle_*(.., now)` and drained by `poll_*`; [`rib`] holds what every peer said,
//! decides, and says what the FIB and every peer is to be told; [`policy`] filters on the way in
//! and out. Prefixes live in [`prefix`]; [`inspect`] shows messages to people,
//! [`bfd`] watches paths.
//!
//! Nothing in this crate opens a socket, reads a clock, logs, or panics on input from a peer.

pub mod bfd;
pub mod inspect;
pub mod policy;
pub mod prefix;
pub mod rib;
pub mod session;
pub mod wire;
