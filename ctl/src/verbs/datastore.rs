//! `datastore`: the whole of it to a file and back, and the lock.

mod established;
mod export;
mod file;
mod import;
mod lock;

use std::path::PathBuf;

pub(crate) use export::text as export_text;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Fatal;

/// The datastore as a whole.
#[derive(Debug, Subcommand)]
pub(crate) enum DatastoreCommand {
    /// Write everything to a file: resources of all kinds, and addresses with their records
    #[command(after_help = EXPORT_HELP)]
    Export(Export),
    /// Read a file that export wrote, or that of the established client, into an empty datastore
    #[command(after_help = IMPORT_HELP)]
    Import(Import),
    /// Say that the datastore is not ready: agents of the established system change nothing meanwhile
    #[command(after_help = LOCK_HELP)]
    Lock,
    /// Say that the datastore is ready again
    #[command(after_help = "Example:\n  margayctl datastore unlock")]
    Unlock,
    /// The same, as the established client spells it
    #[command(subcommand)]
    Migrate(MigrateCommand),
}

/// The same verbs in the established spelling.
#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// As datastore export
    #[command(after_help = "Example:\n  margayctl datastore migrate export > cluster.export")]
    Export(Export),
    /// As datastore import
    #[command(after_help = "Example:\n  margayctl datastore migrate import -f cluster.export")]
    Import(Import),
    /// As datastore lock
    #[command(after_help = "Example:\n  margayctl datastore migrate lock")]
    Lock,
    /// As datastore unlock
    #[command(after_help = "Example:\n  margayctl datastore migrate unlock")]
    Unlock,
}

const EXPORT_HELP: &str = "\
Example:
  margayctl datastore export -o cluster.export

Everything is of one revision, so nothing needs to stop or to be locked. Left out are signs of life,
which have no meaning elsewhere. The file is text: a line that describes it, a line for each key with
the value as it is stored, and a line that ends it.";

const IMPORT_HELP: &str = "\
Example:
  margayctl datastore import -f cluster.export

The datastore must hold nothing else. It is locked while the import runs and gets the state that it
had in the file as the last step. An import that was cut off can be run again: what is there already
stays. Files of the established client (datastore migrate export) have no endpoints and profiles, so
neither will the datastore.";

const LOCK_HELP: &str = "\
Example:
  margayctl datastore lock && margayctl datastore export -o cluster.export; margayctl datastore unlock

Sets datastoreReady of ClusterInformation/default to false, and makes that if there is none. While it is
locked the agents attach no container (the runtime is told to try again later) and clear nothing up; what
is attached works on, and can be detached. Resources can be changed by hand as before.";

/// Where to write to.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The file, readable by its owner only [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What to read.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE")]
    file: PathBuf,
}

/// Does what is asked for.
pub(crate) async fn run(
    command: &DatastoreCommand,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    use {DatastoreCommand as D, MigrateCommand as M};
    match command {
        D::Export(args) | D::Migrate(M::Export(args)) => export::export(args, context).await,
        D::Import(args) | D::Migrate(M::Import(args)) => import::import(args, context).await,
        D::Lock | D::Migrate(M::Lock) => lock::set(false, context).await,
        D::Unlock | D::Migrate(M::Unlock) => lock::set(true, context).await,
    }
}
