//! Builds the parts of the agent, connects them, and takes them down again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use margay_api::config::{HostSettings, Setting};
use margay_dataplane::{attach, filter, sysctl};
use margay_datastore::{DatastoreType, SyncStatus, Syncer, connect};
use margay_model::felix_configuration::FelixConfigurationSpec;
use margay_model::ipam::IpamKeys;
use margay_model::keys::Keys;
use margay_speaker::Handover;
use margay_speaker::bmp::{BmpConfig, Station};
use margay_speaker::carry::{self, ForImage, Found, Outcome, ServiceManager};
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::answers::Answers;
use crate::audit;
use crate::bgp::{BgpHandle, Keeper, Leave, announcer, handed_over};
use crate::cni::{Cni, Journal, Turns};
use crate::collect::Collector;
use crate::config::Config;
use crate::derive::{BgpSettings, StoredSecrets};
use crate::dns::Responder;
use crate::docker;
use crate::fault;
use crate::flows::Flows;
use crate::graph::{Graph, Inputs, Outputs};
use crate::heap;
use crate::http::Tls;
use crate::kernel::{self, LEARNED, Setup};
use crate::memory::{Memory, Remembered};
use crate::meters::Meters;
use crate::metrics;
use crate::node::{self, Wanted};
use crate::notify::{self, Notifier};
use crate::page::Page;
use crate::reaper::Reaper;
use crate::report::Reporter;
use crate::server::{Server, Services};
use crate::status::StatusSource;
use crate::tunnels;
use crate::world::World;

/// Events between the syncer and the graph; the syncer waits when it is full.
const EVENTS: usize = 4096;

/// Pause before the datastore is tried again at start.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// How often the journal of DELs is looked at.
const JOURNAL_INTERVAL: Duration = Duration::from_secs(10);

/// How long the speaker may take to say goodbye.
const DRAIN: Duration = Duration::from_secs(3);

/// How long it may take to write down a full table.
const LEAVE: Duration = Duration::from_secs(10);

/// Runs the agent until a signal or a failure.
///
/// On SIGHUP it ends only if `read_again` finds the configuration in order.
pub(crate) fn run(
    config: Config,
    found: Found,
    read_again: impl Fn() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<Ended> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // What runs here is short; what blocks has threads of its own. A second worker would only hand
        // work back and forth: waking it costs more than it does.
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // On the worker like everything else, so that a call that comes in costs no change of threads.
    let agent = runtime.spawn(run_until_signal(config, found, read_again));
    let result = runtime
        .block_on(agent)
        .unwrap_or_else(|panic| Err(anyhow!("the agent failed: {panic}")));
    // Blocking work under way (an interface being made) is left to the kernel to finish.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Why the agent ended, when nothing failed.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It was told to.
    Stopped,
    /// It is to start anew, with its configuration as it is now, and to go on from what is left.
    Reload(ForImage),
}

/// What it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Stop,
    Reload,
}

/// Serves until a signal; one that comes while the agent still starts ends it at once.
async fn run_until_signal(
    config: Config,
    found: Found,
    read_again: impl Fn() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<Ended> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let on_signal = stop.clone();
    let signalled = tokio::spawn(async move {
        let told = loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => match read_again() {
                    Ok(()) => break Told::Reload,
                    Err(error) => {
                        warn!(error = format!("{error:#}"), "not reloaded, all stays as it is");
                        continue;
                    }
                },
            };
            info!(signal = name, "stopping; kernel state stays");
            notify::stopping();
            break Told::Stop;
        };
        if told == Told::Reload {
            info!("reloading; kernel state stays");
        }
        on_signal.cancel();
        told
    });
    let mut agent = tokio::select! {
        agent = Agent::start(config, found) => Some(agent?),
        () = stop.cancelled() => None,
    };
    let failed = match &mut agent {
        Some(agent) => agent.serve(&stop).await.err(),
        None => None,
    };
    let told = match &failed {
        Some(_) => Told::Stop,
        None => signalled.await?,
    };
    let goes_on = failed.is_none() && (told == Told::Reload || ServiceManager::is_there());
    let left = match agent {
        Some(agent) => agent.leave(goes_on).await,
        None => None,
    };
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(match (told, left) {
        (Told::Reload, left) => Ended::Reload(ForImage::new(left)),
        (Told::Stop, None) => Ended::Stopped,
        (Told::Stop, Some(left)) => {
            carry::keep(left).await;
            Ended::Stopped
        }
    })
}

