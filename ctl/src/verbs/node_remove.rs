//! `node remove`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use margay_datastore::AnyStore;
use margay_ipam::check::{Fault, Mended, Snapshot, When, judge, look, mend};
use margay_ipam::{Allocator, Extra, GiveUpRequest, IpamError, ReleaseRequest, Request, own_keys};
use margay_model::any::AnyResource;
use margay_model::ipam::{BlockCidr, Owner};
use margay_model::kind::{Kind, ResourceKey};
use margay_model::store::{Store, StoreError, Txn, TxnOutcome};
use margay_model::workload_endpoint::WorkloadEndpoint;

use crate::context::Context;
use crate::failure::{Failure, Fatal};
use crate::verbs::fatal;

/// Endpoints whose addresses are released with one call; the allocator makes as few transactions of
/// them as etcd's limits allow.
const AT_ONCE: usize = 64;

/// What a host has.
struct Belongings {
    endpoints: Vec<WorkloadEndpoint>,
    addresses: usize,
    blocks: BTreeSet<BlockCidr>,
}

/// Gives back everything that belongs to a host: endpoints with their addresses first, the node last.
/// Cut off at any point, it can be run again.
pub(crate) async fn remove(
    name: &str,
    (yes, force): (bool, bool),
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    let key = ResourceKey::global(Kind::Node, name);
    if !force && is_alive(name, context).await? {
        let line = format!(
            "{key}: its agent runs, or ended some minutes ago without a word; stop it first, or wait; \
             with --force it goes all the same, and an agent that runs writes it anew"
        );
        return context.streams.fail(&line);
    }
    let snapshot = see(context).await?;
    let has = belongings(name, &snapshot, context).await?;
    let sums = format!(
        "{} endpoints, {} addresses, {} blocks",
        has.endpoints.len(),
        has.addresses,
        has.blocks.len()
    );
    if !has.endpoints.is_empty() && !yes {
        let line = format!(
            "{key}: still has {sums}; if the host is gone for good, --yes releases them all"
        );
        return context.streams.fail(&line);
    }
    let mut failures = release_all(name, &has, &snapshot, context).await?;
    failures.extend(release_left_overs(name, context).await?);
    for failure in &failures {
        context.streams.fail(&format!("{key}: {failure}"))?;
    }
    let left = belongings(name, &see(context).await?, context).await?;
    if !failures.is_empty() || !left.endpoints.is_empty() || left.addresses > 0 {
        let line = format!(
            "{key}: not deleted: {} endpoints and {} addresses are left; run it again",
            left.endpoints.len(),
            left.addresses
        );
        return context.streams.fail(&line);
    }
    context.streams.say(&format!("{key}: released {sums}"))?;
    match context.client.delete(&key, None).await {
        Ok(()) => context.streams.say(&format!("{key}: deleted")),
        Err(Failure::Missing) => context
            .streams
            .say(&format!("{key}: did not exist any more")),
        Err(failure) => context.streams.fail_one(None, &key, &failure),
    }
}

async fn is_alive(name: &str, context: &Context<'_>) -> Result<bool, Fatal> {
    let client = &context.client;
    let sign = own_keys::alive(client.keys.prefix()) + name;
    let sign = client.store.get(&sign).await;
    Ok(sign.map_err(|error| fatal(&error))?.is_some())
}

async fn see(context: &Context<'_>) -> Result<Snapshot, Fatal> {
    let client = &context.client;
    let snapshot = look(&client.store, &client.keys).await;
    snapshot.map_err(|error| fatal(&error))
}

async fn belongings(
    name: &str,
    snapshot: &Snapshot,
    context: &mut Context<'_>,
) -> Result<Belongings, Fatal> {
    let listed = context.client.list(Kind::WorkloadEndpoint, None).await;
    let listed = listed.map_err(|error| fatal(&error))?;
    for error in &listed.damaged {
        context.streams.fail(&error.to_string())?;
    }
    let endpoints = listed.resources.into_iter();
    let endpoints = endpoints.filter_map(|resource| match resource {
        AnyResource::WorkloadEndpoint(endpoint) if endpoint.spec.node == name => Some(endpoint),
        _ => None,
    });
    let held = snapshot
        .addresses()
        .filter(|address| address.released_at.is_none() && address.node.as_deref() == Some(name));
    Ok(Belongings {
        endpoints: endpoints.collect(),
        addresses: held.count(),
        blocks: snapshot.blocks_of(name),
    })
}

