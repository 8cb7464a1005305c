//! From manifests, as operators write them, to sessions.

use std::fs;

use margay_bgp::prefix::Family;
use margay_model::manifest::decode_manifest;
use margay_policy::selector::Selector;
use margay_speaker::{Community, Operation, Operator, Secret};
use tempfile::TempDir;

use super::*;

const ME: &str = "h1";

fn cache(manifests: &[&str]) -> Cache {
    let mut cache = Cache::default();
    let check = |text: &str| {
        text.parse::<Selector>()
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    for document in manifests
        .iter()
        .flat_map(|text| decode_manifest(text, &check))
    {
        let resource = document.result.unwrap();
        cache.apply(resource.key(), Some(resource), 1);
    }
    cache
}

fn settings() -> BgpSettings {
    BgpSettings {
        listen: Vec::new(),
        restarting: false,
        secrets: "/nonexistent".into(),
        stored: StoredSecrets::new("/calico"),
    }
}

fn configured(manifests: &[&str]) -> SpeakerConfig {
    speaker(&cache(manifests), ME, &settings()).unwrap()
}

/// Sessions as `NAME ADDRESS AS`.
fn sessions(manifests: &[&str]) -> Vec<String> {
    let peers = configured(manifests).peers;
    let told = peers
        .iter()
        .map(|(key, peer)| format!("{} {key} {}", peer.name, peer.remote_as));
    told.collect()
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    let labels = match name {
        "h3" => "{rack: b, role: reflector}",
        "h2" => "{rack: b}",
        _ => "{rack: a}",
    };
    let namespace = format!("metadata: {{name: {name}, labels: {labels}}}");
    format!("apiVersion: projectcalico.org/v3\nkind: {kind}\n{namespace}\nspec: {spec}\n---\n")
}

fn node(number: u8, more: &str) -> String {
    let bgp = format!("{{bgp: {{ipv4Address: 192.0.2.{number}/24{more}}}}}");
    document("Node", &format!("h{number}"), &bgp)
}

fn three_nodes() -> String {
    node(1, "") + &node(2, "") + &node(3, ", asNumber: 64999")
}

fn mesh(fields: &str) -> String {
    document("BGPConfiguration", "default", &format!("{{{fields}}}"))
}

fn peer(name: &str, fields: &str) -> String {
    document("BGPPeer", name, &format!("{{{fields}}}"))
}

fn pool(name: &str, cidr: &str, more: &str) -> String {
    document(
        "IPPool",
        name,
        &format!("{{cidr: '{cidr}', ipipMode: Never{more}}}"),
    )
}

fn only_peer(manifests: &[&str]) -> PeerConfig {
    let mut peers = configured(manifests).peers;
    let (_, peer) = peers.pop_first().unwrap();
    assert!(peers.is_empty(), "{peers:?}");
    peer
}

#[test]
fn without_a_node_of_our_own_there_is_no_bgp() {
    assert_eq!(speaker(&cache(&[&node(2, "")]), ME, &settings()), None);
}

#[test]
fn the_mesh_is_every_other_node_with_its_own_as_or_the_clusters() {
    let nodes = three_nodes();
    let expected = ["mesh h2 192.0.2.2 64512", "mesh h3 192.0.2.3 64999"];
    assert_eq!(sessions(&[&nodes]), expected);
    let expected = ["mesh h2 192.0.2.2 64700", "mesh h3 192.0.2.3 64999"];
    let config = configured(&[&nodes, &mesh("asNumber: 64700")]);
    assert_eq!(sessions(&[&nodes, &mesh("asNumber: 64700")]), expected);
    assert_eq!(
        (config.local_as, config.router_id),
        (64700, [192, 0, 2, 1].into())
    );
    assert!(sessions(&[&nodes, &mesh("nodeToNodeMeshEnabled: false")]).is_empty());
}

#[test]
fn nodes_of_two_families_have_a_session_in_each_and_others_one_for_both() {
    let dual = |n: u8| node(n, &format!(", ipv6Address: '2001:db8::{n}/64'"));
    let config = configured(&[&dual(1), &dual(2), &node(3, "")]);
    let families: Vec<_> = config
        .peers
        .iter()
        .map(|(key, p)| (key.to_string(), p.families.clone()))
        .collect();
    assert_eq!(
        families,
        [
            ("192.0.2.2".to_owned(), vec![Family::Ipv4Unicast]),
            ("192.0.2.3".to_owned(), Family::ALL.to_vec()),
            ("2001:db8::2".to_owned(), vec![Family::Ipv6Unicast]),
        ]
    );
}

#[test]
fn a_node_without_ipv4_has_a_router_id_by_its_name() {
    let v6_only = |name: &str, n: u8| {
        document(
            "Node",
            name,
            &format!("{{bgp: {{ipv6Address: '2001:db8::{n}/64'}}}}"),
        )
    };
    let config = configured(&[&v6_only("h1", 1), &v6_only("h2", 2)]);
    assert!(!config.router_id.is_unspecified());
    assert_eq!(
        sessions(&[&v6_only("h1", 1), &v6_only("h2", 2)]),
        ["mesh h2 2001:db8::2 64512"]
    );
    let other = speaker(&cache(&[&v6_only("h2", 2)]), "h2", &settings()).unwrap();
    assert_ne!(config.router_id, other.router_id);
}

#[test]
fn a_bgp_peer_is_for_all_nodes_for_one_or_for_those_selected() {
    let nodes = node(1, "") + &mesh("nodeToNodeMeshEnabled: false");
    let with = |fields: &str| {
        let fields = format!("peerIP: 198.51.100.1, asNumber: 65000{fields}");
        sessions(&[&nodes, &peer("tor", &fields)])
    };
    let expected = ["tor 198.51.100.1 65000"];
    assert_eq!(with(""), expected);
    assert_eq!(with(", node: h1"), expected);
    assert!(with(", node: h2").is_empty());
    assert_eq!(with(", nodeSelector: rack == 'a'"), expected);
    assert!(with(", nodeSelector: rack == 'b'").is_empty());
}

#[test]
fn a_peer_with_an_address_may_be_in_our_as_or_in_any_other() {
    let with = |asn: &str| {
        let fields = format!("peerIP: 192.0.2.254, asNumber: {asn}");
        only_peer(&[&node(1, ""), &peer("tor", &fields)])
    };
    let external = with("external");
    assert_eq!(external.remote_as, RemoteAs::External);
    assert!(external.max_prefixes.is_some());
    assert_eq!(external.export.default, Action::Reject);
    let internal = with("internal");
    assert_eq!(internal.remote_as, RemoteAs::Internal);
    assert_eq!(internal.max_prefixes, None);
    assert_eq!(internal.export.default, Action::Accept);
    // A group may say it as well.
    let group = peer("spine", "asNumber: external");
    let member = peer("tor", "peerIP: 192.0.2.254, peerGroup: spine");
    let member = only_peer(&[&node(1, ""), &group, &member]);
    assert_eq!(member.remote_as, RemoteAs::External);
}

#[test]
fn a_peer_of_ours_needs_no_as_and_no_port_and_we_are_not_our_own_peer() {
    let nodes = three_nodes() + &mesh("nodeToNodeMeshEnabled: false, listenPort: 1790");
    let by_address =
        |address: &str| sessions(&[&nodes, &peer("p", &format!("peerIP: '{address}'"))]);
    assert_eq!(by_address("192.0.2.3"), ["p 192.0.2.3:1790 64999"]);
    assert_eq!(by_address("192.0.2.3:1791"), ["p 192.0.2.3:1791 64999"]);
    assert!(by_address("192.0.2.1").is_empty());
    assert!(by_address("198.51.100.9").is_empty());
}

#[test]
fn a_session_that_one_end_asks_for_is_the_others_as_well() {
    let nodes = three_nodes() + &mesh("nodeToNodeMeshEnabled: false");
    let forward = peer(
        "p",
        "nodeSelector: rack == 'a', peerSelector: role == 'reflector'",
    );
    assert_eq!(sessions(&[&nodes, &forward]), ["p h3 192.0.2.3 64999"]);
    let reverse = "nodeSelector: role == 'reflector', peerSelector: rack == 'a'";
    assert_eq!(
        sessions(&[&nodes, &peer("p", reverse)]),
        ["p h3 192.0.2.3 64999"]
    );
    let manual = format!("{reverse}, reversePeering: Manual");
    assert!(sessions(&[&nodes, &peer("p", &manual)]).is_empty());
    // What the one end calls itself is what the other expects.
    let renamed = format!("{reverse}, localASNumber: 65010");
    let far = only_peer(&[&nodes, &peer("p", &renamed)]);
    assert_eq!((far.remote_as, far.local_as), (65010.into(), None));
    let renamed =
        "nodeSelector: rack == 'a', peerSelector: role == 'reflector', localASNumber: 65010";
    let near = only_peer(&[&nodes, &peer("p", renamed)]);
    assert_eq!((near.remote_as, near.local_as), (64999.into(), Some(65010)));
}

#[test]
fn one_address_has_one_session_and_the_bgp_peer_wins_over_the_mesh() {
    let nodes = three_nodes();
    let explicit = peer("b", "peerIP: 192.0.2.2, asNumber: 65002")
        + &peer("a", "peerIP: 192.0.2.2:179, asNumber: 65001");
    let expected = ["a 192.0.2.2 65001", "mesh h3 192.0.2.3 64999"];
    assert_eq!(sessions(&[&nodes, &explicit]), expected);
    let elsewhere = mesh("listenPort: 1790");
    let expected = ["a 192.0.2.2 65001", "mesh h3 192.0.2.3:1790 64999"];
    assert_eq!(sessions(&[&nodes, &explicit, &elsewhere]), expected);
}

#[test]
fn a_reflector_leaves_the_mesh_and_has_clients_outside_its_cluster() {
    let id = ", routeReflectorClusterID: 192.0.2.250";
    let other = ", routeReflectorClusterID: 192.0.2.251";
    let reflectors = [node(1, id), node(2, ""), node(3, id), node(4, other)].concat();
    assert!(sessions(&[&reflectors]).is_empty());
    let everyone = peer("rr", "nodeSelector: rack == 'a', peerSelector: all()");
    let config = configured(&[&reflectors, &everyone]);
    assert_eq!(config.cluster_id, Some([192, 0, 2, 250].into()));
    let clients: Vec<_> = config
        .peers
        .iter()
        .map(|(key, p)| (key.to_string(), p.route_reflector_client))
        .collect();
    let expected = [
        ("192.0.2.2", true),
        ("192.0.2.3", false),
        ("192.0.2.4", true),
    ];
    assert_eq!(
        clients,
        expected.map(|(key, client)| (key.to_owned(), client))
    );
    let ordinary = [node(1, ""), node(2, ""), node(3, id)].concat();
    assert_eq!(sessions(&[&ordinary]), ["mesh h2 192.0.2.2 64512"]);
}

#[test]
fn a_node_listens_where_its_own_configuration_says_and_others_dial_it_there() {
    let addresses = |config: &SpeakerConfig| -> Vec<String> {
        config.listen.iter().map(ToString::to_string).collect()
    };
    let nodes = three_nodes();
    let default = configured(&[&nodes]);
    assert_eq!(addresses(&default), ["0.0.0.0:179", "[::]:179"]);
    let own = document(
        "BGPConfiguration",
        "node.h1",
        "{listenPort: 1791, bindMode: NodeIP}",
    );
    let theirs = document("BGPConfiguration", "node.h2", "{listenPort: 1792}");
    let manifests = [nodes.as_str(), &mesh("listenPort: 1790"), &own, &theirs];
    let config = configured(&manifests);
    assert_eq!(addresses(&config), ["192.0.2.1:1791"]);
    let expected = [
        "mesh h2 192.0.2.2:1792 64512",
        "mesh h3 192.0.2.3:1790 64999",
    ];
    assert_eq!(sessions(&manifests), expected);
    let chosen = BgpSettings {
        listen: vec!["127.0.0.1".parse().unwrap()],
        ..settings()
    };
    let config = speaker(&cache(&manifests), ME, &chosen).unwrap();
    assert_eq!(addresses(&config), ["127.0.0.1:1791"]);
}

fn tor(fields: &str) -> PeerConfig {
    let nodes = node(1, "") + &pool("p", "10.65.0.0/16", "");
    let fields = format!("peerIP: 192.0.2.254, asNumber: 65000{fields}");
    only_peer(&[&nodes, &peer("tor", &fields)])
}

#[test]
fn a_neighbour_in_the_subnet_is_one_hop_away_and_others_are_anywhere() {
    assert_eq!(tor("").ttl, Ttl::Direct);
    assert_eq!(tor(", ttlSecurity: 1").ttl, Ttl::Security(1));
    let far = peer("far", "peerIP: 198.51.100.1, asNumber: 65000");
    assert_eq!(only_peer(&[&node(1, ""), &far]).ttl, Ttl::Multihop);
}

#[test]
fn timers_addresses_and_limits_are_as_the_peer_says() {
    let plain = tor("");
    assert_eq!(plain.source, Some([192, 0, 2, 1].into()));
    assert_eq!(plain.next_hop_v4, Some([192, 0, 2, 1].into()));
    assert_eq!((plain.hold_time_secs, plain.keepalive_secs), (90, None));
    assert_eq!(plain.max_prefixes, Some(EXTERNAL_MAX_PREFIXES));
    let timed = tor(", keepaliveTime: 2s, maxRestartTime: 10s, numAllowedLocalASNumbers: 1");
    assert_eq!((timed.hold_time_secs, timed.keepalive_secs), (6, Some(2)));
    assert_eq!((timed.restart_time_secs, timed.allow_own_as), (Some(10), 1));
    // Seen by another address, it must be found by that.
    let unbound = tor(", sourceAddress: None");
    assert_eq!((unbound.source, unbound.next_hop_v4), (None, None));
    assert!(tor(", nextHopMode: Self").next_hop_self);
    assert!(tor(", nextHopMode: Keep").next_hop_keep);
    let nodes = three_nodes() + &mesh("nodeMeshMaxRestartTime: 30s");
    let config = configured(&[&nodes]);
    assert_eq!(config.graceful_restart.unwrap().restart_time_secs, 30);
    assert!(
        config
            .peers
            .values()
            .take(1)
            .all(|p| p.max_prefixes.is_none())
    );
}

fn secrets(value: &str) -> (TempDir, BgpSettings) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("bgp");
    fs::create_dir(&file).unwrap();
    fs::write(file.join("password"), value).unwrap();
    let secrets = dir.path().to_owned();
    (
        dir,
        BgpSettings {
            secrets,
            ..settings()
        },
    )
}

