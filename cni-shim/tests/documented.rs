//! docs/cni.md shows a configuration, which is one, and names tests, which are there.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use serde_json::Value;

/// The names of all tests in the sources below `dir`: functions that a test list or an attribute may name.
fn functions(dir: &Path, found: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            functions(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path)?;
            let names = text.split("fn ").skip(1).filter_map(|rest| {
                let name = rest.split_once(['(', '<'])?.0;
                Some(name.to_owned())
            });
            found.extend(names);
        }
    }
    Ok(())
}

fn document() -> io::Result<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cni.md"))
}

#[test]
fn the_example_is_a_configuration() -> Result<(), Box<dyn std::error::Error>> {
    let text = document()?;
    let (_, rest) = text.split_once("```json\n").ok_or("there is no example")?;
    let (example, _) = rest.split_once("```").ok_or("the example has no end")?;
    let config: Value = serde_json::from_str(example)?;
    assert_eq!(config["type"], "margay-cni");
    Ok(())
}

#[test]
fn every_test_that_the_tables_name_exists_and_every_verb_has_some() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut known = BTreeSet::new();
    for dir in [
        "agent/src/cni",
        "api/src",
        "dataplane/src",
        "dataplane/tests",
        "tests/tests",
    ] {
        functions(&root.join(dir), &mut known)?;
    }
    let text = document()?;
    let (_, tables) = text.split_once("## The specification").unwrap_or_default();
    let mut verbs = BTreeSet::new();
    for row in tables.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let (Some(verb), Some(tests)) = (cells.first(), cells.last()) else {
            continue;
        };
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        for name in &names {
            assert!(known.contains(*name), "there is no test {name}");
        }
        if !names.is_empty() {
            verbs.insert(verb.trim().to_owned());
        }
    }
    for verb in [
        "ADD",
        "DEL",
        "CHECK",
        "GC",
        "STATUS",
        "VERSION",
        "chain",
        "delegation",
    ] {
        assert!(verbs.contains(verb), "no test for {verb}");
    }
    Ok(())
}
