//! `node diags` and `cluster diags`: one archive of what an engineer needs, secrets removed.

mod archive;
mod redact;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use futures_util::{StreamExt, stream};
use margay_api::bgp::{BgpRequest, Event, Peer};
use margay_model::kind::Kind;
use serde::Serialize;

use crate::agent::{Agent, AgentError};
use crate::client::Client;
use crate::columns;
use crate::config::Explained;
use crate::context::Context;
use crate::failure::Fatal;
use crate::progress::Progress;
use crate::table::Table;
use crate::verbs::checksystem;
use crate::verbs::datastore::export_text;
use crate::verbs::fatal;
use crate::verbs::version::VERSION;
use archive::Archive;

pub(crate) const NODE_HELP: &str = "\
Example:
  margayctl node diags -o n1.tar.gz

Of this host: versions, configuration, status of the agent, checks, interfaces, routes, rules, sets,
connections, kernel, log of the last day, CNI configuration, and everything in the datastore. What
cannot be had is left out, and said so in its place. Passwords, tokens, private keys and credentials
in addresses are removed; the folder of secrets is not read. Look at it before you send it.";

pub(crate) const CLUSTER_HELP: &str = "\
Example:
  margayctl cluster diags -o cluster.tar.gz

What the datastore holds, as an export and as tables; and of every host, asked through etcd, what its
agent says: status, BGP peers, their changes, selected routes, and what rules matched. For the log and
the kernel of a host, run margayctl node diags there. Secrets are removed.";

/// What is asked for as a whole.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Collect what the datastore and the agents of all hosts say in one archive
    #[command(after_help = CLUSTER_HELP)]
    Diags(ClusterDiags),
}

/// Where to write to.
#[derive(Debug, Args)]
pub(crate) struct ClusterDiags {
    /// The archive [default: diags-TIME.tar.gz in the folder for temporary files]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Ask only the agents of these hosts, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    focus_nodes: Vec<String>,
    /// Ask so many agents at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    max_parallelism: u16,
    /// Accepted so that scripts for the established client run: agents have no logs to give
    #[arg(long, hide = true, value_name = "TIME")]
    since: Option<String>,
    /// Likewise
    #[arg(long, hide = true, value_name = "NUMBER")]
    max_logs: Option<u64>,
}

/// What to collect, and where to write to.
#[derive(Debug, Args)]
pub(crate) struct NodeDiags {
    /// The archive [default: diags-TIME.tar.gz in the folder for temporary files]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Log of this time until now, as journalctl reads it
    #[arg(long, value_name = "TIME", default_value = "1 day ago")]
    since: String,
    /// Also the files of this folder
    #[arg(long, value_name = "DIR", default_value = "/var/log/margay")]
    log_dir: String,
}

/// The largest part of a log file that is taken, from its end, in bytes.
const LOG_BYTES: usize = 4 << 20;

/// What programs show, and the file it goes to.
const SHOWN: [(&str, &[&str]); 24] = [
    ("kernel", &["uname", "-a"]),
    ("uptime", &["uptime"]),
    ("links", &["ip", "-d", "-s", "link", "show"]),
    ("addresses", &["ip", "address", "show"]),
    ("routes4", &["ip", "-4", "route", "show", "table", "all"]),
    ("routes6", &["ip", "-6", "route", "show", "table", "all"]),
    ("rules4", &["ip", "-4", "rule", "show"]),
    ("rules6", &["ip", "-6", "rule", "show"]),
    ("neighbours", &["ip", "neighbour", "show"]),
    ("nexthops", &["ip", "nexthop", "show"]),
    ("namespaces", &["ip", "netns", "list"]),
    ("sockets", &["ss", "-tanpie"]),
    ("iptables4-nft", &["iptables-nft-save", "-c"]),
    ("iptables6-nft", &["ip6tables-nft-save", "-c"]),
    ("iptables4-legacy", &["iptables-legacy-save", "-c"]),
    ("iptables6-legacy", &["ip6tables-legacy-save", "-c"]),
    ("nft", &["nft", "-a", "list", "ruleset"]),
    ("ipsets", &["ipset", "save"]),
    ("connections", &["conntrack", "-S"]),
    ("sysctl", &["sysctl", "-a", "--pattern", "^net"]),
    ("modules", &["lsmod"]),
    ("dmesg", &["dmesg", "--ctime"]),
    (
        "unit",
        &["systemctl", "status", "margayd", "--no-pager", "-l"],
    ),
    ("processes", &["ps", "-eo", "pid,ppid,pcpu,rss,etime,args"]),
];

/// Files that are taken as they are, and folders of such.
const FILES: [&str; 6] = [
    "/etc/os-release",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/net/softnet_stat",
    "/proc/sys/net/netfilter/nf_conntrack_count",
    "/proc/sys/net/netfilter/nf_conntrack_max",
];
const FOLDERS: [&str; 3] = [
    "/etc/margay",
    "/etc/cni/net.d",
    "/var/lib/margay/cni-journal",
];

