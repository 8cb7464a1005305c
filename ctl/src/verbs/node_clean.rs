//! `node clean`: a host without anything of ours.

use std::os::unix::net::UnixStream;
use std::path::Path;

use clap::Args;
use margay_dataplane::clean::{CleanError, Found, clean, look};

use crate::context::Streams;
use crate::failure::Fatal;

pub(crate) const HELP: &str = "\
Example:
  margayctl node clean --dry-run

What is ours goes, each thing with a line: containers' interfaces, routes (protocol 77), the table margay in nftables,
chains mgy-* and ipsets in both variants of iptables, tunnel devices. Containers lose their network. Nothing of others
is touched, nor is the datastore: for that there is node remove. An agent that runs would put all of it back, so it has
to be stopped first.";

/// How to clean.
#[derive(Debug, Args)]
pub(crate) struct Clean {
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Even while the agent runs
    #[arg(long)]
    force: bool,
    /// What the names of containers' interfaces begin with
    #[arg(long, value_name = "PREFIX", default_value = "mgy")]
    interface_prefix: String,
}

/// Tells what there is of ours on this host, and removes it.
pub(crate) fn run(args: &Clean, socket: &Path, streams: &mut Streams<'_>) -> Result<(), Fatal> {
    if !args.dry_run && !args.force && UnixStream::connect(socket).is_ok() {
        let line = format!(
            "the agent at {} runs and would put everything back; stop it first, or use --force",
            socket.display()
        );
        return streams.fail(&line);
    }
    let refused = |error: CleanError| Fatal::Refused(error.to_string());
    let found = look(&args.interface_prefix).map_err(refused)?;
    if args.dry_run {
        return tell(&found, streams);
    }
    clean(&found).map_err(refused)?;
    tell(&found, streams)?;
    let left = look(&args.interface_prefix).map_err(refused)?;
    for line in left.lines() {
        streams.fail(&format!("{line}: still there"))?;
    }
    Ok(())
}

fn tell(found: &Found, streams: &mut Streams<'_>) -> Result<(), Fatal> {
    match found.is_empty() {
        true => streams.say("nothing of ours on this host"),
        false => streams.print(&found.to_string()),
    }
}
