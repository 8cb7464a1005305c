//! The lab: hosts, routers, stores and runtimes as processes and network namespaces on one machine.
//!
//! Blocking code for tests and the demo. Everything made here has a name that is unique to the process,
//! is removed when its guard drops, and is killed by its own pid.

mod etcd;
mod eventually;
mod port;
mod process;

pub use etcd::{Etcd, EtcdCluster, EtcdTls};
pub use eventually::{Deadline, eventually};
pub use port::free_port;
pub use process::{Process, run};
