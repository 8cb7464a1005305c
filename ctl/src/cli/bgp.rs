//! The verb `bgp`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::StatusOutput;

/// What of BGP to show.
#[derive(Debug, Subcommand)]
pub(crate) enum BgpCommand {
    /// Show the peers of a host and their sessions
    #[command(after_help = "Example:\n  margayctl bgp peers -o json")]
    Peers {
        /// The host whose speaker is asked.
        #[command(flatten)]
        of: OfNode,
        /// How to print
        #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
        output: StatusOutput,
    },
    /// Show routes: the selected ones, or those received from or told to a peer
    #[command(after_help = "Example:\n  margayctl bgp routes --received 192.0.2.1")]
    Routes(Routes),
    /// Say why a prefix is reached as it is, and what every other path lost by
    #[command(after_help = "Example:\n  margayctl bgp lookup 10.65.3.7")]
    Lookup {
        /// Prefix, or an address that is in it
        #[arg(value_name = "PREFIX")]
        target: String,
        /// The host whose speaker is asked.
        #[command(flatten)]
        of: OfNode,
        /// How to print
        #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
        output: StatusOutput,
    },
    /// Show the last changes of the sessions' states, each with its reason
    #[command(after_help = "Example:\n  margayctl bgp events --peer 192.0.2.1")]
    Events {
        /// Of this peer only
        #[arg(long, value_name = "ADDRESS")]
        peer: Option<String>,
        /// The host whose speaker is asked.
        #[command(flatten)]
        of: OfNode,
        /// How to print
        #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
        output: StatusOutput,
    },
    /// Ask a peer to send all its routes again (RFC 2918), by this host's agent
    #[command(after_help = "Example:\n  margayctl bgp refresh 192.0.2.1 || true")]
    Refresh {
        /// Its address or name
        #[arg(value_name = "PEER")]
        peer: String,
    },
    /// Write the whole table of a host's speaker to a file (MRT, RFC 6396), for reports and replay
    #[command(after_help = "Example:\n  margayctl bgp dump --mrt table.mrt")]
    Dump {
        /// The file to write
        #[arg(long, value_name = "FILE")]
        mrt: PathBuf,
        /// The host whose speaker is asked.
        #[command(flatten)]
        of: OfNode,
    },
    /// Decode messages field by field and say what is wrong with them (RFC 7606); needs no agent
    #[command(after_help = DECODE_HELP)]
    Decode(Decode),
}

const DECODE_HELP: &str = "\
Example:
  margayctl bgp decode ffffffffffffffffffffffffffffffff001304

Takes one message or several in a row, with or without marker or header; spaces, colons and 0x are
ignored. The exit code is 1 when a receiver would not accept some message as it is.

JSON: a list of {message, offset, length, fields, errors, verdict, notification}. A field is {name,
offset, length, value, fields}; an error {attribute, what, action, or, notification}; action and
verdict are accept, attribute-discard, treat-as-withdraw, afi-safi-disable or session-reset; a
notification {code, subcode, name, data}. The notification of an error that does not end the session
is the one that RFC 4271 had for it; it is not sent. Absent members do not apply.";

/// Whose speaker.
#[derive(Debug, Args)]
pub(crate) struct OfNode {
    /// Ask the agent of this host, through etcd [default: the agent of the host this runs on]
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
}

/// Which routes.
#[derive(Debug, Args)]
pub(crate) struct Routes {
    /// The host whose speaker is asked.
    #[command(flatten)]
    pub(crate) of: OfNode,
    /// The selected routes, which is the default
    #[arg(long, conflicts_with_all = ["received", "advertised"])]
    pub(crate) best: bool,
    /// What a peer sent, before import; PEER is its address or name
    #[arg(long, value_name = "PEER", conflicts_with = "advertised")]
    pub(crate) received: Option<String>,
    /// What a peer is told; PEER is its address or name
    #[arg(long, value_name = "PEER")]
    pub(crate) advertised: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    pub(crate) output: StatusOutput,
}

/// Messages to decode, and what their sender and receiver had agreed on.
#[derive(Debug, Args)]
pub(crate) struct Decode {
    /// Hexadecimal digits; - for standard input
    #[arg(value_name = "HEX", required = true)]
    pub(crate) hex: Vec<String>,
    /// AS numbers have two octets (RFC 6793)
    #[arg(long)]
    pub(crate) two_octet_as: bool,
    /// Prefixes have path identifiers (RFC 7911)
    #[arg(long)]
    pub(crate) add_path: bool,
    /// Messages may have up to 65535 octets (RFC 8654)
    #[arg(long)]
    pub(crate) extended: bool,
    /// The sender is in the receiver's AS
    #[arg(long)]
    pub(crate) ibgp: bool,
    /// What octets without a header are
    #[arg(long, value_enum, default_value_t = Bare::Update)]
    pub(crate) bare: Bare,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    pub(crate) output: StatusOutput,
}

/// A message type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bare {
    /// OPEN.
    Open,
    /// UPDATE.
    Update,
    /// NOTIFICATION.
    Notification,
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH.
    RouteRefresh,
}
