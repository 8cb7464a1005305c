//! A BGP daemon from a file: for interoperability tests, benches, and as a plain route server.
//!
//! It writes nothing to the kernel's routing table unless `kernel` is configured. SIGHUP reads the file
//! again, SIGUSR1 writes the table to `mrt.table`; SIGTERM and SIGINT stop it: with a Cease, and without
//! kernel routes, unless graceful restart is configured.

mod kernel;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Parser;
use margay_speaker::{
    DaemonConfig, MrtConfig, Queries, Shutdown, Speaker,
    bmp::Station,
    mrt::{self, UpdateLog},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

use kernel::{End, KernelRoutes};

/// Speaks BGP as a file says.
#[derive(Debug, Parser)]
#[command(name = "margay-speaker", version)]
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
    // Without the kernel nobody needs them: dropped, they are not kept either.
    let kernel = config
        .kernel
        .as_ref()
        .map(|kernel| KernelRoutes::spawn(kernel, fib))
        .transpose()?;
    let queries = speaker.queries();
    let stations = stations(&config, &queries);
    let log = config.mrt.updates.clone().map(|path| {
        let queries = queries.clone();
        UpdateLog::spawn(path, move || Some(queries.clone()))
    });

    let every = Duration::from_secs(config.mrt.table_interval_secs);
    let mut table_due = tokio::time::interval(every.max(Duration::from_secs(1)));
    table_due.reset();
    let mut write = signal(SignalKind::user_defined1())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = hangup.recv() => match reload(&args, &mut speaker, &config).await {
                Ok(new) => config = new,
                Err(error) => error!("kept the configuration: {error:#}"),
            },
            _ = write.recv() => write_table(&config.mrt, &queries).await,
            _ = table_due.tick(), if !every.is_zero() => write_table(&config.mrt, &queries).await,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    let (how, routes) = match config.speaker.graceful_restart {
        Some(_) => (Shutdown::Restart, End::Leave),
        None => (Shutdown::Administrative(String::new()), End::Remove),
    };
    // Peers are told before there is no way left for what they send.
    speaker.shutdown(how).await;
    if let Some(kernel) = kernel {
        kernel.stop(routes).await;
    }
    drop(log);
    for station in stations {
        station.shutdown().await;
    }
    Ok(())
}

fn stations(config: &DaemonConfig, queries: &Queries) -> Vec<Station> {
    let name = format!("margay-speaker {}", config.speaker.router_id);
    let station = |bmp| {
        let queries = queries.clone();
        Station::spawn(bmp, name.clone(), move || Some(queries.clone()))
    };
    config.bmp.iter().cloned().map(station).collect()
}

async fn write_table(config: &MrtConfig, queries: &Queries) {
    let Some(path) = &config.table else {
        return error!("there is no mrt.table to write the table to");
    };
    match mrt::write_table(queries, path).await {
        Ok(()) => info!(path = %path.display(), "wrote the table"),
        Err(error) => error!("{:#}", anyhow::Error::from(error)),
    }
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
