use proptest::prelude::*;

use super::*;
use crate::keys::Keys;
use crate::kind::Kind;

/// Resources as the established system stored them.
const STORED: &[(&str, &str)] = &[
    (
        "/calico/resources/v3/projectcalico.org/clusterinformations/default",
        r#"{"kind":"ClusterInformation","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"33333333-3333-3333-3333-333333333333","creationTimestamp":"2026-11-21T00:00:00Z"},"spec":{"clusterGUID":"abc","datastoreReady":true}}"#,
    ),
    (
        "/calico/resources/v3/projectcalico.org/nodes/n1",
        r#"{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n1","uid":"11111111-1111-1111-1111-111111111111","creationTimestamp":"2026-11-21T00:00:00Z"},"spec":{"bgp":{"ipv4Address":"127.0.0.1/8"}}}"#,
    ),
    (
        "/calico/resources/v3/projectcalico.org/profiles/net1",
        r#"{"kind":"Profile","apiVersion":"projectcalico.org/v3","metadata":{"name":"net1","uid":"2b6b5471-94bf-48d9-8b40-b241eb04d175","creationTimestamp":"2026-11-21T05:02:52Z"},"spec":{"ingress":[{"action":"Allow","source":{"selector":"has(net1)"}}],"egress":[{"action":"Allow"}],"labelsToApply":{"net1":""}}}"#,
    ),
    (
        "/calico/resources/v3/projectcalico.org/workloadendpoints/default/n1-cni-cid1-eth0",
        r#"{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"n1-cni-cid1-eth0","namespace":"default","uid":"6b6e5e6b-98df-4f9a-9dc9-a8cf7806cb8c","creationTimestamp":"2026-11-21T05:02:52Z","labels":{"projectcalico.org/namespace":"default","projectcalico.org/orchestrator":"cni"}},"spec":{"orchestrator":"cni","node":"n1","containerID":"cid1","endpoint":"eth0","ipNetworks":["10.65.40.128/32"],"profiles":["net1"],"interfaceName":"calicid1","mac":"d6:d2:d1:51:2a:c7"}}"#,
    ),
    (
        "/calico/resources/v3/projectcalico.org/workloadendpoints/default/n1-k8s-web-eth0",
        r#"{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"n1-k8s-web-eth0","namespace":"default"},"spec":{"orchestrator":"k8s","node":"n1","pod":"web","endpoint":"eth0","interfaceName":"cali1","ports":[{"name":"http","protocol":"TCP","port":80,"hostPort":0,"hostIP":""}]}}"#,
    ),
];

/// A pool whose fields somebody put in by hand, in an order of his own.
const POOL: &str = r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"22222222-2222-2222-2222-222222222222","creationTimestamp":"2026-11-21T00:00:00Z"},"spec":{"cidr":"10.65.0.0/16","blockSize":26,"ipipMode":"Never","vxlanMode":"Never","nodeSelector":"all()","allowedUses":["Workload","Tunnel"]}}"#;

fn key(kind: Kind, name: &str) -> ResourceKey {
    let namespace = kind.namespaced().then(|| "default".to_owned());
    ResourceKey {
        kind,
        namespace,
        name: name.to_owned(),
    }
}

#[test]
fn what_the_established_system_stored_is_written_back_byte_for_byte() {
    for (etcd_key, text) in STORED {
        let key = Keys::default().parse(etcd_key).unwrap();
        let resource = decode_stored(&key, text.as_bytes()).unwrap();
        assert_eq!(resource.key(), key);
        assert_eq!(String::from_utf8(encode_stored(&resource)).unwrap(), *text);
    }
}

#[test]
fn a_value_put_in_by_hand_keeps_its_meaning() {
    let resource = decode_stored(&key(Kind::IpPool, "default"), POOL.as_bytes()).unwrap();
    let AnyResource::IpPool(pool) = &resource else {
        panic!("{resource:?}")
    };
    assert_eq!(pool.spec.cidr.to_string(), "10.65.0.0/16");
    assert_eq!(pool.spec.block_size(), 26);
    let before: Value = serde_json::from_str(POOL).unwrap();
    let after: Value = serde_json::from_slice(&encode_stored(&resource)).unwrap();
    assert_eq!(before, after);
}

