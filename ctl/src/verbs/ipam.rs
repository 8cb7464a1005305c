//! `ipam show`.

use std::net::IpAddr;

use jiff::Timestamp;
use margay_ipam::check::look;
use margay_ipam::{BlockUsage, Pool, Pools, Usage};
use margay_model::any::AnyResource;
use margay_model::ipam::{Block, Family, IpamConfig, IpamKey, IpamKeys, parse_go_timestamp};
use margay_model::kind::Kind;
use margay_model::store::Store;

use crate::cli::IpamShow;
use crate::context::Context;
use crate::failure::Fatal;
use crate::table::Table;
use crate::verbs::fatal;

/// Prints what is asked for.
pub(crate) async fn show(args: &IpamShow, context: &mut Context<'_>) -> Result<(), Fatal> {
    let keys = IpamKeys::new(context.client.keys.prefix());
    if let Some(ip) = args.ip {
        return show_address(ip, &keys, context).await;
    }
    if args.show_configuration {
        return show_configuration(context).await;
    }
    let usage = load_usage(&keys, context).await?;
    for damaged in &usage.damaged {
        context.streams.fail(damaged)?;
    }
    context
        .streams
        .print(&usage_table(&usage, args.show_blocks).render())?;
    if args.show_borrowed {
        let text = borrowed_table(&usage).render();
        context.streams.print(&format!("\n{text}"))?;
    }
    Ok(())
}

async fn load_usage(keys: &IpamKeys, context: &mut Context<'_>) -> Result<Usage, Fatal> {
    let listed = context
        .client
        .list(Kind::IpPool, None)
        .await
        .map_err(|error| fatal(&error))?;
    for error in &listed.damaged {
        context.streams.fail(&error.to_string())?;
    }
    let pools = listed
        .resources
        .iter()
        .filter_map(|resource| match resource {
            AnyResource::IpPool(pool) => Some(Pool::new(pool, |_| true)),
            _ => None,
        });
    let pools = Pools::new(pools);
    let mut blocks = Vec::new();
    for family in Family::ALL {
        let listing = context.client.store.list(&keys.blocks(family)).await;
        blocks.extend(listing.map_err(|error| fatal(&error))?.kvs);
    }
    Ok(Usage::new(&pools, keys, &blocks))
}

/// So many, and their share of all.
fn share(count: u128, all: u128) -> String {
    let percent = if all == 0 {
        0.0
    } else {
        count as f64 / all as f64 * 100.0
    };
    format!("{count} ({percent:.0}%)")
}

fn usage_table(usage: &Usage, blocks: bool) -> Table {
    let mut heading = vec![
        "GROUPING",
        "NAME",
        "CIDR",
        "IPS TOTAL",
        "IPS IN USE",
        "IPS RESTING",
    ];
    heading.push("IPS FREE");
    if blocks {
        heading.push("AFFINITY");
    }
    let mut table = Table::new(heading);
    for pool in &usage.pools {
        table.row([
            "IP Pool".to_owned(),
            pool.name.clone(),
            pool.cidr.clone(),
            pool.size.to_string(),
            share(u128::from(pool.used), pool.size),
            pool.resting.to_string(),
            share(pool.free(), pool.size),
        ]);
        if blocks {
            for block in usage
                .blocks
                .iter()
                .filter(|b| b.pool.as_deref() == Some(&*pool.name))
            {
                table.row(block_row(block));
            }
        }
    }
    // Blocks of pools that were deleted still hold addresses.
    if blocks {
        for block in usage.blocks.iter().filter(|block| block.pool.is_none()) {
            table.row(block_row(block));
        }
    }
    table
}

fn block_row(block: &BlockUsage) -> [String; 8] {
    let size = u128::from(block.cidr.size());
    [
        "Block".to_owned(),
        block.pool.clone().unwrap_or_else(|| "(no pool)".to_owned()),
        block.cidr.to_string(),
        size.to_string(),
        share(block.used as u128, size),
        block.resting.to_string(),
        share(block.free() as u128, size),
        block
            .affinity
            .clone()
            .unwrap_or_else(|| "(none)".to_owned()),
    ]
}

