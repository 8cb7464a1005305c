//! The resource model: `projectcalico.org/v3` kinds, their validation, their etcd keys, and the
//! [`store::Store`] trait that drivers implement. Pure: no runtime, clock, socket or file.

pub mod store;
