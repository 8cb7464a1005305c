//! What the datastore shows: pools, policies that cannot be used, hosts without a sign of life.

use std::collections::BTreeSet;

use margay_datastore::AnyStore;
use margay_ipam::{Pool, Pools, Usage, own_keys};
use margay_model::any::AnyResource;
use margay_model::ipam::{Family, IpamKeys};
use margay_model::kind::Kind;
use margay_model::store::{Store, StoreError};
use margay_policy::calc::{Calc, Scope};

use super::{Finding, Severity};
use crate::client::Client;

/// Shares of a pool from which it is told of.
const FULL: f64 = 0.97;
const FILLING: f64 = 0.85;

/// Policies and what they refer to.
const POLICY: [Kind; 6] = [
    Kind::GlobalNetworkPolicy,
    Kind::HostEndpoint,
    Kind::NetworkPolicy,
    Kind::Profile,
    Kind::Tier,
    Kind::WorkloadEndpoint,
];

pub(super) async fn findings(node: Option<&str>, client: &Client) -> Vec<Finding> {
    match look(node, client).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::new(
            Severity::Broken,
            "The datastore cannot be read from here",
            error.to_string(),
            "margayctl config show, for the addresses and files that this program uses",
        )],
    }
}

async fn look(node: Option<&str>, client: &Client) -> Result<Vec<Finding>, StoreError> {
    let mut findings = locked(client).await?;
    findings.extend(pools(node, client).await?);
    findings.extend(policies(client).await?);
    findings.extend(nodes(node, client).await?);
    Ok(findings)
}

async fn locked(client: &Client) -> Result<Vec<Finding>, StoreError> {
    let listed = client.list(Kind::ClusterInformation, None).await?;
    let locked = listed.resources.iter().any(|resource| match resource {
        AnyResource::ClusterInformation(info) => info.spec.datastore_ready == Some(false),
        _ => false,
    });
    Ok(locked
        .then(|| {
            Finding::new(
                Severity::Broken,
                "The datastore is locked",
                "Somebody is importing it or did not finish: no agent attaches containers.",
                "margayctl datastore unlock, when the import is done",
            )
        })
        .into_iter()
        .collect())
}

async fn pools(node: Option<&str>, client: &Client) -> Result<Vec<Finding>, StoreError> {
    let listed = client.list(Kind::IpPool, None).await?;
    let pools = listed.resources.iter().filter_map(|res| match res {
        AnyResource::IpPool(pool) => Some(pool),
        _ => None,
    });
    let pools: Vec<_> = pools.collect();
    let mut findings: Vec<_> = listed
        .damaged
        .iter()
        .map(|error| damaged(&error.to_string()))
        .collect();
    if pools.is_empty() {
        findings.push(Finding::new(
            Severity::Broken,
            "There is no IPPool",
            "No container can be given an address, and no route is taken from any peer.",
            "margayctl apply one, as the README shows",
        ));
        return Ok(findings);
    }
    if pools.iter().all(|pool| pool.spec.disabled) {
        findings.push(Finding::new(
            Severity::Broken,
            "Every IPPool is disabled",
            "No container can be given an address.",
            "margayctl patch ippool NAME -p '{\"spec\":{\"disabled\":false}}'",
        ));
    }
    let keys = IpamKeys::new(client.keys.prefix());
    let mut blocks = Vec::new();
    for family in Family::ALL {
        blocks.extend(client.store.list(&keys.blocks(family)).await?.kvs);
    }
    let usable = pools.iter().filter(|pool| !pool.spec.disabled);
    let usage = Usage::new(
        &Pools::new(usable.map(|pool| Pool::new(pool, |_| true))),
        &keys,
        &blocks,
    );
    findings.extend(usage.damaged.iter().map(|line| damaged(line)));
    for pool in &usage.pools {
        let share = (u128::from(pool.used + pool.resting)) as f64 / pool.size as f64;
        let (severity, word) = match share {
            share if share >= FULL => (Severity::Broken, "full"),
            share if share >= FILLING => (Severity::Warning, "filling up"),
            _ => continue,
        };
        findings.push(Finding::new(
            severity,
            format!(
                "Pool {} is {word}: {} of {} addresses of {} are held",
                pool.name, pool.used, pool.size, pool.cidr
            ),
            match pool.resting {
                0 => "What is full gives no address to new containers.".to_owned(),
                resting => format!("{resting} were released a moment ago and rest."),
            },
            "margayctl ipam check, for what is left over; else another IPPool",
        ));
    }
    if let Some(node) = node {
        let own = format!("host:{node}");
        let strangers = usage.borrowed.iter().filter(|b| b.node == node).count();
        let has_block = usage
            .blocks
            .iter()
            .any(|block| block.affinity.as_deref() == Some(&own));
        if strangers > 0 && !has_block {
            findings.push(Finding::new(
                Severity::Note,
                format!(
                    "{node} holds {strangers} addresses in blocks of others and has none of its own"
                ),
                "Every block is taken: each such address is a route of its own everywhere.",
                "a larger pool, or a smaller blockSize in the next one",
            ));
        }
    }
    Ok(findings)
}

