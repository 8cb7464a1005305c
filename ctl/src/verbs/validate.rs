//! `validate`.

use clap::{Args, ValueEnum};
use margay_model::manifest::{Document, DocumentError};
use serde_json::{Value, json};

use crate::cli::Files;
use crate::context::Streams;
use crate::failure::Fatal;
use crate::files;
use crate::verbs::selector::print_json;

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// Where the documents are.
    #[command(flatten)]
    files: Files,
    /// How to print: a line for each thing, or a JSON array of a record for each document with
    /// file, index, line, kind, namespace, name, valid and errors (path, message, line)
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// A notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines for people.
    Text,
    /// A JSON array with a record for each document.
    Json,
}

/// Checks all documents of the files.
pub(crate) fn validate(args: &Validate, streams: &mut Streams<'_>) -> Result<(), Fatal> {
    let documents = files::read_documents(&args.files, streams.stdin)?;
    match args.output {
        Format::Text => print_lines(documents, streams),
        Format::Json => {
            streams.failed |= documents.iter().any(|(_, doc)| doc.result.is_err());
            let records = documents.iter().map(|(file, doc)| record(file, doc));
            print_json(&records.collect(), streams)
        }
    }
}

fn print_lines(documents: Vec<(String, Document)>, streams: &mut Streams<'_>) -> Result<(), Fatal> {
    for (file, document) in documents {
        let source = files::source(&file, document);
        match source.result {
            Ok(resource) => streams.say(&format!("{}: valid", resource.key()))?,
            Err(errors) => {
                for error in errors {
                    streams.fail(&format!("{}: {error}", source.place))?;
                }
            }
        }
    }
    Ok(())
}

/// A document as a script sees it; of a list, each item has a record.
fn record(file: &str, document: &Document) -> Value {
    let subject = &document.subject;
    let mut namespace = subject.namespace.as_deref();
    let errors = match &document.result {
        Ok(resource) => {
            namespace = resource.metadata().namespace.as_deref();
            Vec::new()
        }
        Err(DocumentError::Invalid(errors)) => errors
            .iter()
            .map(|error| error_record(&error.path, &error.message(), error.line))
            .collect(),
        Err(DocumentError::Syntax { line, reason }) => {
            vec![error_record("", reason, Some(*line))]
        }
    };
    let mut record = json!({
        "file": file,
        "index": document.index,
        "line": document.line,
        "kind": subject.kind,
        "namespace": namespace,
        "name": subject.name,
        "valid": document.result.is_ok(),
        "errors": errors,
    });
    if let Some(item) = document.item {
        record["item"] = item.into();
    }
    record
}

fn error_record(path: &str, message: &str, line: Option<usize>) -> Value {
    let mut record = json!({"path": path, "message": message});
    if let Some(line) = line {
        record["line"] = line.into();
    }
    record
}
