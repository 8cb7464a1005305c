//! Addresses of this host's blocks that no container has: packets to them end here. The host's default route leads back
//! to the router, and the packet would go round until its time is up.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use margay_lab::{NetNs, eventually};

use crate::rig::{NETWORK, POOLS, Rig, SOON};

const PACKETS: usize = 20;

const OPEN: &str = "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata:\n  name: red\nspec:\n  \
    ingress:\n  - action: Allow\n  egress:\n  - action: Allow\n";

/// Datagrams to an address, from a namespace.
fn send(from: &NetNs, to: IpAddr) {
    let any = match to {
        IpAddr::V4(_) => "0.0.0.0:0",
        IpAddr::V6(_) => "[::]:0",
    };
    let all = || {
        let socket = UdpSocket::bind(any)?;
        for _ in 0..PACKETS {
            // An ICMP error that came back for an earlier one is none of our business.
            drop(socket.send_to(b"x", SocketAddr::new(to, 9)));
        }
        Ok(())
    };
    from.within(all).unwrap();
}

/// What the host sent to the router for these networks, by the router's own count.
fn came_back(tor: &NetNs, chain: &str) -> Result<u64> {
    let listing = tor.exec(&format!("nft list chain inet lab {chain}"))?;
    let packets = listing.split_once("packets ").context("no counter")?.1;
    let number = packets.split_whitespace().next().context("no number")?;
    Ok(number.parse()?)
}

#[test]
fn packets_to_unused_addresses_of_own_blocks_end_at_the_host() {
    let mut rig = Rig::with_etcd(&format!("{POOLS}---\n{OPEN}"));
    let kept = rig.attach("kept", NETWORK);
    let gone = rig.attach("gone", NETWORK);
    let (host, tor) = (rig.host(), &rig.lab.tor);
    tor.exec("nft add table inet lab").unwrap();
    for (chain, family, pool) in [
        ("four", "ip", "10.65.0.0/24"),
        ("six", "ip6", "fd00:65::/112"),
    ] {
        let script = format!(
            "add chain inet lab {chain} {{ type filter hook prerouting priority -400; }}; \
             add rule inet lab {chain} iifname to-h1 {family} daddr {pool} counter"
        );
        let file = rig.lab.dir().join(chain);
        std::fs::write(&file, script.replace("; add", "\nadd")).unwrap();
        tor.exec(&format!("nft -f {}", file.display())).unwrap();
    }
    tor.ip(&format!("route add 10.65.0.0/24 via {}", host.v4))
        .unwrap();
    tor.ip(&format!("-6 route add fd00:65::/112 via {}", host.v6))
        .unwrap();
    assert!(rig.cni("DEL", &gone).ips().is_empty());
    eventually(SOON, "the addresses are routed no more", || {
        let left = gone.ips.iter().any(|ip| {
            let family = if ip.is_ipv4() { "-4" } else { "-6" };
            let routes = rig.host().netns.ip(&format!("{family} route show {ip}"));
            !routes.is_ok_and(|text| text.trim().is_empty())
        });
        ensure!(!left, "they are");
        Ok::<_, anyhow::Error>(())
    })
    .unwrap();
    // One that nobody had, and one that somebody had.
    let unused = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => IpAddr::from((u32::from(v4) | 15).to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6) | 15).to_be_bytes()),
    };
    assert!(kept.ips.iter().all(|ip| unused(*ip) != *ip));
    let targets: Vec<IpAddr> = kept
        .ips
        .iter()
        .map(|ip| unused(*ip))
        .chain(gone.ips.clone())
        .collect();
    for kill in [false, true] {
        if kill {
            rig.agent.kill().unwrap();
        }
        for target in &targets {
            send(&rig.lab.tor, *target);
            send(&kept.netns, *target);
            // The host's own too.
            send(&rig.host().netns, *target);
        }
        for chain in ["four", "six"] {
            assert_eq!(came_back(&rig.lab.tor, chain).unwrap(), 0, "{chain}");
        }
    }
    // That there is something to count: an address of no block goes to the router.
    send(&kept.netns, "10.65.0.255".parse().unwrap());
    send(&kept.netns, "fd00:65::ffff".parse().unwrap());
    for chain in ["four", "six"] {
        let counted = || {
            let packets = came_back(&rig.lab.tor, chain)?;
            ensure!(packets > 0, "nothing counted");
            Ok::<_, anyhow::Error>(())
        };
        eventually(SOON, "the router counts", counted).unwrap();
    }
}
