//! `policy matrix`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use margay_model::any::AnyResource;
use margay_model::kind::ResourceKey;
use margay_policy::explain::Verdict;
use margay_policy::selector::Selector;
use serde_json::json;

use crate::context::Streams;
use crate::failure::Fatal;
use crate::verbs::policy::cluster::{Cluster, staged_or_not};
use crate::verbs::policy::traffic::{Party, Traffic, name_of};
use crate::verbs::selector::print_json;

/// Most endpoints of one matrix: more is not read by anybody, and their pairs take minutes.
const MOST: usize = 1000;

/// Who and what.
#[derive(Debug, Args)]
pub(crate) struct Matrix {
    /// Only the endpoints of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Only the endpoints that this selector matches
    #[arg(short = 'l', long, value_name = "EXPR")]
    selector: Option<String>,
    /// What is sent
    #[command(flatten)]
    traffic: Traffic,
    /// Files or folders with the resources, instead of the datastore; may be repeated
    #[arg(short, long = "filename", value_name = "PATH")]
    pub(crate) file: Vec<PathBuf>,
    /// As if staged policies were enforced
    #[arg(long)]
    staged: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = MatrixOutput::Text)]
    output: MatrixOutput,
}

/// How a matrix is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MatrixOutput {
    /// A row for each sender, a column for each receiver.
    Text,
    /// JSON: a list of pairs.
    Json,
    /// A graph for graphviz: an arrow is what is allowed.
    Dot,
}

/// Tells who may talk to whom.
pub(crate) fn matrix(
    args: &Matrix,
    resources: Vec<AnyResource>,
    streams: &mut Streams<'_>,
) -> Result<(), Fatal> {
    let resources = staged_or_not(resources, args.staged, streams)?;
    let mut cluster = Cluster::new(resources);
    let parties = chosen(args, &mut cluster)?;
    let rows = verdicts(args, &cluster, &parties)?;
    match args.output {
        MatrixOutput::Text => streams.print(&text(&parties, &rows)),
        MatrixOutput::Dot => streams.print(&dot(&parties, &rows)),
        MatrixOutput::Json => {
            let mut pairs = Vec::new();
            for ((from, _), row) in parties.iter().zip(&rows) {
                for ((to, _), cell) in parties.iter().zip(row) {
                    if let Some(verdict) = cell {
                        pairs.push(json!({
                            "from": from, "to": to, "verdict": verdict.to_string(),
                        }));
                    }
                }
            }
            print_json(&json!(pairs), streams)
        }
    }
}

fn chosen(args: &Matrix, cluster: &mut Cluster) -> Result<Vec<(String, Party)>, Fatal> {
    let mut keys: Vec<ResourceKey> = cluster.endpoints().map(|(key, _)| key.clone()).collect();
    if let Some(namespace) = &args.namespace {
        keys.retain(|key| key.namespace.as_ref() == Some(namespace));
    }
    if let Some(text) = &args.selector {
        let selector: Selector = text
            .parse()
            .map_err(|error| Fatal::Usage(format!("--selector: {error}")))?;
        let matching = cluster.calc.matching(&selector);
        keys.retain(|key| matching.contains(key));
    }
    match keys.len() {
        0 => Err(Fatal::Usage("found no such endpoint".to_owned())),
        count if count > MOST => Err(Fatal::Usage(format!(
            "found {count} endpoints, allowed: at most {MOST}; choose with -n or -l"
        ))),
        _ => Ok(keys
            .iter()
            .map(|key| (label(cluster, key), cluster.party_of(key)))
            .collect()),
    }
}

/// The pod where that is enough to name the endpoint.
fn label(cluster: &Cluster, key: &ResourceKey) -> String {
    let pod = cluster.endpoint(key).map_or("", |e| &*e.spec.pod);
    let namespace = key.namespace.as_deref();
    if !pod.is_empty() && cluster.endpoints_named(namespace, pod).len() == 1 {
        return format!("{}/{pod}", namespace.unwrap_or_default());
    }
    name_of(key)
}

/// A row for each sender. Of both families when an end has both: denied if one is. Nothing for an end
/// to itself, and without a common family.
fn verdicts(
    args: &Matrix,
    cluster: &Cluster,
    parties: &[(String, Party)],
) -> Result<Vec<Vec<Option<Verdict>>>, Fatal> {
    let cell = |from: &Party, to: &Party| -> Result<Option<Verdict>, Fatal> {
        let families = |a: &Party, b: &Party| {
            let shared = |v4| {
                a.addresses.iter().any(|x| x.is_ipv4() == v4)
                    && b.addresses.iter().any(|x| x.is_ipv4() == v4)
            };
            shared(true) || shared(false)
        };
        if from == to || !families(from, to) {
            return Ok(None);
        }
        let packets = match cluster.packets(from, to, &args.traffic) {
            Ok(packets) => packets,
            // A port that only some of them give a name to is closed at the others.
            Err(_) if names_port(args) => return Ok(None),
            Err(error) => return Err(Fatal::Usage(error)),
        };
        let verdicts = packets
            .into_iter()
            .map(|packet| cluster.decide(from, to, packet, false).verdict());
        Ok(verdicts.max())
    };
    parties
        .iter()
        .map(|(_, from)| parties.iter().map(|(_, to)| cell(from, to)).collect())
        .collect()
}

fn names_port(args: &Matrix) -> bool {
    let port = args.traffic.port.as_deref();
    port.is_some_and(|port| !port.bytes().all(|b| b.is_ascii_digit()))
}

fn text(parties: &[(String, Party)], rows: &[Vec<Option<Verdict>>]) -> String {
    let digits = parties.len().to_string().len();
    let width = parties.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or(0);
    let mut text = "+ allowed, . denied, blank not asked; rows send, columns receive\n".to_owned();
    let numbers = (1..=parties.len()).map(|n| format!(" {n:>digits$}"));
    text += &format!(
        "{:digits$} {:width$}{}\n",
        "",
        "",
        numbers.collect::<String>()
    );
    for (i, ((name, _), row)) in parties.iter().zip(rows).enumerate() {
        let cells = row.iter().map(|cell| match cell {
            Some(Verdict::Allow) => format!(" {:>digits$}", "+"),
            Some(Verdict::Deny) => format!(" {:>digits$}", "."),
            None => format!(" {:>digits$}", ""),
        });
        let line = format!(
            "{:>digits$} {name:width$}{}",
            i + 1,
            cells.collect::<String>()
        );
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn dot(parties: &[(String, Party)], rows: &[Vec<Option<Verdict>>]) -> String {
    let mut text = "digraph policy {\n".to_owned();
    for (name, _) in parties {
        text += &format!("  {name:?};\n");
    }
    for ((from, _), row) in parties.iter().zip(rows) {
        for ((to, _), cell) in parties.iter().zip(row) {
            if *cell == Some(Verdict::Allow) {
                text += &format!("  {from:?} -> {to:?};\n");
            }
        }
    }
    text + "}\n"
}
