//! `docs/reference/cli.md`, which is written from the definitions of the command line.

use std::fmt::Write;
use std::path::Path;

use clap::{Command, CommandFactory};

use crate::cli::Cli;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/cli.md");

const HEAD: &str = "\
# The command line, verb by verb

Written from the definitions in `ctl/src/cli.rs`, by `UPDATE_GOLDEN=1 cargo test -p margay-ctl reference`. What is common
to all verbs (exit codes, settings, output formats) is in [The command line](../margayctl.md).
";

fn sections(command: &mut Command, text: &mut String) {
    let help = command.render_long_help().to_string();
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    writeln!(
        text,
        "\n## {name}\n\n```text\n{}\n```",
        lines.join("\n").trim_end()
    )
    .unwrap();
    for sub in command
        .get_subcommands_mut()
        .filter(|sub| !sub.is_hide_set())
    {
        sections(sub, text);
    }
}

#[test]
fn the_reference_says_what_the_definitions_say() {
    // Not for the width of whatever terminal the test runs on.
    let mut command = Cli::command().term_width(110);
    command.build();
    let mut text = HEAD.to_owned();
    sections(&mut command, &mut text);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(FILE, &text).unwrap();
    }
    let stored = std::fs::read_to_string(Path::new(FILE)).unwrap_or_default();
    assert!(
        stored == text,
        "docs/reference/cli.md is old: UPDATE_GOLDEN=1 cargo test -p margay-ctl reference"
    );
}
