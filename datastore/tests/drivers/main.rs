//! Every driver against the same suite, and what only some drivers can suffer.

mod crash;
mod etcd;
mod local;
mod mirror;
mod suite;
