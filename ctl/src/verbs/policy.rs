//! `policy`: what the policies of a cluster decide, and why.

mod cases;
mod chain;
pub(crate) mod cluster;
pub(crate) mod decision;
mod explain;
mod host;
mod matrix;
mod pods;
mod show;
mod test;
pub(crate) mod traffic;
pub(crate) mod words;

use std::path::PathBuf;

use clap::Subcommand;
use margay_model::any::AnyResource;

use crate::context::{Context, Streams};
use crate::failure::Fatal;

/// Questions about policy.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say what becomes of a packet, and why: tier by tier, policy by policy, rule by rule
    #[command(after_help = explain::HELP)]
    Explain(explain::Explain),
    /// Hold policies against a table of expectations; needs no cluster
    #[command(after_help = test::HELP)]
    Test(test::Test),
    /// List what applies to an endpoint, in order
    #[command(after_help = show::HELP)]
    Show(show::Show),
    /// Print or draw who may talk to whom
    #[command(after_help = "Example:\n  margayctl policy matrix -n prod --port 5432 -o dot")]
    Matrix(matrix::Matrix),
}

impl PolicyCommand {
    /// The files that stand for the cluster.
    fn files(&self) -> &[PathBuf] {
        match self {
            Self::Test(_) => &[],
            Self::Explain(args) => &args.file,
            Self::Show(args) => &args.file,
            Self::Matrix(args) => &args.file,
        }
    }

    fn run(&self, resources: Vec<AnyResource>, streams: &mut Streams<'_>) -> Result<(), Fatal> {
        match self {
            Self::Test(args) => test::test(args, streams),
            Self::Explain(args) => explain::explain(args, resources, streams),
            Self::Show(args) => show::offline(args, resources, streams),
            Self::Matrix(args) => matrix::matrix(args, resources, streams),
        }
    }
}

/// What needs no datastore.
pub(crate) fn offline(
    command: &PolicyCommand,
    streams: &mut Streams<'_>,
) -> Option<Result<(), Fatal>> {
    if let PolicyCommand::Test(args) = command {
        return Some(test::test(args, streams));
    }
    if command.files().is_empty() {
        return None;
    }
    let resources = cluster::read_files(command.files(), streams);
    Some(resources.and_then(|resources| command.run(resources, streams)))
}

/// What needs the datastore.
pub(crate) async fn online(
    command: &PolicyCommand,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    let resources = cluster::read_datastore(context).await?;
    match command {
        PolicyCommand::Show(args) => show::online(args, resources, context).await,
        _ => command.run(resources, &mut context.streams),
    }
}
