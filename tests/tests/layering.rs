//! The arrows of docs/architecture.md: pure crates know no runtime, socket or datastore; policy and
//! dataplane do not know each other; the shim links next to nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::Command;

/// Names of all crates that `package` is built with, tests and build scripts left out.
fn dependencies(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--locked",
            "-p",
            package,
            "-e",
            "normal,no-proc-macro",
            "--prefix",
            "none",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names: BTreeSet<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    assert!(
        names.contains(package),
        "cargo tree printed nothing of {package}"
    );
    names
}

fn forbid(package: &str, forbidden: &[&str]) {
    let all = dependencies(package);
    let found: Vec<_> = forbidden
        .iter()
        .filter(|name| all.contains(**name))
        .collect();
    assert!(found.is_empty(), "{package} must not depend on {found:?}");
}

#[test]
fn pure_crates_know_no_runtime_socket_or_datastore() {
    let io = [
        "tokio",
        "rtnetlink",
        "netlink-sys",
        "socket2",
        "nix",
        "etcd-client",
        "redb",
        "prometheus",
        "margay-datastore",
        "margay-dataplane",
        "margay-speaker",
    ];
    for package in [
        "margay-model",
        "margay-bgp",
        "margay-policy",
        "margay-ipam",
        "margay-api",
    ] {
        forbid(package, &io);
    }
}

#[test]
fn policy_and_dataplane_do_not_know_each_other() {
    forbid("margay-policy", &["margay-dataplane"]);
    forbid(
        "margay-dataplane",
        &["margay-policy", "margay-model", "margay-datastore"],
    );
}

#[test]
fn the_speaker_knows_nothing_of_containers() {
    forbid(
        "margay-speaker",
        &["margay-model", "margay-dataplane", "margay-datastore"],
    );
}

#[test]
fn the_shim_links_serde_and_little_else() {
    let all = dependencies("margay-cni-shim");
    assert!(all.len() <= 10, "{all:?}");
    forbid(
        "margay-cni-shim",
        &["tokio", "clap", "tracing", "margay-model"],
    );
}
