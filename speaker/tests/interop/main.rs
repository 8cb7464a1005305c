//! The speaker against real routers, each test in network namespaces of its own. Needs root and
//! the routers' packages.

mod add_path;
mod bfd;
mod bird;
mod decision;
mod drain;
mod dynamic;
mod exabgp;
mod frr;
mod gobgp;
mod handover;
mod hard_reset;
mod limits;
mod long_lived;
mod openbgpd;
mod opens;
mod options;
mod policy;
#[path = "../loopback/raw.rs"]
#[expect(dead_code, reason = "the other tests that play peers use all of it")]
mod raw;
mod soak;
mod support;
mod unnumbered;
