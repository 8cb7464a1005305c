//! What an operator waits for, with the program itself and a real etcd: 10,000 endpoints shown, 1,000
//! policies applied, a cluster exported and imported.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark talks, and may fail"
)]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use margay_lab::Etcd;

const ENDPOINTS: usize = 10_000;
const POLICIES: usize = 1_000;
const ROUNDS: usize = 5;

/// Runs a command and says how long it took.
fn run(etcd: &Etcd, words: &[&str], stdin: &str) -> (Duration, String) {
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_margayctl"))
        .args(words)
        .env_clear()
        .env("MARGAY_CONFIG", "/dev/null")
        .env("ETCD_ENDPOINTS", etcd.url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{words:?}");
    (start.elapsed(), String::from_utf8(output.stdout).unwrap())
}

/// The median of some rounds.
fn measure(what: &str, mut round: impl FnMut() -> Duration) {
    let mut times: Vec<_> = (0..ROUNDS).map(|_| round()).collect();
    times.sort();
    println!(
        "{what:<44} {:>8.0} ms",
        times[ROUNDS / 2].as_secs_f64() * 1e3
    );
}

fn endpoint(i: usize) -> String {
    let (a, b) = (i / 250, i % 250);
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {{name: n{a}-cni-c{i}-eth0, \
         labels: {{app: web, n: \"{b}\"}}}}, spec: {{orchestrator: cni, node: n{a}, containerID: c{i}, \
         endpoint: eth0, ipNetworks: [10.65.{a}.{b}/32], profiles: [net1], interfaceName: mgy{i}}}}}\n---\n"
    )
}

fn policy(i: usize, order: usize) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {{name: p{i}}}, spec: {{order: \
         {order}, selector: app == 'a{i}', ingress: [{{action: Allow, protocol: TCP, source: {{selector: \
         role == 'client'}}, destination: {{ports: [80, 443]}}}}]}}}}\n---\n"
    )
}

fn main() {
    let etcd = Etcd::start().unwrap();
    let endpoints: String = (0..ENDPOINTS).map(endpoint).collect();
    let (time, _) = run(&etcd, &["create", "-f", "-"], &endpoints);
    println!(
        "{:<44} {:>8.0} ms",
        "create 10,000 endpoints, once",
        time.as_secs_f64() * 1e3
    );
    for output in ["ps", "wide", "json", "jsonpath={.items[*].metadata.name}"] {
        measure(
            &format!(
                "get 10,000 endpoints -o {}",
                output.split('=').next().unwrap()
            ),
            || {
                let (time, text) = run(&etcd, &["get", "weps", "-A", "-o", output], "");
                assert!(text.contains("c9999"));
                time
            },
        );
    }
    let mut order = 0;
    measure("apply 1,000 policies, all new or changed", || {
        order += 1;
        let policies: String = (0..POLICIES).map(|i| policy(i, order)).collect();
        run(&etcd, &["apply", "-f", "-"], &policies).0
    });
    let same: String = (0..POLICIES).map(|i| policy(i, order)).collect();
    measure("apply 1,000 policies, none changed", || {
        run(&etcd, &["apply", "-f", "-"], &same).0
    });
    measure("diff of 1,000 policies", || {
        run(&etcd, &["diff", "-f", "-"], &same).0
    });
    let mut export = String::new();
    measure("datastore export, 11,000 keys", || {
        let (time, text) = run(&etcd, &["datastore", "export"], "");
        export = text;
        time
    });
    measure("datastore import, 11,000 keys", || {
        let empty = Etcd::start().unwrap();
        run(&empty, &["datastore", "import", "-f", "-"], &export).0
    });
}
