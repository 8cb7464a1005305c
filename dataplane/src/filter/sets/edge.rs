//! The kernel's sets as [`super::Sets`] sees them: what tests put failures between.

use std::fmt::Debug;

use crate::{
    filter::types::Family,
    ipset::{Entry, IpsetError, IpsetSocket, KernelSet, SetType},
};

/// One request each; see [`IpsetSocket`].
pub(super) trait Edge: Debug + Send {
    fn create(&mut self, name: &str, set_type: SetType, family: Family) -> Result<(), IpsetError>;
    fn destroy(&mut self, name: &str) -> Result<(), IpsetError>;
    fn swap(&mut self, name: &str, other: &str) -> Result<(), IpsetError>;
    fn add(&mut self, name: &str, entries: &[Entry]) -> Result<(), IpsetError>;
    fn del(&mut self, name: &str, entries: &[Entry]) -> Result<(), IpsetError>;
    fn names(&mut self) -> Result<Vec<String>, IpsetError>;
    fn list(&mut self, name: &str) -> Result<Option<KernelSet>, IpsetError>;
}

impl Edge for IpsetSocket {
    fn create(&mut self, name: &str, set_type: SetType, family: Family) -> Result<(), IpsetError> {
        Self::create(self, name, set_type, family)
    }

    fn destroy(&mut self, name: &str) -> Result<(), IpsetError> {
        Self::destroy(self, name)
    }

    fn swap(&mut self, name: &str, other: &str) -> Result<(), IpsetError> {
        Self::swap(self, name, other)
    }

    fn add(&mut self, name: &str, entries: &[Entry]) -> Result<(), IpsetError> {
        Self::add(self, name, entries)
    }

    fn del(&mut self, name: &str, entries: &[Entry]) -> Result<(), IpsetError> {
        Self::del(self, name, entries)
    }

    fn names(&mut self) -> Result<Vec<String>, IpsetError> {
        Self::names(self)
    }

    fn list(&mut self, name: &str) -> Result<Option<KernelSet>, IpsetError> {
        Self::list(self, name)
    }
}
