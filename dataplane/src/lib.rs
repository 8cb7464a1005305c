//! Kernel drivers: links, addresses, routes, sysctls, packet filter.

pub mod filter;
pub mod ipset;
pub mod iptables;
