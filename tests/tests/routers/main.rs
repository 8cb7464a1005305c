//! Agents among real routers: BIRD, FRR and GoBGP at the top of the rack, each in a namespace.
//!
//! Every file begins with its topology and its claims. The rack, unless drawn otherwise:
//!
//! ```text
//!   c1 - h1 192.0.2.5/30 ---- 192.0.2.6   \
//!   c2 - h2 192.0.2.9/30 ---- 192.0.2.10   tor ---- 198.51.100.2 store (etcd)
//!   c3 - h3 192.0.2.13/30 --- 192.0.2.14  /
//! ```

mod filters;
mod garbage;
mod handover;
mod migration;
mod moves;
mod ours;
mod peers;
mod rack;
mod restart;
mod seen;
mod subnet;
mod support;
