//! Resources from files, folders and standard input.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use margay_model::any::AnyResource;
use margay_model::defaults::DEFAULT_NAMESPACE;
use margay_model::manifest::{Document, DocumentError, decode_manifest};
use margay_policy::selector::Selector;

use crate::cli::{Files, Which};
use crate::failure::Fatal;

/// Endings of the files that are read in a folder.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// One document of a file.
pub(crate) struct Source {
    /// Where it stands, for people: file, document, line.
    pub(crate) place: String,
    /// The resource; or all that is wrong with it, a line each.
    pub(crate) result: Result<AnyResource, Vec<String>>,
}

/// Reads all documents of these paths. `namespace` is for resources that name none.
pub(crate) fn read(
    paths: &[PathBuf],
    recursive: bool,
    namespace: Option<&str>,
    stdin: &mut dyn Read,
) -> Result<Vec<Source>, Fatal> {
    let documents = documents(paths, recursive, namespace, stdin)?;
    let sources = documents.into_iter().map(|(file, doc)| source(&file, doc));
    Ok(sources.collect())
}

/// All documents of these paths with the file that each stands in.
fn documents(
    paths: &[PathBuf],
    recursive: bool,
    namespace: Option<&str>,
    stdin: &mut dyn Read,
) -> Result<Vec<(String, Document)>, Fatal> {
    let mut all = Vec::new();
    for path in paths {
        for (name, text) in texts(path, recursive, stdin)? {
            for mut document in decode_manifest(&text, &check_selector) {
                if let Ok(resource) = &mut document.result
                    && resource.kind().namespaced()
                {
                    let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE).to_owned();
                    resource.metadata_mut().namespace.get_or_insert(namespace);
                }
                all.push((name.clone(), document));
            }
        }
    }
    if all.is_empty() {
        let names: Vec<_> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        return Err(Fatal::NoResources(names.join(", ")));
    }
    Ok(all)
}

/// Reads what the flags of a verb name.
pub(crate) fn read_files(files: &Files, stdin: &mut dyn Read) -> Result<Vec<Source>, Fatal> {
    let namespace = files.namespace.as_deref();
    unless_empty(
        files.skip_empty,
        read(&files.file, files.recursive, namespace, stdin),
    )
}

/// Reads the files that stand for names.
pub(crate) fn read_which(which: &Which, stdin: &mut dyn Read) -> Result<Vec<Source>, Fatal> {
    let namespace = which.namespace.as_deref();
    unless_empty(
        which.skip_empty,
        read(&which.file, which.recursive, namespace, stdin),
    )
}

/// Reads the documents of what the flags of a verb name, each with its file.
pub(crate) fn read_documents(
    files: &Files,
    stdin: &mut dyn Read,
) -> Result<Vec<(String, Document)>, Fatal> {
    let namespace = files.namespace.as_deref();
    unless_empty(
        files.skip_empty,
        documents(&files.file, files.recursive, namespace, stdin),
    )
}

fn unless_empty<T>(skip: bool, read: Result<Vec<T>, Fatal>) -> Result<Vec<T>, Fatal> {
    match read {
        Err(Fatal::NoResources(_)) if skip => Ok(Vec::new()),
        other => other,
    }
}

/// Names and contents of all files of these paths, folders to any depth.
pub(crate) fn all_texts(
    paths: &[PathBuf],
    stdin: &mut dyn Read,
) -> Result<Vec<(String, String)>, Fatal> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(texts(path, true, stdin)?);
    }
    Ok(all)
}

/// The grammar of selectors.
pub(crate) fn check_selector(text: &str) -> Result<(), String> {
    Selector::from_str(text)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// A document as the verbs that change something take it.
pub(crate) fn source(file: &str, document: Document) -> Source {
    let item = document
        .item
        .map_or_else(String::new, |item| format!(" item {item}"));
    let place = format!(
        "{file}: document {}{item} (line {})",
        document.index, document.line
    );
    let subject = document.subject.to_string();
    let result = match document.result {
        Ok(resource) => Ok(resource),
        Err(DocumentError::Invalid(errors)) => Err(errors
            .iter()
            .map(|error| format!("{subject}: {error}"))
            .collect()),
        Err(syntax) => Err(vec![syntax.to_string()]),
    };
    Source { place, result }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Fatal {
    Fatal::Usage(format!("{}: {error}", path.display()))
}

/// Names and contents of the files that a path stands for.
fn texts(
    path: &Path,
    recursive: bool,
    stdin: &mut dyn Read,
) -> Result<Vec<(String, String)>, Fatal> {
    if path == Path::new("-") {
        let mut text = String::new();
        stdin
            .read_to_string(&mut text)
            .map_err(|error| unreadable(path, &error))?;
        return Ok(vec![("standard input".to_owned(), text)]);
    }
    let mut files = Vec::new();
    if path.is_dir() {
        collect(path, recursive, &mut files)?;
    } else {
        files.push(path.to_owned());
    }
    let read = |file: PathBuf| match std::fs::read_to_string(&file) {
        Ok(text) => Ok((file.display().to_string(), text)),
        Err(error) => Err(unreadable(&file, &error)),
    };
    files.into_iter().map(read).collect()
}

/// The files of a folder in alphabetical order, then those of its folders.
fn collect(folder: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> Result<(), Fatal> {
    let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|error| unreadable(folder, &error))?.path());
    }
    paths.sort();
    let (folders, plain): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
    let wanted = |path: &PathBuf| {
        path.extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|e| ENDINGS.contains(&e))
    };
    files.extend(plain.into_iter().filter(wanted));
    if recursive {
        for folder in folders {
            collect(&folder, recursive, files)?;
        }
    }
    Ok(())
}
