//! The program and the oracle agree on random clusters and packets.

use margay_model::host_endpoint::HostEndpoint;
use proptest::prelude::*;

use super::arbitrary::{any_cluster, any_packet};
use super::oracle::Oracle;
use super::*;
use crate::explain::host_verdict;
use crate::program::HostPath;

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
    for packet in packets {
        for path in paths {
            for direction in [Direction::Ingress, Direction::Egress] {
                let (found, steps) = host_verdict(view, plan, path, direction, packet, false);
                let expected = oracle.host_says(hep, path, direction, packet);
                prop_assert_eq!(
                    found.map(|verdict| verdict == Verdict::Allow),
                    expected,
                    "{} {:?} {:?} {:?}: {:?}",
                    hep.key(),
                    path,
                    direction,
                    packet,
                    steps
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_program_agrees_with_the_oracle(
        cluster in any_cluster(),
        packets in proptest::collection::vec(any_packet(), 12),
    ) {
        let view = view_of(Scope::Cluster, &cluster);
        let oracle = Oracle(&cluster);
        for resource in &cluster {
            if let AnyResource::HostEndpoint(hep) = resource {
                hosts_agree(&view, &oracle, hep, &packets)?;
            }
            let AnyResource::WorkloadEndpoint(wep) = resource else { continue };
            let plan = &view.endpoints[&resource.key()];
            for packet in &packets {
                for direction in [Direction::Ingress, Direction::Egress] {
                    let (found, steps) = verdict(&view, plan, direction, packet);
                    let expected = oracle.allows(wep, direction, packet);
                    prop_assert_eq!(
                        found == Verdict::Allow, expected,
                        "{} {:?} {:?}: {:?}", wep.key(), direction, packet, steps
                    );
                }
            }
        }
    }
}
