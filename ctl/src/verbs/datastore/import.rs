//! `datastore import`.

use std::collections::BTreeMap;
use std::path::Path;

use margay_datastore::MAX_TXN_OPS;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::store::{KeyValue, Store, Txn, TxnOutcome};
use serde_json::Value;

use super::file::Entry;
use super::{Import, established, export, file};
use crate::context::Context;
use crate::failure::Fatal;
use crate::progress::Progress;
use crate::verbs::fatal;

/// Bytes of values in one transaction: well below what etcd takes.
const BATCH_BYTES: usize = 512 << 10;

/// How many keys are named when something is in the way.
const NAMED: usize = 3;

/// Fills the datastore.
pub(crate) async fn import(args: &Import, context: &mut Context<'_>) -> Result<(), Fatal> {
    let Some(entries) = read(&args.file, context)? else {
        return Ok(());
    };
    let lock = Lock::of(&entries, context);
    let missing = missing(&entries, &lock, context).await?;
    if missing.is_empty() && !lock.is_shut(context).await? {
        return context
            .streams
            .say(&format!("{} keys, all there already", entries.len()));
    }
    lock.shut(context).await?;
    let mut progress = Progress::new("import", missing.len());
    let mut done = 0;
    for batch in batches(&missing) {
        write(batch, context).await?;
        done += batch.len();
        progress.at(done, &mut context.streams);
    }
    progress.end(&mut context.streams);
    lock.open(context).await?;
    let others = entries.iter().filter(|entry| entry.key != lock.key).count();
    let there = others - missing.len();
    let said = match there {
        0 => String::new(),
        there => format!(", {there} were there"),
    };
    let line = format!("{} keys imported{said}", entries.len() - there);
    context.streams.say(&line)
}

/// What the file holds; nothing if that cannot be read, which is told.
fn read(path: &Path, context: &mut Context<'_>) -> Result<Option<Vec<Entry>>, Fatal> {
    let unreadable = |error: std::io::Error| Fatal::Usage(format!("{}: {error}", path.display()));
    let mut text = String::new();
    if path == Path::new("-") {
        context
            .streams
            .stdin
            .read_to_string(&mut text)
            .map_err(unreadable)?;
    } else {
        text = std::fs::read_to_string(path).map_err(unreadable)?;
    }
    let read = if file::is_ours(&text) {
        file::read(&text).map_err(|error| vec![error])
    } else if established::is_one(&text) {
        established::read(&text, &context.client)
    } else {
        Err(vec![
            "found another text, allowed: what datastore export wrote".to_owned(),
        ])
    };
    match read {
        Ok(entries) => Ok(Some(entries)),
        Err(errors) => {
            for error in errors {
                context
                    .streams
                    .fail(&format!("{}: {error}", path.display()))?;
            }
            Ok(None)
        }
    }
}

/// What is not there yet; an error if something else is there.
async fn missing<'e>(
    entries: &'e [Entry],
    lock: &Lock,
    context: &Context<'_>,
) -> Result<Vec<&'e Entry>, Fatal> {
    let (stored, _) = export::everything(context).await?;
    let stored: BTreeMap<_, _> = stored
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect();
    let wanted: BTreeMap<_, _> = entries
        .iter()
        .map(|entry| (entry.key.as_str(), &entry.value))
        .collect();
    let in_the_way = stored.iter().filter(|(key, value)| {
        **key != lock.key
            && wanted
                .get(key.as_str())
                .is_none_or(|wanted| !same(wanted, value))
    });
    let in_the_way: Vec<_> = in_the_way.map(|(key, _)| key.as_str()).collect();
    if !in_the_way.is_empty() {
        let named = in_the_way
            .iter()
            .take(NAMED)
            .copied()
            .collect::<Vec<_>>()
            .join(", ");
        return Err(Fatal::Refused(format!(
            "the datastore is not empty: {} keys are not those of the file, such as {named}; \
             nothing was written",
            in_the_way.len()
        )));
    }
    let absent = |entry: &&Entry| entry.key != lock.key && !stored.contains_key(&entry.key);
    Ok(entries.iter().filter(absent).collect())
}

/// Whether a value is what an import that was cut off wrote: identities are made anew each time.
fn same(wanted: &[u8], stored: &[u8]) -> bool {
    let without_identity = |value: &[u8]| {
        let mut value: Value = serde_json::from_slice(value).ok()?;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("uid");
            metadata.remove("creationTimestamp");
        }
        Some(value)
    };
    wanted == stored
        || without_identity(wanted).is_some_and(|wanted| Some(wanted) == without_identity(stored))
}

