use margay_model::any::AnyResource;
use margay_model::kind::Kind;
use margay_model::meta::{ObjectMeta, Resource};
use margay_model::net::Cidr;
use margay_model::workload_endpoint::WorkloadEndpointSpec;

use super::*;

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn resource(cache: &mut Cache, manifest: &str) {
    let manifest = format!("apiVersion: projectcalico.org/v3\n{manifest}\n");
    for document in margay_model::manifest::decode_manifest(&manifest, &|_| Ok(())) {
        let resource = document.result.unwrap();
        // Each newer than those before.
        let newer = cache.mod_revision(&resource.key()).unwrap_or(0) + 1;
        cache.apply(resource.key(), Some(resource), newer);
    }
}

fn pool(cache: &mut Cache, mode: &str) {
    let spec = format!("{{cidr: 10.65.0.0/16, vxlanMode: {mode}}}");
    let manifest = format!("kind: IPPool\nmetadata: {{name: v4}}\nspec: {spec}");
    resource(cache, &manifest);
}

/// `n` is the last octet of its address in a subnet that all are in.
fn node(cache: &mut Cache, n: u8, tunnel: bool) {
    let vtep = match tunnel {
        true => format!(", ipv4VXLANTunnelAddr: 10.65.{n}.0"),
        false => String::new(),
    };
    let spec = format!("{{bgp: {{ipv4Address: 192.0.2.{n}/24}}{vtep}}}");
    let manifest = format!("kind: Node\nmetadata: {{name: h{n}}}\nspec: {spec}");
    resource(cache, &manifest);
}

fn world() -> (Overlay, Cache) {
    let mut cache = Cache::default();
    pool(&mut cache, "Always");
    for n in 1..=3 {
        node(&mut cache, n, true);
    }
    let mut overlay = Overlay::default();
    overlay.refresh(&cache, "h1");
    for n in 1..=3 {
        overlay.add_block(net(&format!("10.65.{n}.0/26")), &format!("h{n}"));
    }
    (overlay, cache)
}

/// Puts an endpoint with this address on a host, or takes it away.
fn endpoint(overlay: &mut Overlay, cache: &mut Cache, name: &str, at: Option<(&str, &str)>) {
    let key = ResourceKey::namespaced(Kind::WorkloadEndpoint, "default", name);
    let newer = cache.mod_revision(&key).unwrap_or(0) + 1;
    let changed = match at {
        Some((address, node)) => {
            let spec = WorkloadEndpointSpec {
                node: node.into(),
                ip_networks: vec![Cidr::host(address.parse().unwrap())],
                ..WorkloadEndpointSpec::default()
            };
            let endpoint = Resource::new(ObjectMeta::namespaced("default", name), spec);
            cache.apply(key.clone(), Some(endpoint.into()), newer)
        }
        None => cache.remove(&key, newer),
    };
    let old = changed.and_then(|changed| changed.old);
    overlay.endpoint(&key, old.as_ref(), cache);
    cache.forget_details(&key, "h1");
}

/// Prefix and the last-but-one octet of the other end; `-` for what goes.
fn told(overlay: &mut Overlay, cache: &Cache) -> Vec<String> {
    let changes = overlay.changes(cache).ways;
    let one = |(net, through): (IpNetwork, Option<Through>)| match through {
        Some(Through::Vxlan { host, .. }) => format!("{net} {host}"),
        Some(Through::Plain(host)) => format!("{net} plain {host}"),
        Some(other) => format!("{net} {other:?}"),
        None => format!("{net} -"),
    };
    changes.into_iter().map(one).collect()
}

#[test]
fn other_hosts_blocks_are_told_once_and_taken_back_with_them() {
    let (mut overlay, mut cache) = world();
    let blocks = ["10.65.2.0/26 192.0.2.2", "10.65.3.0/26 192.0.2.3"];
    assert_eq!(told(&mut overlay, &cache), blocks);
    assert!(!overlay.is_dirty());
    assert!(told(&mut overlay, &cache).is_empty());
    overlay.remove_block(net("10.65.3.0/26"), "h2");
    assert!(told(&mut overlay, &cache).is_empty(), "it is not h2's");
    overlay.remove_block(net("10.65.3.0/26"), "h3");
    assert_eq!(told(&mut overlay, &cache), ["10.65.3.0/26 -"]);
    let h2 = ResourceKey::global(Kind::Node, "h2");
    cache.remove(&h2, 99);
    overlay.refresh(&cache, "h1");
    assert_eq!(told(&mut overlay, &cache), ["10.65.2.0/26 -"]);
}

#[test]
fn endpoints_in_their_hosts_blocks_need_no_route_of_their_own() {
    let (mut overlay, mut cache) = world();
    told(&mut overlay, &cache);
    endpoint(&mut overlay, &mut cache, "a", Some(("10.65.2.7", "h2")));
    assert!(told(&mut overlay, &cache).is_empty());
    // Borrowed from another host's block, and from this host's own.
    endpoint(&mut overlay, &mut cache, "b", Some(("10.65.3.7", "h2")));
    endpoint(&mut overlay, &mut cache, "c", Some(("10.65.1.7", "h3")));
    let expected = ["10.65.1.7/32 192.0.2.3", "10.65.3.7/32 192.0.2.2"];
    assert_eq!(told(&mut overlay, &cache), expected);
    // Moved to its block's own host: the block's route serves it.
    endpoint(&mut overlay, &mut cache, "b", Some(("10.65.3.7", "h3")));
    endpoint(&mut overlay, &mut cache, "c", None);
    let expected = ["10.65.1.7/32 -", "10.65.3.7/32 -"];
    assert_eq!(told(&mut overlay, &cache), expected);
}

