//! Every decoder against its corpus and many mutations of it, the same ones in every run.
//!
//! `fuzz/` at the top of the repository has the same functions as targets for libFuzzer; what it
//! finds is added to `corpus/TARGET/` here. `MARGAY_FUZZ_RUNS=n` makes this one go on for longer.

mod mutate;
mod runs;
mod targets;

use std::path::Path;

use targets::TARGETS;

fn fuzz(index: usize) {
    let (name, target) = TARGETS[index];
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    runs::fuzz(here, name, target, index as u64);
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
    runs::have_libfuzzer_targets(&TARGETS.map(|(name, _)| name));
    assert_eq!(TARGETS.len(), 10);
}
