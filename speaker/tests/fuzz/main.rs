//! The speaker's own decoders against their corpora and many mutations of them: see `bgp/tests/fuzz`.

#[path = "../../../bgp/tests/fuzz/mutate.rs"]
mod mutate;
#[path = "../../../bgp/tests/fuzz/runs.rs"]
mod runs;
mod targets;

use std::path::Path;

use margay_speaker::decoders;
use targets::TARGETS;

fn fuzz(index: usize) {
    let (name, target) = TARGETS[index];
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    runs::fuzz(here, name, target, index as u64);
}

#[test]
fn router_adv() {
    fuzz(0);
}

#[test]
fn hand_over() {
    fuzz(1);
}

#[test]
fn every_target_has_a_libfuzzer_target() {
    runs::have_libfuzzer_targets(&TARGETS.map(|(name, _)| name));
}

/// Mutations of what is refused would find nothing.
#[test]
fn the_corpora_are_read() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (_, fields) in runs::corpus(here, "hand_over") {
        assert!(decoders::hand_over(&fields).is_some_and(|again| again == fields));
    }
    let all = runs::corpus(here, "router_adv");
    let routers = all
        .iter()
        .filter(|(_, message)| decoders::is_router(message));
    assert_eq!(routers.count(), 3);
}
