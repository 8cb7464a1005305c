use super::*;

fn flow(verdict: Verdict, from: &str, to: &str, reason: Reason) -> Flow {
    Flow {
        first_ms: 0,
        last_ms: 1_000,
        verdict,
        ingress: true,
        endpoint: "WorkloadEndpoint/default/a".into(),
        in_interface: "eth0".into(),
        out_interface: "mgy1".into(),
        source: from.parse().unwrap(),
        destination: to.parse().unwrap(),
        protocol: 6,
        source_port: 40000,
        port: 80,
        reason,
        packets: 2,
        bytes: 120,
    }
}

fn policy(name: &str) -> Reason {
    Reason::Policy {
        tier: "default".into(),
        policy: name.into(),
        rule: 1,
    }
}

#[test]
fn flows_are_chosen_by_verdict_ends_and_policy() {
    let denied = flow(
        Verdict::Deny,
        "10.0.0.1",
        "10.0.0.2",
        policy("NetworkPolicy/prod/db"),
    );
    let wanted = |denied, from, policy: Option<&str>| Wanted {
        denied,
        from,
        to: Who::Anybody,
        policy: policy.map(str::to_owned),
    };
    let range = |text: &str| Who::Range(text.parse().unwrap());
    assert!(wanted(true, range("10.0.0.0/24"), Some("db")).matches(&denied));
    assert!(wanted(true, Who::Anybody, Some("prod/db")).matches(&denied));
    assert!(!wanted(false, Who::Anybody, Some("b")).matches(&denied));
    assert!(!wanted(false, range("10.0.1.0/24"), None).matches(&denied));
    let allowed = flow(
        Verdict::Allow,
        "10.0.0.1",
        "10.0.0.2",
        Reason::NothingAllowed,
    );
    assert!(!wanted(true, Who::Anybody, None).matches(&allowed));
}

#[test]
fn a_flow_is_a_line_with_the_rule_that_decided() {
    let denied = flow(
        Verdict::Deny,
        "10.0.0.1",
        "10.0.0.2",
        policy("NetworkPolicy/prod/db"),
    );
    let text = text::lines(&[&denied], true);
    let line = text.lines().nth(1).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>().join(" "),
        "1970-01-01T00:00:01Z DENY 10.0.0.1 10.0.0.2 TCP 80 in 2 120 rule 1 of \
         NetworkPolicy/prod/db in tier default"
    );
}
