//! The routes of a report: those of ours in the kernel, and what the speaker has selected beyond them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use margay_api::status::PeerStatus;
use margay_dataplane::link;
use margay_dataplane::netlink::{NetlinkError, Socket};
use margay_dataplane::route_table::{KernelRoute, MAIN_TABLE, PROTO_MARGAY, dump};
use margay_model::calico_node_status::{LearnedFrom, RouteReport, RoutesReport};
use margay_speaker::{Queries, RouteCursor, RouteQuery, RouteSource, SpeakerError};
use tracing::{info, warn};

use super::{MESH, address};
use crate::bgp::BgpHandle;

/// Routes of a family in a report: all of them together must fit into one value of etcd.
const MOST: usize = 3000;

/// The kernel's routes of ours, and names of interfaces by index.
type Kernel = (Vec<KernelRoute>, BTreeMap<u32, String>);

/// What the speaker has selected of others, by destination.
type Selected = BTreeMap<IpNetwork, Learned>;

struct Learned {
    peer: IpAddr,
    next_hop: Option<IpAddr>,
}

pub(super) async fn report(bgp: Option<&BgpHandle>, peers: &[PeerStatus]) -> RoutesReport {
    let kernel = match tokio::task::spawn_blocking(kernel).await {
        Ok(Ok(kernel)) => kernel,
        Ok(Err(error)) => {
            warn!(%error, "the kernel's routes cannot be read for a report");
            Kernel::default()
        }
        Err(panic) => {
            warn!(error = %panic, "the kernel's routes cannot be read for a report");
            Kernel::default()
        }
    };
    let selected = match bgp.and_then(BgpHandle::speaker) {
        Some(asked) => selected(&asked.queries).await.unwrap_or_else(|error| {
            warn!(%error, "the speaker does not tell its routes for a report");
            Selected::default()
        }),
        None => Selected::default(),
    };
    merge(&kernel, &selected, peers)
}

fn kernel() -> Result<Kernel, NetlinkError> {
    let mut socket = Socket::route()?;
    let mut routes = dump(&mut socket, MAIN_TABLE)?;
    routes.retain(|route| route.protocol == PROTO_MARGAY);
    let links = link::list(&mut socket, "")?;
    Ok((
        routes,
        links.into_iter().map(|l| (l.index, l.name)).collect(),
    ))
}

async fn selected(queries: &Queries) -> Result<Selected, SpeakerError> {
    let mut all = Selected::new();
    let mut cursor = Some(RouteCursor::START);
    while let Some(from) = cursor {
        let page = queries.page(RouteQuery::Best, from).await?;
        for route in page.routes {
            let destination = route.prefix.to_string().parse();
            if let (Ok(destination), Some(RouteSource::Peer(key))) = (destination, route.source) {
                let next_hop = route.next_hops.first().copied();
                let peer = key.addr;
                all.insert(destination, Learned { peer, next_hop });
            }
        }
        cursor = page.next.filter(|_| all.len() < 2 * MOST);
    }
    Ok(all)
}

fn merge((routes, names): &Kernel, selected: &Selected, peers: &[PeerStatus]) -> RoutesReport {
    let mut report = RoutesReport::default();
    let mut left_out = 0_usize;
    let mut push = |destination: IpNetwork, route: RouteReport| {
        let list = match destination {
            IpNetwork::V4(_) => &mut report.routes_v4,
            IpNetwork::V6(_) => &mut report.routes_v6,
        };
        match list.len() < MOST {
            true => list.push(route),
            false => left_out += 1,
        }
    };
    let mut in_kernel: Vec<&KernelRoute> = routes.iter().collect();
    in_kernel.sort_by_key(|route| route.prefix);
    for route in &in_kernel {
        let learned_from = match selected.get(&route.prefix) {
            Some(learned) => from_peer(learned, peers),
            None if route.hops.is_empty() => source("Static"),
            None => source("Kernel"),
        };
        let way = |gateway: String, interface: String| RouteReport {
            kind: "FIB".to_owned(),
            destination: route.prefix.to_string(),
            gateway,
            interface,
            learned_from: learned_from.clone(),
        };
        if route.hops.is_empty() {
            push(route.prefix, way(String::new(), String::new()));
        }
        for hop in &route.hops {
            let gateway = hop.gateway.map(|gateway| gateway.to_string());
            let interface = hop.index.and_then(|index| names.get(&index).cloned());
            let way = way(gateway.unwrap_or_default(), interface.unwrap_or_default());
            push(route.prefix, way);
        }
    }
    let only_selected = selected.iter().filter(|(destination, _)| {
        let found = in_kernel.binary_search_by_key(destination, |route| &route.prefix);
        found.is_err()
    });
    for (destination, learned) in only_selected {
        let gateway = learned.next_hop.map(|next_hop| next_hop.to_string());
        let way = RouteReport {
            kind: "RIB".to_owned(),
            destination: destination.to_string(),
            gateway: gateway.unwrap_or_default(),
            interface: String::new(),
            learned_from: from_peer(learned, peers),
        };
        push(*destination, way);
    }
    if left_out > 0 {
        info!(left_out, most = MOST, "a report has not all routes");
    }
    report
}

