//! Real runtimes attach real containers: runc, containerd by `ctr` and by CRI, podman.
//!
//! ```text
//!   container - h1 (margayd, runtime) \
//!                                      tor (BIRD)     store (etcd)
//!   container - h2 (margayd, runtime) /
//! ```
//! Each test starts its own runtimes, one a host, with roots, sockets and configuration of their own, in the host's
//! network namespace. It claims:
//! 1. Containers reach each other across hosts, and the router reaches them, by ICMP and TCP.
//! 2. A policy that selects by label cuts them off.
//! 3. After the runtime removed them nothing of ours is left: no interface, endpoint or address.
//! 4. The same after `kill -9` of the runtime, and of the agent in the middle of an ADD.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its lab has failed"
)]

mod containerd;
mod cri;
mod ctr;
mod image;
mod podman;
mod pods;
mod rack;
mod runc;
