//! Whatever is killed, cut off, taken away or fed with garbage: the state is exact again, and nothing is
//! let through meanwhile that a policy forbids. One host in namespaces, real etcd or the store in a file.

#![expect(clippy::unwrap_used, reason = "the helpers of tests")]

mod blackhole;
mod chain;
mod choice;
mod conformance;
mod counted;
mod cut_off;
mod delegated;
mod denied;
mod denied_host;
mod drift;
mod exact;
mod flow;
mod garbage;
mod host_ports;
mod limits;
mod policy;
mod pools;
mod reload;
mod renamed;
mod rig;
mod sctp;
mod store_away;
mod verbs;
