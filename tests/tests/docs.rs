//! The documentation, held against what there is.
//!
//! 1. The book's chapters are there, and links lead somewhere.
//! 2. The commands in blocks marked `sh lab` run as they stand, chapter by chapter, on a host with an agent.
//! 3. So do those of the README, on a machine of their own ([`readme`]).
//! 4. Every other block is read by what it is for, or it is said why it cannot be ([`blocks`]).
//! 5. Commands and files in sentences exist ([`inline`]).

#[path = "docs/blocks.rs"]
mod blocks;
#[path = "docs/inline.rs"]
mod inline;
#[path = "docs/readme.rs"]
mod readme;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use margay_lab::resources::pools_and_profile;
use margay_lab::{Cluster, Lab, NetNs, binary, eventually};

pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Chapters whose commands build on each other, in this order.
const CHAPTERS: [&str; 8] = [
    "install/hosts.md",
    "install/runtimes.md",
    "tor.md",
    "policy.md",
    "addresses.md",
    "watching.md",
    "troubleshooting.md",
    "migration.md",
];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn docs() -> PathBuf {
    root().join("docs")
}

/// Everything that is written for people, by its path in the repository.
pub(crate) fn pages() -> Result<Vec<(String, String)>> {
    let mut pages: Vec<_> = chapters()?
        .into_iter()
        .map(|(path, text)| (format!("docs/{}", path.display()), text))
        .collect();
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "deploy/tor/README.md",
    ] {
        pages.push((page.to_owned(), fs::read_to_string(root().join(page))?));
    }
    Ok(pages)
}

/// All chapters, by their path in the book.
fn chapters() -> Result<Vec<(PathBuf, String)>> {
    let mut folders = vec![docs()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                let text = fs::read_to_string(&path)?;
                found.push((path.strip_prefix(docs())?.to_owned(), text));
            }
        }
    }
    Ok(found)
}

/// What stands in the brackets of links: `](TARGET)`.
fn links(text: &str) -> Vec<&str> {
    let parts = text.split("](").skip(1);
    parts
        .filter_map(|rest| Some(rest.split_once(')')?.0))
        .collect()
}

#[test]
fn every_chapter_is_in_the_summary_and_every_link_leads_somewhere() -> Result<()> {
    let summary = fs::read_to_string(docs().join("SUMMARY.md"))?;
    let listed: BTreeSet<PathBuf> = links(&summary).into_iter().map(PathBuf::from).collect();
    let found = chapters()?;
    for (path, text) in &found {
        ensure!(
            path == Path::new("SUMMARY.md") || listed.contains(path),
            "{} is not in SUMMARY.md",
            path.display()
        );
        for link in links(text) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let folder = docs().join(path);
            let target = folder.parent().context("a folder")?.join(target);
            ensure!(target.is_file(), "{}: {link} leads nowhere", path.display());
        }
    }
    ensure!(
        found.len() > listed.len(),
        "a chapter of SUMMARY.md is missing"
    );
    Ok(())
}

/// The blocks of a chapter that are to be run.
fn commands(chapter: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(docs().join(chapter))?;
    let all = blocks::blocks(chapter, &text).into_iter();
    let commands: Vec<_> = all.filter(|b| b.kind == "sh lab").map(|b| b.text).collect();
    ensure!(!commands.is_empty(), "{chapter} has no commands");
    Ok(commands)
}

/// A shell on the host, with what the commands name.
fn shell(host: &NetNs, work: &Path, socket: &Path, lab: &str) -> Result<Command> {
    let bin = work.join("bin");
    fs::create_dir_all(&bin)?;
    let ctl = bin.join("margayctl");
    if !ctl.exists() {
        std::os::unix::fs::symlink(binary("margayctl")?, &ctl)?;
    }
    let plugin = binary("margay-cni")?;
    let plugins = plugin.parent().context("a folder")?;
    let mut command = host.command("bash");
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("MARGAY_SOCKET", socket)
        .env("MARGAY_CONFIG", "/dev/null")
        .env("CNI_BIN", plugins)
        .env("WORK", work)
        .env("TMPDIR", work)
        .env("LAB", format!("{lab}-"))
        .current_dir(work);
    Ok(command)
}

/// Namespaces that the commands make.
struct Left(Vec<String>);

impl Drop for Left {
    fn drop(&mut self) {
        for name in &self.0 {
            // It may not have come so far.
            drop(Command::new("ip").args(["netns", "del", name]).output());
        }
    }
}

#[test]
fn the_commands_of_the_book_run_as_they_stand() -> Result<()> {
    let marked: Vec<_> = chapters()?
        .into_iter()
        .filter(|(_, text)| text.contains("```sh lab"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    for chapter in &marked {
        let known = CHAPTERS.contains(&chapter.as_str()) || chapter == "introduction.md";
        ensure!(known, "the commands of {chapter} are not run");
    }
    let lab = Lab::new(1)?;
    let name = lab.name().to_owned();
    let _left = Left(vec![format!("{name}-c1"), format!("{name}-c2")]);
    let cluster = Cluster::start(lab, &[])?;
    let agent = &cluster.agents[0];
    let host = &cluster.lab.hosts[0];
    // The plugin finds the agent where it always is; here that is in the host's folder.
    let work = host.dir.join("book");
    fs::create_dir_all(work.join("manifests"))?;
    // What somebody has who comes from elsewhere.
    fs::write(work.join("manifests/pools.yaml"), pools_and_profile(false))?;
    for chapter in CHAPTERS {
        for block in commands(chapter)? {
            let block = block.replace(
                "\"type\": \"margay-cni\"",
                &format!(
                    "\"type\": \"margay-cni\", \"socket\": \"{}\"",
                    agent.socket().display()
                ),
            );
            let script = format!("set -euo pipefail\n{block}\n");
            let ran = || -> Result<()> {
                let mut command = shell(&host.netns, &work, &agent.socket(), &name)?;
                let output = command.args(["-c", &script]).output()?;
                if output.status.success() {
                    return Ok(());
                }
                let text = String::from_utf8_lossy(&output.stdout);
                let error = String::from_utf8_lossy(&output.stderr);
                bail!("{chapter}: {}\n{script}{text}{error}", output.status)
            };
            // What changes something is not tried twice; what asks may ask before the agent has heard.
            match block.contains("netns add") || block.contains("apply") {
                true => ran()?,
                false => eventually(SOON, chapter, ran)?,
            }
        }
    }
    Ok(())
}
