//! `create`, `apply` and `replace`.

use crate::cli::Files;
use crate::client::{Mode, Written};
use crate::context::{Context, Streams};
use crate::failure::{Failure, Fatal};
use crate::files::{self, Source};

/// Complains about what is wrong with the documents, and hands on those that are right.
pub(crate) fn report_invalid(
    sources: Vec<Source>,
    streams: &mut Streams<'_>,
) -> Result<Vec<(String, margay_model::any::AnyResource)>, Fatal> {
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

/// Writes all resources of the files that can be written.
pub(crate) async fn write(
    mode: Mode,
    files: &Files,
    skip_exists: bool,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    let streams = &mut context.streams;
    let sources = files::read_files(files, streams.stdin)?;
    for (place, resource) in report_invalid(sources, streams)? {
        let key = resource.key();
        let word = match context.client.write(mode, resource).await {
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
    Ok(())
}
