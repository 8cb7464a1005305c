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
    assert_eq!(
        lab.run("config show n1"),
        ok("\
SETTING                                VALUE   SOURCE
FelixConfiguration.ipv6Support         false   FelixConfiguration/default
FelixConfiguration.logSeverityScreen   Debug   FelixConfiguration/node.n1, hides Info of FelixConfiguration/default
BGPConfiguration.asNumber              64999   BGPConfiguration/default
")
    );
    let own = lab.run("config show");
    assert_eq!(
        own.out.lines().take(3).collect::<Vec<_>>(),
        [
            "SETTING            VALUE                      SOURCE",
            "configFile         /dev/null                  environment MARGAY_CONFIG",
            "datastore          the agent's                no etcdEndpoints are set",
        ]
    );
    let json: serde_json::Value =
        serde_json::from_str(&lab.run("config show -o json").out).unwrap();
    assert_eq!(json[0]["name"], "configFile");
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
