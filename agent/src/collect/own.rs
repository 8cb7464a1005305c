//! Addresses in this host's blocks that name this host and that none of its endpoints has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use margay_ipam::sticky::{Held, parked_until};

use super::Collector;
use crate::cni::HANDLE_ANNOTATION;
use crate::world::World;

/// Handles that stand for something else than a workload, in the established system's naming.
const NOT_WORKLOADS: [&str; 3] = ["-tunnel-addr-", "windows-reserved-ipam-handle", "lb-"];

/// Since when an address has been seen without an endpoint, by the sequence number of its allocation.
#[derive(Debug, Default)]
pub(super) struct Own {
    since: BTreeMap<(IpAddr, Option<u64>), Instant>,
}

impl Own {
    /// Those that have been left over for the grace period, and at the last look too.
    pub(super) fn orphans(&mut self, held: Vec<Held>, collector: &Collector) -> Vec<Held> {
        let world = collector.world.borrow().clone();
        let suspects = suspects(held, &collector.node, &world);
        self.ripe(suspects, collector.grace, Instant::now())
    }

    /// How many were left over at the last look.
    pub(super) fn suspects(&self) -> usize {
        self.since.len()
    }

    fn ripe(&mut self, suspects: Vec<Held>, grace: Duration, now: Instant) -> Vec<Held> {
        let before = std::mem::take(&mut self.since);
        let mut ripe = Vec::new();
        for held in suspects {
            let key = (held.address.ip, held.sequence);
            let first = before.get(&key).copied();
            self.since.insert(key, first.unwrap_or(now));
            if first.is_some_and(|first| now.duration_since(first) >= grace) {
                ripe.push(held);
            }
        }
        ripe
    }
}

fn suspects(held: Vec<Held>, node: &str, world: &World) -> Vec<Held> {
    let endpoints = || world.endpoints.values().map(|e| &e.resource);
    let ips: BTreeSet<IpAddr> = endpoints()
        .flat_map(|e| e.spec.ip_networks.iter().map(|net| net.addr()))
        .collect();
    let handles: BTreeSet<&str> = endpoints()
        .filter_map(|e| e.metadata.annotations.get(HANDLE_ANNOTATION))
        .map(String::as_str)
        .collect();
    let left_over = |held: &Held| {
        let handle = held.attribute.handle().unwrap_or_default();
        held.attr("node") == Some(node)
            && parked_until(&held.attribute).is_none()
            && !handle.is_empty()
            && !NOT_WORKLOADS
                .iter()
                .any(|other| match other.starts_with('-') {
                    true => handle.contains(other),
                    false => handle.starts_with(other),
                })
            && !handles.contains(handle)
            && !ips.contains(&held.address.ip)
    };
    held.into_iter().filter(left_over).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use margay_ipam::Address;
    use margay_model::ipam::{AllocationAttribute, BlockCidr};
    use margay_model::kind::{Kind, ResourceKey};
    use margay_model::meta::{ObjectMeta, Resource};
    use margay_model::workload_endpoint::WorkloadEndpointSpec;

    use super::*;
    use crate::world::LocalEndpoint;

    fn held(ip: &str, handle: &str, node: &str, sequence: u64) -> Held {
        let ip: IpAddr = ip.parse().unwrap();
        Held {
            address: Address {
                ip,
                block: BlockCidr::containing(ip, 26).unwrap(),
                borrowed: false,
            },
            attribute: Arc::new(AllocationAttribute {
                handle_id: Some(handle.into()),
                secondary: Some([("node".to_owned(), node.to_owned())].into()),
                ..AllocationAttribute::default()
            }),
            sequence: Some(sequence),
        }
    }

    #[test]
    fn only_workloads_of_this_node_without_an_endpoint_are_suspects() {
        let mut metadata = ObjectMeta::namespaced("default", "e");
        let handle = ("margay.io/handle".to_owned(), "net.kept".to_owned());
        metadata.annotations.extend([handle]);
        let spec = WorkloadEndpointSpec {
            ip_networks: vec![margay_model::net::Cidr::host("10.0.0.2".parse().unwrap())],
            ..WorkloadEndpointSpec::default()
        };
        let endpoint = Arc::new(LocalEndpoint {
            resource: Resource::new(metadata, spec),
            mod_revision: 1,
        });
        let key = ResourceKey::namespaced(Kind::WorkloadEndpoint, "default", "e");
        let world = World {
            endpoints: Arc::new([(key, endpoint)].into_iter().collect()),
            ..World::default()
        };
        let all = vec![
            held("10.0.0.1", "net.gone", "n1", 1),
            held("10.0.0.2", "other.name", "n1", 1),
            held("10.0.0.3", "net.kept", "n1", 1),
            held("10.0.0.4", "net.gone", "n2", 1),
            held("10.0.0.5", "vxlan-tunnel-addr-n1", "n1", 1),
        ];
        let found = suspects(all, "n1", &world);
        let ips: Vec<String> = found.iter().map(|h| h.address.ip.to_string()).collect();
        assert_eq!(ips, ["10.0.0.1"]);
    }

    #[test]
    fn an_orphan_must_be_the_same_one_for_the_whole_grace_period() {
        let (start, grace) = (Instant::now(), Duration::from_secs(10));
        let at = |secs: u64| start + Duration::from_secs(secs);
        let one = || vec![held("10.0.0.1", "net.gone", "n1", 1)];
        let mut own = Own::default();
        assert!(own.ripe(one(), grace, at(0)).is_empty());
        assert!(own.ripe(one(), grace, at(9)).is_empty());
        assert_eq!(own.ripe(one(), grace, at(10)).len(), 1);
        // Gone in between, or allocated anew: from the start again.
        assert!(own.ripe(Vec::new(), grace, at(11)).is_empty());
        assert!(own.ripe(one(), grace, at(12)).is_empty());
        let anew = vec![held("10.0.0.1", "net.gone", "n1", 2)];
        assert!(own.ripe(anew, grace, at(30)).is_empty());
    }
}
