//! The storm over address management in its short form, and the proof that its checker finds faults.
//! The full size is `make storm`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

/// `MARGAY_STORM_SEED` chooses another one.
const SEED: &str = "20261121";

fn storm(calls: &str, plant: &str) -> Output {
    let mut storm = Command::new(env!("CARGO_BIN_EXE_margay-ipam-storm"));
    // Memory is enough for a store that nobody unplugs.
    if std::path::Path::new("/dev/shm").is_dir() {
        storm.env("TMPDIR", "/dev/shm");
    }
    if std::env::var_os("MARGAY_STORM_SEED").is_none() {
        storm.env("MARGAY_STORM_SEED", SEED);
    }
    storm.args(["--calls", calls, "--plant", plant]);
    storm.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn no_address_is_held_twice_or_leaked_whatever_happens_to_agents_and_store() {
    let output = storm("4000", "nothing");
    let text = text(&output);
    println!("{text}");
    assert!(output.status.success(), "{text}");
    assert!(text.contains("every history explained"), "{text}");
}

/// Each fault with what the checker must say of it.
#[test]
fn the_checker_finds_planted_faults() {
    for (plant, finding) in [
        ("drop-compares", "without being released"),
        ("keep-endpoints", "the endpoint {"),
        ("false-commit", "the store had"),
        ("false-refusal", "the store gave it one"),
        ("early-lease", "its lease ends at"),
    ] {
        let output = storm("1500", plant);
        let text = text(&output);
        assert!(!output.status.success(), "{plant}: {text}");
        assert!(text.contains(finding), "{plant}: {text}");
    }
}
