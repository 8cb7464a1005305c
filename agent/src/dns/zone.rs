//! The names of the cluster, as last seen.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use margay_model::kind::ResourceKey;

use super::record::{Port, Record};

/// All records, by name and by address.
#[derive(Debug, Default)]
pub(super) struct Zone {
    records: HashMap<ResourceKey, Arc<Record>>,
    by_name: HashMap<String, BTreeSet<ResourceKey>>,
    by_ip: HashMap<IpAddr, BTreeSet<ResourceKey>>,
    /// Names that others end with: they exist, though there is nothing to say of them.
    parents: HashMap<String, usize>,
    /// Hosts that have (had) an agent of ours.
    agents: BTreeSet<String>,
    /// Of those, the ones that give a sign of life.
    alive: BTreeSet<String>,
    /// Raised with every change.
    pub(super) serial: u32,
}

/// What there is under a name.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    Nothing,
    /// Only names that end with this one.
    Parent,
    Endpoints(Vec<Arc<Record>>),
    Services(Vec<(String, Arc<Record>, Port)>),
}

impl Zone {
    pub(super) fn set(&mut self, key: ResourceKey, record: Option<Arc<Record>>) {
        self.serial = self.serial.wrapping_add(1);
        if let Some(old) = self.records.remove(&key) {
            self.forget(&key, &old);
        }
        let Some(record) = record else { return };
        for name in &record.names {
            self.by_name
                .entry(name.clone())
                .or_default()
                .insert(key.clone());
            for parent in parents(name) {
                *self.parents.entry(parent.to_owned()).or_default() += 1;
            }
        }
        for ip in &record.ips {
            self.by_ip.entry(*ip).or_default().insert(key.clone());
        }
        self.records.insert(key, record);
    }

    fn forget(&mut self, key: &ResourceKey, record: &Record) {
        for name in &record.names {
            remove(&mut self.by_name, name, key);
            for parent in parents(name) {
                if let Some(count) = self.parents.get_mut(parent) {
                    *count -= 1;
                    if *count == 0 {
                        self.parents.remove(parent);
                    }
                }
            }
        }
        for ip in &record.ips {
            remove(&mut self.by_ip, ip, key);
        }
    }

    /// Who has an agent, and who gives a sign of life.
    pub(super) fn set_health(&mut self, agents: BTreeSet<String>, alive: BTreeSet<String>) {
        (self.agents, self.alive) = (agents, alive);
        self.serial = self.serial.wrapping_add(1);
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether an endpoint has this address.
    pub(super) fn knows(&self, ip: IpAddr) -> bool {
        self.by_ip.contains_key(&ip)
    }

    /// What a name without the zone's own stands for, in lower case.
    pub(super) fn find(&self, name: &str) -> Found {
        if let Some(keys) = self.by_name.get(name) {
            return Found::Endpoints(self.healthy(keys));
        }
        match self.services(name) {
            Some(found) if !found.is_empty() => return Found::Services(found),
            _ => {}
        }
        match name.is_empty() || self.parents.contains_key(name) {
            true => Found::Parent,
            false => Found::Nothing,
        }
    }

    /// `_http._tcp.WORKLOAD.GROUP`.
    fn services(&self, name: &str) -> Option<Vec<(String, Arc<Record>, Port)>> {
        let (service, rest) = name.strip_prefix('_')?.split_once('.')?;
        let (protocol, target) = rest.strip_prefix('_')?.split_once('.')?;
        let mut found = Vec::new();
        for record in self.healthy(self.by_name.get(target)?) {
            let fits = |port: &&Port| port.service == service && port.protocol == protocol;
            if let Some(port) = record.ports.iter().find(fits).cloned() {
                found.push((target.to_owned(), record, port));
            }
        }
        Some(found)
    }

    /// The name that an address leads back to.
    pub(super) fn name_of(&self, ip: IpAddr) -> Option<&str> {
        let keys = self.by_ip.get(&ip)?;
        let records = keys.iter().filter_map(|key| self.records.get(key));
        records
            .filter_map(|record| record.names.first())
            .map(String::as_str)
            .min()
    }

    /// Without those that are unhealthy or on hosts whose agent is gone, unless that is all there is: then more likely a
    /// sign of life is missing than the whole cluster.
    fn healthy(&self, keys: &BTreeSet<ResourceKey>) -> Vec<Arc<Record>> {
        let all = keys.iter().filter_map(|key| self.records.get(key));
        let all: Vec<Arc<Record>> = all.cloned().collect();
        let gone = |node: &str| self.agents.contains(node) && !self.alive.contains(node);
        let healthy = all.iter().filter(|r| !r.unhealthy && !gone(&r.node));
        let healthy: Vec<_> = healthy.cloned().collect();
        if healthy.is_empty() { all } else { healthy }
    }
}

/// Everything behind a dot.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(at, _)| &name[at + 1..])
}

