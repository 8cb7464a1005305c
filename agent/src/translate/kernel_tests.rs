//! The program in the kernel says of real packets what the oracle says from the resources.
//!
//! ```text
//!   x/a mgy1 --+
//!   x/b mgy2 --+-- host (forwards, filters) -- up0 -- strangers
//!   y/a mgy3 --+
//!   y/b mgy4 --+
//! ```
//! Random policies go through the calculation, the translation and the driver, one state after the
//! other, as they do in the agent. Packets are made by hand and only looked at where they arrive, so
//! that nobody answers and every packet opens a connection.

#[path = "../../../policy/src/calc/tests/arbitrary.rs"]
#[expect(
    dead_code,
    reason = "its other half serves the tests of the calculation"
)]
mod arbitrary;
#[path = "../../../policy/src/calc/tests/fixtures.rs"]
#[expect(
    dead_code,
    reason = "its other half serves the tests of the calculation"
)]
mod fixtures;
#[path = "../../../policy/src/calc/tests/oracle.rs"]
mod oracle;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use margay_dataplane::filter::{
    Backend, Config, Filter, Globals, HostInterface, SetSpec, Variant, Wish,
};
use margay_model::any::AnyResource;
use margay_model::kind::ResourceKey;
use margay_policy::calc::{Calc, DEFAULT_ALLOW_PROFILE, Scope};
use margay_policy::explain::Packet;
use margay_policy::program::{Direction, HostPath, Update};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::*;
use oracle::Oracle;
use world::World;

/// States of the cluster, and packets for each, of one backend.
const CLUSTERS: usize = 60;
const PACKETS: usize = 60;

/// Endpoint, interface and addresses.
const WORKLOADS: [(&str, &str, &[&str]); 4] = [
    ("x/a", "mgy1", &["10.0.0.1", "fd00::1"]),
    ("x/b", "mgy2", &["10.0.0.2", "fd00::2"]),
    ("y/a", "mgy3", &["10.0.0.5"]),
    ("y/b", "mgy4", &["10.0.0.9", "fd00::9"]),
];
const STRANGERS: (&str, &[&str]) = ("up0", &["192.0.2.7", "10.0.0.14", "fd00::e", "2001:db8::7"]);

#[test]
fn real_packets_fare_as_the_oracle_says_with_nftables() {
    agree(Backend::Nftables);
}

#[test]
fn real_packets_fare_as_the_oracle_says_with_iptables_nft() {
    agree(Backend::Iptables(Variant::Nft));
}

#[test]
fn real_packets_fare_as_the_oracle_says_with_iptables_legacy() {
    agree(Backend::Iptables(Variant::Legacy));
}

fn agree(backend: Backend) {
    let all = WORKLOADS.map(|(_, ifname, addresses)| (ifname, addresses));
    let mut world = World::new(&[&all[..], &[STRANGERS]].concat());
    let mut lab = Lab::new(backend);
    let mut runner = TestRunner::new_with_rng(
        proptest::test_runner::Config::default(),
        // Each backend sees other clusters.
        TestRng::from_seed(RngAlgorithm::ChaCha, &[backend.to_string().len() as u8; 32]),
    );
    let (mut passed, mut dropped) = (0, 0);
    for _ in 0..CLUSTERS {
        let cluster = cluster(&mut runner);
        lab.go(&cluster);
        let oracle = Oracle::new(&cluster);
        let packets = packets(&mut runner);
        let expected: BTreeSet<usize> = (0..packets.len())
            .filter(|i| passes(&oracle, &cluster, &packets[*i]))
            .collect();
        let arrived = world.send(&packets, &expected);
        for (i, packet) in packets.iter().enumerate() {
            assert_eq!(
                arrived.contains(&i),
                expected.contains(&i),
                "{packet:?} (arrived, expected) among\n{}",
                listing(&cluster)
            );
        }
        passed += expected.len();
        dropped += packets.len() - expected.len();
    }
    // Both verdicts are worth something only if both are common.
    assert!(
        passed > 500 && dropped > 500,
        "{passed} passed, {dropped} dropped"
    );
}