/// Acts for no host: what it changes is nobody's own block.
fn allocator(snapshot: &Snapshot, context: &Context<'_>) -> Allocator<AnyStore> {
    let client = &context.client;
    Allocator::new(
        client.store.clone(),
        client.keys.prefix(),
        "",
        snapshot.view(),
    )
}

/// Endpoints together with their addresses, then all other addresses, then blocks.
async fn release_all(
    name: &str,
    has: &Belongings,
    snapshot: &Snapshot,
    context: &mut Context<'_>,
) -> Result<Vec<String>, Fatal> {
    let mut allocator = allocator(snapshot, context);
    let mut failures = Vec::new();
    let mut requests = Vec::new();
    let held: BTreeMap<IpAddr, String> = snapshot
        .addresses()
        .filter(|a| a.released_at.is_none() && a.node.as_deref() == Some(name))
        .filter_map(|a| Some((a.ip, a.handle?)))
        .collect();
    for endpoint in &has.endpoints {
        let txn = deletion(endpoint, context);
        let ips = endpoint.spec.ip_networks.iter().map(|cidr| cidr.addr());
        let handles: BTreeSet<&String> = ips.filter_map(|ip| held.get(&ip)).collect();
        if handles.is_empty() {
            let outcome = context.client.store.txn(txn).await;
            if let TxnOutcome::Conflict(_) = outcome.map_err(|error| fatal(&error))? {
                failures.push(format!("{} changed meanwhile", endpoint.key()));
            }
            continue;
        }
        // The endpoint goes with its last handle.
        let last = handles.len() - 1;
        for (index, handle) in handles.into_iter().enumerate() {
            let extra = match index == last {
                true => Extra::from(txn.clone()),
                false => Extra::default(),
            };
            requests.push(Request::Release(ReleaseRequest {
                handle_id: handle.clone(),
                now: context.client.now,
                extra,
            }));
        }
    }
    while !requests.is_empty() {
        let rest = requests.split_off(requests.len().min(AT_ONCE));
        let some = std::mem::replace(&mut requests, rest);
        for result in allocator.run(some).await {
            failures.extend(result.err().map(unavailable).transpose()?);
        }
    }
    let released = allocator.release_node(name, context.client.now).await;
    let (_, _, failed) = released.map_err(|error| fatal(&error))?;
    for error in failed {
        failures.push(unavailable(error)?);
    }
    Ok(failures)
}

/// A failure in words; without the datastore nothing else would work either.
fn unavailable(error: IpamError) -> Result<String, Fatal> {
    match &error {
        IpamError::Store(store) if matches!(**store, StoreError::Unavailable { .. }) => {
            Err(fatal(store))
        }
        _ => Ok(error.to_string()),
    }
}

fn deletion(endpoint: &WorkloadEndpoint, context: &Context<'_>) -> Txn {
    let key = context.client.keys.resource(&endpoint.key());
    let version = endpoint.metadata.resource_version.as_deref();
    let revision = version.and_then(|text| text.parse().ok()).unwrap_or(0);
    Txn::default().when(key.as_str(), revision).delete(key)
}

/// Blocks without an affinity record, and affinity records without a block.
async fn release_left_overs(name: &str, context: &mut Context<'_>) -> Result<Vec<String>, Fatal> {
    let snapshot = see(context).await?;
    let mut allocator = allocator(&snapshot, context);
    let mut failures = Vec::new();
    let give_up = |block| {
        Request::GiveUp(GiveUpRequest {
            block,
            node: name.to_owned(),
        })
    };
    let blocks = snapshot.blocks_of(name).into_iter().map(give_up);
    for result in allocator.run(blocks.collect()).await {
        failures.extend(result.err().map(unavailable).transpose()?);
    }
    let mut snapshot = see(context).await?;
    let when = When {
        now: context.client.now,
        grace_secs: 0,
    };
    for finding in judge(&snapshot, when) {
        let of_node = match &finding.fault {
            Fault::AffinityWithoutBlock { owner, .. }
            | Fault::AffinityOfAnother { owner, .. }
            | Fault::CorruptAffinity { owner, .. } => *owner == Owner::Host(name.to_owned()),
            _ => false,
        };
        if !of_node {
            continue;
        }
        let mended = mend(&context.client.store, &mut snapshot, &finding, when).await;
        match mended.map_err(|error| fatal(&error))? {
            Mended::Done(_) | Mended::Healed => {}
            Mended::Refused(reason) => failures.push(format!("{}: {reason}", finding.what)),
            Mended::Conflict => failures.push(format!("{}: changed meanwhile", finding.what)),
        }
    }
    Ok(failures)
}
