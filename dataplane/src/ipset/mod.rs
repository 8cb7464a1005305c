//! IP sets over netlink: the kernel's `ip_set` subsystem, without the `ipset` program.
//!
//! [`IpsetSocket`] speaks the protocol (create, destroy, swap, add, delete, list); [`SetTracker`]
//! holds what one set should contain and what the kernel is believed to contain, and hands out the
//! difference. Neither decides which sets are ours: that is the caller's business.

mod socket;
#[cfg(test)]
mod tests;
mod tracker;
mod wire;

use std::{fmt, io, net::IpAddr};

use ipnetwork::IpNetwork;

pub use self::{
    socket::{IpsetSocket, KernelSet},
    tracker::SetTracker,
};
use crate::filter::Family;

/// Longest set name, without the terminating zero.
pub const MAX_NAME_LEN: usize = 31;

/// Room for members. It is a limit, not an allocation: the kernel's hash grows as needed.
pub const MAX_ELEMENTS: u32 = 1_048_576;

/// The set types in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetType {
    /// `hash:net`.
    Net,
    /// `hash:net,iface`.
    NetIface,
    /// `hash:net,port`, where the port carries its protocol.
    NetPort,
}

impl SetType {
    /// The kernel's name of the type.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Net => "hash:net",
            Self::NetIface => "hash:net,iface",
            Self::NetPort => "hash:net,port",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Net, Self::NetIface, Self::NetPort]
            .into_iter()
            .find(|t| t.name() == name)
    }
}

/// An interface name that is known to fit the kernel: 1 to 15 bytes, no zero, no slash, no blank.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName {
    bytes: [u8; 15],
    len: u8,
}

impl IfName {
    /// Checks a name; `None` when the kernel would not accept it.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=15).contains(&name.len()) && name != "." && name != "..";
        if !fits
            || name
                .bytes()
                .any(|b| b <= b' ' || b == b'/' || b == b':' || b == 0x7f)
        {
            return None;
        }
        let mut bytes = [0; 15];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self {
            bytes,
            len: name.len() as u8,
        })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A member as the kernel stores it. Networks are masked and never of length zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// For [`SetType::Net`].
    Net(IpNetwork),
    /// For [`SetType::NetIface`].
    NetIface(IpNetwork, IfName),
    /// For [`SetType::NetPort`]: network, protocol, port.
    NetPort(IpNetwork, u8, u16),
}

impl Entry {
    /// The network part.
    #[must_use]
    pub fn net(&self) -> IpNetwork {
        match *self {
            Self::Net(net) | Self::NetIface(net, _) | Self::NetPort(net, ..) => net,
        }
    }
}

/// The networks to put into a set for `net`: itself with host bits cleared, or the two halves of
/// the whole space, because the kernel's hash types know no prefix of length zero.
pub fn storable(net: IpNetwork) -> impl Iterator<Item = IpNetwork> {
    let halves = if net.prefix() == 0 {
        let upper = match net {
            IpNetwork::V4(_) => IpAddr::from([128, 0, 0, 0]),
            IpNetwork::V6(_) => IpAddr::from([0x8000, 0, 0, 0, 0, 0, 0, 0]),
        };
        [masked(net.network(), 1), masked(upper, 1)]
    } else {
        [masked(net.network(), net.prefix()), None]
    };
    halves.into_iter().flatten()
}

fn masked(addr: IpAddr, prefix: u8) -> Option<IpNetwork> {
    IpNetwork::new(addr, prefix).ok()
}

/// Why a request failed. Who retries: the caller, later; the request had no effect, or for a
/// batch of members an initial part of it was done (repeating it is harmless).
#[derive(Debug, thiserror::Error)]
pub enum IpsetError {
    /// The netlink socket itself failed.
    #[error("netlink socket for ip sets: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused.
    #[error("ip set {set}: {op} failed: {}", errno_text(*.errno))]
    Kernel {
        /// Name of the set, or of the set type for a type query.
        set: String,
        /// What was asked.
        op: &'static str,
        /// Positive errno, or above 4096 the subsystem's own codes.
        errno: i32,
    },
    /// The answer was not understood.
    #[error("ip set {set}: answer to {op} is malformed")]
    Malformed {
        /// Name of the set.
        set: String,
        /// What was asked.
        op: &'static str,
    },
    /// The kernel did not answer in time.
    #[error("ip set {set}: no answer to {op} within {seconds} s")]
    Timeout {
        /// Name of the set.
        set: String,
        /// What was asked.
        op: &'static str,
        /// How long was waited.
        seconds: u64,
    },
}

/// `IPSET_ERR_BUSY`: the set is referenced (by a rule).
const ERR_BUSY: i32 = 4100;
/// `IPSET_ERR_REFERENCED`.
const ERR_REFERENCED: i32 = 4108;

impl IpsetError {
    fn errno(&self) -> i32 {
        match self {
            Self::Kernel { errno, .. } => *errno,
            _ => 0,
        }
    }

    /// The set does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.errno() == libc::ENOENT
    }

    /// The kernel has no ip sets at all: their subsystem is unknown to it.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self.errno(),
            libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT
        )
    }

    /// The set is referenced by a rule, or was a moment ago.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self.errno(), ERR_BUSY | ERR_REFERENCED | libc::EBUSY)
    }
}

fn errno_text(errno: i32) -> String {
    match errno {
        4097 => "protocol version not supported by the kernel".to_owned(),
        4098 => "set type not supported by the kernel".to_owned(),
        4099 => "no room for another set".to_owned(),
        ERR_BUSY => "still referenced".to_owned(),
        4101 => "second set name already exists or does not exist".to_owned(),
        4102 => "set types do not match".to_owned(),
        4103 => "member already exists or does not exist".to_owned(),
        4104 => "invalid prefix length".to_owned(),
        4106 => "address family does not match the set".to_owned(),
        ERR_REFERENCED => "still referenced by another set".to_owned(),
        4352 => "set is full".to_owned(),
        n if n >= 4096 => format!("ip set error {n}"),
        n => io::Error::from_raw_os_error(n).to_string(),
    }
}

/// `NFPROTO_*` of a family.
fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}
