//! Runs of a target, with its corpus and mutations of it, the same ones each time.

use std::{fs, panic, path::Path};

use crate::mutate::{Stream, mutate};

/// Executions of each target: a few seconds for all in a debug build.
const RUNS: u64 = 20_000;

/// The corpus of a target in the crate that is `here`, with names.
pub(crate) fn corpus(here: &Path, name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = here.join("tests/fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| {
            let path = entry.expect("the corpus can be read").path();
            let name = path.display().to_string();
            (name, fs::read(&path).expect("the corpus can be read"))
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no corpus");
    files
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|o| format!("{o:02x}")).collect()
}

/// Runs the target; on a panic the input that caused it is told.
fn try_out(name: &str, what: &str, target: fn(&[u8]), input: &[u8]) {
    // Why has been told by then.
    let survived = panic::catch_unwind(|| target(input)).is_ok();
    assert!(survived, "{name}: {what}: {}", hex(input));
}

/// Tries the corpus, and mutations that depend on `seed`.
pub(crate) fn fuzz(here: &Path, name: &str, target: fn(&[u8]), seed: u64) {
    let corpus = corpus(here, name);
    for (file, input) in &corpus {
        try_out(name, file, target, input);
    }
    let runs = std::env::var("MARGAY_FUZZ_RUNS").ok();
    let runs = runs.map_or(RUNS, |text| text.parse().expect("a number of runs"));
    let mut stream = Stream(seed);
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

/// Each has one in `fuzz/` at the top of the repository.
pub(crate) fn have_libfuzzer_targets(names: &[&str]) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("it is there");
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let source = fuzz.join(format!("fuzz_targets/{name}.rs"));
        assert!(source.exists(), "{}", source.display());
    }
}
