//! The program in a real shell and on a real terminal: completion, colours, widths; manual pages; and as a
//! plugin of kubectl.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod standin;

use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use standin::Standin;

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

/// A zsh in a terminal of its own: it is given the words and a tab, and must come to write `$3`.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "TERM=dumb; PROMPT=; fpath=($1 \$fpath); autoload -U compinit; compinit -u -D; print -r REA''DY"
while zpty -r z line; do [[ $line == *READY* ]] && break; done
zpty -w -n z "$2"$'\t'
while zpty -r z part "*$3*"; do [[ $part == *$3* ]] && break; done
print -r -- "$part"
zpty -d z
"#;

#[test]
fn zsh_completes_commands_flags_and_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("_margayctl");
    std::fs::write(file, out(&run(PROGRAM, &["completion", "zsh"]))).unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, ZSH).unwrap();
    for (words, whole) in [
        ("margayctl da", "margayctl datastore"),
        ("margayctl get ippo", "margayctl get ippools"),
        ("margayctl get --all-n", "margayctl get --all-namespaces"),
        ("margayctl datastore ex", "margayctl datastore export"),
    ] {
        let output = Command::new("timeout")
            .args(["60", "zsh", "-f"])
            .args([&script, folder.path()])
            .args([words, whole])
            .output()
            .unwrap();
        let said = out(&output);
        assert!(said.contains(whole), "{words}: {said:?}");
    }
}

#[test]
fn fish_offers_commands_flags_kinds_and_formats() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("margayctl.fish");
    std::fs::write(&file, out(&run(PROGRAM, &["completion", "fish"]))).unwrap();
    let offers = |words: &str| -> Vec<String> {
        let script = format!("source {}; complete -C '{words}'", file.display());
        let mut fish = Command::new("fish");
        // It keeps a history.
        fish.env("HOME", folder.path())
            .env("XDG_DATA_HOME", folder.path());
        let output = fish.args(["--no-config", "-c", &script]).output().unwrap();
        let word = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
        out(&output).lines().map(word).collect()
    };
    assert_eq!(offers("margayctl da"), ["datastore"]);
    assert_eq!(offers("margayctl get ippo"), ["ippools"]);
    assert_eq!(
        offers("margayctl delete globalnetworkp"),
        ["globalnetworkpolicies"]
    );
    assert_eq!(
        offers("margayctl get pools -o jso"),
        ["json", "jsonpath=", "jsonpath-file="]
    );
    assert_eq!(offers("margayctl get --all-n"), ["--all-namespaces"]);
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

/// Runs words on a terminal of 60 columns.
fn on_a_terminal(words: &str, env: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pools.yaml");
    let pool = "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: main}, spec: \
                {cidr: 10.65.0.0/16, nodeSelector: \"rack == 'a' && zone in {'north', 'south', 'west'}\"}}";
    std::fs::write(&file, pool).unwrap();
    let agent = Standin::start();
    let run = |program: &mut Command| {
        program
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("TERM", "xterm")
            .env("MARGAY_CONFIG", "/dev/null")
            .env("MARGAY_SOCKET", agent.socket())
            .envs(env.iter().copied())
            .output()
            .unwrap()
    };
    out(&run(Command::new(PROGRAM).args(["apply", "-f"]).arg(&file)));
    let line = format!("stty rows 24 cols 60; {PROGRAM} {words}");
    let typescript = agent.folder().join("typescript");
    let output = run(Command::new("script").args(["-qec", &line]).arg(typescript));
    String::from_utf8(output.stdout)
        .unwrap()
        .replace("\r\n", "\n")
}

#[test]
fn a_terminal_gets_colours_and_lines_that_fit_unless_it_wants_none() {
    let table = on_a_terminal("get pools", &[]);
    let heading = "NAME   CIDR           SELECTOR";
    let row = "main   10.65.0.0/16   rack == 'a' && zone in {'north', 'sou\u{2026}";
    assert_eq!(table, format!("\u{1b}[1m{heading}\u{1b}[0m\n{row}\n"));
    let plain = on_a_terminal("get pools", &[("NO_COLOR", "1")]);
    assert_eq!(plain, format!("{heading}\n{row}\n"));
    let failed = on_a_terminal("get pool nothing -o name", &[]);
    assert_eq!(
        failed,
        "\u{1b}[31mIPPool/nothing: does not exist\u{1b}[0m\n"
    );
    assert!(!on_a_terminal("get --help", &[("NO_COLOR", "1")]).contains('\u{1b}'));
    assert!(on_a_terminal("get --help", &[]).contains('\u{1b}'));
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
