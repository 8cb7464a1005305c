//! BGP-4 without I/O: wire codec, session state machine, RIB.
//!
//! [`wire`] turns octets into messages and back, [`rib`] keeps the routes, [`policy`] filters
//! them. Prefixes live in [`prefix`].
//!
//! Nothing in this crate opens a socket, reads a clock, logs, or panics on input from a peer.

pub mod policy;
pub mod prefix;
pub mod rib;
pub mod wire;
