//! Resources as text.

use margay_model::any::AnyResource;
use margay_model::asn::Asn;
use margay_model::kind::Kind;
use margay_model::meta::API_VERSION;
use serde_json::{Value, json};

use super::{Found, Get, cluster_asn};
use crate::columns::{self, NAMESPACE};
use crate::context::Context;
use crate::failure::Fatal;
use crate::output::{Column, Output, go_template, jsonpath};
use crate::table::Table;
use crate::terminal::Terminal;
use crate::yaml;

/// Shown for a field that is not there.
const NONE: &str = "<none>";

/// Makes text of resources.
pub(super) struct Printer<'a> {
    args: &'a Get,
    terminal: Terminal,
    /// The AS of hosts that name none.
    asn: Asn,
    /// Whether tables show namespaces.
    namespaces: bool,
}

impl<'a> Printer<'a> {
    /// Refuses columns that a kind does not have.
    pub(super) async fn new(
        args: &'a Get,
        found: &Found,
        context: &Context<'_>,
    ) -> Result<Self, Fatal> {
        for (kind, _) in &found.groups {
            check_columns(*kind, &args.output)?;
        }
        let nodes = found.groups.iter().any(|(kind, _)| *kind == Kind::Node);
        let asn = match &args.output {
            Output::Wide | Output::Columns(_) if nodes => cluster_asn(context).await?,
            Output::GoTemplate(_) => cluster_asn(context).await?,
            _ => Asn::DEFAULT,
        };
        Ok(Self {
            args,
            terminal: context.streams.terminal,
            asn,
            namespaces: found.namespaces,
        })
    }

    /// The text of all that was found.
    pub(super) fn all(&self, mut found: Found) -> Result<String, Fatal> {
        if self.args.export {
            let resources = found.groups.iter_mut().flat_map(|(_, resources)| resources);
            resources.for_each(strip);
            found.revision = found.revision.map(|_| 0);
        }
        match &self.args.output {
            Output::Ps | Output::Wide | Output::Columns(_) => self.tables(&found),
            Output::Name => {
                let resources = found.groups.iter().flat_map(|(_, resources)| resources);
                Ok(resources.map(name).collect())
            }
            _ => match self.value(&found)? {
                Some(value) => self.text(&value),
                None => Ok(String::new()),
            },
        }
    }

    fn tables(&self, found: &Found) -> Result<String, Fatal> {
        let mut tables = Vec::new();
        for (kind, resources) in &found.groups {
            if resources.is_empty() && found.revision.is_none() {
                continue;
            }
            let rows = resources.iter().map(|resource| (None, resource));
            let table = self.table(*kind, rows)?;
            tables.push(match self.args.no_headers {
                false => table.render_for(self.terminal),
                true => table.render_rows(&mut Vec::new()),
            });
        }
        Ok(tables.join("\n"))
    }

