//! Reading the kernel back, and repairing what others changed.

use std::time::Instant;

use ipnetwork::IpNetwork;

use super::apply::{Links, resolve};
use super::{ApplyReport, KernelRoute, ResyncReport, RouteKernel, RouteTable, decode_any, wanted};
use crate::netlink::{NetlinkError, Socket};

impl<K: RouteKernel> RouteTable<K> {
    /// Whether the kernel has more routes of ours than this.
    pub fn is_longer_than(&mut self, most: usize) -> Result<bool, NetlinkError> {
        self.kernel
            .has_more_than(self.config.table, self.config.protocol, most)
    }

    /// Brings the routes to single addresses to what is wanted, and adopts those that are there, whatever else waits:
    /// for a start beside a table that takes long to read. Only for the main table.
    pub fn apply_hosts(&mut self) -> Result<ApplyReport, NetlinkError> {
        let hosts = self.prefixes.waiting().filter(|prefix| is_host(*prefix));
        let hosts: Vec<IpNetwork> = hosts.collect();
        let found = self.kernel.to_hosts(self.config.table, &hosts)?;
        let ours = |route: &KernelRoute| route.protocol == self.config.protocol;
        for route in found.into_iter().flatten().filter(ours) {
            let key = (route.prefix, route.metric);
            self.prefixes.install(route.prefix, route.metric);
            self.left.insert(key, route);
        }
        Ok(self.apply_now(&hosts))
    }

    /// Reads the kernel back, compares it with everything wanted, and repairs.
    pub fn resync(&mut self) -> Result<ResyncReport, NetlinkError> {
        let now = Instant::now();
        let ours = self
            .kernel
            .dump(self.config.table, Some(self.config.protocol))?;
        let mut report = ResyncReport::default();
        let mut links = Links::default();
        self.prefixes.begin_read();
        self.left.clear();
        for route in ours {
            let prefix = route.prefix;
            let known = self.prefixes.install(prefix, route.metric);
            let Some(wanted) = &known.wanted else {
                report.unwanted += 1;
                if self.deletes_allowed {
                    self.prefixes.mark(prefix);
                } else {
                    self.left.insert((prefix, route.metric), route);
                }
                continue;
            };
            if wanted.metric != route.metric {
                report.unwanted += 1;
                self.prefixes.mark(prefix);
                continue;
            }
            let had = known.had();
            let resolved = resolve(&mut self.kernel, &mut links, self.config, prefix, wanted);
            if !resolved.is_ok_and(|w| wanted::same(&w, &route)) {
                report.different += usize::from(!self.prefixes.waits(prefix));
                self.prefixes.mark(prefix);
            } else if !had {
                report.adopted += 1;
                self.prefixes.unmark(prefix);
                self.retries.remove(&prefix);
            }
        }
        for (prefix, had) in self.prefixes.end_read() {
            if !self.retries.contains_key(&prefix) {
                report.missing += usize::from(had);
                self.prefixes.mark(prefix);
            }
        }
        report.repair = self.apply_at(now);
        Ok(report)
    }
}

fn is_host(prefix: IpNetwork) -> bool {
    prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 }
}

/// All routes of a table of the socket's namespace, of every protocol.
pub fn dump(socket: &mut Socket, table: u32) -> Result<Vec<KernelRoute>, NetlinkError> {
    RouteKernel::dump(socket, table, None)
}

/// All routes of all tables of the socket's namespace.
pub(crate) fn dump_all(socket: &mut Socket) -> Result<Vec<KernelRoute>, NetlinkError> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; 12];
        header[0] = family as u8;
        let read = |_, message: &[u8]| decode_any(message);
        all.extend(socket.dump(libc::RTM_GETROUTE, &header, |_| {}, read)?);
    }
    Ok(all)
}
