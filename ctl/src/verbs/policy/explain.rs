//! `policy explain`.

use std::path::PathBuf;

use clap::Args;
use margay_model::any::AnyResource;
use serde_json::json;

use crate::cli::StatusOutput;
use crate::context::Streams;
use crate::failure::Fatal;
use crate::verbs::policy::cluster::{Cluster, staged_or_not};
use crate::verbs::policy::decision::Decision;
use crate::verbs::policy::traffic::Traffic;
use crate::verbs::selector::print_json;

pub(crate) const HELP: &str = "\
Example:
  margayctl policy explain --from prod/web --to prod/db --protocol tcp --port 5432

FROM and TO are addresses, also of the world outside, or names of endpoints, pods, containers or
hosts, also as NAMESPACE/NAME. The answer comes from the programs that the agents of both hosts
render. With -f it comes from a folder of manifests instead of the datastore: resources, Pods,
Namespaces and policies of Kubernetes, and endpoints in short as in a test file. Endpoints that
profiles of namespaces are missing for get those of namespaces without labels.

Staged policies decide nothing; what they would say is told beside the rest. With --staged they are
enforced, and the last line says what holds now.";

/// What to explain.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Who sends
    #[arg(long, value_name = "WHO")]
    from: String,
    /// Who receives
    #[arg(long, value_name = "WHO")]
    to: String,
    /// What is sent
    #[command(flatten)]
    traffic: Traffic,
    /// Files or folders with the resources, instead of the datastore; may be repeated
    #[arg(short, long = "filename", value_name = "PATH")]
    pub(crate) file: Vec<PathBuf>,
    /// As if staged policies were enforced, and what holds now
    #[arg(long)]
    staged: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    output: StatusOutput,
}

/// Says what becomes of the traffic, and why.
pub(crate) fn explain(
    args: &Explain,
    resources: Vec<AnyResource>,
    streams: &mut Streams<'_>,
) -> Result<(), Fatal> {
    let now = args.staged.then(|| Cluster::new(resources.clone()));
    let resources = staged_or_not(resources, args.staged, streams)?;
    let cluster = Cluster::new(resources);
    let wrong = |flag: &str| {
        let flag = flag.to_owned();
        move |error: String| Fatal::Usage(format!("{flag}: {error}"))
    };
    let from = cluster.party(&args.from).map_err(wrong("--from"))?;
    let to = cluster.party(&args.to).map_err(wrong("--to"))?;
    let packets = cluster
        .packets(&from, &to, &args.traffic)
        .map_err(Fatal::Usage)?;
    let decisions = packets.into_iter().map(|packet| {
        let now = now.as_ref().map(|now| now.decide(&from, &to, packet, true));
        (cluster.decide(&from, &to, packet, true), now)
    });
    match args.output {
        StatusOutput::Text => {
            let text = |(decision, now): (_, Option<Decision>)| {
                let now = now.map(|now| {
                    let (way, hop) = now.deciding();
                    let by = hop.decided_by();
                    format!("Now: {}, decided on {way} by {by}\n", now.verdict())
                });
                cluster.decision_text(&decision) + &now.unwrap_or_default()
            };
            let texts: Vec<_> = decisions.map(text).collect();
            streams.print(&texts.join("\n"))
        }
        StatusOutput::Json => {
            let value = |(decision, then): (_, Option<Decision>)| {
                let mut value = cluster.decision_json(&decision);
                if let Some((now, then)) = now.as_ref().zip(then) {
                    value["now"] = now.decision_json(&then);
                }
                value
            };
            let values: Vec<_> = decisions.map(value).collect();
            let all = json!({"from": args.from, "to": args.to, "decisions": values});
            print_json(&all, streams)
        }
    }
}
