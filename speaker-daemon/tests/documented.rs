//! docs/bgp.md shows a configuration, which is one, and names tests, which are there.

use std::{collections::BTreeSet, fs, io, path::Path};

use margay_speaker::DaemonConfig;

/// The names of all functions in the sources below `dir`.
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

#[test]
fn the_example_is_a_configuration() -> Result<(), Box<dyn std::error::Error>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bgp.md"))?;
    let (_, rest) = text.split_once("```yaml\n").ok_or("there is no example")?;
    let (example, _) = rest.split_once("```").ok_or("the example has no end")?;
    let config: DaemonConfig = example.parse()?;
    config.speaker.validate()?;
    assert_eq!(
        (config.speaker.peers.len(), config.speaker.dynamic.len()),
        (4, 1)
    );
    Ok(())
}

#[test]
fn every_test_that_the_table_names_exists() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut known = BTreeSet::new();
    for dir in [
        "agent/src",
        "bgp/src",
        "speaker/src",
        "speaker/tests",
        "speaker-daemon/tests",
        "tests/tests",
    ] {
        functions(&root.join(dir), &mut known)?;
    }
    let text = fs::read_to_string(root.join("docs/bgp.md"))?;
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let mut named = 0;
    for row in rows {
        // Unit tests in the third column, those with others in the fourth.
        let cells = row.split(" | ").skip(2);
        for name in cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
            assert!(known.contains(name), "there is no test {name}");
            named += 1;
        }
    }
    assert!(named > 80, "{named} tests are named");
    Ok(())
}
