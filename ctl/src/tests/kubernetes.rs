//! Policies of Kubernetes: what they decide once they are converted, one test for each of their rules.

use super::*;

/// Namespaces, pods and, in front of it, the policies of a test.
const PODS: &str = "
namespaces:
- {name: x, labels: {team: x}}
- {name: y, labels: {team: y}}
endpoints:
- {name: x/a, labels: {pod: a}, addresses: [10.0.0.1], ports: {web: 80, dns: 53/UDP}}
- {name: x/b, labels: {pod: b}, addresses: [10.0.0.2], ports: {web: 8080}}
- {name: y/a, labels: {pod: a}, addresses: [10.0.1.1]}
- {name: y/b, labels: {pod: b}, addresses: [10.0.1.2]}
";

/// Holds `NetworkPolicy` specs of namespace `x` against tests.
fn check(specs: &[&str], tests: &str) {
    let policies = specs.iter().enumerate().map(|(i, spec)| {
        format!(
            "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p{i}, \
             namespace: x}}, spec: {spec}}}\n"
        )
    });
    run(&policies.collect::<String>(), tests);
}

/// Holds `ClusterNetworkPolicy` specs, and one `NetworkPolicy` of `x/a` if asked, against tests.
fn check_cluster(specs: &[&str], isolate: bool, tests: &str) {
    let mut policies: String = specs
        .iter()
        .enumerate()
        .map(|(i, spec)| {
            format!(
                "---\n{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, \
                 metadata: {{name: p{i}}}, spec: {spec}}}\n"
            )
        })
        .collect();
    if isolate {
        policies += "---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: \
                     i, namespace: x}, spec: {podSelector: {matchLabels: {pod: a}}}}\n";
    }
    run(&policies, tests);
}

fn run(policies: &str, tests: &str) {
    let tests: String = tests
        .lines()
        .map(|test| format!("- {{{}}}\n", test.trim()))
        .collect();
    let text = format!("{PODS}tests:\n{tests}{policies}");
    let ran = Lab::new().run_with("policy test -f -", &text);
    assert!(
        ran.code == 0 && ran.out.ends_with(" as expected, 0 not\n"),
        "{}{}",
        ran.out,
        ran.err
    );
}

#[test]
fn a_pod_is_isolated_only_when_selected_and_only_in_that_direction() {
    check(
        &["{podSelector: {matchLabels: {pod: a}}}"],
        "from: [x/b, y/a, 192.0.2.1], to: x/a, expect: deny, by: Tier/default
         from: [x/a, y/a], to: x/b, expect: allow
         from: x/a, to: [x/b, 192.0.2.1], expect: allow
         from: x/b, to: y/a, expect: allow",
    );
}

#[test]
fn rules_of_several_policies_add_up_and_none_denies() {
    check(
        &[
            "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}",
            "{podSelector: {}, ingress: [{ports: [{port: 443}]}]}",
            "{podSelector: {}}",
        ],
        "from: x/b, to: x/a, port: 80, expect: allow
         from: y/b, to: x/a, port: 80, expect: deny
         from: y/b, to: x/a, port: 443, expect: allow",
    );
}

#[test]
fn both_ends_have_to_allow_a_connection() {
    check(
        &[
            "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}",
        ],
        "from: x/a, to: x/b, expect: allow
         from: x/a, to: [y/b, 192.0.2.1], expect: deny
         from: [x/b, y/b], to: x/a, expect: allow",
    );
}

#[test]
fn egress_without_rules_denies_all_of_it() {
    check(
        &["{podSelector: {}, policyTypes: [Egress]}"],
        "from: x/a, to: [x/b, y/a], expect: deny
         from: y/a, to: x/a, expect: allow",
    );
}

#[test]
fn rules_of_a_direction_that_is_not_listed_are_ignored() {
    check(
        &[
            "{podSelector: {}, policyTypes: [Ingress], ingress: [{}], egress: [{ports: [{port: 1}]}]}",
        ],
        "from: x/a, to: y/a, expect: allow",
    );
}

#[test]
fn peers_are_of_the_own_namespace_unless_namespaces_are_selected() {
    check(
        &[
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}",
        ],
        "from: x/b, to: x/a, expect: allow
         from: y/b, to: x/a, expect: deny",
    );
    check(
        &[
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: y}}}]}]}",
        ],
        "from: [y/a, y/b], to: x/a, expect: allow
         from: x/b, to: x/a, expect: deny",
    );
    check(
        &[
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}, podSelector: {matchLabels: {pod: b}}}]}]}",
        ],
        "from: y/b, to: x/a, expect: allow
         from: [y/a, x/b], to: x/a, expect: deny",
    );
    check(
        &["{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {}}]}]}"],
        "from: [y/a, x/b], to: x/a, expect: allow
         from: 192.0.2.1, to: x/a, expect: deny",
    );
}

#[test]
fn blocks_match_pods_too_and_exceptions_cut_only_their_own_peer() {
    check(
        &[
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.1.0/24]}}, {ipBlock: {cidr: 10.0.1.2/32}}]}]}",
        ],
        "from: [x/b, y/b], to: x/a, expect: allow
         from: [y/a, 192.0.2.1], to: x/a, expect: deny",
    );
}