#[test]
fn a_password_comes_from_its_file_and_without_it_there_is_no_session() {
    let reference = |name: &str, key: &str| {
        format!(", password: {{secretKeyRef: {{name: {name}, key: {key}}}}}")
    };
    let built = |settings: &BgpSettings, name: &str, key: &str| {
        let fields = format!(
            "peerIP: 192.0.2.254, asNumber: 65000{}",
            reference(name, key)
        );
        let config = speaker(&cache(&[&node(1, ""), &peer("tor", &fields)]), ME, settings);
        config.unwrap().peers.into_values().next()
    };
    let (_dir, settings) = secrets("hunter2\n");
    let peer = built(&settings, "bgp", "password").unwrap();
    assert_eq!(peer.password, Some(Secret::new("hunter2".into())));
    for (name, key) in [
        ("bgp", "other"),
        ("none", "password"),
        ("..", "bgp"),
        ("bgp", "../bgp/password"),
    ] {
        assert_eq!(built(&settings, name, key), None, "{name}/{key}");
    }
    // Too long for the option of the socket: left out alone, as the others go on.
    let (_dir, settings) = secrets(&"x".repeat(81));
    assert_eq!(built(&settings, "bgp", "password"), None);
}

#[test]
fn the_meshs_password_is_for_the_mesh_alone() {
    let (_dir, settings) = secrets("hunter2");
    let config = mesh("nodeMeshPassword: {secretKeyRef: {name: bgp, key: password}}");
    let manifests = [
        &three_nodes(),
        &config,
        &peer("tor", "peerIP: 192.0.2.254, asNumber: 65000"),
    ];
    let cache = cache(&manifests.map(String::as_str));
    let peers = speaker(&cache, ME, &settings).unwrap().peers;
    let with: Vec<_> = peers
        .values()
        .map(|p| (p.name.as_str(), p.password.is_some()))
        .collect();
    assert_eq!(with, [("mesh h2", true), ("mesh h3", true), ("tor", false)]);
}

