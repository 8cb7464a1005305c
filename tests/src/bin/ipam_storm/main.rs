//! A storm over address management: 20 allocators as processes on a real etcd of three members, killed,
//! paused, cut off and delayed while they assign and release; the leader is lost again and again. At the
//! end a checker holds what each was told against each revision of the store.
//!
//!     margay-ipam-storm [--calls N] [--seed N] [--plant FAULT] [--dir DIR]
//!
//! Fails when an address was held twice, leaked, or a history cannot be explained.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod checker;
mod history;
mod planted;
mod proxy;
mod replay;
mod setting;
mod storm;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use margay_datastore::{EtcdStore, WatchStore as _};
use margay_ipam::Allocator;
use margay_model::store::{Revision, Store as _, Txn, TxnOutcome};

use checker::{check, live};
use history::{Ledger, read};
use planted::Plant;
use replay::Replay;
use storm::{Force, Storm};

/// Written last, so that the replay knows where the history ends.
const END_KEY: &str = "/calico/storm-end";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if_eq("worker").is_some() {
        // A worker must not outlive the storm.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        let options = worker::options(words)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        return runtime.block_on(worker::run(options));
    }
    margay_lab::catch_interrupts()?;
    let mut force = Force {
        seed: std::env::var("MARGAY_STORM_SEED")
            .map_or(Ok(fastrand::u64(..1_000_000)), |text| text.parse())
            .context("MARGAY_STORM_SEED")?,
        calls: 4000,
        plant: Plant::Nothing,
    };
    let mut dir = None;
    while let Some(word) = words.next() {
        let value = words.next();
        let value = value.with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--calls" => force.calls = value.parse().context("--calls")?,
            "--seed" => force.seed = value.parse().context("--seed")?,
            "--plant" => force.plant = value.parse().map_err(anyhow::Error::msg)?,
            "--dir" => dir = Some(PathBuf::from(value)),
            _ => bail!("unknown option {word}, known are --calls, --seed, --plant, --dir"),
        }
    }
    let temporary = tempfile::tempdir()?;
    let dir = dir.unwrap_or_else(|| temporary.path().to_owned());
    println!("storm: {} calls, seed {}", force.calls, force.seed);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut storm = runtime.block_on(Storm::prepare(force, &dir))?;
    let begin = Instant::now();
    storm.rage()?;
    println!(
        "storm: {:.1} s of storm, {:?}",
        begin.elapsed().as_secs_f32(),
        storm.blows
    );
    storm.calm("settle")?;
    let store = EtcdStore::new(&margay_datastore::DatastoreConfig {
        endpoints: storm.urls(),
        ..Default::default()
    })?;
    let settled = runtime.block_on(store.list(END_KEY))?.revision;
    let believed = live(&ledgers(&storm)?);
    storm.calm("drain")?;
    let parked = runtime.block_on(end_all_leases(&store, &storm))?;
    println!("storm: calm after {:.1} s", begin.elapsed().as_secs_f32());
    let ledgers = ledgers(&storm)?;
    let (replay, mut findings) = runtime.block_on(replay(&store, settled, &believed))?;
    let (summary, more) = check(&ledgers, &replay.timelines);
    findings.extend(more);
    println!("storm: told {summary:?}");
    println!("storm: done {:?}", replay.counts);
    println!("storm: {parked} addresses were parked at the end");
    println!("storm: {:.1} s in all", begin.elapsed().as_secs_f32());
    ensure!(summary.adds > 0 && summary.dels > 0, "nothing happened");
    ensure!(
        findings.is_empty(),
        "{} findings:\n  {}",
        findings.len(),
        findings.join("\n  ")
    );
    println!("storm: no address held twice, none leaked, every history explained");
    Ok(())
}

fn ledgers(storm: &Storm) -> Result<BTreeMap<String, Ledger>> {
    let histories = storm.histories().into_iter();
    histories
        .map(|(node, path)| Ok((node, Ledger::new(&read(&path)?))))
        .collect()
}

/// What identities keep is given back, as when all their leases are over.
async fn end_all_leases(store: &EtcdStore, storm: &Storm) -> Result<usize> {
    let mut allocator = Allocator::new(store.clone(), setting::ROOT, "collector", setting::view());
    let (held, _) = allocator.held_everywhere().await?;
    let later = storm.clock().now() + jiff::SignedDuration::from_hours(1);
    let parked: Vec<_> = held.iter().filter(|held| held.is_expired(later)).collect();
    for held in &parked {
        allocator.release_ip(held.release(later)).await?;
    }
    Ok(parked.len())
}

/// Goes through the whole history of the store. At `settled` exactly the `believed` must be there.
async fn replay(
    store: &EtcdStore,
    settled: Revision,
    believed: &BTreeMap<String, Vec<std::net::IpAddr>>,
) -> Result<(Replay, Vec<String>)> {
    let txn = Txn::default().put(END_KEY, "end");
    let TxnOutcome::Committed(last) = store.txn(txn).await? else {
        bail!("a transaction without compares conflicts");
    };
    let mut replay = Replay::new();
    let mut findings = Vec::new();
    let mut watch = store.watch(setting::ROOT, 1);
    let mut compared = false;
    loop {
        let event = watch.next().await?;
        if !compared && event.revision > settled {
            compared = true;
            findings.extend(compare(&replay, believed));
        }
        replay.apply(&event);
        if event.revision >= last {
            break;
        }
    }
    replay.check_empty();
    findings.append(&mut replay.findings);
    Ok((replay, findings))
}

fn compare(replay: &Replay, believed: &BTreeMap<String, Vec<std::net::IpAddr>>) -> Vec<String> {
    let mut stored = replay.endpoints.clone();
    stored.values_mut().for_each(|ips| ips.sort_unstable());
    let leaked = stored
        .iter()
        .filter(|(w, ips)| believed.get(*w) != Some(*ips));
    // An identity's earlier workload is not told that the next one took its place.
    let taken = |w: &str| setting::identity(w).is_some() && !stored.contains_key(w);
    let lost = believed
        .iter()
        .filter(|(w, ips)| stored.get(*w) != Some(*ips) && !taken(w));
    let leaked = leaked.map(|(w, ips)| format!("{w}: {ips:?} in the store, nobody lives there"));
    let lost = lost.map(|(w, ips)| format!("{w}: lives with {ips:?}, not in the store"));
    leaked.chain(lost).collect()
}
