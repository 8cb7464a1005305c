//! `policy` and `selector`, as a user sees them.

use super::*;

/// Two namespaces; `prod/db` takes in only what `prod/web` sends to its port.
const CLUSTER: &str = "
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: kns.prod}
spec:
  ingress: [{action: Allow}]
  egress: [{action: Allow}]
  labelsToApply: {pcns.env: prod}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n1}
spec: {bgp: {ipv4Address: 192.0.2.11/24}}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n1-k8s-web-eth0, namespace: prod, labels: {app: web}}
spec: {orchestrator: k8s, node: n1, pod: web, endpoint: eth0, interfaceName: mgy1,
       ipNetworks: [10.0.0.1/32], profiles: [kns.prod]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n2-k8s-db-eth0, namespace: prod, labels: {app: db}}
spec: {orchestrator: k8s, node: n2, pod: db, endpoint: eth0, interfaceName: mgy2,
       ipNetworks: [10.0.0.2/32], profiles: [kns.prod],
       ports: [{name: psql, protocol: TCP, port: 5432}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: office, labels: {app: office}}
spec: {nets: [198.51.100.0/24]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: prod}
spec:
  order: 10
  selector: app == 'db'
  ingress:
  - {action: Allow, protocol: UDP}
  - {action: Allow, protocol: TCP, source: {selector: app == 'web'}, destination: {ports: [psql]}}
";

fn cluster() -> Lab {
    let lab = Lab::new();
    lab.apply(CLUSTER);
    lab
}

/// Runs words that may be quoted, as a shell would split them.
fn shell(lab: &Lab, line: &str) -> Ran {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    lab.run_args(words.iter().map(String::as_str), "")
}

#[test]
fn explain_tells_each_rule_on_both_hosts() {
    let ran = cluster().run("policy explain --from web --to prod/db --protocol tcp --port psql");
    assert_eq!(
        ran,
        ok("\
TCP 10.0.0.1:49152 -> 10.0.0.2:5432
Egress of WorkloadEndpoint/prod/n1-k8s-web-eth0 on n1: allow
  profiles
    Profile/kns.prod
      rule 0: Allow: MATCHES
Ingress of WorkloadEndpoint/prod/n2-k8s-db-eth0 on n2: allow
  tier default
    NetworkPolicy/prod/db
      rule 0: Allow UDP: no match: protocol is TCP, not UDP
      rule 1: Allow TCP from (app == \"web\" && projectcalico.org/namespace == \"prod\") to port psql: MATCHES
Verdict: allow, decided on ingress by rule 1 of NetworkPolicy/prod/db in tier default (Allow)
")
    );
}

#[test]
fn explain_says_what_the_default_action_was_for() {
    let ran = cluster().run("policy explain --from 203.0.113.9 --to 10.0.0.2 --port 5432");
    assert_eq!(
        ran,
        ok("\
TCP 203.0.113.9:49152 -> 10.0.0.2:5432
Egress: allow: the sender is not an endpoint of the cluster
Ingress of WorkloadEndpoint/prod/n2-k8s-db-eth0 on n2: deny
  tier default
    NetworkPolicy/prod/db
      rule 0: Allow UDP: no match: protocol is TCP, not UDP
      rule 1: Allow TCP from (app == \"web\" && projectcalico.org/namespace == \"prod\") to port psql: no match: the source does not match (app == \"web\" && projectcalico.org/namespace == \"prod\")
      no rule matches
    no rule of tier default decides: default action Deny
Verdict: deny, decided on ingress by the default action of tier default (Deny): no rule of its policies matches
")
    );
}

#[test]
fn explain_knows_the_host_of_an_endpoint() {
    let lab = cluster();
    let ran = lab.run("policy explain --from n1 --to web");
    assert!(
        ran.out
            .contains("Ingress: allow: traffic from the endpoint's own host is always")
    );
    let ran = lab.run("policy explain --from web --to 192.0.2.11 --icmp 8");
    assert!(
        ran.out
            .starts_with("ICMP type 8 code 0 10.0.0.1 -> 192.0.2.11\n"),
        "{ran:?}"
    );
    assert!(
        ran.out.ends_with(
            "Verdict: deny, decided on ingress by defaultEndpointToHostAction is Drop, and it is \
             the endpoint's own host\n"
        ),
        "{ran:?}"
    );
    lab.apply(
        "{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, \
         spec: {defaultEndpointToHostAction: Accept}}",
    );
    let ran = lab.run("policy explain --from web --to 192.0.2.11");
    assert!(ran.out.contains("Verdict: allow"), "{ran:?}");
    let ran = lab.run("policy explain --from web --to web");
    assert!(ran.out.contains("to itself does not leave it"), "{ran:?}");
}

#[test]
fn explain_as_json_has_the_whole_chain() {
    let ran = cluster().run("policy explain --from web --to db --protocol udp --port 53 -o json");
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let decision = &value["decisions"][0];
    assert_eq!(decision["verdict"], "allow");
    assert_eq!(decision["packet"]["destinationPort"], 53);
    assert_eq!(
        decision["ingress"]["steps"],
        serde_json::json!([{
            "result": "match", "rule": 0, "action": "Allow", "tier": "default",
            "policy": "NetworkPolicy/prod/db", "text": "Allow UDP",
        }])
    );
}

#[test]
fn explain_refuses_what_it_cannot_find() {
    let lab = cluster();
    for (line, says) in [
        (
            "--from nobody --to db",
            "--from: found \"nobody\", which nobody is called",
        ),
        ("--from web --to fd00::1", "no address of the same family"),
        (
            "--from web --to db --port 0",
            "port: found \"0\", allowed: 1 to 65535",
        ),
        (
            "--from web --to db --port http",
            "or a TCP port of WorkloadEndpoint/prod/n2-k8s-db",
        ),
        (
            "--from web --to db --protocol igmp",
            "protocol: found \"igmp\"",
        ),
        ("--from web --to db --icmp 300", "icmp: found \"300\""),
        (
            "--from web --to db --protocol tcp --icmp 8",
            "allowed: icmp, because icmp is set",
        ),
    ] {
        let ran = lab.run(&format!("policy explain {line}"));
        assert_eq!((ran.code, ran.err.contains(says)), (2, true), "{ran:?}");
    }
}

#[test]
fn explain_works_on_a_folder_without_a_datastore() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), CLUSTER).unwrap();
    let folder = folder.path().display();
    let words = format!("policy explain --from web --to db -f {folder}");
    let ran = Lab::new().run(&words);
    assert!(ran.out.contains("Verdict: deny"), "{ran:?}");
}

#[test]
fn show_lists_what_applies_in_order() {
    let shown = cluster().run("policy show db");
    // Nobody is there to be asked for it.
    let note = "what rules matched is not shown: node: found \"n2\", which is no node of the cluster; there are: n1\n";
    assert_eq!((shown.code, &*shown.err), (0, note));
    assert_eq!(
        shown.out,
        "\
WorkloadEndpoint/prod/n2-k8s-db-eth0 on n2: 10.0.0.2/32
Ingress:
  tier default
    NetworkPolicy/prod/db (order 10)
      rule 0: Allow UDP
      rule 1: Allow TCP from (app == \"web\" && projectcalico.org/namespace == \"prod\") to port psql
    else Deny
  profiles
    Profile/kns.prod
      rule 0: Allow
    else Deny
Egress:
  profiles
    Profile/kns.prod
      rule 0: Allow
    else Deny
"
    );
    let ran = cluster().run("policy show 10.0.0.1 -o json");
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(value["ingress"]["tiers"], serde_json::json!([]));
    assert_eq!(value["egress"]["profiles"][0]["profile"], "kns.prod");
    assert_eq!(cluster().run("policy show 192.0.2.1").code, 2);
}

#[test]
fn rules_that_were_joined_are_shown_together_and_explained_one_by_one() {
    let rules = "
namespaces: [{name: prod}]
endpoints:
- {name: prod/web, labels: {app: web}, addresses: [10.0.0.1]}
- {name: prod/db, labels: {app: db}, addresses: [10.0.0.2]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: prod}
spec:
  selector: app == 'db'
  ingress:
  - {action: Allow, protocol: TCP, destination: {ports: [5432]}}
  - {action: Allow, protocol: TCP, destination: {ports: [80]}}
  - {action: Deny, protocol: UDP}
";
    let lab = Lab::new();
    let shown = lab.run_with("policy show db -f -", rules).out;
    assert!(
        shown.contains("      rules 0, 1: Allow TCP to ports 5432,80\n      rule 2: Deny UDP\n"),
        "{shown}"
    );
    let shown = lab.run_with("policy show db -o json -f -", rules).out;
    let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let rule = &value["ingress"]["tiers"][0]["policies"][0]["rules"][0];
    assert_eq!(rule["rules"], serde_json::json!([0, 1]));
    let ran = lab.run_with(
        "policy explain --from prod/web --to prod/db --port 80 -f -",
        rules,
    );
    let chain = "      rule 0: Allow TCP to port 5432: no match: destination port 80 is none of its ports\n      \
                 rule 1: Allow TCP to port 80: MATCHES\n";
    assert!(ran.out.contains(chain), "{}", ran.out);
}

#[test]
fn matrix_tells_who_may_talk_to_whom() {
    let lab = cluster();
    assert_eq!(
        lab.run("policy matrix"),
        ok("\
+ allowed, . denied, blank not asked; rows send, columns receive
           1 2
1 prod/web   .
2 prod/db  +
")
    );
    assert_eq!(
        lab.run("policy matrix -n prod --port 5432 -o dot").out,
        "digraph policy {\n  \"prod/web\";\n  \"prod/db\";\n  \"prod/web\" -> \"prod/db\";\n  \
         \"prod/db\" -> \"prod/web\";\n}\n"
    );
    let json = lab.run("policy matrix -l has(app) --port psql -o json").out;
    let pairs: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        pairs,
        serde_json::json!([{"from": "prod/web", "to": "prod/db", "verdict": "allow"}])
    );
    assert_eq!(lab.run("policy matrix -n nowhere").code, 2);
}

/// The file that the documentation shows.
fn documented_cases() -> String {
    let page = include_str!("../../../docs/policy-test.md");
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_documented_test_file_passes() {
    let ran = Lab::new().run_with("policy test -f -", &documented_cases());
    assert_eq!(ran, ok("7 as expected, 0 not\n"));
}

#[test]
fn a_failed_test_shows_its_chain_and_the_exit_code_says_so() {
    let text = documented_cases().replace("port: psql, expect: allow", "port: psql, expect: deny");
    let ran = Lab::new().run_with("policy test -f -", &text);
    assert_eq!(ran.code, 1);
    assert!(
        ran.out.starts_with(
            "FAILED web asks db: prod/web -> prod/db: found allow, expected deny\n  TCP 10.0.0.1:"
        ),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("rule 0: Allow TCP from"), "{}", ran.out);
    assert!(ran.out.ends_with("\n6 as expected, 1 not\n"), "{}", ran.out);
    let ran = Lab::new().run_with("policy test -o json -f -", &text);
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&value["passed"], &value["failed"]), (&6.into(), &1.into()));
    assert_eq!(value["cases"][0]["chain"]["verdict"], "allow");
}

#[test]
fn what_cannot_be_asked_fails_and_mistakes_are_named() {
    let lab = Lab::new();
    let ran = lab.run_with(
        "policy test -f -",
        "tests: [{from: a/b, to: 192.0.2.1, expect: deny}]",
    );
    assert_eq!(ran.code, 1);
    assert!(
        ran.out
            .contains("FAILED test 1: a/b -> 192.0.2.1: from: found \"a/b\"")
    );
    for (text, says) in [
        (
            "tests: [{from: a, to: b, expect: maybe}]",
            "unknown variant `maybe`",
        ),
        ("endpoint: []", "unknown field `endpoint`"),
        ("a: [", "document 1: "),
        (
            "endpoints: [{name: web}]",
            "endpoint web: name: allowed: NAMESPACE/NAME",
        ),
        (
            "endpoints: [{name: a/b, ports: {p: 70000}}]",
            "allowed: PORT or PORT/PROTOCOL",
        ),
        ("{kind: Bogus}", "kind: found \"Bogus\""),
    ] {
        let ran = lab.run_with("policy test -f -", text);
        assert_eq!(
            (ran.code, ran.err.contains(says)),
            (2, true),
            "{text}: {ran:?}"
        );
    }
}

#[test]
fn thousands_of_tests_run_at_once() {
    let names: Vec<_> = (0..100).map(|n| format!("ns/e{n}")).collect();
    let endpoints: Vec<_> = names.iter().map(|n| format!("{{name: {n}}}")).collect();
    let text = format!(
        "endpoints: [{}]\ntests: [{{from: [{all}], to: [{all}], expect: allow}}]",
        endpoints.join(", "),
        all = names.join(", "),
    );
    let ran = Lab::new().run_with("policy test -f -", &text);
    assert_eq!(ran, ok("10000 as expected, 0 not\n"));
}

#[test]
fn selector_eval_answers_with_the_exit_code() {
    let lab = Lab::new();
    let eval = |line: &str| shell(&lab, &format!("selector eval {line}"));
    assert_eq!(
        eval("\"app == 'web'\" --labels app=web,env=prod"),
        ok("matches\n")
    );
    assert_eq!(
        eval("\"app == 'db'\" --labels app=web"),
        failed("does not match\n", "")
    );
    assert_eq!(eval("'!has(a)' --labels b="), ok("matches\n"));
    let ran = eval("\"app ==\" --labels app=web");
    assert_eq!(
        (ran.code, ran.err.contains("column 7")),
        (2, true),
        "{ran:?}"
    );
    assert_eq!(eval("all() --labels app").code, 2);
    assert_eq!(
        eval("'has(a)' --labels a=1 -o json").out,
        "{\n  \"labels\": {\n    \"a\": \"1\"\n  },\n  \"matches\": true,\n  \"selector\": \
         \"has(a)\"\n}\n"
    );
}

#[test]
fn selector_eval_takes_many_cases() {
    let lab = Lab::new();
    let cases = "
- {selector: has(app), labels: {app: web}}
- {name: none, selector: \"app == 'db'\", labels: {app: web}, expect: false}
- {selector: has(b), labels: {app: web}}
";
    assert_eq!(
        lab.run_with("selector eval --file -", cases),
        failed(
            "1: matches\nnone: does not match\n3: does not match, expected: matches\n",
            ""
        )
    );
    assert_eq!(
        lab.run_with("selector eval --file -", "- {labels: {}}")
            .code,
        2
    );
}

#[test]
fn selector_parse_shows_the_canonical_form_or_the_mistake() {
    let lab = Lab::new();
    let ran = shell(&lab, "selector parse \"a in {'y','x','y'}&&!!has(b)\"");
    let canonical = "(a in {\"x\", \"y\"} && has(b))";
    assert_eq!(ran.code, 0);
    assert!(
        ran.out
            .starts_with(&format!("Canonical:  {canonical}\nUid:        s:")),
        "{ran:?}"
    );
    let ran = shell(&lab, "selector parse 'a = 1' -o json");
    assert_eq!(ran.code, 2);
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&value["valid"], &value["error"]["column"]),
        (&false.into(), &3.into())
    );
}

#[test]
fn selector_list_sees_the_labels_that_policy_sees() {
    let lab = cluster();
    assert_eq!(
        shell(
            &lab,
            "selector list \"pcns.env == 'prod' && app == 'web' || app == 'office'\""
        ),
        ok("\
KIND               NAMESPACE   NAME              ADDRESSES
GlobalNetworkSet               office            198.51.100.0/24
WorkloadEndpoint   prod        n1-k8s-web-eth0   10.0.0.1/32
")
    );
    assert!(lab.run("selector list !has(app)").out.contains("\nNode "));
    let ran = lab.run("selector parse has(app) --list");
    assert!(
        ran.out.starts_with("Canonical:  has(app)\nUid: "),
        "{ran:?}"
    );
    assert!(ran.out.contains("\nGlobalNetworkSet "), "{ran:?}");
    let ran = lab.run("selector parse has(app) --list -o json");
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(value["matches"].as_array().map(Vec::len), Some(3));
    assert_eq!(lab.run("selector parse has( --list").code, 2);
    let json = lab.run("selector list has(app) -n prod -o json").out;
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value.as_array().unwrap().len(), 2);
}

#[test]
fn examples_of_the_help_run() {
    let lab = cluster();
    let folder = tempfile::tempdir().unwrap();
    let cases = folder.path().join("cases.yaml");
    std::fs::write(&cases, documented_cases()).unwrap();
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::write(
        manifests.join("tier.yaml"),
        "{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: t}, spec: {order: 5}}",
    )
    .unwrap();
    for command in [
        "policy explain",
        "policy test",
        "policy show",
        "policy matrix",
        "selector eval",
        "selector parse",
        "selector list",
    ] {
        let help = lab.run(&format!("{command} --help"));
        let example = help
            .out
            .split_once("Example:\n  margayctl ")
            .expect(command)
            .1;
        let example = example
            .lines()
            .next()
            .unwrap()
            .replace("cases.yaml", &cases.display().to_string())
            .replace("manifests/", &manifests.display().to_string());
        assert!(example.starts_with(command), "{example}");
        let ran = shell(&lab, &example);
        assert_eq!(
            (ran.code, ran.out.is_empty()),
            (0, false),
            "{example}: {ran:?}"
        );
    }
}
