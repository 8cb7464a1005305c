//! How fast BGP speakers pass routes on, beside each other in one run: `margay-speaker`, BIRD, FRR and GoBGP, over
//! TCP on the loopback interface of a network namespace each. `make bench-bgp`.
//!
//! They take turns, so that whatever else the machine does hits all. Of each figure the table has the median of the
//! rounds. A run that ends with a wrong account at any receiver, or not in time, counts for nothing, is told, and is
//! not tried again.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what a benchmark does"
)]

mod dut;
mod meter;
mod scenario;
mod table;

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use margay_lab::NetNs;

use dut::Dut;
use meter::report::Report;
use scenario::Scenario;

/// What to run.
#[derive(Debug)]
struct Options {
    rounds: usize,
    /// One part in so many of each scenario.
    divisor: usize,
    /// Of a phase.
    timeout: Duration,
    scenarios: Vec<Scenario>,
    duts: Vec<Dut>,
    /// Where every run goes as a line of JSON.
    json: Option<File>,
}

/// One run.
struct Run {
    scenario: Scenario,
    dut: Dut,
    report: Report,
}

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-bgp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every run was in order.
fn measure() -> Result<bool> {
    margay_lab::catch_interrupts()?;
    let mut options = options()?;
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces are for root: run it with sudo, or as make bench-bgp"
    );
    for dut in &options.duts {
        eprintln!("{}: {}", dut.name(), dut.version()?);
    }
    let mut json = options.json.take();
    let mut runs = Vec::new();
    for round in 1..=options.rounds {
        for &scenario in &options.scenarios {
            for &dut in &options.duts {
                margay_lab::ensure_not_interrupted()?;
                let failed = |run: &Run| {
                    run.dut == dut && run.scenario == scenario && run.report.error.is_some()
                };
                if runs.iter().any(failed) {
                    // It would take its time to fail again.
                    continue;
                }
                let report = one(dut, scenario, &options)
                    .with_context(|| format!("{} {}", dut.name(), scenario.name()))?;
                note(json.as_mut(), round, dut, scenario, &report)?;
                runs.push(Run {
                    scenario,
                    dut,
                    report,
                });
            }
        }
    }
    table::print(&runs, &options);
    Ok(runs.iter().all(|run| run.report.error.is_none()))
}

/// A run in a namespace of its own.
fn one(dut: Dut, scenario: Scenario, options: &Options) -> Result<Report> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let netns = NetNs::new(format!("mgbgp{}-{number}", std::process::id()))?;
    // On loopback a whole prefix is local: the speaker and its peers take addresses from it.
    netns.ip(&format!("addr add {}/16 dev lo", meter::DUT))?;
    netns.sysctl("net.ipv4.tcp_max_syn_backlog", "4096")?;
    netns.sysctl("net.core.somaxconn", "4096")?;
    let dir = tempfile::tempdir()?;
    let mut opts = scenario.opts(options.divisor, options.timeout);
    let mut process = dut.start(&netns, &opts, dir.path())?;
    opts.dut_pid = Some(process.pid());
    let mut report = netns.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let local = tokio::task::LocalSet::new();
        Ok(local.block_on(&runtime, meter::run(opts)))
    })?;
    if let Some(error) = &mut report.error {
        error.push_str(&format!("; its last words: {}", process.log_tail(3)));
    }
    // It inherited our mask of signals, and has nothing to say goodbye to.
    process.kill()?;
    Ok(report)
}

/// Tells of a run as soon as it is done.
fn note(
    json: Option<&mut File>,
    round: usize,
    dut: Dut,
    scenario: Scenario,
    report: &Report,
) -> Result<()> {
    let phases: Vec<String> = report
        .phases
        .iter()
        .map(|p| {
            let cpu = p.dut_cpu_s.unwrap_or(f64::NAN);
            format!("{} {:.3} s ({cpu:.2} CPU s)", p.name, p.converged.max)
        })
        .collect();
    let verdict = report.error.as_deref().unwrap_or("in order");
    eprintln!(
        "round {round} {} {:<6} {}; {verdict}",
        scenario.name(),
        dut.name(),
        phases.join(", ")
    );
    if let Some(file) = json {
        let line = serde_json::json!({
            "round": round, "scenario": scenario.name(), "dut": dut.name(), "report": report,
        });
        writeln!(file, "{line}")?;
    }
    Ok(())
}

fn options() -> Result<Options> {
    let mut options = Options {
        rounds: 3,
        divisor: 1,
        timeout: Duration::from_secs(120),
        scenarios: Scenario::ALL.to_vec(),
        duts: Dut::ALL.to_vec(),
        json: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value"))
        };
        let number = |text: String| -> Result<usize> {
            let number: usize = text
                .parse()
                .with_context(|| format!("{text} is no number"))?;
            ensure!((1..=1000).contains(&number), "{number} is not 1 to 1000");
            Ok(number)
        };
        match word.as_str() {
            "--rounds" => options.rounds = number(value()?)?,
            "--divisor" => options.divisor = number(value()?)?,
            "--timeout" => options.timeout = Duration::from_secs(number(value()?)? as u64),
            "--scenarios" => {
                let named = |name: &str| {
                    Scenario::named(name).with_context(|| format!("{name} is none of S1 to S5"))
                };
                options.scenarios = value()?.split(',').map(named).collect::<Result<_>>()?;
            }
            "--speakers" => {
                let named = |name: &str| {
                    let found = Dut::ALL.into_iter().find(|d| d.name() == name);
                    found.with_context(|| format!("{name} is none of margay, bird, frr, gobgp"))
                };
                options.duts = value()?.split(',').map(named).collect::<Result<_>>()?;
            }
            "--json" => {
                let path = value()?;
                let file = File::create(&path).with_context(|| format!("cannot write {path}"))?;
                options.json = Some(file);
            }
            other => bail!(
                "unknown argument {other}, known are --rounds N, --divisor N, --timeout SECS, \
                 --scenarios S1,S2, --speakers margay,bird and --json FILE"
            ),
        }
    }
    Ok(options)
}
