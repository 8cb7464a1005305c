//! How long attaching, checking and detaching a container takes, beside the reference plugins `ptp` and `bridge` with
//! `host-local`, and beside the bare kernel, on the same host in the same run: wall clock, CPU, 1, 8 and 50 at once, first
//! packet, growth. `make bench-cni`.
//!
//! The two take turns, so that whatever else the machine does hits both. Nothing is asserted.
#![expect(clippy::print_stdout, reason = "printing is what a benchmark does")]

mod at_once;
mod call;
mod cpu;
mod host;
mod report;
mod rounds;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use host::BenchHost;

/// What to run.
#[derive(Clone, Copy, Debug)]
struct Options {
    /// Rounds that count, after the warm-up.
    rounds: usize,
    /// Containers present while growth is measured; 0 leaves that part out.
    containers: usize,
    /// An IPv6 address for each container as well.
    dual: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench-cni: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    margay_lab::catch_interrupts()?;
    let options = options()?;
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces are for root: run it with sudo, or as make bench-cni"
    );
    let host = BenchHost::start(options.dual)?;
    let paired = rounds::paired(&host, options.rounds)?;
    report::paired(&paired, options);
    report::at_once(&at_once::all(&host)?);
    report::requests(&rounds::requests(&host)?);
    if options.containers > 0 {
        report::growth(&rounds::growth(&host, options.containers)?);
    }
    Ok(())
}

fn options() -> Result<Options> {
    let mut options = Options {
        rounds: 40,
        containers: 250,
        dual: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<usize> {
            let text = words.next().context("a number is missing")?;
            text.parse()
                .with_context(|| format!("{text} is not a number"))
        };
        match word.as_str() {
            "--rounds" => options.rounds = number()?.max(1),
            "--containers" => options.containers = number()?,
            "--dual" => options.dual = true,
            other => {
                bail!("unknown argument {other}, known are --rounds N, --containers N and --dual")
            }
        }
    }
    Ok(options)
}
