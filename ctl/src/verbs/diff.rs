//! `diff`: what `apply` would change.

use clap::Args;
use margay_model::any::AnyResource;
use similar::{ChangeTag, TextDiff};

use crate::cli::Files;
use crate::client::Planned;
use crate::context::Context;
use crate::failure::Fatal;
use crate::files;
use crate::terminal::Paint;
use crate::verbs::write::report_invalid;
use crate::yaml;

pub(crate) const HELP: &str = "\
Examples:
  margayctl diff -f policy.yaml
  margayctl diff -R -f manifests/ || margayctl apply -R -f manifests/

Shows resources as apply would store them, defaults filled in, beside those that are stored. What
apply would refuse is told as apply tells it. Nothing is written.

Exit codes: 0 no differences; 1 differences; 2 something is invalid or would be refused, or wrong
usage; 3 the datastore cannot be reached.";

/// What to compare.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// Where the resources are.
    #[command(flatten)]
    files: Files,
    /// Lines around each change
    #[arg(short = 'U', long, value_name = "LINES", default_value_t = 3)]
    context: usize,
    /// Say only which resources differ
    #[arg(long)]
    name_only: bool,
}

/// Prints the differences; the exit code says whether there are any.
pub(crate) async fn diff(args: &Diff, context: &mut Context<'_>) -> Result<(), Fatal> {
    let streams = &mut context.streams;
    let sources = files::read_files(&args.files, streams.stdin)?;
    let mut differs = false;
    for (place, resource) in report_invalid(sources, streams)? {
        let key = resource.key();
        let (old, new) = match context.client.plan(resource).await {
            Ok(Planned { old, new, .. }) => (old, new),
            Err(failure) => {
                streams.fail_one(Some(&place), &key, &failure)?;
                continue;
            }
        };
        if old.as_ref() == Some(&new) {
            continue;
        }
        differs = true;
        if args.name_only {
            let word = if old.is_some() { "differs" } else { "is new" };
            streams.say(&format!("{key}: {word}"))?;
            continue;
        }
        let old = old.as_ref().map(text).transpose()?.unwrap_or_default();
        let names = (format!("stored/{key}"), format!("applied/{key}"));
        for (paint, line) in unified(&old, &text(&new)?, &names, args.context) {
            let line = match paint {
                Some(paint) => streams.terminal.paint(paint, &line),
                None => line,
            };
            streams.say(&line)?;
        }
    }
    match (streams.failed, differs) {
        (true, _) => Err(Fatal::Told(2)),
        (false, true) => Err(Fatal::Told(1)),
        (false, false) => Ok(()),
    }
}

/// The resource without its version, which any write changes.
fn text(resource: &AnyResource) -> Result<String, Fatal> {
    let mut resource = resource.clone();
    resource.metadata_mut().resource_version = None;
    let value = serde_json::to_value(&resource).map_err(std::io::Error::from)?;
    Ok(yaml::render(&value))
}

/// The lines of a unified diff, each with its colour.
fn unified(
    old: &str,
    new: &str,
    (old_name, new_name): &(String, String),
    context: usize,
) -> Vec<(Option<Paint>, String)> {
    let diff = TextDiff::from_lines(old, new);
    let old_name = if old.is_empty() {
        "/dev/null"
    } else {
        old_name
    };
    let mut lines = vec![
        (Some(Paint::Bold), format!("--- {old_name}")),
        (Some(Paint::Bold), format!("+++ {new_name}")),
    ];
    for hunk in diff.unified_diff().context_radius(context).iter_hunks() {
        lines.push((Some(Paint::Cyan), hunk.header().to_string()));
        for change in hunk.iter_changes() {
            let (paint, sign) = match change.tag() {
                ChangeTag::Delete => (Some(Paint::Red), '-'),
                ChangeTag::Insert => (Some(Paint::Green), '+'),
                ChangeTag::Equal => (None, ' '),
            };
            lines.push((
                paint,
                format!("{sign}{}", change.value().trim_end_matches('\n')),
            ));
        }
    }
    lines
}
