//! A BGP daemon from a file: for interoperability tests, benches, and as a plain route server.
//!
//! It writes nothing to the kernel's routing table unless `kernel` is configured. SIGHUP reads the file
//! again, SIGUSR1 writes the table to `mrt.table`; SIGTERM and SIGINT stop it: with a Cease, and without
//! kernel routes, unless graceful restart is configured. Then it leaves its sessions to the process that a
//! service manager starts next, and on SIGUSR2 to its own program file, which it executes anew.

mod kernel;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Parser;
use margay_speaker::{
    DaemonConfig, Handover, MrtConfig, Queries, Shutdown, Speaker,
    bmp::Station,
    carry::{self, ForImage, Found, ServiceManager},
    mrt::{self, UpdateLog},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
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

/// What it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Stop,
    StartAnew,
}

/// How it has ended.
#[derive(Debug)]
enum Ended {
    Stopped,
    /// Its program file is to go on with what is left.
    StartAnew(ForImage),
}

fn main() -> anyhow::Result<()> {
    // Before anything else is opened.
    let found = carry::find();
    // Before an upgrade replaces the file: afterwards the name of a running program is another.
    let program = std::env::current_exe();
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(run(&args, found))?;
    drop(runtime);
    match ended {
        Ended::Stopped => Ok(()),
        Ended::StartAnew(left) => start_anew(&program?, &left),
    }
}

/// In this process, with the same arguments. Returns only when it fails.
fn start_anew(program: &Path, left: &ForImage) -> anyhow::Result<()> {
    Err(left.execute(program)).with_context(|| format!("cannot start {} anew", program.display()))
}

/// Speaks until a signal.
async fn run(args: &Args, found: Found) -> anyhow::Result<Ended> {
    let mut config = args.read()?;
    let left = found.open().ok();
    if let Some(graceful) = &mut config.speaker.graceful_restart {
        // Peers whose sessions cannot go on see a restart.
        graceful.restarting |= left.is_some();
    }
    let (mut speaker, fib) =
        Speaker::spawn_from(config.speaker.clone(), config.local_routes(), left)?;
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

    let told = serve(args, &mut config, &mut speaker, &queries).await?;
    let graceful = config.speaker.graceful_restart.is_some();
    let left = match told {
        Told::StartAnew => leave(speaker).await,
        Told::Stop if graceful && ServiceManager::is_there() => leave(speaker).await,
        Told::Stop => {
            let how = match graceful {
                true => Shutdown::Restart,
                false => Shutdown::Administrative(String::new()),
            };
            speaker.shutdown(how).await;
            None
        }
    };
    let routes = match graceful {
        true => End::Leave,
        false => End::Remove,
    };
    // Peers were told before there is no way left for what they send.
    if let Some(kernel) = kernel {
        kernel.stop(routes).await;
    }
    drop(log);
    for station in stations {
        station.shutdown().await;
    }
    Ok(match (told, left) {
        (Told::StartAnew, left) => Ended::StartAnew(ForImage::new(left)),
        (Told::Stop, None) => Ended::Stopped,
        (Told::Stop, Some(left)) => {
            carry::keep(left).await;
            Ended::Stopped
        }
    })
}

/// Does as signals say until one ends it.
async fn serve(
    args: &Args,
    config: &mut DaemonConfig,
    speaker: &mut Speaker,
    queries: &Queries,
) -> anyhow::Result<Told> {
    let every = Duration::from_secs(config.mrt.table_interval_secs);
    let mut table_due = tokio::time::interval(every.max(Duration::from_secs(1)));
    table_due.reset();
    let mut write = signal(SignalKind::user_defined1())?;
    let mut anew = signal(SignalKind::user_defined2())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = hangup.recv() => match reload(args, speaker, config).await {
                Ok(new) => *config = new,
                Err(error) => error!("kept the configuration: {error:#}"),
            },
            _ = write.recv() => write_table(&config.mrt, queries).await,
            _ = table_due.tick(), if !every.is_zero() => write_table(&config.mrt, queries).await,
            _ = anew.recv() => match can_start_anew(args, config) {
                Ok(()) => return Ok(Told::StartAnew),
                Err(error) => error!("not started anew: {error:#}"),
            },
            _ = terminate.recv() => return Ok(Told::Stop),
            _ = interrupt.recv() => return Ok(Told::Stop),
        }
    }
}

/// Whether the next image would start, and has what peers are to go by if it does not take over.
fn can_start_anew(args: &Args, config: &DaemonConfig) -> anyhow::Result<()> {
    ensure!(
        config.speaker.graceful_restart.is_some(),
        "speaker.graceful_restart is not set"
    );
    args.read().map(drop)
}

/// Takes what the speaker leaves to the next process.
async fn leave(speaker: Speaker) -> Option<Handover> {
    match speaker.hand_over().await {
        Ok(left) => Some(left),
        Err(error) => {
            warn!(%error, "its sessions cannot be handed over");
            None
        }
    }
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
