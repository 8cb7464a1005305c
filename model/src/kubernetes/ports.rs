//! Protocols with their ports, as one rule can have them.

use std::collections::BTreeMap;

use crate::protocol::{Port, Protocol};

/// Ports by the name of their protocol; no ports mean all of them, no protocols all traffic.
#[derive(Debug, Default)]
pub(super) struct Ports(BTreeMap<String, (Protocol, Vec<Port>)>);

impl Ports {
    /// Adds a port, or all ports of a protocol.
    pub(super) fn add(&mut self, protocol: Protocol, port: Option<Port>) {
        let entry = self.0.entry(protocol.to_string());
        match (entry, port) {
            (std::collections::btree_map::Entry::Vacant(entry), port) => {
                entry.insert((protocol, port.into_iter().collect()));
            }
            (std::collections::btree_map::Entry::Occupied(mut entry), Some(port)) => {
                let (_, ports) = entry.get_mut();
                // All ports stay all ports.
                if !ports.is_empty() {
                    ports.push(port);
                }
            }
            (std::collections::btree_map::Entry::Occupied(mut entry), None) => {
                entry.get_mut().1.clear();
            }
        }
    }

    /// A protocol and its ports for each rule to make: those with names first, then numbers, merged.
    pub(super) fn rules(self) -> Vec<(Option<Protocol>, Vec<Port>)> {
        if self.0.is_empty() {
            return vec![(None, Vec::new())];
        }
        let by_protocol = self.0.into_values();
        by_protocol
            .map(|(protocol, ports)| (Some(protocol), merged(ports)))
            .collect()
    }
}

fn merged(ports: Vec<Port>) -> Vec<Port> {
    let mut ranges: Vec<(u16, u16)> = ports.iter().filter_map(Port::bounds).collect();
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    let mut all: Vec<Port> = Vec::new();
    for port in ports.into_iter().filter(|port| port.bounds().is_none()) {
        if !all.contains(&port) {
            all.push(port);
        }
    }
    all.extend(joined.into_iter().map(|(first, last)| match first == last {
        true => Port::Number(first),
        false => Port::Range(first, last),
    }));
    all
}
