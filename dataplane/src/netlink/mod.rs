//! A small blocking netlink client.
//!
//! The attach path and the route table need what an asynchronous client hides: many requests in one `send`, one
//! acknowledgement for all of them, the kernel's own error text, and a socket that belongs to a chosen namespace.
//! Messages are written and read attribute by attribute, so an attribute that a newer kernel adds is skipped and
//! never makes a whole message unreadable.

mod attribute;
mod batch;
mod error;
mod socket;

pub(crate) use attribute::{Attributes, ip_bytes, ip_from, string_from, u32_from};
pub use batch::{Batch, Request};
pub use error::{NetlinkError, RequestError};
pub(crate) use socket::Messages;
pub use socket::{Answer, Outcome, Socket};

/// An attribute of routes (linux/rtnetlink.h) that `libc` has for glibc alone: a router of another family.
pub(crate) const RTA_VIA: u16 = 18;

/// The kernel's `struct ifinfomsg`.
pub(crate) fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// The kernel's `struct ifaddrmsg`.
pub(crate) fn ifaddrmsg(family: u8, prefix_len: u8, flags: u8, scope: u8, index: u32) -> [u8; 8] {
    let mut header = [family, prefix_len, flags, scope, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// The kernel's `struct ndmsg`, for a unicast entry.
pub(crate) fn ndmsg(family: u8, index: u32, state: u16) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[11] = libc::RTN_UNICAST;
    header
}

/// `AF_INET` or `AF_INET6`.
pub(crate) fn family_of(ip: std::net::IpAddr) -> u8 {
    (if ip.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }) as u8
}
