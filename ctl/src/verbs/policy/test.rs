//! `policy test`.

use std::path::{Path, PathBuf};

use clap::Args;
use margay_policy::explain::Verdict;
use serde_json::{Value, json};

use super::cases::{Case, Expect, Suite};
use super::cluster::{self, Cluster};
use super::decision::Decision;
use super::traffic::Traffic;
use super::words::packet_text;
use crate::cli::StatusOutput;
use crate::context::Streams;
use crate::failure::Fatal;
use crate::files;
use crate::verbs::selector::print_json;

pub(crate) const HELP: &str = "\
Example:
  margayctl policy test -f cases.yaml -f manifests/

A test file is YAML. Its documents with a kind are resources; the others have any of
  manifests:   files and folders with resources, seen from the folder of the test file
  namespaces:  - {name: prod, labels: {env: prod}}
  endpoints:   - {name: prod/web, labels: {app: web}, addresses: [10.0.0.1], node: n1,
                  serviceAccount: web, profiles: [kns.prod], ports: {http: 8080, dns: 53/UDP}}
  resources:   resources, as in a manifest
  tests:       - {name: web asks db, from: prod/web, to: [prod/db, 192.0.2.1], protocol: tcp,
                  port: [5432, http], expect: allow, by: NetworkPolicy/prod/db}
Each sender, receiver and port of a test is asked with each other; expect is allow or deny. Of an
endpoint only the name is needed. Exit code 1: something is not as expected.";

/// What to test.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Test file, manifest, or folder with either; may be repeated
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    file: Vec<PathBuf>,
    /// As if staged policies were enforced
    #[arg(long)]
    staged: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    output: StatusOutput,
}

/// One expectation, held against the programs.
struct Outcome {
    name: String,
    from: String,
    to: String,
    expect: Verdict,
    by: Option<String>,
    result: Result<Decision, String>,
}

/// Runs all tests of the files.
pub(crate) fn test(args: &Test, streams: &mut Streams<'_>) -> Result<(), Fatal> {
    let mut suite = Suite::default();
    let mut errors = Vec::new();
    for (name, text) in files::all_texts(&args.file, streams.stdin)? {
        errors.extend(suite.read(Path::new(&name), &text));
    }
    let manifests = std::mem::take(&mut suite.manifests);
    for (name, text) in files::all_texts(&manifests, streams.stdin)? {
        errors.extend(suite.read(Path::new(&name), &text));
    }
    errors.extend(suite.settle());
    for error in &errors {
        streams.fail(error)?;
    }
    if suite.cases.is_empty() {
        return Err(Fatal::Usage("found no tests".to_owned()));
    }
    let mut resources = suite.resources;
    cluster::add_namespaces(&mut resources);
    let resources = cluster::staged_or_not(resources, args.staged, streams)?;
    let cluster = Cluster::new(resources);
    let mut outcomes = Vec::new();
    for (i, case) in suite.cases.iter().enumerate() {
        run(&cluster, i + 1, case, &mut outcomes);
    }
    report(&cluster, args.output, &outcomes, streams)
}

fn run(cluster: &Cluster, number: usize, case: &Case, outcomes: &mut Vec<Outcome>) {
    let expect = match case.expect {
        Expect::Allow => Verdict::Allow,
        Expect::Deny => Verdict::Deny,
    };
    for from in case.from.texts() {
        for to in case.to.texts() {
            for traffic in case.traffic() {
                let name = case
                    .name
                    .clone()
                    .unwrap_or_else(|| format!("test {number}"));
                let outcome = |result| Outcome {
                    name: name.clone(),
                    from: from.clone(),
                    to: to.clone(),
                    expect,
                    by: case.by.clone(),
                    result,
                };
                match decide(cluster, &from, &to, &traffic) {
                    Ok(decisions) => outcomes.extend(decisions.into_iter().map(Ok).map(outcome)),
                    Err(error) => outcomes.push(outcome(Err(error))),
                }
            }
        }
    }
}

fn decide(
    cluster: &Cluster,
    from: &str,
    to: &str,
    traffic: &Traffic,
) -> Result<Vec<Decision>, String> {
    let sender = cluster
        .party(from)
        .map_err(|error| format!("from: {error}"))?;
    let receiver = cluster.party(to).map_err(|error| format!("to: {error}"))?;
    let packets = cluster.packets(&sender, &receiver, traffic)?;
    let decide = |packet| cluster.decide(&sender, &receiver, packet, false);
    Ok(packets.into_iter().map(decide).collect())
}

impl Outcome {
    /// What is not as expected.
    fn failure(&self) -> Option<String> {
        let decision = match &self.result {
            Ok(decision) => decision,
            Err(error) => return Some(error.clone()),
        };
        let verdict = decision.verdict();
        if verdict != self.expect {
            return Some(format!("found {verdict}, expected {}", self.expect));
        }
        let wanted = self.by.as_ref()?;
        let found = decision.deciding().1.deciding_resource();
        let found = found.unwrap_or_else(|| "no policy".to_owned());
        (found != *wanted).then(|| format!("found {verdict} by {found}, expected by {wanted}"))
    }

    /// The decision with all steps, for reports.
    fn full(&self, cluster: &Cluster) -> Option<Decision> {
        let packet = self.result.as_ref().ok()?.packet;
        let from = cluster.party(&self.from).ok()?;
        let to = cluster.party(&self.to).ok()?;
        Some(cluster.decide(&from, &to, packet, true))
    }
}

fn report(
    cluster: &Cluster,
    output: StatusOutput,
    outcomes: &[Outcome],
    streams: &mut Streams<'_>,
) -> Result<(), Fatal> {
    let failed = outcomes.iter().filter(|o| o.failure().is_some()).count();
    streams.failed |= failed > 0;
    match output {
        StatusOutput::Text => {
            for line in cluster.problem_lines() {
                streams.say(&format!("problem: {line}"))?;
            }
            for outcome in outcomes {
                streams.print(&failure_text(cluster, outcome))?;
            }
            let passed = outcomes.len() - failed;
            streams.say(&format!("{passed} as expected, {failed} not"))
        }
        StatusOutput::Json => {
            let cases: Vec<_> = outcomes.iter().map(|o| outcome_json(cluster, o)).collect();
            let all = json!({
                "passed": outcomes.len() - failed, "failed": failed, "cases": cases,
                "problems": cluster.problem_lines(),
            });
            print_json(&all, streams)
        }
    }
}

/// Nothing for what is as expected.
fn failure_text(cluster: &Cluster, outcome: &Outcome) -> String {
    let Some(failure) = outcome.failure() else {
        return String::new();
    };
    let Outcome { name, from, to, .. } = outcome;
    let mut text = format!("FAILED {name}: {from} -> {to}: {failure}\n");
    if let Some(decision) = outcome.full(cluster) {
        for line in cluster.decision_text(&decision).lines() {
            text += &format!("  {line}\n");
        }
    }
    text
}

fn outcome_json(cluster: &Cluster, outcome: &Outcome) -> Value {
    let failure = outcome.failure();
    let mut value = json!({
        "name": outcome.name, "from": outcome.from, "to": outcome.to,
        "expect": outcome.expect.to_string(), "ok": failure.is_none(),
    });
    if let Ok(decision) = &outcome.result {
        value["packet"] = json!(packet_text(&decision.packet));
        value["verdict"] = json!(decision.verdict().to_string());
        value["by"] = json!(decision.deciding().1.deciding_resource());
    }
    if let Some(failure) = failure {
        value["failure"] = json!(failure);
        value["chain"] = json!(outcome.full(cluster).map(|d| cluster.decision_json(&d)));
    }
    value
}
