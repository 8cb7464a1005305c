//! 1. Hosts without IPv4 need none: neither for tunnels nor for BGP.
//! 2. Containers get the MTU that reaches every host; routes over a path that takes less than the tunnel's device have a
//!    limit of their own, locked, and so have routes that BGP learned.
//! 3. Where a path gets smaller or larger, containers that were there before follow, and their connections go on without
//!    any ICMP; those whose network says which MTU they have keep it.
//! 4. New connections of these need no ICMP either, unless that is switched off.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use margay_lab::{NetNs, eventually, routes};

use crate::two_subnets::{DEVICES, SOON, TwoSubnets, mesh, pools};

#[test]
fn hosts_without_ipv4_reach_each_other_with_tunnels_and_without() -> Result<()> {
    let lab = TwoSubnets::with(&[mesh(true), pools("CrossSubnet")], &["-6"])?;
    lab.leads_through(0, 2, DEVICES)?;
    lab.leads_through(0, 1, ["eth0", "eth0"])?;
    lab.everyone_reaches_everyone()?;
    for host in &lab.hosts {
        let links = host.netns.ip("-o link show")?;
        ensure!(
            !links.contains(DEVICES[0]),
            "a device for no address: {links}"
        );
        let v4 = routes(&host.netns)?;
        let v4 = v4
            .iter()
            .filter(|route| !route.dst.contains(':') && route.dst != "default");
        ensure!(v4.count() == 0, "{:?}", routes(&host.netns)?);
    }
    for agent in &lab.agents {
        eventually(SOON, "sessions over IPv6", || agent.ensure_sessions(2))?;
    }
    Ok(())
}

#[test]
fn the_size_of_packets_is_that_of_the_path_to_each_host() -> Result<()> {
    let lab = TwoSubnets::new(&[mesh(true), pools("Always")])?;
    lab.everyone_reaches_everyone()?;
    let new_ones_have = |id: &str, wanted: &str| {
        eventually(SOON, "the MTU of a new container", || {
            let mut container = lab.attach(0, id, "")?;
            let link = container.netns.ip("-o link show dev eth0")?;
            container.cni_del()?;
            let mtu = link
                .split_once("mtu ")
                .and_then(|(_, rest)| rest.split(' ').next());
            ensure!(mtu == Some(wanted), "{mtu:?}, not {wanted}");
            Ok::<_, anyhow::Error>(())
        })
    };
    // The smaller of both families: 70 octets around a packet over IPv6.
    new_ones_have("first", "1430")?;

    let h1 = &lab.hosts[0].netns;
    narrow(h1, 1400)?;
    for (family, limit, device, at_most) in [
        ("-4", 1350, DEVICES[0], 1450),
        ("-6", 1330, DEVICES[1], 1430),
    ] {
        let limit = format!("mtu lock {limit}");
        eventually(SOON, "a limit of the route's own", || {
            let text = h1.ip(&format!("{family} -o route show dev {device}"))?;
            let (far, near): (Vec<&str>, Vec<&str>) = text
                .lines()
                .filter(|line| line.contains(" via "))
                .partition(|line| line.contains(&limit));
            ensure!(far.len() == 1 && near.len() == 1, "{text}");
            ensure!(!near[0].contains("mtu"), "{text}");
            Ok::<_, anyhow::Error>(())
        })?;
        let link = h1.ip(&format!("-o link show dev {device}"))?;
        ensure!(link.contains(&format!("mtu {at_most} ")), "{link}");
    }
    new_ones_have("second", "1330")?;

    // What BGP learned goes the same way.
    lab.ctl().apply(&pools("Never"))?;
    let far = lab.containers[2].v4()?;
    eventually(SOON, "the limit of a learned route", || {
        let text = h1.ip(&format!("-o route show {far}"))?;
        ensure!(
            text.contains("dev eth0") && text.contains("mtu lock 1400"),
            "{text}"
        );
        Ok::<_, anyhow::Error>(())
    })?;
    new_ones_have("third", "1400")
}

/// A host's own route to the others' subnet, which takes packets of this size.
fn narrow(h1: &NetNs, mtu: u32) -> Result<()> {
    h1.ip(&format!(
        "route replace 192.0.2.128/25 via 192.0.2.1 mtu lock {mtu}"
    ))?;
    h1.ip(&format!(
        "-6 route replace 2001:db8:0:2::/64 via 2001:db8:0:1::ff mtu lock {mtu}"
    ))?;
    Ok(())
}

/// The same on the other side of the router.
fn narrow_back(h3: &NetNs, mtu: u32) -> Result<()> {
    h3.ip(&format!(
        "route replace 192.0.2.0/25 via 192.0.2.129 mtu lock {mtu}"
    ))?;
    h3.ip(&format!(
        "-6 route replace 2001:db8:0:1::/64 via 2001:db8:0:2::ff mtu lock {mtu}"
    ))?;
    Ok(())
}

/// Nothing tells it that a packet was too large.
fn deaf(container: &NetNs) -> Result<()> {
    container.sysctl("net.ipv4.tcp_mtu_probing", "0")?;
    container.exec("iptables-nft -A INPUT -p icmp --icmp-type 3 -j DROP")?;
    container.exec("ip6tables-nft -A INPUT -p icmpv6 --icmpv6-type 2 -j DROP")?;
    Ok(())
}

/// A connection that is used both ways.
struct Talk {
    near: TcpStream,
    far: TcpStream,
}

