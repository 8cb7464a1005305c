//! Configurations that the documentation and the package show are ones.

use std::fs;
use std::path::{Path, PathBuf};

use super::Config;

/// README, book, and what the package installs.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => pages.push(path),
            }
        }
    }
    pages
}

#[test]
fn every_configuration_that_is_shown_is_one() {
    let mut read = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let blocks = text.split("```yaml\n").skip(1);
        for block in blocks.filter_map(|rest| Some(rest.split_once("```")?.0)) {
            // Resources, files of margay-speaker, and cases for a test of policy.
            let others = ["apiVersion: ", "speaker:", "namespaces:"];
            if others.iter().any(|start| block.starts_with(start)) {
                continue;
            }
            Config::parse(block).unwrap_or_else(|e| panic!("{}: {e:#}\n{block}", page.display()));
            read += 1;
        }
    }
    assert!(read >= 5, "{read} are shown");
}

#[test]
fn the_packaged_configuration_is_one_with_each_of_its_choices() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/deb/margayd.yaml");
    let packaged = fs::read_to_string(file).unwrap();
    Config::parse(&packaged).unwrap();
    let chosen = packaged.replace("  type: embedded\n", "");
    let chosen: Vec<_> = chosen
        .lines()
        .map(|line| line.replacen('#', "", 1))
        .filter(|line| {
            line.trim()
                .split(' ')
                .next()
                .is_some_and(|word| word.ends_with(':'))
        })
        .collect();
    assert!(chosen.len() >= 9, "{chosen:#?}");
    Config::parse(&chosen.join("\n")).unwrap();
}
