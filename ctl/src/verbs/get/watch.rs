//! Resources as they change.

use std::collections::BTreeMap;

use margay_datastore::{Change, Watch, WatchStore};
use margay_model::any::AnyResource;
use margay_model::kind::ResourceKey;

use super::{Found, Get, print::Printer};
use crate::context::Context;
use crate::failure::Fatal;
use crate::output::Output;
use crate::verbs::{Named, fatal};

const ADDED: &str = "ADDED";
const MODIFIED: &str = "MODIFIED";
const DELETED: &str = "DELETED";

/// What happened to which resource.
type Events = Vec<(&'static str, AnyResource)>;

/// What is watched, and what it was like when last seen.
struct Watched<'a> {
    args: &'a Get,
    named: Named,
    printer: Printer<'a>,
    known: BTreeMap<ResourceKey, AnyResource>,
    /// Of the table so far.
    widths: Vec<usize>,
}

/// Prints what is asked for, and then what happens to it, until the output is closed.
pub(super) async fn watch(args: &Get, context: &mut Context<'_>) -> Result<(), Fatal> {
    let named = Named::of(&args.which)?;
    let nothing = Found {
        groups: vec![(named.kind, Vec::new())],
        revision: None,
        single: false,
        namespaces: args.all_namespaces,
    };
    let mut watched = Watched {
        args,
        printer: Printer::new(args, &nothing, context).await?,
        named,
        known: BTreeMap::new(),
        widths: Vec::new(),
    };
    let (mut running, events) = watched.list(context).await?;
    watched.begin(if args.watch_only { Vec::new() } else { events }, context)?;
    loop {
        let events = match running.next().await {
            Ok(event) => watched.take(event.changes, context)?,
            Err(lost) => {
                let events;
                (running, events) = watched.again(&lost.to_string(), context).await?;
                events
            }
        };
        watched.print(&events, context)?;
    }
}

impl Watched<'_> {
    /// Looks at everything, and watches from there on.
    async fn list(&mut self, context: &mut Context<'_>) -> Result<(Watch, Events), Fatal> {
        let (client, kind, namespace) = (&context.client, self.named.kind, self.args.namespace());
        let listed = client
            .list(kind, namespace)
            .await
            .map_err(|error| fatal(&error))?;
        let prefix = client.prefix(kind, namespace);
        let watch = client.store.watch(&prefix, listed.revision + 1);
        for error in &listed.damaged {
            context.streams.fail(&error.to_string())?;
        }
        let now: BTreeMap<_, _> = listed
            .resources
            .into_iter()
            .map(|res| (res.key(), res))
            .collect();
        let mut events = Events::new();
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|key| !now.contains_key(key))
            .cloned()
            .collect();
        for key in gone {
            events.extend(self.remove(&key));
        }
        for (key, resource) in now {
            events.extend(self.put(key, resource));
        }
        Ok((watch, events))
    }

    /// Lists again after a watch was lost, as often as it takes.
    async fn again(
        &mut self,
        lost: &str,
        context: &mut Context<'_>,
    ) -> Result<(Watch, Events), Fatal> {
        let mut told = false;
        loop {
            match self.list(context).await {
                Ok(listed) => return Ok(listed),
                Err(Fatal::Unreachable(error)) => {
                    if !told {
                        drop(writeln!(
                            context.streams.stderr,
                            "{lost}; {error}; trying again"
                        ));
                        told = true;
                    }
                    tokio::time::sleep(context.look_again).await;
                }
                Err(other) => return Err(other),
            }
        }
    }

    fn take(&mut self, changes: Vec<Change>, context: &mut Context<'_>) -> Result<Events, Fatal> {
        let mut events = Events::new();
        for change in changes {
            let Some(key) = context.client.parse(change.key()) else {
                continue;
            };
            match change {
                Change::Delete { .. } => events.extend(self.remove(&key)),
                Change::Put(kv) => match context.client.decode(&key, &kv) {
                    Ok(resource) => events.extend(self.put(key, resource)),
                    Err(error) => {
                        context.streams.fail(&error.to_string())?;
                        events.extend(self.remove(&key));
                    }
                },
            }
        }
        Ok(events)
    }

    fn remove(&mut self, key: &ResourceKey) -> Option<(&'static str, AnyResource)> {
        self.known.remove(key).map(|resource| (DELETED, resource))
    }

    fn put(
        &mut self,
        key: ResourceKey,
        resource: AnyResource,
    ) -> Option<(&'static str, AnyResource)> {
        let names = &self.named.names;
        if !(names.is_empty() || names.contains(&key.name)) {
            return None;
        }
        if !self.args.selects(&resource) {
            // It was asked for until it lost a label.
            return self.remove(&key);
        }
        match self.known.insert(key, resource.clone()) {
            None => Some((ADDED, resource)),
            Some(old) if old == resource => None,
            Some(_) => Some((MODIFIED, resource)),
        }
    }

    fn is_table(&self) -> bool {
        matches!(
            self.args.output,
            Output::Ps | Output::Wide | Output::Columns(_)
        )
    }

    /// Prints what there is at first; a table also if there is nothing.
    fn begin(&mut self, events: Events, context: &mut Context<'_>) -> Result<(), Fatal> {
        if !self.is_table() {
            return self.print(&events, context);
        }
        let rows = events
            .iter()
            .map(|(event, resource)| (Some(*event), resource));
        let table = self.printer.table(self.named.kind, rows)?;
        let rows = table.render_rows(&mut self.widths);
        let heading = table.render_for(context.streams.terminal);
        let heading = heading.lines().next().unwrap_or_default();
        let heading = if self.args.no_headers {
            String::new()
        } else {
            format!("{heading}\n")
        };
        context.streams.print(&format!("{heading}{rows}"))?;
        Ok(context.streams.stdout.flush()?)
    }

    fn print(&mut self, events: &Events, context: &mut Context<'_>) -> Result<(), Fatal> {
        if events.is_empty() {
            return Ok(());
        }
        let text = if self.is_table() {
            let rows = events
                .iter()
                .map(|(event, resource)| (Some(*event), resource));
            let table = self.printer.table(self.named.kind, rows)?;
            table.render_rows(&mut self.widths)
        } else {
            let texts = events
                .iter()
                .map(|(event, resource)| self.printer.event(event, resource));
            texts.collect::<Result<String, _>>()?
        };
        context.streams.print(&text)?;
        Ok(context.streams.stdout.flush()?)
    }
}