/// The rules of a filter in order, and what becomes of the rest.
fn rule_texts(filter: &FilterConfig) -> Vec<String> {
    let told = filter.rules.iter().map(|rule| {
        let prefix = rule.prefix.map_or("any".to_owned(), |p| p.to_string());
        format!(
            "{:?} {prefix} {:?} {:?}",
            rule.action, rule.operator, rule.source
        )
    });
    told.chain([format!("{:?}", filter.default)]).collect()
}

#[test]
fn only_pools_are_imported_and_only_our_own_is_exported_outside() {
    let pools = pool("a", "10.65.0.0/16", "")
        + &pool("b", "fd00:65::/48", "")
        + &pool("c", "10.66.0.0/16", ", disableBGPExport: true");
    let nodes = three_nodes() + &peer("tor", "peerIP: 192.0.2.254, asNumber: 65000");
    let peers = configured(&[&nodes, &pools]).peers;
    let [internal, _, external] = &peers.values().collect::<Vec<_>>()[..] else {
        panic!("{peers:?}");
    };
    let import = [
        "Accept 10.65.0.0/16 In None",
        "Accept fd00:65::/48 In None",
        "Accept 10.66.0.0/16 In None",
        "Reject",
    ];
    assert_eq!(rule_texts(&internal.import), import);
    assert_eq!(rule_texts(&external.import), import);
    assert_eq!(
        rule_texts(&internal.export),
        ["Reject 10.66.0.0/16 In None", "Accept"]
    );
    let export = [
        "Reject 10.66.0.0/16 In None",
        "Accept 10.65.0.0/16 In Some(Local)",
        "Accept fd00:65::/48 In Some(Local)",
        "Accept 10.66.0.0/16 In Some(Local)",
        "Reject",
    ];
    assert_eq!(rule_texts(&external.export), export);
}

