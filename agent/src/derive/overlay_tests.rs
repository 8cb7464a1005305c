use margay_model::manifest::decode_manifest;
use margay_model::node::NodeWireguard;

use super::*;

/// A cache with these resources, each `KIND NAME SPEC`.
pub(crate) fn cache(resources: &[(&str, &str, &str)]) -> Cache {
    let mut cache = Cache::default();
    for (kind, name, spec) in resources {
        let manifest = format!(
            "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        );
        for document in decode_manifest(&manifest, &|_| Ok(())) {
            let resource = document.result.unwrap();
            cache.apply(resource.key(), Some(resource), 1);
        }
    }
    cache
}

const H1: (&str, &str, &str) = (
    "Node",
    "h1",
    "{bgp: {ipv4Address: 192.0.2.1/25, ipv6Address: '2001:db8::1/64', ipv4IPIPTunnelAddr: 10.66.1.0}, \
     ipv4VXLANTunnelAddr: 10.65.1.0, vxlanTunnelMACAddr: '66:01:02:03:04:05', \
     ipv6VXLANTunnelAddr: 'fd00:65:1::'}",
);
/// In the same subnets.
const H2: (&str, &str, &str) = (
    "Node",
    "h2",
    "{bgp: {ipv4Address: 192.0.2.2/25, ipv6Address: '2001:db8::2/64', ipv4IPIPTunnelAddr: 10.66.2.0}, \
     ipv4VXLANTunnelAddr: 10.65.2.0, vxlanTunnelMACAddr: '66:00:00:00:00:02', \
     ipv6VXLANTunnelAddr: 'fd00:65:2::'}",
);
/// In others.
const H3: (&str, &str, &str) = (
    "Node",
    "h3",
    "{bgp: {ipv4Address: 192.0.2.130/25, ipv6Address: '2001:db8:1::3/64', ipv4IPIPTunnelAddr: 10.66.3.0}, \
     ipv4VXLANTunnelAddr: 10.65.3.0, ipv6VXLANTunnelAddr: 'fd00:65:3::'}",
);
/// Has told of no tunnel yet.
const H4: (&str, &str, &str) = ("Node", "h4", "{bgp: {ipv4Address: 192.0.2.131/25}}");

fn pool(name: &'static str, spec: &'static str) -> (&'static str, &'static str, &'static str) {
    ("IPPool", name, spec)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn with_hosts(pools: &[(&str, &str, &str)]) -> Cache {
    cache(&[&[H1, H2, H3, H4], pools].concat())
}

fn fabric(pools: &[(&str, &str, &str)]) -> Fabric {
    Fabric::of(&with_hosts(pools), "h1")
}

#[test]
fn always_wraps_for_every_host_that_told_where_to() {
    let fabric = fabric(&[
        pool("v4", "{cidr: 10.65.0.0/16, vxlanMode: Always}"),
        pool("v6", "{cidr: 'fd00:65::/32', vxlanMode: Always}"),
    ]);
    let vxlan = |vtep: &str, host: &str| {
        let (vtep, host) = (ip(vtep), ip(host));
        Some(Through::Vxlan { vtep, host })
    };
    let block = net("10.65.2.0/26");
    assert_eq!(fabric.through(block, "h2"), vxlan("10.65.2.0", "192.0.2.2"));
    assert_eq!(
        fabric.through(block, "h3"),
        vxlan("10.65.3.0", "192.0.2.130")
    );
    assert_eq!(fabric.through(block, "h4"), None);
    assert_eq!(fabric.through(block, "h1"), None, "its own");
    assert_eq!(fabric.through(block, "nobody"), None);
    let block = net("fd00:65:0:2::/122");
    assert_eq!(
        fabric.through(block, "h2"),
        vxlan("fd00:65:2::", "2001:db8::2")
    );
    assert_eq!(fabric.through(net("10.99.0.0/26"), "h2"), None, "no pool");
    let vteps: Vec<_> = fabric.vteps_v6().collect();
    assert_eq!(vteps, [net("fd00:65:2::/128"), net("fd00:65:3::/128")]);
}

#[test]
fn cross_subnet_wraps_only_for_hosts_elsewhere() {
    for (mode, wrapped) in [
        (
            "vxlanMode",
            Through::Vxlan {
                vtep: ip("10.65.3.0"),
                host: ip("192.0.2.130"),
            },
        ),
        ("ipipMode", Through::Ipip(ip("192.0.2.130"))),
    ] {
        let spec: &'static str = format!("{{cidr: 10.65.0.0/16, {mode}: CrossSubnet}}").leak();
        let fabric = fabric(&[pool("v4", spec)]);
        let near = Some(Through::Plain(ip("192.0.2.2")));
        assert_eq!(fabric.through(net("10.65.2.0/26"), "h2"), near, "{mode}");
        let far = fabric.through(net("10.65.3.7/32"), "h3");
        assert_eq!(far, Some(wrapped), "{mode}");
    }
}

#[test]
fn plain_pools_are_nothing_of_ours() {
    let fabric = fabric(&[pool("v4", "{cidr: 10.65.0.0/16, vxlanMode: Never}")]);
    assert!(!fabric.is_active());
    assert_eq!(fabric.through(net("10.65.2.0/26"), "h2"), None);
    assert_eq!(fabric.vteps_v6().count(), 0);
}

#[test]
fn devices_follow_pools_settings_and_what_the_node_still_tells() {
    let pools = [pool(
        "v4",
        "{cidr: 10.65.0.0/16, vxlanMode: Always, disabled: true}",
    )];
    let felix = (
        "FelixConfiguration",
        "default",
        "{vxlanPort: 8472, vxlanVNI: 77, vxlanMTU: 1400}",
    );
    let mut resources = vec![H1, H2, H3, H4, felix];
    resources.extend(pools);
    let with_pool = cache(&resources);
    let tunnels = Fabric::of(&with_pool, "h1").tunnels(&with_pool, "h1", &BTreeMap::new());
    let vxlan = tunnels.vxlan_v4.unwrap();
    assert_eq!((vxlan.vni, vxlan.port, vxlan.mtu), (77, 8472, Some(1400)));
    assert_eq!(vxlan.local, ip("192.0.2.1"));
    assert_eq!(vxlan.mac, [0x66, 1, 2, 3, 4, 5]);
    assert_eq!(vxlan.address, Some(ip("10.65.1.0")));
    // The device has a new address before the Node tells of it.
    let assigned = [(TunnelKind::VxlanV4, ip("10.65.1.9"))].into();
    let early = Fabric::of(&with_pool, "h1").tunnels(&with_pool, "h1", &assigned);
    assert_eq!(early.vxlan_v4.unwrap().address, Some(ip("10.65.1.9")));
    let peers: Vec<_> = vxlan.peers.keys().copied().collect();
    assert_eq!(peers, [ip("10.65.2.0"), ip("10.65.3.0")]);
    // As the established system makes it of the name, where the host does not say.
    assert_eq!(
        vxlan.peers[&ip("10.65.3.0")].mac,
        [0x66, 0x8d, 0xbc, 0x60, 0x58, 0xe0]
    );
    // No pool asks, but the Node still tells the others to send.
    assert!(tunnels.vxlan_v6.is_some() && tunnels.ipip.is_some());

    let bare = cache(&[H4]);
    let tunnels = Fabric::of(&bare, "h4").tunnels(&bare, "h4", &BTreeMap::new());
    assert!(tunnels.vxlan_v4.is_none() && tunnels.ipip.is_none());
    let only_v4 = cache(&[H4, pool("v6", "{cidr: 'fd00:65::/32', vxlanMode: Always}")]);
    let tunnels = Fabric::of(&only_v4, "h4").tunnels(&only_v4, "h4", &BTreeMap::new());
    assert!(tunnels.vxlan_v6.is_none(), "the host has no IPv6 address");
}

#[test]
fn the_room_for_headers_is_that_of_the_way_to_each_host() {
    let all = with_hosts(&[
        pool("v4", "{cidr: 10.65.0.0/16, vxlanMode: CrossSubnet}"),
        pool("other", "{cidr: 10.66.0.0/16, ipipMode: Always}"),
        pool("v6", "{cidr: 'fd00:65::/32', vxlanMode: Always}"),
    ]);
    let tunnels = Fabric::of(&all, "h1").tunnels(&all, "h1", &BTreeMap::new());
    assert_eq!(tunnels.hosts[&ip("192.0.2.2")], 20);
    assert_eq!(tunnels.hosts[&ip("192.0.2.130")], 50);
    assert_eq!(tunnels.hosts[&ip("2001:db8::2")], 70);
    assert_eq!(tunnels.own[&ip("192.0.2.1")], 50);
    assert!(!tunnels.hosts.contains_key(&ip("192.0.2.1")));
}

#[test]
fn hardware_addresses_are_read_as_they_are_written() {
    assert_eq!(
        parse_mac("66:0a:Ff:00:01:02"),
        Some([0x66, 10, 255, 0, 1, 2])
    );
    assert_eq!(mac_text([0x66, 10, 255, 0, 1, 2]), "66:0a:ff:00:01:02");
    for wrong in [
        "",
        "66:0a",
        "66:0a:ff:00:01:02:03",
        "01:00:00:00:00:00",
        "zz:0:0:0:0:0",
    ] {
        assert_eq!(parse_mac(wrong), None, "{wrong}");
    }
}

const ENCRYPT: (&str, &str, &str) = (
    "FelixConfiguration",
    "default",
    "{wireguardEnabled: true, wireguardListeningPort: 51900, wireguardKeepAlive: 25s}",
);

fn key(octet: u8) -> PublicKey {
    PublicKey::from([octet; 32])
}

/// The Nodes tell these keys for IPv4.
fn tell_keys(cache: &mut Cache, keys: &[(&str, u8)]) {
    for (name, octet) in keys {
        let id = ResourceKey::global(Kind::Node, *name);
        let Some(AnyResource::Node(mut node)) = cache.get(&id).cloned() else {
            panic!("no {name}");
        };
        node.set_wireguard_key(false, Some(key(*octet).to_string()));
        let newer = cache.mod_revision(&id).unwrap() + 1;
        cache.apply(id, Some(node.into()), newer);
    }
}

#[test]
fn what_is_for_hosts_with_keys_is_encrypted_and_the_rest_goes_as_pools_say() {
    let pools = [pool("v4", "{cidr: 10.65.0.0/16, vxlanMode: CrossSubnet}")];
    let mut all = vec![H1, H2, H3, H4, ENCRYPT];
    all.extend(pools);
    let mut cache = cache(&all);
    let way = |cache: &Cache, net: &str, node: &str| {
        Fabric::of(cache, "h1").through(net.parse().unwrap(), node)
    };
    let encrypted = |host: &str| Some(Through::Wireguard(ip(host)));
    let near = Some(Through::Plain(ip("192.0.2.2")));
    tell_keys(&mut cache, &[("h2", 2)]);
    assert_eq!(
        way(&cache, "10.65.2.0/26", "h2"),
        near,
        "h1 has not told its own"
    );
    // Whoever knows h2's key takes its packets all the same.
    let holder = |cache: &Cache, node| Fabric::of(cache, "h1").holder(net("10.65.2.0/26"), node);
    assert_eq!(holder(&cache, "h2"), Some(key(2)));
    tell_keys(&mut cache, &[("h1", 1), ("h4", 4)]);
    let mut fabric = Fabric::of(&cache, "h1");
    fabric.set_unheard(&[TunnelKind::WireguardV4].into());
    let early = fabric.through(net("10.65.2.0/26"), "h2");
    assert_eq!(early, near, "h2 may not know h1's key yet");
    assert_eq!(way(&cache, "10.65.2.0/26", "h2"), encrypted("192.0.2.2"));
    assert_eq!(way(&cache, "10.65.4.0/26", "h4"), encrypted("192.0.2.131"));
    let vxlan = Through::Vxlan {
        vtep: ip("10.65.3.0"),
        host: ip("192.0.2.130"),
    };
    assert_eq!(way(&cache, "10.65.3.0/26", "h3"), Some(vxlan));
    assert_eq!(holder(&cache, "h3"), None);
    // IPv6 has settings and keys of its own.
    assert_eq!(way(&cache, "fd00:65:0:2::/122", "h2"), None);
    // Outside of every pool with a tunnel: a single address has to be told from the block around it.
    assert_eq!(way(&cache, "10.99.0.0/26", "h2"), encrypted("192.0.2.2"));
    assert_eq!(way(&cache, "10.99.0.7/32", "h3"), Some(Through::Learned));
    assert_eq!(way(&cache, "10.99.0.0/26", "h3"), None);
    assert_eq!(way(&cache, "10.99.0.7/32", "h1"), None);
    // Two hosts with one key have none.
    tell_keys(&mut cache, &[("h4", 2)]);
    assert_eq!(way(&cache, "10.65.2.0/26", "h2"), near);
    assert_eq!(holder(&cache, "h2"), None);
}

#[test]
fn the_device_knows_every_host_with_a_key_until_nobody_is_told_of_it_any_more() {
    let mut cache = cache(&[H1, H2, H3, ENCRYPT]);
    let device = |cache: &Cache| {
        let fabric = Fabric::of(cache, "h1");
        assert_eq!(fabric.is_active(), fabric.has_wireguard(false));
        fabric.tunnels(
            cache,
            "h1",
            &[(TunnelKind::WireguardV4, ip("10.65.1.7"))].into(),
        )
    };
    tell_keys(&mut cache, &[("h1", 1), ("h2", 2)]);
    let tunnels = device(&cache);
    assert_eq!(tunnels.hosts[&ip("192.0.2.130")], 60);
    assert_eq!(tunnels.own[&ip("192.0.2.1")], 60);
    let [Some(v4), None] = tunnels.wireguard else {
        panic!("{:?}", tunnels.wireguard);
    };
    assert_eq!(v4.settings.device, "wireguard.cali");
    assert_eq!((v4.settings.port, v4.settings.keep_alive), (51900, 25));
    assert_eq!((v4.settings.priority, v4.settings.mark), (99, 0x20_0000));
    assert_eq!(v4.address, Some(ip("10.65.1.7")));
    assert!(!v4.host_traffic);
    let known: Vec<_> = v4.peers.iter().map(|(key, far)| (*key, far.host)).collect();
    assert_eq!(known, [(key(2), ip("192.0.2.2"))]);
    assert!(v4.peers[&key(2)].own.contains(&net("192.0.2.2/32")));
    // Switched off: others may still send, and are still heard.
    let off = "{wireguardEnabled: false, wireguardHostEncryptionEnabled: true}";
    for document in decode_manifest(
        &format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {off}\n"
        ),
        &|_| Ok(()),
    ) {
        let resource = document.result.unwrap();
        cache.apply(resource.key(), Some(resource), 2);
    }
    let [Some(v4), None] = device(&cache).wireguard else {
        panic!("gone too early");
    };
    assert_eq!(v4.peers.len(), 1);
    assert!(!v4.host_traffic);
    let fabric = Fabric::of(&cache, "h1");
    assert_eq!(fabric.through(net("10.65.2.0/26"), "h2"), None);
    // The Node tells no key any more: who has not heard yet still sends, until it tells no address either.
    let id = ResourceKey::global(Kind::Node, "h1");
    let Some(AnyResource::Node(mut node)) = cache.get(&id).cloned() else {
        panic!("no h1");
    };
    node.set_wireguard_key(false, None);
    node.spec.wireguard = Some(NodeWireguard {
        interface_ipv4_address: Some([10, 65, 1, 7].into()),
        ..NodeWireguard::default()
    });
    cache.apply(id.clone(), Some(node.clone().into()), 9);
    let [Some(v4), None] = device(&cache).wireguard else {
        panic!("gone too early");
    };
    assert_eq!(v4.peers.len(), 1);
    node.spec.wireguard = None;
    cache.apply(id, Some(node.into()), 10);
    assert_eq!(device(&cache).wireguard, [None, None]);
}
