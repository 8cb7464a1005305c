//! `config show`: which settings hold, and where each comes from.

use clap::{Args, Subcommand};
use margay_model::kind::{Kind, ResourceKey};
use serde_json::{Map, Value, json};

use crate::cli::StatusOutput;
use crate::config::Explained;
use crate::context::Context;
use crate::failure::Fatal;
use crate::output::jsonpath;
use crate::table::Table;
use crate::verbs::selector::print_json;

pub(crate) const HELP: &str = "\
Examples:
  margayctl config show
  margayctl config show n1

Without NODE: the settings of this program. With it: every setting of FelixConfiguration and
BGPConfiguration that the datastore has for the host, and what it hides; what is not listed has its
default. What the agent's own file says is in the log of its start.";

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
    let settings = match &args.node {
        None => context.explained.clone(),
        Some(node) => of_node(node, context).await?,
    };
    if args.output == StatusOutput::Json {
        let value = |e: &Explained| json!({"name": e.name, "value": e.value, "source": e.source});
        let values: Vec<_> = settings.iter().map(value).collect();
        return print_json(&values.into(), &mut context.streams);
    }
    let mut table = Table::new(["SETTING", "VALUE", "SOURCE"]);
    for setting in &settings {
        table.row([&setting.name, &setting.value, &setting.source]);
    }
    context.streams.show(&table)
}

/// The settings that the datastore has for a host, field by field: its own object wins.
async fn of_node(node: &str, context: &mut Context<'_>) -> Result<Vec<Explained>, Fatal> {
    let mut settings = Vec::new();
    for kind in [Kind::FelixConfiguration, Kind::BgpConfiguration] {
        let mut layers = Vec::new();
        for name in [format!("node.{node}"), "default".to_owned()] {
            let key = ResourceKey::global(kind, &name);
            match context.client.get(&key).await {
                Ok(Some(resource)) => {
                    let value = serde_json::to_value(&resource).map_err(std::io::Error::from)?;
                    if let Value::Object(spec) = &value["spec"] {
                        layers.push((key.to_string(), spec.clone()));
                    }
                }
                Ok(None) => {}
                Err(failure) => context.streams.fail_one(None, &key, &failure)?,
            }
        }
        settings.extend(merged(kind, &layers));
    }
    Ok(settings)
}

fn merged(kind: Kind, layers: &[(String, Map<String, Value>)]) -> Vec<Explained> {
    let mut names: Vec<&String> = layers.iter().flat_map(|(_, spec)| spec.keys()).collect();
    names.sort();
    names.dedup();
    let setting = |name: &String| {
        let mut found = layers
            .iter()
            .filter_map(|(source, spec)| Some((source, spec.get(name)?)));
        let (source, value) = found.next()?;
        let hides: Vec<_> = found
            .map(|(source, value)| format!("{} of {source}", jsonpath::text(value)))
            .collect();
        let source = match hides.as_slice() {
            [] => source.clone(),
            hides => format!("{source}, hides {}", hides.join(", ")),
        };
        Some(Explained {
            name: format!("{kind}.{name}"),
            value: jsonpath::text(value),
            source,
        })
    };
    names.into_iter().filter_map(setting).collect()
}
