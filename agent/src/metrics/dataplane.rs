//! Policy calculation, and what is in the kernel because of it.

use margay_api::status::NodeStatus;
use margay_model::kind::Kind as Resource;

use super::text::{Kind, Text};
use crate::meters::{Counter, Meters};

const CHAINS: &str = "Number of chains, of all families and tables, whatever the backend.";
const RULES: &str = "Number of rules in them.";
const READS: &str = "Number of times rules were read back, whatever the backend.";
const READ_FAILURES: &str = "Number of times they could not be read back.";
const WRITES: &str = "Number of writes of rules, whatever the backend.";
const WRITE_FAILURES: &str = "Number of writes after which rules or sets were not as desired.";
const LINES: &str = "Number of rules in the chains that were written.";

pub(super) fn collect(meters: &Meters, status: &NodeStatus, text: &mut Text) {
    programmed(meters, status, text);
    work(meters, text);
    cluster(meters, text);
    attachments(meters, text);
}

/// What there is now.
fn programmed(meters: &Meters, status: &NodeStatus, text: &mut Text) {
    let dataplane = &status.dataplane;
    let labels = vec![("backend", dataplane.backend.clone())];
    let help = "Constant 1, with the place that policy is written to.";
    text.metric(Kind::Gauge, "margay_dataplane_info", help, [(labels, 1.0)]);
    let endpoints = dataplane.endpoints as f64;
    let sets = meters.sets.value() as f64;
    let policies = meters.policies.value() as f64;
    let chains = meters.chains.value() as f64;
    let rules = meters.rules.value() as f64;
    for (name, help, value) in [
        (
            "margay_dataplane_endpoints",
            "Local endpoints programmed.",
            endpoints,
        ),
        (
            "margay_dataplane_routes",
            "Routes programmed: local, blackhole and learnt.",
            dataplane.routes as f64,
        ),
        (
            "margay_dataplane_failing",
            "Objects that the kernel refused and that are retried.",
            dataplane.failing.len() as f64,
        ),
        (
            "margay_dataplane_policies",
            "Policies programmed.",
            policies,
        ),
        (
            "margay_dataplane_profiles",
            "Profiles programmed.",
            meters.profiles.value() as f64,
        ),
        (
            "margay_dataplane_sets",
            "Sets of addresses programmed.",
            sets,
        ),
        (
            "margay_wireguard_hosts",
            "Other hosts that packets are encrypted to.",
            meters.encrypted_hosts.value() as f64,
        ),
        ("margay_dataplane_chains", CHAINS, chains),
        ("margay_dataplane_rules", RULES, rules),
        (
            "felix_active_local_endpoints",
            "Number of active endpoints on this host.",
            endpoints,
        ),
        (
            "felix_active_local_policies",
            "Number of active policies on this host.",
            policies,
        ),
        (
            "felix_active_local_selectors",
            "Number of active selectors on this host.",
            sets,
        ),
        ("felix_ipsets_calico", "Number of active IP sets.", sets),
        (
            "felix_ipsets_total",
            "Number of sets, with those that no policy asks for.",
            meters.all_sets.value() as f64,
        ),
        ("felix_iptables_chains", CHAINS, chains),
        ("felix_nft_chains", CHAINS, chains),
        ("felix_iptables_rules", RULES, rules),
        ("felix_nft_rules", RULES, rules),
        (
            "felix_route_table_num_routes",
            "Number of routes programmed.",
            dataplane.routes as f64,
        ),
    ] {
        text.single(Kind::Gauge, name, help, value);
    }
}

