//! `ipam check`.

use std::collections::BTreeSet;
use std::path::Path;

use margay_ipam::check::{
    AddressUse, Fault, Finding, Mended, Repair, Severity, Snapshot, When, confirmed, judge, look,
    mend, repair,
};

use crate::cli::IpamCheck;
use crate::context::Context;
use crate::failure::Fatal;
use crate::table::Table;
use crate::verbs::fatal;
use crate::verbs::ipam_report::Report;

/// How often repairs look again: what one repair uncovers, or somebody was faster at, is for the next.
const ROUNDS: usize = 10;

/// What a check found in the end.
struct Checked {
    snapshot: Snapshot,
    /// What is wrong still.
    left: Vec<Finding>,
    /// What was wrong and is repaired.
    repaired: Vec<Finding>,
}

/// Checks, repairs if asked for, and tells.
pub(crate) async fn check(args: &IpamCheck, context: &mut Context<'_>) -> Result<(), Fatal> {
    let when = When {
        now: context.client.now,
        grace_secs: args.grace,
    };
    let first = snapshot(context).await?;
    let found = judge(&first, when);
    let checked = match found.is_empty() {
        true => Checked {
            snapshot: first,
            left: found,
            repaired: Vec::new(),
        },
        false => look_again(args.repair, found, when, context).await?,
    };
    tell(args, &checked, context)?;
    if let Some(path) = &args.output {
        let report = Report::new(
            when.now,
            args.repair,
            checked.snapshot.summary(),
            &checked.left,
            &checked.repaired,
        );
        write(path, &report)?;
    }
    Ok(())
}

async fn snapshot(context: &Context<'_>) -> Result<Snapshot, Fatal> {
    let client = &context.client;
    let snapshot = look(&client.store, &client.keys).await;
    snapshot.map_err(|error| fatal(&error))
}

async fn look_again(
    repairs: bool,
    mut before: Vec<Finding>,
    when: When,
    context: &mut Context<'_>,
) -> Result<Checked, Fatal> {
    let mut repaired = Vec::new();
    let mut rounds = if repairs { ROUNDS } else { 1 };
    loop {
        rounds -= 1;
        tokio::time::sleep(context.look_again).await;
        let mut now = snapshot(context).await?;
        let all = judge(&now, when);
        let both = confirmed(&before, all.clone());
        let open = all.iter().any(|finding| may_repair(&now, finding, when));
        if !repairs || !open || rounds == 0 {
            return Ok(Checked {
                snapshot: now,
                left: both,
                repaired,
            });
        }
        repaired.extend(mend_all(&mut now, both, when, context).await?);
        before = all;
    }
}

fn is_problem(finding: &Finding) -> bool {
    finding.fault.severity() == Severity::Problem
}

fn may_repair(snapshot: &Snapshot, finding: &Finding, when: When) -> bool {
    is_problem(finding)
        && matches!(
            repair(snapshot, &finding.fault, when),
            Repair::Commit { .. }
        )
}

/// Mends what can be mended and gives what was.
async fn mend_all(
    snapshot: &mut Snapshot,
    findings: Vec<Finding>,
    when: When,
    context: &mut Context<'_>,
) -> Result<Vec<Finding>, Fatal> {
    let mut repaired = Vec::new();
    for finding in findings {
        let mended = mend(&context.client.store, snapshot, &finding, when).await;
        if let Mended::Done(deed) = mended.map_err(|error| fatal(&error))? {
            let line = format!("repaired: {}; did {deed}", finding.what);
            context.streams.say(&line.replace(['\n', '\r'], " "))?;
            repaired.push(finding);
        }
    }
    Ok(repaired)
}

fn tell(args: &IpamCheck, checked: &Checked, context: &mut Context<'_>) -> Result<(), Fatal> {
    let streams = &mut context.streams;
    let (problems, notes): (Vec<_>, Vec<_>) = checked.left.iter().partition(|f| is_problem(f));
    for finding in &problems {
        streams.say(&format!("problem: {}", finding.line()))?;
    }
    if args.show_problem_ips || args.show_all_ips {
        for finding in &notes {
            streams.say(&format!("note: {}", finding.line()))?;
        }
    }
    let all: Vec<AddressUse> = checked.snapshot.addresses().collect();
    if args.show_problem_ips {
        let table = problem_table(&all, &problems);
        streams.print(&format!("\n{}\n", table.render()))?;
    }
    if args.show_all_ips {
        streams.print(&format!("\n{}\n", address_table(&all).render()))?;
    }
    let sums = checked.snapshot.summary();
    streams.say(&format!(
        "Checked {} nodes, {} pools, {} blocks, {} handles: {} addresses in use ({} borrowed), {} resting.",
        sums.nodes, sums.pools, sums.blocks, sums.handles, sums.in_use, sums.borrowed, sums.resting
    ))?;
    let repaired = match checked.repaired.len() {
        0 => String::new(),
        n => format!(", {n} repaired"),
    };
    streams.say(&format!(
        "{} problems, {} notes{repaired}.",
        problems.len(),
        notes.len()
    ))?;
    streams.failed |= !problems.is_empty();
    Ok(())
}

fn problem_table(all: &[AddressUse], problems: &[&Finding]) -> Table {
    let mut table = Table::new(["IP", "PROBLEM", "BLOCK", "NODE", "HANDLE", "USED BY"]);
    let kinds: BTreeSet<(std::net::IpAddr, &'static str)> = problems
        .iter()
        .filter_map(|finding| Some((finding.fault.ip()?, finding.fault.kind())))
        .collect();
    for (ip, kind) in kinds {
        let held = all.iter().find(|address| address.ip == ip);
        let user = problems.iter().find_map(|finding| match &finding.fault {
            Fault::UsedUnrecorded { ip: of, user, .. } if *of == ip => Some(user.clone()),
            _ => None,
        });
        table.row([
            ip.to_string(),
            kind.to_owned(),
            held.map_or_else(String::new, |a| a.block.to_string()),
            held.and_then(|a| a.node.clone()).unwrap_or_default(),
            held.and_then(|a| a.handle.clone()).unwrap_or_default(),
            held.map_or_else(|| user.unwrap_or_default(), |a| a.users.join(", ")),
        ]);
    }
    table
}

fn address_table(all: &[AddressUse]) -> Table {
    let mut table = Table::new(["IP", "STATE", "BLOCK", "NODE", "HANDLE", "SINCE", "USED BY"]);
    for address in all {
        let state = match (&address.released_at, address.borrowed) {
            (Some(_), _) => "resting",
            (None, true) => "borrowed",
            (None, false) => "in use",
        };
        let since = address.since.map(|since| since.to_string());
        table.row([
            address.ip.to_string(),
            state.to_owned(),
            address.block.to_string(),
            address.node.clone().unwrap_or_default(),
            address.handle.clone().unwrap_or_default(),
            address.released_at.clone().or(since).unwrap_or_default(),
            address.users.join(", "),
        ]);
    }
    table
}

fn write(path: &Path, report: &Report) -> Result<(), Fatal> {
    let mut text = serde_json::to_string_pretty(report).map_err(std::io::Error::from)?;
    text.push('\n');
    std::fs::write(path, text).map_err(|error| Fatal::Usage(format!("{}: {error}", path.display())))
}