#[test]
fn ports_are_numbers_ranges_and_names_of_the_receiver() {
    check(
        &[
            "{podSelector: {}, ingress: [{ports: [{port: web}, {port: 90, endPort: 95}, {protocol: UDP, port: dns}]}]}",
        ],
        "from: y/a, to: x/a, port: [80, 90, 95], expect: allow
         from: y/a, to: x/a, port: [8080, 89, 96, 53], expect: deny
         from: y/a, to: x/b, port: 8080, expect: allow
         from: y/a, to: x/b, port: 80, expect: deny
         from: y/a, to: x/a, protocol: udp, port: 53, expect: allow
         from: y/a, to: x/b, protocol: udp, port: 53, expect: deny",
    );
    check(
        &[
            "{podSelector: {matchLabels: {pod: b}}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]}",
        ],
        "from: x/b, to: x/a, port: 80, expect: allow
         from: x/b, to: x/a, port: 8080, expect: deny
         from: x/b, to: y/a, port: 80, expect: deny",
    );
}

#[test]
fn sctp_and_icmp_pass_where_ports_say_so() {
    check(
        &["{podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 7}]}]}"],
        "from: y/a, to: x/a, protocol: sctp, port: 7, expect: allow
         from: y/a, to: x/a, icmp: 8, expect: deny",
    );
    check(
        &["{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"],
        "from: x/b, to: x/a, icmp: 8, expect: allow
         from: y/b, to: x/a, icmp: 8, expect: deny",
    );
}

#[test]
fn not_in_and_does_not_exist_match_without_the_key() {
    check(
        &[
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: role, operator: NotIn, values: [db]}, {key: gone, operator: DoesNotExist}]}}]}]}",
        ],
        "from: [x/b, y/a], to: x/a, expect: allow",
    );
}

#[test]
fn traffic_of_a_pod_to_itself_is_always_allowed() {
    check(&["{podSelector: {}}"], "from: x/a, to: x/a, expect: allow");
}

const DENY_Y: &str = "ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: y}}}]}]";

#[test]
fn admin_rules_come_before_network_policies() {
    let deny = format!("{{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, {DENY_Y}}}");
    check_cluster(
        &[&deny],
        false,
        "from: y/a, to: x/a, expect: deny, by: GlobalNetworkPolicy/kcnp.kube-admin.p0
         from: x/b, to: x/a, expect: allow",
    );
    check_cluster(
        &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: y}}}]}]}",
        ],
        true,
        "from: y/a, to: x/a, expect: allow
         from: x/b, to: x/a, expect: deny",
    );
}

#[test]
fn lower_priority_numbers_come_first_and_pass_leaves_the_tier() {
    let deny = format!("{{tier: Admin, priority: 20, subject: {{namespaces: {{}}}}, {DENY_Y}}}");
    let pass = "{tier: Admin, priority: 10, subject: {namespaces: {}}, ingress: [{action: Pass, \
                from: [{pods: {podSelector: {matchLabels: {pod: a}}}}]}]}";
    check_cluster(
        &[&deny, pass],
        false,
        "from: y/a, to: x/b, expect: allow
         from: y/b, to: x/b, expect: deny",
    );
}

#[test]
fn baseline_holds_only_where_no_network_policy_selects() {
    let deny = format!("{{tier: Baseline, priority: 1, subject: {{namespaces: {{}}}}, {DENY_Y}}}");
    check_cluster(
        &[&deny],
        true,
        "from: y/a, to: x/b, expect: deny, by: GlobalNetworkPolicy/kcnp.kube-baseline.p0
         from: x/a, to: x/b, expect: allow
         from: y/a, to: x/a, expect: deny, by: Tier/default",
    );
}

#[test]
fn cluster_egress_knows_networks_and_ports() {
    check_cluster(
        &[
            "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {pod: a}}}}, egress: [{action: Deny, to: [{networks: [10.0.1.0/24]}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 81}}}}]}]}",
        ],
        false,
        "from: x/a, to: y/b, port: [80, 81], expect: deny
         from: x/a, to: y/b, port: 82, expect: allow
         from: x/b, to: y/b, port: 80, expect: allow
         from: y/a, to: x/a, port: 80, expect: allow",
    );
}

const WEB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: prod}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]
";

#[test]
fn convert_prints_the_resource_of_ours() {
    assert_eq!(
        Lab::new().run_with("convert -f -", WEB),
        ok("\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  labels:
    projectcalico.org/tier: default
  name: knp.default.web
  namespace: prod
spec:
  ingress:
  - action: Allow
    destination:
      ports:
      - 80
    protocol: TCP
    source:
      selector: projectcalico.org/orchestrator == 'k8s'
  order: 1000
  selector: projectcalico.org/orchestrator == 'k8s' && app == 'web'
  tier: default
  types:
  - Ingress
")
    );
    let json = Lab::new().run_with("convert -o json -f -", WEB).out;
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value[0]["metadata"]["name"], "knp.default.web");
    let help = Lab::new().run("convert --help").out;
    assert!(help.contains("Example:\n  margayctl convert -f "), "{help}");
}

#[test]
fn apply_and_validate_take_documents_of_kubernetes() {
    let lab = Lab::new();
    assert_eq!(
        lab.run_with("validate -f -", WEB),
        ok("NetworkPolicy/prod/knp.default.web: valid\n")
    );
    lab.apply(WEB);
    assert!(lab.stored("networkpolicies/prod/knp.default.web").is_some());
    assert_eq!(
        lab.run_with("apply -f -", WEB),
        ok("NetworkPolicy/prod/knp.default.web: unchanged\n")
    );
}
