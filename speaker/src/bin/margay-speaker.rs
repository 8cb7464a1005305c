//! A BGP daemon from a file: for interoperability tests, benches, and as a plain route server.
//!
//! It writes nothing to the kernel's routing table. SIGHUP reads the file again; SIGTERM and
//! SIGINT stop it, with a Cease unless graceful restart is configured.

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::Parser;
use margay_speaker::{DaemonConfig, Shutdown, Speaker};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// Speaks BGP as a file says.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Configuration, YAML.
    #[arg(long, short)]
    config: PathBuf,
    /// Tell peers that this is a restart with forwarding preserved (needs graceful_restart).
    #[arg(long)]
    restarting: bool,
}

impl Args {
    fn read(&self) -> anyhow::Result<DaemonConfig> {
        let text = fs::read_to_string(&self.config)
            .with_context(|| format!("cannot read {}", self.config.display()))?;
        let mut config: DaemonConfig = text
            .parse()
            .with_context(|| format!("cannot understand {}", self.config.display()))?;
        if let Some(graceful) = &mut config.speaker.graceful_restart {
            graceful.restarting |= self.restarting;
        }
        Ok(config)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let mut config = args.read()?;
    let (mut speaker, fib) = Speaker::spawn_with(config.speaker.clone(), config.local_routes())?;
    drop(fib);

    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = hangup.recv() => match reload(&args, &mut speaker, &config).await {
                Ok(new) => config = new,
                Err(error) => error!("kept the configuration: {error:#}"),
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    let how = match config.speaker.graceful_restart {
        Some(_) => Shutdown::Restart,
        None => Shutdown::Administrative(String::new()),
    };
    speaker.shutdown(how).await;
    Ok(())
}

async fn reload(
    args: &Args,
    speaker: &mut Speaker,
    old: &DaemonConfig,
) -> anyhow::Result<DaemonConfig> {
    let new = args.read()?;
    speaker.configure(new.speaker.clone()).await?;
    speaker.originate(new.changes_from(old)).await?;
    info!("read the configuration again");
    Ok(new)
}
