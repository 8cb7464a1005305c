//! The lab itself, without an agent: three kinds of speakers as hosts, BIRD as the top of the rack.
//!
//! ```text
//!   c1 - h1 (BIRD,  AS 65001) \
//!   c2 - h2 (FRR,   AS 65002)   tor (BIRD, AS 65000)
//!        h3 (GoBGP, AS 65003) /
//! ```
//! 1. Hosts reach the router, each other and the store, v4 and v6.
//! 2. Sessions come up with all three speakers, and the router learns what they announce.
//! 3. Container traffic crosses the router; the stream counts what is lost when a route goes.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::{
    Bird, Etcd, Frr, Gobgp, Host, Lab, NetNs, Pinger, STORE_V4, ensure_no_route, eventually,
    host_route, ping,
};

const SOON: Duration = Duration::from_secs(60);

/// A container wired by hand, as the agent will do it.
fn container(lab: &Lab, host: &Host, number: u8) -> Result<NetNs> {
    let name = format!("c{number}");
    let netns = lab.container_netns(&name)?;
    let port = format!("cali{number}");
    host.netns.ip(&format!(
        "link add {port} type veth peer name eth0 netns {}",
        netns.name()
    ))?;
    host.netns
        .ip(&format!("link set {port} address ee:ee:ee:ee:ee:ee up"))?;
    for (sysctl, value) in [
        (format!("net.ipv4.conf.{port}.proxy_arp"), "1"),
        (format!("net.ipv4.neigh.{port}.proxy_delay"), "0"),
        ("net.ipv4.ip_forward".to_owned(), "1"),
    ] {
        host.netns.sysctl(&sysctl, value)?;
    }
    netns.ip("link set eth0 up")?;
    netns.ip(&format!("addr add 10.65.{number}.2/32 dev eth0"))?;
    netns.ip("route add 169.254.1.1 dev eth0 scope link")?;
    netns.ip("route add default via 169.254.1.1 dev eth0")?;
    host.netns.ip(&format!(
        "route add 10.65.{number}.2/32 dev {port} scope link"
    ))?;
    Ok(netns)
}

fn tor_config(lab: &Lab) -> String {
    let mut config = String::from(
        "router id 198.51.100.1;\nprotocol device { scan time 2; }\n\
         protocol kernel { ipv4 { import none; export all; }; }\n",
    );
    for (number, host) in (1_u32..).zip(&lab.hosts) {
        config += &format!(
            "protocol bgp {} {{ local {} as 65000; neighbor {} as {}; direct; \
             connect delay time 1; ipv4 {{ import all; export all; next hop self; }}; }}\n",
            host.name,
            host.tor_v4,
            host.v4,
            65000 + number
        );
    }
    config
}

fn bird_host(host: &Host) -> String {
    format!(
        "router id {v4};\nprotocol device {{ scan time 2; }}\n\
         protocol kernel {{ learn; scan time 2; ipv4 {{ import where net ~ [10.65.1.0/24+]; \
         export where source = RTS_BGP; }}; }}\n\
         protocol bgp tor {{ local {v4} as 65001; neighbor {tor} as 65000; direct; \
         connect delay time 1; ipv4 {{ import all; export all; }}; }}\n",
        v4 = host.v4,
        tor = host.tor_v4
    )
}

fn frr_host(host: &Host) -> String {
    format!(
        "log stdout\nrouter bgp 65002\n bgp router-id {v4}\n no bgp ebgp-requires-policy\n \
         neighbor {tor} remote-as 65000\n neighbor {tor} timers connect 1\n \
         address-family ipv4 unicast\n  network 10.65.2.2/32\n exit-address-family\n",
        v4 = host.v4,
        tor = host.tor_v4
    )
}

fn gobgp_host(host: &Host) -> String {
    format!(
        "[global.config]\n  as = 65003\n  router-id = \"{}\"\n\
         [[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{}\"\n    peer-as = 65000\n",
        host.v4, host.tor_v4
    )
}

