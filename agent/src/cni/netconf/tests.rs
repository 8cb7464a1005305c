use super::*;

fn parse(config: &str, args: &str) -> Result<Call, CniError> {
    let request = CniRequest {
        command: "ADD".into(),
        container_id: "c1".into(),
        netns: "/run/netns/x".into(),
        ifname: "eth0".into(),
        args: args.into(),
        config: config.into(),
        ..CniRequest::default()
    };
    let header = Header::parse(config).map_err(|(_, e)| e)?;
    Call::parse(&request, &header)
}

fn with(extra: &str) -> String {
    format!(r#"{{"cniVersion":"1.0.0","name":"net1","type":"margay-cni"{extra}}}"#)
}

#[test]
fn a_bare_configuration_asks_for_one_ipv4_address() {
    let call = parse(&with(""), "").unwrap();
    assert_eq!(
        call.ipam,
        IpamWish {
            v4: true,
            v6: false,
            v4_pools: vec![],
            v6_pools: vec![]
        }
    );
    assert_eq!(call.pod, None);
}

#[test]
fn flags_are_taken_as_text_and_as_booleans() {
    let call = parse(
        &with(r#","ipam":{"assign_ipv4":"false","assign_ipv6":true}"#),
        "",
    )
    .unwrap();
    assert!(!call.ipam.v4 && call.ipam.v6);
    let error = parse(&with(r#","ipam":{"assign_ipv4":"no"}"#), "").unwrap_err();
    assert_eq!(
        error.msg,
        "ipam.assign_ipv4 is \"no\", must be true or false"
    );
}

#[test]
fn requested_addresses_follow_the_order_of_the_conventions() {
    let all = r#","runtimeConfig":{"ips":["10.0.0.1/24"]},"args":{"cni":{"ips":["10.0.0.2"]}}"#;
    let ips = |config: &str| parse(config, "IP=10.0.0.3").unwrap().requested_ips;
    assert_eq!(ips(&with(all)), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    let args_only = with(r#","args":{"cni":{"ips":["10.0.0.2"]}}"#);
    assert_eq!(ips(&args_only), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(ips(&with("")), ["10.0.0.3".parse::<IpAddr>().unwrap()]);
}

#[test]
fn annotations_win_over_the_configured_pools_and_lose_to_the_runtime() {
    let config = with(
        r#","ipam":{"ipv4_pools":["conf"],"ipv6_pools":["conf6"]},"args":{"cni":{
        "annotations":{"cni.projectcalico.org/ipAddrs":"[\"10.0.0.9\"]"},
        "namespaceAnnotations":{"cni.projectcalico.org/ipv4pools":"[\"ns\"]"}}}"#,
    );
    let call = parse(&config, "").unwrap();
    assert_eq!(call.ipam.v4_pools, ["ns"]);
    assert_eq!(call.ipam.v6_pools, ["conf6"]);
    assert_eq!(call.requested_ips, ["10.0.0.9".parse::<IpAddr>().unwrap()]);
    let call = parse(
        &config,
        "cni.projectcalico.org/ipv4pools=[\"pod\"];IP=10.0.0.8",
    )
    .unwrap();
    assert_eq!(call.ipam.v4_pools, ["pod"]);
    assert_eq!(call.requested_ips, ["10.0.0.8".parse::<IpAddr>().unwrap()]);
}

#[test]
fn addresses_without_ipam_are_taken_as_they_are_where_that_is_allowed() {
    let config = with(
        r#","feature_control":{"ip_addrs_no_ipam":true},"ipam":{"type":"host-local"},"args":
        {"cni":{"annotations":{"cni.projectcalico.org/ipAddrsNoIpam":"[\"10.9.0.1\"]"}}}"#,
    );
    let call = parse(&config, "").unwrap();
    assert_eq!(call.given_ips, ["10.9.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(call.delegate, None);
}

#[test]
fn another_plugin_and_an_identity_are_recognised() {
    let call = parse(&with(r#","ipam":{"type":"host-local"}"#), "").unwrap();
    assert_eq!(call.delegate.as_deref(), Some("host-local"));
    let call = parse(
        &with(r#","sticky":{"leaseSeconds":9}"#),
        "MARGAY_IDENTITY=db",
    )
    .unwrap();
    let identity = call.identity.clone().unwrap();
    assert_eq!((identity.name.as_str(), identity.lease_secs), ("db", 9));
    assert!(call.handle_id().starts_with("net1.sticky-"));
}

#[test]
fn a_pod_comes_from_the_arguments() {
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=x";
    let pod = parse(&with(""), args).unwrap().pod.unwrap();
    assert_eq!(
        pod,
        Pod {
            namespace: "shop".into(),
            name: "web-0".into()
        }
    );
}

#[test]
fn bad_values_name_key_value_and_what_is_allowed() {
    for (config, args, code, needle) in [
        (r#","mtu":100"#, "", code::INVALID_CONFIG, "mtu is 100"),
        (
            r#","mtu":"big""#,
            "",
            code::DECODING_FAILURE,
            "does not decode",
        ),
        (
            r#","ipam":{"type":"/bin/sh"}"#,
            "",
            code::UNSUPPORTED_FIELD,
            "ipam.type is \"/bin/sh\"",
        ),
        (
            r#","ipam":{"type":"host-local"},"sticky":{"identity":"a"}"#,
            "",
            code::INVALID_CONFIG,
            "needs addresses of ours",
        ),
        (
            r#","args":{"cni":{"annotations":{"cni.projectcalico.org/ipAddrsNoIpam":"[\"10.0.0.1\"]"}}}"#,
            "",
            code::INVALID_CONFIG,
            "ip_addrs_no_ipam must be true",
        ),
        (
            "",
            "IP=10.0.0",
            code::INVALID_CONFIG,
            "CNI_ARGS IP has \"10.0.0\"",
        ),
        ("", "nonsense", code::INVALID_ENVIRONMENT, "KEY=VALUE"),
        ("", "MAC=01:00:00:00:00:00", code::INVALID_CONFIG, "unicast"),
        (
            r#","runtimeConfig":{"ips":["::1","::2"]}"#,
            "",
            code::INVALID_CONFIG,
            "one address",
        ),
    ] {
        let error = parse(&with(config), args).unwrap_err();
        assert_eq!(error.code, code, "{}", error.msg);
        assert!(error.msg.contains(needle), "{}", error.msg);
    }
}