/// The resources, a line each.
fn listing(cluster: &[AnyResource]) -> String {
    let line = |resource: &AnyResource| {
        let text = margay_model::stored::encode_stored(resource);
        format!("{}\n", String::from_utf8_lossy(&text))
    };
    cluster.iter().map(line).collect()
}

/// The calculation and the driver, as the agent has them.
struct Lab {
    calc: Calc,
    filter: Filter,
    present: BTreeSet<ResourceKey>,
    hosts: BTreeMap<ResourceKey, to::HostEndpoint>,
}

impl Lab {
    fn new(backend: Backend) -> Self {
        let config = Config {
            backend: Wish::Exactly(backend),
            ..Config::default()
        };
        let mut filter = Filter::open(config).unwrap();
        filter.set_globals(Globals::default()).unwrap();
        filter.allow_deletes();
        Self {
            calc: Calc::new(Scope::Node("n1".to_owned())),
            filter,
            present: BTreeSet::new(),
            hosts: BTreeMap::new(),
        }
    }

    /// Makes the kernel enforce this cluster, whatever it enforced before.
    fn go(&mut self, cluster: &[AnyResource]) {
        let keys: BTreeSet<ResourceKey> = cluster.iter().map(AnyResource::key).collect();
        for gone in self.present.difference(&keys) {
            self.calc.remove(gone);
        }
        cluster
            .iter()
            .for_each(|resource| self.calc.update(resource));
        self.present = keys;
        for update in self.calc.flush() {
            self.take(update);
        }
        // There is one interface that any of them can stand for.
        let up0 = HostInterface::Named("up0".to_owned());
        let host = self.hosts.values().next().cloned();
        self.filter
            .set_hosts(host.into_iter().map(|host| (up0.clone(), host)).collect());
        let report = self.filter.apply();
        assert!(report.is_ok(), "{:?}", report.failures);
    }

    fn take(&mut self, update: Update) {
        let filter = &mut self.filter;
        match update {
            Update::SetAdded { id, kind, members } => {
                let spec = SetSpec {
                    kind: set_kind(kind),
                    members: members.into_iter().map(set_member).collect(),
                };
                filter.set_ipset(set_id(&id), spec);
            }
            Update::SetChanged {
                id, added, removed, ..
            } => {
                let added = added.into_iter().map(set_member);
                let removed = removed.into_iter().map(set_member);
                assert!(filter.update_ipset(&set_id(&id), added, removed));
            }
            Update::SetRemoved { id } => filter.remove_ipset(&set_id(&id)),
            Update::PolicyRules { id, rules: from } => {
                filter.set_policy(policy_id(&id), rules(&from));
            }
            Update::PolicyRemoved { id } => filter.remove_policy(&policy_id(&id)),
            Update::ProfileRules { name, rules: from } => {
                filter.set_profile(profile_id(&name), rules(&from));
            }
            Update::ProfileRemoved { name } => filter.remove_profile(&profile_id(&name)),
            Update::Endpoint { id, plan } => {
                filter
                    .set_endpoint(endpoint_id(&id), endpoint(&plan))
                    .unwrap();
            }
            Update::EndpointRemoved { id } => filter.remove_endpoint(&endpoint_id(&id)),
            Update::HostEndpoint { id, plan } => {
                self.hosts.insert(id, host(&plan));
            }
            Update::HostEndpointRemoved { id } => {
                self.hosts.remove(&id);
            }
        }
    }
}

