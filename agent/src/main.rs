//! `margayd`, the agent of a host: BGP speaker, kernel routes, packet policy and addresses in one process.
//!
//! `main` reads the configuration, builds the parts, and waits: for a signal, or for a part that ended.
//! Exit status: 0 after SIGTERM or SIGINT, 1 when the agent could not start or a part failed, 2 for wrong
//! usage. Kernel state is left in place in every case. SIGHUP has it read its configuration again, by starting anew in
//! the same process; BGP sessions go on.

mod accept;
mod answers;
mod audit;
mod bgp;
mod bgp_view;
mod causes;
mod cni;
mod collect;
mod config;
mod derive;
mod dns;
mod docker;
mod fault;
mod flows;
mod graph;
mod heap;
mod http;
mod ipam_task;
mod kernel;
mod kernel_view;
mod memory;
mod meters;
mod metrics;
mod node;
mod notify;
mod page;
mod reaper;
mod report;
mod server;
mod status;
mod translate;
mod tunnels;
mod wiring;
mod world;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tracing::error;
use tracing_subscriber::EnvFilter;

use config::{Config, LogFormat};
use margay_speaker::carry::{self, ForImage};
use wiring::Ended;

/// The Margay agent of one host.
#[derive(Debug, Parser)]
#[command(name = "margayd", version, about)]
struct Arguments {
    /// Configuration file (YAML); without one, every setting has its default.
    #[arg(long, value_name = "FILE", env = "MARGAY_CONFIG")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    // Before anything else is opened.
    let found = carry::find();
    // Before an upgrade replaces the file: afterwards the name of a running program is another.
    let program = std::env::current_exe();
    let arguments = Arguments::parse();
    let config = match Config::load(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            log_to_stderr("info", LogFormat::Text);
            error!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    log_to_stderr(&config.log, config.log_format);
    let read_again = move || Config::load(arguments.config.as_deref()).map(drop);
    let ended = wiring::run(config, found, read_again).and_then(|ended| match ended {
        Ended::Stopped => Ok(()),
        Ended::Reload(left) => start_anew(&program?, &left),
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// In this process, with the same arguments: for the service manager nothing ends. Returns only when it fails.
fn start_anew(program: &Path, left: &ForImage) -> anyhow::Result<()> {
    Err(left.execute(program)).with_context(|| format!("cannot start {} anew", program.display()))
}

/// A bad filter directive falls back to `info` with a word about it, rather than to silence.
fn log_to_stderr(directives: &str, format: LogFormat) {
    let (filter, bad) = match EnvFilter::try_new(directives) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    if let Some(error) = bad {
        tracing::warn!(directives, %error, "log: not a filter, using info");
    }
}
