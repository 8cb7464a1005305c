//! `create`, `apply` and `replace`.

use std::collections::BTreeSet;
use std::pin::Pin;

use futures_util::{StreamExt, stream};
use margay_model::any::AnyResource;
use margay_model::kind::Kind;

use crate::cli::Files;
use crate::client::{Mode, Written};
use crate::context::{Context, Streams};
use crate::failure::{Failure, Fatal};
use crate::files::{self, Source};
use crate::progress::Progress;

/// Complains about what is wrong with the documents, and hands on those that are right.
pub(crate) fn report_invalid(
    sources: Vec<Source>,
    streams: &mut Streams<'_>,
) -> Result<Vec<(String, AnyResource)>, Fatal> {
    let mut valid = Vec::new();
    for source in sources {
        match source.result {
            Ok(resource) => valid.push((source.place, resource)),
            Err(errors) => {
                for error in errors {
                    streams.fail(&format!("{}: {error}", source.place))?;
                }
            }
        }
    }
    Ok(valid)
}

/// Requests under way at once: enough to hide the way to the datastore and back, few enough to leave
/// it time for others.
const AT_ONCE: usize = 16;

/// Writes all resources of the files that can be written, and tells of each in the order of the files.
pub(crate) async fn write(
    mode: Mode,
    files: &Files,
    skip_exists: bool,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    let (client, streams) = (&context.client, &mut context.streams);
    let sources = files::read_files(files, streams.stdin)?;
    let valid = report_invalid(sources, streams)?;
    // Where the lines go to a terminal they show how far it is.
    let progress = streams.terminal.progress && streams.terminal.width.is_none();
    let mut progress = progress.then(|| Progress::new("resources", valid.len()));
    let mut done = 0;
    for group in independent(valid) {
        let writes = group.into_iter().map(|(place, resource)| {
            // Erased, because the type of an etcd request is deeper than the compiler looks.
            let write: Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(async move {
                let key = resource.key();
                (place, key, client.write(mode, resource).await)
            });
            write
        });
        let mut writes = stream::iter(writes).buffered(AT_ONCE);
        while let Some((place, key, result)) = writes.next().await {
            done += 1;
            if let Some(progress) = &mut progress {
                progress.at(done, streams);
            }
            let word = match result {
                Ok(Written::Created) => "created",
                Ok(Written::Replaced) => "replaced",
                Ok(Written::Unchanged) => "unchanged",
                Err(Failure::Exists) if skip_exists => "exists already, skipped",
                Err(failure) => {
                    streams.fail_one(Some(&place), &key, &failure)?;
                    continue;
                }
            };
            streams.say(&format!("{key}: {word}"))?;
        }
    }
    if let Some(progress) = progress {
        progress.end(streams);
    }
    Ok(())
}

/// Resources that stand after each other and do not depend on each other: of one kind, each named
/// once, and not compared with others of their kind.
fn independent(resources: Vec<(String, AnyResource)>) -> Vec<Vec<(String, AnyResource)>> {
    let mut groups: Vec<Vec<(String, AnyResource)>> = Vec::new();
    let mut keys = BTreeSet::new();
    let mut last = None;
    for (place, resource) in resources {
        let (key, kind) = (resource.key().to_string(), resource.kind());
        let alone = matches!(kind, Kind::IpPool | Kind::IpamConfiguration);
        let fits = last == Some(kind) && !alone && !keys.contains(&key);
        last = Some(kind);
        match groups.last_mut() {
            Some(group) if fits => group.push((place, resource)),
            _ => {
                keys.clear();
                groups.push(vec![(place, resource)]);
            }
        }
        keys.insert(key);
    }
    groups
}
