//! What the kernel of a node says, for those who follow a packet through the cluster.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelRequest {
    /// An interface; answered by a [`Found<Interface>`].
    Interface {
        /// Its name.
        name: String,
    },
    /// The way that packets of the host itself take; answered by a [`Found<Way>`].
    Way {
        /// Where to.
        to: IpAddr,
    },
}

/// What there is, if there is something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found<T> {
    /// It.
    pub found: Option<T>,
    /// Why there is nothing; empty otherwise.
    #[serde(default)]
    pub missing: String,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// In bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// It is set up, and the other end is not.
    pub no_carrier: bool,
    /// As the kernel calls it: `veth`, `vxlan`; empty for a physical one.
    pub kind: String,
}

/// How packets leave the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Way {
    /// The interface's name.
    pub interface: String,
    /// What kind of interface it is; see [`Interface::kind`].
    pub kind: String,
    /// The router; none for what is on the interface's link.
    pub gateway: Option<IpAddr>,
    /// The largest packet in bytes: the route's own limit, else the interface's.
    pub mtu: u32,
}
