//! `config show`: which settings hold, and where each comes from.

use clap::{Args, Subcommand};
use margay_api::config::{HostSettings, Setting};
use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::StringMap;
use margay_model::settings::{ENVIRONMENT, Parameter, parameters};
use margay_policy::selector::Selector;
use serde_json::{Map, Value, json};

use crate::agent::Agent;
use crate::cli::StatusOutput;
use crate::config::Explained;
use crate::context::{Context, Streams};
use crate::failure::Fatal;
use crate::output::jsonpath;
use crate::table::Table;
use crate::verbs::fatal;
use crate::verbs::selector::print_json;

pub(crate) const HELP: &str = "\
Examples:
  margayctl config show
  margayctl config show n1

Without NODE: the settings of this program. With it: every parameter of FelixConfiguration and
BGPConfiguration as it holds on the host, and where it is from. The first that says anything wins, and
what it hides is told: the environment of the agent (FELIX_LOGPREFIX), felix in its file, the object
node.NAME, objects whose nodeSelector selects the host, the object default, the agent's default. The
agent is asked for the first two. What no agent of Margay acts upon is marked; it is kept for others.";

/// Settings.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show which settings hold, and where each comes from
    #[command(after_help = HELP)]
    Show(Show),
}

/// Whose settings.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The host; without it, this program
    #[arg(value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    pub(crate) output: StatusOutput,
}

/// Prints the settings of this program, or of a host.
pub(crate) async fn show(args: &Show, context: &mut Context<'_>) -> Result<(), Fatal> {
    if let Some(node) = &args.node {
        let settings = of_node(node, context).await?;
        return print(args.output, &settings, &mut context.streams);
    }
    let settings = &context.explained;
    if args.output == StatusOutput::Json {
        let value = |e: &Explained| json!({"name": e.name, "value": e.value, "source": e.source});
        let values: Vec<_> = settings.iter().map(value).collect();
        return print_json(&values.into(), &mut context.streams);
    }
    let mut table = Table::new(["SETTING", "VALUE", "SOURCE"]);
    for setting in settings {
        table.row([&setting.name, &setting.value, &setting.source]);
    }
    context.streams.show(&table)
}

/// Where settings are from.
struct Layer {
    /// In one word, for programs.
    kind: &'static str,
    /// For people; of the environment the variables' first letters.
    source: String,
    settings: Map<String, Value>,
}

impl Layer {
    fn source_of(&self, parameter: &str) -> String {
        match self.kind {
            "environment" => format!("{}{}", self.source, parameter.to_ascii_uppercase()),
            _ => self.source.clone(),
        }
    }
}

/// A parameter as it holds on a host.
struct Holds {
    name: String,
    value: Value,
    text: String,
    layer: &'static str,
    source: String,
    hides: Vec<(String, String)>,
    used: bool,
}

/// Every parameter as it holds on a host.
async fn of_node(node: &str, context: &mut Context<'_>) -> Result<Vec<Holds>, Fatal> {
    let agent = async {
        let agent = Agent::of(Some(node), &context.socket, &context.client).await?;
        Ok::<_, Fatal>(agent.settings().await?)
    };
    let mut felix = match agent.await {
        Ok(told) => of_host(told),
        Err(why) => {
            let line = format!("what environment and file of {node} say is not known: {why}");
            context.streams.note(&line)?;
            Vec::new()
        }
    };
    let key = ResourceKey::global(Kind::Node, node);
    let labels = match context.client.get(&key).await {
        Ok(found) => found.map(|node| node.metadata().labels.clone()),
        Err(failure) => {
            context.streams.fail_one(None, &key, &failure)?;
            None
        }
    };
    felix.extend(stored(Kind::FelixConfiguration, node, labels.as_ref(), context).await?);
    let bgp = stored(Kind::BgpConfiguration, node, None, context).await?;
    let mut all = holding(Kind::FelixConfiguration, &felix);
    all.extend(holding(Kind::BgpConfiguration, &bgp));
    Ok(all)
}

fn of_host(told: HostSettings) -> Vec<Layer> {
    let settings = |list: Vec<Setting>| {
        let value = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
        let settings = list.iter().map(|s| (s.name.clone(), value(&s.json)));
        settings.collect()
    };
    vec![
        Layer {
            kind: "environment",
            source: format!("environment {ENVIRONMENT}"),
            settings: settings(told.environment),
        },
        Layer {
            kind: "file",
            source: "the agent's file".to_owned(),
            settings: settings(told.file),
        },
    ]
}

