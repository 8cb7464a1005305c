//! The memory of flows: those of the current interval by key, earlier ones as they were, the oldest forgotten first.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use margay_api::flows::{Flow, FlowQuery, Verdict};
use margay_dataplane::filter::{self, Label};
use margay_dataplane::nflog::Packet;

use super::names::Names;

/// Flows of one interval. Somebody who scans the network must not be able to fill the memory.
const MOST_AT_ONCE: usize = 4096;

/// Flows that are kept, some 300 bytes each.
const MOST: usize = 16_384;

/// What packets of one flow have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) label: Label,
    pub(super) in_interface: Arc<str>,
    pub(super) out_interface: Arc<str>,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

impl Key {
    pub(super) fn of(label: Label, packet: &Packet, names: &mut Names) -> Self {
        Self {
            label,
            in_interface: names.interface(packet.in_index),
            out_interface: names.interface(packet.out_index),
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol,
            port: packet.ports.1,
        }
    }

    pub(super) const fn verdict(&self) -> Verdict {
        match self.label.verdict {
            filter::Verdict::Allow => Verdict::Allow,
            filter::Verdict::Deny => Verdict::Deny,
            filter::Verdict::Log => Verdict::Log,
            filter::Verdict::WouldAllow => Verdict::WouldAllow,
            filter::Verdict::WouldDeny => Verdict::WouldDeny,
        }
    }

    /// The interface of the endpoint whose rules were asked.
    pub(super) fn own_interface(&self) -> &Arc<str> {
        let (own, other) = match self.label.ingress {
            true => (&self.out_interface, &self.in_interface),
            false => (&self.in_interface, &self.out_interface),
        };
        if own.is_empty() { other } else { own }
    }
}

#[derive(Clone, Debug)]
struct Sum {
    first_ms: u64,
    last_ms: u64,
    source_port: u16,
    packets: u64,
    bytes: u64,
    changed: u64,
}

/// The memory.
#[derive(Debug, Default)]
pub(super) struct Ring {
    now: HashMap<Key, Sum>,
    /// In the order in which they last changed, with the change.
    past: VecDeque<(u64, Flow)>,
    changes: u64,
    crowded_out: u64,
}

impl Ring {
    /// Whether this is the flow's first packet in the interval; none when there is no room for another flow.
    pub(super) fn add(&mut self, key: &Key, packet: &Packet, now_ms: u64) -> Option<bool> {
        self.changes += 1;
        let bytes = u64::from(packet.bytes);
        if let Some(sum) = self.now.get_mut(key) {
            sum.last_ms = now_ms;
            sum.source_port = packet.ports.0;
            sum.packets += 1;
            sum.bytes += bytes;
            sum.changed = self.changes;
            return Some(false);
        }
        if self.now.len() >= MOST_AT_ONCE {
            self.crowded_out += 1;
            return None;
        }
        let sum = Sum {
            first_ms: now_ms,
            last_ms: now_ms,
            source_port: packet.ports.0,
            packets: 1,
            bytes,
            changed: self.changes,
        };
        self.now.insert(key.clone(), sum);
        Some(true)
    }

    /// The flows of this interval.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.now.keys()
    }

    pub(super) const fn crowded_out(&self) -> u64 {
        self.crowded_out
    }

    /// The interval is over: its flows become what they are called by now.
    pub(super) fn turn(&mut self, names: &Names) {
        let now = std::mem::take(&mut self.now);
        self.past.extend(told(&now, names));
        let surplus = self.past.len().saturating_sub(MOST);
        self.past.drain(..surplus);
    }

    /// The flows that changed after a change, and the last change.
    pub(super) fn since(&self, query: &FlowQuery, names: &Names) -> (Vec<Flow>, u64) {
        let past = self
            .past
            .iter()
            .filter(|(changed, _)| *changed > query.after);
        let mut flows: Vec<Flow> = past.map(|(_, flow)| flow.clone()).collect();
        let now = told(&self.now, names);
        flows.extend(
            now.into_iter()
                .filter(|(changed, _)| *changed > query.after)
                .map(|(_, flow)| flow),
        );
        if query.limit > 0 {
            let surplus = flows.len().saturating_sub(query.limit);
            flows.drain(..surplus);
        }
        (flows, self.changes)
    }
}

