//! `node diags` and `cluster diags`: one archive of what an engineer needs, secrets removed.

mod archive;
mod redact;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use margay_model::kind::Kind;

use crate::agent;
use crate::columns;
use crate::config::Explained;
use crate::context::Context;
use crate::failure::Fatal;
use crate::progress::Progress;
use crate::table::Table;
use crate::verbs::checksystem;
use crate::verbs::datastore::export_text;
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

What the datastore holds, as an export and as tables, and the status of this host's agent. For the
rest, run margayctl node diags on the hosts in question. Secrets are removed.";

/// What is asked for as a whole.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Collect what the datastore says of the cluster in one archive
    #[command(after_help = CLUSTER_HELP)]
    Diags(ClusterDiags),
}

/// Where to write to.
#[derive(Debug, Args)]
pub(crate) struct ClusterDiags {
    /// The archive [default: diags-TIME.tar.gz in the folder for temporary files]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
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
        checksystem::text(&checksystem::look(&host, None)),
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

/// Collects what the datastore says.
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
    save(archive, args.output.as_deref(), context)
}

/// What every archive has.
async fn common(archive: &mut Archive, context: &Context<'_>) {
    archive.add("version", format!("margayctl {VERSION}\n"));
    let lines = context
        .explained
        .iter()
        .map(|e: &Explained| format!("{} = {} ({})\n", e.name, e.value, e.source));
    archive.add("config", lines.collect());
    let status = agent::node_status(&context.socket).await;
    let status = status.map_err(|error| error.to_string());
    let text = |status| serde_json::to_string_pretty(&status).map_err(|error| error.to_string());
    archive.add_result("status.json", status.and_then(text));
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
