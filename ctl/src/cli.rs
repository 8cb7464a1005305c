//! The command line: verbs, their flags and their help.

mod bgp;
mod ipam;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use margay_model::duration::GoDuration;

use crate::completion::Completion;
use crate::verbs::checksystem::Checksystem;
use crate::verbs::config::ConfigCommand;
use crate::verbs::connectivity::ConnectivityCommand;
use crate::verbs::convert::Convert;
use crate::verbs::datastore::DatastoreCommand;
use crate::verbs::diags::{ClusterCommand, NodeDiags};
use crate::verbs::diff::Diff;
use crate::verbs::doctor::Doctor;
use crate::verbs::flows::Flows;
use crate::verbs::get::Get;
use crate::verbs::install_cni::InstallCni;
use crate::verbs::node_clean::Clean;
use crate::verbs::policy::PolicyCommand;
use crate::verbs::selector::SelectorCommand;
use crate::verbs::top::Top;
use crate::verbs::trace::Trace;
use crate::verbs::validate::Validate;
pub(crate) use bgp::{Bare, BgpCommand, Decode, OfNode, Routes};
pub(crate) use ipam::{IpamCheck, IpamCommand, IpamConfigure, IpamRelease, IpamShow, IpamSplit};

/// Shows and changes the resources of a cluster, and the state of this host's agent.
#[derive(Debug, Parser)]
#[command(name = "margayctl", version, disable_help_subcommand = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// Configuration file [default: /etc/margay/margayctl.cfg, else /etc/calico/calicoctl.cfg]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The agent's socket; its datastore is used even where etcd is configured
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Accepted so that scripts for the established client run: versions never keep this from working
    #[arg(long, global = true, hide = true)]
    pub(crate) allow_version_mismatch: bool,
    /// Likewise: there is no log but what is printed
    #[arg(long, global = true, hide = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Likewise, before the verb: it chooses among clusters of Kubernetes, which is never the datastore
    #[arg(long, hide = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Example:
  margayctl apply -f pools.yaml && margayctl get ippools

Datastore: ETCD_ENDPOINTS, ETCD_CA_CERT_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE, ETCD_USERNAME and
ETCD_PASSWORD (also with MARGAY_ or CALICO_ before them) win over the configuration file. A
request may take ETCD_REQUEST_TIMEOUT_MS, 5000. Without an etcd endpoint the datastore is that of
this host's agent, reached by its socket (MARGAY_SOCKET, else /run/margay/margayd.sock).

Colours are for terminals, and not if NO_COLOR is set.

As a plugin: linked to kubectl-margay in a folder of $PATH, kubectl margay does the same
(margayctl completion --help tells more).

Exit codes: 0 all done; 1 something was refused, damaged or not found, the rest is done;
2 wrong usage or configuration; 3 the datastore or the agent cannot be reached.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create resources that do not exist yet
    #[command(after_help = "Example:\n  margayctl create -f policy.yaml --skip-exists")]
    Create {
        /// Where the resources are.
        #[command(flatten)]
        files: Files,
        /// Leave what exists already as it is
        #[arg(long)]
        skip_exists: bool,
    },
    /// Create resources, or replace those that exist
    #[command(after_help = "Example:\n  kubectl kustomize . | margayctl apply -f -")]
    Apply {
        /// Where the resources are.
        #[command(flatten)]
        files: Files,
    },
    /// Replace resources that exist
    #[command(after_help = "Example:\n  margayctl replace -R -f manifests/ -n production")]
    Replace {
        /// Where the resources are.
        #[command(flatten)]
        files: Files,
    },
    /// Delete resources, by name or those of a file
    #[command(after_help = "Example:\n  margayctl delete networkpolicy allow-dns -n production")]
    Delete {
        /// Which resources.
        #[command(flatten)]
        which: Which,
        /// Do not mind what does not exist
        #[arg(short, long)]
        skip_not_exists: bool,
    },
    /// Show resources, once or as they change
    #[command(after_help = crate::verbs::get::HELP)]
    Get(Get),
    /// Show what apply would change
    #[command(after_help = crate::verbs::diff::HELP)]
    Diff(Diff),
    /// Change some fields of a resource
    #[command(
        after_help = "Example:\n  margayctl patch ippool main -p '{\"spec\":{\"disabled\":true}}'"
    )]
    Patch(Patch),
    /// Set or remove labels of a resource
    #[command(after_help = "Example:\n  margayctl label node n1 rack=a --overwrite")]
    Label(Label),
    /// Check resources without a datastore
    #[command(after_help = "Example:\n  margayctl validate -R -f manifests/")]
    Validate(Validate),
    /// Export, import and lock the datastore as a whole
    #[command(subcommand)]
    Datastore(DatastoreCommand),
    /// Show, check, release and configure addresses
    #[command(subcommand)]
    Ipam(IpamCommand),
    /// Show sessions and routes of a host's BGP speaker; decode messages
    #[command(subcommand)]
    Bgp(BgpCommand),
    /// Show and check the state of hosts, remove them
    #[command(subcommand)]
    Node(NodeCommand),
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Show which settings hold, and why
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print resources with defaults; policies of Kubernetes as the resources they stand for
    #[command(after_help = "Example:\n  margayctl convert -f networkpolicy.yaml -o yaml")]
    Convert(Convert),
    /// Say what policies decide, and why
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Say what is wrong right now, the worst first, each with the next step
    #[command(after_help = crate::verbs::doctor::HELP)]
    Doctor(Doctor),
    /// Follow a packet through the cluster: interface, route, policy, translation and MTU on every hop
    #[command(after_help = crate::verbs::trace::HELP)]
    Trace(Trace),
    /// Show which traffic policy allowed and denied on a host, and by which rule
    #[command(after_help = crate::verbs::flows::HELP)]
    Flows(Flows),
    /// Test whether this host reaches the others
    #[command(subcommand)]
    Connectivity(ConnectivityCommand),
    /// Watch sessions, routes, endpoints and rules on the terminal
    #[command(after_help = crate::verbs::top::HELP)]
    Top(Top),
    /// Evaluate selectors
    #[command(subcommand)]
    Selector(SelectorCommand),
    /// Print what makes a shell complete commands, flags and kinds
    #[command(after_help = crate::completion::COMPLETION_HELP)]
    Completion(Completion),
    /// Write manual pages, one for each command
    #[command(after_help = crate::completion::MAN_HELP)]
    Man {
        /// The folder; made if it is not there
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Show the versions of this program, the agent and the cluster
    #[command(after_help = "Example:\n  margayctl version --client")]
    Version {
        /// Only that of this program
        #[arg(long)]
        client: bool,
        /// Go on, and say it again whenever it is another, looking at this interval, such as 5s
        #[arg(long, value_name = "INTERVAL", conflicts_with = "client")]
        poll: Option<GoDuration>,
    },
}

