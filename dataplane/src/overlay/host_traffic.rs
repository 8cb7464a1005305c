//! What the hosts send each other through WireGuard, beside what their containers do.
//!
//! Encrypted packets are addressed to the other host as well, so a route to it in the main table would lead them back
//! into the device. The routes are in a table of their own, and a rule sends there what does not have the mark of
//! encrypted packets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::OverlayError;
use crate::netlink::{Attributes, NetlinkError, Request, Socket, u32_from};
use crate::route_table::{ApplyReport, Config, PROTO_MARGAY, Route, RouteTable};

/// The tables, by family: a table of the kernel's has routes of both, and each of ours is kept by itself.
pub const HOST_TABLES: [u32; 2] = [77, 78];

/// The kernel's `struct fib_rule_hdr`.
const RULE_HEADER_LEN: usize = 12;
const FR_ACT_TO_TBL: u8 = 1;
/// The rule holds for what does not match.
const FIB_RULE_INVERT: u32 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;

/// The hosts, and the rule that leads to the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTrafficSpec {
    /// This host's address, which its packets to others are from.
    pub own: IpAddr,
    /// The other hosts.
    pub hosts: BTreeSet<IpAddr>,
    /// Priority of the rule.
    pub priority: u32,
}

/// A rule of ours as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    priority: u32,
    mark: u32,
    table: u32,
    inverted: bool,
}

/// The table and the rule of one family.
#[derive(Debug)]
pub(super) struct HostTraffic {
    v6: bool,
    /// Once it was needed.
    table: Option<RouteTable>,
    hosts: BTreeSet<IpAddr>,
    /// Nothing of ours is in the kernel.
    is_gone: bool,
}

impl HostTraffic {
    pub(super) const fn new(v6: bool) -> Self {
        Self {
            v6,
            table: None,
            hosts: BTreeSet::new(),
            is_gone: false,
        }
    }

    /// Routes first: the rule leads to them.
    pub(super) fn prepare(
        &mut self,
        spec: &HostTrafficSpec,
        device: &str,
        mark: u32,
        socket: &mut Socket,
    ) -> Result<usize, OverlayError> {
        let failed = || OverlayError::kernel("route hosts through", device);
        self.is_gone = false;
        let number = HOST_TABLES[usize::from(self.v6)];
        let table = match &mut self.table {
            Some(table) => table,
            none => none.insert(open(number).map_err(failed())?),
        };
        for host in &spec.hosts {
            table.set((*host).into(), Route::device(device).with_src(spec.own));
        }
        for gone in self.hosts.difference(&spec.hosts) {
            table.remove((*gone).into());
        }
        self.hosts = spec.hosts.clone();
        let mut changed = 0;
        let mut bring = |report: ApplyReport| {
            changed += report.added + report.replaced + report.deleted;
            let refused = report.failed.into_iter().chain(report.conflicts).next();
            refused.map_or(Ok(()), |failure| Err(OverlayError::HostRoute(failure)))
        };
        bring(table.resync().map_err(failed())?.repair)?;
        // Without its route a host is sent everything in the clear: what failed before is not put off.
        let hosts = spec.hosts.iter().map(|host| IpNetwork::from(*host));
        let missing: Vec<_> = hosts.filter(|host| !table.is_installed(*host)).collect();
        bring(table.apply_now(&missing))?;
        if table.is_dirty() {
            return Err(OverlayError::HostRoutes(device.to_owned()));
        }
        let wanted = Rule {
            priority: spec.priority,
            mark,
            table: number,
            inverted: true,
        };
        let found = rules(socket, self.v6).map_err(failed())?;
        // The kernel takes it for the same, whom it leads is the opposite.
        let is_reverse = |rule: &Rule| {
            !rule.inverted
                && Rule {
                    inverted: true,
                    ..*rule
                } == wanted
        };
        let (reverse, found): (Vec<_>, Vec<_>) = found.into_iter().partition(is_reverse);
        for rule in reverse {
            remove(socket, self.v6, rule).map_err(failed())?;
            changed += 1;
        }
        // Before another one goes: so there is always one.
        if !found.contains(&wanted) {
            add(socket, self.v6, wanted).map_err(failed())?;
            changed += 1;
        }
        let mut has_it = false;
        for rule in found {
            if rule == wanted && !std::mem::replace(&mut has_it, true) {
                continue;
            }
            remove(socket, self.v6, rule).map_err(failed())?;
            changed += 1;
        }
        Ok(changed)
    }