/// The parts that must live as long as the agent.
struct Agent {
    server: Server,
    services: Services,
    kernel_end: oneshot::Receiver<Result<(), String>>,
    graph_task: JoinHandle<()>,
    /// The speaker's keeper, and what ends it.
    bgp_task: Option<(JoinHandle<Option<Handover>>, oneshot::Sender<Leave>)>,
    /// What BMP collectors are told by.
    stations: Vec<Station>,
    /// Gives up its claims at the end.
    collector: JoinHandle<()>,
    cancel: CancellationToken,
    /// Removes the plugin socket when it ends.
    _docker: Option<AbortOnDropHandle<()>>,
    _names: Vec<AbortOnDropHandle<()>>,
    _syncers: [Syncer; 2],
}

impl Agent {
    async fn start(config: Config, found: Found) -> anyhow::Result<Self> {
        let started = Instant::now();
        let name = node_name(&config)?;
        info!(node = name, version = env!("CARGO_PKG_VERSION"), "starting");
        let tls = config.metrics_tls.as_ref().map(Tls::load).transpose();
        let tls = tls.context("metrics_tls")?;
        // Bound first: a second agent on this host must find out before it touches anything.
        let server = Server::bind(&config.socket)
            .with_context(|| format!("socket {}", config.socket.display()))?;
        sysctl::host_forwarding_on().context("cannot make this host a router")?;

        let store = connect(&config.datastore).context("datastore")?;
        let keys = Keys::new(&config.datastore.prefix);
        let journal = Journal::new(&config.cni_journal);
        let meters = Arc::new(Meters::default());
        let inherited = found.open().and_then(|left| match config.bgp {
            true => Ok(left),
            false => Err(Outcome::Unserved),
        });
        let inherited = inherited.map_err(|why| handed_over(why, &meters)).ok();
        let (v4, v6) = config.node_networks()?;
        let wanted = Wanted { v4, v6 };
        let away = match node::register(&store, &keys, &name, wanted).await {
            Ok(_) => None,
            Err(error) if node::is_transient(&error) => Some(error),
            Err(error) => return Err(error),
        };

        let restarting =
            kernel::forwarding_was_left().context("cannot read the kernel's routes")?;
        let flows = Flows::open(config.flows);
        let (local, local_rx) = mpsc::unbounded_channel();
        let (learned, learned_rx) = mpsc::channel(LEARNED);
        let (kernel, kernel_end) = kernel::spawn(Setup {
            policy_backend: config.policy_backend.map(filter::Wish::from),
            nflog: flows.wanted(),
            bgp: config.bgp,
            learned: learned_rx,
            announce: announcer(local),
            meters: Arc::clone(&meters),
            wireguard_keys: config.wireguard_keys.clone(),
        })?;

        let mtu = kernel.mtu.clone();
        let (world_tx, world) = watch::channel(Arc::new(World::default()));
        let (bgp_tx, bgp_config) = watch::channel(None);
        let (resources_tx, resources) = mpsc::channel(EVENTS);
        let (affinities_tx, affinities) = mpsc::channel(EVENTS);
        // Two, so that the watch of the second brings who owns blocks without what is in them.
        let [affine, _others] = IpamKeys::new(keys.prefix()).owners();
        let stored = StoredSecrets::new(keys.prefix());
        let syncers = [
            Syncer::spawn(
                store.clone(),
                vec![keys.resources(), stored.prefix().to_owned()],
                resources_tx,
            ),
            Syncer::spawn(store.clone(), vec![affine], affinities_tx),
        ];
        let memory = Memory::of(&config, &keys, &name);
        let remembered = match (&away, &memory) {
            (Some(_), Some(memory)) => memory.recall().await,
            _ => None,
        };
        let (resources, affinities) = match memory {
            Some(memory) => memory.keep(resources, affinities),
            None => (resources, affinities),
        };
        let (inputs, graph_handle) = Inputs::new(resources, affinities);
        let settings = BgpSettings {
            listen: config.bgp_listen.clone(),
            restarting,
            secrets: config.secrets_dir.clone(),
            stored,
        };
        let names = config.dns.clone().map(|dns| Arc::new(Responder::new(dns)));
        let outputs = Outputs {
            kernel: kernel.clone(),
            bgp: bgp_tx,
            world: world_tx,
            names: names.clone(),
            meters: Arc::clone(&meters),
        };
        for error in &config.env_errors {
            warn!(error, "environment: setting ignored");
        }
        let own = [&config.felix_env, &config.felix].map(felix_spec);
        let mut graph = Graph::new(&name, keys.clone(), (settings, own.into()), outputs);
        let from_snapshot = remembered.is_some();
        if let Some(Remembered {
            resources,
            affinities,
        }) = remembered
        {
            graph.remember(resources, affinities);
        }
        let graph_task = tokio::spawn(graph.run(inputs));
        // Names are answered also while the datastore is away.
        let names_tasks = names
            .as_ref()
            .map(|names| names.spawn(store.clone(), keys.prefix()));

        let cancel = CancellationToken::new();
        let bgp = config.bgp.then(|| {
            let keeper = Keeper {
                config: bgp_config,
                local: local_rx,
                learned,
                world: world.clone(),
                inherited,
                meters: Arc::clone(&meters),
            };
            let (leave, told) = oneshot::channel();
            let (handle, task) = keeper.spawn(told);
            (handle, (task, leave))
        });
        let (bgp_handle, bgp_task) = bgp.unzip();
        let stations = bgp_handle
            .iter()
            .flat_map(|bgp| stations(bgp, &config, &name))
            .collect();

        let status = StatusSource {
            node: name.clone(),
            driver: match config.datastore.kind {
                DatastoreType::Etcdv3 => "etcdv3",
                DatastoreType::Embedded => "embedded",
            },
            started,
            from_snapshot,
            settings: Arc::new(HostSettings {
                node: name.clone(),
                environment: told(&config.felix_env),
                file: told(&config.felix),
            }),
            sync: syncers[0].status(),
            world: world.clone(),
            flows: flows.spawn(name.clone(), kernel.clone()),
            kernel,
            meters: Arc::clone(&meters),
            bgp: bgp_handle,
            names,
        };
        if let Some(manager) = Notifier::from_env() {
            let (world, kernel) = (world.clone(), status.kernel.clone());
            tokio::spawn(manager.run(world, syncers[0].status(), kernel));
        }
        if let Some(addr) = config.metrics_listen {
            tokio::spawn(metrics::serve(addr, tls, status.clone()));
        }
        if let Some(addr) = config.page_listen {
            let page = Page::new(status.clone(), store.clone(), keys.clone());
            tokio::spawn(page.serve(addr));
        }
        if let Some(error) = away {
            let front = (&server, &journal, &status);
            await_datastore(&store, &keys, wanted, front, error).await?;
        }
        let ipam =
            crate::ipam_task::spawn(store.clone(), keys.clone(), name.clone(), world.clone());
        let audit_interval = Duration::from_secs(config.audit_interval_secs);
        let collector = Collector {
            node: name.clone(),
            keys: keys.clone(),
            store: store.clone(),
            ipam: ipam.clone(),
            world: world.clone(),
            interval: audit_interval,
            grace: Duration::from_secs(config.leak_grace_secs),
            meters,
        };
        let collector = tokio::spawn(collector.run(cancel.clone()));
        let tunnels = tunnels::Keeper {
            node: name.clone(),
            keys: keys.clone(),
            store: store.clone(),
            ipam: ipam.clone(),
            graph: graph_handle.clone(),
            world: world.clone(),
        };
        tokio::spawn(tunnels.run());
        tokio::spawn(heap::keep_small(world.clone()));
        tokio::spawn(node::keep_registered(
            store.clone(),
            keys.clone(),
            name.clone(),
            wanted,
            world.clone(),
        ));
        let reaper = Reaper::spawn(|names| {
            fault::point("before-interface-removal");
            let removed = attach::remove_many(names).map_err(|e| e.to_string());
            fault::point("after-interface-removal");
            removed
        });
        let turns = Arc::new(Turns::default());
        let mut docker_task = None;
        if let Some(docker) = config.docker.clone() {
            let socket = Server::bind(&docker.socket)
                .with_context(|| format!("docker.socket {}", docker.socket.display()))?;
            let parts = docker::Parts {
                node: name.clone(),
                keys: keys.clone(),
                store: store.clone(),
                world: world.clone(),
                graph: graph_handle.clone(),
                ipam: ipam.clone(),
                reaper: reaper.clone(),
                turns: Arc::clone(&turns),
                mtu: mtu.clone(),
                interval: audit_interval,
                grace: Duration::from_secs(config.leak_grace_secs),
            };
            let driver = Arc::new(docker::Driver::new(docker, parts));
            docker_task = Some(AbortOnDropHandle::new(tokio::spawn(docker::serve(
                driver, socket,
            ))));
        }
        let cni = Cni::new(
            name.clone(),
            world.clone(),
            graph_handle,
            ipam,
            reaper,
            turns,
            journal,
            (status.bgp.clone(), mtu),
        );
        let cni = Arc::new(cni);
        tokio::spawn(replay_journal(Arc::clone(&cni), syncers[0].status()));
        tokio::spawn(audit::run(Arc::clone(&cni), audit_interval));
        let answers = Answers {
            store: store.clone(),
            root: keys.prefix().to_owned(),
            status: status.clone(),
        };
        tokio::spawn(answers.run());
        let reporter = Reporter {
            store: store.clone(),
            keys,
            status: status.clone(),
        };
        tokio::spawn(reporter.run());
        let services = Services { cni, status, store };
        Ok(Self {
            server,
            services,
            kernel_end,
            graph_task,
            bgp_task,
            stations,
            collector,
            cancel,
            _docker: docker_task,
            _names: names_tasks.unwrap_or_default(),
            _syncers: syncers,
        })
    }

