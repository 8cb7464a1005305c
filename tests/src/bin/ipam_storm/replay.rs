//! The store's own history, revision by revision: what must hold after each transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use jiff::Timestamp;
use margay_datastore::{Change, WatchEvent};
use margay_ipam::View;
use margay_ipam::sticky::parked_until;
use margay_model::any::AnyResource;
use margay_model::ipam::{
    AllocationAttribute, Block, BlockAffinity, BlockCidr, Handle, IpamKey, IpamKeys, Owner,
};
use margay_model::keys::Keys;
use margay_model::kind::Kind;
use margay_model::store::Revision;
use margay_model::stored::decode_stored;

use crate::setting;

/// How far the clocks of two nodes are apart at most, in storm seconds, and one for rounding.
const CLOCK_ERROR_SECS: i64 = 5;

/// Findings after which it is clear enough.
const MAX_FINDINGS: usize = 40;

/// When an endpoint was written with which addresses, or removed.
pub(crate) type Timeline = Vec<(Revision, Option<Vec<IpAddr>>)>;

/// What happened, in numbers.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) transactions: u64,
    pub(crate) assigned: u64,
    pub(crate) released: u64,
    pub(crate) borrowed: u64,
    pub(crate) claimed: u64,
    pub(crate) reclaimed: u64,
    pub(crate) removed_blocks: u64,
    pub(crate) taken_over: u64,
    pub(crate) parked: u64,
    pub(crate) leases_ended: u64,
}

/// The state after the revisions taken in so far.
pub(crate) struct Replay {
    view: View,
    keys: Keys,
    ipam_keys: IpamKeys,
    blocks: BTreeMap<BlockCidr, Block>,
    handles: BTreeMap<String, Handle>,
    /// Addresses by handle, by the blocks.
    held: BTreeMap<String, BTreeSet<IpAddr>>,
    holders: HashMap<IpAddr, String>,
    /// Addresses that wait for the next workload of their identity.
    parked: BTreeSet<IpAddr>,
    affinities: BTreeSet<(String, BlockCidr)>,
    /// Endpoints with their addresses.
    pub(crate) endpoints: BTreeMap<String, Vec<IpAddr>>,
    pub(crate) timelines: BTreeMap<String, Timeline>,
    pub(crate) counts: Counts,
    pub(crate) findings: Vec<String>,
}

impl Replay {
    pub(crate) fn new() -> Self {
        Self {
            view: setting::view(),
            keys: setting::keys(),
            ipam_keys: IpamKeys::new(setting::ROOT),
            blocks: BTreeMap::new(),
            handles: BTreeMap::new(),
            held: BTreeMap::new(),
            holders: HashMap::new(),
            parked: BTreeSet::new(),
            affinities: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            timelines: BTreeMap::new(),
            counts: Counts::default(),
            findings: Vec::new(),
        }
    }

