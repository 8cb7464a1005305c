//! The arrows between crates point down only: what a crate may not reach, asked of `cargo tree`.

use std::collections::BTreeSet;
use std::process::Command;

const IO: &[&str] = &[
    "tokio",
    "rtnetlink",
    "etcd-client",
    "prometheus",
    "nix",
    "socket2",
    "margay-datastore",
    "margay-dataplane",
    "margay-speaker",
];

/// Everything that the crate's own code depends on, itself left out.
fn reach(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "-e",
            "normal",
            "--prefix",
            "none",
        ])
        .args(["--format", "{p}", "-p", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "cargo tree -p {package}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = text.lines().filter_map(|l| l.split_whitespace().next());
    names
        .filter(|name| *name != package)
        .map(str::to_owned)
        .collect()
}

fn assert_free_of(package: &str, forbidden: &[&str]) {
    let reached = reach(package);
    let found: Vec<&&str> = forbidden.iter().filter(|f| reached.contains(**f)).collect();
    assert!(found.is_empty(), "{package} reaches {found:?}");
}

#[test]
fn pure_crates_know_no_runtime_no_socket_and_no_store() {
    for package in ["margay-model", "margay-bgp", "margay-policy", "margay-ipam"] {
        assert_free_of(package, IO);
    }
}

#[test]
fn policy_and_dataplane_do_not_know_each_other() {
    assert_free_of("margay-dataplane", &["margay-policy"]);
    assert_free_of("margay-policy", &["margay-dataplane"]);
}

#[test]
fn drivers_do_not_know_the_binaries_or_each_other() {
    let drivers = ["margay-datastore", "margay-dataplane", "margay-speaker"];
    for package in drivers {
        let others: Vec<&str> = drivers.into_iter().filter(|d| *d != package).collect();
        assert_free_of(package, &others);
        assert_free_of(package, &["margay-agent", "margay-ctl", "margay-cni-shim"]);
    }
}

#[test]
fn the_shim_stays_tiny() {
    let reached = reach("margay-cni-shim");
    let ours: Vec<&String> = reached
        .iter()
        .filter(|n| n.starts_with("margay-"))
        .collect();
    assert_eq!(ours, ["margay-api"]);
    assert_free_of("margay-cni-shim", IO);
    assert_free_of("margay-api", IO);
}

#[test]
fn the_question_is_asked_right() {
    let reached = reach("margay-datastore");
    assert!(reached.contains("tokio") && reached.contains("margay-model"));
}