    /// Until `stop`, or until a part fails.
    async fn serve(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = self.server.run(self.services.clone()) => Err(anyhow!("the socket stopped accepting")),
            ended = &mut self.kernel_end => Err(match ended {
                Ok(Ok(())) => anyhow!("the kernel thread ended"),
                Ok(Err(reason)) => anyhow!("the kernel thread failed: {reason}"),
                Err(_dropped) => anyhow!("the kernel thread panicked"),
            }),
            ended = &mut self.graph_task => Err(match ended {
                Ok(()) => anyhow!("the graph task ended"),
                Err(panic) => anyhow!("the graph task failed: {panic}"),
            }),
            () = stop.cancelled() => Ok(()),
        }
    }

    /// Takes everything down. What the speaker leaves to the process that follows, if one `goes_on`.
    async fn leave(self, goes_on: bool) -> Option<Handover> {
        self.cancel.cancel();
        for station in self.stations {
            station.shutdown().await;
        }
        if tokio::time::timeout(DRAIN, self.collector).await.is_err() {
            warn!("the collector did not stop in time, its claims are left to their time");
        }
        // Last, so that sessions are served for as long as possible.
        let (task, leave) = self.bgp_task?;
        let (how, limit) = match goes_on {
            true => (Leave::HandOver, LEAVE),
            false => (Leave::Close, DRAIN),
        };
        if leave.send(how).is_err() {
            warn!("the speaker's keeper is gone");
        }
        match tokio::time::timeout(limit, task).await {
            Ok(left) => left.ok().flatten(),
            Err(_elapsed) => {
                warn!("the speaker did not stop in time");
                None
            }
        }
    }
}

