//! Packets flow between two containers of a host while everything happens that must not cost one: no allowed packet is
//! lost and no denied one let through. `make traffic` does the same for longer.

use margay_lab::traffic::{SCENARIOS, Stage};

/// Of each kind, on a machine that is busy.
const ENOUGH: u64 = 100;

#[test]
fn no_packet_is_lost_or_let_through() {
    let mut stage = Stage::new().unwrap();
    for scenario in SCENARIOS {
        let account = scenario.run(&mut stage, 1).unwrap();
        if let Err(error) = account.ensure_clean(ENOUGH) {
            panic!("{}: {error:#}", scenario.name);
        }
    }
}