/// Collects what there is on this host.
pub(crate) async fn node(args: &NodeDiags, context: &mut Context<'_>) -> Result<(), Fatal> {
    let host = context.host.clone();
    let mut archive = Archive::new(context.client.now);
    let mut progress = Progress::new("diags", SHOWN.len());
    common(&mut archive, context).await;
    archive.add(
        "checksystem",
        checksystem::text(&checksystem::look_and_ask(&host, None).await),
    );
    for (done, (name, words)) in SHOWN.iter().enumerate() {
        progress.at(done, &mut context.streams);
        archive.add_result(&format!("host/{name}"), host.run(words).await);
    }
    let journal = [
        "journalctl",
        "-u",
        "margayd",
        "--no-pager",
        "-o",
        "short-iso",
        "--since",
        &args.since,
    ];
    archive.add_result("log/journal", host.run(&journal).await);
    for file in FILES {
        if let Some(text) = host.read(file) {
            archive.add(&format!("host{file}"), text);
        }
    }
    for folder in FOLDERS.into_iter().chain([args.log_dir.as_str()]) {
        for name in host.names(folder) {
            let path = format!("{folder}/{name}");
            if host.path(&path).is_file()
                && let Some(text) = host.read(&path)
            {
                let mut from = text.len().saturating_sub(LOG_BYTES);
                while !text.is_char_boundary(from) {
                    from += 1;
                }
                archive.add(&format!("host{path}"), text[from..].to_owned());
            }
        }
    }
    progress.end(&mut context.streams);
    save(archive, args.output.as_deref(), context)
}

/// Collects what the datastore says, and all agents.
pub(crate) async fn cluster(args: &ClusterDiags, context: &mut Context<'_>) -> Result<(), Fatal> {
    let mut archive = Archive::new(context.client.now);
    common(&mut archive, context).await;
    for kind in Kind::ALL {
        let table = match context.client.list(*kind, None).await {
            Ok(listed) => {
                let mut headings = columns::headings(*kind, true).to_vec();
                if kind.namespaced() {
                    headings.insert(0, columns::NAMESPACE);
                }
                let mut table = Table::new(headings.iter().copied());
                for resource in &listed.resources {
                    let asn = margay_model::asn::Asn::DEFAULT;
                    table.row(
                        headings
                            .iter()
                            .map(|heading| columns::cell(resource, heading, asn)),
                    );
                }
                let damaged = listed.damaged.iter().map(|error| format!("{error}\n"));
                Ok(table.render() + &damaged.collect::<String>())
            }
            Err(error) => Err(error.to_string()),
        };
        archive.add_result(&format!("tables/{}", kind.plural()), table);
    }
    if args.since.is_some() || args.max_logs.is_some() {
        let line = "the logs of other hosts are not collected: run margayctl node diags there";
        context.streams.note(line)?;
    }
    hosts(&mut archive, args, context).await?;
    save(archive, args.output.as_deref(), context)
}

/// What every agent says, several asked at a time.
async fn hosts(
    archive: &mut Archive,
    args: &ClusterDiags,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    let listed = context.client.list(Kind::Node, None).await;
    let listed = listed.map_err(|error| fatal(&error))?.resources;
    let names = listed.iter().map(|node| node.metadata().name.as_str());
    let focus = &args.focus_nodes;
    let names: Vec<_> = match focus.as_slice() {
        [] => names.collect(),
        // One that is no node says so in its place.
        focus => focus.iter().map(String::as_str).collect(),
    };
    let mut progress = Progress::new("hosts", names.len());
    let (socket, client) = (&context.socket, &context.client);
    let asked = names.iter().map(|name| host(name, socket, client));
    let mut asked = stream::iter(asked).buffered(args.max_parallelism.into());
    let mut done = 0;
    while let Some(answers) = asked.next().await {
        for (name, answer) in answers {
            archive.add_result(&name, answer);
        }
        done += 1;
        progress.at(done, &mut context.streams);
    }
    progress.end(&mut context.streams);
    Ok(())
}

/// What one agent says: files, each with its text or why there is none.
async fn host(
    name: &str,
    socket: &std::path::Path,
    client: &Client,
) -> Vec<(String, Result<String, String>)> {
    let file = |what: &str| format!("hosts/{name}/{what}.json");
    let agent = match Agent::of(Some(name), socket, client).await {
        Ok(agent) => agent,
        Err(error) => return vec![(file("status"), Err(error.to_string()))],
    };
    let status = agent.status().await;
    if status.is_err() {
        // Who is silent once need not be waited for again.
        return vec![(file("status"), text(status))];
    }
    vec![
        (file("status"), text(status)),
        (
            file("bgp-peers"),
            text(agent.bgp::<Vec<Peer>>(BgpRequest::Peers {}).await),
        ),
        (
            file("bgp-events"),
            text(agent.bgp::<Vec<Event>>(BgpRequest::Events {}).await),
        ),
        (
            file("bgp-routes"),
            text(agent.bgp_routes(BgpRequest::Best {}).await),
        ),
        (file("policy"), text(agent.policy_counters().await)),
    ]
}

fn text<T: Serialize>(answer: Result<T, AgentError>) -> Result<String, String> {
    let answer = answer.map_err(|error| error.to_string())?;
    let text = serde_json::to_string_pretty(&answer).map_err(|error| error.to_string())?;
    Ok(text + "\n")
}

/// What every archive has.
async fn common(archive: &mut Archive, context: &Context<'_>) {
    archive.add("version", format!("margayctl {VERSION}\n"));
    let lines = context
        .explained
        .iter()
        .map(|e: &Explained| format!("{} = {} ({})\n", e.name, e.value, e.source));
    archive.add("config", lines.collect());
    let status = Agent::Here(&context.socket).status().await;
    archive.add_result("status.json", text(status));
    let export = export_text(context)
        .await
        .map_err(|fatal| fatal.to_string());
    archive.add_result("datastore.export", export);
}

fn save(
    archive: Archive,
    path: Option<&std::path::Path>,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => std::env::temp_dir().join(format!("{}.tar.gz", archive.name())),
    };
    let (files, failed) = archive
        .save(&path)
        .map_err(|error| Fatal::Refused(format!("{}: {error}", path.display())))?;
    let missing = match failed {
        0 => String::new(),
        failed => format!(", {failed} of them say why something could not be had"),
    };
    context.streams.say(&format!(
        "Diags saved to {}: {files} files{missing}",
        path.display()
    ))
}

#[cfg(test)]
mod tests;
