//! `convert`.

use clap::{Args, ValueEnum};

use crate::cli::Files;
use crate::context::Streams;
use crate::failure::Fatal;
use crate::files;
use crate::verbs::selector::print_json;
use crate::yaml;

/// What to convert.
#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// Where the documents are.
    #[command(flatten)]
    files: Files,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

/// A notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// YAML, a document for each resource.
    Yaml,
    /// JSON, a list.
    Json,
}

/// Prints the resources of the files, with defaults filled in.
pub(crate) fn convert(args: &Convert, streams: &mut Streams<'_>) -> Result<(), Fatal> {
    let files = &args.files;
    let namespace = files.namespace.as_deref();
    let mut values = Vec::new();
    for source in files::read(&files.file, files.recursive, namespace, streams.stdin)? {
        match source.result {
            Ok(resource) => {
                let value = serde_json::to_value(resource.with_defaults());
                values.push(value.map_err(std::io::Error::from)?);
            }
            Err(errors) => {
                for error in errors {
                    streams.fail(&format!("{}: {error}", source.place))?;
                }
            }
        }
    }
    match args.output {
        Format::Yaml => {
            let documents: Vec<_> = values.iter().map(yaml::render).collect();
            streams.print(&documents.join("---\n"))
        }
        Format::Json => print_json(&values.into(), streams),
    }
}