/// What the datastore has for a host, what wins first.
async fn stored(
    kind: Kind,
    node: &str,
    labels: Option<&StringMap>,
    context: &mut Context<'_>,
) -> Result<Vec<Layer>, Fatal> {
    let listed = context.client.list(kind, None).await;
    let listed = listed.map_err(|error| fatal(&error))?;
    for error in &listed.damaged {
        context.streams.fail(&error.to_string())?;
    }
    let own = format!("node.{node}");
    let mut layers = Vec::new();
    for resource in &listed.resources {
        let name = &resource.metadata().name;
        let (rank, layer) = match resource {
            _ if *name == own => (0, "node"),
            _ if name == "default" => (2, "global"),
            AnyResource::FelixConfiguration(felix) if !name.starts_with("node.") => {
                let selector = felix.spec.node_selector();
                let selector = selector.and_then(|text| text.parse::<Selector>().ok());
                let selects = |selector: &Selector| labels.is_some_and(|l| selector.matches(l));
                match selector.filter(selects) {
                    Some(_) => (1, "selector"),
                    None => continue,
                }
            }
            _ => continue,
        };
        let value = serde_json::to_value(resource).map_err(std::io::Error::from)?;
        if let Value::Object(spec) = &value["spec"] {
            let layer = Layer {
                kind: layer,
                source: resource.key().to_string(),
                settings: spec.clone(),
            };
            layers.push((rank, layer));
        }
    }
    layers.sort_by_key(|(rank, _)| *rank);
    Ok(layers.into_iter().map(|(_, layer)| layer).collect())
}

fn holding(kind: Kind, layers: &[Layer]) -> Vec<Holds> {
    let known = parameters(kind);
    let mut all: Vec<Holds> = known.iter().map(|p| holds(kind, *p, layers)).collect();
    // What another release wrote.
    let unknown = layers.iter().flat_map(|layer| layer.settings.keys());
    let mut unknown: Vec<_> = unknown
        .filter(|name| *name != "nodeSelector" && known.iter().all(|p| p.name != *name))
        .collect();
    unknown.sort();
    unknown.dedup();
    let unknown = unknown
        .into_iter()
        .map(|name| value_of(kind, name, None, layers));
    all.extend(unknown);
    all
}

fn holds(kind: Kind, parameter: Parameter, layers: &[Layer]) -> Holds {
    value_of(kind, parameter.name, parameter.default, layers)
}

fn value_of(kind: Kind, name: &str, default: Option<&str>, layers: &[Layer]) -> Holds {
    let mut found = layers
        .iter()
        .filter_map(|layer| Some((layer, layer.settings.get(name)?)));
    let first = found.next();
    let hides = found.map(|(layer, value)| (layer.source_of(name), jsonpath::text(value)));
    let hides = hides.collect();
    let name = name.to_owned();
    let used = default.is_some();
    let (value, text, layer, source) = match first {
        Some((layer, value)) => (
            value.clone(),
            jsonpath::text(value),
            layer.kind,
            layer.source_of(&name),
        ),
        None => {
            let text = default.unwrap_or("(unset)").to_owned();
            let value = default.map_or(Value::Null, Value::from);
            (value, text, "default", "default".to_owned())
        }
    };
    Holds {
        name: format!("{kind}.{name}"),
        value,
        text,
        layer,
        source,
        hides,
        used,
    }
}

fn print(output: StatusOutput, all: &[Holds], streams: &mut Streams<'_>) -> Result<(), Fatal> {
    if output == StatusOutput::Json {
        let value = |holds: &Holds| {
            let hides = holds.hides.iter();
            let hides = hides.map(|(source, value)| json!({"source": source, "value": value}));
            json!({
                "name": holds.name, "value": holds.value, "layer": holds.layer,
                "source": holds.source, "hides": hides.collect::<Vec<_>>(), "used": holds.used,
            })
        };
        let values: Vec<_> = all.iter().map(value).collect();
        return print_json(&values.into(), streams);
    }
    let mut table = Table::new(["SETTING", "VALUE", "SOURCE", "EFFECT"]);
    for holds in all {
        let hides = holds.hides.iter();
        let hides: Vec<_> = hides
            .map(|(source, value)| format!(", hides {value} of {source}"))
            .collect();
        let effect = if holds.used {
            ""
        } else {
            "not used by this agent"
        };
        table.row([
            holds.name.clone(),
            holds.text.clone(),
            format!("{}{}", holds.source, hides.concat()),
            effect.to_owned(),
        ]);
    }
    streams.show(&table)
}