    fn finding(&mut self, text: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(text);
        }
    }

    /// Takes in one transaction and checks what it touched.
    pub(crate) fn apply(&mut self, event: &WatchEvent) {
        let revision = event.revision;
        self.counts.transactions += 1;
        let mut workloads = BTreeSet::new();
        let mut blocks = BTreeSet::new();
        for change in &event.changes {
            let (key, value) = match change {
                Change::Put(kv) => (kv.key.as_str(), Some(kv.value.as_slice())),
                Change::Delete { key } => (key.as_str(), None),
            };
            match self.ipam_keys.parse(key) {
                Some(IpamKey::Block(cidr)) => {
                    blocks.insert(cidr);
                    self.block(revision, key, cidr, value, &mut workloads);
                }
                Some(IpamKey::Handle(id)) => {
                    match value.map(|v| Handle::decode(key, v)) {
                        None => drop(self.handles.remove(&id)),
                        Some(Ok(handle)) => drop(self.handles.insert(id.clone(), handle)),
                        Some(Err(e)) => self.finding(format!("revision {revision}: {e}")),
                    }
                    workloads.insert(id);
                }
                Some(IpamKey::Affinity(owner, cidr)) => {
                    blocks.insert(cidr);
                    let confirmed = value
                        .and_then(|v| BlockAffinity::decode(key, v).ok())
                        .is_some_and(|a| a.is_confirmed());
                    let entry = (owner.to_string(), cidr);
                    match confirmed {
                        true => self.affinities.insert(entry),
                        false => self.affinities.remove(&entry),
                    };
                }
                Some(IpamKey::Config) => {}
                None => {
                    if let Some(workload) = self.endpoint(revision, key, value) {
                        workloads.insert(setting::handle(&workload));
                    }
                }
            }
        }
        for cidr in blocks {
            self.check_affinity(revision, cidr);
        }
        for handle in workloads {
            self.check_workload(revision, &handle);
        }
    }

    fn endpoint(&mut self, revision: Revision, key: &str, value: Option<&[u8]>) -> Option<String> {
        let parsed = self.keys.parse(key)?;
        if parsed.kind != Kind::WorkloadEndpoint {
            return None;
        }
        let ips = value.map(|value| match decode_stored(&parsed, value) {
            Ok(AnyResource::WorkloadEndpoint(endpoint)) => {
                let networks = endpoint.spec.ip_networks.iter();
                networks.map(|n| n.addr()).collect::<Vec<_>>()
            }
            _ => Vec::new(),
        });
        let workload = parsed.name.clone();
        match &ips {
            Some(ips) => drop(self.endpoints.insert(workload.clone(), ips.clone())),
            None => drop(self.endpoints.remove(&workload)),
        }
        let timeline = self.timelines.entry(workload.clone()).or_default();
        timeline.push((revision, ips));
        Some(workload)
    }

    fn block(
        &mut self,
        revision: Revision,
        key: &str,
        cidr: BlockCidr,
        value: Option<&[u8]>,
        touched: &mut BTreeSet<String>,
    ) {
        let before = self.blocks.remove(&cidr);
        let after = match value.map(|v| Block::decode(key, cidr, v)).transpose() {
            Ok(after) => after,
            Err(e) => return self.finding(format!("revision {revision}: {e}")),
        };
        let owner = |block: &Option<Block>| block.as_ref().and_then(|b| b.affinity.clone());
        match (owner(&before), owner(&after)) {
            (None, Some(_)) => self.counts.claimed += 1,
            (Some(a), Some(b)) if a != b => self.counts.reclaimed += 1,
            _ => {}
        }
        if let (Some(before), Some(after)) = (&before, &after)
            && after.sequence_number <= before.sequence_number
        {
            self.finding(format!(
                "revision {revision}: the sequence number of {cidr} went back"
            ));
        }
        self.counts.removed_blocks += u64::from(after.is_none());
        for ordinal in 0..cidr.size() {
            let old = before.as_ref().and_then(|b| b.attribute(ordinal)).cloned();
            let new = after.as_ref().and_then(|b| b.attribute(ordinal)).cloned();
            if old != new
                && let Some(ip) = cidr.address(ordinal)
            {
                let borrowed = |node: &str| after.as_ref().is_some_and(|b| !b.is_of_host(node));
                self.address(
                    revision,
                    ip,
                    old.as_deref(),
                    new.as_deref(),
                    borrowed,
                    touched,
                );
            }
        }
        if let Some(after) = after {
            self.blocks.insert(cidr, after);
        }
    }

    fn address(
        &mut self,
        revision: Revision,
        ip: IpAddr,
        old: Option<&AllocationAttribute>,
        new: Option<&AllocationAttribute>,
        borrowed: impl Fn(&str) -> bool,
        touched: &mut BTreeSet<String>,
    ) {
        self.identity(revision, ip, old, new, touched);
        let resting = old.filter(|a| a.is_resting());
        let old = old.filter(|a| !a.is_resting()).and_then(|a| a.handle());
        let new_attribute = new.filter(|a| !a.is_resting());
        let new = new_attribute.and_then(|a| a.handle());
        if let Some(old) = old.filter(|old| Some(*old) != new) {
            self.counts.released += 1;
            touched.insert(old.to_owned());
            self.holders.remove(&ip);
            if let Some(held) = self.held.get_mut(old) {
                held.remove(&ip);
            }
        }
        let Some(new) = new.filter(|new| Some(*new) != old) else {
            return;
        };
        self.counts.assigned += 1;
        touched.insert(new.to_owned());
        if let Some(old) = old {
            self.finding(format!(
                "revision {revision}: {ip} went from {old} to {new} without being released"
            ));
        }
        if let Some(other) = self.holders.insert(ip, new.to_owned()) {
            self.finding(format!(
                "revision {revision}: {ip} is held by {other} and {new}"
            ));
        }
        self.held.entry(new.to_owned()).or_default().insert(ip);
        if self.view.reserved.contains(ip) {
            self.finding(format!(
                "revision {revision}: {ip} is reserved and went to {new}"
            ));
        }
        let secondary = new_attribute.and_then(|a| a.secondary.as_ref());
        let node = secondary.and_then(|s| s.get("node"));
        self.counts.borrowed += u64::from(node.is_some_and(|n| borrowed(n)));
        let rested = resting.filter(|a| a.handle() != Some(new)).and_then(|a| {
            let since: Timestamp = a.released_at.as_deref()?.parse().ok()?;
            let now = go_time(secondary?.get("timestamp")?)?;
            Some(now.as_second() - since.as_second())
        });
        if rested.is_some_and(|secs| secs < i64::from(setting::COOLDOWN_SECS)) {
            self.finding(format!(
                "revision {revision}: {ip} went to {new} after {rested:?} s"
            ));
        }
    }

    /// Whether the address of an identity is parked, and how it came to be so or no more.
    fn identity(
        &mut self,
        revision: Revision,
        ip: IpAddr,
        old: Option<&AllocationAttribute>,
        new: Option<&AllocationAttribute>,
        touched: &mut BTreeSet<String>,
    ) {
        let of_identity = |a: &&AllocationAttribute| {
            !a.is_resting() && a.handle().is_some_and(|h| h.starts_with(setting::STICKY))
        };
        let (was, is) = (old.filter(of_identity), new.filter(of_identity));
        touched.extend(
            was.iter()
                .chain(&is)
                .filter_map(|a| a.handle())
                .map(str::to_owned),
        );
        let lease = was.and_then(parked_until);
        match is.map(parked_until) {
            Some(Some(_)) => {
                self.counts.parked += u64::from(self.parked.insert(ip));
            }
            Some(None) => {
                self.counts.taken_over += u64::from(was.is_some());
                self.parked.remove(&ip);
            }
            None => {
                self.parked.remove(&ip);
                let freed = new.and_then(|a| a.released_at.as_deref()?.parse::<Timestamp>().ok());
                if let Some((until, freed)) = lease.zip(freed) {
                    self.counts.leases_ended += 1;
                    if freed.as_second() < until.as_second() - CLOCK_ERROR_SECS {
                        self.finding(format!(
                            "revision {revision}: {ip} was freed at {freed}, its lease ends at {until}"
                        ));
                    }
                }
            }
        }
    }

    fn check_affinity(&mut self, revision: Revision, cidr: BlockCidr) {
        let of_block = self.blocks.get(&cidr).and_then(Block::owner);
        let of_block: Vec<String> = of_block.iter().map(Owner::to_string).collect();
        let recorded: Vec<String> = self
            .affinities
            .iter()
            .filter(|(_, c)| *c == cidr)
            .map(|(owner, _)| owner.clone())
            .collect();
        if of_block != recorded {
            self.finding(format!(
                "revision {revision}: block {cidr} says {of_block:?}, the affinities say {recorded:?}"
            ));
        }
    }

    /// Block, handle and endpoint must tell the same.
    fn check_workload(&mut self, revision: Revision, handle: &str) {
        let none = BTreeSet::new();
        let by_blocks = self.held.get(handle).unwrap_or(&none);
        let workload = handle.strip_prefix("storm.").unwrap_or(handle);
        let named: Vec<&Vec<IpAddr>> = match handle.strip_prefix(setting::STICKY) {
            None => self.endpoints.get(workload).into_iter().collect(),
            Some(identity) => {
                let prefix = format!("id{identity}-");
                let from = self.endpoints.range(prefix.clone()..);
                let of_identity = from.take_while(|(name, _)| name.starts_with(&prefix));
                of_identity.map(|(_, ips)| ips).collect()
            }
        };
        let endpoints = named.len();
        let by_endpoint: BTreeSet<IpAddr> = named.into_iter().flatten().copied().collect();
        let in_use: BTreeSet<IpAddr> = by_blocks.difference(&self.parked).copied().collect();
        let v4 = by_blocks.iter().filter(|ip| ip.is_ipv4()).count();
        let one_each = v4 <= 1 && by_blocks.len() - v4 <= 1;
        let crowded = handle.starts_with(setting::STICKY) && !(one_each && endpoints <= 1);
        let mut counted: BTreeMap<BlockCidr, u32> = BTreeMap::new();
        for ip in by_blocks {
            let block = self.blocks.keys().find(|cidr| cidr.contains(*ip));
            *counted.entry(*block.expect("held in a block")).or_default() += 1;
        }
        let by_handle = self.handles.get(handle).map(|h| h.blocks.clone());
        let by_handle = by_handle.unwrap_or_default();
        if in_use != by_endpoint || counted != by_handle || crowded {
            let text = format!(
                "revision {revision}: {workload}: the blocks say {by_blocks:?}, the handle \
                 {by_handle:?}, the endpoint {by_endpoint:?}"
            );
            self.finding(text);
        }
    }

    /// What is left at the end, which must be nothing but blocks.
    pub(crate) fn check_empty(&mut self) {
        for (ip, handle) in self.holders.clone() {
            self.finding(format!("at the end: {ip} is still held by {handle}"));
        }
        for handle in self.handles.clone().into_keys() {
            self.finding(format!("at the end: handle {handle} is still there"));
        }
        for workload in self.endpoints.clone().into_keys() {
            self.finding(format!(
                "at the end: the endpoint of {workload} is still there"
            ));
        }
    }
}

/// The time in Go's form, `2026-01-02 03:04:05.6 +0000 UTC`.
fn go_time(text: &str) -> Option<Timestamp> {
    let utc = text.strip_suffix(" +0000 UTC")?;
    format!("{}Z", utc.replacen(' ', "T", 1)).parse().ok()
}