fn filtered(filters: &[&str], names: &str) -> Option<PeerConfig> {
    let mut manifests = vec![node(1, ""), pool("p", "10.65.0.0/16", "")];
    for (number, spec) in (1..).zip(filters) {
        manifests.push(document("BGPFilter", &format!("f{number}"), spec));
    }
    manifests.push(peer(
        "tor",
        &format!("peerIP: 192.0.2.254, asNumber: 65000, filters: [{names}]"),
    ));
    let texts: Vec<&str> = manifests.iter().map(String::as_str).collect();
    configured(&texts).peers.into_values().next()
}

#[test]
fn filters_come_before_the_pools_in_the_order_of_their_names() {
    let first = "{importV4: [{action: Reject, matchOperator: Equal, cidr: 10.65.9.0/24}], \
                 exportV4: [{action: Accept, source: RemotePeers}]}";
    let second = "{importV4: [{action: Accept, matchOperator: NotIn, cidr: 192.0.2.0/24}], \
                  importV6: [{action: Accept}], exportV6: [{action: Reject, peerType: eBGP}]}";
    let peer = filtered(&[first, second], "f2, f1").unwrap();
    let import = [
        "Accept 192.0.2.0/24 NotIn None",
        "Accept ::/0 In None",
        "Reject 10.65.9.0/24 Equal None",
        "Accept 10.65.0.0/16 In None",
        "Reject",
    ];
    assert_eq!(rule_texts(&peer.import), import);
    let export = [
        "Reject ::/0 In Some(Ebgp)",
        "Accept 0.0.0.0/0 In Some(RemotePeers)",
        "Accept 10.65.0.0/16 In Some(Local)",
        "Reject",
    ];
    assert_eq!(rule_texts(&peer.export), export);
}