#[test]
fn an_endpoint_that_comes_before_its_block_is_routed_by_itself_until_then() {
    let (mut overlay, mut cache) = world();
    told(&mut overlay, &cache);
    endpoint(&mut overlay, &mut cache, "a", Some(("10.65.9.7", "h2")));
    assert_eq!(told(&mut overlay, &cache), ["10.65.9.7/32 192.0.2.2"]);
    overlay.add_block(net("10.65.9.0/26"), "h2");
    let expected = ["10.65.9.0/26 192.0.2.2", "10.65.9.7/32 -"];
    assert_eq!(told(&mut overlay, &cache), expected);
    // The block becomes another's while the endpoint stays.
    overlay.add_block(net("10.65.9.0/26"), "h3");
    let expected = ["10.65.9.0/26 192.0.2.3", "10.65.9.7/32 192.0.2.2"];
    assert_eq!(told(&mut overlay, &cache), expected);
}

#[test]
fn a_pool_that_changes_its_mode_changes_all_its_ways() {
    let (mut overlay, mut cache) = world();
    endpoint(&mut overlay, &mut cache, "b", Some(("10.65.3.7", "h2")));
    told(&mut overlay, &cache);
    pool(&mut cache, "CrossSubnet");
    overlay.refresh(&cache, "h1");
    let plain = [
        "10.65.2.0/26 plain 192.0.2.2",
        "10.65.3.0/26 plain 192.0.2.3",
        "10.65.3.7/32 plain 192.0.2.2",
    ];
    assert_eq!(told(&mut overlay, &cache), plain);
    pool(&mut cache, "Never");
    overlay.refresh(&cache, "h1");
    let gone = ["10.65.2.0/26 -", "10.65.3.0/26 -", "10.65.3.7/32 -"];
    assert_eq!(told(&mut overlay, &cache), gone);
    // What came while no pool asked is found when one does.
    endpoint(&mut overlay, &mut cache, "d", Some(("10.65.2.9", "h3")));
    pool(&mut cache, "Always");
    overlay.refresh(&cache, "h1");
    assert_eq!(told(&mut overlay, &cache).len(), 4);
}

#[test]
fn a_host_is_sent_nothing_wrapped_before_it_says_where_to() {
    let (mut overlay, mut cache) = world();
    node(&mut cache, 3, false);
    overlay.refresh(&cache, "h1");
    assert_eq!(told(&mut overlay, &cache), ["10.65.2.0/26 192.0.2.2"]);
    node(&mut cache, 3, true);
    overlay.refresh(&cache, "h1");
    assert_eq!(told(&mut overlay, &cache), ["10.65.3.0/26 192.0.2.3"]);
}

#[test]
fn a_list_takes_away_the_blocks_that_it_lacks() {
    let (mut overlay, cache) = world();
    told(&mut overlay, &cache);
    overlay.retain_blocks(|block, node| (block, node) != (&net("10.65.2.0/26"), "h2"));
    assert_eq!(told(&mut overlay, &cache), ["10.65.2.0/26 -"]);
}

#[test]
fn devices_that_encrypt_have_their_hosts_blocks_and_what_those_borrowed() {
    let (mut overlay, mut cache) = world();
    let felix =
        "kind: FelixConfiguration\nmetadata: {name: default}\nspec: {wireguardEnabled: true}";
    resource(&mut cache, felix);
    for n in [1u8, 2, 3] {
        let key = ResourceKey::global(Kind::Node, format!("h{n}"));
        let Some(AnyResource::Node(mut node)) = cache.get(&key).cloned() else {
            panic!("no h{n}");
        };
        node.set_wireguard_key(false, Some(PublicKey::from([n; 32]).to_string()));
        let newer = cache.mod_revision(&key).unwrap() + 1;
        cache.apply(key, Some(node.into()), newer);
    }
    overlay.refresh(&cache, "h1");
    endpoint(&mut overlay, &mut cache, "b", Some(("10.65.3.7", "h2")));
    let held = |overlay: &mut Overlay, cache: &Cache| {
        let changes = overlay.changes(cache);
        let one = |(net, key): (IpNetwork, Option<PublicKey>)| match key {
            Some(key) => format!(
                "{net} {}",
                if key == PublicKey::from([2; 32]) {
                    2
                } else {
                    3
                }
            ),
            None => format!("{net} -"),
        };
        changes.holders.into_iter().map(one).collect::<Vec<_>>()
    };
    let all = ["10.65.2.0/26 2", "10.65.3.0/26 3", "10.65.3.7/32 2"];
    assert_eq!(held(&mut overlay, &cache), all);
    assert!(held(&mut overlay, &cache).is_empty());
    // The borrower moves to the block's own host, then here: no other host is to be heard with its address.
    endpoint(&mut overlay, &mut cache, "b", Some(("10.65.3.7", "h3")));
    assert_eq!(held(&mut overlay, &cache), ["10.65.3.7/32 -"]);
    overlay.remove_block(net("10.65.2.0/26"), "h2");
    assert_eq!(held(&mut overlay, &cache), ["10.65.2.0/26 -"]);
}
