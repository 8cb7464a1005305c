//! Commands within sentences and tables: there are such verbs, flags, targets of make and files.

use std::process::Command;

use anyhow::{Result, ensure};
use margay_lab::binary;

use crate::{pages, root};

/// What stands in backquotes outside of blocks, and belongs together even where a line ends in it.
fn quoted(text: &str) -> Vec<String> {
    let mut outside = String::new();
    let mut inside = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            outside += line;
            outside.push(' ');
        }
    }
    let parts = outside.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

fn is_word(token: &&str) -> bool {
    token.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !token.starts_with('-')
}

/// The help of as many of these words as name a verb.
fn help(words: &[&str]) -> Result<Option<String>> {
    for length in (1..=words.len()).rev() {
        let mut command = Command::new(binary("margayctl")?);
        let output = command.args(&words[..length]).arg("--help").output()?;
        if output.status.success() {
            return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
        }
    }
    Ok(None)
}

/// A command as it stands in a sentence: its verb is one, and has these flags.
fn is_command(command: &str) -> Result<()> {
    // Alternatives stand beside each other.
    let plain = command.replace(['[', ']'], " ");
    let tokens = plain.split_whitespace().skip(1);
    let tokens: Vec<&str> = tokens.map(|t| t.split('|').next().unwrap_or(t)).collect();
    let words: Vec<&str> = tokens.iter().copied().take_while(is_word).collect();
    if tokens.first() == Some(&"VERB") {
        return Ok(());
    }
    let help = help(&words)?;
    let Some(help) = help else {
        anyhow::bail!("there is no such verb");
    };
    for flag in tokens.iter().filter(|token| token.starts_with('-')) {
        let flag = flag.split('=').next().unwrap_or(flag);
        let known = help.split([' ', ',', '\n', '=']).any(|word| word == flag);
        ensure!(known, "it has no {flag}:\n{help}");
    }
    Ok(())
}

#[test]
fn commands_in_sentences_are_ones() -> Result<()> {
    let makefile = std::fs::read_to_string(root().join("Makefile"))?;
    let (mut commands, mut files) = (0, 0);
    for (page, text) in pages()? {
        for code in quoted(&text) {
            if code.starts_with("margayctl ") {
                is_command(&code).map_err(|e| e.context(format!("{page}: `{code}`")))?;
                commands += 1;
            }
            if let Some(targets) = code.strip_prefix("make ") {
                for target in targets.split(' ').filter(is_word) {
                    let known = makefile.contains(&format!("\n{target}:"));
                    ensure!(known, "{page}: `{code}`: the Makefile has no {target}");
                    commands += 1;
                }
            }
            let is_path = |dir: &&str| code.starts_with(*dir);
            if ["scripts/", "deploy/", "docs/", "tests/tests/"]
                .iter()
                .any(is_path)
            {
                let path = code.split(' ').next().unwrap_or(&code);
                let there = path.contains('*') || root().join(path).exists();
                ensure!(there, "{page}: there is no {path}");
                files += 1;
            }
        }
    }
    ensure!(
        commands > 50 && files > 15,
        "{commands} commands, {files} files"
    );
    Ok(())
}
