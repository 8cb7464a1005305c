//! Kernel drivers of one host: what a container is attached with, which routes the host has, which packets pass.
//!
//! Start at [`attach`] for the path of a CNI ADD, at [`route_table::RouteTable`] for routes, at [`filter`] for packet
//! policy. Every driver takes desired state and computes the difference; none deletes what it cannot recognise as ours.
//! The crate knows nothing of the datastore, of BGP or of policy.

pub mod attach;
pub mod bandwidth;
pub mod clean;
pub mod conntrack;
#[cfg(test)]
mod faults;
pub mod filter;
pub mod ipset;
pub mod iptables;
#[cfg(test)]
mod lab;
pub mod link;
pub mod monitor;
pub mod neigh;
pub mod netlink;
pub mod nflog;
pub mod nft;
pub mod overlay;
pub mod resolve;
pub mod route_table;
pub mod sysctl;
pub mod wireguard;