    /// A table of resources of one kind, with what happened to each if that is known.
    pub(super) fn table<'r>(
        &self,
        kind: Kind,
        rows: impl Iterator<Item = (Option<&'r str>, &'r AnyResource)> + Clone,
    ) -> Result<Table, Fatal> {
        let custom: &[Column] = match &self.args.output {
            Output::Columns(columns) => columns,
            _ => &[],
        };
        let own: &[&str] = match custom {
            [] => columns::headings(kind, self.args.output == Output::Wide),
            _ => &[],
        };
        let watched = self.args.watch || self.args.watch_only;
        let first = watched.then_some("EVENT");
        let namespace =
            (self.namespaces && kind.namespaced() && custom.is_empty()).then_some(NAMESPACE);
        let headings = own
            .iter()
            .copied()
            .chain(custom.iter().map(|c| c.heading.as_str()));
        let mut table = Table::new(first.into_iter().chain(namespace).chain(headings));
        for (event, resource) in rows {
            let mut cells: Vec<String> = event.into_iter().map(str::to_owned).collect();
            let known = namespace.into_iter().chain(own.iter().copied());
            cells.extend(known.map(|heading| columns::cell(resource, heading, self.asn)));
            if !custom.is_empty() {
                let value = value_of(resource)?;
                cells.extend(
                    custom
                        .iter()
                        .map(|column| self.custom(column, resource, &value)),
                );
            }
            table.row(cells);
        }
        Ok(table)
    }

    fn custom(&self, column: &Column, resource: &AnyResource, value: &Value) -> String {
        let Some(path) = &column.path else {
            return columns::cell(resource, &column.heading, self.asn);
        };
        match path.values(value).unwrap_or_default().as_slice() {
            [] => NONE.to_owned(),
            found => found
                .iter()
                .map(|value| jsonpath::text(value))
                .collect::<Vec<_>>()
                .join(","),
        }
    }

    /// The one resource asked for, or a list that `apply -f` takes back.
    fn value(&self, found: &Found) -> Result<Option<Value>, Fatal> {
        let resources = found.groups.iter().flat_map(|(_, resources)| resources);
        let mut values = resources.map(value_of).collect::<Result<Vec<_>, _>>()?;
        if found.single {
            return Ok(values.pop());
        }
        let kind = match found.groups.as_slice() {
            [(kind, _)] => format!("{kind}List"),
            _ => "List".to_owned(),
        };
        let metadata = match found.revision {
            Some(revision) if revision > 0 => json!({"resourceVersion": revision.to_string()}),
            _ => json!({}),
        };
        Ok(Some(json!({
            "apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "items": values,
        })))
    }

    fn text(&self, value: &Value) -> Result<String, Fatal> {
        let refused = |error: String| Fatal::Refused(error);
        match &self.args.output {
            Output::Json => {
                let text = serde_json::to_string_pretty(value).map_err(std::io::Error::from)?;
                Ok(text + "\n")
            }
            Output::JsonPath(template) => template
                .render(value)
                .map_err(|e| refused(format!("jsonpath: {e}"))),
            Output::GoTemplate(template) => self.go_template(template, value),
            _ => Ok(yaml::render(value)),
        }
    }

    fn go_template(
        &self,
        template: &go_template::Template,
        value: &Value,
    ) -> Result<String, Fatal> {
        let text = template.render(value, &self.asn.to_string());
        text.map_err(|error| Fatal::Refused(format!("go-template: {error}")))
    }

    /// The text of one resource that something happened to; for formats other than tables.
    pub(super) fn event(&self, event: &str, resource: &AnyResource) -> Result<String, Fatal> {
        let mut resource = resource.clone();
        if self.args.export {
            strip(&mut resource);
        }
        let mut value = value_of(&resource)?;
        if self.args.output_watch_events {
            value = json!({"type": event, "object": value});
        }
        match &self.args.output {
            Output::Name => Ok(name(&resource)),
            Output::Json => Ok(format!("{value}\n")),
            Output::Yaml => Ok(format!("---\n{}", yaml::render(&value))),
            _ => self.text(&value),
        }
    }
}

fn check_columns(kind: Kind, output: &Output) -> Result<(), Fatal> {
    let Output::Columns(columns) = output else {
        return Ok(());
    };
    let known = columns::known(kind);
    for Column { heading, path } in columns {
        if path.is_none() && !known.contains(&heading.as_str()) {
            return Err(Fatal::Usage(format!(
                "custom-columns: found {heading:?}, allowed for {kind}: {}, or HEADING:.path.to.field",
                known.join(", ")
            )));
        }
    }
    Ok(())
}

fn value_of(resource: &AnyResource) -> Result<Value, Fatal> {
    Ok(serde_json::to_value(resource).map_err(std::io::Error::from)?)
}

fn name(resource: &AnyResource) -> String {
    let kind = resource.kind().as_str().to_ascii_lowercase();
    format!("{kind}/{}\n", resource.metadata().name)
}

/// Takes away what belongs to one cluster.
fn strip(resource: &mut AnyResource) {
    let metadata = resource.metadata_mut();
    metadata.uid = None;
    metadata.resource_version = None;
    metadata.creation_timestamp = None;
    metadata.generation = None;
    metadata.extra.clear();
}