/// Hosts.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Show the state of a host's agent: readiness, BGP sessions, what is programmed
    #[command(after_help = "\
Example:
  margayctl node status -o json

With NAME the agent of that host is asked through etcd, from any machine that reaches it.")]
    Status {
        /// The host [default: the one this runs on]
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// How to print
        #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
        output: StatusOutput,
    },
    /// Check whether this host can run the agent, and say what to do if not
    #[command(after_help = crate::verbs::checksystem::HELP)]
    Checksystem(Checksystem),
    /// Put the CNI plugin and its configuration where a container runtime looks
    #[command(after_help = crate::verbs::install_cni::HELP)]
    InstallCni(InstallCni),
    /// Collect what an engineer needs of this host in one archive
    #[command(after_help = crate::verbs::diags::NODE_HELP)]
    Diags(NodeDiags),
    /// List the hosts of the cluster
    #[command(after_help = "Example:\n  margayctl node list")]
    List,
    /// Ask the neighbours of a host to prefer other paths, before work on it (RFC 8326)
    #[command(after_help = "\
Example:
  margayctl node drain n1

Its agent announces its routes once more, with GRACEFUL_SHUTDOWN and, to internal peers, local
preference 0. Nothing is withdrawn: what has no other path stays. Kept in the Node until undrain.")]
    Drain {
        /// The host
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Take back a drain, after the work
    #[command(after_help = "Example:\n  margayctl node undrain n1")]
    Undrain {
        /// The host
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Remove from this host everything of ours: interfaces, routes, rules, sets, tunnel devices
    #[command(after_help = crate::verbs::node_clean::HELP)]
    Clean(Clean),
    /// Remove a host that is gone for good: its endpoints, addresses, handles, blocks and its Node
    #[command(after_help = "\
Example:
  margayctl node remove n1 --yes

Cut off at any point, it can be run again. Its agent must not run any more: it would write its Node
anew and assign addresses again. An agent that was stopped says so; one that was killed, or whose host
died, counts as running for some minutes (three times audit_interval_secs). The other hosts lose their
routes to it at once.")]
    Remove {
        /// The host
        #[arg(value_name = "NAME")]
        name: String,
        /// Even if it still has endpoints
        #[arg(long)]
        yes: bool,
        /// Even if its agent runs, as far as is known
        #[arg(long)]
        force: bool,
    },
}

/// Files with resources.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// File, folder, or - for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    pub(crate) file: Vec<PathBuf>,
    /// Also the folders in a folder
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Do not mind files and folders without resources
    #[arg(long)]
    pub(crate) skip_empty: bool,
    /// Namespace of resources that name none
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// Resources by name, or those that files name.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Kind, or KIND/NAME
    #[arg(
        value_name = "KIND",
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    pub(crate) kind: Option<String>,
    /// Names
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// File, folder, or - for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "PATH")]
    pub(crate) file: Vec<PathBuf>,
    /// Also the folders in a folder
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Do not mind files and folders without resources
    #[arg(long)]
    pub(crate) skip_empty: bool,
    /// Namespace [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// A change of some fields.
#[derive(Debug, Args)]
pub(crate) struct Patch {
    /// Kind
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// Name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The change, as JSON or YAML
    #[arg(short, long, value_name = "PATCH")]
    pub(crate) patch: String,
    /// The notation of the change
    #[arg(short = 't', long = "type", value_enum, default_value_t = PatchType::Strategic)]
    pub(crate) notation: PatchType,
    /// Namespace [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// How a change is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PatchType {
    /// As merge: no list of a resource has keys to merge by.
    Strategic,
    /// Fields with their new value; null removes one (RFC 7396).
    Merge,
    /// A list of operations (RFC 6902).
    Json,
}

/// Labels to set or remove.
#[derive(Debug, Args)]
pub(crate) struct Label {
    /// Kind
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// Name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// KEY=VALUE, or KEY with --remove
    #[arg(value_name = "LABEL", required = true)]
    pub(crate) labels: Vec<String>,
    /// Also change labels that have another value
    #[arg(long, conflicts_with = "remove")]
    pub(crate) overwrite: bool,
    /// Remove the labels
    #[arg(long)]
    pub(crate) remove: bool,
    /// Namespace [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// How the state of an agent is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusOutput {
    /// For people.
    Text,
    /// JSON.
    Json,
}
