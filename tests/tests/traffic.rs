//! Packets flow between two containers of a host while everything happens that must not cost one: no allowed packet is
//! lost and no denied one let through. `make traffic` does the same for longer.

use margay_lab::traffic::{DENIED, SCENARIOS, Stage};

/// Of each kind, on a machine that is busy.
const ENOUGH: u64 = 100;

/// The agent tells of what it denies: which endpoint's policy, which tier, which ports.
#[test]
fn what_is_denied_is_told_with_endpoint_tier_and_port() {
    let mut stage = Stage::new().unwrap();
    SCENARIOS[0].run(&mut stage, 1).unwrap();
    let flows = stage.flows().unwrap();
    let denied = |flow: &&serde_json::Value| flow["port"] == *DENIED.start();
    let told: Vec<_> = flows.iter().filter(denied).collect();
    assert!(told.len() >= 2, "one of each family: {flows:?}");
    for flow in told {
        assert_eq!(
            (&flow["verdict"], &flow["ingress"]),
            (&"deny".into(), &true.into())
        );
        assert_eq!(flow["reason"]["end_of_tier"]["tier"], "default");
        assert_eq!(flow["protocol"], 17);
        let endpoint = flow["endpoint"].as_str().unwrap_or_default();
        assert!(endpoint.starts_with("WorkloadEndpoint/"), "{flow}");
        assert!(flow["packets"].as_u64() > Some(10), "{flow}");
    }
    let allowed = flows.iter().filter(|flow| flow["verdict"] == "allow");
    assert_eq!(allowed.count(), 0, "not asked for");
}

#[test]
fn no_packet_is_lost_or_let_through() {
    let mut stage = Stage::new().unwrap();
    for scenario in SCENARIOS {
        let account = scenario.run(&mut stage, 1).unwrap();
        if let Err(error) = account.ensure_clean(ENOUGH) {
            panic!("{}: {error:#}", scenario.name);
        }
    }
}
