#![no_main]

#[path = "../../speaker/tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| targets::router_adv(octets));