#[test]
fn lengths_and_operations_of_a_filter_are_taken_over() {
    let spec = "{exportV4: [{action: Accept, matchOperator: In, cidr: 10.65.0.0/16, \
                prefixLength: {min: 24, max: 28}, operations: [{addCommunity: {value: '65000:7'}}, \
                {addCommunity: {value: '65000:1:2'}}, {prependASPath: {prefix: [64512, 64512]}}]}]}";
    let peer = filtered(&[spec], "f1").unwrap();
    let rule = &peer.export.rules[0];
    assert_eq!(
        (rule.operator, rule.min_len, rule.max_len),
        (Operator::In, Some(24), Some(28))
    );
    assert_eq!(
        rule.operations,
        [
            Operation::AddCommunity(65000 << 16 | 7),
            Operation::AddLargeCommunity([65000, 1, 2]),
            Operation::PrependAsPath(vec![64512, 64512]),
        ]
    );
}

#[test]
fn every_match_and_operation_of_a_filter_is_taken_over() {
    let spec = "{importV4: [{action: Accept, interface: 'eth*', priority: 5, \
                asPathPrefix: [65000, 65001], communities: {values: ['65000:1']}, \
                operations: [{setPriority: {value: 7}}]}, \
                {action: Reject, communities: {values: ['65000:1:2']}}]}";
    let peer = filtered(&[spec], "f1").unwrap();
    let [first, second, ..] = &peer.import.rules[..] else {
        panic!("two rules")
    };
    assert_eq!(first.interface.as_deref(), Some("eth*"));
    assert_eq!(
        (first.priority, &first.as_path_prefix),
        (Some(5), &vec![65000, 65001])
    );
    assert_eq!(first.community, Some(Community::Standard(65000 << 16 | 1)));
    assert_eq!(first.operations, [Operation::SetPriority(7)]);
    assert_eq!(second.community, Some(Community::Large([65000, 1, 2])));
}

