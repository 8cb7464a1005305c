//! margayctl: the operator's command line.
//!
//! [`run`] does everything with streams that it is given, so that tests see what a user sees.

mod agent;
mod cli;
mod client;
mod columns;
mod completion;
mod config;
mod context;
mod failure;
mod files;
mod host;
mod labels;
mod output;
mod progress;
mod table;
mod terminal;
mod verbs;
mod yaml;

use std::ffi::OsString;
use std::io::Write;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::FromArgMatches;
use jiff::Timestamp;
use margay_datastore::AnyStore;
use margay_model::keys::Keys;

use crate::cli::{Cli, Command, IpamCommand, NodeCommand};
use crate::client::{Client, Mode};
use crate::config::{Config, Flags};
use crate::context::{Context, Streams};
use crate::failure::Fatal;
use crate::host::Host;
use crate::terminal::{Paint, Terminal};
use crate::verbs::config::ConfigCommand;
use crate::verbs::connectivity::ConnectivityCommand;
use crate::verbs::diags::ClusterCommand;

/// Longer than any agent takes between two writes that belong together.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a command depends on beside its words.
struct Surroundings {
    /// Finds environment variables.
    lookup: fn(&str) -> Option<String>,
    /// A store to use instead of the configured one.
    store: Option<AnyStore>,
    now: Timestamp,
    new_uid: fn() -> String,
    /// How long a check waits before it looks again.
    look_again: Duration,
    /// The host that checks look at.
    host: Host,
}

fn main() -> ExitCode {
    let surroundings = Surroundings {
        lookup: |name| std::env::var(name).ok(),
        store: None,
        now: Timestamp::now(),
        new_uid: || uuid::Uuid::new_v4().to_string(),
        look_again: LOOK_AGAIN,
        host: Host::at("/"),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "runtime: {error}"));
            return ExitCode::from(1);
        }
    };
    let (mut stdin, mut stdout, mut stderr) =
        (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = Streams {
        stdin: &mut stdin,
        stdout: &mut stdout,
        stderr: &mut stderr,
        terminal: Terminal::detect(|name| std::env::var(name).ok()),
        failed: false,
    };
    ExitCode::from(runtime.block_on(run(std::env::args_os(), surroundings, streams)))
}

/// Runs a command line and gives its exit code.
async fn run(
    args: impl IntoIterator<Item = OsString>,
    surroundings: Surroundings,
    streams: Streams<'_>,
) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let words: Vec<String> = args
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    if let Some(candidates) = completion::asked_by_kubectl(&words) {
        return u8::from(streams.stdout.write_all(candidates.as_bytes()).is_err());
    }
    let called = words.first().map_or("", String::as_str);
    let parsed = completion::command(called).try_get_matches_from(args);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let (text, colour) = match error.use_stderr() {
                true => (error.render(), streams.terminal.error_colour),
                false => (error.render(), streams.terminal.colour),
            };
            let text = if colour {
                text.ansi().to_string()
            } else {
                text.to_string()
            };
            let text = format!("{}\n", text.trim_end());
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            let out = if error.use_stderr() {
                streams.stderr
            } else {
                streams.stdout
            };
            return if out.write_all(text.as_bytes()).is_ok() {
                code
            } else {
                1
            };
        }
    };
    match execute(&cli, surroundings, streams).await {
        (Ok(()), streams) => u8::from(streams.failed || streams.stdout.flush().is_err()),
        // Whoever read our output has seen enough.
        (Err(Fatal::Output(error)), _) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
        (Err(Fatal::Told(code)), streams) => match streams.stdout.flush() {
            Ok(()) => code,
            Err(_) => 1,
        },
        (Err(fatal), streams) => {
            let mut line = fatal.to_string().replace('\n', " ");
            if streams.terminal.error_colour {
                line = Paint::Red.on(&line);
            }
            // There is nobody left to tell.
            drop(writeln!(streams.stderr, "{line}"));
            fatal.code()
        }
    }
}

/// Runs a command and hands the streams back.
async fn execute<'a>(
    cli: &Cli,
    surroundings: Surroundings,
    mut streams: Streams<'a>,
) -> (Result<(), Fatal>, Streams<'a>) {
    if let Command::Validate(args) = &cli.command {
        return (verbs::validate::validate(args, &mut streams), streams);
    }
    if let Command::Completion(args) = &cli.command {
        return (completion::completion(args, &mut streams), streams);
    }
    if let Command::Man { folder } = &cli.command {
        return (completion::man(folder, &mut streams), streams);
    }
    if let Command::Convert(args) = &cli.command {
        return (verbs::convert::convert(args, &mut streams), streams);
    }
    if let Command::Version { client: true, .. } = &cli.command {
        let line = format!("Client:   {}", verbs::version::VERSION);
        return (streams.say(&line), streams);
    }
    if let Command::Selector(command) = &cli.command
        && let Some(result) = verbs::selector::offline(command, &mut streams)
    {
        return (result, streams);
    }
    if let Command::Bgp(command) = &cli.command
        && let Some(result) = verbs::bgp::offline(command, &mut streams)
    {
        return (result, streams);
    }
    if let Command::Policy(command) = &cli.command
        && let Some(result) = verbs::policy::offline(command, &mut streams)
    {
        return (result, streams);
    }
    if let Command::Node(NodeCommand::Checksystem(args)) = &cli.command {
        let result = verbs::checksystem::checksystem(args, &surroundings.host, &mut streams).await;
        return (result, streams);
    }
    if let Command::Node(NodeCommand::InstallCni(args)) = &cli.command {
        return (verbs::install_cni::install(args, &mut streams), streams);
    }
    let flags = Flags {
        file: cli.config.as_deref(),
        socket: cli.socket.as_deref(),
    };
    let (config, store) = match configure(&flags, &surroundings) {
        Ok(configured) => configured,
        Err(fatal) => return (Err(fatal), streams),
    };
    let client = Client {
        store,
        keys: Keys::new(&config.prefix),
        now: surroundings.now,
        new_uid: surroundings.new_uid,
    };
    let mut context = Context {
        client,
        socket: config.socket,
        explained: config.explained,
        host: surroundings.host,
        look_again: surroundings.look_again,
        streams,
    };
    // Erased, because the type of an etcd request is deeper than the compiler looks.
    let running: Pin<Box<dyn Future<Output = _> + '_>> =
        Box::pin(dispatch(&cli.command, &mut context));
    let result = running.await;
    (result, context.streams)
}

