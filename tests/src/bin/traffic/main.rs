//! Thousands of numbered packets a second through everything that must not cost one: `make traffic`.
#![expect(clippy::print_stdout, reason = "printing is what this is for")]

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use margay_lab::traffic::{SCENARIOS, Stage};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("traffic: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all was clean.
fn run() -> Result<bool> {
    // Interrupts are not caught: agents would inherit that, and could not be told to stop.
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces are for root: run it with sudo, or as make traffic"
    );
    let times = match std::env::args().nth(1) {
        Some(times) => times.parse().context("how many times each, a number")?,
        None => 5,
    };
    let mut stage = Stage::new()?;
    println!(
        "{:<44} {:>7} {:>9} {:>9} {:>9} {:>9} {:>6} {:>7}",
        "each so many times: ",
        "times",
        "packets/s",
        "allowed",
        "connected",
        "denied",
        "lost",
        "leaked"
    );
    let mut clean = true;
    for scenario in SCENARIOS {
        let account = scenario.run(&mut stage, times)?;
        println!(
            "{:<44} {:>7} {:>9.0} {:>9} {:>9} {:>9} {:>6} {:>7}",
            scenario.name,
            times,
            account.rate(),
            account.established.sent + account.new.sent,
            account.connections.sent,
            account.denied.sent,
            account.lost(),
            account.denied.arrived
        );
        clean &= account.ensure_clean(1).is_ok();
    }
    Ok(clean)
}
