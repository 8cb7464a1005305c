//! What there is in the store and in the kernel, compared with what there should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result};
use margay_lab::routes;
use serde_json::Value;

use crate::rig::{Rig, Sandbox, same};

/// Endpoints, handles, blocks, routes, set members, interfaces and journal agree with `attached`.
pub(crate) fn ensure(rig: &Rig, attached: &[&Sandbox]) -> Result<()> {
    ensure_store_and_routes(rig, attached)?;
    same("set members", &members(rig)?, &addresses(attached))
}

fn addresses(attached: &[&Sandbox]) -> BTreeSet<IpAddr> {
    attached.iter().flat_map(|s| s.ips.clone()).collect()
}

/// All but the set members.
pub(crate) fn ensure_store_and_routes(rig: &Rig, attached: &[&Sandbox]) -> Result<()> {
    let handle = |s: &Sandbox| format!("{}.{}", s.network, s.id);

    let stored = rig.list("/calico/")?;
    let wanted = attached.iter().map(|s| (s.id.clone(), set(&s.ips)));
    same("endpoints", &endpoints(&stored)?, &wanted.collect())?;
    let owners = attached
        .iter()
        .flat_map(|s| s.ips.iter().map(move |ip| (*ip, handle(s))));
    same(
        "addresses in blocks",
        &allocations(&stored)?,
        &owners.collect(),
    )?;
    let wanted = attached.iter().map(|s| (handle(s), s.ips.len() as u64));
    same("handles", &handles(&stored)?, &wanted.collect())?;

    same("routed addresses", &routed(rig)?, &addresses(attached))?;
    same("interfaces", &rig.interfaces()?.len(), &attached.len())?;
    same("journalled DELs", &rig.journalled(), &0)
}

fn set(ips: &[IpAddr]) -> BTreeSet<IpAddr> {
    ips.iter().copied().collect()
}

fn parsed(value: &str) -> Result<Value> {
    serde_json::from_str(value).with_context(|| value.to_owned())
}

fn endpoints(stored: &BTreeMap<String, String>) -> Result<BTreeMap<String, BTreeSet<IpAddr>>> {
    let mut found = BTreeMap::new();
    for (_, value) in stored
        .iter()
        .filter(|(k, _)| k.contains("/workloadendpoints/"))
    {
        let spec = &parsed(value)?["spec"];
        let nets = spec["ipNetworks"].as_array().context("no networks")?;
        let ips = nets.iter().map(|net| {
            let net = net.as_str().unwrap_or_default();
            Ok(net.split('/').next().unwrap_or_default().parse()?)
        });
        let id = spec["containerID"].as_str().unwrap_or_default();
        found.insert(id.to_owned(), ips.collect::<Result<_>>()?);
    }
    Ok(found)
}

/// Who has which address, by the blocks. A resting address is nobody's.
fn allocations(stored: &BTreeMap<String, String>) -> Result<BTreeSet<(IpAddr, String)>> {
    let mut found = BTreeSet::new();
    for (key, value) in stored.iter().filter(|(k, _)| k.contains("/assignment/")) {
        let block = parsed(value)?;
        let cidr = block["cidr"].as_str().with_context(|| key.clone())?;
        let base: IpAddr = cidr.split('/').next().unwrap_or_default().parse()?;
        let slots = block["allocations"].as_array().context("no allocations")?;
        for (ordinal, slot) in (0_u32..).zip(slots) {
            let Some(attribute) = slot.as_u64() else {
                continue;
            };
            let attribute = &block["attributes"][usize::try_from(attribute)?];
            if attribute["releasedAt"].is_null() {
                let handle = attribute["handle_id"].as_str().unwrap_or_default();
                found.insert((plus(base, ordinal), handle.to_owned()));
            }
        }
    }
    Ok(found)
}

fn plus(base: IpAddr, ordinal: u32) -> IpAddr {
    match base {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + ordinal).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + u128::from(ordinal)).into()),
    }
}

/// Handles and how many addresses each has.
fn handles(stored: &BTreeMap<String, String>) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for (key, value) in stored {
        let Some(id) = key.strip_prefix("/calico/ipam/v2/handle/") else {
            continue;
        };
        let blocks = parsed(value)?["block"].clone();
        let blocks = blocks.as_object().context("a handle without blocks")?;
        let count = blocks.values().filter_map(Value::as_u64).sum();
        found.insert(id.to_owned(), count);
    }
    Ok(found)
}

/// Addresses with a route to an interface of ours.
fn routed(rig: &Rig) -> Result<BTreeSet<IpAddr>> {
    let ours = routes(&rig.host().netns)?.into_iter().filter(|route| {
        let dev = route.dev.as_deref().unwrap_or_default();
        dev.starts_with("mgy") && !route.dst.starts_with("fe80:")
    });
    ours.map(|route| route.dst.parse().with_context(|| route.dst.clone()))
        .collect()
}

/// Single addresses in the sets of the filter, whichever backend has them.
fn members(rig: &Rig) -> Result<BTreeSet<IpAddr>> {
    let host = &rig.host().netns;
    let saved = host.exec("ipset save")?;
    let added = saved.lines().filter_map(|line| line.strip_prefix("add "));
    let members = added.filter_map(|line| line.split(' ').nth(1));
    let mut found: BTreeSet<IpAddr> = members
        .filter_map(|member| member.split(',').next()?.parse().ok())
        .collect();
    let listed: Value = serde_json::from_str(&host.exec("nft -j list sets inet")?)?;
    let objects = listed["nftables"].as_array().context("no list of sets")?;
    let ours = objects.iter().map(|object| &object["set"]);
    let ours = ours.filter(|set| set["table"] == "margay");
    for member in ours.filter_map(|set| set["elem"].as_array()).flatten() {
        // Of (interface, address) the latter.
        let address = member["concat"].as_array().and_then(|fields| fields.last());
        let address = address.unwrap_or(member).as_str();
        found.extend(address.and_then(|address| address.parse::<IpAddr>().ok()));
    }
    Ok(found)
}
