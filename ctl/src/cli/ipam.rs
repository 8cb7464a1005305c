//! The words of `ipam`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};
use margay_ipam::check::DEFAULT_GRACE_SECS;
use margay_model::ipam::MAX_COOLDOWN_SECS;
use margay_model::net::Cidr;

/// Address management.
#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// Show how full the pools are, or who holds an address
    #[command(after_help = "Example:\n  margayctl ipam show --ip 10.65.0.7")]
    Show(IpamShow),
    /// Find what is wrong with blocks, handles, affinities and addresses, while the cluster works
    #[command(after_help = CHECK_HELP)]
    Check(IpamCheck),
    /// Free addresses that nothing uses
    #[command(after_help = "\
Example:
  margayctl ipam release --ip 10.65.0.7 --ip 10.65.0.9
  margayctl ipam check -o report.json; margayctl ipam release --from-report report.json

An address that an endpoint or a node names, that is kept for an identity or a tunnel, or that was
assigned less than a minute ago, is only freed with --force. One of a report is only freed if it was not
assigned anew since, and none of a block that cannot be read: --force does not change that.")]
    Release(IpamRelease),
    /// Change the settings of address management
    #[command(after_help = "Example:\n  margayctl ipam configure --strictaffinity=true")]
    Configure(IpamConfigure),
    /// Replace a pool by smaller ones of equal size
    #[command(after_help = "\
Example:
  margayctl ipam split 4 --name main

The new pools are named NAME-0, NAME-1 and so on, and have the settings of the old one. Addresses and
blocks stay as they are; it is one transaction, so hosts see either the old pool or all new ones.")]
    Split(IpamSplit),
}

const CHECK_HELP: &str = "\
Example:
  margayctl ipam check --repair -o report.json

Nothing is locked, and nothing needs to stop: what two looks, a second apart, have in common was so at
one moment between them. Each problem is one line: what was found; why it matters; what repair would
do. --repair does it, one transaction a problem, that compares all it relies on. It never frees an
address that an endpoint or a node names, or that was assigned less than --grace seconds ago.
Borrowed addresses are no problem. Notes (listed with --show-problem-ips) are none either.

Exit codes: 0 nothing is wrong, or all of it was repaired; 1 problems are left.

The report (-o) is a JSON object:
  version    1
  time       when the check began (RFC 3339)
  repair     whether --repair was given
  summary    nodes, pools, blocks, handles, in_use, resting, borrowed, named: how many
  findings   a list of
    kind      leaked, used_unrecorded, used_twice, held_by_another, handle_count, handle_unused,
              corrupt_block, corrupt_handle, corrupt_affinity, affinity_without_block,
              affinity_of_another, affinity_unfinished, affinity_missing, overlapping_blocks,
              outside_pools, wrong_size, node_gone, damaged_resource, strange_record, unused_pool;
              and as notes: empty_orphan, rested, young, reserved_in_use
    severity  problem or note
    ip, block, handle, sequence
              what it is about, where it is about one
    what, why, repair
              the three parts of its line
    outcome   found, or repaired";

/// What to show of address management.
#[derive(Debug, Args)]
pub(crate) struct IpamShow {
    /// Who holds this address
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["show_blocks", "show_borrowed", "show_configuration"])]
    pub(crate) ip: Option<IpAddr>,
    /// Also each block
    #[arg(long)]
    pub(crate) show_blocks: bool,
    /// Also addresses that hosts hold in blocks of others
    #[arg(long)]
    pub(crate) show_borrowed: bool,
    /// The settings of address management
    #[arg(long)]
    pub(crate) show_configuration: bool,
}

/// How to check.
#[derive(Debug, Args)]
pub(crate) struct IpamCheck {
    /// Also list every address, who holds it and what uses it
    #[arg(long)]
    pub(crate) show_all_ips: bool,
    /// Also list the addresses that have a problem, and notes
    #[arg(long)]
    pub(crate) show_problem_ips: bool,
    /// Repair what can be repaired
    #[arg(long)]
    pub(crate) repair: bool,
    /// Write a report
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Leave alone what was assigned less than so many seconds ago
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_GRACE_SECS)]
    pub(crate) grace: u32,
}

/// What to free.
#[derive(Debug, Args)]
pub(crate) struct IpamRelease {
    /// This address; may be repeated
    #[arg(long, value_name = "ADDRESS", required_unless_present = "from_report", num_args = 1..)]
    pub(crate) ip: Vec<IpAddr>,
    /// The leaked addresses of a report of `ipam check`; may be repeated
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) from_report: Vec<PathBuf>,
    /// Even if something uses them
    #[arg(long)]
    pub(crate) force: bool,
}

/// Settings; those not named stay as they are.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct IpamConfigure {
    /// Whether hosts take addresses from their own blocks only
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    pub(crate) strictaffinity: Option<bool>,
    /// Most blocks a host may have in each family; 0 means 20
    #[arg(long, value_name = "N")]
    pub(crate) max_blocks_per_host: Option<u32>,
    /// Seconds before a released address is given again
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_COOLDOWN_SECS)))]
    pub(crate) ip_cooldown_seconds: Option<u32>,
    /// Whether hosts take blocks by themselves
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    pub(crate) auto_allocate_blocks: Option<bool>,
    /// Whether virtual machines keep their addresses; kept for others, no agent of Margay acts upon it
    #[arg(long, value_name = "Enabled|Disabled", value_parser = ["Enabled", "Disabled"])]
    pub(crate) kubevirt_ip_persistence: Option<String>,
}

/// What to split.
#[derive(Debug, Args)]
pub(crate) struct IpamSplit {
    /// Into how many: 2, 4, 8, 16, 32 or 64
    #[arg(value_name = "N")]
    pub(crate) parts: u32,
    /// The pool of this range
    #[arg(
        long,
        value_name = "CIDR",
        conflicts_with = "name",
        required_unless_present = "name"
    )]
    pub(crate) cidr: Option<Cidr>,
    /// The pool of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}
