//! The program itself against a real etcd: environment in, exit code and text out.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

use margay_lab::{Etcd, EtcdTls};

/// Runs the program with these variables and nothing else of the caller's environment.
fn margayctl(env: &[(&str, &str)], words: &str, stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_margayctl"))
        .args(words.split_whitespace())
        .env_clear()
        .env("MARGAY_CONFIG", "/dev/null")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

const POOL: &str = "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: main}, \
                    spec: {cidr: 10.65.0.0/16}}";

#[test]
fn resources_go_to_etcd_and_come_back() {
    let etcd = Etcd::start().unwrap();
    let env = [("ETCD_ENDPOINTS", etcd.url())];
    let applied = margayctl(&env, "apply -f -", POOL);
    assert_eq!(
        text(&applied.stdout),
        "IPPool/main: created\n",
        "{applied:?}"
    );
    let key = "/calico/resources/v3/projectcalico.org/ippools/main";
    let stored = etcd.ctl(&["get", "--print-value-only", key]).unwrap();
    assert!(stored.starts_with(r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","#));
    let shown = margayctl(&env, "get pools", "");
    assert_eq!(
        text(&shown.stdout),
        "NAME   CIDR           SELECTOR\nmain   10.65.0.0/16   all()\n"
    );
    let deleted = margayctl(&env, "delete pool main", "");
    assert_eq!(deleted.status.code(), Some(0));
    assert_eq!(etcd.ctl(&["get", "--print-value-only", key]).unwrap(), "");
}

#[test]
fn certificates_are_used_and_their_absence_is_told() {
    let tls = EtcdTls::new("operator").unwrap();
    let etcd = Etcd::start_tls(&tls).unwrap();
    let file = |name: &str| tls.file(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let env = [
        ("MARGAY_ETCD_ENDPOINTS", etcd.url()),
        ("ETCD_CA_CERT_FILE", &ca),
        ("CALICO_ETCD_CERT_FILE", &cert),
        ("ETCD_KEY_FILE", &key),
    ];
    let applied = margayctl(&env, "apply -f -", POOL);
    assert_eq!(
        text(&applied.stdout),
        "IPPool/main: created\n",
        "{applied:?}"
    );
    let refused = margayctl(&env[..2], "get pools", "");
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert_eq!(text(&refused.stderr).lines().count(), 1, "{refused:?}");
}

#[test]
fn certificates_in_the_configuration_file_are_used() {
    let tls = EtcdTls::new("operator").unwrap();
    let etcd = Etcd::start_tls(&tls).unwrap();
    let text = |name: &str| {
        let text = std::fs::read_to_string(tls.file(name)).unwrap();
        text.lines()
            .map(|line| format!("    {line}\n"))
            .collect::<String>()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = format!(
        "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n  \
         datastoreType: etcdv3\n  etcdEndpoints: {}\n  etcdCACert: |\n{}  etcdCert: |\n{}  \
         etcdKey: |\n{}",
        etcd.url(),
        text("ca.pem"),
        text("client.pem"),
        text("client.key")
    );
    std::fs::write(file.path(), config).unwrap();
    let words = format!("apply -f - --config {}", file.path().display());
    let applied = margayctl(&[], &words, POOL);
    assert_eq!(
        String::from_utf8_lossy(&applied.stdout),
        "IPPool/main: created\n",
        "{applied:?}"
    );
}

#[test]
fn an_output_that_is_closed_early_is_no_failure() {
    let etcd = Etcd::start().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_margayctl"))
        .args(["get", "nodes"])
        .env_clear()
        .env("MARGAY_CONFIG", "/dev/null")
        .env("ETCD_ENDPOINTS", etcd.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}