#[test]
fn three_speakers_one_router_and_traffic_between_containers() {
    let lab = Lab::new(3).unwrap();
    let [h1, h2, h3] = &lab.hosts[..] else {
        panic!("three hosts were asked for");
    };
    let quick = Duration::from_secs(2);
    ping(&h1.netns, h3.v4.into(), SOON).unwrap();
    ping(&h1.netns, h3.v6.into(), SOON).unwrap();
    ping(&h2.netns, STORE_V4.into(), SOON).unwrap();

    let c1 = container(&lab, h1, 1).unwrap();
    let _c2 = container(&lab, h2, 2).unwrap();
    let tor = Bird::start(&lab.tor, lab.dir(), &tor_config(&lab)).unwrap();
    let _bird = Bird::start(&h1.netns, &h1.dir, &bird_host(h1)).unwrap();
    let frr = Frr::start(&h2.netns, &frr_host(h2)).unwrap();
    let gobgp = Gobgp::start(&h3.netns, &h3.dir, &gobgp_host(h3)).unwrap();
    for host in &lab.hosts {
        eventually(SOON, "the session is up", || {
            tor.ensure_established(&host.name)
        })
        .unwrap();
    }
    let tor_seen = |host: &Host| host.tor_v4.to_string();
    eventually(SOON, "FRR agrees", || {
        frr.ensure_established(&tor_seen(h2), "ipv4Unicast")
    })
    .unwrap();
    eventually(SOON, "GoBGP agrees", || {
        gobgp.ensure_established(&tor_seen(h3))
    })
    .unwrap();
    gobgp.ctl("global rib add 10.65.3.2/32").unwrap();

    for (number, host) in [(1, h1), (2, h2), (3, h3)] {
        let to: IpAddr = format!("10.65.{number}.2").parse().unwrap();
        let route = eventually(SOON, "the router learns", || host_route(&lab.tor, to)).unwrap();
        assert_eq!(route.gateway, Some(host.v4.to_string()));
    }

    let target: IpAddr = "10.65.2.2".parse().unwrap();
    eventually(SOON, "traffic flows", || ping(&c1, target, quick)).unwrap();
    let pinger = Pinger::start(&c1, target, Duration::from_millis(2)).unwrap();
    pinger.sends(60).unwrap();
    let calm = pinger.stop().unwrap();
    assert_eq!(calm.lost, 0, "{calm:?}");
    assert!(calm.sent > 50, "{calm:?}");

    let pinger = Pinger::start(&c1, target, Duration::from_millis(2)).unwrap();
    pinger.sends(20).unwrap();
    frr.vtysh("clear bgp *").unwrap();
    h2.netns.ip("route del 10.65.2.2/32").unwrap();
    pinger.sends(60).unwrap();
    let broken = pinger.stop().unwrap();
    assert!(broken.lost > 10 && broken.lost < broken.sent, "{broken:?}");
    assert!(broken.longest_gap > Duration::from_millis(20), "{broken:?}");
}

#[test]
fn withdrawn_routes_leave_the_router() {
    let lab = Lab::new(1).unwrap();
    let host = &lab.hosts[0];
    let c1 = container(&lab, host, 1).unwrap();
    let tor = Bird::start(&lab.tor, lab.dir(), &tor_config(&lab)).unwrap();
    let _bird = Bird::start(&host.netns, &host.dir, &bird_host(host)).unwrap();
    let to: IpAddr = "10.65.1.2".parse().unwrap();
    eventually(SOON, "the session is up", || tor.ensure_established("h1")).unwrap();
    eventually(SOON, "the route comes", || host_route(&lab.tor, to)).unwrap();
    drop(c1);
    eventually(SOON, "the route goes", || ensure_no_route(&lab.tor, to)).unwrap();
}

#[test]
fn etcd_in_the_rack_is_reached_from_a_host_and_nothing_is_left_behind() {
    let (names, dir) = {
        let lab = Lab::new(1).unwrap();
        let mut etcd = Etcd::start_in(lab.store.name(), STORE_V4.into()).unwrap();
        assert_eq!(etcd.url(), "http://198.51.100.2:2379");
        let host = &lab.hosts[0];
        let reach = |expected: bool| {
            eventually(SOON, "etcd as seen from the host", || {
                let line =
                    "etcdctl --endpoints=http://198.51.100.2:2379 --command-timeout=3s get a";
                let answer = host.netns.exec(line);
                ensure!(answer.is_ok() == expected, "etcdctl: {answer:?}");
                Ok::<_, anyhow::Error>(())
            })
        };
        reach(true).unwrap();
        etcd.kill().unwrap();
        reach(false).unwrap();
        etcd.restart().unwrap();
        reach(true).unwrap();
        let names = [&lab.tor, &lab.store, &host.netns].map(|n| n.name().to_owned());
        (names, lab.dir().to_owned())
    };
    assert!(!dir.exists());
    let left = std::fs::read_dir("/run/netns").context("netns").unwrap();
    let left: Vec<String> = left
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    for name in names {
        assert!(!left.contains(&name), "{name} is still there");
    }
}
