//! `selector eval`, `selector parse` and `selector list`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};
use margay_policy::selector::{ParseError, Selector};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::StatusOutput;
use crate::context::{Context, Streams};
use crate::failure::Fatal;
use crate::table::Table;
use crate::verbs::policy::cluster::{self, Cluster};

/// Selectors.
#[derive(Debug, Subcommand)]
pub(crate) enum SelectorCommand {
    /// Say whether a selector matches labels: exit code 0 it does, 1 it does not, 2 an error
    #[command(after_help = EVAL_HELP)]
    Eval(Eval),
    /// Show the canonical form and identity of a selector, or what is wrong with it
    #[command(after_help = PARSE_HELP)]
    Parse(Parse),
    /// List the endpoints, network sets and hosts that a selector matches
    #[command(after_help = LIST_HELP)]
    List(List),
}

pub(crate) const EVAL_HELP: &str = "\
Example:
  margayctl selector eval \"app == 'web' && tier != 'test'\" --labels app=web,env=prod

With --file, a YAML list of cases, each with selector, labels, and optionally name and expect
(true or false); EXPR and --labels are for cases that have none of their own:
  - {selector: \"has(app)\", labels: {app: web}}
  - {selector: \"app == 'db'\", labels: {app: web}, expect: false}
Exit code 0: each case is as expected (without expect: it matches).";

const PARSE_HELP: &str = "\
Example:
  margayctl selector parse \"role in {'b', 'a'} && !has(old)\"
  margayctl selector parse \"has(app)\" --list";

const LIST_HELP: &str = "\
Example:
  margayctl selector list \"pcns.env == 'prod' && app == 'web'\"

Labels are those that policy sees: also the ones that endpoints have from their namespace (pcns.),
service account (pcsa.) and profiles, and projectcalico.org/namespace.";

/// What to evaluate.
#[derive(Debug, Args)]
pub(crate) struct Eval {
    /// The selector
    #[arg(value_name = "EXPR", required_unless_present = "file")]
    expr: Option<String>,
    /// Labels, K=V,...; may be repeated
    #[arg(long, value_name = "K=V,...")]
    labels: Vec<String>,
    /// Many cases at once; - for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    output: StatusOutput,
}

/// What to read.
#[derive(Debug, Args)]
pub(crate) struct Parse {
    /// The selector
    #[arg(value_name = "EXPR")]
    expr: String,
    /// And list what it matches in the cluster
    #[arg(long)]
    list: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    output: StatusOutput,
}

/// What to look for.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The selector
    #[arg(value_name = "EXPR")]
    expr: String,
    /// Only in this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Look in these files or folders instead of the cluster; may be repeated
    #[arg(short, long = "filename", value_name = "PATH")]
    file: Vec<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    output: StatusOutput,
}

type Labels = BTreeMap<String, String>;

/// One case of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: Option<String>,
    selector: Option<String>,
    labels: Option<Labels>,
    expect: Option<bool>,
}

/// What needs no datastore.
pub(crate) fn offline(
    command: &SelectorCommand,
    streams: &mut Streams<'_>,
) -> Option<Result<(), Fatal>> {
    Some(match command {
        SelectorCommand::Eval(args) => eval(args, streams),
        // One that cannot be read matches nothing to be looked up.
        SelectorCommand::Parse(args) if args.list && args.expr.parse::<Selector>().is_ok() => {
            return None;
        }
        SelectorCommand::Parse(args) => parse(args, None, streams),
        SelectorCommand::List(args) if args.file.is_empty() => return None,
        SelectorCommand::List(args) => {
            let resources = cluster::read_files(&args.file, streams);
            resources.and_then(|resources| list_in(args, resources, streams))
        }
    })
}

/// What looks into the datastore.
pub(crate) async fn online(
    command: &SelectorCommand,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    let resources = cluster::read_datastore(context).await?;
    let streams = &mut context.streams;
    match command {
        SelectorCommand::List(args) => list_in(args, resources, streams),
        SelectorCommand::Parse(args) => parse(args, Some(resources), streams),
        SelectorCommand::Eval(args) => eval(args, streams),
    }
}

fn selector(text: &str) -> Result<Selector, Fatal> {
    text.parse()
        .map_err(|error: ParseError| Fatal::Usage(error.to_string()))
}

fn labels(words: &[String]) -> Result<Labels, Fatal> {
    let pairs = words.iter().flat_map(|word| word.split(','));
    pairs
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Fatal::Usage(format!(
                "--labels: found \"{pair}\", allowed: KEY=VALUE"
            ))),
        })
        .collect()
}

fn eval(args: &Eval, streams: &mut Streams<'_>) -> Result<(), Fatal> {
    let given = labels(&args.labels)?;
    if let Some(file) = &args.file {
        return eval_file(file, args, &given, streams);
    }
    let selector = selector(args.expr.as_deref().unwrap_or_default())?;
    let matches = selector.matches(&given);
    streams.failed |= !matches;
    match args.output {
        StatusOutput::Text => streams.say(outcome(matches)),
        StatusOutput::Json => print_json(
            &json!({"selector": selector.canonical(), "labels": given, "matches": matches}),
            streams,
        ),
    }
}

const fn outcome(matches: bool) -> &'static str {
    if matches { "matches" } else { "does not match" }
}

