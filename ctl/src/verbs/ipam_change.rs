//! `ipam release`, `ipam configure` and `ipam split`.

use margay_ipam::check::{DEFAULT_GRACE_SECS, Free, Mended, Repair, When, commit, look, release};
use margay_model::any::AnyResource;
use margay_model::ipam::{BlockCidr, Family, IpamConfig, IpamKey, IpamKeys};
use margay_model::ipam_configuration::{IpamConfiguration, IpamConfigurationSpec};
use margay_model::ippool::IpPool;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::{ObjectMeta, Resource};
use margay_model::net::Cidr;
use margay_model::store::{Store, Txn, TxnOutcome};
use margay_model::stored::encode_stored;

use crate::cli::{IpamConfigure, IpamRelease, IpamSplit};
use crate::client::Mode;
use crate::context::Context;
use crate::failure::Fatal;
use crate::verbs::fatal;
use crate::verbs::ipam_report::Report;

/// How often a release looks again when somebody changed the same records.
const ATTEMPTS: usize = 20;
/// The old pool and the new ones fit into one transaction of 128 changes; a power of two.
const MOST_PARTS: u32 = 64;
/// The name of the one `IPAMConfiguration`.
const CONFIGURATION: &str = "default";

/// Frees addresses, each in a transaction of its own.
pub(crate) async fn free(args: &IpamRelease, context: &mut Context<'_>) -> Result<(), Fatal> {
    let mut wanted: Vec<Free> = Vec::new();
    let force = args.force;
    wanted.extend(args.ip.iter().map(|ip| Free {
        ip: *ip,
        sequence: None,
        force,
    }));
    for path in &args.from_report {
        let report = Report::read(path)?;
        wanted.extend(report.leaked().map(|(ip, sequence)| Free {
            ip,
            sequence: Some(sequence),
            force,
        }));
    }
    let client = &context.client;
    let when = When {
        now: client.now,
        grace_secs: DEFAULT_GRACE_SECS,
    };
    let mut snapshot = look(&client.store, &client.keys)
        .await
        .map_err(|error| fatal(&error))?;
    for free in wanted {
        let ip = free.ip;
        let mut mended = Mended::Conflict;
        for _ in 0..ATTEMPTS {
            let repair = release(&snapshot, free, when);
            let client = &context.client;
            mended = commit(&client.store, &mut snapshot, repair)
                .await
                .map_err(|error| fatal(&error))?;
            if mended != Mended::Conflict {
                break;
            }
            snapshot = look(&client.store, &client.keys)
                .await
                .map_err(|error| fatal(&error))?;
        }
        let streams = &mut context.streams;
        match mended {
            Mended::Done(deed) => streams.say(&format!("{ip}: did {deed}"))?,
            Mended::Healed => streams.say(&format!("{ip}: is not in use"))?,
            Mended::Refused(reason) => {
                let forced = Free {
                    force: true,
                    ..free
                };
                let hint = match release(&snapshot, forced, when) {
                    Repair::Refused(_) => "",
                    Repair::Commit { .. } | Repair::Healed => {
                        "; --force frees it all the same, and others may get it"
                    }
                };
                streams.fail(&format!("{ip}: not released: {reason}{hint}"))?;
            }
            Mended::Conflict => {
                streams.fail(&format!(
                    "{ip}: not released: others change its block all the time"
                ))?;
            }
        }
    }
    Ok(())
}

/// Changes settings, in the resource and in the record that hosts read.
pub(crate) async fn configure(
    args: &IpamConfigure,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    let key = ResourceKey::global(Kind::IpamConfiguration, CONFIGURATION);
    let mut config = match context.client.get(&key).await {
        Ok(Some(AnyResource::IpamConfiguration(config))) => config,
        Ok(_) => from_record(context).await?,
        Err(failure) => return context.streams.fail_one(None, &key, &failure),
    };
    let spec = &mut config.spec;
    if let Some(strict) = args.strictaffinity {
        spec.strict_affinity = strict;
    }
    spec.max_blocks_per_host = args.max_blocks_per_host.or(spec.max_blocks_per_host);
    spec.ip_cooldown_seconds = args.ip_cooldown_seconds.or(spec.ip_cooldown_seconds);
    spec.auto_allocate_blocks = args.auto_allocate_blocks.or(spec.auto_allocate_blocks);
    if let Some(persistence) = &args.kubevirt_ip_persistence {
        spec.kube_virt_vm_address_persistence = Some(persistence.clone());
    }
    let written = context.client.write(Mode::Apply, config.into()).await;
    match written {
        Ok(_) => crate::verbs::ipam::show_configuration(context).await,
        Err(failure) => context.streams.fail_one(None, &key, &failure),
    }
}

/// The settings in force where there is no resource: those of the record, or the defaults.
async fn from_record(context: &Context<'_>) -> Result<IpamConfiguration, Fatal> {
    let key = IpamKeys::new(context.client.keys.prefix()).config();
    let stored = context.client.store.get(&key).await;
    let stored = stored.map_err(|error| fatal(&error))?;
    let record = stored.and_then(|kv| IpamConfig::decode(&key, &kv.value).ok());
    let spec = record.map_or_else(IpamConfigurationSpec::default, |record| {
        IpamConfigurationSpec {
            strict_affinity: record.strict_affinity,
            auto_allocate_blocks: Some(record.auto_allocate_blocks),
            max_blocks_per_host: Some(record.max_blocks_per_host),
            ip_cooldown_seconds: record.ip_cooldown_seconds,
            ..IpamConfigurationSpec::default()
        }
    });
    Ok(Resource::new(ObjectMeta::named(CONFIGURATION), spec))
}

