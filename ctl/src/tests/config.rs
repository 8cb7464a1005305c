//! `config show` and the archives of `diags`.

use super::*;

#[test]
fn settings_of_a_host_say_which_object_they_are_from() {
    let lab = Lab::new();
    lab.apply(
        "
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {logSeverityScreen: Info, ipv6Support: false}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: node.n1}
spec: {logSeverityScreen: Debug}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 64999}
",
    );
    let shown = lab.run("config show n1");
    assert_eq!(shown.code, 0);
    assert_eq!(
        shown.err,
        "what environment and file of n1 say is not known: node: found \"n1\", which is no node of the cluster; there are none\n"
    );
    let squeezed: Vec<String> = shown
        .out
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(squeezed[0], "SETTING VALUE SOURCE EFFECT");
    for line in [
        "FelixConfiguration.ipv6Support false FelixConfiguration/default not used by this agent",
        "FelixConfiguration.logSeverityScreen Debug FelixConfiguration/node.n1, hides Info of FelixConfiguration/default \
         not used by this agent",
        "FelixConfiguration.logPrefix margay default",
        "FelixConfiguration.bpfEnabled (unset) default not used by this agent",
        "BGPConfiguration.asNumber 64999 BGPConfiguration/default",
        "BGPConfiguration.listenPort 179 default",
    ] {
        assert!(
            squeezed.iter().any(|found| found == line),
            "{line}: {squeezed:#?}"
        );
    }
    let own = lab.run("config show");
    assert_eq!(
        own.out.lines().take(3).collect::<Vec<_>>(),
        [
            "SETTING                VALUE                      SOURCE",
            "configFile             /dev/null                  environment MARGAY_CONFIG",
            "datastore              the agent's                no etcdEndpoints are set",
        ]
    );
    let json: serde_json::Value =
        serde_json::from_str(&lab.run("config show -o json").out).unwrap();
    assert_eq!(json[0]["name"], "configFile");
}

#[test]
fn an_object_that_selects_the_host_stands_between_its_own_and_the_default() {
    let lab = Lab::new();
    let felix = |name: &str, spec: &str| {
        format!(
            "{{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {{name: {name}}}, spec: {spec}}}"
        )
    };
    lab.apply("{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n1, labels: {rack: a}}, spec: {}}");
    lab.apply(&felix("default", "{logPrefix: all, interfacePrefix: abc}"));
    lab.apply(&felix(
        "racks",
        "{nodeSelector: rack == 'a', logPrefix: rack, interfacePrefix: def}",
    ));
    lab.apply(&felix(
        "others",
        "{nodeSelector: rack == 'b', logPrefix: other}",
    ));
    lab.apply(&felix("node.n1", "{logPrefix: own}"));
    let shown = lab.run("config show n1 -o json");
    let shown: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    let holds = |name: &str| {
        let all = shown.as_array().unwrap();
        let name = format!("FelixConfiguration.{name}");
        all.iter().find(|s| s["name"] == *name).unwrap().clone()
    };
    let prefix = holds("logPrefix");
    assert_eq!(
        (&prefix["value"], &prefix["layer"]),
        (&"own".into(), &"node".into())
    );
    assert_eq!(prefix["hides"][0]["source"], "FelixConfiguration/racks");
    assert_eq!(prefix["hides"][1]["value"], "all");
    assert_eq!(holds("interfacePrefix")["layer"], "selector");
    assert_eq!(holds("bpfEnabled")["used"], false);
}

#[test]
fn archives_hold_what_was_asked_for_and_no_secrets() {
    let lab = Lab::new();
    lab.apply(&POOL.replace(
        "{name: main}",
        "{name: main, annotations: {token: hush-hush}}",
    ));
    let folder = tempfile::tempdir().unwrap();
    for (words, file) in [
        ("cluster diags", "tables/ippools"),
        ("node diags --log-dir /does/not/exist", "checksystem"),
    ] {
        let path = folder.path().join("x.tar.gz");
        let ran = lab.run(&format!("{words} -o {}", path.display()));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(
            ran.out
                .starts_with(&format!("Diags saved to {}: ", path.display())),
            "{ran:?}"
        );
        let listed = std::process::Command::new("tar")
            .arg("-tzf")
            .arg(&path)
            .output()
            .unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let folder = "diags-20261121_050252";
        for file in [file, "config", "datastore.export", "status.json.failed"] {
            let file = format!("{folder}/{file}");
            assert!(
                listed.lines().any(|line| line == file),
                "{file} in {listed}"
            );
        }
        let all = std::process::Command::new("tar")
            .arg("-xzOf")
            .arg(&path)
            .output()
            .unwrap();
        let all = String::from_utf8_lossy(&all.stdout).into_owned();
        assert!(
            all.contains("10.65.0.0/16") && all.contains("(removed)"),
            "{words}"
        );
        assert!(!all.contains("hush-hush"), "{words}");
        std::fs::remove_file(path).unwrap();
    }
}
