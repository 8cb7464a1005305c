//! The conformance tables of docs/ name tests, which are there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all functions in the sources below these folders.
fn functions(folders: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let names = text.split("fn ").skip(1);
                let names = names.filter_map(|rest| Some(rest.split_once(['(', '<'])?.0));
                found.extend(names.map(str::to_owned));
            }
        }
    }
    found
}

/// What stands in backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_table_of_cni_names_exists_and_every_verb_has_some() {
    let known = functions(&[
        "agent/src/cni",
        "api/src",
        "cni-shim/src",
        "dataplane/src",
        "dataplane/tests",
        "tests/tests",
    ]);
    let text = fs::read_to_string(root().join("docs/cni.md")).unwrap();
    let (_, tables) = text.split_once("## The specification").unwrap();
    let mut verbs = BTreeSet::new();
    for row in tables.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        for name in quoted(cells[cells.len() - 1]) {
            assert!(known.contains(name), "there is no test {name}");
            verbs.insert(cells[0].trim());
        }
    }
    let wanted = "ADD DEL CHECK GC STATUS VERSION chain delegation";
    for verb in wanted.split(' ') {
        assert!(verbs.contains(verb), "no test for {verb}");
    }
}

#[test]
fn every_test_that_the_table_of_bgp_names_exists() {
    let known = functions(&[
        "agent/src",
        "bgp/src",
        "speaker/src",
        "speaker/tests",
        "speaker-daemon/tests",
        "tests/tests",
    ]);
    let text = fs::read_to_string(root().join("docs/bgp.md")).unwrap();
    let mut named = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        // Unit tests in the third column, those with others in the fourth.
        for name in row.split(" | ").skip(2).flat_map(quoted) {
            assert!(known.contains(name), "there is no test {name}");
            named += 1;
        }
    }
    assert!(named > 80, "{named} tests are named");
}