fn remove<K: std::hash::Hash + Eq + Clone>(
    map: &mut HashMap<K, BTreeSet<ResourceKey>>,
    at: &K,
    key: &ResourceKey,
) {
    if let Some(keys) = map.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use margay_model::kind::Kind;

    use super::*;

    fn key(name: &str) -> ResourceKey {
        ResourceKey::namespaced(Kind::WorkloadEndpoint, "d", name)
    }

    fn record(name: &str, node: &str, ip: &str) -> Option<Arc<Record>> {
        Some(Arc::new(Record {
            names: vec![name.to_owned()],
            node: node.to_owned(),
            ips: vec![ip.parse().unwrap()],
            ports: vec![Port {
                service: "http".into(),
                protocol: "tcp".into(),
                number: 80,
            }],
            unhealthy: false,
        }))
    }

    fn ips(found: Found) -> Vec<String> {
        match found {
            Found::Endpoints(all) => all.iter().map(|r| r.ips[0].to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_come_and_go_with_their_endpoints() {
        let mut zone = Zone::default();
        zone.set(key("a"), record("web.shop", "h1", "10.0.0.1"));
        zone.set(key("b"), record("web.shop", "h2", "10.0.0.2"));
        assert_eq!(ips(zone.find("web.shop")), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(zone.find("shop"), Found::Parent);
        assert_eq!(zone.find(""), Found::Parent);
        assert_eq!(zone.find("op"), Found::Nothing);
        assert_eq!(zone.name_of("10.0.0.2".parse().unwrap()), Some("web.shop"));
        let Found::Services(found) = zone.find("_http._tcp.web.shop") else {
            panic!()
        };
        assert_eq!(found.len(), 2);
        assert_eq!(zone.find("_http._udp.web.shop"), Found::Nothing);
        zone.set(key("a"), record("db.shop", "h1", "10.0.0.1"));
        assert_eq!(ips(zone.find("web.shop")), ["10.0.0.2"]);
        zone.set(key("b"), None);
        assert_eq!(zone.find("web.shop"), Found::Nothing);
        zone.set(key("a"), None);
        assert_eq!(zone.find("shop"), Found::Nothing);
        assert!(zone.by_ip.is_empty() && zone.parents.is_empty() && zone.len() == 0);
    }

    #[test]
    fn endpoints_of_a_host_that_is_gone_are_left_out_unless_there_is_no_other() {
        let mut zone = Zone::default();
        zone.set(key("a"), record("web.shop", "h1", "10.0.0.1"));
        zone.set(key("b"), record("web.shop", "h2", "10.0.0.2"));
        zone.set(key("c"), record("web.shop", "foreign", "10.0.0.3"));
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        zone.set_health(set(&["h1", "h2"]), set(&["h1"]));
        assert_eq!(ips(zone.find("web.shop")), ["10.0.0.1", "10.0.0.3"]);
        zone.set(key("c"), None);
        zone.set_health(set(&["h1", "h2"]), set(&[]));
        assert_eq!(ips(zone.find("web.shop")), ["10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn unhealthy_endpoints_are_left_out_unless_there_is_no_other() {
        let mut zone = Zone::default();
        let sick = |name, ip| {
            let well = record(name, "h1", ip).unwrap();
            Some(Arc::new(Record {
                unhealthy: true,
                ..Record::clone(&well)
            }))
        };
        zone.set(key("a"), sick("web.shop", "10.0.0.1"));
        zone.set(key("b"), record("web.shop", "h2", "10.0.0.2"));
        assert_eq!(ips(zone.find("web.shop")), ["10.0.0.2"]);
        let Found::Services(found) = zone.find("_http._tcp.web.shop") else {
            panic!()
        };
        assert_eq!(found.len(), 1);
        zone.set(key("b"), sick("web.shop", "10.0.0.2"));
        assert_eq!(ips(zone.find("web.shop")), ["10.0.0.1", "10.0.0.2"]);
    }
}
