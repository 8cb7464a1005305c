//! The speaker against real routers, each test in network namespaces of its own. Needs root and
//! the routers' packages.

mod bfd;
mod bird;
mod drain;
mod frr;
mod gobgp;
mod policy;
mod support;