fn borrowed_table(usage: &Usage) -> Table {
    let mut table = Table::new([
        "IP",
        "BORROWING-NODE",
        "BLOCK",
        "BLOCK OWNER",
        "ALLOCATED TO",
    ]);
    for address in &usage.borrowed {
        table.row([
            address.ip.to_string(),
            address.node.clone(),
            address.block.to_string(),
            address
                .affinity
                .clone()
                .unwrap_or_else(|| "(none)".to_owned()),
            address.handle_id.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// Prints the settings in force.
pub(crate) async fn show_configuration(context: &mut Context<'_>) -> Result<(), Fatal> {
    let key = IpamKeys::new(context.client.keys.prefix()).config();
    let stored = context
        .client
        .store
        .get(&key)
        .await
        .map_err(|error| fatal(&error))?;
    let config = match stored.map(|kv| IpamConfig::decode(&key, &kv.value)) {
        None => IpamConfig::default(),
        Some(Ok(config)) => config,
        Some(Err(error)) => return context.streams.fail(&error.to_string()),
    };
    let mut table = Table::new(["PROPERTY", "VALUE"]);
    table.row(["StrictAffinity", &config.strict_affinity.to_string()]);
    table.row([
        "AutoAllocateBlocks",
        &config.auto_allocate_blocks.to_string(),
    ]);
    table.row(["MaxBlocksPerHost", &config.max_blocks().to_string()]);
    table.row(["IPCooldownSeconds", &config.cooldown_secs().to_string()]);
    context.streams.print(&table.render())
}

/// Prints who holds an address.
async fn show_address(ip: IpAddr, keys: &IpamKeys, context: &mut Context<'_>) -> Result<(), Fatal> {
    let client = &context.client;
    let listing = client.store.list(&keys.blocks(Family::of(ip))).await;
    let listing = listing.map_err(|error| fatal(&error))?;
    let snapshot = look(&client.store, &client.keys).await;
    let snapshot = snapshot.map_err(|error| fatal(&error))?;
    let mut found = false;
    for kv in listing.kvs {
        let Some(IpamKey::Block(cidr)) = keys.parse(&kv.key) else {
            continue;
        };
        if !cidr.contains(ip) {
            continue;
        }
        found = true;
        let users: Vec<_> = snapshot.names_of(ip);
        match Block::decode(&kv.key, cidr, &kv.value) {
            Ok(block) => {
                let text = address_text(ip, &block, &users, &snapshot.view().config, client.now);
                context.streams.print(&text)?;
            }
            Err(error) => return context.streams.fail(&error.to_string()),
        }
        break;
    }
    if found {
        return Ok(());
    }
    let line = match snapshot.names_of(ip).join(", ") {
        users if users.is_empty() => format!("IP {ip} is not in use: no block holds it"),
        users => format!("IP {ip} is used by {users}, but no block holds it"),
    };
    context.streams.say(&line)
}

fn address_text(
    ip: IpAddr,
    block: &Block,
    users: &[&str],
    config: &IpamConfig,
    now: Timestamp,
) -> String {
    let place = format!(
        "block {} of {}",
        block.cidr,
        block.affinity.as_deref().unwrap_or("no host")
    );
    let held = block
        .cidr
        .ordinal(ip)
        .and_then(|ordinal| block.attribute(ordinal));
    let Some(held) = held else {
        let text = format!("IP {ip} is not in use ({place})\n");
        return match users.is_empty() {
            true => text,
            false => format!(
                "{text}Used by: {}, although it is not assigned\n",
                users.join(", ")
            ),
        };
    };
    let mut text = match &held.released_at {
        Some(at) => format!("IP {ip} was released at {at} and rests ({place})\n"),
        None => format!("IP {ip} is in use ({place})\n"),
    };
    if let Some(handle) = held.handle() {
        text += &format!("Handle: {handle}\n");
    }
    let attribute = |name: &str| held.secondary.as_ref().and_then(|s| s.get(name));
    if let Some(node) = attribute("node") {
        let borrowed = match block.is_of_host(node) {
            true => "",
            false => " (borrowed)",
        };
        text += &format!("Node: {node}{borrowed}\n");
    }
    if let Some(since) = attribute("timestamp").and_then(|text| parse_go_timestamp(text)) {
        text += &format!("Since: {since}\n");
    }
    match &held.released_at {
        Some(at) => text += &cooldown(at, config, now),
        None if users.is_empty() => text += "Used by: nothing\n",
        None => text += &format!("Used by: {}\n", users.join(", ")),
    }
    let known: Vec<_> = held.secondary.iter().flatten().collect();
    if !known.is_empty() {
        text += "Attributes:\n";
    }
    for (name, value) in known {
        text += &format!("  {name}: {value}\n");
    }
    text
}

/// Until when an address rests.
fn cooldown(released_at: &str, config: &IpamConfig, now: Timestamp) -> String {
    let secs = config.cooldown_secs();
    let released: Option<Timestamp> = released_at.parse().ok();
    let end = released.and_then(|at| Timestamp::from_second(at.as_second() + i64::from(secs)).ok());
    match end {
        Some(end) if end > now => format!("Cooldown: until {end} ({secs} s)\n"),
        Some(end) => format!("Cooldown: over since {end}, it may be assigned again\n"),
        None => "Cooldown: over, it may be assigned again\n".to_owned(),
    }
}
