//! The tables: a row a figure, a column a speaker, medians of the rounds.

use crate::dut::Dut;
use crate::meter::report::{Latency, Phase, Report, quantile};
use crate::scenario::Scenario;
use crate::{Options, Run};

/// A figure of a run, `None` where the run has none.
type Figure = Box<dyn Fn(&Report) -> Option<f64>>;

pub(crate) fn print(runs: &[Run], options: &Options) {
    for &scenario in &options.scenarios {
        println!(
            "\n### {}: {}\n",
            scenario.name(),
            scenario.title(options.divisor)
        );
        let names: Vec<String> = options.duts.iter().map(|d| d.name().to_owned()).collect();
        println!(
            "| median of {} | {} | best other / margay |",
            options.rounds,
            names.join(" | ")
        );
        println!("|---|{}", "--:|".repeat(names.len() + 1));
        for (what, digits, figure) in figures(scenario) {
            row(&what, digits, &figure, scenario, runs, options);
        }
    }
    let foreign: Vec<f64> = sorted(
        runs.iter()
            .flat_map(|run| run.report.phases.iter().map(|p| p.foreign_cpu)),
    );
    println!(
        "\nOther work took {:.2} cores in the median of all phases, {:.2} at most.",
        quantile(&foreign, 0.5),
        quantile(&foreign, 1.0)
    );
    for run in runs {
        if let Some(error) = &run.report.error {
            let error: String = error.chars().take(300).collect();
            println!(
                "\nnot counted: {} {}: {error}",
                run.scenario.name(),
                run.dut.name()
            );
        }
    }
}

fn row(
    what: &str,
    digits: usize,
    figure: &Figure,
    scenario: Scenario,
    runs: &[Run],
    options: &Options,
) {
    let median = |dut: Dut| -> Option<f64> {
        let of_dut = runs
            .iter()
            .filter(|r| r.dut == dut && r.scenario == scenario && r.report.error.is_none());
        let values = sorted(of_dut.filter_map(|r| figure(&r.report)));
        (!values.is_empty()).then(|| quantile(&values, 0.5))
    };
    let medians: Vec<(Dut, Option<f64>)> = options.duts.iter().map(|&d| (d, median(d))).collect();
    let cells: Vec<String> = medians
        .iter()
        .map(|(_, m)| m.map_or("–".to_owned(), |m| format!("{m:.digits$}")))
        .collect();
    let ours = medians
        .iter()
        .find(|(d, _)| *d == Dut::Margay)
        .and_then(|(_, m)| *m);
    let others = medians.iter().filter(|(d, _)| *d != Dut::Margay);
    let best = others.filter_map(|(_, m)| *m).min_by(f64::total_cmp);
    let ratio = match (ours, best) {
        (Some(ours), Some(best)) if ours > 0.0 => format!("{:.1}", best / ours),
        _ => "–".to_owned(),
    };
    println!("| {what} | {} | {ratio} |", cells.join(" | "));
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// What the table of a scenario tells, with the digits that mean something.
fn figures(scenario: Scenario) -> Vec<(String, usize, Figure)> {
    let mut all: Vec<(String, usize, Figure)> = Vec::new();
    if scenario == Scenario::S5 {
        all.extend(single_routes());
    }
    let mut phases = vec!["announce"];
    if scenario == Scenario::S3 {
        phases.push("late-join");
    }
    if scenario != Scenario::S5 {
        phases.extend(["withdraw", "re-announce"]);
    }
    for name in phases {
        all.push((
            format!("{name}, s"),
            3,
            phase(name, |p| Some(p.converged.max)),
        ));
        all.push((format!("{name}, CPU s"), 2, phase(name, |p| p.dut_cpu_s)));
    }
    if scenario == Scenario::S2 {
        let per_prefix: Figure = Box::new(|r| {
            let p = r.phase("announce")?;
            let heard = p.converged.n * r.distinct;
            Some(p.counts.announced as f64 / heard.max(1) as f64)
        });
        all.push((
            "announcements a prefix and receiver".to_owned(),
            2,
            per_prefix,
        ));
    }
    all.push((
        "all sessions up, s".to_owned(),
        3,
        Box::new(|r| Some(r.sessions_all_s)),
    ));
    all.push((
        "memory with the table, MiB".to_owned(),
        1,
        phase("announce", |p| p.dut.map(|u| u.rss_kib as f64 / 1024.0)),
    ));
    all.push((
        "peak memory, MiB".to_owned(),
        1,
        Box::new(|r| r.end.map(|u| u.peak_kib as f64 / 1024.0)),
    ));
    all
}

/// How long one change takes, and what it costs.
fn single_routes() -> Vec<(String, usize, Figure)> {
    let mut all: Vec<(String, usize, Figure)> = Vec::new();
    for (change, of) in [
        (
            "announced",
            (|l| &l.announce_first) as fn(&Latency) -> &Vec<f64>,
        ),
        ("withdrawn", |l| &l.withdraw_first),
    ] {
        for (what, q) in [("p50", 0.5), ("p99", 0.99)] {
            let figure: Figure = Box::new(move |r| r.latency.as_ref().map(|l| quantile(of(l), q)));
            all.push((format!("one route {change}, {what} µs"), 0, figure));
        }
    }
    let cpu: Figure = Box::new(|r| {
        let l = r.latency.as_ref()?;
        let changes = l.announce_first.len() + l.withdraw_first.len();
        Some(l.dut_cpu_s? * 1e6 / changes.max(1) as f64)
    });
    all.push(("one change, CPU µs".to_owned(), 0, cpu));
    all
}

fn phase(name: &'static str, figure: impl Fn(&Phase) -> Option<f64> + 'static) -> Figure {
    Box::new(move |report| figure(report.phase(name)?))
}
