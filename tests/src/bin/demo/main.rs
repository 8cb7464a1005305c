//! The demo: containers on several hosts reach each other and the rack, routed by BGP, in network
//! namespaces of this machine. `--hosts 1` is the short form, `--keep` leaves the lab up.
#![expect(clippy::print_stdout, reason = "printing is what a demo does")]

mod keep;
mod matrix;
mod one_host;
mod report;
mod scenario;
mod three_hosts;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use report::Report;

struct Options {
    hosts: u8,
    keep: bool,
}

fn main() -> ExitCode {
    let mut report = Report::new();
    if let Err(error) = run(&mut report) {
        println!("\ndemo: {error:#}");
        report.finish();
        return ExitCode::FAILURE;
    }
    if report.finish() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(report: &mut Report) -> Result<()> {
    margay_lab::catch_interrupts()?;
    let options = options()?;
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces are for root: run it with sudo, or as make demo"
    );
    match options.hosts {
        1 => one_host::run(report, options.keep),
        hosts => three_hosts::run(report, hosts, options.keep),
    }
}

fn options() -> Result<Options> {
    let mut options = Options {
        hosts: 3,
        keep: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--keep" => options.keep = true,
            "--hosts" => {
                let count = words.next().context("--hosts needs a number")?;
                options.hosts = count
                    .parse()
                    .ok()
                    .filter(|n| (1..=8).contains(n))
                    .with_context(|| format!("--hosts {count}: 1 to 8 hosts are possible"))?;
            }
            other => bail!("unknown argument {other}, known are --hosts N and --keep"),
        }
    }
    Ok(options)
}
