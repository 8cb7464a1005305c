//! The speaker against real routers, each test in network namespaces of its own. Needs root and
//! the routers' packages.

mod add_path;
mod bfd;
mod bird;
mod drain;
mod dynamic;
mod exabgp;
mod frr;
mod gobgp;
mod limits;
mod long_lived;
mod openbgpd;
mod options;
mod policy;
mod soak;
mod support;
mod unnumbered;
