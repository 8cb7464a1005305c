//! The lab: hosts, routers, stores and runtimes as processes and network namespaces on one machine.
//!
//! Blocking code for tests and the demo; everything but the stores needs root. Everything made here has
//! a name that is unique to the process, is removed when its guard drops, and is killed by its own pid.

mod agent;
mod binary;
mod bird;
mod cluster;
mod container;
mod ctl;
mod docker;
mod echo;
mod etcd;
mod eventually;
mod frr;
mod gobgp;
mod interrupt;
mod lab;
mod machine;
mod manager;
mod netns;
mod port;
mod process;
mod prometheus;
pub mod resources;
mod routes;
mod talk;
pub mod traffic;

pub use agent::{Agent, Datastore};
pub use binary::binary;
pub use bird::{Bird, BirdProtocol, tor_config};
pub use cluster::Cluster;
pub use container::{Container, Plugin};
pub use ctl::Ctl;
pub use docker::{Docker, IMAGE};
pub use echo::{Pinger, PingerReport, ping, ping_once};
pub use etcd::{Etcd, EtcdCluster, EtcdTls};
pub use eventually::{Deadline, eventually};
pub use frr::Frr;
pub use gobgp::Gobgp;
pub use interrupt::{catch_interrupts, ensure_not_interrupted};
pub use lab::{Cable, Host, Lab, STORE_V4};
pub use machine::Machine;
pub use manager::Manager;
pub use netns::NetNs;
pub use port::free_port;
pub use process::{Process, run};
pub use prometheus::{Prometheus, dashboard_queries, monitoring_file};
pub use routes::{NextHop, Route, Via, ensure_no_route, host_route, routes};
pub use talk::{Manner, Talk, TalkServer};