    /// The rule first, so that nothing comes to a table without routes.
    pub(super) fn prune(
        &mut self,
        wanted: bool,
        socket: &mut Socket,
    ) -> Result<usize, OverlayError> {
        // Routes that nobody wants go with those that are made: they are all known.
        if wanted || self.is_gone {
            return Ok(0);
        }
        self.table = None;
        self.hosts.clear();
        let gone = clean(socket, self.v6, false)?;
        self.is_gone = true;
        Ok(gone.len())
    }
}

/// Everything that is wanted of it is known whenever anything is.
fn open(number: u32) -> Result<RouteTable, NetlinkError> {
    let mut table = RouteTable::open(Config {
        table: number,
        protocol: PROTO_MARGAY,
    })?;
    table.allow_deletes();
    Ok(table)
}

/// Removes rule and routes of a family; with `dry_run` only tells. Each in words.
pub(super) fn clean(
    socket: &mut Socket,
    v6: bool,
    dry_run: bool,
) -> Result<Vec<String>, OverlayError> {
    let number = HOST_TABLES[usize::from(v6)];
    let what = format!("routing table {number}");
    let failed = || OverlayError::kernel("clean", &what);
    let mut told = Vec::new();
    for rule in rules(socket, v6).map_err(failed())? {
        told.push(format!("rule {} to {what}", rule.priority));
        if !dry_run {
            remove(socket, v6, rule).map_err(failed())?;
        }
    }
    let routes = crate::route_table::dump(socket, number).map_err(failed())?;
    let ours = routes.iter().filter(|route| route.protocol == PROTO_MARGAY);
    told.extend(ours.map(|route| format!("route {} of table {number}", route.prefix)));
    if !dry_run && !told.is_empty() {
        let left = open(number).and_then(|mut table| table.resync());
        let left = left.map_err(failed())?.repair.failed.into_iter().next();
        left.map_or(Ok(()), |failure| Err(OverlayError::HostRoute(failure)))?;
    }
    Ok(told)
}

/// Rules of ours that lead to the table of this family.
fn rules(socket: &mut Socket, v6: bool) -> Result<Vec<Rule>, NetlinkError> {
    let number = HOST_TABLES[usize::from(v6)];
    let read = |_, message: &[u8]| parse(message).filter(|rule| rule.table == number);
    socket.dump(libc::RTM_GETRULE, &header(v6, 0, 0), |_| {}, read)
}

fn parse(message: &[u8]) -> Option<Rule> {
    let attributes = Attributes::after(message, RULE_HEADER_LEN);
    let number = |kind| attributes.find(kind).and_then(u32_from);
    let protocol = *attributes.find(FRA_PROTOCOL)?.first()?;
    (protocol == PROTO_MARGAY).then(|| Rule {
        priority: number(FRA_PRIORITY).unwrap_or(0),
        mark: number(FRA_FWMARK).unwrap_or(0),
        table: number(FRA_TABLE).unwrap_or(0),
        inverted: message.get(8..).and_then(u32_from).unwrap_or(0) & FIB_RULE_INVERT != 0,
    })
}

fn add(socket: &mut Socket, v6: bool, rule: Rule) -> Result<(), NetlinkError> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let header = header(v6, FR_ACT_TO_TBL, FIB_RULE_INVERT);
    let added = socket.request(libc::RTM_NEWRULE, flags, &header, |m| write(m, rule));
    added.map(drop)
}

fn remove(socket: &mut Socket, v6: bool, rule: Rule) -> Result<(), NetlinkError> {
    let inverted = if rule.inverted { FIB_RULE_INVERT } else { 0 };
    let header = header(v6, FR_ACT_TO_TBL, inverted);
    match socket.request(libc::RTM_DELRULE, 0, &header, |m| write(m, rule)) {
        Err(NetlinkError::Refused(error)) if error.is_missing() => Ok(()),
        other => other.map(drop),
    }
}

fn header(v6: bool, action: u8, flags: u32) -> [u8; RULE_HEADER_LEN] {
    let mut header = [0; RULE_HEADER_LEN];
    header[0] = if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
    header[7] = action;
    header[8..].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn write(m: &mut Request<'_>, rule: Rule) {
    m.u32(FRA_PRIORITY, rule.priority);
    m.u32(FRA_TABLE, rule.table);
    m.u32(FRA_FWMARK, rule.mark);
    m.u32(FRA_FWMASK, rule.mark);
    m.bytes(FRA_PROTOCOL, &[PROTO_MARGAY]);
}