/// Parts that fit a transaction.
fn batches<'a, 'e>(mut entries: &'a [&'e Entry]) -> impl Iterator<Item = &'a [&'e Entry]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |entry: &&&Entry| {
            bytes += entry.key.len() + entry.value.len();
            bytes <= BATCH_BYTES
        };
        let count = entries.iter().take(MAX_TXN_OPS).take_while(fits).count();
        let (batch, rest) = entries.split_at(count.max(1).min(entries.len()));
        entries = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

async fn write(batch: &[&Entry], context: &Context<'_>) -> Result<(), Fatal> {
    let prefix = context.client.keys.prefix();
    let mut txn = Txn::default();
    for entry in batch {
        let key = format!("{prefix}/{}", entry.key);
        txn = txn.when(key.as_str(), 0).put(key, entry.value.as_slice());
    }
    match context
        .client
        .store
        .txn(txn)
        .await
        .map_err(|error| fatal(&error))?
    {
        TxnOutcome::Committed(_) => Ok(()),
        TxnOutcome::Conflict(kvs) => {
            let key = kvs.into_iter().flatten().next().map(|kv: KeyValue| kv.key);
            Err(Fatal::Refused(format!(
                "somebody else writes to the datastore: {}; stop that and import again",
                key.unwrap_or_default()
            )))
        }
    }
}

/// The ClusterInformation, which says for the time of the import that the datastore is not ready.
struct Lock {
    /// Without the prefix.
    key: String,
    /// As it is in the file; absent if it is not.
    end: Option<Vec<u8>>,
    /// What says that the datastore is not ready.
    shut: Vec<u8>,
}

impl Lock {
    fn of(entries: &[Entry], context: &Context<'_>) -> Self {
        let resource = ResourceKey::global(Kind::ClusterInformation, "default");
        let (keys, prefix) = (&context.client.keys, context.client.keys.prefix());
        let key = keys.resource(&resource);
        let key = key
            .strip_prefix(prefix)
            .unwrap_or(&key)
            .trim_start_matches('/')
            .to_owned();
        let end = entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| entry.value.clone());
        let begin = end
            .as_ref()
            .and_then(|value| serde_json::from_slice::<Value>(value).ok());
        let mut shut = begin
            .filter(|value| value["spec"].is_object())
            .unwrap_or_else(|| {
                serde_json::json!({
                    "kind": "ClusterInformation", "apiVersion": "projectcalico.org/v3",
                    "metadata": {"name": "default"}, "spec": {},
                })
            });
        shut["spec"]["datastoreReady"] = Value::Bool(false);
        Self {
            key,
            end,
            shut: shut.to_string().into_bytes(),
        }
    }

    fn stored_key(&self, context: &Context<'_>) -> String {
        format!("{}/{}", context.client.keys.prefix(), self.key)
    }

    async fn stored(&self, context: &Context<'_>) -> Result<Option<KeyValue>, Fatal> {
        let stored = context.client.store.get(&self.stored_key(context)).await;
        stored.map_err(|error| fatal(&error))
    }

    /// Whether an import that was cut off left it shut.
    async fn is_shut(&self, context: &Context<'_>) -> Result<bool, Fatal> {
        let stored = self.stored(context).await?.map(|kv| kv.value);
        Ok(stored != self.end)
    }

    /// Shuts; what another cluster says of itself is in the way.
    async fn shut(&self, context: &Context<'_>) -> Result<(), Fatal> {
        let stored = self.stored(context).await?;
        let known = |value: &[u8]| {
            same(&self.shut, value) || self.end.as_ref().is_some_and(|end| same(end, value))
        };
        match &stored {
            Some(kv) if !known(&kv.value) => Err(Fatal::Refused(format!(
                "the datastore is not empty: {} is not that of the file; nothing was written",
                self.key
            ))),
            stored => self.put(stored.as_ref(), Some(&self.shut), context).await,
        }
    }

    /// Leaves it as the file has it.
    async fn open(&self, context: &Context<'_>) -> Result<(), Fatal> {
        let stored = self.stored(context).await?;
        self.put(stored.as_ref(), self.end.as_deref(), context)
            .await
    }

    async fn put(
        &self,
        stored: Option<&KeyValue>,
        value: Option<&[u8]>,
        context: &Context<'_>,
    ) -> Result<(), Fatal> {
        let key = self.stored_key(context);
        let txn = Txn::default().when(key.as_str(), stored.map_or(0, |kv| kv.mod_revision));
        let txn = match value {
            Some(value) => txn.put(key.as_str(), value),
            None => txn.delete(key.as_str()),
        };
        match context
            .client
            .store
            .txn(txn)
            .await
            .map_err(|error| fatal(&error))?
        {
            TxnOutcome::Committed(_) => Ok(()),
            TxnOutcome::Conflict(_) => Err(Fatal::Refused(format!(
                "somebody else writes to the datastore: {key}; stop that and import again"
            ))),
        }
    }
}