/// Which peer told of it.
fn from_peer(learned: &Learned, peers: &[PeerStatus]) -> LearnedFrom {
    let mesh = peers
        .iter()
        .any(|peer| address(peer) == Some(learned.peer) && peer.name.starts_with(MESH));
    LearnedFrom {
        peer_ip: Some(learned.peer.to_string()),
        ..source(if mesh { "NodeMesh" } else { "BGPPeer" })
    }
}

fn source(name: &str) -> LearnedFrom {
    LearnedFrom {
        source_type: name.to_owned(),
        peer_ip: None,
    }
}

#[cfg(test)]
mod tests {
    use margay_dataplane::route_table::KernelHop;

    use super::*;

    fn kernel_route(prefix: &str, hops: Vec<KernelHop>) -> KernelRoute {
        KernelRoute {
            prefix: prefix.parse().unwrap(),
            protocol: PROTO_MARGAY,
            metric: 77,
            kind: 1,
            src: None,
            mtu: None,
            hops,
        }
    }

    fn hop(gateway: Option<&str>, index: u32) -> KernelHop {
        KernelHop {
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            index: Some(index),
            onlink: false,
            weight: 1,
        }
    }

    fn learned(prefix: &str, peer: &str) -> (IpNetwork, Learned) {
        let peer = peer.parse().unwrap();
        let next_hop = Some(peer);
        (prefix.parse().unwrap(), Learned { peer, next_hop })
    }

    #[test]
    fn what_the_kernel_has_is_fib_and_what_only_the_speaker_has_is_rib() {
        let routes = vec![
            kernel_route("10.65.1.7/32", vec![hop(None, 3)]),
            kernel_route("10.65.2.0/26", vec![hop(Some("192.0.2.9"), 2)]),
            kernel_route("10.65.1.0/26", Vec::new()),
            kernel_route(
                "fd00::/64",
                vec![hop(Some("fe80::1"), 2), hop(Some("fe80::2"), 2)],
            ),
        ];
        let names = BTreeMap::from([(2, "eth0".to_owned()), (3, "mgy1".to_owned())]);
        let selected = Selected::from([
            learned("10.65.2.0/26", "192.0.2.9"),
            learned("10.99.0.0/16", "192.0.2.6"),
        ]);
        let peers = [PeerStatus {
            name: "mesh h2".into(),
            address: "192.0.2.9".into(),
            ..PeerStatus::default()
        }];
        let report = merge(&(routes, names), &selected, &peers);
        let line = |route: &RouteReport| {
            let from = &route.learned_from;
            let peer = from.peer_ip.as_deref().unwrap_or("-");
            [
                &*route.kind,
                &route.destination,
                &route.gateway,
                &route.interface,
                &from.source_type,
                peer,
            ]
            .join(" ")
        };
        let v4: Vec<String> = report.routes_v4.iter().map(line).collect();
        assert_eq!(
            v4,
            [
                "FIB 10.65.1.0/26   Static -",
                "FIB 10.65.1.7/32  mgy1 Kernel -",
                "FIB 10.65.2.0/26 192.0.2.9 eth0 NodeMesh 192.0.2.9",
                "RIB 10.99.0.0/16 192.0.2.6  BGPPeer 192.0.2.6",
            ]
        );
        assert_eq!(report.routes_v6.len(), 2);
    }
}
