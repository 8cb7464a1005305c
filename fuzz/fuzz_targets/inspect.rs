#![no_main]

#[path = "../../bgp/tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| targets::inspection(octets));