/// What was done, and how long it took.
fn work(meters: &Meters, text: &mut Text) {
    let apply = meters.apply.summary();
    let calculation = meters.calculation.summary();
    let batch = meters.batch.summary();
    let route_look = meters.route_look.summary();
    for (name, help, summary) in [
        (
            "margay_dataplane_apply_seconds",
            "Time to bring the kernel in line, each round.",
            &apply,
        ),
        (
            "margay_policy_calculation_seconds",
            "Time to calculate policy, each batch of changes.",
            &calculation,
        ),
        (
            "felix_int_dataplane_apply_time_seconds",
            "Time in seconds that it took to apply a dataplane update.",
            &apply,
        ),
        (
            "felix_calc_graph_update_time_seconds",
            "Seconds to update the calculation graph for each batch of changes.",
            &calculation,
        ),
        (
            "felix_int_dataplane_msg_batch_size",
            "Number of messages processed in each batch.",
            &batch,
        ),
        (
            "felix_int_dataplane_iface_msg_batch_size",
            "Number of messages of the kernel about interfaces processed in each batch.",
            &meters.link_batch.summary(),
        ),
        (
            "felix_int_dataplane_addr_msg_batch_size",
            "Number of messages of the kernel about addresses processed in each batch.",
            &meters.address_batch.summary(),
        ),
        (
            "felix_route_table_list_seconds",
            "Time to read all routes back and repair them.",
            &route_look,
        ),
        (
            "felix_route_table_resync_seconds",
            "Time to read all routes back and repair them.",
            &route_look,
        ),
    ] {
        text.summary(name, help, summary.clone());
    }
    let mut counter = |name: &str, help: &str, counter: &Counter| {
        text.single(Kind::Counter, name, help, counter.value() as f64);
    };
    counter(
        "margay_dataplane_apply_failures_total",
        "Rounds after which something was not as desired.",
        &meters.apply_failures,
    );
    counter(
        "margay_dataplane_rule_writes_total",
        "Runs of iptables-restore, or batches with rules for nf_tables.",
        &meters.rule_writes,
    );
    counter(
        "margay_dataplane_chains_changed_total",
        "Chains written or removed.",
        &meters.chains_changed,
    );
    counter(
        "margay_dataplane_set_changes_total",
        "Sets made or removed, members added or removed.",
        &meters.set_changes,
    );
    counter(
        "margay_policy_connections_ended_total",
        "Connections that were open and that a change of policy ended.",
        &meters.connections_ended,
    );
    counter(
        "margay_policy_connection_failures_total",
        "How often open connections could not be read or ended as policy wants; they are looked at again.",
        &meters.connection_failures,
    );
    counter(
        "felix_int_dataplane_failures",
        "Number of times dataplane updates failed and will be retried.",
        &meters.apply_failures,
    );
    for (names, help, value) in [
        (
            ["felix_iptables_restore_calls", "felix_nft_calls"],
            WRITES,
            &meters.rule_writes,
        ),
        (
            ["felix_iptables_restore_errors", "felix_nft_errors"],
            WRITE_FAILURES,
            &meters.rule_failures,
        ),
        (
            ["felix_iptables_save_calls", "felix_nft_list_calls"],
            READS,
            &meters.rule_reads,
        ),
        (
            ["felix_iptables_save_errors", "felix_nft_list_errors"],
            READ_FAILURES,
            &meters.rule_read_failures,
        ),
        (
            ["felix_iptables_lines_executed", "felix_nft_lines_executed"],
            LINES,
            &meters.rules_written,
        ),
    ] {
        for name in names {
            counter(name, help, value);
        }
    }
    counter(
        "felix_ipset_calls",
        "Number of changes of sets and of their members.",
        &meters.set_changes,
    );
    counter(
        "felix_ipset_errors",
        "Number of times the kernel refused a set or a member.",
        &meters.set_failures,
    );
    counter(
        "felix_resyncs_started",
        "Number of times the datastore was read as a whole.",
        &meters.lists,
    );
    // The log is written at once and never dropped; dashboards ask.
    counter(
        "felix_logs_dropped",
        "Number of log lines dropped: the log waits for whoever reads it.",
        &Counter::default(),
    );
    let drift = meters
        .drift()
        .map(|(what, count)| (vec![("what", what.to_owned())], count as f64));
    let help = "Objects in the kernel that somebody else had changed, put right.";
    text.metric(Kind::Counter, "margay_dataplane_drift_total", help, drift);
}

/// What the whole cluster has, as this agent sees it.
fn cluster(meters: &Meters, text: &mut Text) {
    let policies = &[Resource::NetworkPolicy, Resource::GlobalNetworkPolicy][..];
    for (name, help, kinds) in [
        (
            "felix_cluster_num_hosts",
            "Total number of hosts in the cluster.",
            &[Resource::Node][..],
        ),
        (
            "felix_cluster_num_workload_endpoints",
            "Total number of workload endpoints in the cluster.",
            &[Resource::WorkloadEndpoint],
        ),
        (
            "felix_cluster_num_host_endpoints",
            "Total number of host endpoints in the cluster.",
            &[Resource::HostEndpoint],
        ),
        (
            "felix_cluster_num_policies",
            "Total number of policies in the cluster.",
            policies,
        ),
        (
            "felix_cluster_num_profiles",
            "Total number of profiles in the cluster.",
            &[Resource::Profile],
        ),
        (
            "felix_cluster_num_tiers",
            "Total number of tiers in the cluster.",
            &[Resource::Tier],
        ),
    ] {
        text.single(Kind::Gauge, name, help, meters.census.of(kinds) as f64);
    }
}

/// Calls of the CNI shim.
fn attachments(meters: &Meters, text: &mut Text) {
    let label = |name: &str| vec![("command", name.to_owned())];
    let took = meters
        .calls()
        .map(|(name, _, summary)| (label(name), summary));
    let help = "Time from a call of the CNI plugin to its answer, as the agent sees it.";
    text.summaries("margay_cni_call_seconds", help, took);
    let failed = meters
        .calls()
        .map(|(name, calls, _)| (label(name), calls.failed.value() as f64));
    let help = "Calls of the CNI plugin that were answered by an error.";
    text.metric(Kind::Counter, "margay_cni_failures_total", help, failed);
}