/// Replaces a pool by smaller ones, in one transaction.
pub(crate) async fn split(args: &IpamSplit, context: &mut Context<'_>) -> Result<(), Fatal> {
    let parts = args.parts;
    if !parts.is_power_of_two() || !(2..=MOST_PARTS).contains(&parts) {
        return Err(Fatal::Usage(format!(
            "N: found {parts}, allowed: 2, 4, 8, 16, 32 or {MOST_PARTS} (split a part again for more)"
        )));
    }
    let pool = find_pool(args, context).await?;
    let old = ResourceKey::global(Kind::IpPool, &pool.metadata.name);
    let len = u32::from(pool.spec.cidr.prefix_len()) + parts.ilog2();
    if let Some(reason) = cut(&pool, len, context).await? {
        return context.streams.fail(&format!("{old}: not split: {reason}"));
    }
    let new = pieces(&pool, parts, len, context.client.new_uid);
    let client = &context.client;
    let revision = pool.metadata.resource_version.as_deref();
    let revision = revision.and_then(|text| text.parse().ok()).unwrap_or(0);
    let old_key = client.keys.resource(&old);
    let mut txn = Txn::default()
        .when(old_key.as_str(), revision)
        .delete(old_key);
    for piece in &new {
        let key = client.keys.resource(&piece.key());
        txn = txn.when(key.as_str(), 0).put(key, encode_stored(piece));
    }
    match client.store.txn(txn).await.map_err(|error| fatal(&error))? {
        TxnOutcome::Committed(_) => {
            context.streams.say(&format!("{old}: split into {parts}"))?;
            for piece in &new {
                if let AnyResource::IpPool(pool) = piece {
                    let line = format!("{}: created, {}", piece.key(), pool.spec.cidr);
                    context.streams.say(&line)?;
                }
            }
            Ok(())
        }
        TxnOutcome::Conflict(current) => {
            let existing = new
                .iter()
                .zip(current.iter().skip(1))
                .find(|(_, kv)| kv.is_some());
            let reason = existing.map_or_else(
                || "it was changed meanwhile; try again".to_owned(),
                |(piece, _)| format!("{} exists already", piece.key()),
            );
            context.streams.fail(&format!("{old}: not split: {reason}"))
        }
    }
}

async fn find_pool(args: &IpamSplit, context: &Context<'_>) -> Result<IpPool, Fatal> {
    let listed = context.client.list(Kind::IpPool, None).await;
    let pools = listed.map_err(|error| fatal(&error))?.resources;
    let mut pools = pools.into_iter().filter_map(|resource| match resource {
        AnyResource::IpPool(pool) => Some(pool),
        _ => None,
    });
    let found = pools.find(|pool| match (&args.name, args.cidr) {
        (Some(name), _) => pool.metadata.name == *name,
        (None, cidr) => Some(pool.spec.cidr) == cidr,
    });
    found.ok_or_else(|| {
        let cidr = args.cidr.map(|cidr| cidr.to_string());
        let wanted = args.name.clone().or(cidr).unwrap_or_default();
        Fatal::Refused(format!("pool {wanted} does not exist"))
    })
}

/// Why a block would be cut by parts of this prefix length.
async fn cut(pool: &IpPool, len: u32, context: &Context<'_>) -> Result<Option<String>, Fatal> {
    let block_size = pool.spec.block_size();
    if len > u32::from(block_size) {
        return Ok(Some(format!(
            "its parts would be /{len}, smaller than a block (/{block_size})"
        )));
    }
    let keys = IpamKeys::new(context.client.keys.prefix());
    let family = Family::of(pool.spec.cidr.addr());
    let listing = context.client.store.list(&keys.blocks(family)).await;
    let listing = listing.map_err(|error| fatal(&error))?;
    let blocks = listing
        .kvs
        .iter()
        .filter_map(|kv| match keys.parse(&kv.key) {
            Some(IpamKey::Block(cidr)) => Some(cidr),
            _ => None,
        });
    let larger = |block: &BlockCidr| {
        u32::from(block.prefix_len()) < len && pool.spec.cidr.contains(block.network())
    };
    let mut larger = blocks.filter(larger);
    Ok(larger
        .next()
        .map(|block| format!("block {block} would be cut by parts of /{len}")))
}

fn pieces(pool: &IpPool, parts: u32, len: u32, new_uid: fn() -> String) -> Vec<AnyResource> {
    let family = Family::of(pool.spec.cidr.addr());
    let first = Family::number(pool.spec.cidr.addr());
    let len = u8::try_from(len).unwrap_or(family.bits());
    let size = 1u128 << (family.bits() - len);
    let cidr = |part: u32| Cidr::new(family.address(first + u128::from(part) * size), len);
    let piece = |(part, cidr): (u32, Cidr)| {
        let mut piece = pool.clone();
        piece.metadata.name = format!("{}-{part}", pool.metadata.name);
        piece.metadata.uid = Some(new_uid());
        piece.metadata.resource_version = None;
        piece.spec.cidr = cidr;
        AnyResource::from(piece)
    };
    (0..parts)
        .filter_map(|part| Some((part, cidr(part)?)))
        .map(piece)
        .collect()
}
