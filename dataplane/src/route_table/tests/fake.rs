//! A kernel in memory.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use foldhash::HashMap;

use super::super::*;
use crate::netlink::RequestError;

/// Keeps routes as the kernel does and fails on request.
#[derive(Debug, Default)]
pub(super) struct Fake {
    pub(super) routes: BTreeMap<(IpNetwork, u32), KernelRoute>,
    pub(super) links: HashMap<String, u32>,
    /// Refuses changes of this prefix with this error number.
    pub(super) refuse: HashMap<IpNetwork, i32>,
    /// Answers the next sends with an overrun, after the changes were made.
    pub(super) overruns: usize,
    pub(super) sends: Vec<Vec<(Action, IpNetwork)>>,
    /// Done by somebody else just before the next dump.
    pub(super) before_dump: VecDeque<(IpNetwork, u32)>,
}

impl Fake {
    fn change(&mut self, change: &Change) -> Result<(), i32> {
        let route = &change.route;
        let key = (route.prefix, route.metric);
        if let Some(errno) = self.refuse.get(&route.prefix) {
            return Err(*errno);
        }
        match change.action {
            Action::Add if self.routes.contains_key(&key) => return Err(libc::EEXIST),
            Action::Add | Action::Replace => {
                self.routes.insert(key, route.clone());
            }
            Action::Delete => {
                let ours = self
                    .routes
                    .get(&key)
                    .is_some_and(|r| r.protocol == route.protocol);
                if !ours {
                    return Err(libc::ESRCH);
                }
                self.routes.remove(&key);
            }
        }
        Ok(())
    }
}

impl RouteKernel for Fake {
    fn send(
        &mut self,
        _: u32,
        changes: &[Change],
    ) -> Result<Vec<(usize, RequestError)>, NetlinkError> {
        self.sends
            .push(changes.iter().map(|c| (c.action, c.route.prefix)).collect());
        let mut errors = Vec::new();
        for (place, change) in changes.iter().enumerate() {
            if let Err(errno) = self.change(change) {
                errors.push((place, RequestError { errno, text: None }));
            }
        }
        if self.overruns > 0 {
            self.overruns -= 1;
            return Err(NetlinkError::Overrun);
        }
        Ok(errors)
    }

    fn has_more_than(&mut self, _: u32, _: u8, most: usize) -> Result<bool, NetlinkError> {
        Ok(self.routes.len() > most)
    }

    fn to_hosts(
        &mut self,
        _: u32,
        prefixes: &[IpNetwork],
    ) -> Result<Vec<Option<KernelRoute>>, NetlinkError> {
        let found = |prefix: &IpNetwork| {
            let mut routes = self.routes.values();
            routes.find(|route| route.prefix == *prefix).cloned()
        };
        Ok(prefixes.iter().map(found).collect())
    }

    fn dump(&mut self, _: u32, protocol: Option<u8>) -> Result<Vec<KernelRoute>, NetlinkError> {
        if let Some(key) = self.before_dump.pop_front() {
            self.routes.remove(&key);
        }
        let wanted = |r: &&KernelRoute| protocol.is_none_or(|p| r.protocol == p);
        Ok(self.routes.values().filter(wanted).cloned().collect())
    }

    fn link_index(&mut self, ifname: &str) -> Result<Option<u32>, NetlinkError> {
        if ifname == "broken" {
            let source = io::Error::from_raw_os_error(libc::EIO);
            return Err(NetlinkError::Socket {
                action: "send",
                source,
            });
        }
        Ok(self.links.get(ifname).copied())
    }
}
