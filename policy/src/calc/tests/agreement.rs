//! The program and the oracle agree on random clusters and packets.
//!
//! A case is a packet in a cluster, asked about at every endpoint, in both directions, and on every way
//! through a host. `POLICY_ORACLE_CASES=1000000` runs that many.

use margay_model::host_endpoint::HostEndpoint;
use margay_model::workload_endpoint::WorkloadEndpoint;
use proptest::prelude::*;

use super::arbitrary::{any_cluster, any_packet};
use super::oracle::Oracle;
use super::*;
use crate::explain::host_verdict;
use crate::program::HostPath;

/// A cluster costs as much as many packets.
const PACKETS: u32 = 100;
const CASES: u32 = 200_000;

/// How many clusters it takes.
pub(super) fn clusters() -> u32 {
    let wanted = std::env::var("POLICY_ORACLE_CASES").ok();
    let cases = wanted.and_then(|cases| cases.parse().ok());
    cases.unwrap_or(CASES).div_ceil(PACKETS)
}

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

fn workloads_agree(
    view: &View,
    oracle: &Oracle<'_>,
    wep: &WorkloadEndpoint,
    packets: &[Packet],
) -> Result<(), TestCaseError> {
    let plan = &view.endpoints[&wep.key()];
    for direction in DIRECTIONS {
        let asked = oracle.of_workload(wep, direction);
        for packet in packets {
            let (found, steps) = verdict(view, plan, direction, packet);
            prop_assert_eq!(
                Some(found == Verdict::Allow),
                asked.says(packet),
                "{} {:?} {:?}: {:?}",
                wep.key(),
                direction,
                packet,
                steps
            );
        }
    }
    Ok(())
}

/// Every path of an endpoint of a host.
fn hosts_agree(
    view: &View,
    oracle: &Oracle<'_>,
    hep: &HostEndpoint,
    packets: &[Packet],
) -> Result<(), TestCaseError> {
    let plan = &view.hosts[&hep.key()];
    let paths = [
        HostPath::Untracked,
        HostPath::PreDnat,
        HostPath::Own,
        HostPath::Forwarded,
    ];
    for (path, direction) in paths.into_iter().flat_map(|p| DIRECTIONS.map(|d| (p, d))) {
        let asked = oracle.of_host(hep, path, direction);
        for packet in packets {
            let (found, steps) = host_verdict(view, plan, path, direction, packet, false);
            prop_assert_eq!(
                found.map(|verdict| verdict == Verdict::Allow),
                asked.says(packet),
                "{} {:?} {:?} {:?}: {:?}",
                hep.key(),
                path,
                direction,
                packet,
                steps
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(clusters()))]

    #[test]
    fn the_program_agrees_with_the_oracle(
        cluster in any_cluster(),
        packets in proptest::collection::vec(any_packet(), PACKETS as usize),
    ) {
        let view = view_of(Scope::Cluster, &cluster);
        let oracle = Oracle::new(&cluster);
        for resource in &cluster {
            match resource {
                AnyResource::HostEndpoint(hep) => hosts_agree(&view, &oracle, hep, &packets)?,
                AnyResource::WorkloadEndpoint(wep) => {
                    workloads_agree(&view, &oracle, wep, &packets)?;
                }
                _ => {}
            }
        }
    }
}
