//! Every driver against the same suite, and what only some drivers can suffer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod claim;
mod crash;
mod etcd;
mod local;
mod mirror;
mod suite;