fn configure(flags: &Flags<'_>, surroundings: &Surroundings) -> Result<(Config, AnyStore), Fatal> {
    let config = Config::load(flags, surroundings.lookup);
    let config = config.map_err(|error| Fatal::Usage(error.to_string()))?;
    let store = match &surroundings.store {
        Some(store) => store.clone(),
        None => config
            .connect()
            .map_err(|error| Fatal::Usage(error.to_string()))?,
    };
    Ok((config, store))
}

async fn dispatch(command: &Command, context: &mut Context<'_>) -> Result<(), Fatal> {
    match command {
        Command::Create { files, skip_exists } => {
            verbs::write::write(Mode::Create, files, *skip_exists, context).await
        }
        Command::Apply { files } => verbs::write::write(Mode::Apply, files, false, context).await,
        Command::Replace { files } => {
            verbs::write::write(Mode::Replace, files, false, context).await
        }
        Command::Delete {
            which,
            skip_not_exists,
        } => verbs::delete::delete(which, *skip_not_exists, context).await,
        Command::Get(args) => verbs::get::get(args, context).await,
        Command::Diff(args) => verbs::diff::diff(args, context).await,
        Command::Patch(args) => verbs::modify::patch(args, context).await,
        Command::Label(args) => verbs::modify::label(args, context).await,
        Command::Validate(args) => verbs::validate::validate(args, &mut context.streams),
        Command::Completion(args) => completion::completion(args, &mut context.streams),
        Command::Man { folder } => completion::man(folder, &mut context.streams),
        Command::Cluster(ClusterCommand::Diags(args)) => verbs::diags::cluster(args, context).await,
        Command::Config(ConfigCommand::Show(args)) => verbs::config::show(args, context).await,
        Command::Node(NodeCommand::Checksystem(args)) => {
            verbs::checksystem::checksystem(args, &context.host, &mut context.streams).await
        }
        Command::Node(NodeCommand::InstallCni(args)) => {
            verbs::install_cni::install(args, &mut context.streams)
        }
        Command::Node(NodeCommand::Diags(args)) => verbs::diags::node(args, context).await,
        Command::Node(NodeCommand::Clean(args)) => {
            verbs::node_clean::run(args, &context.socket, &mut context.streams)
        }
        Command::Datastore(command) => verbs::datastore::run(command, context).await,
        Command::Ipam(command) => ipam(command, context).await,
        Command::Bgp(command) => verbs::bgp::online(command, context).await,
        Command::Node(NodeCommand::Status { name, output }) => {
            verbs::node::status(name.as_deref(), *output, context).await
        }
        Command::Node(NodeCommand::Drain { name }) => {
            verbs::node_drain::drain(name, true, context).await
        }
        Command::Node(NodeCommand::Undrain { name }) => {
            verbs::node_drain::drain(name, false, context).await
        }
        Command::Node(NodeCommand::List) => verbs::node::list(context).await,
        Command::Convert(args) => verbs::convert::convert(args, &mut context.streams),
        Command::Policy(command) => verbs::policy::online(command, context).await,
        Command::Doctor(args) => verbs::doctor::doctor(args, context).await,
        Command::Trace(args) => verbs::trace::trace(args, context).await,
        Command::Connectivity(ConnectivityCommand::Test(args)) => {
            verbs::connectivity::test(args, context).await
        }
        Command::Flows(args) => verbs::flows::flows(args, context).await,
        Command::Top(args) => verbs::top::top(args, context).await,
        Command::Selector(command) => verbs::selector::online(command, context).await,
        Command::Node(NodeCommand::Remove { name, yes, force }) => {
            verbs::node_remove::remove(name, (*yes, *force), context).await
        }
        Command::Version { client, poll } => verbs::version::version(*client, *poll, context).await,
    }
}

async fn ipam(command: &IpamCommand, context: &mut Context<'_>) -> Result<(), Fatal> {
    match command {
        IpamCommand::Show(args) => verbs::ipam::show(args, context).await,
        IpamCommand::Check(args) => verbs::ipam_check::check(args, context).await,
        IpamCommand::Release(args) => verbs::ipam_change::free(args, context).await,
        IpamCommand::Configure(args) => verbs::ipam_change::configure(args, context).await,
        IpamCommand::Split(args) => verbs::ipam_change::split(args, context).await,
    }
}

#[cfg(test)]
mod tests;