fn eval_file(
    file: &Path,
    args: &Eval,
    given: &Labels,
    streams: &mut Streams<'_>,
) -> Result<(), Fatal> {
    let text = read_text(file, streams.stdin)?;
    let bad = |error: String| Fatal::Usage(format!("{}: {error}", file.display()));
    let cases: Vec<Case> = serde_norway::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let mut results = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let name = case.name.clone().unwrap_or_else(|| (i + 1).to_string());
        let expr = case.selector.as_deref().or(args.expr.as_deref());
        let expr = expr.ok_or_else(|| bad(format!("case {name}: selector: found nothing")))?;
        let parsed: Selector = expr
            .parse()
            .map_err(|error: ParseError| bad(format!("case {name}: {error}")))?;
        let matches = parsed.matches(case.labels.as_ref().unwrap_or(given));
        let good = matches == case.expect.unwrap_or(true);
        streams.failed |= !good;
        match args.output {
            StatusOutput::Text if good => streams.say(&format!("{name}: {}", outcome(matches)))?,
            StatusOutput::Text => {
                let wanted = outcome(!matches);
                streams.say(&format!("{name}: {}, expected: {wanted}", outcome(matches)))?;
            }
            StatusOutput::Json => results.push(json!({
                "name": name, "selector": parsed.canonical(), "matches": matches, "ok": good,
            })),
        }
    }
    match args.output {
        StatusOutput::Text => Ok(()),
        StatusOutput::Json => print_json(&Value::Array(results), streams),
    }
}

fn read_text(file: &Path, stdin: &mut dyn Read) -> Result<String, Fatal> {
    let unreadable = |error: std::io::Error| Fatal::Usage(format!("{}: {error}", file.display()));
    if file == Path::new("-") {
        let mut text = String::new();
        stdin.read_to_string(&mut text).map_err(unreadable)?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(unreadable)
}

/// Prints a value as JSON.
pub(crate) fn print_json(value: &Value, streams: &mut Streams<'_>) -> Result<(), Fatal> {
    let mut text = serde_json::to_string_pretty(value).map_err(std::io::Error::from)?;
    text.push('\n');
    streams.print(&text)
}

/// With resources, what the selector matches among them is listed too.
fn parse(
    args: &Parse,
    resources: Option<Vec<AnyResource>>,
    streams: &mut Streams<'_>,
) -> Result<(), Fatal> {
    let selector = match args.expr.parse::<Selector>() {
        Ok(selector) => selector,
        Err(error) => {
            if args.output == StatusOutput::Json {
                let ParseError {
                    column,
                    expected,
                    found,
                } = &error;
                let said = json!({"column": column, "expected": expected, "found": found});
                print_json(&json!({"valid": false, "error": said}), streams)?;
            }
            return Err(Fatal::Usage(error.to_string()));
        }
    };
    let rows = resources.map(|resources| rows(&selector, None, resources));
    let (canonical, uid) = (selector.canonical(), selector.uid());
    match args.output {
        StatusOutput::Text => {
            streams.print(&format!("Canonical:  {canonical}\nUid:        {uid}\n"))?;
            rows.map_or(Ok(()), |rows| streams.show(&table(&rows)))
        }
        StatusOutput::Json => {
            let mut value = json!({"valid": true, "canonical": canonical, "uid": uid});
            if let Some(rows) = rows {
                value["matches"] = items(&rows);
            }
            print_json(&value, streams)
        }
    }
}

fn list_in(
    args: &List,
    resources: Vec<AnyResource>,
    streams: &mut Streams<'_>,
) -> Result<(), Fatal> {
    let selector = selector(&args.expr)?;
    let rows = rows(&selector, args.namespace.as_deref(), resources);
    match args.output {
        StatusOutput::Text => streams.show(&table(&rows)),
        StatusOutput::Json => print_json(&items(&rows), streams),
    }
}

/// What a selector matches, and its addresses.
type Row = (ResourceKey, Vec<String>);

fn rows(selector: &Selector, namespace: Option<&str>, resources: Vec<AnyResource>) -> Vec<Row> {
    let mut cluster = Cluster::new(resources);
    let mut found = cluster.calc.matching(selector);
    let nodes = cluster.resources.values().filter_map(|resource| {
        let is_node = resource.kind() == Kind::Node;
        (is_node && selector.matches(&resource.metadata().labels)).then(|| resource.key())
    });
    found.extend(nodes);
    if namespace.is_some() {
        found.retain(|key| key.namespace.as_deref() == namespace);
    }
    let row = |key: ResourceKey| {
        let addresses = addresses(cluster.resources.get(&key));
        (key, addresses)
    };
    found.into_iter().map(row).collect()
}

fn items(rows: &[Row]) -> Value {
    let item = |(key, addresses): &Row| {
        json!({
            "kind": key.kind.as_str(), "namespace": key.namespace, "name": key.name,
            "addresses": addresses,
        })
    };
    rows.iter().map(item).collect()
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(["KIND", "NAMESPACE", "NAME", "ADDRESSES"]);
    for (key, addresses) in rows {
        table.row([
            key.kind.as_str().to_owned(),
            key.namespace.clone().unwrap_or_default(),
            key.name.clone(),
            addresses.join(","),
        ]);
    }
    table
}

fn addresses(resource: Option<&AnyResource>) -> Vec<String> {
    match resource {
        Some(AnyResource::WorkloadEndpoint(res)) => texts(&res.spec.ip_networks),
        Some(AnyResource::HostEndpoint(res)) => texts(&res.spec.expected_ips),
        Some(AnyResource::NetworkSet(res)) => texts(&res.spec.nets),
        Some(AnyResource::GlobalNetworkSet(res)) => texts(&res.spec.nets),
        Some(AnyResource::Node(res)) => {
            let bgp = res.spec.bgp.iter();
            let own = bgp.flat_map(|bgp| [bgp.ipv4_address, bgp.ipv6_address]);
            own.flatten().map(|address| address.to_string()).collect()
        }
        _ => Vec::new(),
    }
}

fn texts(items: &[impl ToString]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}