#[test]
fn a_filter_that_is_missing_lets_nothing_through_but_keeps_its_peer() {
    let nothing = |rule: &FilterRule| *rule == FilterRule::any(Action::Reject);
    let first = "{importV4: [{action: Accept, matchOperator: Equal, cidr: 10.0.0.0/8}]}";
    let peer = filtered(&[first], "f1, nowhere").unwrap();
    assert_eq!(peer.import.rules[0].action, Action::Accept);
    assert!(nothing(&peer.import.rules[1]) && nothing(&peer.export.rules[0]));
}

#[test]
fn bfd_is_turned_on_by_one_field_and_its_timers_are_bounded() {
    let with = |bfd: &str| {
        let spec = format!("peerIP: 192.0.2.254, asNumber: 65000{bfd}");
        let manifests = [node(1, ""), peer("tor", &spec)];
        let texts: Vec<&str> = manifests.iter().map(String::as_str).collect();
        configured(&texts).peers.into_values().next().unwrap().bfd
    };
    assert_eq!(with(""), None);
    assert_eq!(with(", bfd: {}"), Some(BfdConfig::default()));
    let quick = ", bfd: {transmitInterval: 50ms, receiveInterval: 1ms, detectMultiplier: 5}";
    assert_eq!(
        with(quick),
        Some(BfdConfig {
            min_tx_ms: 50,
            min_rx_ms: 10,
            multiplier: 5
        })
    );
}

#[test]
fn a_peer_on_an_interface_has_no_address_and_any_external_as() {
    let with = |more: &str| {
        let spec = format!("interface: eth1{more}");
        let manifests = [node(1, ""), peer("tor", &spec)];
        let texts: Vec<&str> = manifests.iter().map(String::as_str).collect();
        let peers = configured(&texts).peers;
        peers.into_iter().next().unwrap()
    };
    let (key, config) = with("");
    assert_eq!(key.to_string(), "%eth1");
    assert_eq!(
        (config.remote_as, config.ttl),
        (RemoteAs::External, Ttl::Direct)
    );
    assert_eq!(
        (config.source, config.next_hop_v4, config.next_hop_v6),
        (None, None, None)
    );
    assert!(config.extended_next_hop && config.max_prefixes.is_some());
    assert_eq!(config.families, Family::ALL);
    let (_, internal) = with(", asNumber: 64512, ttlSecurity: 1");
    assert_eq!(
        (internal.remote_as, internal.ttl),
        (64512.into(), Ttl::Security(1))
    );
    assert_eq!(internal.max_prefixes, None);
    let elsewhere = peer("tor", "interface: eth1, node: h2");
    let manifests = node(1, "") + &elsewhere;
    assert!(configured(&[&manifests]).peers.is_empty());
}

