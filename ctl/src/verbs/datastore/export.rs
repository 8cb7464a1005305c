//! `datastore export`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use margay_model::store::Store;

use super::Export;
use super::file::{self, Entry};
use crate::context::Context;
use crate::failure::Fatal;
use crate::verbs::fatal;

/// Below the prefix: what is written again and again and goes by itself, signs of life and reports.
const PASSING: [&str; 2] = ["felix/", "margay/"];

/// Whether a key, without the prefix, belongs into an export.
pub(super) fn lasts(key: &str) -> bool {
    !PASSING.iter().any(|passing| key.starts_with(passing))
}

/// Everything below the prefix that lasts, and its revision.
pub(super) async fn everything(context: &Context<'_>) -> Result<(Vec<Entry>, i64), Fatal> {
    let prefix = format!("{}/", context.client.keys.prefix());
    let listing = context.client.store.list(&prefix).await;
    let listing = listing.map_err(|error| fatal(&error))?;
    let entry = |kv: margay_model::store::KeyValue| {
        let key = kv
            .key
            .strip_prefix(&prefix)
            .filter(|key| lasts(key))?
            .to_owned();
        let value = kv.value;
        Some(Entry { key, value })
    };
    Ok((
        listing.kvs.into_iter().filter_map(entry).collect(),
        listing.revision,
    ))
}

/// An export as text.
pub(crate) async fn text(context: &Context<'_>) -> Result<String, Fatal> {
    let (entries, revision) = everything(context).await?;
    render(&entries, revision, context)
}

fn render(entries: &[Entry], revision: i64, context: &Context<'_>) -> Result<String, Fatal> {
    let time = context
        .client
        .now
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let prefix = context.client.keys.prefix();
    Ok(file::write(entries, prefix, revision, &time).map_err(std::io::Error::from)?)
}

/// Writes everything.
pub(crate) async fn export(args: &Export, context: &mut Context<'_>) -> Result<(), Fatal> {
    let (entries, revision) = everything(context).await?;
    let text = render(&entries, revision, context)?;
    let Some(path) = &args.output else {
        return context.streams.print(&text);
    };
    replace(path, &text).map_err(|error| Fatal::Refused(format!("{}: {error}", path.display())))?;
    let line = format!(
        "{}: {} keys of revision {revision}",
        path.display(),
        entries.len()
    );
    context.streams.say(&line)
}

/// Writes a file whole or not at all.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)
}
