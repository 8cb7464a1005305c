//! Every example of every help text, run as it stands: in a shell, against an embedded store that a
//! stand-in for the agent serves.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod standin;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use standin::Standin;

const PROGRAM: &str = env!("CARGO_BIN_EXE_margayctl");

/// What the examples speak of.
const CLUSTER: &str = r#"
{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: main}, spec: {cidr: 10.65.0.0/16}}
---
{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: rack1-tor}, spec: {peerIP: 192.0.2.1, asNumber: 65000}}
---
{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n1}, spec: {bgp: {ipv4Address: 192.0.2.5/30}}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: base}, spec: {ingress: [{action: Allow}]}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: allow-dns, namespace: production}, spec: {egress: [{action: Allow, protocol: UDP, destination: {ports: [53]}}]}}
"#;

const POLICY: &str = r#"
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: new}, spec: {selector: "app == 'web'", types: [Ingress]}}
"#;

const KUBERNETES: &str = r#"
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: k, namespace: production}, spec: {podSelector: {}, policyTypes: [Ingress]}}
"#;

/// Examples that need more than a stand-in: a cluster at work, files of their own, or an agent that
/// answers more than its status. They are read as wrong usage if they are.
const ELSEWHERE: [&str; 7] = [
    "policy",
    "bgp",
    "ipam",
    "selector",
    "trace",
    "connectivity",
    "flows",
];

/// Examples whose exit code says what was found, and not that something failed.
const FINDS: [(&str, &[i32]); 4] = [
    ("diff ", &[0, 1]),
    ("doctor", &[0, 1]),
    ("node checksystem", &[0, 1]),
    ("top --node n1 --view rules", &[0, 1]),
];

fn help(words: &[String]) -> String {
    let output = Command::new(PROGRAM)
        .args(words)
        .arg("--help")
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The lines below a heading, up to an empty one.
fn below<'h>(help: &'h str, heading: &str) -> Vec<&'h str> {
    let lines = help.lines().skip_while(|line| *line != heading).skip(1);
    lines.take_while(|line| line.starts_with("  ")).collect()
}

/// Every command, and its help.
fn commands(words: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let help = help(words);
    for line in below(&help, "Commands:") {
        // A description may go on in a line that is indented further.
        if let Some(name) = line
            .strip_prefix("  ")
            .filter(|rest| !rest.starts_with(' '))
        {
            let name = name.split_whitespace().next().unwrap();
            let words: Vec<_> = words.iter().cloned().chain([name.to_owned()]).collect();
            commands(&words, found);
        }
    }
    found.push((words.to_vec(), help));
}

/// A folder with what the examples name, and the programs that they use.
fn workshop(folder: &Path) {
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    fs::create_dir(folder.join("bin")).unwrap();
    fs::create_dir(folder.join("manifests")).unwrap();
    write("policy.yaml", POLICY);
    write("manifests/a.yaml", CLUSTER);
    write("networkpolicy.yaml", KUBERNETES);
    write("pools.yaml", CLUSTER.split("---").next().unwrap());
    write(
        "bin/kubectl",
        &format!("#!/bin/sh\ncat <<'EOF'\n{POLICY}EOF\n"),
    );
    fs::set_permissions(
        folder.join("bin/kubectl"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    symlink(PROGRAM, folder.join("bin/margayctl")).unwrap();
}

fn shell(line: &str, stdin: &str, folder: &Path, socket: &Path) -> Output {
    let path = format!(
        "{}:{}",
        folder.join("bin").display(),
        std::env::var("PATH").unwrap()
    );
    let mut child = Command::new("timeout")
        .args([
            "--preserve-status",
            "-s",
            "KILL",
            "60",
            "bash",
            "--norc",
            "-c",
            line,
        ])
        .current_dir(folder)
        .env_clear()
        .env("PATH", path)
        .env("TMPDIR", folder)
        .env("MARGAY_CONFIG", "/dev/null")
        .env("MARGAY_SOCKET", socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
    child.wait_with_output().unwrap()
}

/// Runs an example in a cluster of its own; what is wrong with it.
fn wrong(line: &str) -> Option<String> {
    let agent = Standin::start();
    let folder = agent.folder().join("work");
    fs::create_dir(&folder).unwrap();
    workshop(&folder);
    let seeded = shell("margayctl apply -f -", CLUSTER, &folder, &agent.socket());
    assert!(seeded.status.success(), "{seeded:?}");
    // An import needs an export, and an empty store to go to.
    let exported = shell(
        "margayctl datastore export -o cluster.export",
        "",
        &folder,
        &agent.socket(),
    );
    assert!(exported.status.success(), "{exported:?}");
    let empty = Standin::start();
    let agent = if line.contains("import") {
        empty
    } else {
        agent
    };
    // What goes on until it is interrupted is interrupted.
    let endless = line.contains("--watch") || line.contains("--follow");
    let run = if endless {
        format!("timeout -s INT 3 {line}; test $? = 124")
    } else {
        line.to_owned()
    };
    let output = shell(&run, POLICY, &folder, &agent.socket());
    let code = output.status.code().unwrap_or(-1);
    let words = line.strip_prefix("margayctl ").unwrap_or(line);
    let allowed = FINDS.iter().find(|(begin, _)| words.starts_with(begin));
    let elsewhere = ELSEWHERE
        .iter()
        .any(|verb| words.split(' ').next() == Some(verb));
    let right = match allowed {
        Some((_, codes)) => codes.contains(&code),
        None if elsewhere => !String::from_utf8_lossy(&output.stderr).contains("Usage:"),
        None => code == 0,
    };
    (!right).then(|| {
        format!(
            "{line}\n  exit code {code}\n  {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

#[test]
fn every_example_of_every_help_does_what_it_says() {
    let mut found = Vec::new();
    commands(&[], &mut found);
    assert!(found.len() > 40, "{} commands", found.len());
    let mut lines = Vec::new();
    for (words, help) in &found {
        let examples: Vec<_> = ["Example:", "Examples:"]
            .iter()
            .flat_map(|h| below(help, h))
            .collect();
        let has_below = help.contains("\nCommands:\n");
        assert!(
            !examples.is_empty() || has_below,
            "{words:?} has no example: {help}"
        );
        lines.extend(examples.into_iter().map(|line| line.trim().to_owned()));
    }
    lines.sort();
    lines.dedup();
    assert!(lines.len() > 35, "{lines:#?}");
    let lines = std::sync::Mutex::new(lines.into_iter());
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(line) = lines.lock().unwrap().next() else {
                        return;
                    };
                    failed.lock().unwrap().extend(wrong(&line));
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_watch_goes_on_until_it_is_interrupted() {
    let agent = Standin::start();
    let mut child = Command::new(PROGRAM)
        .args(["get", "pools", "--watch", "-o", "name"])
        .env_clear()
        .env("MARGAY_CONFIG", "/dev/null")
        .env("MARGAY_SOCKET", agent.socket())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let folder = agent.folder().join("work");
    fs::create_dir(&folder).unwrap();
    workshop(&folder);
    let applied = shell(
        "margayctl apply -f pools.yaml",
        "",
        &folder,
        &agent.socket(),
    );
    assert!(applied.status.success(), "{applied:?}");
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ippool/main\n");
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
}