#[test]
fn whoever_connects_from_a_range_is_a_peer_of_any_external_as() {
    let with = |more: &str| {
        let manifests = [
            node(1, ""),
            peer("leaves", &format!("peerCIDR: 198.51.100.0/24{more}")),
        ];
        let texts: Vec<&str> = manifests.iter().map(String::as_str).collect();
        configured(&texts)
    };
    let config = with("");
    assert!(config.peers.is_empty());
    let [range] = &config.dynamic[..] else {
        panic!("one range")
    };
    assert_eq!(
        (range.prefix.to_string().as_str(), range.limit),
        ("198.51.100.0/24", 100)
    );
    assert_eq!(
        (range.peer.remote_as, range.peer.ttl, range.peer.source),
        (
            RemoteAs::External,
            Ttl::Multihop,
            Some([192, 0, 2, 1].into())
        )
    );
    assert_eq!(range.peer.name, "leaves");
    let own = with(", asNumber: 64512, maxPeers: 3, bfd: {}");
    assert_eq!(own.dynamic[0].limit, 3);
    assert_eq!(own.dynamic[0].peer.remote_as, 64512.into());
    assert_eq!(own.dynamic[0].peer.bfd, Some(BfdConfig::default()));
    assert!(with(", node: h2").dynamic.is_empty());
    assert!(
        with(", password: {secretKeyRef: {name: a, key: b}}")
            .dynamic
            .is_empty()
    );
}

#[test]
fn a_group_has_the_settings_of_many_and_is_no_peer_itself() {
    let group = peer(
        "spine",
        "asNumber: 65000, ttlSecurity: 1, bfd: {}, keepaliveTime: 1s",
    );
    let tors = peer("tor1", "peerIP: 192.0.2.251, peerGroup: spine")
        + &peer(
            "tor2",
            "peerIP: 192.0.2.252, peerGroup: spine, asNumber: 65002",
        )
        + &peer(
            "lost",
            "peerIP: 192.0.2.253, peerGroup: leaf, asNumber: 65003",
        );
    let nodes = node(1, "");
    assert_eq!(
        sessions(&[&nodes, &group, &tors]),
        ["tor1 192.0.2.251 65000", "tor2 192.0.2.252 65002"]
    );
    let peers = configured(&[&nodes, &group, &tors]).peers;
    for peer in peers.values() {
        assert_eq!(
            (peer.ttl, peer.bfd, peer.keepalive_secs),
            (Ttl::Security(1), Some(BfdConfig::default()), Some(1))
        );
    }
}

#[test]
fn several_paths_long_lived_restart_and_waiting_are_asked_for_by_fields_of_ours() {
    let with = |more: &str| {
        let spec = format!("peerIP: 192.0.2.254, asNumber: 65000{more}");
        only_peer(&[&node(1, ""), &peer("tor", &spec)])
    };
    let plain = with("");
    assert_eq!(
        (plain.add_path, plain.long_lived, plain.passive),
        (AddPathConfig::default(), None, false)
    );
    assert_eq!(
        with(", addPath: {receive: true, send: true}").add_path,
        AddPathConfig {
            receive: true,
            send: Some(PathLimit::All)
        }
    );
    let two = PathLimit::Best(NonZeroU16::new(2).unwrap());
    let limited = with(", addPath: {send: true, maxSent: 2}").add_path;
    assert_eq!((limited.receive, limited.send), (false, Some(two)));
    let hour = with(", longLivedRestart: {}").long_lived.unwrap();
    assert_eq!(
        (hour.stale_time_secs, hour.max_stale_time_secs),
        (3600, None)
    );
    let own = with(", longLivedRestart: {staleTime: 9000h, maxStaleTime: 10m}");
    let own = own.long_lived.unwrap();
    assert_eq!(
        (own.stale_time_secs, own.max_stale_time_secs),
        (16_777_215, Some(600))
    );
    assert!(with(", passive: true").passive);
}

#[test]
fn a_restart_is_told_and_its_time_is_bounded() {
    let restarting = BgpSettings {
        restarting: true,
        ..settings()
    };
    let nodes = three_nodes() + &mesh("nodeMeshMaxRestartTime: 24h");
    let config = speaker(&cache(&[&nodes]), ME, &restarting).unwrap();
    let graceful = config.graceful_restart.unwrap();
    assert!(graceful.restarting);
    assert_eq!(graceful.restart_time_secs, 4095);
}
