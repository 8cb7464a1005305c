//! Every block of the documentation is run, read by what it is for, or named here with the reason why it cannot be.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use margay_lab::{binary, run};

use crate::{pages, root};

/// A block between fences.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) page: String,
    /// What stands behind the fence.
    pub(crate) kind: String,
    pub(crate) text: String,
}

/// All blocks of a page. Those in lists are moved to the margin.
pub(crate) fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let inside = lines.by_ref().take_while(|l| l.trim() != "```");
        let inside: Vec<_> = inside
            .map(|l| l.get(indent..).unwrap_or_default())
            .collect();
        found.push(Block {
            page: page.to_owned(),
            kind: kind.to_owned(),
            text: inside.join("\n") + "\n",
        });
    }
    found
}

/// Who takes a block for what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It is run, by the test of the book or of the README.
    Run,
    /// `margayctl validate`, here.
    Resources,
    /// BIRD reads it, here.
    Bird,
    /// FRR reads it, here.
    Frr,
    /// A test reads this page: its file, and what it says of it.
    By(&'static str, &'static str),
    /// Nobody can, and why.
    Never,
}

/// Blocks that nobody can take for what they are: page, beginning, reason.
const NEVER: [(&str, &str, &str); 7] = [
    ("README.md", "          AS 65000", "a drawing"),
    (
        "README.md",
        "make demo",
        "this test is part of the second, and the first is built of the same",
    ),
    ("docs/tor.md", "   router  AS", "a drawing"),
    (
        "docs/architecture.md",
        "             etcd --watch-->",
        "a drawing",
    ),
    (
        "docs/docker.md",
        "docker network create",
        "nginx cannot be fetched here; tests/tests/docker.rs does the same with an image of its own",
    ),
    (
        "docs/etcd.md",
        "export ETCDCTL",
        "it asks for a password; tests/tests/etcd_roles.rs runs the script, makes users and turns authentication on",
    ),
    (
        "docs/install/runtimes.md",
        "[network]",
        "a file of podman's; tests/tests/runtimes/podman.rs runs podman with the same and folders of its own",
    ),
];

fn taken(block: &Block) -> Option<Taken> {
    let (page, text) = (block.page.as_str(), block.text.as_str());
    let never = |(of, start, _): &(&str, &str, &str)| page == *of && text.starts_with(start);
    if NEVER.iter().any(never) {
        return Some(Taken::Never);
    }
    Some(match block.kind.as_str() {
        "sh lab" => Taken::Run,
        "sh" | "json" if page == "README.md" => Taken::Run,
        "" if text.starts_with("protocol bgp") => Taken::Bird,
        "" if text.starts_with("router bgp") => Taken::Frr,
        "text" if page == "docs/reference/cli.md" => {
            Taken::By("ctl/src/tests/reference.rs", "reference/cli.md")
        }
        "yaml" if text.contains("apiVersion: ") && !text.starts_with("namespaces:") => {
            Taken::Resources
        }
        "yaml" if page == "docs/bgp.md" => {
            Taken::By("speaker-daemon/tests/documented.rs", "docs/bgp.md")
        }
        "yaml" if page == "docs/margay-speaker.md" => {
            Taken::By("speaker-daemon/tests/daemon.rs", "docs/margay-speaker.md")
        }
        "yaml" if page == "docs/policy-test.md" => {
            Taken::By("ctl/src/tests/policy.rs", "docs/policy-test.md")
        }
        "yaml" => Taken::By("agent/src/config/documented.rs", "```yaml"),
        "json" if page == "docs/cni.md" => Taken::By("cni-shim/tests/documented.rs", "docs/cni.md"),
        "sh" if page == "docs/install/kubernetes.md" => {
            Taken::By("ctl/tests/shipping.rs", "docs/install/kubernetes.md")
        }
        _ => return None,
    })
}

#[test]
fn every_block_is_run_or_read_or_has_a_reason() -> Result<()> {
    let all: Vec<Block> = pages()?
        .iter()
        .flat_map(|(page, text)| blocks(page, text))
        .collect();
    let (mut ran, mut read) = (0, 0);
    for block in &all {
        let Block { page, kind, text } = block;
        let what = format!("{page}: the block of {kind:?} with\n{text}");
        match taken(block).with_context(|| format!("nobody takes {what}"))? {
            Taken::Run => ran += 1,
            Taken::Resources => with_input(binary("margayctl")?, &["validate", "-f", "-"], text)?,
            Taken::Bird => bird(text).context(what)?,
            Taken::Frr => frr(text).context(what)?,
            Taken::By(file, word) => {
                let test = fs::read_to_string(root().join(file))?;
                ensure!(test.contains(word), "{file} does not read {page}");
                read += 1;
            }
            Taken::Never => {}
        }
    }
    for (page, start, why) in NEVER {
        let is_there = |block: &Block| block.page == page && block.text.starts_with(start);
        ensure!(
            all.iter().any(is_there),
            "{page} has no {start:?} any more ({why})"
        );
    }
    ensure!(
        ran >= 20 && read >= 70,
        "{ran} are run, {read} are read by others"
    );
    Ok(())
}

fn with_input(program: impl AsRef<std::ffi::OsStr>, args: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    std::io::Write::write_all(&mut stdin, input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {error}\n{input}");
    Ok(())
}

/// With what every configuration of BIRD has.
fn bird(text: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("bird.conf");
    fs::write(
        &file,
        format!("router id 192.0.2.6; protocol device {{}}\n{text}"),
    )?;
    run(Command::new("bird").arg("-p").arg("-c").arg(file)).map(drop)
}

fn frr(text: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("frr.conf");
    fs::write(&file, text)?;
    run(Command::new("vtysh").arg("-C").arg("-f").arg(file)).map(drop)
}
