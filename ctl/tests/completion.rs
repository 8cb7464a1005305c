//! Completion in a real shell, manual pages, and the program as a plugin of kubectl.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::os::unix::fs::symlink;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_margayctl");

fn run(program: &str, words: &[&str]) -> Output {
    Command::new(program)
        .args(words)
        .env_clear()
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What bash offers for the last of these words.
fn bash(words: &[&str]) -> Vec<String> {
    let script = format!(
        "source <({PROGRAM} completion bash)\n\
         COMP_WORDS=({})\nCOMP_CWORD={}\n\
         _margayctl margayctl \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words
            .iter()
            .map(|word| format!("'{word}'"))
            .collect::<Vec<_>>()
            .join(" "),
        words.len() - 1
    );
    let output = Command::new("bash")
        .args(["--norc", "-c", &script])
        .output()
        .unwrap();
    out(&output).lines().map(str::to_owned).collect()
}

#[test]
fn bash_offers_commands_flags_and_kinds() {
    assert_eq!(bash(&["margayctl", "da"]), ["datastore"]);
    assert_eq!(bash(&["margayctl", "get", "ippo"]), ["ippools"]);
    assert_eq!(
        bash(&["margayctl", "delete", "globalnetworkp"]),
        ["globalnetworkpolicies"]
    );
    assert_eq!(
        bash(&["margayctl", "get", "pools", "-o", "jso"]),
        ["json", "jsonpath=", "jsonpath-file="]
    );
    assert_eq!(bash(&["margayctl", "get", "--all-n"]), ["--all-namespaces"]);
    assert_eq!(bash(&["margayctl", "datastore", "ex"]), ["export"]);
}

#[test]
fn zsh_and_fish_get_theirs() {
    let zsh = out(&run(PROGRAM, &["completion", "zsh"]));
    assert!(
        zsh.starts_with("#compdef margayctl") && zsh.contains("ippools"),
        "{zsh}"
    );
    let fish = out(&run(PROGRAM, &["completion", "fish"]));
    assert!(
        fish.contains("complete -c margayctl") && fish.contains("ippools"),
        "{fish}"
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("man1");
    out(&run(PROGRAM, &["man", path.to_str().unwrap()]));
    for (page, text) in [
        ("margayctl.1", "Exit codes"),
        ("margayctl-get.1", "custom\\-columns"),
        ("margayctl-datastore-import.1", "margayctl datastore import"),
        ("margayctl-node-checksystem.1", "kernel\\-config"),
    ] {
        let found = std::fs::read_to_string(path.join(page)).unwrap();
        assert!(
            found.contains(".SH NAME") && found.contains(text),
            "{page}: {found}"
        );
    }
}

#[test]
fn as_a_plugin_it_speaks_of_itself_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("kubectl-margay");
    symlink(PROGRAM, &plugin).unwrap();
    let help = out(&run(plugin.to_str().unwrap(), &["get", "--help"]));
    assert!(help.contains("Usage: kubectl margay get"), "{help}");
    assert!(
        help.contains("  kubectl margay get ippools -o wide\n"),
        "{help}"
    );
    assert!(
        !help.replace("margayctl.cfg", "").contains("margayctl"),
        "{help}"
    );
    let asked = folder.path().join("kubectl_complete-margay");
    symlink(PROGRAM, &asked).unwrap();
    assert_eq!(
        out(&run(asked.to_str().unwrap(), &["get", "bgpp"])),
        "bgppeers\n:4\n"
    );
}