fn damaged(line: &str) -> Finding {
    Finding::new(
        Severity::Warning,
        format!("A record in the datastore cannot be read: {line}"),
        "It counts as absent.",
        "margayctl ipam check --repair for records of addresses; else write the resource anew",
    )
}

/// Policies and endpoints that the calculation cannot use as they are, by the same calculation as the agents'.
async fn policies(client: &Client) -> Result<Vec<Finding>, StoreError> {
    let mut calc = Calc::new(Scope::Cluster);
    let mut findings = Vec::new();
    for kind in POLICY {
        let listed = client.list(kind, None).await?;
        listed.resources.iter().for_each(|res| calc.update(res));
        for error in &listed.damaged {
            findings.push(Finding::new(
                Severity::Warning,
                format!("A resource in the datastore cannot be read: {error}"),
                "A policy that cannot be read drops everything that it selects; anything else counts as absent.",
                "margayctl apply a correct one",
            ));
        }
    }
    // Discarded: only what the calculation complains about is asked for.
    drop(calc.flush());
    findings.extend(calc.problems().map(|(key, why)| {
        Finding::new(
            Severity::Warning,
            format!("{key} is not used as it is written"),
            why,
            format!(
                "margayctl get {} -o yaml; margayctl validate",
                kind_and_name(key)
            ),
        )
    }));
    Ok(findings)
}

fn kind_and_name(key: &margay_model::kind::ResourceKey) -> String {
    let namespace = key.namespace.as_ref();
    let flag = namespace.map_or_else(String::new, |namespace| format!(" -n {namespace}"));
    format!("{} {}{flag}", key.kind.plural(), key.name)
}

/// Hosts whose agents have let their sign of life run out.
async fn nodes(node: Option<&str>, client: &Client) -> Result<Vec<Finding>, StoreError> {
    // Signs of life hang on leases, which are etcd's.
    if !matches!(client.store, AnyStore::Etcd(_)) {
        return Ok(Vec::new());
    }
    let prefix = own_keys::alive(client.keys.prefix());
    let alive = client.store.list(&prefix).await?;
    let alive: BTreeSet<_> = alive
        .kvs
        .iter()
        .filter_map(|kv| kv.key.strip_prefix(&prefix))
        .collect();
    let listed = client.list(Kind::Node, None).await?;
    let silent = listed
        .resources
        .iter()
        .map(|resource| resource.metadata().name.as_str())
        .filter(|name| !alive.contains(name) && Some(*name) != node);
    let silent: Vec<_> = silent.collect();
    Ok(match silent.as_slice() {
        [] => Vec::new(),
        names => vec![Finding::new(
            Severity::Warning,
            format!("No sign of life of the agents of {}", names.join(", ")),
            "They are off, cut off from etcd, or not of Margay. Their addresses stay theirs.",
            "margayctl node status NAME; for one that is gone for good: margayctl node remove NAME",
        )],
    })
}
