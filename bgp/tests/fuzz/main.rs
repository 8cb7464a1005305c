//! Every decoder against its corpus and many mutations of it, the same ones in every run.
//!
//! `fuzz/` at the top of the repository has the same functions as targets for libFuzzer; what it
//! finds is added to `corpus/TARGET/` here. `MARGAY_FUZZ_RUNS=n` makes this one go on for longer.

mod mutate;
mod targets;

use std::{fs, panic, path::PathBuf};

use mutate::{Stream, mutate};
use targets::{TARGETS, Target};

/// Executions of each target: a few seconds for all in a debug build.
const RUNS: u64 = 20_000;

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| {
            let path = entry.expect("the corpus can be read").path();
            let name = path.display().to_string();
            (name, fs::read(&path).expect("the corpus can be read"))
        })
        .collect();
    files.sort();
    files
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|o| format!("{o:02x}")).collect()
}

/// Runs the target; on a panic the input that caused it is told.
fn try_out(name: &str, what: &str, target: Target, input: &[u8]) {
    // Why has been told by then.
    let survived = panic::catch_unwind(|| target(input)).is_ok();
    assert!(survived, "{name}: {what}: {}", hex(input));
}

fn fuzz(index: usize) {
    let (name, target) = TARGETS[index];
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    for (file, input) in &corpus {
        try_out(name, file, target, input);
    }
    let runs = std::env::var("MARGAY_FUZZ_RUNS").ok();
    let runs = runs.map_or(RUNS, |text| text.parse().expect("a number of runs"));
    let mut stream = Stream(index as u64);
    for run in 0..runs {
        let pick = |stream: &mut Stream| {
            let at = stream.next() % corpus.len() as u64;
            &corpus[at as usize].1
        };
        let mut input = pick(&mut stream).clone();
        let other = pick(&mut stream);
        mutate(&mut input, other, &mut stream);
        try_out(name, &format!("mutation {run}"), target, &input);
    }
}

macro_rules! fuzz_tests {
    ($($name:ident = $index:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            assert_eq!(TARGETS[$index].0, stringify!($name));
            fuzz($index);
        })*
    };
}

fuzz_tests! {
    stream = 0, open = 1, notification = 2, refresh = 3, attributes = 4, update = 5, nlri = 6,
    next_hop = 7, bfd = 8, inspect = 9,
}

#[test]
fn every_target_is_tested_and_has_a_libfuzzer_target() {
    let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let source = fuzz.join(format!("fuzz_targets/{name}.rs"));
        assert!(source.exists(), "{}", source.display());
    }
    assert_eq!(TARGETS.len(), 10);
}