fn told(flows: &HashMap<Key, Sum>, names: &Names) -> Vec<(u64, Flow)> {
    let flow = |(key, sum): (&Key, &Sum)| {
        let flow = Flow {
            first_ms: sum.first_ms,
            last_ms: sum.last_ms,
            verdict: key.verdict(),
            ingress: key.label.ingress,
            endpoint: names.endpoint(key).to_owned(),
            in_interface: key.in_interface.to_string(),
            out_interface: key.out_interface.to_string(),
            source: key.source,
            destination: key.destination,
            protocol: key.protocol,
            source_port: sum.source_port,
            port: key.port,
            reason: names.reason(&key.label.cause),
            packets: sum.packets,
            bytes: sum.bytes,
        };
        (sum.changed, flow)
    };
    let mut all: Vec<(u64, Flow)> = flows.iter().map(flow).collect();
    all.sort_unstable_by_key(|(changed, _)| *changed);
    all
}

#[cfg(test)]
mod tests {
    use margay_api::flows::Reason;

    use super::*;

    fn packet(port: u16) -> Packet {
        Packet {
            prefix: "mgy:DiP2:NetworkPolicy/shop/web".into(),
            in_index: None,
            out_index: None,
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            protocol: 6,
            ports: (40_000, port),
            bytes: 60,
        }
    }

    fn add(ring: &mut Ring, port: u16, now_ms: u64) -> Option<bool> {
        let packet = packet(port);
        let label = Label::parse(&packet.prefix).unwrap();
        let key = Key::of(label, &packet, &mut Names::default());
        ring.add(&key, &packet, now_ms)
    }

    fn since(ring: &Ring, after: u64) -> (Vec<(u16, u64)>, u64) {
        let query = FlowQuery { after, limit: 0 };
        let (flows, next) = ring.since(&query, &Names::default());
        let seen = flows.iter().map(|flow| (flow.port, flow.packets));
        (seen.collect(), next)
    }

    #[test]
    fn packets_of_one_flow_add_up_within_an_interval() {
        let mut ring = Ring::default();
        assert_eq!(add(&mut ring, 80, 5), Some(true));
        assert_eq!(add(&mut ring, 80, 9), Some(false));
        assert_eq!(add(&mut ring, 81, 9), Some(true));
        let (flows, _) = ring.since(&FlowQuery::default(), &Names::default());
        assert_eq!(flows.len(), 2);
        let web = &flows[0];
        assert_eq!((web.port, web.packets, web.bytes), (80, 2, 120));
        assert_eq!((web.first_ms, web.last_ms), (5, 9));
        let policy = Reason::Policy {
            tier: String::new(),
            policy: "NetworkPolicy/shop/web".into(),
            rule: 2,
        };
        assert_eq!(web.reason, policy);
        ring.turn(&Names::default());
        assert_eq!(add(&mut ring, 80, 20_000), Some(true));
        assert_eq!(since(&ring, 0).0, [(80, 2), (81, 1), (80, 1)]);
    }

    #[test]
    fn who_follows_is_told_what_changed() {
        let mut ring = Ring::default();
        add(&mut ring, 80, 1);
        add(&mut ring, 81, 1);
        let (_, next) = since(&ring, 0);
        assert_eq!(since(&ring, next), (vec![], next));
        add(&mut ring, 80, 2);
        ring.turn(&Names::default());
        add(&mut ring, 82, 3);
        let (flows, last) = since(&ring, next);
        assert_eq!(flows, [(80, 2), (82, 1)]);
        assert_eq!(since(&ring, last).0, []);
    }

    #[test]
    fn memory_is_bounded_and_what_did_not_fit_is_counted() {
        let mut ring = Ring::default();
        for n in 0..MOST_AT_ONCE as u16 + 10 {
            add(&mut ring, n, 0);
        }
        assert_eq!((ring.now.len(), ring.crowded_out()), (MOST_AT_ONCE, 10));
        // What is there is still counted.
        assert_eq!(add(&mut ring, 0, 0), Some(false));
        for _ in 0..6 {
            ring.turn(&Names::default());
            for n in 0..MOST_AT_ONCE as u16 {
                add(&mut ring, n, 0);
            }
        }
        assert_eq!(ring.past.len(), MOST);
        let query = FlowQuery { after: 0, limit: 3 };
        assert_eq!(ring.since(&query, &Names::default()).0.len(), 3);
    }
}