/// Settings that were checked, as the graph takes them.
fn felix_spec(settings: &Map<String, Value>) -> FelixConfigurationSpec {
    let spec = serde_json::from_value(Value::Object(settings.clone()));
    spec.unwrap_or_else(|error| {
        warn!(%error, "settings of this host ignored");
        FelixConfigurationSpec::default()
    })
}

fn told(settings: &Map<String, Value>) -> Vec<Setting> {
    let setting = |(name, value): (&String, &Value)| Setting {
        name: name.clone(),
        json: value.to_string(),
    };
    settings.iter().map(setting).collect()
}

/// A station for each BMP collector; it finds the speaker that runs when it connects.
fn stations(bgp: &BgpHandle, config: &Config, node: &str) -> Vec<Station> {
    let station = |bmp: &BmpConfig| {
        let bgp = bgp.clone();
        let speaker = move || Some(bgp.speaker()?.queries);
        Station::spawn(bmp.clone(), node.to_owned(), speaker)
    };
    config.bmp.iter().map(station).collect()
}

/// Registers the node once the datastore is there; anything else that is wrong is told at once. Callers hear why they
/// are turned away.
async fn await_datastore(
    store: &margay_datastore::AnyStore,
    keys: &Keys,
    wanted: Wanted,
    (server, journal, status): (&Server, &Journal, &StatusSource),
    mut error: anyhow::Error,
) -> anyhow::Result<()> {
    let meanwhile = match status.from_snapshot {
        true => "; until then it does what it last read there",
        false => "",
    };
    warn!(
        error = format!("{error:#}"),
        "waiting for the datastore{meanwhile}"
    );
    loop {
        // Callers are heard between two attempts.
        let why = format!("the agent waits for the datastore: {error:#}{meanwhile}");
        let pause = tokio::time::timeout(STORE_RETRY, server.turn_away(journal, status, &why));
        pause.await.unwrap_or_default();
        error = match node::register(store, keys, &status.node, wanted).await {
            Ok(_) => return Ok(()),
            Err(error) if node::is_transient(&error) => error,
            Err(error) => return Err(error),
        };
    }
}

/// From time to time, and at once when the datastore is back.
async fn replay_journal(cni: Arc<Cni>, mut sync: watch::Receiver<SyncStatus>) {
    loop {
        sync.mark_unchanged();
        cni.replay_journal().await;
        let news = tokio::time::timeout(JOURNAL_INTERVAL, sync.changed());
        if let Ok(Err(_closed)) = news.await {
            return;
        }
    }
}

/// As configured, else the host's name; in lower case, as the established system has it.
fn node_name(config: &Config) -> anyhow::Result<String> {
    let name = match &config.node_name {
        Some(name) => name.clone(),
        None => {
            let uname = nix::sys::utsname::uname().context("cannot read the host's name")?;
            uname.nodename().to_string_lossy().to_lowercase()
        }
    };
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if name.is_empty() || !name.chars().all(valid) {
        bail!("node_name is {name:?}, must be lower-case letters, digits, '-' and '.'");
    }
    Ok(name)
}