#[test]
fn fields_that_we_do_not_know_survive_at_every_level() {
    let text = r#"{"kind":"GlobalNetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"a","newMeta":1},"spec":{"order":100,"ingress":[{"action":"Allow","source":{"newEntity":[true]},"newRule":{"a":1}}],"newSpec":"x"},"status":{"ready":true}}"#;
    let resource = decode_stored(&key(Kind::GlobalNetworkPolicy, "a"), text.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(encode_stored(&resource)).unwrap(), text);
}

#[test]
fn nulls_and_empty_texts_of_other_writers_mean_absent() {
    let text = r#"{"kind":"IPPool","metadata":{"name":"a","creationTimestamp":null,"labels":null},"spec":{"cidr":"10.0.0.0/16","ipipMode":"","vxlanMode":null,"allowedUses":null}}"#;
    let resource = decode_stored(&key(Kind::IpPool, "a"), text.as_bytes()).unwrap();
    let AnyResource::IpPool(pool) = resource else {
        panic!("{resource:?}")
    };
    assert_eq!((pool.spec.ipip_mode, pool.spec.vxlan_mode), (None, None));
    assert!(pool.spec.allowed_uses.is_empty());
}

#[test]
fn the_key_decides_about_names() {
    let text = r#"{"kind":"Node","metadata":{"name":"other"},"spec":{}}"#;
    let resource = decode_stored(&key(Kind::Node, "n1"), text.as_bytes()).unwrap();
    assert_eq!(resource.metadata().name, "n1");
}

#[test]
fn the_resource_version_is_not_stored() {
    let mut resource = decode_stored(&key(Kind::Node, "n1"), b"{}").unwrap();
    resource.metadata_mut().resource_version = Some("17".to_owned());
    let text = String::from_utf8(encode_stored(&resource)).unwrap();
    assert_eq!(
        text,
        r#"{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n1"},"spec":{}}"#
    );
}

#[test]
fn what_does_not_decode_is_told_with_key_and_path() {
    let error = |text: &str| {
        decode_stored(&key(Kind::IpPool, "a"), text.as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert!(error("nonsense").starts_with("IPPool/a: not a JSON object: "));
    assert_eq!(
        error("[]"),
        "IPPool/a: not a JSON object: it is another JSON value"
    );
    assert_eq!(
        error(r#"{"kind":"Node"}"#),
        "IPPool/a: kind: found \"Node\", allowed: IPPool"
    );
    assert_eq!(
        error(r#"{"spec":{"cidr":"10.0.0.0/99","blockSize":"big"}}"#),
        "IPPool/a: spec.blockSize: found \"big\", allowed: 0 to 128; spec.cidr: found \
         \"10.0.0.0/99\", allowed: ADDRESS/LENGTH without host bits, such as 10.65.0.0/16, \
         10.65.0.1/32 or fd00::/64"
    );
}

/// Any JSON, with names and words of ours among others.
fn json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("spec".to_owned()),
        Just("metadata".to_owned()),
        Just("name".to_owned()),
        Just("cidr".to_owned()),
        Just("ingress".to_owned()),
        Just("action".to_owned()),
        Just("Allow".to_owned()),
        Just("10.0.0.0/8".to_owned()),
        Just("ports".to_owned()),
        Just("1:2".to_owned()),
        Just("bgp".to_owned()),
        Just("maxRestartTime".to_owned()),
        Just("9223372036854775807h".to_owned()),
        ".{0,8}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(word.clone(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_decoded_or_refused_without_panic(
        kind in proptest::sample::select(Kind::ALL),
        metadata in json(),
        spec in json(),
    ) {
        let value = serde_json::json!({"metadata": metadata, "spec": spec});
        let key = key(kind, "a");
        if let Ok(resource) = decode_stored(&key, &serde_json::to_vec(&value).unwrap()) {
            crate::validate::validate(&resource, &|_| Ok(()));
            let bytes = encode_stored(&resource);
            prop_assert_eq!(decode_stored(&key, &bytes).unwrap(), resource);
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused_without_panic(
        kind in proptest::sample::select(Kind::ALL),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assert!(decode_stored(&key(kind, "a"), &bytes).is_err());
    }
}