/// The four endpoints with random labels, ports and profiles, and random resources around them.
fn cluster(runner: &mut TestRunner) -> Vec<AnyResource> {
    let mut sample = || {
        arbitrary::any_resource()
            .new_tree(runner)
            .unwrap()
            .current()
    };
    let mut by_key = BTreeMap::new();
    let mut workloads = WORKLOADS.into_iter();
    let mut next = workloads.next();
    // Endpoints as they come are made those of the world.
    while let Some((name, ifname, addresses)) = next {
        let mut resource = sample();
        if is_policy(&resource) && by_key.len() % 2 == 0 {
            continue;
        }
        if let AnyResource::WorkloadEndpoint(wep) = &mut resource {
            let (namespace, name) = name.split_once('/').unwrap();
            wep.metadata.namespace = Some(namespace.to_owned());
            wep.metadata.name = name.to_owned();
            wep.spec.node = "n1".to_owned();
            wep.spec.interface_name = ifname.to_owned();
            wep.spec.ip_networks = addresses
                .iter()
                .map(|address| Cidr::host(address.parse().unwrap()))
                .collect();
            // Most packets are to get as far as the policies.
            wep.spec.profiles.retain(|name| name == "kns.x");
            wep.spec.profiles.push(DEFAULT_ALLOW_PROFILE.to_owned());
            next = workloads.next();
        }
        if let AnyResource::HostEndpoint(hep) = &mut resource {
            // Of several for one interface only one counts, which the kernel thread sees to.
            hep.metadata.name = "h".to_owned();
            hep.spec.interface_name = "up0".to_owned();
        }
        by_key.insert(resource.key(), resource);
    }
    by_key.into_values().collect()
}

fn is_policy(resource: &AnyResource) -> bool {
    matches!(
        resource,
        AnyResource::NetworkPolicy(_) | AnyResource::GlobalNetworkPolicy(_)
    )
}

/// Packets that come through the host, none of them the answer to another.
fn packets(runner: &mut TestRunner) -> Vec<Packet> {
    let mut packets: Vec<Packet> = Vec::with_capacity(PACKETS);
    while packets.len() < PACKETS {
        let packet = arbitrary::any_packet().new_tree(runner).unwrap().current();
        let Packet {
            source,
            destination,
            ..
        } = packet;
        let forwarded = world::ifname_of(source) != world::ifname_of(destination);
        // Other types never open a connection for the kernel.
        let opens = packet
            .icmp
            .is_none_or(|(kind, _)| kind == if source.is_ipv4() { 8 } else { 128 });
        let answers = |other: &Packet| {
            other.source == destination
                && other.destination == source
                && other.protocol == packet.protocol
                && other.source_port == packet.destination_port
                && other.destination_port == packet.source_port
        };
        if forwarded && opens && !packets.iter().any(answers) {
            packets.push(packet);
        }
    }
    packets
}

/// Whether the packet gets through the host and both ends.
fn passes<'a>(oracle: &Oracle<'a>, cluster: &'a [AnyResource], packet: &Packet) -> bool {
    let at = |address| {
        let owner = WORKLOADS
            .into_iter()
            .find(|(_, ifname, _)| *ifname == world::ifname_of(address));
        cluster.iter().find_map(|resource| match (resource, owner) {
            (AnyResource::WorkloadEndpoint(wep), Some((_, ifname, _)))
                if wep.spec.interface_name == ifname =>
            {
                Some(wep)
            }
            _ => None,
        })
    };
    let hep = cluster.iter().find_map(|resource| match resource {
        AnyResource::HostEndpoint(hep) => Some(hep),
        _ => None,
    });
    let host = |path, direction| oracle.of_host(hep?, path, direction).says(packet);
    let workload = |address, direction| {
        let endpoint = at(address);
        endpoint.is_none_or(|wep| oracle.of_workload(wep, direction).says(packet) == Some(true))
    };
    let in_by_host = || {
        let early = host(HostPath::Untracked, Direction::Ingress)
            .or_else(|| host(HostPath::PreDnat, Direction::Ingress));
        let decided = early.or_else(|| host(HostPath::Forwarded, Direction::Ingress));
        decided.unwrap_or(true)
    };
    let out_by_host = || host(HostPath::Forwarded, Direction::Egress).unwrap_or(true);
    let is_stranger = |address| world::ifname_of(address) == STRANGERS.0;
    (!is_stranger(packet.source) || in_by_host())
        && workload(packet.source, Direction::Egress)
        && workload(packet.destination, Direction::Ingress)
        && (!is_stranger(packet.destination) || out_by_host())
}
