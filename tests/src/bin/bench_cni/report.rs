//! The tables.

use std::time::Duration;

use crate::Options;
use crate::at_once::{AtOnce, Verb};
use crate::rounds::{Daemon, Growth, Paired, Requests, Series};

/// The share of the sorted values below it, in milliseconds.
fn percentile(values: &[Duration], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted
        .get(place)
        .map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
}

fn median(values: &[Duration]) -> f64 {
    percentile(values, 0.5)
}

/// Element by element.
fn sum(a: &[Duration], b: &[Duration]) -> Vec<Duration> {
    a.iter().zip(b).map(|(a, b)| *a + *b).collect()
}

fn row(what: &str, ours: &[Duration], theirs: &[Duration]) {
    let pair =
        |values: &[Duration]| format!("{:.2} / {:.2}", median(values), percentile(values, 0.9));
    println!(
        "| {what:<42} | {:>15} | {:>17} | {:>5.1} |",
        pair(ours),
        pair(theirs),
        median(theirs) / median(ours)
    );
}

pub(crate) fn paired(paired: &Paired, options: Options) {
    let Paired {
        ours,
        theirs,
        agent,
        etcd,
    } = paired;
    let families = if options.dual {
        "IPv4 and IPv6"
    } else {
        "IPv4"
    };
    println!(
        "\n{} rounds in turns, {families}, ms p50 / p90\n",
        options.rounds
    );
    println!(
        "| {:<42} | {:>15} | {:>17} | {:>5} |",
        "", "margay", "ptp + host-local", "ratio"
    );
    println!(
        "|{}|{}:|{}:|{}:|",
        "-".repeat(44),
        "-".repeat(16),
        "-".repeat(18),
        "-".repeat(6)
    );
    row("ADD, wall", &ours.add, &theirs.add);
    row(
        "ADD, CPU: plugins, agent",
        &sum(&ours.add_cpu, &agent.add),
        &theirs.add_cpu,
    );
    let with_etcd =
        |plugin: &[Duration], agent: &[Duration], etcd: &[Duration]| sum(&sum(plugin, agent), etcd);
    row(
        "ADD, CPU: plugins, agent, etcd",
        &with_etcd(&ours.add_cpu, &agent.add, &etcd.add),
        &theirs.add_cpu,
    );
    row("DEL, wall", &ours.del, &theirs.del);
    row(
        "DEL, CPU: plugins, agent",
        &sum(&ours.del_cpu, &agent.del),
        &theirs.del_cpu,
    );
    row(
        "DEL, CPU: plugins, agent, etcd",
        &with_etcd(&ours.del_cpu, &agent.del, &etcd.del),
        &theirs.del_cpu,
    );
    row(
        "first packet, to its answer",
        &ours.first_packet,
        &theirs.first_packet,
    );
    row("a later packet", &ours.later_packet, &theirs.later_packet);
    println!(
        "\nCPU ms p50: margay-cni ADD {:.2} DEL {:.2}",
        median(&ours.add_cpu),
        median(&ours.del_cpu)
    );
    daemon("margayd", agent);
    daemon("etcd", etcd);
}

fn daemon(name: &str, daemon: &Daemon) {
    println!(
        "CPU ms p50: {name} ADD {:.2} DEL {:.2}; over a container's whole life, with what follows the calls {:.2}",
        median(&daemon.add),
        median(&daemon.del),
        median(&daemon.round)
    );
}

pub(crate) fn at_once(all: &[AtOnce]) {
    println!(
        "\nso many callers at once: ms p50 / p90 of a call, calls a second, CPU ms a call (plugin and agent)\n"
    );
    println!("| callers | who | ADD | CHECK | DEL |");
    println!("|--:|---|--:|--:|--:|");
    for AtOnce {
        callers,
        who,
        add,
        check,
        del,
    } in all
    {
        let cell = |verb: &Verb| {
            if verb.walls.is_empty() {
                return "-".to_owned();
            }
            let (p50, p90) = (median(&verb.walls), percentile(&verb.walls, 0.9));
            let calls = verb.walls.len() as f64;
            let rate = calls / verb.elapsed.as_secs_f64();
            let cpu = verb.cpu.as_secs_f64() * 1e3 / calls;
            format!("{p50:.2} / {p90:.2}, {rate:.0}/s, {cpu:.2}")
        };
        println!(
            "| {callers} | {who} | {} | {} | {} |",
            cell(add),
            cell(check),
            cell(del)
        );
    }
}

pub(crate) fn requests(requests: &Requests) {
    println!("\netcd calls, counted by etcd:");
    for (verb, calls) in [("ADD", &requests.add), ("DEL", &requests.del)] {
        let calls: Vec<String> = calls
            .iter()
            .map(|(name, count)| format!("{name} {count:.2}"))
            .collect();
        println!("each {verb}: {}", calls.join(", "));
    }
}

pub(crate) fn growth(growth: &Growth) {
    let Growth {
        containers,
        memory: [idle, full],
        series,
        agent,
    } = growth;
    let Series {
        add,
        add_cpu,
        del,
        del_cpu,
        first_packet,
        ..
    } = series;
    println!("\nwith {containers} containers, ms p50 / p90:");
    for (what, values) in [
        ("ADD, wall", add),
        ("ADD, CPU: plugins, agent", &sum(add_cpu, &agent.add)),
        ("DEL, wall", del),
        ("DEL, CPU: plugins, agent", &sum(del_cpu, &agent.del)),
        ("first packet", first_packet),
    ] {
        println!(
            "{what}: {:.2} / {:.2}",
            median(values),
            percentile(values, 0.9)
        );
    }
    println!(
        "memory of margayd: {:.1} MB before, {:.1} MB with {containers} containers",
        *idle as f64 / 1e3 * 1.024,
        *full as f64 / 1e3 * 1.024
    );
}