impl Talk {
    fn between(near: &NetNs, far: (&NetNs, IpAddr)) -> Result<Self> {
        let listener = far.0.within(|| Ok(TcpListener::bind((far.1, 0))?))?;
        let at = listener.local_addr()?;
        let near = near.within(|| Ok(TcpStream::connect_timeout(&at, SOON)?))?;
        let (far, _) = listener.accept()?;
        for end in [&near, &far] {
            end.set_read_timeout(Some(SOON))?;
            end.set_write_timeout(Some(SOON))?;
        }
        Ok(Self { near, far })
    }

    /// 200 kB each way get through.
    fn goes_on(&self) -> Result<()> {
        const LENGTH: usize = 200_000;
        for (from, mut to) in [(&self.near, &self.far), (&self.far, &self.near)] {
            let mut from = from;
            std::thread::scope(|scope| {
                // Where nothing gets through, writing ends with an error as well.
                scope.spawn(move || drop(from.write_all(&vec![7; LENGTH])));
                to.read_exact(&mut vec![0; LENGTH])
            })?;
        }
        Ok(())
    }
}

#[test]
fn containers_and_their_connections_follow_a_path_that_changes() -> Result<()> {
    let lab = TwoSubnets::new(&[
        mesh(false),
        pools("Always"),
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\n\
         spec: {mssClamping: Disabled, routeRefreshInterval: 1s}\n"
            .to_owned(),
    ])?;
    lab.everyone_reaches_everyone()?;
    let (h1, h3) = (&lab.hosts[0].netns, &lab.hosts[2].netns);
    let (near, far) = (&lab.containers[0], &lab.containers[2]);
    let fixed = lab.attach_with_mtu(0, "fixed", 1430)?;
    deaf(&near.netns)?;
    deaf(&far.netns)?;
    let mut talks = Vec::new();
    for address in &far.addresses {
        talks.push(Talk::between(&near.netns, (&far.netns, *address))?);
    }
    let ends = || -> Result<[bool; 2]> {
        let mut links = String::new();
        for (host, container) in [(h1, near), (h3, far)] {
            links += &host.ip("-o link show type veth")?;
            links += &container.netns.ip("-o link show dev eth0")?;
        }
        let fixed = fixed.netns.ip("-o link show dev eth0")?;
        ensure!(fixed.contains(" mtu 1430 "), "{fixed}");
        // Both ends of both, and of the one that keeps its own the host's.
        let count = |mtu: u32| links.matches(&format!(" mtu {mtu} ")).count();
        Ok([count(1330) == 4, count(1430) == 5])
    };
    eventually(SOON, "a path of 1500", || {
        let found = ends()?;
        ensure!(found == [false, true], "{found:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    for (path, expected) in [
        (1400, [true, false]),
        (1500, [false, true]),
        (1400, [true, false]),
    ] {
        narrow(h1, path)?;
        narrow_back(h3, path)?;
        eventually(SOON, &format!("a path of {path}"), || {
            let found = ends()?;
            ensure!(found == expected, "{found:?}");
            Ok::<_, anyhow::Error>(())
        })?;
        for talk in &talks {
            talk.goes_on()?;
        }
    }
    Ok(())
}

/// Whether 200 kB get from one container to another.
fn arrives(from: &NetNs, to: (&NetNs, IpAddr), within: Duration) -> Result<bool> {
    const LENGTH: usize = 200_000;
    let listener = to.0.within(|| Ok(TcpListener::bind((to.1, 0))?))?;
    let at = listener.local_addr()?;
    let mut sender = from.within(|| Ok(TcpStream::connect_timeout(&at, SOON)?))?;
    let (mut receiver, _) = listener.accept()?;
    sender.set_write_timeout(Some(within))?;
    receiver.set_read_timeout(Some(within))?;
    let arrived = std::thread::scope(|scope| {
        // Where nothing gets through, writing ends with an error as well.
        scope.spawn(move || drop(sender.write_all(&vec![7; LENGTH])));
        receiver.read_exact(&mut vec![0; LENGTH]).is_ok()
    });
    Ok(arrived)
}

#[test]
fn connections_over_a_path_that_got_smaller_need_no_icmp() -> Result<()> {
    const QUICK: Duration = Duration::from_millis(500);
    let lab = TwoSubnets::new(&[mesh(false), pools("Always")])?;
    lab.everyone_reaches_everyone()?;
    let h1 = &lab.hosts[0].netns;
    let near = &lab.attach_with_mtu(0, "fixed", 1430)?;
    narrow(h1, 1400)?;
    for (family, device) in [("-4", DEVICES[0]), ("-6", DEVICES[1])] {
        eventually(SOON, "a limit of the route's own", || {
            let text = h1.ip(&format!("{family} -o route show dev {device}"))?;
            ensure!(text.contains("mtu lock"), "{text}");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    let far = &lab.containers[2];
    deaf(&near.netns)?;
    deaf(&far.netns)?;
    let all = |within| -> Result<Vec<bool>> {
        let addresses = far.addresses.iter();
        let tried = addresses.map(|to| arrives(&near.netns, (&far.netns, *to), within));
        tried.collect()
    };
    ensure!(all(SOON)? == [true, true], "{:?}", all(SOON)?);
    for (setting, arrive) in [("Disabled", false), ("Enabled", true)] {
        lab.ctl().apply(&format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\n\
             spec: {{mssClamping: {setting}}}\n"
        ))?;
        eventually(SOON, &format!("clamping is {setting}"), || {
            let found = all(QUICK)?;
            ensure!(found == [arrive, arrive], "{found:?}");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    Ok(())
}
