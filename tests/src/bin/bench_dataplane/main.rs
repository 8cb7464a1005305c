//! How long it takes from a write to etcd until the kernel has it, how long a start takes, and what the agent needs of
//! memory and processor, on a host with 250 endpoints and sets of 10,000 members. Part of `make bench-dataplane`.
//!
//! With the word `handover`: how long BGP sessions pause while an agent with a million routes is reloaded.
//!
//! The kernel itself says when it has something: its events about our table are waited for. Nothing is asserted.
#![expect(clippy::print_stdout, reason = "printing is what a benchmark does")]

mod churn;
mod floor;
mod handover;
mod host;
mod latency;
mod usage;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};

use host::BenchHost;

/// Rounds of each kind of change.
const CHANGES: usize = 101;

/// Starts of each kind.
const STARTS: usize = 5;

/// How long the processor's time is looked at.
const WATCHED: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench-dataplane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    margay_lab::catch_interrupts()?;
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces are for root: run it with sudo, or as make bench-dataplane"
    );
    if std::env::args().nth(1).as_deref() == Some("handover") {
        return handover::run();
    }
    let mut host = BenchHost::start()?;
    println!(
        "{} endpoints, {} policies; medians, 90th percentiles in brackets",
        host::ENDPOINTS,
        host::POLICIES
    );
    starts(&mut host, "start")?;
    println!("{}", usage::of("idle", host.agent_pid()?, WATCHED)?);

    host.fill_sets()?;
    println!("\nwith two sets of {} members", host::MEMBERS);
    starts(&mut host, "start")?;
    println!("{}", usage::of("idle", host.agent_pid()?, WATCHED)?);
    let mut probe = latency::Probe::open(&host)?;
    println!("{}", probe.members(&host, CHANGES)?);
    println!("{}", probe.policies(&host, CHANGES)?);
    println!("{}", churn::run(&host, WATCHED)?);
    host.stop_agent()?;
    let mut probe = probe.anew(&host)?;
    println!("{}", floor::etcd(&host, CHANGES)?);
    println!("{}", floor::kernel(&host, &mut probe, CHANGES)?);

    host.fill_policies()?;
    println!("\nwith {} policies as well", host::MANY_POLICIES);
    starts(&mut host, "start")?;
    println!("{}", usage::of("idle", host.agent_pid()?, WATCHED)?);
    let mut probe = probe.anew(&host)?;
    println!("{}", probe.members(&host, CHANGES)?);
    println!("{}", probe.policies(&host, CHANGES)?);
    Ok(())
}

fn starts(host: &mut BenchHost, what: &str) -> Result<()> {
    for (how, clean) in [
        ("nothing in the kernel", true),
        ("all in the kernel", false),
    ] {
        let times = (0..STARTS)
            .map(|_| host.start_agent(clean))
            .collect::<Result<Vec<_>>>()?;
        println!("{what}, {how}: {}", latency::told(times));
    }
    Ok(())
}
